"""One inference process at work: threads that compute, two that load models, one that probes them, and a keeper."""

from __future__ import annotations

import faulthandler
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from inferencer.batcher import Batch, Batcher
from inferencer.compute import Answer, answer, failed, with_cut
from inferencer.doubts import SUSPICIOUS, Doubts, end_of_process
from inferencer.health import Health
from inferencer.sessions import Sessions, Unloaded
from shared import errors
from shared.clock import Monotonic
from shared.wire.messages import Done, Failed

KEEPER_S = 0.25
STUCK_S = 30.0
"""How long work may go on after its deadline before the process gives itself up."""
FULL_BATCH = 8
JOIN_S = 5.0
PLACE_S = 5.0
"""How long a probe waits until one of the batches under way ends."""

logger = logging.getLogger(__name__)


class Delivers(Protocol):
    """The part of the link the threads use; thread-safe."""

    def deliver(self, answers: Sequence[tuple[Done | Failed, Sequence[bytes]]]) -> None:
        """Send answers to the broker."""

    def tell(self) -> None:
        """Tell the broker which models are in memory now."""


def credit(threads: int, at_once: int) -> int:
    """Requests this process holds at most.

    Two a thread, so that no round trip to the broker leaves one idle, and two full batches for each that may run at
    once: one that runs, one that waits for it. More would only wait here instead of with the broker, where another
    process could have taken it.
    """
    return max(2 * threads, 2 * at_once * FULL_BATCH)


class Worker:
    """Threads that take work from the batcher and answer it through the link.

    Args:
        sessions: The models.
        batcher: The work.
        link: Takes the answers.
        health: Remembers how each model does.
        clock: Seconds, monotonic.
        rearm: Puts off the watchdog by `STUCK_S`; it ends the process when nobody does.
        recycle: Asks for this process to be started again, given the MB that it cannot give back.
        end: Ends this process at once, when it cannot compute any more.
    """

    def __init__(
        self,
        sessions: Sessions,
        batcher: Batcher,
        link: Delivers,
        *,
        health: Health | None = None,
        clock: Monotonic = time.monotonic,
        rearm: Callable[[], None] | None = None,
        recycle: Callable[[float], None] = lambda _: None,
        end: Callable[[], None] = end_of_process,
    ) -> None:
        self._sessions = sessions
        self._batcher = batcher
        self._link = link
        self._clock = clock
        self._rearm = rearm or _rearm_watchdog
        self._recycle = recycle
        self._doubts, self._health = Doubts(end, clock), health or Health(clock)
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, threads: int) -> None:
        """Start the computing threads, the keeper and those that load and probe models."""
        jobs = [
            ("keeper", self._keep),
            ("load", self._load_on_demand),
            ("renew", self._renew),
            ("probe", self._probe),
            *((f"infer-{number}", self._work) for number in range(threads)),
        ]
        self._threads = [threading.Thread(target=target, name=name, daemon=True) for name, target in jobs]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop the threads, a few seconds at most, and let go of the models."""
        self._closing.set()
        self._batcher.close()
        end_s = time.monotonic() + JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, end_s - time.monotonic()))
        self._sessions.close()

    def _work(self) -> None:
        """A thread's life: whatever goes wrong with one piece of work, the next is taken."""
        while True:
            work = self._batcher.take()
            if work is None:
                return
            try:
                self._run(work)
            except Exception:
                logger.exception("an inference thread stumbled and goes on")

    def _load_on_demand(self) -> None:
        """Load what requests wait for, one model at a time, and between two what will be asked for."""
        while not self._closing.is_set():
            model_id = self._batcher.take_load(KEEPER_S)
            try:
                if model_id is not None:
                    self._load(model_id)
                elif self._sessions.prewarm():
                    self._link.tell()
            except Exception:
                logger.exception("a model was not loaded; the next request for it tries again")

    def _load(self, model_id: str) -> None:
        failure: Exception | None = None
        try:
            self._sessions.load(model_id, self._batcher.waiting)
        except Exception as error:
            logger.warning("model %s cannot be loaded: %s", model_id, error)
            failure = error
        why = failure or errors.Unavailable("The model is not loaded.")
        self._link.tell()
        waited = self._batcher.loaded(model_id, usable=failure is None)
        self._link.deliver([failed(request, why) for request in waited])

    def _run(self, batch: Batch) -> None:
        """Answer every request of a batch once, come what may, and all at once: each delivery wakes another thread."""
        answers: list[Answer] = []
        try:
            with self._sessions.use(batch.model_id) as runtime:
                answers.extend(with_cut(answer(runtime, batch.requests, self._clock), batch.cut))
                messages = [given.message for given in answers]
                self._health.worked(batch.model_id, messages, SUSPICIOUS)
                self._doubts.settle(runtime, messages)
        except Unloaded:
            self._batcher.again(batch)
        except Exception as error:
            answered = {given.message.request_id for given in answers}
            left = [request for request in batch.requests if request.assign.request_id not in answered]
            answers += [failed(request, error) for request in left]
        finally:
            self._batcher.finished(batch)
        self._link.deliver(answers)

    def _probe(self) -> None:
        """Have models that answered nobody lately show that they can, one at a time."""
        while not self._closing.wait(KEEPER_S):
            try:
                if (model_id := self._health.due(self._sessions.models)) is not None:
                    self._examine(model_id)
            except Exception:
                logger.exception("a model could not be probed; its turn comes again")

    def _examine(self, model_id: str) -> None:
        """A probe takes the place of one batch, so that no more engines run than may; whoever waits, waits behind it.

        Where no place comes free, the process has long work: that is no failure.
        """
        with self._batcher.reserved(PLACE_S) as given:
            try:
                with self._sessions.use(model_id, asked=False) as runtime:
                    known = given and runtime.spot_check()
            except Unloaded:
                return
            except Exception as error:
                failure = error
            else:
                (self._health.passed if known else self._health.put_off)(model_id)
                return
        in_row = self._health.failed(model_id, str(failure))
        self._doubts.mend(model_id, failure, in_row, lambda: self._sessions.reload(runtime, self._batcher.waiting))
        self._link.tell()

    def _renew(self) -> None:
        """Load what is served differently now, beside the requests that the old still answers."""
        while not self._closing.wait(KEEPER_S):
            try:
                if self._sessions.renew(self._batcher.waiting):
                    self._link.tell()
            except Exception:
                logger.exception("a model could not be renewed; what is loaded serves on")

    def _keep(self) -> None:
        """Every 250 ms: follow the catalogue, refuse what waited too long, hold off the watchdog while all is well."""
        while not self._closing.wait(KEEPER_S):
            try:
                if self._sessions.refresh():
                    self._link.tell()
            except errors.Unavailable as error:
                logger.warning("the catalogue cannot be read; serving what is loaded: %s", error.message)
            except Exception:
                logger.exception("looking at the catalogue failed; serving what is loaded")
            late = errors.DeadlineExceeded("The request waited too long in the inferencer; try again later.")
            self._link.deliver([failed(request, late) for request in self._batcher.expired()])
            if not self._batcher.stuck():
                self._rearm()
            if (left_mb := self._sessions.bloated()) is not None:
                self._recycle(left_mb)


def _rearm_watchdog() -> None:
    """A timer outside the interpreter: it works even if some library never gives the interpreter lock back."""
    faulthandler.dump_traceback_later(STUCK_S, exit=True)
