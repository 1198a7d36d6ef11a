"""Wrong passwords cost time, account by account: after a few, the next sign-in has to wait, longer each time.

Only sign-ins by password wait; tokens and API keys go on working, and no wait is longer than a minute after the last
guess. A stranger who guesses all the time keeps a user from signing in, not from working (`docs/KNOWN_GAPS.md`).
Names nobody has are treated like those somebody has. Where a request comes from does not count: a guesser has many
addresses, and headers about them can be made up. What counts is guesses at one password: where it was set anew, by
whomever, the count of the old one is left behind.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

from shared import errors
from shared.db.audit import Try

FREE = 5
"""Wrong passwords within `WINDOW_S` that cost nothing."""

WINDOW_S = 15 * 60.0
LONGEST_S = 60.0
ACCOUNTS = 10_000
"""Accounts remembered; the one left alone for longest is forgotten first."""


def target(username: str, password_hash: str | None) -> bytes:
    """What is guessed at: the present password of a name; None for a name nobody has.

    Case does not matter in names; a digest, because people type passwords into the wrong field.
    """
    return hashlib.sha256(f"{username.lower()}\n{password_hash}".encode()).digest()


class _Record:
    """Wrong passwords of one account."""

    __slots__ = ("last_s", "open_at_s", "wrong")

    def __init__(self) -> None:
        self.wrong, self.last_s, self.open_at_s = 0, 0.0, 0.0


class Throttle:
    """Counts wrong passwords in memory; used on the event loop only. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._records: OrderedDict[bytes, _Record] = OrderedDict()

    def admit(self, target: bytes, now_s: float) -> None:
        """Let an attempt through, before its password is looked at.

        Beyond the free ones an attempt pays its wait in advance, so that many at once are one.

        Args:
            target: What is guessed at, see `target`.
            now_s: The time.

        Raises:
            errors.TooManyAttempts: The account has to wait; the right password would have to, too.
        """
        record = self._records.get(target)
        if record is None:
            return
        if now_s < record.open_at_s:
            raise errors.TooManyAttempts(
                "Too many wrong passwords for this user name; wait as long as Retry-After says. "
                "Sign-ins that are open and API keys go on working.",
                retry_after_s=record.open_at_s - now_s,
            )
        if now_s - record.last_s > WINDOW_S:
            del self._records[target]
        elif record.wrong >= FREE:
            record.open_at_s = now_s + _wait_s(record.wrong + 1)

    def wrong(self, target: bytes, now_s: float) -> None:
        """The password was wrong."""
        record = self._records.setdefault(target, _Record())
        self._records.move_to_end(target)
        record.wrong, record.last_s = record.wrong + 1, now_s
        if record.wrong >= FREE:
            record.open_at_s = max(record.open_at_s, now_s + _wait_s(record.wrong))
        if len(self._records) > ACCOUNTS:
            self._records.popitem(last=False)

    def right(self, target: bytes) -> None:
        """The password was right: the account starts afresh."""
        self._records.pop(target, None)

    def remember(self, tries: Sequence[Try], now_ms: int, now_s: float) -> None:
        """Count what the audit log says of the time before this process started; `now` on both clocks."""
        for attempt in tries:
            account = target(attempt.username, attempt.password_hash)
            if attempt.right:
                self.right(account)
            else:
                self.wrong(account, now_s - max(0, now_ms - attempt.at_ms) / 1000)


def _wait_s(wrong: int) -> float:
    return float(min(2 ** min(wrong - FREE, 10), LONGEST_S))
