"""Where a piece of work comes from: the request that asked for it, and its place in a trace (W3C Trace Context)."""

from __future__ import annotations

import re

import msgspec

_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class Origin(msgspec.Struct, frozen=True):
    """What a request hands on to the work it starts."""

    request_id: str | None = None
    traceparent: str | None = None


def traceparent(offered: bytes) -> str | None:
    """The value of a `traceparent` header if it is a valid one (version 00), else None."""
    text = offered.decode("latin-1")
    return text if _TRACEPARENT.fullmatch(text) else None
