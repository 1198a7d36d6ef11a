"""Alerts: what was wrong with the platform and since when, raised and cleared as rows."""

from __future__ import annotations

from collections.abc import Mapping

from shared.db import connection
from shared.db.pages import Page, numbered
from shared.db.tables import Alert

KEPT = 10_000
"""Cleared alerts remembered; older ones go when a new one is raised."""


def raised() -> dict[str, str]:
    """The alerts that stand, by name, with their message."""
    with connection.read():
        return {row.name: row.message for row in Alert.select().where(Alert.cleared_at_ms.is_null())}


def settle(wanted: Mapping[str, str], now_ms: int) -> None:
    """Make `wanted` the alerts that stand: raise what is new, clear what is gone. The first message stays.

    Raises:
        errors.Unavailable: The database cannot be written.
    """
    with connection.write():
        standing = raised()
        gone = [name for name in standing if name not in wanted]
        Alert.update(cleared_at_ms=now_ms).where(Alert.cleared_at_ms.is_null() & Alert.name.in_(gone)).execute()
        for name in wanted.keys() - standing.keys():
            newest = Alert.insert(name=name, message=wanted[name], raised_at_ms=now_ms).execute()
            Alert.delete().where((Alert.id <= newest - KEPT) & Alert.cleared_at_ms.is_null(False)).execute()


def listing(*, active: bool | None = None, limit: int, cursor: str | None) -> Page[Alert]:
    """Alerts, newest first; `active` picks those that stand, or those that are over.

    Raises:
        errors.InvalidInput: The cursor is none of ours.
    """
    query = Alert.select()
    if active is not None:
        query = query.where(Alert.cleared_at_ms.is_null(active))
    return numbered(query, Alert.id, limit, cursor)
