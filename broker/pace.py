"""How fast the workers get through their requests, and what that means for those who wait."""

from __future__ import annotations

import statistics
from collections import deque

WINDOW = 31
ENOUGH = 8
UNKNOWN_RETRY_S = 1.0
MIN_RETRY_S, MAX_RETRY_S = 0.1, 60.0


class Pace:
    """The median time a request stays with its worker, over the last few: one cold start does not bend it.

    By Little's law `credit` requests in flight that stay `median_s` each leave at `credit / median_s` a second.
    """

    def __init__(self) -> None:
        self._stays_s: deque[float] = deque(maxlen=WINDOW)
        self._median_s: float | None = None

    def add(self, stay_s: float) -> None:
        """A request was answered `stay_s` after it was assigned."""
        self._stays_s.append(stay_s)
        self._median_s = None

    def wait_s(self, ahead: int, credit: int) -> float | None:
        """How long a request waits behind `ahead` others; None while too little is known, or nobody works."""
        if credit == 0 or len(self._stays_s) < ENOUGH:
            return None
        if self._median_s is None:
            self._median_s = statistics.median(self._stays_s)
        return ahead * self._median_s / credit


def retry_after_s(wait_s: float | None) -> float:
    """When a refused client may come back: once those that wait now are through."""
    return UNKNOWN_RETRY_S if wait_s is None else min(max(wait_s, MIN_RETRY_S), MAX_RETRY_S)
