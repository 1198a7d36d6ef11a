"""Genetic searches as rows: the journal, the jobs of their trials, and what they ended with.

What a trial and its result are made of is described in `shared.trials`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec
import peewee

from shared import clock, errors
from shared.db import connection, jobs, pages, trainings
from shared.db.tables import Job, Search, SearchTrial, Training
from shared.genes import IntGene, SearchSpec, TrainingOrder, extremes, genes_of, image_sizes
from shared.specs import JobKind, JobStatus, MeasureSpec, ReportSpec, TrainingResult, TrainingSpec, TrialSpec
from shared.trace import Origin
from shared.trials import Latencies, Order, Result, Told, Trial

TAKEN = ("result_model_id", "hyperparams", "final_accuracy", "final_loss", "best_epoch", "latency_ms", "result")
"""What of its last training is a search's as well."""

_RESULT = msgspec.json.Decoder(TrainingResult)


class Asked(NamedTuple):
    """A trial as it was asked for, and what it was told, both as JSON."""

    number: int
    job_id: str
    trial: str
    result: str | None


class Step(NamedTuple):
    """A job that a search has one of: what measures latencies for it, or the training that ends it."""

    id: str
    status: JobStatus
    error: str | None
    stage: str | None
    """What it does, as it says itself."""
    no_room: bool
    """Whether it failed while the disk was full."""


class Ended(NamedTuple):
    """The job of a trial that has ended, and has not been told to its search."""

    number: int
    job_id: str
    status: JobStatus
    error: str | None
    result: TrainingResult | None
    no_room: bool
    """Whether it failed while the disk was full."""


def order(spec: TrainingOrder, ga: SearchSpec, user_id: str, limit: int, origin: Origin | None = None) -> str:
    """Insert the search of an order and its job inside the caller's `write()`; returns their id. The order was checked.

    Raises:
        errors.QueueFull: `limit` jobs are waiting already.
        ValueError: A gene has values that no training takes.
    """
    opening = Order(spec=ga, genes=genes_of(ga), epochs=spec.max_epochs, seed=spec.seed)
    search_id = jobs.insert("search", spec, user_id=user_id, priority=spec.priority, origin=origin, limit=limit)
    trainings.add(search_id, spec, user_id, ga=ga)
    Search.insert(id=search_id, opening=opening).execute()
    return search_id


def check(spec: TrainingOrder, ga: SearchSpec) -> None:
    """The model and the dataset of an order, as `trainings.check`, with every image size that may be chosen.

    Raises:
        errors.AppError: As `trainings.check`, of the most stages that may be frozen too.
        errors.InvalidInput: A detector's image sizes go from one to another by a pixel.
    """
    model, _ = trainings.check(spec.without_search())
    trainings.check_sizes(model, image_sizes(ga.search_space))
    if (frozen := ga.search_space.get("frozen_stages")) is not None:
        trainings.check_stages(model, max(int(count) for count in extremes(frozen)))
    gene = ga.search_space.get("image_size")
    if model.task_type == "detection" and isinstance(gene, IntGene) and gene.low < gene.high:
        raise errors.InvalidInput(
            f"A detector takes an image_size that is a multiple of {trainings.DETECTOR_STEP}; name them as a choice, "
            'such as {"type": "choice", "choices": [320, 480, 640]}.'
        )


def measure(search: jobs.Claimed, spec: MeasureSpec) -> str:
    """Order the latencies of a search, for good; returns the id of the job, which has the machine to itself.

    Raises:
        jobs.Fenced: The search has ended.
    """
    with connection.write(durable=True, name="search"):
        jobs.check_ours(search)
        job_id = jobs.insert(
            "measure",
            spec,
            user_id=search.created_by,
            priority=search.priority,
            isolation="exclusive",
            parent=search,
        )
        Search.update(measurement_id=job_id).where(Search.id == search.id).execute()
    return job_id


def keep_latencies(search_id: str, found: Latencies) -> None:
    """Write what was measured, inside the `write()` that completes its job."""
    Search.update(latencies=found).where(Search.id == search_id).execute()


