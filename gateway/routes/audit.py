"""The audit log, for administrators."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from litestar import Router, get
from litestar.params import FromQuery, QueryParameter

from gateway import schemas
from gateway.errors import MISFIT
from gateway.routes.common import Cursor, Injected, Limit, listing, problems
from shared import clock, errors
from shared.db import audit


@get("/audit", responses=problems())
async def list_audit(
    context: Injected,
    *,
    limit: Limit = 50,
    cursor: Cursor = None,
    user: Annotated[str | None, QueryParameter(description="Only what the user of this id did.")] = None,
    action: Annotated[str | None, QueryParameter(description="Only this call, as `METHOD /path/{template}`.")] = None,
    since: FromQuery[str | None] = None,
) -> schemas.Listing[schemas.AuditEntry]:
    """Who did what, newest first: changes, sign-ins, reads of single things, refusals; kept for 90 days."""
    since_ms = None if since is None else _moment_ms(since)
    page = await context.store.read(
        audit.listing, user=user, action=action, since_ms=since_ms, limit=limit, cursor=cursor
    )
    return listing(page, _entry)


def _moment_ms(text: str) -> int:
    """Milliseconds of an ISO-8601 time; one without a zone is UTC.

    Raises:
        errors.InvalidInput: It is none.
    """
    try:
        at = datetime.fromisoformat(text)
        return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        told = "a time like 2026-01-31T08:15:30Z"
        raise errors.InvalidInput(MISFIT, errors=[{"field": "since", "message": told}]) from None


def _entry(row: Any) -> schemas.AuditEntry:
    return schemas.AuditEntry(
        id=str(row.id),
        at=clock.iso(row.at_ms),
        request_id=row.request_id,
        user_id=row.user_id,
        username=row.username,
        action=row.action,
        resource=row.resource,
        result=row.result,
    )


router = Router("/", route_handlers=[list_audit], tags=["system"])
