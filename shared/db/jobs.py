"""Jobs: the state machine every unit of durable work goes through, and who may start next.

queued -> running -> completed | failed | cancelled. The gateway inserts and sets the cancel flag; the worker that
claimed a job writes everything else, and every such write names the attempt, so a worker given up changes nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, cast, get_args

import msgspec
import peewee

from shared import clock, errors, ids
from shared.db import connection, pages
from shared.db.tables import Job, JobEvent
from shared.specs import LANE_OF, JobKind, JobStatus, Lane, ReportSpec
from shared.trace import Origin

OPEN = ("queued", "running")
ENDED = ("completed", "failed", "cancelled", "put back", "put off", "worker lost")
AGEING_MS = 300_000
"""Waiting this long counts as much as one step of priority, so nothing starves."""

BACKGROUND = -100
"""Priority, in the CPU lane, of what no user ordered: it starts when nothing else could, and stops for what comes."""

RESUMABLE: frozenset[JobKind] = frozenset({"train", "trial"})
"""Kinds that leave checkpoints and go on from them: a measurement need not wait until they have ended."""

LEISURE = 3
"""Times as long a background job may take: it leaves the processor to others."""

ATTEMPTS = 3
"""That a job may lose its worker or its child, or find no disk, before it is given up."""

PATIENCE_MS = 10_000
BACK_OFF_MS = 2_000
MAX_BACK_OFF_MS = 60_000
"""A job that is to wait longer than this was put back by a clock that has been set back since; it waits no more."""

HEAVY_BYTES = 100 * 2**20
"""An upload larger than this makes a heavy job: one that may take minutes, or gigabytes of memory."""

MAX_RUNTIME_S: dict[JobKind, float] = {
    "convert": 600.0,
    "dataset": 4 * 3600.0,
    "activate": 900.0,
    "train": 7 * 24 * 3600.0,
    "search": 30 * 24 * 3600.0,
    "trial": 24 * 3600.0,
    "measure": 3600.0,
    "benchmark": 3 * 3600.0,
    "report": 300.0,
}
NO_MORE_ATTEMPTS = "Its worker died {attempts} times while running it; the job was given up. Last event: {detail}"


class Fenced(Exception):
    """The job is no longer ours to write: it was cancelled, finished, or given to somebody else."""


class Ticket(msgspec.Struct, frozen=True):
    """What `pick` needs to know about an open job."""

    id: str
    kind: JobKind
    lane: Lane
    status: JobStatus
    isolation: str
    heavy: bool
    priority: int
    ordered_at_ms: int
    not_before_ms: int

    @property
    def background(self) -> bool:
        """Whether no user waits for it."""
        return self.lane == "cpu" and self.priority == BACKGROUND

    @property
    def works(self) -> bool:
        """Whether it takes of the machine now; a search that runs only orders trials."""
        return self.status == "running" and self.lane != "search"


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """A job this worker now runs; `attempt` fences its writes."""

    id: str
    kind: JobKind
    attempt: int
    spec: bytes
    """Canonical JSON of the kind's spec."""
    max_runtime_s: float
    created_by: str
    priority: int
    ordered_at_ms: int
    request_id: str | None = None
    traceparent: str | None = None

    @property
    def origin(self) -> Origin:
        """The request that made this job, or the job before it."""
        return Origin(self.request_id, self.traceparent)


LISTED = (
    Job.id,
    Job.kind,
    Job.lane,
    Job.status,
    Job.priority,
    Job.attempt,
    Job.max_attempts,
    Job.progress,
    Job.error,
    Job.cancel_requested,
    Job.parent_id,
    Job.request_id,
    Job.created_by,
    Job.created_at_ms,
    Job.started_at_ms,
    Job.finished_at_ms,
)

_JOBS = pages.List(Job.select(*LISTED), Job.id, "job", kind=Job.kind, status=Job.status)

LOG = "log"
"""The event whose detail is the end of an attempt's log."""

LOG_CHARACTERS = 16_000

NO_ROOM = "no room"
"""The event that says of a job that failed that the disk was full then."""

