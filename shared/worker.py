"""The job worker: waits for the doorbell, claims, runs the job in a child, writes what came of it."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, get_args

import msgspec

from shared import child, clock, config, errors, log, process, trace
from shared.artifacts import Outputs
from shared.db import jobs
from shared.db.connection import open_db
from shared.nursery import Nursery
from shared.specs import JobKind, Lane
from shared.wire.client import Publisher
from shared.wire.events import EventFeed

LOOK_S = 2.0
"""An idle worker looks for itself this often: a lost doorbell costs two seconds, not a job."""

PROGRESS_S = 0.5
LOG_LINES = 200
"""Last lines of a child that are kept for the job's user."""

LOGGED_BYTES = 2_000_000
"""What one attempt's child may add to our log, which is 40 MB long: hostile code in a model prints without end."""
LINE_BYTES = 200
"""What a line of the log takes besides its text."""

LANES: tuple[Lane, ...] = get_args(Lane)
PERSIST_S = 60.0
"""How long finished work waits for a database that does not answer, before it is done again."""

PERSIST_EVERY_S = 0.5
CANCELLED = "cancelled"
STOPPED = "stopped"
GAVE_WAY = "gave way"
MADE_ROOM = "made room"
PUT_BACK = {
    STOPPED: "the worker was stopped",
    GAVE_WAY: "it gave way to what a user ordered",
    MADE_ROOM: "it made room for a benchmark, which needs the machine to itself, and goes on after it",
}

logger = logging.getLogger(__name__)

T = TypeVar("T")
Commit = Callable[[], None]
Heard = Callable[[jobs.Claimed, dict[str, Any]], None]


class Duty(Protocol):
    """What a service does with one kind of job. SQL only inside the functions it returns; files before that."""

    module: str
    """The child's module, run as `python -m`."""
    result_type: type[Any]

    def order(self, job: jobs.Claimed, outputs: Outputs) -> tuple[msgspec.Struct, child.Limits]:
        """The child's order, with the descriptors of the files staged for it. An `AppError` fails the job."""
        ...

    def finish(self, job: jobs.Claimed, result: Any, outputs: Outputs) -> Commit:
        """Publish the files now; the returned function writes their rows within the finishing transaction.

        Called again, for the same result, while the database does not answer.
        """
        ...

    def give_up(self, job: jobs.Claimed, reason: str) -> None:
        """Rows that must change when the job failed or was cancelled; within that transaction."""
        ...


class Slots:
    """The accelerator slots: `flock`s that the job's child holds, so they are free when it is gone, however it went."""

    def __init__(self, settings: config.Settings) -> None:
        self._paths = [settings.run / f"gpu-slot-{index}.lock" for index in range(settings.max_gpu_workers)]

    def take(self, *, exclusive: bool) -> list[process.FileLock] | None:
        """One free slot, or every slot for an exclusive job; None when they are not to be had now.

        Slots are tried in one order, so of two workers that want them all one gets them.
        """
        held: list[process.FileLock] = []
        for path in self._paths:
            try:
                held.append(process.FileLock(path).acquire())
            except process.Locked:
                if exclusive:
                    release(held)
                    return None
            if held and not exclusive:
                return held
        return held or None


def release(held: Sequence[process.FileLock]) -> None:
    """Close our descriptors; a child that inherited them still holds the slots."""
    for lock in held:
        lock.release()


