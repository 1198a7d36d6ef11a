"""How fast the workers get through their requests, and what that means for those who wait."""

from __future__ import annotations

from collections import deque

WINDOW, WINDOW_S = 64, 10.0
"""Answers that are looked at, and for how long of them where they are slow."""
ENOUGH = 8
UNKNOWN_RETRY_S = 1.0
MIN_RETRY_S, MAX_RETRY_S = 0.1, 60.0


class Pace:
    """Images a second, counted only while somebody waits for a worker: then these have all they can take.

    Its clock runs while somebody waits. An answer that does not come makes the pace slower from moment to moment.
    """

    def __init__(self) -> None:
        self._answers: deque[tuple[float, int]] = deque([(0.0, 0)])
        """When they came, by that clock, and their images."""
        self._images = 0
        self._ran_s = 0.0
        self._since_s: float | None = None

    def waiting(self, now_s: float, anybody: bool) -> None:
        """Somebody waits from now on, or nobody does."""
        if anybody and self._since_s is None:
            self._since_s = now_s
        elif not anybody and self._since_s is not None:
            self._ran_s, self._since_s = self._clock_s(now_s), None

    def answered(self, now_s: float, images: int) -> None:
        """A worker has answered a request of so many images."""
        if self._since_s is None:
            return
        clock_s = self._clock_s(now_s)
        self._answers.append((clock_s, images))
        self._images += images
        while len(self._answers) > WINDOW or (
            len(self._answers) > ENOUGH + 1 and clock_s - self._answers[0][0] > WINDOW_S
        ):
            self._answers.popleft()
            self._images -= self._answers[0][1]  # what came first now only says when the counting begins

    def per_s(self, now_s: float) -> float | None:
        """Images a second; None while too little is known."""
        if len(self._answers) <= ENOUGH:
            return None
        return self._images / max(1e-3, self._clock_s(now_s) - self._answers[0][0])

    def _clock_s(self, now_s: float) -> float:
        return self._ran_s + (0.0 if self._since_s is None else max(0.0, now_s - self._since_s))


def retry_after_s(ahead: float, per_s: float | None) -> float:
    """When a refused client may come back: once the images ahead of it are through."""
    return UNKNOWN_RETRY_S if per_s is None else min(max(ahead / per_s, MIN_RETRY_S), MAX_RETRY_S)
