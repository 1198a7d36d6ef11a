"""Reports: the canonical record, its views and its exports, as the reporter wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
from litestar import Response, Router, get
from litestar.params import FromPath, FromQuery
from litestar.response import File

from gateway import schemas
from gateway.context import Context
from gateway.history import past_choice
from gateway.routes.common import V1, Cursor, Http, Injected, Limit, encoded, problems, ready
from shared import clock, errors
from shared.db import benchmarks, tables
from shared.specs import JobStatus

Level = Literal["technical", "simple", "history"]
Format = Literal["pdf", "html", "json", "csv", "measurements"]

MEDIA_TYPES = {
    "pdf": "application/pdf",
    "html": "text/html",
    "json": "application/json",
    "csv": "text/csv",
}
FILES = msgspec.json.Decoder(dict[str, msgspec.Raw])
NO_SCRIPTS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"}
"""A report is a picture: whatever found its way into it, nothing in it runs or loads."""


@get("/", responses=problems())
async def list_reports(
    context: Injected,
    limit: Limit = 50,
    cursor: Cursor = None,
    model_id: FromQuery[str | None] = None,
    benchmark_id: FromQuery[str | None] = None,
) -> Response[bytes]:
    """Reports, newest first."""
    wanted = {"model_id": model_id, "benchmark_id": benchmark_id}
    return ready(await context.store.read(_listed, wanted, limit, cursor))


@get("/history", responses=problems())
async def list_history(
    context: Injected, model_id: FromQuery[str], limit: Limit = 50, cursor: Cursor = None
) -> Response[bytes]:
    """What was chosen for a model over time, newest first, with its key figures and their intervals."""
    return ready(await context.store.read(_history, context, model_id, limit, cursor))


@get("/{report_id:str}", responses=problems(404))
async def get_report(report_id: FromPath[str], context: Injected) -> File:
    """The canonical record: what every view and export is made from."""
    return record(context, await context.store.read(benchmarks.report, report_id))


@get("/{report_id:str}/view", responses=problems(404))
async def view(
    request: Http, report_id: FromPath[str], context: Injected, level: FromQuery[Level] = "technical"
) -> File:
    """The report for reading: `technical` with every figure, or `simple`; JSON, or HTML where `Accept` prefers it.

    `history` is a page alone: charts of what this and the model's earlier reports chose.
    """
    row = await context.store.read(benchmarks.report, report_id)
    if level == "history":
        return _file(context, row, "history.html", "inline")
    preferred = request.accept.best_match(["application/json", "text/html"], default="application/json")
    return _file(context, row, f"{level}.{'html' if preferred == 'text/html' else 'json'}", "inline")


@get("/{report_id:str}/export", responses=problems(404))
async def export(report_id: FromPath[str], context: Injected, format: FromQuery[Format] = "pdf") -> File:
    """The report as a file to keep or pass on; `measurements` is what it was computed from, every call of it."""
    row = await context.store.read(benchmarks.report, report_id)
    if format == "measurements":
        return await _measurements(context, row)
    return _file(context, row, f"report.{format}", "attachment")


def record(context: Context, row: tables.Report) -> File:
    """The canonical record of a report."""
    return _file(context, row, "report.json", "inline")


async def _measurements(context: Context, row: tables.Report) -> File:
    """The measurement set: with it anybody can compute the report again."""
    sha256 = await context.store.read(benchmarks.measurements_of, row.benchmark_id)
    path = context.reports.path(sha256) if sha256 else None
    if path is None or not path.is_file():
        raise errors.NotFound(f"The measurements of report {row.id} are gone; benchmark the model again.")
    return download(path, f"{row.id}-measurements.json", "attachment")


def _file(context: Context, row: tables.Report, name: str, disposition: Literal["inline", "attachment"]) -> File:
    sha256 = row.files.get(name)
    path = context.reports.path(sha256) if sha256 else None
    if path is None or not path.is_file():
        raise errors.NotFound(f"Report {row.id} has no {name}; it has {', '.join(sorted(row.files))}.")
    return download(path, f"{row.id}-{name}", disposition)


def why_none(job: Any, what: str, state: tuple[JobStatus, str | None] | None) -> str:
    """What a client that asks for the report of a job too early, or in vain, is told.

    Args:
        job: Its row, with `id`, `status` and `error`.
        what: `benchmark` or `training`, as in its path.
        state: Status and error of the report, where one follows.
    """
    status, error = state or (job.status, job.error)
    doing = "writing it" if state else f"the {what}"
    verb = {"failed": "failed", "cancelled": "was cancelled"}.get(status, f"is {status}")
    yet = " yet" if status in ("queued", "running") else ""
    again = f" POST {V1}/{what}/{job.id}/report has it written." if job.status == "completed" and not yet else ""
    return f"{what.capitalize()} {job.id} has no report{yet}: {doing} {verb}. {error or ''}".rstrip() + again


def download(path: Path, name: str, disposition: Literal["inline", "attachment"]) -> File:
    """A file of a report, with which no browser runs anything."""
    return File(
        path,
        filename=name,
        media_type=MEDIA_TYPES[name.rpartition(".")[2]],
        content_disposition_type=disposition,
        headers=NO_SCRIPTS,
    )


def _listed(wanted: dict[str, Any], limit: int, cursor: str | None) -> bytes:
    return encoded(benchmarks.reports(**wanted, limit=limit, cursor=cursor), _report)


def _history(context: Context, model_id: str, limit: int, cursor: str | None) -> bytes:
    page = benchmarks.reports(model_id=model_id, limit=limit, cursor=cursor)
    return encoded(page, lambda row: past_choice(row, context.reports))


def _report(row: Any) -> schemas.ReportRef:
    files = FILES.decode(row.files)
    return schemas.ReportRef(
        id=row.id,
        benchmark_id=row.benchmark_id,
        model_id=row.model_id,
        selected_engine=row.selected_engine,
        content_sha256=row.content_sha256,
        formats=[kind for kind in MEDIA_TYPES if f"report.{kind}" in files],
        created_at=clock.iso(row.created_at_ms),
    )


router = Router("/reports", route_handlers=[list_reports, list_history, get_report, view, export], tags=["reports"])