def hand_out(
    search: jobs.Claimed, number: int, trial: msgspec.Struct, spec: TrialSpec, latency_ms: float | None = None
) -> str:
    """Note a trial and order its training, for good; returns the id of its job.

    Raises:
        jobs.Fenced: The search has ended.
    """
    with connection.write(durable=True, name="search"):
        jobs.check_ours(search)
        job_id = _follow_up("trial", spec, spec, search, latency_ms)
        SearchTrial.insert(search_id=search.id, number=number, job_id=job_id, trial=trial).execute()
    return job_id


def hand_out_again(search: jobs.Claimed, number: int, spec: TrialSpec, latency_ms: float | None = None) -> str:
    """Order the training of a trial once more, for good; returns the id of the job that is now the trial's.

    Raises:
        jobs.Fenced: The search has ended.
    """
    with connection.write(durable=True, name="search"):
        jobs.check_ours(search)
        job_id = _follow_up("trial", spec, spec, search, latency_ms)
        mine = (SearchTrial.search_id == search.id) & (SearchTrial.number == number)
        SearchTrial.update(job_id=job_id).where(mine).execute()
    return job_id


def note_no_room(search: jobs.Claimed, job_id: str, why: str) -> None:
    """Note, for good, that a job of a search failed while the disk was full: it says nothing of what was tried.

    Raises:
        jobs.Fenced: The search has ended.
    """
    with connection.write(durable=True, name="search"):
        jobs.check_ours(search)
        jobs.note_no_room(job_id, why)


def tell(search: jobs.Claimed, number: int, result: msgspec.Struct, outcome: msgspec.Struct) -> None:
    """Note what came of a trial, and what the search has found by now, for good.

    Raises:
        jobs.Fenced: The search has ended.
    """
    with connection.write(durable=True, name="search"):
        jobs.check_ours(search)
        told = (SearchTrial.search_id == search.id) & (SearchTrial.number == number)
        SearchTrial.update(result=result).where(told).execute()
        Search.update(outcome=outcome).where(Search.id == search.id).execute()


def train_best(
    search: jobs.Claimed, spec: TrainingSpec, outcome: msgspec.Struct, latency_ms: float | None = None
) -> str:
    """Order the training whose model is the search's, for good; returns its id.

    Raises:
        jobs.Fenced: The search has ended.
    """
    with connection.write(durable=True, name="search"):
        jobs.check_ours(search)
        job_id = _follow_up("train", spec, spec, search, latency_ms)
        Search.update(outcome=outcome, final_id=job_id).where(Search.id == search.id).execute()
    return job_id


def _follow_up(
    kind: JobKind, spec: msgspec.Struct, training: TrainingSpec, search: jobs.Claimed, latency_ms: float | None
) -> str:
    job_id = jobs.insert(kind, spec, user_id=search.created_by, priority=search.priority, parent=search)
    trainings.add(job_id, training, search.created_by, search_id=search.id, latency_ms=latency_ms)
    return job_id


def journal(search_id: str) -> tuple[str, list[Asked]]:
    """A search's first line, and its trials by number."""
    (search,) = pages.stored(Search.select(Search.opening).where(Search.id == search_id))
    columns = (SearchTrial.number, SearchTrial.job_id, SearchTrial.trial, SearchTrial.result)
    asked = SearchTrial.select(*columns).where(SearchTrial.search_id == search_id).order_by(SearchTrial.number)
    return search.opening, [Asked(*row) for row in pages.stored(asked)]


def told(asked: Iterable[Asked]) -> list[Told]:
    """The trials whose result is known, with it."""
    return [
        Told(trial=msgspec.json.decode(each.trial, type=Trial), result=msgspec.json.decode(each.result, type=Result))
        for each in asked
        if each.result is not None
    ]