GiveUp = Callable[[Claimed, str], None]
"""Writes what else must change when a job ends without a result, within that transaction; gets the reason."""


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """Open jobs of one kind in one status."""

    kind: JobKind
    status: JobStatus
    jobs: int


def pick(open_jobs: Iterable[Ticket], lane: Lane, now_ms: int, quiet_since_ms: int = 0) -> Ticket | None:
    """The job a free worker of `lane` should start now, or None. Pure.

    Order: priority, then age; `AGEING_MS` of waiting is worth one step of priority. An exclusive job starts only when
    nothing else runs, and while one runs, or waits at the head of the accelerator lane, nothing younger starts. It lets
    older jobs of the other lanes go first (the report of the benchmark before it, a model to be checked), for
    `PATIENCE_MS` after something last ended: by then their workers would have taken them, were they alive. A background
    job is younger than everything, however long it has waited.

    Of heavy jobs one of a kind runs at a time, so that they leave workers to the others, and memory. An exclusive job
    that waits for a heavy one, or for a training, does not keep those others waiting with it.

    A search that runs is no work, and keeps nobody waiting: its trials do.

    Args:
        open_jobs: Every queued and running job.
        lane: The lane of the free worker.
        now_ms: Wall clock.
        quiet_since_ms: When a job last ended.
    """
    jobs = list(open_jobs)
    running = [job for job in jobs if job.works]
    if any(job.isolation == "exclusive" for job in running):
        return None
    holder = _holder(jobs, now_ms)
    head = _head(jobs, lane, now_ms, holder)
    if head is None or head.isolation != "exclusive":
        return head
    elders = [elder for other in ("cpu", "report") if (elder := _head(jobs, other, now_ms, holder)) is not None]
    yields = any(_goes_first(elder, head, now_ms, quiet_since_ms) for elder in elders)
    return None if running or yields else head


def gives_way(open_jobs: Iterable[Ticket], job_id: str, now_ms: int) -> bool:
    """Whether a running background job would not be started now, did it still wait: somebody wants its place. Pure."""
    jobs = {job.id: job for job in open_jobs}
    ours = jobs.get(job_id)
    if ours is None or not ours.background:
        return False
    jobs[job_id] = msgspec.structs.replace(ours, status="queued", not_before_ms=0)
    chosen = pick(jobs.values(), "cpu", now_ms)
    return chosen is None or not chosen.background


def room_for(open_jobs: Iterable[Ticket], job_id: str, now_ms: int, *, since_ms: int, wait_ms: float) -> Ticket | None:
    """The exclusive job that a running job of a resumable kind is to make room for at its checkpoint, or None. Pure.

    Args:
        open_jobs: Every queued and running job.
        job_id: The running one.
        now_ms: Wall clock.
        since_ms: When it started; it runs for `wait_ms` at least.
        wait_ms: What an exclusive job at the head of its lane waits for it.
    """
    jobs = list(open_jobs)
    working = [job for job in jobs if job.status == "running" and job.lane == "accelerator"]
    head = _exclusive_head(jobs, now_ms)
    if head is None or job_id not in {job.id for job in working} or any(job.kind not in RESUMABLE for job in working):
        return None
    return head if now_ms - max(head.ordered_at_ms, since_ms) >= wait_ms else None


def _exclusive_head(jobs: list[Ticket], now_ms: int) -> Ticket | None:
    """The exclusive job that waits at the head of the accelerator lane."""
    head = _head(jobs, "accelerator", now_ms, lambda job: None)
    return head if head is not None and head.isolation == "exclusive" else None


def _holder(jobs: list[Ticket], now_ms: int) -> Callable[[Ticket], Ticket | None]:
    """Names what keeps a job from starting, whoever is ahead in its lane: a heavy job of its kind that runs, or an
    exclusive one that waits at the head of the accelerator lane.
    """
    heavy = {job.kind: job for job in jobs if job.heavy and job.status == "running"}
    long = heavy or any(job.kind in RESUMABLE and job.status == "running" for job in jobs)
    exclusive = _exclusive_head(jobs, now_ms)

    def holder(job: Ticket) -> Ticket | None:
        if job.heavy and job.kind in heavy:
            return heavy[job.kind]
        if exclusive is not None and _is_older(exclusive, job) and (job.heavy or not long):
            return exclusive
        return None

    return holder


