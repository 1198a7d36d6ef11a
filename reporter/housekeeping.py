"""Housekeeping between two reports: expired rows, the database's log, files nobody names, is everything sound?"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

from shared import clock, config, errors
from shared.artifacts import ArtifactStore
from shared.db import connection, housekeeping, registry

BUDGET_S = 0.02
"""A step goes on about this long, then the next report has its turn."""

ROWS_EVERY_S = 60.0
FILES_EVERY_S = 600.0
CHECK_EVERY_S = 24 * 3600.0
FIRST_CHECK_S = 600.0
"""Not at once, so that a start stays quick; not at an hour of the day, for machines that are off at night."""

ORPHAN_S = 3600.0
"""A file without a row goes when it was seen that long: whoever published it has had the time to write its row."""

STAGED_S = 24 * 3600.0
JUMP_S = 3600.0
"""The wall clock may gain this much between two looks; a clock that gains more is not believed for a day."""

DISTRUST_S = 24 * 3600.0
SOME = 200
TOLD = 10

logger = logging.getLogger(__name__)

Work = Iterator[None]
"""Work in small pieces, each a few milliseconds."""


class Chore:
    """Work that comes round again."""

    def __init__(self, work: Callable[[], Work], every_s: float, due_s: float) -> None:
        self.work, self.every_s, self.due_s = work, every_s, due_s


class Housekeeping:
    """Keeps one installation tidy, a few milliseconds at a time; the database of this process must be open."""

    def __init__(self, settings: config.Settings, monotonic: clock.Monotonic = time.monotonic) -> None:
        folders = {"models": settings.models, "datasets": settings.datasets, "reports": settings.reports}
        self._stores = {name: ArtifactStore(root) for name, root in folders.items()}
        self._monotonic = monotonic
        self._orphans: dict[tuple[str, str, str], float] = {}
        start = monotonic()
        self._trusted_s, self._offset_s = start, clock.now_ms() / 1000 - start
        self._chores = [
            Chore(self._rows, ROWS_EVERY_S, start + ROWS_EVERY_S),
            Chore(self._files, FILES_EVERY_S, start + ROWS_EVERY_S),
            Chore(self._check, CHECK_EVERY_S, start + FIRST_CHECK_S),
        ]
        self._work: Work = iter(())

    def step(self) -> None:
        """Go on with what is due, for about `BUDGET_S`. What fails is logged and comes round again."""
        end = self._monotonic() + BUDGET_S
        try:
            while self._piece() and self._monotonic() < end:
                pass
        except (errors.AppError, OSError) as error:
            self._work = iter(())
            logger.error("housekeeping could not go on", extra={"error": str(error)})

    def _piece(self) -> bool:
        """One piece of the work; false when nothing is due."""
        for _ in self._work:
            return True
        now = self._monotonic()
        due = next((chore for chore in self._chores if chore.due_s <= now), None)
        if due is None:
            return False
        due.due_s = now + due.every_s
        self._work = due.work()
        return True

    def _trusts_clock(self) -> bool:
        """False for a day after the wall clock ran away from the monotonic one; a suspended machine looks the same."""
        now = self._monotonic()
        before, self._offset_s = self._offset_s, clock.now_ms() / 1000 - now
        if self._offset_s - before > JUMP_S:
            logger.error("the clock jumped ahead; nothing expires for a day", extra={"by_s": self._offset_s - before})
            self._trusted_s = now + DISTRUST_S
        return now >= self._trusted_s

    def _rows(self) -> Work:
        gone = 0
        while self._trusts_clock() and (some := housekeeping.expire(clock.now_ms())):
            gone += some
            yield
        if gone:
            logger.info("expired rows are gone", extra={"rows": gone})
        housekeeping.checkpoint()
        yield
        housekeeping.truncate_log()

    def _files(self) -> Work:
        for name, store in self._stores.items():
            if self._trusts_clock() and (leftovers := store.sweep_staging(clock.now_ms() / 1000 - STAGED_S)):
                logger.info("removed what interrupted writers left behind", extra={"store": name, "files": leftovers})
            yield
        yield from self._sweep()
        yield from self._census()

    def _sweep(self) -> Work:
        """Remove files that no row has named for `ORPHAN_S`; the same file, all that time (no clock can jump here)."""
        seen: dict[tuple[str, str, str], float] = {}
        for name, store in self._stores.items():
            for files in store.published():
                unnamed = files.keys() - registry.named(files)
                for sha256 in unnamed:
                    key = (name, sha256, files[sha256])
                    since = self._orphans.get(key, self._monotonic())
                    if self._monotonic() - since < ORPHAN_S or not self._removed(store, sha256, files[sha256]):
                        seen[key] = since
                yield
        self._orphans = seen

    def _removed(self, store: ArtifactStore, sha256: str, mark: str) -> bool:
        with connection.write():  # uploads publish file and row inside theirs
            removed = not registry.is_kept(sha256) and store.discard(sha256, mark)
        if removed:
            logger.info("removed a file that nothing names", extra={"store": store.root.name, "sha256": sha256})
        return removed

    def _census(self) -> Work:
        """Say which recorded files are gone from the disk."""
        missing: list[str] = []
        last = ""
        while some := housekeeping.artifacts(last, SOME):
            missing += [f"{name}/{sha256}" for sha256, name in some if not self._is_there(name, sha256)]
            last = some[-1][0]
            yield
        if missing:
            logger.error("files are gone from the disk", extra={"count": len(missing), "files": missing[:TOLD]})

    def _is_there(self, name: str, sha256: str) -> bool:
        return self._stores[name].path(sha256).is_file() or not registry.named([sha256])

    def _check(self) -> Work:
        found = housekeeping.damage()
        yield
        if found:
            logger.error("the database file is damaged; restore a backup with `cvp restore`", extra={"found": found})
        else:
            logger.info("the database file is sound")
