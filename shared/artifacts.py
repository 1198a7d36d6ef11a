"""Content-addressed files: staged beside their final place, synced, then renamed; a reader never sees half a file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from shared import errors, failpoints, ids
from shared.specs import Stored

UPLOAD = "up"
"""Who writes a staged file: the gateway an upload, a worker by its name. Each clears its own when it starts."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Staging:
    """A file being written: hashes what passes through, vanishes unless it is published."""

    def __init__(self, store: ArtifactStore, path: Path, file: BinaryIO) -> None:
        self._store, self.path, self._file = store, path, file
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0
        self._lent = self._sealed = self._moved = False

    def lend(self) -> int:
        """The descriptor, for another process to write to instead of us; what it wrote is hashed when it is sealed."""
        self._lent = True
        return self._file.fileno()

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append a chunk.

        Raises:
            errors.Unavailable: The disk is full or cannot be written.
        """
        with _disk():
            self._file.write(chunk)
        self._sha256.update(chunk)
        self.size_bytes += len(chunk)

    def seal(self) -> Stored:
        """Sync what was written; slow for a big file, so do it before the transaction that publishes.

        Raises:
            errors.Unavailable: The disk is full or cannot be written.
        """
        with _disk():
            self._file.flush()
            os.fsync(self._file.fileno())
            if self._lent:
                with self.path.open("rb") as written:
                    self._sha256 = hashlib.file_digest(written, hashlib.sha256)
                    self.size_bytes = written.tell()
        self._sealed = True
        return Stored(sha256=self._sha256.hexdigest(), size_bytes=self.size_bytes)

    def publish(self) -> Stored:
        """Rename into place; the same bytes published twice are one file. It may be called again.

        Raises:
            errors.Unavailable: The disk is full or cannot be written.
        """
        stored = Stored(sha256=self._sha256.hexdigest(), size_bytes=self.size_bytes) if self._sealed else self.seal()
        final = self._store.path(stored.sha256)
        failpoints.reach("artifact.before_rename")
        with _disk():
            if not self._moved:
                final.parent.mkdir(exist_ok=True)
                self.path.rename(final)
                self._moved = True
            sync_folder(final.parent)
            sync_folder(self._store.root)  # the folder itself may be new
        failpoints.reach("artifact.after_rename")
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

    def check_room(self, needed_bytes: int) -> None:
        """Refuse what will not fit; a forecast, since others write as well.

        Raises:
            errors.Unavailable: The disk has less than that left, or cannot be asked.
        """
        with _disk():
            free = shutil.disk_usage(self.root).free
        if free < needed_bytes:
            raise errors.Unavailable(
                f"The disk has {free / 1e9:.1f} GB left, {needed_bytes / 1e9:.1f} are needed for this. Free some "
                "space, or see `cvp doctor`.",
                retry_after_s=60,
            )

    @contextlib.contextmanager
    def stage(self, owner: str = UPLOAD) -> Iterator[Staging]:
        """A new file; leaving the block without `publish()` removes it.

        Raises:
            errors.Unavailable: The disk is full or cannot be written.
        """
        folder = self.root / "staging"
        path = folder / ids.new_id(owner)
        with _disk():
            folder.mkdir(parents=True, exist_ok=True)
            file = path.open("xb")
        try:
            yield Staging(self, path, file)
        finally:
            shutil.rmtree(scratch(path), ignore_errors=True)  # of a child that was killed
            with contextlib.suppress(OSError):  # a disk that lets nothing be removed; swept later
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # what a full disk did not take; a published file was flushed before
                file.close()

    def put(self, content: bytes) -> Stored:
        """Store a whole file."""
        with self.stage() as staging:
            staging.write(content)
            return staging.publish()

    def remove(self, sha256: str) -> None:
        """Delete a file nobody refers to any more; gone already is fine."""
        self.path(sha256).unlink(missing_ok=True)

    def published(self) -> Iterator[dict[str, str]]:
        """What lies in the store, a folder at a time: SHA-256 and a mark that another file in its place would not have.

        Publishing the same bytes again puts another file in the place of the first.
        """
        for folder in sorted(self.root.glob("[0-9a-f][0-9a-f]")):
            with os.scandir(folder) as entries:
                yield {entry.name: _mark(entry.stat()) for entry in entries if _SHA256.fullmatch(entry.name)}

    def discard(self, sha256: str, mark: str) -> bool:
        """Remove the file that was seen with `mark`; one that was published in its place meanwhile stays."""
        path, aside = self.path(sha256), self.root / "staging" / ids.new_id("old")
        aside.parent.mkdir(parents=True, exist_ok=True)
        try:
            seen = path.stat()
            path.rename(aside)
        except FileNotFoundError:
            return False
        ours = _mark(seen) == mark and aside.stat().st_ino == seen.st_ino
        if ours:
            aside.unlink()
        else:
            aside.rename(path)  # whatever took its place meanwhile has the same bytes
        return ours

    @contextlib.contextmanager
    def pins(self) -> Iterator[Path]:
        """A folder for `pin()`: what is pinned there can be read until the block ends, whatever is removed by then."""
        folder = self.root / "staging" / ids.new_id("pin")
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # what a crash leaves is swept after a day

    def pin(self, sha256: str, folder: Path) -> bool:
        """Keep a file in `folder` by a hard link, or a copy where there are none; false when it is gone."""
        pinned = folder / sha256
        try:
            os.link(self.path(sha256), pinned)
        except FileExistsError:
            return True
        except FileNotFoundError:
            return False
        except OSError:  # a file system without hard links
            shutil.copyfile(self.path(sha256), pinned)
        return True

    def sweep_staging(self, before_s: float) -> int:
        """Remove what was staged and not touched since `before_s` (seconds since 1970); returns the count."""
        leftovers = [path for path in self.root.glob("staging/*") if path.lstat().st_mtime < before_s]
        for path in leftovers:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        return len(leftovers)

    def clear_staging(self, owner: str = UPLOAD) -> int:
        """Remove what an interrupted owner left behind; call only when it cannot be at work. Returns the count."""
        leftovers = list((self.root / "staging").glob(f"{owner}_*"))
        for path in leftovers:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        return len(leftovers)


class Outputs:
    """The files a job's child may write, though it opens none: staged for it, lent as descriptors, published by name.

    Leaving the block removes what was not published; what a killed owner leaves it clears when it starts again.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._open = contextlib.ExitStack()
        self._staged: dict[str, Staging] = {}
        self.fds: list[int] = []
        """What the child inherits."""

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def stage(self, name: str, store: ArtifactStore) -> int:
        """A new empty file; returns the descriptor, which has the same number in the child.

        Raises:
            errors.Unavailable: The disk is full or cannot be written.
        """
        self._staged[name] = self._open.enter_context(store.stage(self._owner))
        self.fds.append(self._staged[name].lend())
        return self.fds[-1]

    def path(self, name: str) -> Path:
        """Where a staged file lies now, for another child to read what the one before wrote."""
        return self._staged[name].path

    def seal(self, name: str) -> Stored:
        """Sync and hash what the child wrote, once it has ended; slow, so before the transaction that publishes it.

        Raises:
            errors.Unavailable: The disk is full or cannot be written.
        """
        return self._staged[name].seal()

    def publish(self, name: str) -> Stored:
        """Put what the child wrote in its place, inside the `write()` that records it; may be called again.

        Outside of it, whoever deletes the same bytes at that moment would remove the file of a row that is about to be.

        Raises:
            errors.Unavailable: The disk is full or cannot be written.
        """
        return self._staged[name].publish()


@contextlib.contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise errors.Unavailable(
            f"The file cannot be stored ({error.strerror}). Free some space, or see `cvp doctor`.", retry_after_s=60
        ) from error


def _mark(stat: os.stat_result) -> str:
    return f"{stat.st_ino}-{stat.st_ctime_ns}"


def scratch(staged: Path) -> Path:
    """Where the folder may lie that the making of a staged file takes; it goes with that at the latest."""
    return staged.with_name(f"{staged.name}.scratch")


def intact(path: Path) -> bool:
    """Whether a stored file is there and still has the content that it is named by; reads all of it."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, hashlib.sha256).hexdigest() == path.name
    except OSError:
        return False


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut: a file that was synced may still be without its name."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def damaged(path: Path) -> bool:
    """Whether a file that lies where stored files do is gone, or not what it was; reads all of it."""
    return _SHA256.fullmatch(path.name) is not None and not intact(path)
