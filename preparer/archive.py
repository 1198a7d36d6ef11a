"""A ZIP that somebody uploaded, read in place: its names are only names, nothing of it is ever written to a disk."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import threading
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from preparer.findings import Findings, shown
from shared import errors

if TYPE_CHECKING:
    from typing_extensions import Buffer

MOST_MEMBERS = 1_000_000
LARGEST_DIRECTORY = 256 * 1024 * 1024
"""Bytes of the table of contents: a million members with long names."""

LARGEST_IN_MEMORY = 512 * 1024 * 1024
MOST_UNFOLDED = 64 * 1024**3
"""Bytes of all members; an upload has 10 GiB at most, and images hardly shrink in a ZIP."""

SUSPICIOUS_RATIO = 200
SUSPICIOUS_BYTES = 8 * 1024 * 1024
"""What unfolds to more than this and by more than that is a bomb: label files shrink some twenty times."""

LONGEST_NAME = 1024
LONGEST_PART = 255
UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories of characters that control, turn or break a text instead of being seen."""

METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
ENCRYPTED = 0x1 | 0x40
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")
LITTER = ("__macosx", "thumbs.db", "desktop.ini")
LOCAL_HEADER = 30
"""Bytes of the header before each member, without its name."""

SIGNATURE = b"PK\x01\x02"


class Archive:
    """An opened ZIP whose table of contents has been checked; members are read one by one.

    `members` holds what may be used, by the path that a user sees: NFC, `/` between parts, no leading `./`. `folders`
    are those that have an entry of their own, as empty ones do. Threads may read at the same time.
    """

    def __init__(self, path: Path, findings: Findings) -> None:
        """Read and check the table of contents.

        Raises:
            errors.BadDataset: No ZIP, or one that is refused as a whole.
            errors.TooLarge: More members or bytes than the limits.
        """
        self._findings = findings
        self.members: dict[str, zipfile.ZipInfo] = {}
        self.folders: set[str] = set()
        self._path = path
        self._file = _Bounded(path)
        self._reading = threading.Lock()  # zipfile counts its open members without one
        try:
            self._read_contents()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()
        self._file.close()

    def _read_contents(self) -> None:
        try:
            self._zip = zipfile.ZipFile(self._file)
        except errors.AppError:
            raise
        except (zipfile.BadZipFile, UnicodeError, ValueError, OSError, NotImplementedError, OverflowError) as error:
            raise errors.BadDataset(
                f"This is not a complete ZIP ({error}). Make it again, or check that the upload was not cut off."
            ) from error
        self._file.in_contents = False
        entries, size = self._zip.infolist(), self._path.stat().st_size
        _refuse_bombs(entries, size)
        _refuse_overlaps(entries, size)
        for entry in entries:
            self._admit(entry)
        self._note_case_twins()

    def _admit(self, entry: zipfile.ZipInfo) -> None:
        """Put the entry among the members, leave it out with a warning, or refuse the archive."""
        raw = entry.orig_filename
        if raw.endswith(("/", "\\")):
            with contextlib.suppress(errors.BadDataset):  # nothing lies in it, so nothing leads out
                self.folders.add(clean(raw))
            return
        if entry.flag_bits & ENCRYPTED:
            raise errors.BadDataset(f"{shown(raw)} is encrypted. Make the ZIP without a password.")
        name = clean(raw)
        parts = name.split("/")
        if any(part.lower() in LITTER or part.startswith(".") for part in parts):
            return
        if why := _unusable(entry, raw, name):
            self._findings.add("member", raw, why)
        elif name in self.members:
            raise errors.BadDataset(
                f"Two members of the ZIP are called {shown(name)}, so it cannot be told which one is meant. "
                "Make it again with every name once."
            )
        else:
            self.members[name] = entry

    def _note_case_twins(self) -> None:
        seen: dict[str, str] = {}
        for name in self.members:
            twin = seen.setdefault(name.casefold(), name)
            if twin != name:
                self._findings.add(
                    "case", name, f"differs from {shown(twin)} only in upper and lower case; both are used"
                )

    def size(self, name: str) -> int:
        """Bytes of a member, as declared; reading never gives more."""
        return self.members[name].file_size

    def raw(self, name: str) -> str:
        """The member's name exactly as the archive has it."""
        return self.members[name].orig_filename

    def read(self, name: str, most: int = LARGEST_IN_MEMORY) -> bytes:
        """The bytes of a member.

        Raises:
            errors.TooLarge: More than `most`.
            errors.BadDataset: Damaged: wrong checksum, wrong sizes, cut off.
        """
        if self.size(name) > most:
            raise errors.TooLarge(f"It has {self.size(name) / 2**20:,.0f} MB; at most {most / 2**20:,.0f} can be read.")
        with self._reading, self.open(name) as member, _damage():
            data = member.read()
        if len(data) != self.size(name):
            raise errors.BadDataset("It is damaged in the ZIP (other bytes than declared).")
        return data

    def open(self, name: str) -> IO[bytes]:
        """A member as a stream that can seek; its `read` may raise `zipfile.BadZipFile` or `zlib.error`.

        Raises:
            errors.BadDataset: Its header is damaged.
        """
        with _damage():
            return self._zip.open(self.members[name])

    def seekable(self, name: str) -> IO[bytes]:
        """A member as a stream that is quick to seek: in place if it is stored, else from memory.

        Raises:
            errors.TooLarge: Compressed, and too large for memory.
            errors.BadDataset: Damaged.
        """
        entry = self.members[name]
        if entry.compress_type != zipfile.ZIP_STORED:
            if entry.file_size > LARGEST_IN_MEMORY:
                raise errors.TooLarge(
                    f"A video of more than {LARGEST_IN_MEMORY >> 20} MB must not be compressed by the ZIP (`zip -0`)."
                )
            return io.BytesIO(self.read(name))
        with self._reading:
            self.open(name).close()  # its own header agrees with the table of contents
        return io.BufferedReader(_Window(self._path, entry))

    def lines(self, name: str) -> Iterator[bytes]:
        """A text member line by line; a line of more than 64 KiB comes in pieces.

        Raises:
            errors.BadDataset: Damaged.
        """
        with self.open(name) as member, _damage():
            while line := member.readline(1 << 16):
                yield line