def _goes_first(elder: Ticket, exclusive: Ticket, now_ms: int, quiet_since_ms: int) -> bool:
    """Whether the exclusive job still lets this one go before it."""
    quiet_ms = now_ms - max(quiet_since_ms, elder.ordered_at_ms)  # less than nothing: the clock was set back
    return _is_older(elder, exclusive) and 0 <= quiet_ms < PATIENCE_MS


def _is_older(one: Ticket, other: Ticket) -> bool:
    """Across lanes, where priorities do not count."""
    return (one.background, one.ordered_at_ms) < (other.background, other.ordered_at_ms)


def _head(jobs: list[Ticket], lane: Lane, now_ms: int, holder: Callable[[Ticket], Ticket | None]) -> Ticket | None:
    return min((job for job in _ready(jobs, lane, now_ms) if holder(job) is None), key=_rank, default=None)


def _ready(jobs: list[Ticket], lane: Lane, now_ms: int) -> list[Ticket]:
    waiting = [job for job in jobs if job.lane == lane and job.status == "queued"]
    return [job for job in waiting if not 0 < job.not_before_ms - now_ms <= MAX_BACK_OFF_MS]


def _rank(job: Ticket) -> tuple[bool, int, str]:
    return job.background, job.ordered_at_ms - job.priority * AGEING_MS, job.id


def waiting_for(open_jobs: Iterable[Ticket], now_ms: int, quiet_since_ms: int = 0) -> dict[str, str]:
    """What keeps each queued job from starting, by its id; a job that a free worker takes is not in it. Pure.

    It names the nearest: the exclusive job that runs, the heavy one of its kind that runs, the exclusive job at
    the head of the accelerator lane, the job ahead in its lane, what an exclusive job lets go first (as long as `pick`
    does), or one its own lane works on. A job that waits out its back-off waits for nobody.
    """
    jobs = list(open_jobs)
    running = sorted((job for job in jobs if job.works), key=lambda job: job.isolation != "exclusive")
    ready = [job for lane in get_args(Lane) for job in _ready(jobs, lane, now_ms)]
    if running and running[0].isolation == "exclusive":
        return {job.id: running[0].id for job in ready}
    holder = _holder(jobs, now_ms)
    found = {job.id: held.id for job in ready if (held := holder(job)) is not None}
    free = sorted((job for job in ready if job.id not in found), key=_rank)
    lines = [[job for job in free if job.lane == lane] for lane in get_args(Lane)]
    heads = [line[0] for line in lines if line]
    for line in lines:
        for ahead, job in itertools.pairwise(line):
            found[job.id] = ahead.id
    for head in heads:
        before = [job for job in running if job.lane == head.lane]
        if head.isolation == "exclusive":
            before = running + [other for other in heads if _goes_first(other, head, now_ms, quiet_since_ms)]
        if before:
            found[head.id] = before[0].id
    return found


def check_room(limit: int) -> None:
    """Refuse one job too many; binding inside a `write()`, and a forecast outside.

    Raises:
        errors.QueueFull: `limit` jobs are waiting already.
    """
    if Job.select().where(Job.status == "queued").count() >= limit:
        raise errors.QueueFull(
            f"{limit} jobs are waiting already (MAX_QUEUED_JOBS); try again when some are done.", retry_after_s=30
        )


