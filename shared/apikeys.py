"""API keys as strings; what the database has of one is its fingerprint (`shared.db.accounts`)."""

from __future__ import annotations

import hashlib
import secrets
import string
import zlib

KEY_PREFIX = "cvp_"
KEY_RANDOM = 30
KEY_CHECK = 6
BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase


def new_key() -> str:
    """A fresh API key: prefix, 30 random characters (178 bits), and a checksum that tells typing errors offline."""
    body = "".join(secrets.choice(BASE62) for _ in range(KEY_RANDOM))
    return KEY_PREFIX + body + _check(body)


def well_formed(key: str) -> bool:
    """Whether the checksum fits, so that a mistyped key costs no look-up."""
    body, check = key[len(KEY_PREFIX) : -KEY_CHECK], key[-KEY_CHECK:]
    return key.startswith(KEY_PREFIX) and len(body) == KEY_RANDOM and key.isascii() and _check(body) == check


def fingerprint(key: str) -> str:
    """The SHA-256 that stands for a key in the database."""
    return hashlib.sha256(key.encode()).hexdigest()


def hint(key: str) -> str:
    """The start of a key, enough to recognise it in a list."""
    return key[: len(KEY_PREFIX) + 4] + "..."


def _check(body: str) -> str:
    value, digits = zlib.crc32(body.encode()), ""
    for _ in range(KEY_CHECK):
        value, digit = divmod(value, 62)
        digits = BASE62[digit] + digits
    return digits
