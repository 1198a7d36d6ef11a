"""Copies of the whole database: taken while it is in use, looked into, and made fit to start from again."""

from __future__ import annotations

from pathlib import Path

import msgspec
import peewee

from shared import clock, errors
from shared.db import connection, housekeeping
from shared.db.registry import bump
from shared.db.tables import Artifact, Job, JobEvent, Session


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a row of the copy names."""

    store: str
    sha256: str
    size_bytes: int


def take(target: Path) -> None:
    """Write the open database, as it is at one instant, to `target`; writers go on meanwhile.

    Raises:
        errors.Unavailable: The database cannot be read, or the copy not be written.
    """
    with connection.read():
        connection.database.execute_sql("VACUUM INTO ?", (str(target),))


def files(copy: Path) -> list[StoredFile]:
    """The files that the rows of a copy name.

    Raises:
        errors.Conflict: The copy is damaged.
    """
    database = connection.Database(copy)
    try:
        with database.connection_context(), database.bind_ctx([Artifact]):
            if damage := housekeeping.damage_of(database):
                raise errors.Conflict(f"The copy of the database is damaged: {damage[0]}.")
            return [StoredFile(store=row.store, sha256=row.sha256, size_bytes=row.size_bytes) for row in _artifacts()]
    except peewee.DatabaseError as error:
        raise errors.Conflict(f"The copy of the database cannot be read: {error}.") from error


def _artifacts() -> list[Artifact]:
    return list(Artifact.select().order_by(Artifact.store, Artifact.sha256))


def settle(copy: Path) -> int:
    """Bring a copy to the present schema and end what ran when it was taken; returns how many jobs run again.

    Running jobs go back to the queue, their attempt not counted. Sign-ins end; API keys go on.

    Raises:
        connection.SchemaMismatch: It was written by a newer version.
    """
    try:
        connection.migrate(copy)
        connection.open_db(copy)
        with connection.write(durable=True):
            now = clock.now_ms()
            Session.update(revoked_at_ms=now).where(Session.revoked_at_ms.is_null()).execute()
            bump("access")
            return sum(_requeue(job, now) for job in list(Job.select().where(Job.status == "running")))
    finally:
        connection.database.close()  # the last connection: the log is folded into the file and goes


def _requeue(job: Job, now_ms: int) -> int:
    JobEvent.insert(job_id=job.id, at_ms=now_ms, attempt=job.attempt, event="put back", detail="restored").execute()
    query = Job.update(status="queued", worker=None, attempt=job.attempt - 1, progress={}).where(Job.id == job.id)
    return int(query.execute())