def ended(search_id: str) -> list[Ended]:
    """The trials to be told, by number."""
    query = (
        SearchTrial.select(SearchTrial.number, Job.id, Job.status, Job.error, Training.result, jobs.lacked_room())
        .join(Job, on=(Job.id == SearchTrial.job_id))
        .join(Training, on=(Training.id == Job.id))
        .where((SearchTrial.search_id == search_id) & SearchTrial.result.is_null() & Job.status.not_in(jobs.OPEN))
        .order_by(SearchTrial.number)
    )
    return [
        Ended(row.number, row.id, row.status, row.error, row.result and _RESULT.decode(row.result), row.no_room)
        for row in pages.stored(query)
    ]


def seconds(search_id: str) -> float:
    """How long the trials of a search that have ended ran, all together."""
    spent = peewee.fn.SUM(Job.finished_at_ms - Job.started_at_ms)
    with connection.read():
        query = Job.select(spent).join(SearchTrial, on=(SearchTrial.job_id == Job.id))
        done = (SearchTrial.search_id == search_id) & Job.finished_at_ms.is_null(False)
        return (query.where(done).scalar() or 0) / 1000


def waits_for(search_id: str) -> str | None:
    """The job (`benchmark job_1`) that keeps everything a search has ordered from starting; None where nothing does."""
    waits = jobs.open_waits(clock.now_ms())
    with connection.read():
        mine = [job.id for job in Job.select(Job.id).where(_open_of(search_id)).order_by(Job.ordered_at_ms, Job.id)]
        ahead = waits.get(mine[0]) if mine and all(job_id in waits for job_id in mine) else None
        job = None if ahead is None else Job.get_or_none(Job.id == ahead)
    return None if job is None else f"{job.kind} {job.id}"


def _open_of(search_id: str) -> Any:
    return (Job.parent_id == search_id) & Job.status.in_(jobs.OPEN)


def last(search_id: str) -> Step | None:
    """The last training of a search; None before there is one."""
    return _step(search_id, Search.final_id)


def measurement(search_id: str) -> Step | None:
    """What measures the latencies of a search; None before it is ordered."""
    return _step(search_id, Search.measurement_id)


def _step(search_id: str, column: Any) -> Step | None:
    stage = peewee.fn.json_extract(Job.progress, "$.stage").alias("stage")
    columns = (Job.id, Job.status, Job.error, stage, jobs.lacked_room())
    query = Job.select(*columns).join(Search, on=(column == Job.id))
    return next((Step(*row) for row in pages.stored(query.where(Search.id == search_id))), None)


def latencies(row: Any) -> Latencies | None:
    """What a search measured, from its row as `found` gives it; None where it has not."""
    return None if row.latencies is None else msgspec.json.decode(row.latencies, type=Latencies)


def complete(search: jobs.Claimed, training_id: str) -> None:
    """End a search: what its last training made is its result.

    Raises:
        jobs.Fenced: It has ended.
    """

    def commit() -> None:
        best = Training.get_by_id(training_id)
        taken = {name: getattr(best, name) for name in TAKEN}
        ran_ms = Job.select(Job.finished_at_ms - Job.started_at_ms).where(Job.id == search.id).scalar()
        duration_s = ran_ms / 1000
        Training.update(duration_s=duration_s, **taken).where(Training.id == search.id).execute()
        jobs.insert("report", ReportSpec(training_id=search.id), user_id=search.created_by, parent=search)

    jobs.finish(search, commit)


def cancel(search: jobs.Claimed) -> list[str]:
    """End a search as cancelled, and have the jobs end that it ordered; returns their ids.

    Raises:
        jobs.Fenced: It has ended.
    """
    stopped: list[str] = []

    def commit() -> None:
        stopped.extend(stop_all(search.id))

    jobs.cancelled(search, commit)
    return stopped


def stop_all(search_id: str) -> list[str]:
    """Inside the caller's `write()`: have what a search ordered end; returns the ids of its jobs."""
    found = [job.id for job in Job.select(Job.id).where(_open_of(search_id))]
    for job_id in found:
        jobs.request_cancel(job_id)
    return found


def found(search_id: str) -> Any:
    """The row of a search, as `pages.stored`; None for a training that is none."""
    rows = pages.stored(Search.select().where(Search.id == search_id))
    return rows[0] if rows else None
