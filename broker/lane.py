"""The inference lane: requests that wait, first in first out, bounded by count and by bytes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence, Sized
from dataclasses import dataclass

from shared.wire.messages import Submit


@dataclass(slots=True)
class Request:
    """One prediction request from its arrival until its worker lets go of it."""

    submit: Submit
    client: bytes
    blobs: Sequence[Sized]
    size_bytes: int
    received_s: float
    deadline_s: float
    """The bound of the stage it is in: waiting, or inference from its first assignment on."""
    assigned_s: float | None = None
    """When it was last given to a worker."""
    alone: bool = False
    """It was in flight on a worker that died, so it runs by itself now."""
    answered: bool = False
    """Its time ran out during inference: the client has its answer, the worker still owes one."""


class Lane:
    """A bounded FIFO. The bounds hold for what is admitted; requests of a lost worker come back in front regardless."""

    def __init__(self, limit: int, limit_bytes: int) -> None:
        self.limit = limit
        self.limit_bytes = limit_bytes
        self.queued_bytes = 0
        self._queue: deque[Request] = deque()
        self._next_deadline_s = math.inf

    def __len__(self) -> int:
        return len(self._queue)

    def admits(self, size_bytes: int) -> bool:
        """Whether one more request of this size keeps both bounds."""
        return len(self._queue) < self.limit and self.queued_bytes + size_bytes <= self.limit_bytes

    def append(self, request: Request) -> None:
        """Let a request wait at the end."""
        self._queue.append(request)
        self._entered(request)

    def put_back(self, request: Request) -> None:
        """Let a request wait at the front again."""
        self._queue.appendleft(request)
        self._entered(request)

    def head(self) -> Request | None:
        """The request whose turn it is."""
        return self._queue[0] if self._queue else None

    def pop(self) -> Request:
        """Take the head out."""
        request = self._queue.popleft()
        self.queued_bytes -= request.size_bytes
        return request

    def expired(self, now_s: float) -> list[Request]:
        """Take out the requests whose deadline has passed. Looks through the lane only when one may have."""
        if now_s < self._next_deadline_s:
            return []
        waiting = self.clear()
        for request in waiting:
            if now_s < request.deadline_s:
                self.append(request)
        return [request for request in waiting if now_s >= request.deadline_s]

    def clear(self) -> list[Request]:
        """Take everything out."""
        waiting = list(self._queue)
        self._queue.clear()
        self.queued_bytes = 0
        self._next_deadline_s = math.inf
        return waiting

    def _entered(self, request: Request) -> None:
        self.queued_bytes += request.size_bytes
        self._next_deadline_s = min(self._next_deadline_s, request.deadline_s)
