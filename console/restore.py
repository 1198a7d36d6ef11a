"""`cvp restore`: a backup becomes the platform's data again; what was there before is moved aside, never deleted."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from console import archive
from console.supervision import Supervisor, wait_until_free
from console.swap import Swap
from shared import config, errors, process
from shared.db import connection, snapshot

ASIDE = "before-"
STAGE = "restore-"
STAGE_BYTES = 4
"""In its name, in hexadecimal digits."""

JOURNAL = "restoring.json"
HASHED = "[0-9a-f][0-9a-f]"
ENDING_S = 3.0


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What `restore` did."""

    manifest: archive.Manifest
    jobs: int
    """Jobs that ran when the backup was made and are queued again."""
    aside: list[Path]
    """Where the former data is now."""


def read(settings: config.Settings, source: Path, *, replace: bool, advance: archive.Advance) -> Restored:
    """Check the whole backup, copy it beside the data, then put it in place by renaming.

    Raises:
        click.ClickException: With what to do; the data is as it was.
    """
    settings.make_folders()
    with _nobody_running(settings):
        settle(settings)
        occupied = list(_occupied(settings))
        if occupied and not replace:
            raise click.ClickException(
                f"There is data already: {occupied[0]}. Give another DATA_DIR, or --replace to move it aside."
            )
        manifest = archive.verify(source, advance)
        try:
            return _restore(settings, source, manifest, advance)
        except OSError as error:
            raise click.ClickException(
                f"The backup could not be restored: {error.strerror or error}. The data is as it was."
            ) from error


def settle(settings: config.Settings) -> None:
    """After a restore that was killed: the data is as it was, and nothing of it is left. Hold supervisord's lock.

    Raises:
        click.ClickException: The disk does not let us.
    """
    try:
        swap(settings).settle()
        for root in _roots(settings):
            for leftover in root.glob(STAGE + "[0-9a-f]" * 2 * STAGE_BYTES):  # no folder of somebody's own
                shutil.rmtree(leftover)
    except msgspec.MsgspecError as error:
        raise click.ClickException(
            f"A restore was interrupted, and its journal {swap(settings).journal} is damaged ({error}). Compare the "
            f"folders {ASIDE}* and {STAGE}* with the data, move the right one in its place, and delete the journal."
        ) from error
    except OSError as error:
        raise click.ClickException(
            f"A restore was interrupted and cannot be taken back: {error.filename}: {error.strerror or error}."
        ) from error


def swap(settings: config.Settings) -> Swap:
    """What may be under way in this installation."""
    return Swap(settings.db_file.parent / JOURNAL)


def require_none_under_way(settings: config.Settings) -> None:
    """Refuse to look at data of which half is that of a backup.

    Raises:
        click.ClickException: A restore is under way, or was killed.
    """
    if swap(settings).under_way:
        raise click.ClickException(
            "A restore is under way or was interrupted. `cvp up` takes back an interrupted one, `cvp restore` too."
        )


@contextlib.contextmanager
def _nobody_running(settings: config.Settings) -> Iterator[None]:
    """Hold the lock of a supervisord, so that none starts meanwhile."""
    lock = Supervisor(settings).lock
    running = "The platform is running; stop it first with `cvp down`."
    try:
        lock.acquire(patience_s=0.3)
    except process.Locked:
        raise click.ClickException(running) from None
    try:
        if held := wait_until_free(settings.run, ("supervisord",), ENDING_S):
            raise click.ClickException(f"{running} (Still there: {', '.join(held)}.)")
        yield
    finally:
        lock.release()


def _roots(settings: config.Settings) -> list[Path]:
    return list(dict.fromkeys((settings.models, settings.datasets, settings.reports, settings.db_file.parent)))


def _occupied(settings: config.Settings) -> Iterator[Path]:
    """Files of the present data."""
    if settings.db_file.exists():
        yield settings.db_file
    for root in (settings.models, settings.datasets, settings.reports):
        yield from (path for path in root.glob("[0-9a-f][0-9a-f]/*") if path.is_file())


def _restore(settings: config.Settings, source: Path, manifest: archive.Manifest, advance: archive.Advance) -> Restored:
    stage = f"{STAGE}{secrets.token_hex(STAGE_BYTES)}"
    roots = {"models": settings.models, "datasets": settings.datasets, "reports": settings.reports}
    database = settings.db_file.parent / stage / settings.db_file.name

    def place(name: str) -> Path:
        store, _, sha256 = name.rpartition("/")
        return roots[store] / stage / sha256[:2] / sha256 if store else database

    try:
        _require_space(settings, manifest)
        archive.extract(source, place, advance)
        jobs = _settle(database, manifest)
        os.sync()  # once for thousands of files: on the disk before the former data moves
        former = f"{ASIDE}{datetime.now(UTC):%Y%m%d-%H%M%S}"
        swap(settings).do(_moves(settings, stage, former))
        aside = [root / former for root in _roots(settings) if (root / former).is_dir()]
    finally:
        if not swap(settings).under_way:  # else it could not even be taken back, and these files are still needed
            for root in _roots(settings):
                shutil.rmtree(root / stage, ignore_errors=True)
    return Restored(manifest=manifest, jobs=jobs, aside=aside)


def _require_space(settings: config.Settings, manifest: archive.Manifest) -> None:
    free = min(shutil.disk_usage(root).free for root in _roots(settings))
    if free < manifest.size_bytes:
        needs = f"{manifest.size_bytes / 1e6:,.0f} MB and the disk has {free / 1e6:,.0f}"
        raise click.ClickException(f"The backup needs {needs}; free some space, or give another DATA_DIR.")


def _settle(database: Path, manifest: archive.Manifest) -> int:
    """Make the database fit to start from, and check that all it names is there."""
    try:
        jobs = snapshot.settle(database)
        named = {f"{file.store}/{file.sha256}" for file in snapshot.files(database)}
    except (connection.SchemaMismatch, errors.AppError) as refused:
        raise click.ClickException(f"The backup cannot be used: {refused}") from refused
    missing = named - {entry.name for entry in manifest.files} - set(manifest.lost)
    if missing:
        raise click.ClickException(f"The backup cannot be used: its database names {min(missing)}, which is not in it.")
    return jobs


def _moves(settings: config.Settings, stage: str, former: str) -> list[tuple[Path, Path]]:
    """The present data aside, the staged in its place.

    The database goes first and comes last: half-way there is none, and no process starts without one.
    """
    aside = [(path, path.parent / former / path.name) for path in _former(settings)]
    staged = [(path, root / path.name) for root in _roots(settings) for path in (root / stage).glob(HASHED)]
    return [*aside, *staged, (settings.db_file.parent / stage / settings.db_file.name, settings.db_file)]


def _former(settings: config.Settings) -> Iterator[Path]:
    """What the platform keeps: the database with its log, and the files of the stores."""
    for suffix in ("", "-wal", "-shm"):
        path = settings.db_file.with_name(settings.db_file.name + suffix)
        if path.exists():
            yield path
    for root in dict.fromkeys((settings.models, settings.datasets, settings.reports)):
        yield from root.glob(HASHED)
        yield from root.glob("staging")
