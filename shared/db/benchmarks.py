"""Benchmarks and reports as the API lists them: a job, its model, and the report once there is one."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import peewee

from shared import clock, errors, ids
from shared.db import connection, datasets, jobs, pages, registry
from shared.db.tables import Benchmark, BenchmarkResult, Job, Model, NoiseFloorRow, Report
from shared.specs import BenchmarkSpec, JobStatus, NoiseFloor, ReportSpec, Task
from shared.trace import Origin

_ROWS = (
    Job.select(*jobs.LISTED, Job.spec, Benchmark.model_id, Report.id.alias("report_id"))
    .join(Benchmark, on=(Benchmark.id == Job.id))
    .join(Report, peewee.JOIN.LEFT_OUTER, on=(Report.benchmark_id == Job.id))
)
_BENCHMARKS = pages.List(_ROWS, Job.id, "job", model_id=Benchmark.model_id, status=Job.status)
_REPORTS = pages.List(Report.select(), Report.id, "rep", model_id=Report.model_id, benchmark_id=Report.benchmark_id)


def order(spec: BenchmarkSpec, user_id: str, limit: int, origin: Origin | None = None) -> str:
    """Insert the benchmark and its job inside the caller's `write()`; returns their id.

    Raises:
        errors.NotFound: No such model, or no such dataset.
        errors.Conflict: One of them is not ready, or they do not fit each other.
        errors.QueueFull: `limit` jobs are waiting already.
    """
    model = registry.model(spec.model_id)
    description = registry.described(model)
    if spec.scales and description.preprocessing is None:
        raise errors.Conflict("`jpeg_scales` are of images, and this model takes tensors: order without them.")
    if spec.dataset_id is not None:
        datasets.for_model(spec.dataset_id, cast(Task, model.task_type), description)
    benchmark_id = jobs.insert(
        "benchmark",
        spec,
        user_id=user_id,
        job_id=ids.new_id("job"),
        isolation=spec.isolation,
        priority=spec.priority,
        origin=origin,
        limit=limit,
    )
    Benchmark.insert(id=benchmark_id, model_id=spec.model_id, user_id=user_id, created_at_ms=clock.now_ms()).execute()
    return benchmark_id


def find(benchmark_id: str) -> Any:
    """The job row with `model_id` and `report_id` beside it, as `pages.stored`.

    Raises:
        errors.NotFound: No such benchmark.
    """
    rows = pages.stored(_ROWS.where(Job.id == benchmark_id))
    if not rows:
        raise errors.NotFound(f"There is no benchmark {benchmark_id[:80]!r}; GET /api/v1/benchmark lists them.")
    return rows[0]


def listing(
    *, model_id: str | None = None, status: JobStatus | None = None, limit: int, cursor: str | None
) -> pages.Page[Any]:
    """Rows like those of `find`, newest first."""
    return _BENCHMARKS.page(limit, cursor, model_id=model_id, status=status)


def report_state(row: Any) -> tuple[JobStatus, str | None] | None:
    """Status and error of the report that follows a benchmark, a row of `find`; None while nothing follows yet."""
    if row.report_id is not None:
        return "completed", None
    if row.status != "completed":
        return None
    return jobs.report_of(row.id)


def report_again(row: Any, user_id: str, limit: int, origin: Origin) -> None:
    """Order the report of a benchmark (a row of `find`) once more, inside the caller's `write()`.

    Raises:
        errors.Conflict: There is nothing to report, or the report is there, or on its way.
        errors.QueueFull: `limit` jobs are waiting already.
    """
    spec = ReportSpec(benchmark_id=row.id)
    jobs.report_again(row, report_state(row), spec, user_id=user_id, origin=origin, limit=limit)


def results(benchmark_ids: list[str]) -> list[Any]:
    """The figures of every candidate of these benchmarks, with the benchmark's model, state and age; newest first.

    A benchmark without figures yet is one row whose candidate columns are None.
    """
    query = (
        Job.select(
            Job.id,
            Benchmark.model_id,
            Model.name.alias("model_name"),
            Job.status.alias("job_status"),
            Job.created_at_ms,
            BenchmarkResult,
        )
        .join(Benchmark, on=(Benchmark.id == Job.id))
        .join(Model, on=(Model.id == Benchmark.model_id))
        .join(BenchmarkResult, peewee.JOIN.LEFT_OUTER, on=(BenchmarkResult.benchmark_id == Job.id))
        .where(Job.id.in_(benchmark_ids))
        .order_by(Job.id.desc(), BenchmarkResult.id)
    )
    with connection.read():
        return list(query.dicts())


def noise_floor(fingerprint: str) -> NoiseFloor | None:
    """The last one measured on a machine with this fingerprint; None when nobody measured it."""
    with connection.read():
        row = NoiseFloorRow.get_or_none(NoiseFloorRow.fingerprint == fingerprint)
    return None if row is None else msgspec.convert(row.__data__, NoiseFloor)


def remember_noise_floor(noise: NoiseFloor) -> None:
    """Keep it for later benchmarks of its fingerprint, inside the caller's `write()`."""
    NoiseFloorRow.insert(**msgspec.structs.asdict(noise)).on_conflict_replace().execute()


def measurements_of(benchmark_id: str) -> str | None:
    """The SHA-256 of a benchmark's measurement set; None before it has ended, and where it is gone."""
    with connection.read():
        row = Benchmark.get_or_none(Benchmark.id == benchmark_id)
    return None if row is None else row.measurements_sha256


def report(report_id: str) -> Report:
    """The row of a report.

    Raises:
        errors.NotFound: No such report.
    """
    with connection.read():
        row = Report.get_or_none(Report.id == report_id)
    if row is None:
        raise errors.NotFound(f"There is no report {report_id[:80]!r}; GET /api/v1/reports lists them.")
    return row


def reports(
    *, model_id: str | None = None, benchmark_id: str | None = None, limit: int, cursor: str | None
) -> pages.Page[Any]:
    """Reports as `pages.stored`, newest first."""
    return _REPORTS.page(limit, cursor, model_id=model_id, benchmark_id=benchmark_id)