class JobWorker:
    """One worker process of a lane; runs one job at a time, on the main thread (children die with the thread that
    started them). Of a lane that several services work for it takes the kinds it has duties for.

    Args:
        settings: In force.
        name: Of this process.
        lane: Where its jobs wait.
        duties: What it does with them.
        between: Called after every job, and every `LOOK_S` without one.
        heard: Called with all that a child tells of its job.
        nurseries: Where the children of a kind come from that wait for no import.
    """

    def __init__(
        self,
        settings: config.Settings,
        name: str,
        lane: Lane,
        duties: dict[JobKind, Duty],
        between: Callable[[], None] | None = None,
        *,
        heard: Heard = lambda job, body: None,
        nurseries: Mapping[JobKind, Nursery] | None = None,
    ) -> None:
        open_db(settings.db_file)
        self.name, self.lane, self.duties = name, lane, duties
        self._between, self._heard = between, heard
        self._nurseries = nurseries or {}
        self._run_dir = settings.run
        self._exclusive_wait_ms = 1000 * settings.exclusive_wait_s
        self._slots = Slots(settings) if lane == "accelerator" else None
        self._doorbell = EventFeed(settings.events_endpoint, [f"doorbell.{lane}"])
        self._publisher = Publisher(settings.broker_endpoint)

    def run(self, stop: process.Stop) -> None:
        """Work until asked to stop."""
        try:
            while not stop:
                ran = self._try_step(stop)
                if self._between is not None:
                    self._between()
                if not ran and not stop:
                    self._doorbell.wait(LOOK_S, stop.read_fd)
        finally:
            self._doorbell.close()
            self._publisher.close()

    def _try_step(self, stop: process.Stop) -> bool:
        try:
            return self.step(stop)
        except errors.Unavailable as error:
            logger.error("the database cannot be used", extra={"error": error.message})
            return False

    def step(self, stop: process.Stop) -> bool:
        """Rescue orphans, then run one job if there is one to start; returns whether to look again at once."""
        self._rescue()
        ticket = jobs.peek(self.lane, clock.now_ms())
        if ticket is None or ticket.kind not in self.duties:  # another service's: nothing goes before it all the same
            return False
        held = self._slots.take(exclusive=ticket.isolation == "exclusive") if self._slots else []
        if held is None:
            return False
        try:
            job = jobs.claim(self.lane, self.name, clock.now_ms(), ticket.id)
            if job is not None:  # else somebody was faster, and another may be ours to take
                span = trace.Span(f"job {job.kind}", job.traceparent, "consumer")
                with log.bound(job_id=job.id, attempt=job.attempt, **msgspec.structs.asdict(job.origin)), span:
                    self._execute(job, held, stop, span)
        finally:
            release(held)
        return True

    def _rescue(self) -> None:
        endings: dict[str, jobs.GiveUp] = {kind: duty.give_up for kind, duty in self.duties.items()}
        for job_id, status in jobs.recover(self._is_dead, clock.now_ms(), endings):
            logger.warning("a job lost its worker", extra={"job_id": job_id, "status": status})

    def _is_dead(self, worker: str) -> bool:
        # We run one job at a time and none right now: a job in our name is a predecessor's.
        return worker == self.name or process.is_free(self._run_dir / f"{worker}.lock")

    def _execute(
        self, job: jobs.Claimed, held: Sequence[process.FileLock], stop: process.Stop, span: trace.Span
    ) -> None:
        span.note({"cvp.job_id": job.id, "cvp.request_id": job.request_id, "cvp.attempt": job.attempt})
        duty = self.duties[job.kind]
        logger.info("job started", extra={"kind": job.kind})
        self._tell(job, "running", {})
        started, said = time.monotonic(), _Log(job)
        try:
            status = self._attempt(job, duty, held, stop, said)
        except jobs.Fenced:
            logger.warning("the job was taken from us; its result is dropped")
            span.note({}, failed="taken from us")
            return
        finally:
            said.keep()
        duration_s = round(time.monotonic() - started, 3)
        logger.info("job ended", extra={"kind": job.kind, "status": status, "duration_s": duration_s})
        span.note({"cvp.status": status}, failed=None if status == "completed" else status)
        self._tell(job, status, {})
        for lane in LANES:  # a follow-up waits, or somebody waited for this one to end
            self._publisher.doorbell(lane)

    def _attempt(
        self, job: jobs.Claimed, duty: Duty, held: Sequence[process.FileLock], stop: process.Stop, said: _Log
    ) -> str:
        """Work, and write how it ended; returns the job's status."""
        try:
            with Outputs(self.name) as outputs:
                result = self._work(job, duty, held, stop, said, outputs=outputs)
                _persist(lambda: jobs.finish(job, duty.finish(job, result, outputs)), stop)
        except child.Interrupted as interrupted:
            return self._interrupt(job, duty, str(interrupted), stop)
        except (errors.Unavailable, child.ChildKilled) as passing:
            reason = str(passing)
            return _persist(lambda: jobs.retry(job, reason, duty.give_up), stop)
        except (errors.AppError, child.ChildDied) as failed:
            reason = str(failed)
            _persist(lambda: jobs.fail(job, reason, lambda: duty.give_up(job, reason)), stop)
            return "failed"
        return "completed"

    def _work(
        self,
        job: jobs.Claimed,
        duty: Duty,
        held: Sequence[process.FileLock],
        stop: process.Stop,
        said: _Log,
        *,
        outputs: Outputs,
    ) -> Any:
        watch = _Watch(job, stop, self._tell, self._heard, self._exclusive_wait_ms)
        order, limits = duty.order(job, outputs)
        return child.run(
            duty.module,
            order,
            duty.result_type,
            limits=limits,
            nursery=self._nurseries.get(job.kind),
            pass_fds=[*(lock.fd for lock in held), *outputs.fds],
            on_progress=watch.progress,
            interrupted=watch.interrupted,
            on_log=said.line,
        )

    def _interrupt(self, job: jobs.Claimed, duty: Duty, reason: str, stop: process.Stop) -> str:
        if reason in PUT_BACK:
            jobs.put_back(job, PUT_BACK[reason], behind_exclusive=reason == MADE_ROOM)
            return "queued"
        _persist(lambda: jobs.cancelled(job, lambda: duty.give_up(job, "It was cancelled.")), stop)
        return CANCELLED

    def _tell(self, job: jobs.Claimed, status: str, progress: dict[str, Any]) -> None:
        told = {"id": job.id, "kind": job.kind, "status": status, "progress": progress, "request_id": job.request_id}
        self._publisher.publish(f"job.{job.id}", told)