class _Bounded(io.FileIO):
    """The archive's file, for `zipfile`: it reads the whole table of contents at once and makes an object an entry."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.in_contents = True
        """Whether what is read is still the table of contents; later a member may well be larger."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read; a table of contents beyond the limits is refused before it becomes objects.

        Raises:
            errors.TooLarge: It is.
        """
        size = -1 if size is None else size
        if not self.in_contents:
            return b"".join(self._pieces(size))
        if size > LARGEST_DIRECTORY:
            raise errors.TooLarge("The ZIP's table of contents is too large; at most a million files can be used.")
        data = b"".join(self._pieces(size))
        if len(data) > MOST_MEMBERS * len(SIGNATURE) and data.count(SIGNATURE) > MOST_MEMBERS:
            raise errors.TooLarge(f"The ZIP has more than {MOST_MEMBERS:,} files. Upload fewer, or larger ones.")
        return data

    def _pieces(self, size: int) -> Iterator[bytes]:
        while size and (piece := super().read(size)):
            yield piece
            size -= len(piece) if size > 0 else 0


class _Window(io.RawIOBase):
    """The bytes of a stored member, in the archive's file."""

    def __init__(self, path: Path, entry: zipfile.ZipInfo) -> None:
        self._file = path.open("rb", buffering=0)
        header = os.pread(self._file.fileno(), LOCAL_HEADER, entry.header_offset)
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        self._start = entry.header_offset + LOCAL_HEADER + lengths
        self._size, self._at = entry.file_size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = min(max(0, base + offset), self._size)
        return self._at

    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer)
        data = os.pread(self._file.fileno(), min(len(view), self._size - self._at), self._start + self._at)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


