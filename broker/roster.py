"""The inference workers that are there, what each holds, and which of them takes the next request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from broker.lane import Request
from shared.wire.messages import LoadedModel, Memory

LOADS_AHEAD = 2
"""Requests a worker holds at most whose model it has yet to load: one it loads, and the next."""
SPREAD, SPREAD_FULL = 0.25, 0.75
"""A second worker loads a model once it has that part of the credit more to spare than those that have the model; the
latter part where others would have to make room for it."""

FAILING = 3
"""Failures in a row after which a worker counts as failing, until it answers again."""
FORGIVEN_S = 60.0


@dataclass(slots=True)
class Worker:
    """One live inferencer. Its free credit is derived from what it holds, so the two cannot drift apart."""

    identity: bytes
    name: str
    boot_id: str
    credit: int
    """Requests it takes at once, as its `Ready` said."""
    seen_s: float
    probed_s: float
    used_s: float = 0.0
    leaving: bool = False
    models: list[LoadedModel] = field(default_factory=list)
    """What it has in memory, as it said last."""
    memory: Memory = field(default_factory=Memory)
    """What that takes."""
    answered: int = 0
    failed_in_row: int = 0
    """Requests that it did not answer through its own fault since it last answered one."""
    failed_s: float = 0.0
    """When it last did not."""
    success_s: float | None = None
    """When that was."""
    loaded: dict[str, LoadedModel] = field(default_factory=dict)
    """Each of them by its id."""
    holds: dict[str, Request] = field(default_factory=dict)
    strays: set[str] = field(default_factory=set)
    """Ids it still works on that nobody waits for here: from the broker before us, or given to somebody else since."""

    @property
    def busy(self) -> int:
        """Requests it works on."""
        return len(self.holds) + len(self.strays)

    @property
    def free(self) -> int:
        """Requests it can still be given."""
        return 0 if self.leaving else max(0, self.credit - self.busy)

    @property
    def failing(self) -> bool:
        """Whether it is there and yet answers nobody."""
        return self.failed_in_row >= FAILING

    def did(self, now_s: float, *, well: bool) -> None:
        """It answered a request, or failed one that another might have answered."""
        if well:
            self.answered, self.failed_in_row, self.success_s = self.answered + 1, 0, now_s
        else:
            self.failed_in_row, self.failed_s = self.failed_in_row + 1, now_s

    def forgive(self, now_s: float) -> None:
        """What it failed a while ago is not held against it: nobody may have asked it since."""
        if now_s - self.failed_s > FORGIVEN_S:
            self.failed_in_row = 0

    @property
    def unanswered(self) -> list[Request]:
        """What it holds that a client still waits for."""
        return [request for request in self.holds.values() if not request.answered]

    def can_take(self, request: Request) -> bool:
        """Whether it has credit, and a request that must run alone would: it shares a worker with no other.

        What it works on already costs nothing to be given again: its one answer serves. Of requests for a model that
        it has yet to load it takes one, and the others wait here: they would keep its credit from models it has.
        """
        others = len(self.strays) - (request.submit.request_id in self.strays)
        if self.leaving or len(self.holds) + others >= self.credit:
            return False  # first: of what is asked here, most is asked while everybody has their hands full
        if request.submit.model_id not in self.loaded and not self._may_load(request.submit.model_id):
            return False
        if request.alone:
            return not self.unanswered and not others
        return not any(held.alone and not held.answered for held in self.holds.values())

    def has_now(self, models: list[LoadedModel]) -> None:
        """It told what it has in memory."""
        self.models = models
        self.loaded = {model.model_id: model for model in models}

    def fits(self, models: Iterable[LoadedModel]) -> bool:
        """Whether as much as the largest of these fits in its memory, and on its GPU, as far as it told what there is.

        Of none, whether it is within its limits.
        """
        memory, mb, gpu_mb = self.memory, 0.0, 0.0
        for model in models:
            mb, gpu_mb = max(mb, model.memory_mb), max(gpu_mb, model.gpu_memory_mb)
        return (not memory.limit_mb or memory.used_mb + mb <= memory.limit_mb) and (
            not memory.gpu_limit_mb or memory.gpu_used_mb + gpu_mb <= memory.gpu_limit_mb
        )

    def _may_load(self, model_id: str) -> bool:
        loading = {held.submit.model_id for held in self.holds.values()} - self.loaded.keys()
        return model_id not in loading and len(loading) < LOADS_AHEAD


class Roster:
    """The workers by identity."""

    def __init__(self) -> None:
        self._workers: dict[bytes, Worker] = {}

    def __iter__(self) -> Iterator[Worker]:
        return iter(list(self._workers.values()))

    def get(self, identity: bytes) -> Worker | None:
        """The worker of this name, if it is there."""
        return self._workers.get(identity)

    def add(self, worker: Worker) -> None:
        """A worker introduced itself."""
        self._workers[worker.identity] = worker

    def remove(self, worker: Worker) -> None:
        """A worker left or is lost."""
        del self._workers[worker.identity]

    @property
    def serving(self) -> bool:
        """Whether anybody takes new work, now or once it has a free hand."""
        return self.credit > 0

    @property
    def credit(self) -> int:
        """Requests that can be in flight at once."""
        return sum(worker.credit for worker in self._workers.values() if not worker.leaving)

    def pick(self, request: Request) -> Worker | None:
        """Who takes this request: the most free credit, then the least recently used.

        One that only fails takes what no other can: it is quick at that, and would get everything. Those that have the
        model come first, also where it has to wait for them a little: a model is loaded once more for a worker that has
        much less to do than they. One that would have others make room leaves it to who loads the model already.
        """
        able = [worker for worker in self._workers.values() if worker.can_take(request)]
        best = max(able, key=_rank, default=None)
        if best is None or request.submit.model_id in best.loaded:
            return best
        having = (worker for worker in self._having(request) if not worker.failing)
        there = max(having, key=lambda worker: (worker in able, _rank(worker)), default=None)
        if there is None:
            others_go = not best.fits(best.loaded.values())
            return None if others_go and not request.alone and self._loads(request) else best
        part = SPREAD if best.fits([there.loaded[request.submit.model_id]]) else SPREAD_FULL
        if best.free - there.free >= part * there.credit:
            return best
        return there if there in able else None

    def waits_for_model(self, request: Request) -> bool:
        """Whether somebody has a free hand for a request that nobody takes now, and lacks its model."""
        return not request.alone and any(
            request.submit.model_id not in worker.loaded and worker.free for worker in self._workers.values()
        )

    def has(self, request: Request) -> bool:
        """Whether its model is in memory anywhere."""
        return any(self._having(request))

    def _loads(self, request: Request) -> bool:
        """Whether a worker is at a request for the model, which none has in memory."""
        held = (held for worker in self._workers.values() for held in worker.holds.values())
        return any(other.submit.model_id == request.submit.model_id and not other.answered for other in held)

    def _having(self, request: Request) -> Iterator[Worker]:
        model_id = request.submit.model_id
        return (worker for worker in self._workers.values() if model_id in worker.loaded and not worker.leaving)


def _rank(worker: Worker) -> tuple[bool, int, float]:
    return not worker.failing, worker.free, -worker.used_s
