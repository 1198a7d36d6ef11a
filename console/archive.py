"""The backup file: an ordinary tar of the database, the stored files, and a manifest with the SHA-256 of each."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Literal

import click
import msgspec

DATABASE = "database.db"
MANIFEST = "manifest.json"
MANIFEST_BYTES = 2**28
CHUNK = 2**20
_NAME = re.compile(r"(models|datasets|reports)/[0-9a-f]{64}")

Advance = Callable[[int], None]
"""Hears how many bytes were just read."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the archive."""

    name: str
    sha256: str
    size_bytes: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is in the archive; the last of its files."""

    format: Literal["cvp.backup/1"] = "cvp.backup/1"
    created_at: str
    version: str
    files: list[Entry]
    lost: list[str]
    """Files that the database names and that were gone or damaged when the backup was made."""

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(entry.size_bytes for entry in self.files)


class Writer:
    """Writes an archive to a path that does not exist yet, for this user's eyes only."""

    def __init__(self, path: Path) -> None:
        self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, name: str, path: Path, advance: Advance) -> Entry:
        """Copy a file in; the entry has the hash of what was copied."""
        with path.open("rb") as file:
            hashing = _Hashing(file, advance)
            member = _member(name, os.fstat(file.fileno()).st_size)
            self._tar.addfile(member, hashing)  # type: ignore[arg-type]
        return Entry(name=name, sha256=hashing.sha256.hexdigest(), size_bytes=member.size)

    def finish(self, manifest: Manifest) -> None:
        """Add the manifest and sync: without it the archive is none."""
        content = msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"
        self._tar.addfile(_member(MANIFEST, len(content)), io.BytesIO(content))
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())


def verify(path: Path, advance: Advance) -> Manifest:
    """Read everything and compare it with the manifest.

    Raises:
        click.ClickException: It is no backup, is incomplete, or has changed; nothing was touched.
    """
    if path.is_dir():
        raise click.ClickException(f"{path} is a folder; name the file in it.")
    try:
        with _reading(path) as tar:
            manifest = _manifest(tar)
            for entry in manifest.files:
                copy(tar, entry, None, advance)
    except OSError as error:
        raise click.ClickException(f"{path} cannot be read: {error.strerror or error}.") from error
    return manifest


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            yield tar
    except (tarfile.TarError, EOFError) as error:
        raise click.ClickException(f"{path} is no backup of `cvp backup`, or not all of it ({error}).") from error


def extract(path: Path, place: Callable[[str], Path], advance: Advance) -> Manifest:
    """Copy every file to where `place` says for its name; checks each on the way like `verify`, syncs nothing."""
    with _reading(path) as tar:
        manifest = _manifest(tar)
        for entry in manifest.files:
            target = place(entry.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                copy(tar, entry, file, advance)
    return manifest


def copy(tar: tarfile.TarFile, entry: Entry, target: IO[bytes] | None, advance: Advance) -> None:
    """Read one file of the archive, to `target` or to nowhere, and check it.

    Raises:
        click.ClickException: It is not what the manifest says.
    """
    try:
        source = tar.extractfile(entry.name)
    except KeyError:
        source = None
    if source is None:
        raise _damaged(tar, f"{entry.name} is missing")
    hashing = _Hashing(source, advance)
    while chunk := hashing.read(CHUNK):
        if target is not None:
            target.write(chunk)
    if hashing.sha256.hexdigest() != entry.sha256:
        raise _damaged(tar, f"{entry.name} has changed")


def _manifest(tar: tarfile.TarFile) -> Manifest:
    try:
        file = tar.extractfile(MANIFEST)
        manifest = msgspec.json.decode(file.read(MANIFEST_BYTES) if file else b"", type=Manifest)
    except (KeyError, msgspec.MsgspecError) as error:
        raise _damaged(tar, f"its manifest is missing or broken ({error})") from error
    for entry in manifest.files:
        whole = _NAME.fullmatch(entry.name) and entry.name.endswith(entry.sha256)
        if entry.name != DATABASE and not whole:
            raise _damaged(tar, f"{entry.name[:100]!r} is no name of ours")
    if [entry.name for entry in manifest.files].count(DATABASE) != 1:
        raise _damaged(tar, "it has no database")
    return manifest


def _damaged(tar: tarfile.TarFile, why: str) -> click.ClickException:
    return click.ClickException(f"The backup {tar.name!s} cannot be used: {why}. Take an earlier one.")


def _member(name: str, size_bytes: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size_bytes, 0o600, int(time.time())
    return member


class _Hashing:
    """A file that is hashed as it is read."""

    def __init__(self, file: IO[bytes], advance: Advance) -> None:
        self._file, self._advance = file, advance
        self.sha256 = hashlib.sha256()

    def read(self, size: int) -> bytes:
        chunk = self._file.read(size)
        self.sha256.update(chunk)
        self._advance(len(chunk))
        return chunk
