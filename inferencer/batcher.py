"""What waits in this process: requests a model, handed to free threads in batches that wait for nobody."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from shared.clock import Deadline, Monotonic
from shared.runtime import MOST_FRAMES
from shared.wire.messages import Assign, Cut

LOAD_LIMIT_S = 120.0
"""How long loading a model may take before the process counts as stuck."""


class Request(NamedTuple):
    """An assignment, its blobs, and the moment it arrived here."""

    assign: Assign
    blobs: Sequence[bytes | memoryview]
    arrived_s: float

    @property
    def images(self) -> int:
        """Its share of a batch; what is not known before it is read counts as one row of JSON, or as a whole video."""
        known = {"images": len(self.blobs), "tensors": 1, "video": MOST_FRAMES, "raw": self.assign.rows}
        return known[self.assign.form]

    @property
    def deadline(self) -> Deadline:
        """When its answer is of no use any more."""
        return Deadline.after_ms(self.assign.ttl_ms, self.arrived_s)


class Load(NamedTuple):
    """A model to load before its requests can run; end it with `loaded`."""

    model_id: str


class Batch(NamedTuple):
    """Requests of one model to run together; end it with `finished`."""

    model_id: str
    requests: list[Request]
    cut: Cut


class Batcher:
    """A queue a model. It grows no longer than the credit this process gave the broker.

    Thread-safe; `room` is called with the lock held and must return at once. A thread is woken only for work that it
    can begin: one that was woken for nothing takes its turn of the interpreter from one that computes.

    Args:
        at_once: Batches that may be under way together: more would only take turns on the cores of this process.
        room: The most images a model takes in one call, or None while it is not loaded.
        clock: Seconds, monotonic.
    """

    def __init__(self, at_once: int, room: Callable[[str], int | None], clock: Monotonic = time.monotonic) -> None:
        self._at_once = at_once
        self._room = room
        self._clock = clock
        self._changed = threading.Condition()
        self._lanes: dict[str, deque[Request]] = {}
        self._loading: dict[str, float] = {}
        self._running: list[Batch] = []
        self._closed = False

    def put(self, assign: Assign, blobs: Sequence[bytes | memoryview]) -> None:
        """Queue a request; it arrives now."""
        with self._changed:
            self._lanes.setdefault(assign.model_id, deque()).append(Request(assign, blobs, self._clock()))
            if self._startable(assign.model_id):
                self._changed.notify()

    def take(self, timeout_s: float | None = None) -> Load | Batch | None:
        """The next work, oldest request first; None after `timeout_s` without any, or once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._work() is not None, timeout_s)
            model_id = None if self._closed else self._work()
            if model_id is None:
                return None
            work = self._begun(model_id)
            if self._work() is not None:
                self._changed.notify()  # there is more to begin than this
            return work

    def finished(self, batch: Batch) -> None:
        """A batch is done with. Its thread comes back to `take` at once, so no other is woken for what waits."""
        with self._changed:
            self._running = [other for other in self._running if other is not batch]

    def loaded(self, model_id: str, *, usable: bool) -> list[Request]:
        """A load is over; if the model did not come up, everything that waited for it is given back to be refused."""
        with self._changed:
            del self._loading[model_id]
            self._changed.notify_all()
            return [] if usable else list(self._lanes.pop(model_id, ()))

    def expired(self) -> list[Request]:
        """Take out what waited beyond its deadline."""
        now_s = self._clock()
        with self._changed:
            late = [request for lane in self._lanes.values() for request in lane if request.deadline.passed(now_s)]
            for model_id in {request.assign.model_id for request in late}:
                keep = [request for request in self._lanes.pop(model_id) if not request.deadline.passed(now_s)]
                if keep:
                    self._lanes[model_id] = deque(keep)
        return late

    def stuck(self) -> bool:
        """Whether something under way is beyond every deadline."""
        now_s = self._clock()
        with self._changed:
            return any(now_s > started_s + LOAD_LIMIT_S for started_s in self._loading.values()) or any(
                all(request.deadline.passed(now_s) for request in batch.requests) for batch in self._running
            )

    def close(self) -> None:
        """Let every `take` return None."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _work(self) -> str | None:
        """The model whose turn it is: the oldest request that can be started now, loading included."""
        able = [model_id for model_id in self._lanes if self._startable(model_id)]
        return min(able, key=lambda model_id: self._lanes[model_id][0].arrived_s, default=None)

    def _startable(self, model_id: str) -> bool:
        if model_id in self._loading:
            return False
        return len(self._running) < self._at_once or self._room(model_id) is None

    def _begun(self, model_id: str) -> Load | Batch:
        room = self._room(model_id)
        if room is None:
            self._loading[model_id] = self._clock()
            return Load(model_id)
        batch = self._cut(model_id, room)
        self._running.append(batch)
        return batch

    def _cut(self, model_id: str, room: int) -> Batch:
        """The head of a lane and the company that fits; a request marked `alone` has none."""
        lane = self._lanes[model_id]
        batch = [lane.popleft()]
        room -= batch[0].images
        while lane and not batch[0].assign.alone and not lane[0].assign.alone and lane[0].images <= room:
            room -= lane[0].images
            batch.append(lane.popleft())
        full = bool(lane) or room <= 0
        if not lane:
            del self._lanes[model_id]
        return Batch(model_id, batch, "alone" if batch[0].assign.alone else "full" if full else "drained")
