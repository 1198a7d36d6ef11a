"""The one door to SQLite: opening, the version gate, `read()` and `write()`, migrations."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peewee
from playhouse import migrations

from shared import errors, failpoints, process

SAFE_SQLITE = (3, 51, 3)
"""Older releases can corrupt a write-ahead log that several processes write (the WAL-reset bug of 3.7.0-3.51.2)."""

BUSY_TIMEOUT_S = 5.0
MIGRATIONS = Path(__file__).parent / "migrations"

database = peewee.DatabaseProxy()


class SchemaMismatch(Exception):
    """The database file and this version of the software do not belong together."""


def sqlite_version() -> tuple[int, int, int]:
    """Version of the SQLite library that peewee uses in this process."""
    major, minor, patch = getattr(peewee, "sqlite3").sqlite_version_info[:3]  # noqa: B009  # untyped module attribute
    return int(major), int(minor), int(patch)


def require_safe_sqlite() -> None:
    """Refuse a SQLite that may lose data.

    Raises:
        SchemaMismatch: The library is older than `SAFE_SQLITE`.
    """
    if sqlite_version() < SAFE_SQLITE:
        have, need = (".".join(map(str, version)) for version in (sqlite_version(), SAFE_SQLITE))
        raise SchemaMismatch(
            f"SQLite {have} can corrupt a database that several processes write; {need} or newer is needed. "
            "Install the pinned pysqlite3 (make setup does)."
        )


class Database(peewee.SqliteDatabase):
    """SQLite as we use it: WAL, IMMEDIATE transactions, foreign keys, never carried across a fork."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            str(path),
            timeout=BUSY_TIMEOUT_S,
            lock_type="IMMEDIATE",
            pragmas={
                "journal_mode": "wal",
                "synchronous": "normal",
                "foreign_keys": 1,
                "cache_size": -16_000,
                "journal_size_limit": 64 * 1024 * 1024,
            },
        )
        self._pid = os.getpid()

    def cursor(self, named_cursor: str | None = None) -> Any:
        """A cursor of this thread's connection; a connection carried across a fork would corrupt the file."""
        if os.getpid() != self._pid:
            raise RuntimeError("the database was opened before a fork; open it in the child")
        return super().cursor(named_cursor)  # type: ignore[no-untyped-call]


def open_db(path: Path) -> None:
    """Bind this process's tables to the database file and check that its schema is ours.

    Raises:
        SchemaMismatch: Not there or not migrated yet, or written by a newer version.
        errors.Unavailable: It cannot be opened: a read-only disk, somebody else's file.
    """
    require_safe_sqlite()
    if not path.is_file():  # SQLite would make one
        raise SchemaMismatch(f"{path} does not exist: `cvp up` or `cvp migrate` makes it.")
    database.initialize(Database(path))
    with _reachable(), database.connection_context():
        applied, known = _versions()
    if applied != known:
        state = "is not migrated: run `cvp migrate`" if set(applied) < set(known) else "was written by a newer version"
        raise SchemaMismatch(f"{path} {state} (it has {applied or 'no schema'}, this version knows {known}).")


def migrate(path: Path) -> list[str]:
    """Bring the database file to the present schema, one process at a time; returns the names applied.

    Raises:
        SchemaMismatch: The file was written by a newer version.
        errors.Unavailable: It cannot be opened or changed.
    """
    require_safe_sqlite()
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = process.FileLock(path.with_suffix(".migrate.lock")).acquire(process.LOCK_PATIENCE_S)
    try:
        database.initialize(Database(path))
        with _reachable(), database.connection_context():
            applied, known = _versions()
            if set(applied) - set(known):
                raise SchemaMismatch(f"{path} was written by a newer version (it has {applied}).")
            return list(migrations.Runner(database.obj, str(MIGRATIONS)).up())
    finally:
        lock.release()


def _versions() -> tuple[list[str], list[str]]:
    runner = migrations.Runner(database.obj, str(MIGRATIONS))
    return sorted(runner.applied()), [migration.name for migration in runner.migrations()]


@contextmanager
def read() -> Iterator[None]:
    """This thread's connection, for reading; every statement sees the newest committed state.

    Raises:
        errors.Unavailable: The database cannot be reached.
    """
    with _reachable():
        database.connect(reuse_if_open=True)
        yield


@contextmanager
def write(*, durable: bool = False, name: str = "") -> Iterator[None]:
    """One short IMMEDIATE transaction of SQL only; commits at the end, rolls back on any exception.

    Args:
        durable: Commit with `synchronous=FULL`, so that it survives a power cut (accepting and finishing a job).
        name: What it does, one of `failpoints.TRANSACTIONS`: tests end the process just before and after it commits.

    Raises:
        errors.Unavailable: The database is locked beyond the busy timeout, or cannot be written.
    """
    with _reachable():
        database.connect(reuse_if_open=True)
        database.execute_sql(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        with database.atomic():
            yield
            if name:
                failpoints.reach(f"{name}.before_commit")
    if name:
        failpoints.reach(f"{name}.after_commit")


def version() -> tuple[object, ...] | None:
    """What this thread would read now, inside its `read()`: as long as the value is the same, nothing was committed.

    For who looks often: it costs a tenth of the smallest query. None inside a transaction, which may be undone.
    """
    raw = database.connection()
    if raw.in_transaction:
        return None
    (others,) = database.execute_sql("PRAGMA data_version").fetchone()
    return raw, others, raw.total_changes


@contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except peewee.OperationalError as error:
        raise errors.Unavailable(
            f"The database cannot be used right now ({_first(error)}); try again shortly.", retry_after_s=2
        ) from error


def _first(error: BaseException) -> BaseException:
    """What failed first: on a full disk SQLite rolls back by itself, and the rollback after it fails as well."""
    first, cause = error, error.__cause__ or error.__context__
    while isinstance(cause, (peewee.OperationalError, getattr(peewee, "sqlite3").OperationalError)):  # noqa: B009
        first, cause = cause, cause.__cause__ or cause.__context__
    return first