def insert(
    kind: JobKind,
    spec: msgspec.Struct,
    *,
    user_id: str,
    job_id: str | None = None,
    priority: int = 0,
    isolation: str = "shared",
    heavy: bool = False,
    origin: Origin | None = None,
    parent: Claimed | None = None,
    follows: str | None = None,
    limit: int | None = None,
) -> str:
    """Add a queued job inside the caller's `write()`; returns its id.

    A follow-up keeps its parent's place in line, and its parent's origin; one that a user orders later than that
    `follows` the job of that id with a place and an origin of its own.

    Raises:
        errors.QueueFull: `limit` jobs are waiting already.
    """
    if limit is not None:
        check_room(limit)
    now = clock.now_ms()
    job_id = job_id or ids.new_id("job")
    origin = parent.origin if parent else origin or Origin()
    Job.insert(
        id=job_id,
        kind=kind,
        lane=LANE_OF[kind],
        isolation=isolation,
        heavy=heavy,
        spec=spec,
        status="queued",
        priority=priority,
        max_attempts=ATTEMPTS,
        max_runtime_s=MAX_RUNTIME_S[kind] * (LEISURE if priority == BACKGROUND else 1),
        ordered_at_ms=parent.ordered_at_ms if parent else now,
        parent_id=parent.id if parent else follows,
        request_id=origin.request_id,
        traceparent=origin.traceparent,
        created_by=user_id,
        created_at_ms=now,
    ).execute()
    _note(job_id, 0, "queued", request_id=origin.request_id)
    return job_id


def find(job_id: str) -> Any:
    """The row of a job, as `pages.stored`.

    Raises:
        errors.NotFound: No such job.
    """
    rows = pages.stored(Job.select().where(Job.id == job_id))
    if not rows:
        raise errors.NotFound(f"There is no job {job_id[:80]!r}; GET /api/v1/jobs lists them.")
    return rows[0]


def report_of(job_id: str) -> tuple[JobStatus, str | None] | None:
    """Status and error of the newest report job that follows a job; None while none does."""
    with connection.read():
        following = Job.select().where((Job.kind == "report") & (Job.parent_id == job_id))
        found = following.order_by(Job.id.desc()).first()
    return None if found is None else (cast(JobStatus, found.status), found.error)


def report_again(row: Any, state: tuple[JobStatus, str | None] | None, spec: ReportSpec, **order: Any) -> None:
    """Order the report of an ended job once more, inside the caller's `write()`.

    Args:
        row: The job, a row with `id` and `status`.
        state: Of its report so far, as of `report_of`.
        spec: Of the report.
        order: Who ordered, origin and limit, as of `insert`.

    Raises:
        errors.Conflict: There is nothing to report, or the report is there, or on its way.
        errors.QueueFull: Too many jobs are waiting already.
    """
    if row.status != "completed":
        raise errors.Conflict(f"Job {row.id} is {row.status}: there is nothing to report. Order a new one.")
    if state is not None and state[0] not in ("failed", "cancelled"):
        raise errors.Conflict(f"The report of job {row.id} is {state[0]}; only one that failed is written again.")
    insert("report", spec, follows=row.id, **order)


def history(job_id: str) -> list[JobEvent]:
    """What happened to a job, oldest first."""
    with connection.read():
        mine = (JobEvent.job_id == job_id) & (JobEvent.event != LOG)
        return list(JobEvent.select().where(mine).order_by(JobEvent.id))


def logs(job_id: str) -> list[JobEvent]:
    """The last lines of each attempt's child, oldest first."""
    with connection.read():
        mine = (JobEvent.job_id == job_id) & (JobEvent.event == LOG)
        return list(JobEvent.select().where(mine).order_by(JobEvent.id))


def keep_log(job: Claimed, text: str) -> None:
    """Store the end of an attempt's log, `LOG_CHARACTERS` at most; also of a job that was taken from us."""
    if text:
        with connection.write():
            _note(job.id, job.attempt, LOG, text[-LOG_CHARACTERS:], request_id=job.request_id)


def listing(
    *, kind: JobKind | None = None, status: JobStatus | None = None, limit: int, cursor: str | None
) -> pages.Page[Any]:
    """Rows like those of `find`, with the columns that lists show, newest first; None filters nothing."""
    return _JOBS.page(limit, cursor, kind=kind, status=status)


def open_counts() -> list[Count]:
    """How many jobs wait and run, by kind."""
    total = peewee.fn.COUNT(Job.id).alias("jobs")
    with connection.read():
        query = Job.select(Job.kind, Job.status, total).where(Job.status.in_(OPEN)).group_by(Job.kind, Job.status)
        return msgspec.convert(list(query.dicts()), list[Count])