def _persist(write: Callable[[], T], stop: process.Stop) -> T:
    """Write what came of a job, trying for `PERSIST_S` while the database does not answer.

    Raises:
        errors.Unavailable: It still does not, or we are to stop; the job is taken back and done again.
    """
    end = time.monotonic() + PERSIST_S
    while True:
        try:
            return write()
        except errors.Unavailable as error:
            if time.monotonic() > end or stop.wait(PERSIST_EVERY_S):
                raise
            logger.warning("the end of a job was not stored yet", extra={"error": error.message})


class _Log:
    """What one attempt's child writes: so much goes into our log as pushes nothing else out, the last to its user."""

    def __init__(self, job: jobs.Claimed) -> None:
        self._job = job
        self._lines: deque[str] = deque(maxlen=LOG_LINES)
        self._left, self._full = LOGGED_BYTES, False

    def line(self, level: str, text: str) -> None:
        """The child wrote a line."""
        self._lines.append(text)
        self._left -= len(text) + LINE_BYTES
        if self._left > 0:
            logger.log(log.LEVELS[level], "%s", text, extra={"from": "child"})
        elif not self._full:
            self._full = True
            logger.warning("the job's process writes more than the log takes of one; the rest is left out")

    def keep(self) -> None:
        """Store the last lines; without a database they are only in our log."""
        try:
            jobs.keep_log(self._job, "\n".join(self._lines))
        except errors.Unavailable as error:
            logger.warning("the log of a job was not stored", extra={"error": error.message})


class _Watch:
    """Follows one running job: stores its progress now and then, and knows when to interrupt it."""

    def __init__(
        self,
        job: jobs.Claimed,
        stop: process.Stop,
        tell: Callable[[jobs.Claimed, str, dict[str, Any]], None],
        heard: Heard,
        exclusive_wait_ms: float,
    ) -> None:
        self._job, self._stop, self._tell, self._heard = job, stop, tell, heard
        self._exclusive_wait_ms, self._since_ms = exclusive_wait_ms, clock.now_ms()
        self._latest: dict[str, Any] = {}
        self._stored_at = 0.0
        self._cancel = self._gives_way = self._makes_room = False

    def progress(self, body: dict[str, Any]) -> None:
        self._latest = body
        self._heard(self._job, body)
        self._tell(self._job, "running", body)
        if "checkpoint" in body:  # it can be ended now and loses nothing
            self._makes_room = self._is_in_the_way()

    def _is_in_the_way(self) -> bool:
        try:
            return jobs.has_to_make_room(
                self._job, clock.now_ms(), since_ms=self._since_ms, wait_ms=self._exclusive_wait_ms
            )
        except errors.Unavailable:
            return False

    def interrupted(self) -> str | None:
        """Store the newest progress every `PROGRESS_S` and learn by the same write of a cancellation; a background job
        also looks whether somebody waits for it.
        """
        if self._stop:
            return STOPPED
        if time.monotonic() - self._stored_at >= PROGRESS_S:
            self._stored_at = time.monotonic()
            try:
                self._cancel = jobs.report_progress(self._job, self._latest)
                self._gives_way = jobs.has_to_give_way(self._job, clock.now_ms())
            except errors.Unavailable as error:  # no reason to throw work away: only the progress is not stored
                logger.warning("progress was not stored", extra={"error": error.message})
        return CANCELLED if self._cancel else GAVE_WAY if self._gives_way else MADE_ROOM if self._makes_room else None
