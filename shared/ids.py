"""Opaque, time-ordered identifiers: `mdl_0193a5b2c7e0-4f1c9a2b7d`, sortable by age as plain strings."""

from __future__ import annotations

import random
import re
import secrets
import time

_ID = re.compile(r"(?P<prefix>[a-z]+)_[0-9a-f]{22}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_draw = random.Random(secrets.randbits(128))
"""For what need not be a secret: asking the kernel for each request takes as long as parsing its header."""


def new_id(prefix: str) -> str:
    """A fresh id; ids of one prefix sort by creation time (millisecond resolution)."""
    return _stamped(prefix, secrets.randbits(40))


def is_id(text: str, prefix: str) -> bool:
    """Whether `text` has the form of an id with this prefix."""
    match = _ID.fullmatch(text)
    return match is not None and match["prefix"] == prefix


def request_id(offered: str | None) -> str:
    """The client's own request id if it is sane (64 characters of `A-Za-z0-9._-`), else one of ours."""
    return offered if offered and _REQUEST_ID.fullmatch(offered) else _stamped("req", _draw.getrandbits(40))


def _stamped(prefix: str, number: int) -> str:
    return f"{prefix}_{time.time_ns() // 1_000_000:012x}{number:010x}"