def open_waits(now_ms: int) -> dict[str, str]:
    """`waiting_for` of the jobs as they are now."""
    with connection.read():
        return waiting_for(_tickets(), now_ms, _quiet_since_ms())


def peek(lane: Lane, now_ms: int) -> Ticket | None:
    """What `claim` would take now; reads only, so that a slot can be taken first."""
    with connection.read():
        return pick(_tickets(), lane, now_ms, _quiet_since_ms())


def claim(lane: Lane, worker: str, now_ms: int, wanted: str) -> Claimed | None:
    """Take the job `wanted` if it is still the one to start; in one IMMEDIATE transaction, so only one worker wins."""
    with connection.write(durable=True, name="claim"):
        ticket = pick(_tickets(), lane, now_ms, _quiet_since_ms())
        if ticket is None or ticket.id != wanted:
            return None
        job = Job.get_by_id(ticket.id)
        Job.update(status="running", attempt=Job.attempt + 1, worker=worker, started_at_ms=now_ms, progress={}).where(
            Job.id == job.id
        ).execute()
        _note(job.id, job.attempt + 1, "started", worker, request_id=job.request_id)
    return _claimed(job, job.attempt + 1)


def _claimed(job: Job, attempt: int) -> Claimed:
    row = {field: getattr(job, field) for field in Claimed.__struct_fields__}
    return msgspec.convert(row | {"attempt": attempt, "spec": msgspec.json.encode(job.spec)}, Claimed)


class Running(NamedTuple):
    """A running job, as it was claimed."""

    job: Claimed
    cancel: bool
    """Whether it is to be cancelled."""
    started_at_ms: int


def running(lane: Lane) -> list[Running]:
    """The jobs of a lane that run, oldest first."""
    with connection.read():
        rows = Job.select().where((Job.status == "running") & (Job.lane == lane)).order_by(Job.id)
        return [
            Running(_claimed(job, job.attempt), bool(job.cancel_requested), int(job.started_at_ms or 0)) for job in rows
        ]


def report_progress(job: Claimed, progress: dict[str, object]) -> bool:
    """Store progress; returns whether cancelling is wished.

    Raises:
        Fenced: The job is no longer ours.
    """
    with connection.write():
        _mine(job, progress=progress)
        return bool(Job.select(Job.cancel_requested).where(Job.id == job.id).scalar())


def got_further(job: Claimed) -> None:
    """Within the caller's `write()` of a part that is done for good: only attempts after it count, should it be lost.

    Raises:
        Fenced: The job is no longer ours.
    """
    _mine(job, max_attempts=job.attempt + ATTEMPTS - 1)


def finish(job: Claimed, commit: Callable[[], None]) -> None:
    """Complete the job together with its results, in one durable transaction.

    Args:
        job: The claimed job.
        commit: Writes the results (SQL only); an exception rolls everything back.

    Raises:
        Fenced: The job is no longer ours; nothing was written.
    """
    with connection.write(durable=True, name="finish"):
        _end(job, "completed")
        Job.update(progress=peewee.fn.json_set(Job.progress, "$.fraction", 1.0)).where(Job.id == job.id).execute()
        commit()


def fail(job: Claimed, error: str, commit: Callable[[], None] | None = None) -> None:
    """End the job as failed, with the reason shown to its user.

    Raises:
        Fenced: The job is no longer ours.
    """
    with connection.write(durable=True, name="fail"):
        _end(job, "failed", error=error)
        if commit:
            commit()


def cancelled(job: Claimed, commit: Callable[[], None] | None = None) -> None:
    """End a running job that its user cancelled.

    Raises:
        Fenced: The job is no longer ours.
    """
    with connection.write(durable=True, name="fail"):
        _end(job, "cancelled")
        if commit:
            commit()


