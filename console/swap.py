"""Renames that happen all or not at all, whenever their process is killed: a journal says what was to be moved."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from shared import failpoints
from shared.artifacts import sync_folder

Moves = Sequence[tuple[Path, Path]]
"""From where to where, in order; all on one file system each, nothing at any target."""


class Swap:
    """The one set of renames that may be under way in an installation.

    Args:
        journal: A file that exists exactly as long as they are under way.
    """

    def __init__(self, journal: Path) -> None:
        self.journal = journal

    @property
    def under_way(self) -> bool:
        """Whether another process is at it now, or was killed at it."""
        return self.journal.exists()

    def do(self, moves: Moves) -> None:
        """Rename everything; on the disk when this returns.

        Raises:
            OSError: One failed; all were taken back.
        """
        self._begin(moves)
        try:
            for source, target in moves:
                failpoints.reach("restore.before_move")
                target.parent.mkdir(exist_ok=True)
                source.rename(target)
            os.sync()
        except BaseException:
            self._undo(moves)
            raise
        failpoints.reach("restore.after_moves")
        self._end()

    def settle(self) -> None:
        """Take back what a process was killed at, unless it had moved everything. May itself be killed, and repeated.

        Raises:
            OSError: Something cannot be moved back; the journal stays.
        """
        if self.under_way:
            moves = [(Path(source), Path(target)) for source, target in self._read()]
            if all(target.exists() for _, target in moves):
                self._end()
            else:
                self._undo(moves)

    def _undo(self, moves: Moves) -> None:
        """Of every pair one place is taken and the other is free, so that what has happened can be seen."""
        for source, target in reversed(moves):
            if target.exists() and not source.exists():
                target.rename(source)
        for folder in {target.parent for _, target in moves}:
            with contextlib.suppress(OSError):  # not empty: it was there before
                folder.rmdir()
        os.sync()
        self._end()

    def _begin(self, moves: Moves) -> None:
        written = self.journal.with_suffix(".new")
        with written.open("wb") as file:
            file.write(msgspec.json.encode([(str(source), str(target)) for source, target in moves]))
            file.flush()
            os.fsync(file.fileno())
        written.rename(self.journal)
        sync_folder(self.journal.parent)

    def _read(self) -> list[tuple[str, str]]:
        return msgspec.json.decode(self.journal.read_bytes(), type=list[tuple[str, str]])

    def _end(self) -> None:
        self.journal.unlink()
        sync_folder(self.journal.parent)
