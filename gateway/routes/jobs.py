"""Jobs: the state of everything that runs in the background."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from litestar import Response, Router, get
from litestar.params import FromPath, FromQuery

from gateway import schemas
from gateway.context import Context
from gateway.routes.common import Cursor, Http, Injected, Limit, account_of, encoded, iso, problems, raw, ready
from shared import clock, errors
from shared.db import jobs
from shared.specs import JobKind, JobStatus


@get("/", responses=problems())
async def list_jobs(
    context: Injected,
    limit: Limit = 50,
    cursor: Cursor = None,
    kind: FromQuery[JobKind | None] = None,
    status: FromQuery[JobStatus | None] = None,
) -> Response[bytes]:
    """Jobs of all kinds, newest first."""
    page = await context.store.read(jobs.listing, kind=kind, status=status, limit=limit, cursor=cursor)
    waits = await _waits(context, page.rows)
    return ready(encoded(page, lambda row: _job(row, waits)))


@get("/{job_id:str}", responses=problems(404))
async def get_job(job_id: FromPath[str], context: Injected) -> schemas.Job:
    """A job and its story."""
    row = await context.store.read(jobs.find, job_id)
    waits = await _waits(context, [row])
    return msgspec.structs.replace(_job(row, waits), events=await _events(context, job_id))


@get("/{job_id:str}/log", responses=problems(404))
async def get_log(request: Http, job_id: FromPath[str], context: Injected) -> schemas.JobLog:
    """A job's story and the last lines its process wrote, attempt by attempt; your own jobs, administrators any."""
    row, account = await context.store.read(jobs.find, job_id), account_of(request)
    if account.role != "admin" and row.created_by != account.id:
        raise errors.Forbidden("This job is somebody else's; its owner or an administrator may read its log.")
    attempts = [
        schemas.AttemptLog(time=clock.iso(item.at_ms), attempt=item.attempt, lines=item.detail.split("\n"))
        for item in await context.store.read(jobs.logs, job_id)
    ]
    return schemas.JobLog(
        id=job_id, request_id=row.request_id, events=await _events(context, job_id), attempts=attempts
    )


async def _events(context: Context, job_id: str) -> list[schemas.JobEvent]:
    return [
        schemas.JobEvent(
            time=clock.iso(item.at_ms),
            attempt=item.attempt,
            event=item.event,
            detail=item.detail,
            request_id=item.request_id,
        )
        for item in await context.store.read(jobs.history, job_id)
    ]


async def _waits(context: Context, rows: Sequence[Any]) -> dict[str, str]:
    """What the queued ones among these jobs wait for."""
    if all(row.status != "queued" for row in rows):
        return {}
    return await context.caches.waits()


def _job(row: Any, waits: Mapping[str, str]) -> schemas.Job:
    """As the API shows it, from a stored row."""
    return schemas.Job(
        id=row.id,
        kind=row.kind,
        lane=row.lane,
        status=row.status,
        priority=row.priority,
        attempt=row.attempt,
        max_attempts=row.max_attempts,
        progress=raw(row.progress),
        error=row.error,
        cancel_requested=bool(row.cancel_requested),
        waiting_for=waits.get(row.id) if row.status == "queued" else None,
        parent_id=row.parent_id,
        request_id=row.request_id,
        created_by=row.created_by,
        created_at=clock.iso(row.created_at_ms),
        started_at=iso(row.started_at_ms),
        finished_at=iso(row.finished_at_ms),
    )


router = Router("/jobs", route_handlers=[list_jobs, get_job, get_log], tags=["jobs"])