def retry(job: Claimed, reason: str, give_up: GiveUp) -> JobStatus:
    """Return a running job to the queue because of what may pass: a full disk, a child that was killed.

    The attempt counts: after `max_attempts` the job fails with `reason`. One that is to be cancelled ends here. Returns
    the new status.

    Raises:
        Fenced: The job is no longer ours.
    """
    with connection.write(durable=True, name="retry"):
        row = Job.get_by_id(job.id)
        now_ms = clock.now_ms()
        changes = _cancelled(now_ms) if row.cancel_requested else _retried(row, now_ms, reason)
        status = cast(JobStatus, changes["status"])
        _mine(job, **changes)
        event = "put off" if status == "queued" else status
        _note(job.id, job.attempt, event, reason, request_id=job.request_id)
        if status != "queued":
            give_up(job, reason)
    return status


def has_to_give_way(job: Claimed, now_ms: int) -> bool:
    """`gives_way` of the jobs as they are now; nothing is read for a job that a user ordered."""
    if job.priority != BACKGROUND:
        return False
    with connection.read():
        return gives_way(_tickets(), job.id, now_ms)


def has_to_make_room(job: Claimed, now_ms: int, *, since_ms: int, wait_ms: float) -> bool:
    """Whether there is a `room_for` of the jobs as they are now."""
    with connection.read():
        return room_for(_tickets(), job.id, now_ms, since_ms=since_ms, wait_ms=wait_ms) is not None


def _behind(ahead: Ticket, job: Claimed) -> int:
    return max(job.ordered_at_ms, ahead.ordered_at_ms + (job.priority - ahead.priority) * AGEING_MS + 1)


def put_back(job: Claimed, why: str, *, behind_exclusive: bool = False) -> None:
    """Return a running job to the queue, since its worker stops or it gives way; the attempt does not count.

    Args:
        job: The claimed job.
        why: Stands in its story.
        behind_exclusive: Its place is now behind the exclusive job that waits; it would be the first again otherwise.

    Raises:
        Fenced: The job is no longer ours.
    """
    with connection.write(durable=True, name="put_back"):
        ahead = _exclusive_head(_tickets(), clock.now_ms()) if behind_exclusive else None
        place = job.ordered_at_ms if ahead is None else _behind(ahead, job)
        _mine(job, status="queued", worker=None, attempt=job.attempt - 1, progress={}, ordered_at_ms=place)
        _note(job.id, job.attempt, "put back", why, request_id=job.request_id)


def request_cancel(job_id: str, request_id: str | None = None) -> JobStatus:
    """Inside the caller's `write()`: cancel a queued job at once, flag a running one; returns the status before.

    Args:
        job_id: The job.
        request_id: The request that wishes it.

    Raises:
        errors.Conflict: The job has ended.
    """
    job = Job.get_by_id(job_id)
    if job.status == "queued":
        Job.update(status="cancelled", finished_at_ms=clock.now_ms()).where(Job.id == job_id).execute()
        _note(job_id, job.attempt, "cancelled", request_id=request_id)
    elif job.status == "running":
        Job.update(cancel_requested=True).where(Job.id == job_id).execute()
        _note(job_id, job.attempt, "cancel requested", request_id=request_id)
    else:
        raise errors.Conflict(f"Job {job_id} cannot be cancelled: it is {job.status} already.")
    return cast(JobStatus, job.status)


def recover(is_dead: Callable[[str], bool], now_ms: int, give_up: Mapping[str, GiveUp]) -> list[tuple[str, str]]:
    """Deal with running jobs whose worker is dead: back to the queue, or ended after `max_attempts` or a cancellation.

    Not with searches: they are their rows, with which the next coordinator goes on.

    Args:
        is_dead: Whether the named worker's lock is free.
        now_ms: Wall clock.
        give_up: What else changes when a job of a kind ends; jobs of other kinds are ended by their own workers only.

    Returns:
        `(job id, new status)` of each.
    """
    with connection.read():
        running = Job.select(Job.id, Job.worker).where((Job.status == "running") & (Job.lane != "search"))
        suspects = [(job.id, str(job.worker)) for job in running]
    dead = [(job_id, worker) for job_id, worker in suspects if is_dead(worker)]
    settled = [(job_id, _take_back(job_id, worker, now_ms, give_up)) for job_id, worker in dead]
    return [(job_id, status) for job_id, status in settled if status is not None]