class _damage:
    """What reading a broken member raises, as a sentence."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeError, ValueError)):
            raise errors.BadDataset(f"It is damaged in the ZIP ({_reason(error)}).") from error


def _reason(error: BaseException) -> str:
    return "wrong checksum" if "CRC" in str(error) else "its header or its data are not as the table of contents says"


def clean(raw: str) -> str:
    """The path of a member as a user sees it. Nothing is written by it, so this is about meaning, not about safety.

    Raises:
        errors.BadDataset: It leaves the archive, which nobody's tool does by mistake.
    """
    name = unicodedata.normalize("NFC", raw.replace("\\", "/"))
    if name.startswith("/") or (name[1:2] == ":" and name[:1].isalpha()):
        raise errors.BadDataset(f"The ZIP has an absolute path: {shown(raw)}. Make it again with relative names.")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise errors.BadDataset(f"The ZIP has a path that leads out of it: {shown(raw)}. Make it again without `..`.")
    return "/".join(parts)


def _unusable(entry: zipfile.ZipInfo, raw: str, name: str) -> str | None:
    """Why this one member is left out, or None."""
    mode = entry.external_attr >> 16
    if entry.create_system == 3 and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "is a symbolic link or a device; only ordinary files are used"
    if not raw.isprintable() and any(unicodedata.category(letter) in UNSEEN for letter in raw):
        return "has control characters in its name; rename it"
    if len(name) > LONGEST_NAME or any(len(part.encode(errors="replace")) > LONGEST_PART for part in name.split("/")):
        return f"has a name of more than {LONGEST_PART} bytes; rename it"
    if name.lower().endswith(ARCHIVES):
        return "is an archive within the archive, which is not opened; put its files into the ZIP itself"
    if entry.compress_type not in METHODS:
        return "is compressed in a way we do not read; make the ZIP with the ordinary method (deflate) or none"
    return None


def _refuse_bombs(entries: list[zipfile.ZipInfo], size: int) -> None:
    for entry in entries:
        ratio = entry.file_size / max(1, entry.compress_size)
        if entry.file_size > SUSPICIOUS_BYTES and ratio > SUSPICIOUS_RATIO:
            raise errors.BadDataset(
                f"{shown(entry.orig_filename)} unfolds to {entry.file_size / 2**20:,.0f} MB, {ratio:,.0f} times its "
                "size in the ZIP: that is no image and no table of labels. Leave it out."
            )
    unfolded = sum(entry.file_size for entry in entries)
    if unfolded > SUSPICIOUS_BYTES and unfolded > SUSPICIOUS_RATIO * size:
        raise errors.BadDataset(f"The ZIP unfolds to {unfolded / size:,.0f} times its size: these are no images.")
    if unfolded > MOST_UNFOLDED:
        raise errors.TooLarge(f"The files in the ZIP have {unfolded / 2**30:,.0f} GiB; at most {MOST_UNFOLDED >> 30}.")


def _refuse_overlaps(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Every member has bytes of its own, the first ones of the file included."""
    end, before = 0, None
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < end:
            raise errors.BadDataset(
                f"{shown(entry.orig_filename)} and {shown(before or '')} share bytes of the ZIP. Make it again."
            )
        if before is None and entry.header_offset > 0:
            raise errors.BadDataset(
                f"There are {entry.header_offset:,} bytes before the first file of the ZIP, so it is something else as "
                "well. Make it again as a ZIP only."
            )
        end = entry.header_offset + LOCAL_HEADER + len(entry.orig_filename) + entry.compress_size
        before = entry.orig_filename
        if end > size:
            raise errors.BadDataset(f"{shown(before)} would reach beyond the end of the ZIP; the upload was cut off.")
