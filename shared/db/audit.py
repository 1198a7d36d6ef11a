"""The audit log: who asked for what, and how it ended. Rows are added and expire; nothing changes one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from shared.db import connection, pages
from shared.db.tables import AuditEntry, User


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One action, done or refused; `result` is the HTTP status it was answered with."""

    at_ms: int
    request_id: str
    user_id: str | None
    action: str
    resource: str
    result: str


def add(entries: Sequence[Entry]) -> None:
    """Write them down."""
    with connection.write():
        AuditEntry.insert_many([msgspec.to_builtins(entry) for entry in entries]).execute()


def listing(
    *, user: str | None = None, action: str | None = None, since_ms: int | None = None, limit: int, cursor: str | None
) -> pages.Page[Any]:
    """Entries, newest first, each with `username`: the name of whoever it was, deleted or not.

    Raises:
        errors.InvalidInput: The cursor is none of ours.
    """
    query = AuditEntry.select(AuditEntry, User.username).left_outer_join(User, on=(AuditEntry.user_id == User.id))
    if user is not None:
        query = query.where(AuditEntry.user_id == user)
    if action is not None:
        query = query.where(AuditEntry.action == action)
    if since_ms is not None:
        query = query.where(AuditEntry.at_ms >= since_ms)
    return pages.numbered(query.objects(), AuditEntry.id, limit, cursor)
