"""`cvp backup`: everything that cannot be made again, in one file, while the platform runs."""

from __future__ import annotations

import contextlib
import importlib.metadata
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click

from console import archive, restore
from shared import clock, config, failpoints
from shared.artifacts import ArtifactStore, sync_folder
from shared.db import connection, registry, snapshot

SNAPSHOTS = 10
"""A model that is deleted while its files are being pinned makes the snapshot too old; then another one is taken."""

Pinned = dict[str, Path]
"""Names in the archive and where the files are kept meanwhile."""


def stores(settings: config.Settings) -> dict[str, ArtifactStore]:
    """The artifact stores by name."""
    folders = {"models": settings.models, "datasets": settings.datasets, "reports": settings.reports}
    return {name: ArtifactStore(root) for name, root in folders.items()}


def write(settings: config.Settings, target: Path, advance: archive.Advance) -> tuple[Path, archive.Manifest]:
    """Write a backup and read it again to check it; under its name there is all of it or nothing.

    Args:
        settings: Of the platform; it may run or not.
        target: The file, which must not exist; or a folder, for a name with the time in it.
        advance: Hears of every byte that is read.

    Returns:
        The file and what is in it.

    Raises:
        click.ClickException: With what to do; nothing was left behind.
    """
    target = _target(target)
    restore.require_none_under_way(settings)
    _open(settings)
    try:
        with tempfile.TemporaryDirectory(prefix=".cvp-backup-", dir=target.parent) as folder:
            partial = Path(folder) / "backup.tar"
            _fill(settings, partial, Path(folder) / archive.DATABASE, advance)
            manifest = archive.verify(partial, advance)
            failpoints.reach("backup.before_rename")
            partial.rename(target)
            failpoints.reach("backup.after_rename")
            sync_folder(target.parent)
    except OSError as error:
        raise click.ClickException(f"{target} could not be written: {error.strerror or error}.") from error
    finally:
        connection.database.close()
    return target, manifest


def _target(target: Path) -> Path:
    if target.is_dir():
        target = target / f"cvp-backup-{datetime.now(UTC):%Y%m%d-%H%M%S}.tar"
    if target.exists():
        raise click.ClickException(f"{target} exists already; choose another name.")
    if not target.absolute().parent.is_dir():
        raise click.ClickException(f"There is no folder {target.absolute().parent}; make it first.")
    return target.absolute()


def _open(settings: config.Settings) -> None:
    if not settings.db_file.is_file():
        raise click.ClickException(f"There is nothing to back up: {settings.db_file} does not exist.")
    try:
        connection.open_db(settings.db_file)
    except connection.SchemaMismatch as mismatch:
        raise click.ClickException(str(mismatch)) from mismatch


def _fill(settings: config.Settings, partial: Path, database: Path, advance: archive.Advance) -> None:
    _require_space(partial.parent, [settings.db_file])
    with _pinned(settings, database) as (pinned, lost):
        _require_space(partial.parent, [database, *pinned.values()])
        with archive.Writer(partial) as writer:
            entries = [writer.add(archive.DATABASE, database, advance)]
            for name, path in pinned.items():
                entry = writer.add(name, path, advance)
                if name.endswith(entry.sha256):
                    entries.append(entry)
                else:  # what its name promises is not in it any more: a damaged disk
                    lost.append(name)
            writer.finish(_manifest(entries, lost))


def _manifest(entries: list[archive.Entry], lost: list[str]) -> archive.Manifest:
    version = importlib.metadata.version("cv-platform")
    return archive.Manifest(created_at=clock.iso(clock.now_ms()), version=version, files=entries, lost=lost)


@contextlib.contextmanager
def _pinned(settings: config.Settings, database: Path) -> Iterator[tuple[Pinned, list[str]]]:
    """A snapshot in `database`, all its files where nobody removes them, and the names of those that are lost."""
    with contextlib.ExitStack() as stack:
        there = stores(settings)
        folders = {name: stack.enter_context(store.pins()) for name, store in there.items() if store.root.is_dir()}
        for _ in range(SNAPSHOTS):
            database.unlink(missing_ok=True)
            snapshot.take(database)
            files = snapshot.files(database)
            gone = [file for file in files if not _pin(there, folders, file)]
            known = registry.named(file.sha256 for file in gone)
            if all(file.sha256 in known and not _pin(there, folders, file) for file in gone):
                lost = [f"{file.store}/{file.sha256}" for file in gone]
                kept = [file for file in files if file not in gone]
                yield {f"{file.store}/{file.sha256}": folders[file.store] / file.sha256 for file in kept}, lost
                return
    raise click.ClickException("Models are being deleted faster than they can be saved; try again in a moment.")


def _pin(there: dict[str, ArtifactStore], folders: dict[str, Path], file: snapshot.StoredFile) -> bool:
    return file.store in folders and there[file.store].pin(file.sha256, folders[file.store])


def _require_space(folder: Path, files: list[Path]) -> None:
    needed, free = sum(path.stat().st_size for path in files), shutil.disk_usage(folder).free
    if free < needed:
        raise click.ClickException(
            f"The backup needs {needed / 1e6:,.0f} MB and {folder.parent} has {free / 1e6:,.0f}; choose another disk."
        )
