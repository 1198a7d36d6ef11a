"""What waits in this process: requests a model, handed to free threads in batches that wait for nobody."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from shared.clock import Deadline, Monotonic
from shared.runtime import MOST_FRAMES
from shared.wire.messages import Assign, Cut

LOAD_LIMIT_S = 120.0
"""How long loading a model may take before the process counts as stuck."""
PROBE_LIMIT_S = 30.0
"""The same of a probe."""
WANTED_S = 2.0
"""How long it counts what the broker said of requests that wait there."""


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
        lock = threading.Lock()
        self._changed, self._missing = threading.Condition(lock), threading.Condition(lock)
        self._freed = threading.Condition(lock)
        self._lanes: dict[str, deque[Request]] = {}
        self._loading: dict[str, float] = {}
        self._running: list[Batch] = []
        self._wanted: Sequence[str] = ()
        self._wanted_until_s = float("-inf")
        self._reserved = False
        """Whether one of the places is kept for a probe, or has it."""
        self._probing_s: float | None = None
        self._closed = False

    def put(self, assign: Assign, blobs: Sequence[bytes | memoryview]) -> None:
        """Queue a request; it arrives now."""
        with self._changed:
            now_s = self._clock()
            self._lanes.setdefault(assign.model_id, deque()).append(Request(assign, blobs, now_s))
            if assign.wanted:
                self._wanted, self._wanted_until_s = assign.wanted, now_s + WANTED_S
            self._notify(assign.model_id)

    def take(self, timeout_s: float | None = None) -> Batch | None:
        """The next batch, oldest request first; None after `timeout_s` without any, or once closed."""
        with self._changed:
            found = self._changed.wait_for(lambda: self._closed or self._work(), timeout_s)
            if not isinstance(found, tuple):
                return None
            batch = self._cut(*found)
            self._running.append(batch)
            if self._work() is not None:
                self._changed.notify()  # there is more to begin than this
            return batch

    def take_load(self, timeout_s: float | None = None) -> str | None:
        """A model to load before its requests can run, that of the oldest first; end it with `loaded`."""
        with self._missing:
            found = self._missing.wait_for(lambda: self._closed or self._unloaded(), timeout_s)
            if not isinstance(found, str):
                return None
            self._loading[found] = self._clock()
            return found

    def again(self, batch: Batch) -> None:
        """The model of a batch was gone when it was to run: its requests wait as before. `finished` comes as well."""
        with self._changed:
            self._lanes.setdefault(batch.model_id, deque()).extendleft(reversed(batch.requests))
            self._notify(batch.model_id)

    def waiting(self) -> dict[str, bool]:
        """The models that requests wait for: true where they do so here, false with the broker, as it told lately."""
        with self._changed:
            there = self._wanted if self._clock() < self._wanted_until_s else ()
            return dict.fromkeys(there, False) | dict.fromkeys(self._lanes, True)

    def finished(self, batch: Batch) -> None:
        """A batch is done with. Its thread comes back to `take` at once, so no other is woken for what waits."""
        with self._changed:
            self._running = [other for other in self._running if other is not batch]
            if self._reserved:
                self._freed.notify()

    @contextmanager
    def reserved(self, timeout_s: float) -> Iterator[bool]:
        """Inside, one of the batches that may be under way is ours, before all that wait, however many they are.

        False inside where none ended within `timeout_s`: what runs is never interrupted. One thread at a time.
        """
        with self._freed:
            self._reserved = True
            self._freed.wait_for(lambda: self._closed or len(self._running) < self._at_once, timeout_s)
            given = not self._closed and len(self._running) < self._at_once
            self._reserved, self._probing_s = given, self._clock() if given else None
        try:
            yield given
        finally:
            with self._changed:
                self._reserved, self._probing_s = False, None
                if self._work() is not None:
                    self._changed.notify()

    def loaded(self, model_id: str, *, usable: bool) -> list[Request]:
        """A load is over; if the model did not come up, everything that waited for it is given back to be refused."""
        with self._changed:
            del self._loading[model_id]
            self._changed.notify_all()
            self._missing.notify_all()
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
            return (
                any(now_s > started_s + LOAD_LIMIT_S for started_s in self._loading.values())
                or any(all(request.deadline.passed(now_s) for request in batch.requests) for batch in self._running)
                or (self._probing_s is not None and now_s > self._probing_s + PROBE_LIMIT_S)
            )

    def close(self) -> None:
        """Let every `take` return None."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._missing.notify_all()
            self._freed.notify_all()

    def _notify(self, model_id: str) -> None:
        """Wake who can begin with what waits for a model now."""
        if model_id in self._loading:
            return
        if self._room(model_id) is None:
            self._missing.notify()
        elif self._may_begin():
            self._changed.notify()

    def _may_begin(self) -> bool:
        """Whether one more batch may be under way."""
        return len(self._running) + self._reserved < self._at_once

    def _work(self) -> tuple[str, int] | None:
        """The model whose turn it is, that of the oldest request, and its room."""
        if not self._may_begin():
            return None
        rooms = ((model_id, self._room(model_id)) for model_id in self._waiting())
        return next(((model_id, room) for model_id, room in rooms if room is not None), None)

    def _unloaded(self) -> str | None:
        """The model to load next."""
        return next((model_id for model_id in self._waiting() if self._room(model_id) is None), None)

    def _waiting(self) -> list[str]:
        """Models that requests wait for and that do not load now, the oldest request first."""
        able = [model_id for model_id in self._lanes if model_id not in self._loading]
        return able if len(able) < 2 else sorted(able, key=lambda model_id: self._lanes[model_id][0].arrived_s)

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
