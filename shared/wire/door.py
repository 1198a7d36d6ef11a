"""Who is turned away before the body is read: what the broker said last about the room in its lane, caller by caller.

While the lane is crowded the broker says with each answer how many more requests of its caller it would take. What is
said here may be a moment old; the broker has the last word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from shared.errors import QueueFull
from shared.wire.messages import Crowd

STALE_S = 1.0
"""What was said longer ago counts for nothing: whoever comes then finds out anew."""
REMEMBERED = 1024


@dataclass(slots=True)
class _Said:
    room: int
    wait_s: float
    at_s: float


class Door:
    """Turns requests away before their bodies are read. Used on the event loop only.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._said: dict[str, _Said] = {}
        self._entering: Counter[str] = Counter()

    @contextmanager
    def entering(self, caller: str) -> Iterator[None]:
        """A request of this caller arrives as long as the block runs; what has come in by then is `sent`.

        Raises:
            QueueFull: There was no room for another, counting those that are arriving.
        """
        said = self._said.get(caller)
        if said is not None and self._clock() - said.at_s >= STALE_S:
            del self._said[caller]
        elif said is not None and self._entering[caller] >= said.room:
            raise QueueFull(f"Requests wait for up to {said.wait_s:.1f} s. Try again later.", retry_after_s=said.wait_s)
        self._entering[caller] += 1
        try:
            yield
        finally:
            self._entering[caller] -= 1
            if not self._entering[caller]:
                del self._entering[caller]

    def sent(self, caller: str) -> None:
        """A request of this caller is on its way to the broker."""
        if (said := self._said.get(caller)) is not None:
            said.room -= 1

    def left(self, caller: str) -> None:
        """One that was sent waits no longer: another may come in its place."""
        if (said := self._said.get(caller)) is not None:
            said.room += 1

    def told(self, caller: str, crowd: Crowd | None) -> None:
        """The broker has answered a request of this caller, with or without a remark."""
        if crowd is None:
            self._said.pop(caller, None)
            return
        now_s = self._clock()
        if len(self._said) >= REMEMBERED:
            self._said = {other: said for other, said in self._said.items() if now_s - said.at_s < STALE_S}
        self._said[caller] = _Said(crowd.room, crowd.wait_ms / 1000, now_s)

    def forget(self) -> None:
        """The broker is another, or gone."""
        self._said.clear()
