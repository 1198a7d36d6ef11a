"""The inference lane: requests that wait, bounded by count and by bytes, where every caller has an equal share.

Start-time fair queueing: whoever had fewer images taken comes first. The lane keeps a virtual time, in images; a
caller's next request is due at its `turn`, which moves on by the images of what was taken.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass, field

from shared.wire.messages import Submit

VIDEO_IMAGES = 16
"""What a video counts as before anybody has looked at its frames; there may be 64."""
ASIDE = 0.5
"""Part of the lane that requests may take which wait until a model is loaded: the rest is for models that are."""
REMEMBERED = 1024
"""Callers with nothing waiting whose turns are kept, before those that no longer matter are forgotten."""


@dataclass(slots=True, eq=False)
class Request:
    """One prediction request from its arrival until its worker lets go of it. Equal is only the very same."""

    submit: Submit
    client: bytes
    blobs: Sequence[Sized]
    received_s: float
    deadline_s: float
    """The bound of the stage it is in: waiting, or inference from its first assignment on."""
    assigned_s: float | None = None
    """When it was last given to a worker."""
    alone: bool = False
    """It was in flight on a worker that died, so it runs by itself now."""
    answered: bool = False
    """Its time ran out during inference: the client has its answer, the worker still owes one."""
    cold: bool = False
    """No worker had its model in memory when its turn came."""
    size_bytes: int = field(init=False)
    images: int = field(init=False)
    """Its share of the work, as far as can be told without opening it."""

    def __post_init__(self) -> None:
        self.size_bytes = sum(len(blob) for blob in self.blobs)
        known = {"images": len(self.blobs), "tensors": 1, "video": VIDEO_IMAGES, "raw": self.submit.rows}
        self.images = max(1, known[self.submit.form])


@dataclass(slots=True)
class Flow:
    """What waits of one caller."""

    turn: float
    """When its first request is due, in virtual time."""
    requests: deque[Request] = field(default_factory=deque)
    images: int = 0
    size_bytes: int = 0

    def append(self, request: Request) -> None:
        """One more, at the end."""
        self.requests.append(request)
        self.images += request.images
        self.size_bytes += request.size_bytes

    def take(self, request: Request) -> Request:
        """Count one out that was just removed from `requests`."""
        self.images -= request.images
        self.size_bytes -= request.size_bytes
        return request


class Aside:
    """What waits until a model is loaded. Its callers take turns."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[Request]] = {}

    def __iter__(self) -> Iterator[Request]:
        for queue in self._queues.values():
            yield from queue

    def __bool__(self) -> bool:
        return bool(self._queues)

    @property
    def head(self) -> Request:
        """The next; there must be one."""
        return next(iter(self._queues.values()))[0]

    def append(self, request: Request) -> None:
        """One more, behind those of its caller."""
        self._queues.setdefault(request.submit.caller, deque()).append(request)

    def pop(self) -> Request:
        """Take the next out: its caller comes after the others."""
        caller, queue = next(iter(self._queues.items()))
        request = queue.popleft()
        del self._queues[caller]
        if queue:
            self._queues[caller] = queue
        return request

    def keep(self, wanted: Callable[[Request], bool]) -> None:
        """Take out all but these."""
        kept = {caller: deque(filter(wanted, queue)) for caller, queue in self._queues.items()}
        self._queues = {caller: queue for caller, queue in kept.items() if queue}


