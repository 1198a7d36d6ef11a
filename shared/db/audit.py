"""The audit log: who asked for what, and how it ended. Rows are added and expire; nothing changes one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from shared.db import connection, pages
from shared.db.tables import AuditEntry, User

PASSWORD_SET = "cvp passwd"
"""The action of setting a password on the machine itself; its result is 200 like that of a call."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One action, done or refused; `result` is the HTTP status it was answered with."""

    at_ms: int
    request_id: str
    user_id: str | None
    action: str
    resource: str
    result: str


class Try(msgspec.Struct, frozen=True, kw_only=True):
    """A sign-in by password of a user who still exists, right or wrong."""

    username: str
    password_hash: str
    at_ms: int
    right: bool


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


def tries(actions: Sequence[str], since_ms: int, most: int) -> list[Try]:
    """The last sign-ins since then, oldest first, each beside the present password of its user.

    Args:
        actions: What sign-ins are called; everything else that is written down about a password set it anew.
        since_ms: From when on, wall clock.
        most: Rows looked at, the newest.
    """
    known = (*actions, PASSWORD_SET)
    query = (
        AuditEntry.select(AuditEntry.at_ms, AuditEntry.result, User.username, User.password_hash)
        .join(User, on=((User.username == AuditEntry.resource) & User.deleted_at_ms.is_null()))
        .where(AuditEntry.action.in_(known) & AuditEntry.result.in_(["200", "401"]) & (AuditEntry.at_ms >= since_ms))
        .order_by(AuditEntry.at_ms.desc(), AuditEntry.id.desc())
        .limit(most)
    )
    with connection.read():
        rows: list[Any] = list(query.tuples())
    return [
        Try(username=username, password_hash=password_hash, at_ms=at_ms, right=result == "200")
        for at_ms, result, username, password_hash in reversed(rows)
    ]
