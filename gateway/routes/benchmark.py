"""Benchmarks: order, follow, cancel, and their history as a table."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec
from litestar import Response, Router, get, post
from litestar.params import FromPath, FromQuery, JSONBody
from litestar.response import File

from gateway import orders, schemas
from gateway.context import Context
from gateway.routes.common import (
    V1,
    Cursor,
    Http,
    IdempotencyKey,
    Injected,
    Limit,
    account_of,
    cancelled,
    encoded,
    iso,
    key_of,
    once,
    origin_of,
    problems,
    raw,
    ready,
    respond,
    table,
)
from gateway.routes.reports import record, why_none
from shared import clock, config, errors
from shared.db import benchmarks, connection, idempotency
from shared.db.pages import Page
from shared.machine import system_info
from shared.specs import BenchmarkSpec, JobStatus

FIGURES = (
    "latency_mean_ms",
    "latency_p50_ms",
    "latency_p95_ms",
    "latency_p99_ms",
    "throughput_fps",
    "cpu_util_pct",
    "gpu_util_pct",
    "memory_mb",
    "vram_usage_mb",
    "power_draw_w",
    "accuracy",
    "accuracy_drop",
    "load_ms",
    "artifact_mb",
)
CANDIDATE = ("engine", "precision", "batch_size", "threads", "instances", "status", "reason")
HEADING = ("benchmark_id", "created_at", "benchmark_status", "model_id", "model_name", *CANDIDATE, *FIGURES)


@post("/", status_code=202, responses=problems(404, 409, 415, 429))
async def order(
    request: Http, data: JSONBody[BenchmarkSpec], context: Injected, idempotency_key: IdempotencyKey = None
) -> Response[bytes]:
    """Benchmark a model: every engine this machine has, every batch size asked for, then a decision and a report."""
    orders.check(data, config.cores())
    body_sha256 = hashlib.sha256(await request.body()).hexdigest()
    key = key_of(request, idempotency_key)
    answer = await context.store.write(_order, context, data, request, key, body_sha256)
    context.broker.doorbell("accelerator")
    return respond(answer)


@get("/", responses=problems())
async def list_benchmarks(
    *,
    context: Injected,
    limit: Limit = 50,
    cursor: Cursor = None,
    model_id: FromQuery[str | None] = None,
    status: FromQuery[JobStatus | None] = None,
    format: FromQuery[Literal["json", "csv"]] = "json",
) -> Response[Any]:
    """Benchmarks, newest first; `?format=csv` gives the figures of all their candidates instead, one a line."""
    wanted = {"model_id": model_id, "status": status}
    if format == "json":
        return ready(await context.store.read(_listed, wanted, limit, cursor))
    return await _table(context, await context.store.read(_page, wanted, limit, cursor))


@get("/{benchmark_id:str}", responses=problems(404))
async def get_benchmark(benchmark_id: FromPath[str], context: Injected) -> schemas.BenchmarkJob:
    """A benchmark as it stands; `report_id` is set once its report is written, `report` says how that is going."""
    return await context.store.read(_shown, benchmark_id)


@get("/{benchmark_id:str}/report", responses=problems(404))
async def get_report(benchmark_id: FromPath[str], context: Injected) -> File:
    """The report of a benchmark: its canonical record."""
    row = await context.store.read(benchmarks.find, benchmark_id)
    if row.report_id is None:
        raise errors.NotFound(await context.store.read(_why_no_report, row))
    return record(context, await context.store.read(benchmarks.report, row.report_id))


@post("/{benchmark_id:str}/report", status_code=202, responses=problems(404, 409, 429))
async def write_report(request: Http, benchmark_id: FromPath[str], context: Injected) -> schemas.BenchmarkJob:
    """Have a report written that failed: from what was measured then, nothing is measured again."""
    shown = await context.store.write(_write_report, context, benchmark_id, request)
    context.broker.doorbell("report")
    return shown


@post("/{benchmark_id:str}/cancel", status_code=202, responses=problems(404, 409))
async def cancel(request: Http, benchmark_id: FromPath[str], context: Injected) -> schemas.BenchmarkJob:
    """Cancel a benchmark: at once while it waits, within seconds while it runs. Engineers cancel their own."""
    row = await cancelled(request, context, benchmark_id, benchmarks.find, "benchmark")
    return await context.store.read(_benchmark, row)


def _order(
    context: Context, spec: BenchmarkSpec, request: Http, key: idempotency.Key | None, body_sha256: str
) -> idempotency.Answer:
    """Job, benchmark and remembered answer in one transaction."""

    def place() -> tuple[schemas.BenchmarkJob, str]:
        limit = context.settings.max_queued_jobs
        benchmark_id = benchmarks.order(spec, account_of(request).id, limit, origin_of(request))
        return _shown(benchmark_id), f"{V1}/benchmark/{benchmark_id}"

    return once(key, body_sha256, place)


def _write_report(context: Context, benchmark_id: str, request: Http) -> schemas.BenchmarkJob:
    limit = context.settings.max_queued_jobs
    with connection.write(durable=True, name="accept"):
        benchmarks.report_again(benchmarks.find(benchmark_id), account_of(request).id, limit, origin_of(request))
        return _shown(benchmark_id)


async def _table(context: Context, page: Page[Any]) -> Response[Any]:
    rows = await context.store.read(benchmarks.results, [row.id for row in page.rows])
    return table("benchmarks", HEADING, map(_line, rows), page.next_cursor)


def _line(row: dict[str, Any]) -> list[Any]:
    """A candidate under `HEADING`."""
    head = (row["id"], clock.iso(row["created_at_ms"]), row["job_status"], row["model_id"], row["model_name"])
    return [*head, *(row[name] for name in (*CANDIDATE, *FIGURES))]


def _why_no_report(row: Any) -> str:
    return why_none(row, "benchmark", benchmarks.report_state(row))


def _page(wanted: dict[str, Any], limit: int, cursor: str | None) -> Page[Any]:
    return benchmarks.listing(**wanted, limit=limit, cursor=cursor)


def _listed(wanted: dict[str, Any], limit: int, cursor: str | None) -> bytes:
    return encoded(_page(wanted, limit, cursor), _benchmark)


def _shown(benchmark_id: str) -> schemas.BenchmarkJob:
    row = benchmarks.find(benchmark_id)
    shown = _benchmark(row)
    if row.status != "queued":
        return shown  # its report says what the choice went by
    return msgspec.structs.replace(shown, noise_floor=benchmarks.noise_floor(system_info().fingerprint))


def _benchmark(row: Any) -> schemas.BenchmarkJob:
    """As the API shows it; reads the database for the few whose report is not there yet."""
    state = benchmarks.report_state(row)
    report = None if state is None else schemas.ReportState(status=state[0], error=state[1])
    return schemas.BenchmarkJob(
        id=row.id,
        status=row.status,
        progress=raw(row.progress),
        model_id=row.model_id,
        config=raw(row.spec),
        report_id=row.report_id,
        report=report,
        error=row.error,
        cancel_requested=bool(row.cancel_requested),
        request_id=row.request_id,
        created_by=row.created_by,
        created_at=clock.iso(row.created_at_ms),
        started_at=iso(row.started_at_ms),
        finished_at=iso(row.finished_at_ms),
    )


router = Router(
    "/benchmark",
    route_handlers=[order, list_benchmarks, get_benchmark, get_report, write_report, cancel],
    tags=["benchmark"],
)
