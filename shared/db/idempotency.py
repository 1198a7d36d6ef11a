"""`Idempotency-Key`: what a repeated request is answered, kept for a day per user and route."""

from __future__ import annotations

import msgspec

from shared import clock, errors
from shared.db.tables import Idempotency

KEPT_MS = 24 * 3600 * 1000


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """The key a client sent, in its scope."""

    user_id: str
    route: str
    key: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer that was given; `response` is JSON."""

    status: int
    response: msgspec.Raw
    location: str | None = None


def reserve(key: Key) -> None:
    """Inside `write()`: mark the key as in work, unless it has an answer already. For requests that take long to read.

    Raises:
        errors.Conflict: A request with this key is in work.
    """
    row = _row(key)
    if row is not None and row.status is None:
        raise errors.Conflict("A request with this Idempotency-Key is still in work; wait for its answer.")
    if row is None:
        Idempotency.insert(**msgspec.structs.asdict(key), body_sha256="", created_at_ms=clock.now_ms()).execute()


def recall(key: Key, body_sha256: str) -> Answer | None:
    """Inside `write()`: the stored answer to the same body, or None when this request is the first.

    Raises:
        errors.Conflict: The key was used with another body.
    """
    row = _row(key)
    if row is None or row.status is None:
        return None
    if row.body_sha256 != body_sha256:
        raise errors.Conflict("This Idempotency-Key was used with another body; take a new key for a new request.")
    return Answer(status=row.status, response=msgspec.Raw(msgspec.json.encode(row.response)), location=row.location)


def remember(key: Key, body_sha256: str, answer: Answer) -> None:
    """Inside the `write()` that does the work: store its answer, so both happen or neither."""
    row = msgspec.structs.asdict(key) | {
        "body_sha256": body_sha256,
        "status": answer.status,
        "response": msgspec.json.decode(answer.response),
        "location": answer.location,
        "created_at_ms": clock.now_ms(),
    }
    Idempotency.insert(**row).on_conflict_replace().execute()


def release(key: Key) -> None:
    """Inside `write()`: the request failed, so the key may be used again."""
    Idempotency.delete().where(_scope(key) & Idempotency.status.is_null()).execute()


def release_all() -> int:
    """Inside `write()`: forget what was in work when the gateway died; returns how many."""
    return int(Idempotency.delete().where(Idempotency.status.is_null()).execute())


def _scope(key: Key) -> object:
    return (Idempotency.user_id == key.user_id) & (Idempotency.route == key.route) & (Idempotency.key == key.key)


def _row(key: Key) -> Idempotency | None:
    """What is kept for the key; whatever is over a day old is dropped on the way."""
    Idempotency.delete().where(Idempotency.created_at_ms < clock.now_ms() - KEPT_MS).execute()
    return Idempotency.get_or_none(_scope(key))
