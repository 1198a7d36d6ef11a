"""Tickets: what opens one socket, once, within a minute, for clients that cannot send a credential in a header.

A ticket stands for the credential it was asked for with, and opens nothing that this one would not open at that moment:
who lost access in between has lost it. Kept in memory, by hash: a ticket is good at the gateway process that made it.
"""

from __future__ import annotations

import hashlib
import secrets
import time

import msgspec

from shared import errors

TTL_S = 60
PER_USER = 20
"""Good tickets of one user; one more, and the oldest of theirs is good no longer."""


class _Ticket(msgspec.Struct, frozen=True):
    """What a ticket stands for, and until when (monotonic)."""

    user_id: str
    credential: bytes
    until_s: float


class Tickets:
    """The tickets that were made and not used yet; the oldest first. Used on the event loop only."""

    def __init__(self) -> None:
        self._unused: dict[bytes, _Ticket] = {}

    def issue(self, user_id: str, credential: bytes) -> str:
        """A ticket that stands for `credential`, which was found good."""
        now_s = time.monotonic()
        for key in [key for key, ticket in self._unused.items() if ticket.until_s <= now_s]:
            del self._unused[key]
        theirs = [key for key, ticket in self._unused.items() if ticket.user_id == user_id]
        if len(theirs) >= PER_USER:
            del self._unused[theirs[0]]
        text = secrets.token_urlsafe(24)
        self._unused[_key(text)] = _Ticket(user_id, credential, now_s + TTL_S)
        return text

    def redeem(self, text: str) -> bytes:
        """The credential a ticket stands for; the ticket is used up.

        Raises:
            errors.Unauthorized: It is unknown, used or expired.
        """
        ticket = self._unused.pop(_key(text), None)
        if ticket is None or ticket.until_s <= time.monotonic():
            raise errors.Unauthorized(
                f"The ticket is unknown, used or older than {TTL_S} s; POST /api/v1/auth/ticket gives another."
            )
        return ticket.credential


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
