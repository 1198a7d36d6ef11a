"""The CPU lane: checks and describes what users upload."""
