"""Content-addressed files: staged beside their final place, synced, then renamed; a reader never sees half a file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from shared import errors, ids
from shared.specs import Stored

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Staging:
    """A file being written: hashes what passes through, vanishes unless it is published."""

    def __init__(self, store: ArtifactStore, path: Path, file: BinaryIO) -> None:
        self._store, self._path, self._file = store, path, file
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0
        self._sealed = False

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append a chunk.

        Raises:
            errors.Unavailable: The disk is full or cannot be written.
        """
        try:
            self._file.write(chunk)
        except OSError as error:
            raise errors.Unavailable(f"The upload cannot be stored ({error.strerror}).", retry_after_s=60) from error
        self._sha256.update(chunk)
        self.size_bytes += len(chunk)

    def seal(self) -> Stored:
        """Sync what was written; slow for a big file, so do it before the transaction that publishes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._sealed = True
        return Stored(sha256=self._sha256.hexdigest(), size_bytes=self.size_bytes)

    def publish(self) -> Stored:
        """Rename into place; the same bytes published twice are one file."""
        stored = Stored(sha256=self._sha256.hexdigest(), size_bytes=self.size_bytes) if self._sealed else self.seal()
        final = self._store.path(stored.sha256)
        final.parent.mkdir(exist_ok=True)
        self._path.rename(final)
        _sync_folder(final.parent)
        return stored


class ArtifactStore:
    """A folder of files named by their SHA-256. User file names never become paths."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, sha256: str) -> Path:
        """Where the file is (or would be).

        Raises:
            errors.NotFound: Not a SHA-256.
        """
        if not _SHA256.fullmatch(sha256):
            raise errors.NotFound(f"{sha256[:80]!r} names no file.")
        return self.root / sha256[:2] / sha256

    @contextlib.contextmanager
    def stage(self) -> Iterator[Staging]:
        """A new file; leaving the block without `publish()` removes it."""
        folder = self.root / "staging"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / ids.new_id("up")
        with path.open("xb") as file:
            try:
                yield Staging(self, path, file)
            finally:
                path.unlink(missing_ok=True)

    def put(self, content: bytes) -> Stored:
        """Store a whole file."""
        with self.stage() as staging:
            staging.write(content)
            return staging.publish()

    def remove(self, sha256: str) -> None:
        """Delete a file nobody refers to any more; gone already is fine."""
        self.path(sha256).unlink(missing_ok=True)

    def clear_staging(self) -> int:
        """Remove what interrupted uploads left behind; call only when no upload can be running. Returns the count."""
        leftovers = list((self.root / "staging").glob("up_*"))
        for path in leftovers:
            path.unlink(missing_ok=True)
        return len(leftovers)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
