"""Passwords: Argon2id with the parameters OWASP names as the minimum."""

from __future__ import annotations

import secrets

import argon2

MIN_LENGTH = 8
MAX_LENGTH = 256

_hasher = argon2.PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_NOBODY = _hasher.hash(secrets.token_urlsafe(16))
"""Checked when the user does not exist, so that both refusals take equally long."""


def hashed(password: str) -> str:
    """The encoded Argon2id hash. Takes tens of milliseconds and 19 MiB."""
    return _hasher.hash(password)


def matches(password: str, password_hash: str | None) -> bool:
    """Whether the password fits; None stands for a user who does not exist and never fits."""
    try:
        return _hasher.verify(password_hash or _NOBODY, password) and password_hash is not None
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False


def random_password() -> str:
    """A password for somebody who will change it: 96 bits, easy to copy."""
    return secrets.token_urlsafe(12)