def _take_back(job_id: str, worker: str, now_ms: int, give_up: Mapping[str, GiveUp]) -> str | None:
    with connection.write(durable=True, name="recover"):
        job = Job.get_or_none((Job.id == job_id) & (Job.status == "running") & (Job.worker == worker))
        if job is None:
            return None  # somebody else has dealt with it
        reason = NO_MORE_ATTEMPTS.format(attempts=job.attempt, detail=f"{worker} was lost")
        changes = _cancelled(now_ms) if job.cancel_requested else _retried(job, now_ms, reason)
        if changes["status"] != "queued":
            if job.kind not in give_up:
                return None
            give_up[job.kind](_claimed(job, job.attempt), str(changes.get("error", "It was cancelled.")))
        Job.update(changes).where(Job.id == job_id).execute()
        detail = f"{worker} died; now {changes['status']}"
        _note(job_id, job.attempt, "worker lost", detail, request_id=job.request_id)
    return str(changes["status"])


def _cancelled(now_ms: int) -> dict[str, object]:
    return {"status": "cancelled", "worker": None, "finished_at_ms": now_ms}


def _retried(job: Job, now_ms: int, reason: str) -> dict[str, object]:
    if job.attempt >= job.max_attempts:
        return {"status": "failed", "worker": None, "finished_at_ms": now_ms, "error": reason}
    back_off_ms = min(BACK_OFF_MS * 2 ** (job.attempt - 1), MAX_BACK_OFF_MS)
    return {"status": "queued", "worker": None, "not_before_ms": now_ms + back_off_ms, "progress": {}}


def _tickets() -> list[Ticket]:
    """Every open job, ten thousand at times: from bare rows, since peewee's take five times as long."""
    columns = [getattr(Job, field) for field in Ticket.__struct_fields__]
    rows = connection.database.execute(Job.select(*columns).where(Job.status.in_(OPEN)))
    return [Ticket(*row) for row in rows.fetchall()]


def _quiet_since_ms() -> int:
    """When a job last left the running state; the newest such event is near the end of the table."""
    ended = JobEvent.select(JobEvent.at_ms).where(JobEvent.event.in_(ENDED)).order_by(JobEvent.id.desc())
    return int(ended.limit(1).scalar() or 0)


def _end(job: Claimed, status: JobStatus, error: str | None = None) -> None:
    _mine(job, status=status, worker=None, error=error, finished_at_ms=clock.now_ms())
    _note(job.id, job.attempt, status, error or "", request_id=job.request_id)


def note_no_room(job_id: str, why: str) -> None:
    """Inside the caller's `write()`: a job failed while the disk was full."""
    job = Job.get_by_id(job_id)
    _note(job_id, job.attempt, NO_ROOM, why, request_id=job.request_id)


def lacked_room() -> Any:
    """The column `no_room` of a query of jobs: whether that was noted."""
    noted = JobEvent.select(JobEvent.id).where((JobEvent.job_id == Job.id) & (JobEvent.event == NO_ROOM))
    return peewee.fn.EXISTS(noted).alias("no_room")


def check_ours(job: Claimed) -> None:
    """Within a `write()` of what a running job brings forth.

    Raises:
        Fenced: The job is no longer ours.
    """
    if not Job.select().where(_is_ours(job)).exists():
        raise Fenced(job.id)


def _mine(job: Claimed, **changes: object) -> None:
    if Job.update(**changes).where(_is_ours(job)).execute() != 1:
        raise Fenced(job.id)


def _is_ours(job: Claimed) -> Any:
    return (Job.id == job.id) & (Job.attempt == job.attempt) & (Job.status == "running")


def _note(job_id: str, attempt: int, event: str, detail: str = "", *, request_id: str | None) -> None:
    """Add to the story of a job; `request_id` is the request that brought this about."""
    JobEvent.insert(
        job_id=job_id, at_ms=clock.now_ms(), attempt=attempt, event=event, detail=detail, request_id=request_id
    ).execute()
