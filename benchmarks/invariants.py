"""What must be true of a platform's database and files whatever has happened to its processes."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from shared import config
from shared.artifacts import ArtifactStore
from shared.db import connection
from shared.db.jobs import LOG
from shared.db.tables import (
    Artifact,
    Benchmark,
    BenchmarkResult,
    Dataset,
    Deployment,
    EngineFile,
    Job,
    JobEvent,
    Model,
    Report,
    Training,
)

TERMINAL = ("completed", "failed", "cancelled")
STEPS = {
    "queued": ("", "queued"),
    "started": ("queued", "running"),
    "cancel requested": ("running", "running"),
    "put back": ("running", "queued"),
    "put off": ("running", "queued"),
    "completed": ("running", "completed"),
    "failed": ("running", "failed"),
    "no room": ("failed", "failed"),
}
"""What each event does to a job: from which state to which. Two more depend on the job: `cancelled`, `worker lost`."""


def violations(settings: config.Settings, accepted: Iterable[str] = ()) -> list[str]:
    """Everything that is wrong, in words, once all jobs have ended; the database is open.

    Args:
        settings: Where the files are.
        accepted: Ids of the models and benchmarks that calls were answered with.
    """
    with connection.read():
        return [*_database(), *_exist(accepted), *stories(), *_effects(), *_files(settings)]


def _database() -> Iterator[str]:
    for pragma, good in (("integrity_check", [("ok",)]), ("foreign_key_check", [])):
        rows = connection.database.execute_sql(f"PRAGMA {pragma}").fetchall()
        if rows != good:
            yield f"{pragma}: {rows[:3]}"


def _exist(accepted: Iterable[str]) -> Iterator[str]:
    there = {row.id for table in (Job, Model) for row in table.select(table.id)}
    yield from (f"{one} was accepted and is lost" for one in set(accepted) - there)


def stories() -> Iterator[str]:
    """Jobs that did not end, or not by the allowed ways, one attempt at a time; the database is open."""
    events: dict[str, list[JobEvent]] = {}
    for event in JobEvent.select().where(JobEvent.event != LOG).order_by(JobEvent.id):
        events.setdefault(event.job_id, []).append(event)
    for job in Job.select():
        if job.status not in TERMINAL:
            yield f"{job.id} ({job.kind}) is still {job.status}"
        if job.attempt > job.max_attempts:
            yield f"{job.id} had {job.attempt} of {job.max_attempts} attempts"
        yield from (f"{job.id} ({job.kind}): {wrong}" for wrong in _story(job, events.get(job.id, [])))


def _story(job: Job, events: list[JobEvent]) -> Iterator[str]:
    """Walk what happened: along the graph only, one attempt at a time, and to where the row is now."""
    state, attempt = "", 0
    for event in events:
        before, after = _step(event, state)
        if state != before:
            yield f"{event.event!r} happened to a job that was {state or 'not there'}"
        attempt += {"started": 1, "put back": -1}.get(event.event, 0)
        if event.event == "started" and event.attempt != attempt:
            yield f"attempt {event.attempt} started where {attempt} was next"
        state = after
    if (state, attempt) != (job.status, job.attempt):
        yield f"its story ends as {state} after {attempt} attempts, its row says {job.status} after {job.attempt}"


def _step(event: JobEvent, state: str) -> tuple[str, str]:
    if event.event == "cancelled":
        return ("queued" if state == "queued" else "running"), "cancelled"
    if event.event == "worker lost":
        return "running", event.detail.rpartition("now ")[2]
    return STEPS[event.event]


def _effects() -> Iterator[str]:
    """Results exist exactly once for what completed, and not at all for what did not."""
    jobs = list(Job.select())
    follow_ups: Counter[str | None] = Counter(job.parent_id for job in jobs if job.kind == "report")
    figures = Counter(
        (row.benchmark_id, row.engine, row.precision, row.batch_size, row.threads, row.instances)
        for row in BenchmarkResult.select()
    )
    measured = {key[0] for key in figures}
    reports: Counter[str | None] = Counter(row.benchmark_id for row in Report.select())
    yield from (f"{key[0]} has the figures of {key[1:]} {count} times" for key, count in figures.items() if count > 1)
    for job in jobs:
        done = job.status == "completed"
        if job.kind == "benchmark":
            kept = Benchmark.get_by_id(job.id).measurements_sha256 is not None
            if (kept, job.id in measured, follow_ups[job.id]) != (done, done, int(done)):
                yield f"{job.id} is {job.status} with {follow_ups[job.id]} report jobs, measurements kept: {kept}"
        elif job.kind == "report" and reports[job.parent_id] != int(done):
            yield f"{job.id} is {job.status}, and its benchmark has {reports[job.parent_id]} reports"
    checks = {job.spec["model_id"]: job.status for job in jobs if job.kind == "convert"}
    trained = {row.result_model_id: row.id for row in Training.select() if row.result_model_id}
    for model in Model.select():
        made = "completed" if model.id in trained else checks.get(model.id)
        if model.status != ("ready" if made == "completed" else "failed"):
            yield f"{model.id} is {model.status}, its check {made or 'is not there'}"
    for job in jobs:
        if job.kind == "train" and (job.id in trained.values()) != (job.status == "completed"):
            yield f"{job.id} is {job.status}, and it left {'a' if job.id in trained.values() else 'no'} model"
    yield from (
        f"{row.id} says it was trained by nobody" for row in Model.select() if row.lineage and row.id not in trained
    )
    outcomes: dict[str | None, str] = {job.id: job.status for job in jobs if job.kind == "dataset"}
    for dataset in Dataset.select().where(Dataset.deleted_at_ms.is_null()):
        if dataset.status != ("ready" if outcomes.get(dataset.job_id) == "completed" else "failed"):
            yield f"{dataset.id} is {dataset.status}, its check {outcomes.get(dataset.job_id, 'is not there')}"
    activations: dict[str | None, str] = {job.id: job.status for job in jobs if job.kind == "activate"}
    for row in Deployment.select().where(Deployment.status != "retired"):
        if (row.status in ("active", "stale")) != (activations.get(row.job_id) == "completed"):
            yield f"{row.id} is {row.status}, its activation {activations.get(row.job_id, 'is not there')}"


def _files(settings: config.Settings) -> Iterator[str]:
    roots = {"models": settings.models, "datasets": settings.datasets, "reports": settings.reports}
    rows = list(Artifact.select())
    for row in rows:
        path = ArtifactStore(roots[row.store]).path(row.sha256)
        if not path.is_file():
            yield f"the file {row.store}/{row.sha256} has a row and is gone"
        elif _sha256(path) != row.sha256:
            yield f"the file {row.store}/{row.sha256} has other bytes than its name says"
    kept = {row.sha256 for row in rows}
    for sha256, owner in _references():
        if sha256 not in kept:
            yield f"{owner} refers to the file {sha256}, which has no row"


def _references() -> Iterator[tuple[str, str]]:
    for model in Model.select().where(Model.deleted_at_ms.is_null()):
        yield from (
            (sha256, model.id) for sha256 in (model.file_sha256, model.onnx_sha256, model.weights_sha256) if sha256
        )
    for dataset in Dataset.select().where(Dataset.deleted_at_ms.is_null()):
        files = (dataset.file_sha256, dataset.index_sha256, dataset.pack_sha256, dataset.sheet_sha256)
        yield from ((sha256, dataset.id) for sha256 in files if sha256)
    yield from ((file.sha256, file.model_id) for file in EngineFile.select())
    for row in Deployment.select().where(Deployment.status != "retired"):
        yield from ((sha256, row.id) for sha256 in (row.file_sha256, row.golden_sha256) if sha256)
    measured = ((benchmark.measurements_sha256, benchmark.id) for benchmark in Benchmark.select())
    yield from ((sha256, benchmark_id) for sha256, benchmark_id in measured if sha256)
    for report in Report.select():
        yield from ((sha256, report.id) for sha256 in report.files.values())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def orphans(settings: config.Settings) -> int:
    """Files without a row: what a process that died between rename and commit left; they cost space, nothing else."""
    kept = {row.sha256 for row in Artifact.select(Artifact.sha256)}
    stored = [path for root in (settings.models, settings.datasets, settings.reports) for path in root.glob("??/*")]
    return sum(bool(re.fullmatch(r"[0-9a-f]{64}", path.name)) and path.name not in kept for path in stored)
