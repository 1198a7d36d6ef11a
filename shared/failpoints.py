"""Named points at which a test ends the process that reaches them, as a power cut would; inert unless asked for."""

from __future__ import annotations

import os
import signal

VARIABLE = "CVP_FAILPOINT"
"""`POINT` or `POINT:HITS` in the environment: SIGKILL when this process reaches the point for the HITS-th time."""

TRANSACTIONS = frozenset(
    {
        "accept",
        "cancel",
        "claim",
        "delete",
        "fail",
        "finish",
        "preset",
        "put_back",
        "recover",
        "retry",
        "revert",
        "search",
        "stale",
    }
)
"""Names of the durable transactions over jobs and files (`shared.db.connection.write`)."""

POINTS = frozenset(
    {
        *(f"{name}.{side}_commit" for name in TRANSACTIONS for side in ("before", "after")),
        "artifact.before_rename",  # written and synced, not yet in its place
        "artifact.after_rename",  # in its place, its row not yet written
        "backup.before_rename",  # written and read again, not yet under its name
        "backup.after_rename",
        "restore.before_move",  # some of the data is the backup's, some the former
        "restore.after_moves",  # all of it is the backup's, and the journal still there
        "child.before_result",  # in the child: the work is done, nobody knows
        "child.after_result",  # in the parent: it knows, nothing is written
    }
)
"""Every point there is."""


class _Armed:
    """The one point this process dies at."""

    def __init__(self, text: str) -> None:
        self._point, _, hits = text.partition(":")
        self._left = int(hits or 1)
        if self._point not in POINTS:
            raise ValueError(f"{VARIABLE}={text!r}: there is no such point; there are {', '.join(sorted(POINTS))}.")

    def reach(self, point: str) -> None:
        if point == self._point:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


_armed = _Armed(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None


def reach(point: str) -> None:
    """Die here if the environment says so."""
    if _armed is not None:
        _armed.reach(point)
