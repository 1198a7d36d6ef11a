"""Measurements of the platform itself, kept out of the test suite: `make bench`."""
