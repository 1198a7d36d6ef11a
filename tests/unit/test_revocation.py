"""Access that ends elsewhere ends here: every way of losing it closes an open stream, by the running caches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway import caches, events
from gateway.context import Context
from shared import apikeys, clock, errors
from shared.db import accounts
from tests.unit.gateway_kit import Conversation, context_at, converse

PROMISED_S = 1.0
ENDS: dict[str, Callable[[str, str, str], object]] = {
    "role changed": lambda user, _key, _session: accounts.change_user(user, role="viewer"),
    "password changed": lambda user, _key, _session: accounts.change_user(user, password_hash="another"),
    "user deleted": lambda user, _key, _session: accounts.delete_user(user),
    "key revoked": lambda user, key, _session: accounts.revoke_key(key, user),
    "signed out": lambda _user, _key, session: accounts.close_session(session),
}
BY_SESSION = ("password changed", "signed out")


def test_the_looks_add_up_to_less_than_what_is_promised() -> None:
    assert caches.LOOK_S + events.CHECK_S < PROMISED_S


def credentials_of(context: Context) -> tuple[str, str, str, str, str]:
    """A user, a key and a session of theirs: ids, the key itself, and the token."""
    user = accounts.add_user("eve", "unusable", "engineer")
    key = apikeys.new_key()
    row = accounts.add_key(user.id, "test", apikeys.fingerprint(key), apikeys.hint(key), None)
    session = accounts.open_session(user.id, 60_000)
    token = context.signer.sign(user.id, session.id, session.created_at_ms, session.expires_at_ms)
    return user.id, row.id, session.id, key, token


@pytest.mark.parametrize("how", ENDS)
def test_an_open_stream_ends_with_the_access(db_file: Path, tmp_path: Path, how: str) -> None:
    context = context_at(tmp_path)
    user_id, key_id, session_id, key, token = credentials_of(context)
    given = {"authorization": f"Bearer {token}"} if how in BY_SESSION else {"authorization": f"Bearer {key}"}
    talk = Conversation("GET", "/api/v1/events", "", given)

    async def meanwhile() -> None:
        while not talk.body:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(ENDS[how], user_id, key_id, session_id)
        async with asyncio.timeout(5 * PROMISED_S):  # a busy machine; the looks themselves are added up above
            while talk.sent[-1].get("more_body", True):
                await asyncio.sleep(0.01)

    converse(context, talk, meanwhile)
    assert talk.status == 200
    assert not context.hub._lines


def test_an_open_stream_outlives_no_expiry(db_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_at(tmp_path)
    token = credentials_of(context)[-1]
    talk = Conversation("GET", "/api/v1/events", "", {"authorization": f"Bearer {token}"})

    async def meanwhile() -> None:
        while not talk.body:
            await asyncio.sleep(0.01)
        later = clock.now_ms() + 61_000
        monkeypatch.setattr(clock, "now_ms", lambda: later)

    converse(context, talk, meanwhile)
    assert talk.status == 200


def test_many_connections_with_one_credential_ask_the_database_once(
    db_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also right after access has changed, when all that was remembered is dropped."""
    context = context_at(tmp_path)
    _, key_id, _, key, _ = credentials_of(context)
    asked: list[object] = []
    read = context.store.read

    async def counted(*given: Any) -> Any:
        asked.append(given)
        return await read(*given)

    monkeypatch.setattr(context.store, "read", counted)
    scope: Any = {"headers": [(b"x-api-key", key.encode())], "state": {}}

    async def crowd() -> set[str]:
        found = await asyncio.gather(*(context.credentials.identify(scope) for _ in range(1000)))
        return {identity.account.username for identity in found}

    async def scenario() -> None:
        assert await crowd() == {"eve"} and len(asked) == 1
        under_way = [asyncio.ensure_future(context.credentials.identify(scope)) for _ in range(3)]
        context.credentials.forget()
        assert await crowd() == {"eve"} and len(asked) == 2
        await asyncio.gather(*under_way)
        accounts.revoke_key(key_id, accounts.by_name("eve")[0].id)
        early = asyncio.ensure_future(context.credentials.identify(scope))
        await asyncio.sleep(0)
        context.credentials.forget()
        with pytest.raises(errors.Unauthorized):
            await crowd()
        with pytest.raises(errors.Unauthorized):
            await context.credentials.identify(scope)
        await asyncio.gather(early, return_exceptions=True)

    asyncio.run(scenario())
