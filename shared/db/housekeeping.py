"""Keeps the database small and sound: expired rows leave in small bites, the log is folded back, the file checked."""

from __future__ import annotations

from typing import Any

import peewee

from shared.db import connection, idempotency
from shared.db.jobs import OPEN
from shared.db.tables import Artifact, Job

SQLITE_ERROR: type[Exception] = getattr(peewee, "sqlite3").DatabaseError  # noqa: B009  # untyped module attribute

BITE = 200
"""Rows deleted in one transaction: a few milliseconds of the write lock."""

AUDIT_KEPT_MS = 90 * 24 * 3600 * 1000
KEPT = (
    ("sessions", "expires_at_ms", 0),
    ("idempotency", "created_at_ms", idempotency.KEPT_MS),
    ("audit_log", "at_ms", AUDIT_KEPT_MS),
)
"""Table, its time column, and how long (ms) after that time a row is kept."""


def expire(now_ms: int) -> int:
    """Delete one bite of the sign-ins, idempotency keys and audit rows whose time is over; returns how many went.

    Takes the write lock only for tables that have such rows.
    """
    return sum(_bite(table, f"{column} < ?", now_ms - kept_ms) for table, column, kept_ms in KEPT)


def _bite(table: str, over: str, before_ms: int) -> int:
    with connection.read():
        if not _rows(f"SELECT 1 FROM {table} WHERE {over} LIMIT 1", before_ms):
            return 0
    with connection.write():
        some = f"SELECT rowid FROM {table} WHERE {over} LIMIT {BITE}"
        return int(
            connection.database.execute_sql(f"DELETE FROM {table} WHERE rowid IN ({some})", (before_ms,)).rowcount
        )


def checkpoint() -> None:
    """Fold what can be folded of the write-ahead log into the file; waits for nobody and blocks nobody."""
    with connection.read():
        _rows("PRAGMA wal_checkpoint(PASSIVE)")


def truncate_log() -> bool:
    """Fold all of the log and cut it to nothing, if no job is open and nobody is reading or writing right now."""
    with connection.read():
        if Job.select().where(Job.status.in_(OPEN)).exists():
            return False
        _rows("PRAGMA busy_timeout=0")  # waiting here would make every writer wait with us
        try:
            ((busy, _, _),) = _rows("PRAGMA wal_checkpoint(TRUNCATE)")
            return not busy
        finally:
            _rows(f"PRAGMA busy_timeout={int(connection.BUSY_TIMEOUT_S * 1000)}")


def damage() -> list[str]:
    """What SQLite's quick check finds wrong with the file, at most 20 sentences; empty for a sound one."""
    try:
        with connection.read():
            return damage_of(connection.database)
    except peewee.DatabaseError as error:
        return [str(error)]


def damage_of(database: Any) -> list[str]:
    """The same of any opened database file."""
    try:
        found = [str(row[0]) for row in database.execute_sql("PRAGMA quick_check(20)").fetchall()]
    except SQLITE_ERROR as error:  # raised while rows are fetched, where peewee does not translate
        return [str(error)]
    return [] if found == ["ok"] else found


def artifacts(after: str, limit: int) -> list[tuple[str, str]]:
    """`(sha256, store)` of recorded files in order, beginning after a SHA-256."""
    with connection.read():
        query = Artifact.select(Artifact.sha256, Artifact.store).where(Artifact.sha256 > after)
        return [(row.sha256, row.store) for row in query.order_by(Artifact.sha256).limit(limit)]


def _rows(sql: str, *values: object) -> list[tuple[object, ...]]:
    return list(connection.database.execute_sql(sql, values).fetchall())
