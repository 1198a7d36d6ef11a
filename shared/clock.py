"""Time: wall clock for records, monotonic clock for every wait."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

Monotonic = Callable[[], float]


def now_ms() -> int:
    """Wall-clock milliseconds since 1970, UTC; for records, never for durations."""
    return time.time_ns() // 1_000_000


def iso(at_ms: int) -> str:
    """Wall-clock milliseconds as ISO-8601 UTC, e.g. `2026-01-31T08:15:30.250Z`."""
    minute, rest_ms = divmod(at_ms, 60_000)
    return f"{_minute(minute)}:{rest_ms // 1000:02}.{rest_ms % 1000:03}Z"


@functools.lru_cache(maxsize=1024)  # a list has hundreds of times, close to one another
def _minute(since_1970: int) -> str:
    return datetime.fromtimestamp(60 * since_1970, UTC).strftime("%Y-%m-%dT%H:%M")


class Deadline(NamedTuple):
    """A local point on the monotonic clock; it travels between processes only as remaining `ttl_ms`."""

    at_s: float

    @classmethod
    def after_ms(cls, ttl_ms: float, now_s: float | None = None) -> Deadline:
        """The deadline `ttl_ms` from now."""
        return cls((time.monotonic() if now_s is None else now_s) + ttl_ms / 1000)

    def remaining_ms(self, now_s: float | None = None) -> float:
        """Milliseconds left, negative once passed."""
        return (self.at_s - (time.monotonic() if now_s is None else now_s)) * 1000

    def passed(self, now_s: float | None = None) -> bool:
        """Whether nothing is left."""
        return self.remaining_ms(now_s) <= 0
