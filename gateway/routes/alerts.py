"""Alerts: what is wrong with the platform now, and what was."""

from __future__ import annotations

from litestar import Router, get
from litestar.params import FromQuery

from gateway import schemas
from gateway.routes.common import Cursor, Injected, Limit, iso, listing, problems
from shared import clock
from shared.db import alerts
from shared.db.tables import Alert


@get("/alerts", responses=problems(422))
async def list_alerts(
    context: Injected, limit: Limit = 50, cursor: Cursor = None, active: FromQuery[bool | None] = None
) -> schemas.Listing[schemas.Alert]:
    """Alerts, newest first; `active=true` shows those that stand now."""
    return listing(await context.store.read(alerts.listing, active=active, limit=limit, cursor=cursor), _alert)


def _alert(row: Alert) -> schemas.Alert:
    return schemas.Alert(
        id=str(row.id),
        name=row.name,
        message=row.message,
        raised_at=clock.iso(row.raised_at_ms),
        cleared_at=iso(row.cleared_at_ms),
    )


router = Router("/", route_handlers=[list_alerts], tags=["system"])