class Lane:
    """A bounded queue, fair among callers and first in first out for each of them.

    The bounds hold for what is admitted; requests of a lost worker come back in front regardless. What has had its turn
    and must wait until its model is loaded is set aside, so that those behind it need not wait too.
    """

    def __init__(self, limit: int, limit_bytes: int) -> None:
        self.limit = limit
        self.limit_bytes = limit_bytes
        self.queued_bytes = 0
        self.images = 0
        self._count = 0
        self._returned: deque[Request] = deque()
        self._aside: dict[str, Aside] = {}
        """By model, the one that had its turn last at the end."""
        self._flows: dict[str, Flow] = {}
        self._turns: list[tuple[float, int, str]] = []
        """A heap with one entry for each flow: its turn, who came first among equals, its caller."""
        self._entries = itertools.count()
        self._virtual = 0.0
        self._past: dict[str, float] = {}
        """Turns of callers that have nothing waiting now: who comes back at once goes on from there."""
        self._next_deadline_s = math.inf

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Request]:
        yield from self._returned
        for queue in self._aside.values():
            yield from queue
        for flow in self._flows.values():
            yield from flow.requests

    @property
    def callers(self) -> int:
        """How many have requests waiting."""
        return len(self._flows)

    def admits(self, size_bytes: int) -> bool:
        """Whether one more request of this size keeps both bounds."""
        return self._count < self.limit and self.queued_bytes + size_bytes <= self.limit_bytes

    def ahead(self, caller: str) -> float:
        """Images that would be taken before the next request of this caller."""
        due = self._due(caller)
        returned = sum(request.images for request in self._returned)
        return returned + sum(min(flow.images, max(0.0, due - flow.turn)) for flow in self._flows.values())

    def crowds(self, caller: str) -> bool:
        """Whether nobody has more waiting than this caller."""
        flow = self._flows.get(caller)
        return flow is not None and self._load(flow) >= max(map(self._load, self._flows.values()))

    def append(self, request: Request) -> None:
        """Let a request wait behind those of its caller."""
        caller = request.submit.caller
        flow = self._flows.get(caller)
        if flow is None:
            flow = self._flows[caller] = Flow(self._due(caller))
            self._past.pop(caller, None)
            heapq.heappush(self._turns, (flow.turn, next(self._entries), caller))
        flow.append(request)
        self._entered(request)

    def put_back(self, request: Request) -> None:
        """Let a request wait in front of all others: its caller had its turn."""
        self._returned.appendleft(request)
        self._entered(request)

    def give_way(self, newcomer: Request) -> list[Request]:
        """Take out the newest requests of who has most waiting, so that a newcomer fits in; none where it cannot.

        Nobody loses their only request, and nobody gives way to a caller who would then have as much.
        """
        flow = self._flows.get(newcomer.submit.caller, Flow(0.0))
        wanted = self._share(len(flow.requests) + 1, flow.size_bytes + newcomer.size_bytes)
        taken: list[Request] = []
        while not self.admits(newcomer.size_bytes):
            most = max(self._flows.values(), key=self._load, default=flow)
            if self._load(most) <= wanted or len(most.requests) < 2:
                for request in reversed(taken):
                    self.append(request)
                return []
            taken.append(self._left(most.take(most.requests.pop())))
        return taken

    @property
    def aside(self) -> list[str]:
        """The models that requests were set aside for."""
        return list(self._aside)

    def set_aside(self) -> bool:
        """Take the head out of the way until its model is loaded; false where too much was set aside already."""
        request = self._turn()
        waiting = [other for queue in self._aside.values() for other in queue]
        size_bytes = sum(other.size_bytes for other in waiting) + request.size_bytes
        if self._share(len(waiting) + 1, size_bytes) > ASIDE and waiting:
            return False
        self._aside.setdefault(request.submit.model_id, Aside()).append(self.pop())
        self._entered(request)
        return True

    def head(self, aside: str | None = None) -> Request | None:
        """The request whose turn it is, or the next of those set aside for a model."""
        if aside is not None:
            return self._aside[aside].head if aside in self._aside else None
        return self._turn() if self._returned or self._turns else None

    def _turn(self) -> Request:
        return self._returned[0] if self._returned else self._flows[self._turns[0][2]].requests[0]

    def pop(self, aside: str | None = None) -> Request:
        """Take that one out."""
        if aside is not None:
            waiting = self._aside.pop(aside)
            request = waiting.pop()
            if waiting:
                self._aside[aside] = waiting
            return self._left(request)
        if self._returned:
            return self._left(self._returned.popleft())
        self._virtual, _, caller = self._turns[0]
        flow = self._flows[caller]
        request = flow.take(flow.requests.popleft())
        flow.turn += request.images
        if flow.requests:
            heapq.heapreplace(self._turns, (flow.turn, next(self._entries), caller))
        else:
            heapq.heappop(self._turns)
            del self._flows[caller]
            self._remember(caller, flow.turn)
        return self._left(request)

    def remove(self, request: Request) -> bool:
        """Take out one that waits, wherever it does; false if it does not."""
        flow = self._flows.get(request.submit.caller)
        aside = self._aside.get(request.submit.model_id)
        if flow is not None and request in flow.requests:
            flow.requests.remove(flow.take(request))
            if not flow.requests:
                self._forget(request.submit.caller)
        elif aside is not None and request in aside:
            aside.keep(lambda other: other is not request)
            if not aside:
                del self._aside[request.submit.model_id]
        elif request in self._returned:
            self._returned.remove(request)
        else:
            return False
        self._left(request)
        return True

    def expired(self, now_s: float) -> list[Request]:
        """Take out the requests whose deadline has passed. Looks through the lane only when one may have."""
        if now_s < self._next_deadline_s:
            return []
        late = [request for request in self if now_s >= request.deadline_s]
        self._returned = deque(request for request in self._returned if now_s < request.deadline_s)
        for waiting in self._aside.values():
            waiting.keep(lambda request: now_s < request.deadline_s)
        self._aside = {model_id: waiting for model_id, waiting in self._aside.items() if waiting}
        for caller, flow in list(self._flows.items()):
            kept = Flow(flow.turn)
            for request in flow.requests:
                if now_s < request.deadline_s:
                    kept.append(request)
            self._flows[caller] = kept
            if not kept.requests:
                del self._flows[caller]
                self._remember(caller, flow.turn)
        self._turns = [(flow.turn, next(self._entries), caller) for caller, flow in self._flows.items()]
        heapq.heapify(self._turns)
        for request in late:
            self._left(request)
        self._next_deadline_s = min((request.deadline_s for request in self), default=math.inf)
        return late

    def clear(self) -> list[Request]:
        """Take everything out."""
        waiting = list(self)
        self._returned.clear()
        self._aside.clear()
        self._flows.clear()
        self._turns.clear()
        self._past.clear()
        for request in waiting:
            self._left(request)
        self._next_deadline_s = math.inf
        return waiting

    def _due(self, caller: str) -> float:
        """When the next request of this caller would be."""
        flow = self._flows.get(caller)
        return max(self._virtual, self._past.get(caller, 0.0)) if flow is None else flow.turn + flow.images

    def _load(self, flow: Flow) -> float:
        return self._share(len(flow.requests), flow.size_bytes)

    def _share(self, requests: int, size_bytes: int) -> float:
        """What these take of the bound they are nearer to."""
        return max(requests / self.limit, size_bytes / self.limit_bytes)

    def _forget(self, caller: str) -> None:
        """Nothing of this caller waits any more, though its last request had no turn."""
        turn = self._flows.pop(caller).turn
        self._turns = [entry for entry in self._turns if entry[2] != caller]
        heapq.heapify(self._turns)
        self._remember(caller, turn)

    def _remember(self, caller: str, turn: float) -> None:
        self._past[caller] = turn
        if not self._flows:
            self._past.clear()
        elif len(self._past) > REMEMBERED:
            self._past = {other: turn for other, turn in self._past.items() if turn > self._virtual}

    def _entered(self, request: Request) -> None:
        self._count += 1
        self.images += request.images
        self.queued_bytes += request.size_bytes
        self._next_deadline_s = min(self._next_deadline_s, request.deadline_s)

    def _left(self, request: Request) -> Request:
        self._count -= 1
        self.images -= request.images
        self.queued_bytes -= request.size_bytes
        return request
