"""The socket of events, in raw ASGI: who gets in, what is told, and every way it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway import events, sockets, tickets
from gateway.app import create_app
from gateway.context import Context
from gateway.tickets import PER_USER, TTL_S, Tickets
from shared import clock, errors
from shared.db import accounts
from shared.wire.events import Resync
from shared.wire.messages import Event
from tests.unit.gateway_kit import Feed, SocketTalk, context_at, converse, gateway_at, new_key, problem
from tests.unit.test_revocation import BY_SESSION, ENDS, PROMISED_S, credentials_of


@pytest.fixture
def feed() -> Feed:
    return Feed()


@pytest.fixture
def context(db_file: Path, tmp_path: Path, feed: Feed) -> Context:
    return context_at(tmp_path, feed=feed)


@pytest.fixture
def key(context: Context) -> str:
    return new_key("eve", "engineer")


def event(seq: int, topic: str = "job.1") -> Event:
    return Event(seq=seq, boot_id="b", topic=topic, time="2026-01-01T00:00:00.000Z", body={"n": seq})


async def until(check: Callable[[], object]) -> None:
    while not check():
        await asyncio.sleep(0.01)


def answered(context: Context, *talks: SocketTalk) -> list[int]:
    """What each handshake is answered, one after the other; one that is accepted leaves."""

    app: Any = create_app(context)

    async def main() -> None:
        async with context.running(), asyncio.timeout(20):
            for talk in talks:
                serving = asyncio.create_task(app(talk.scope, talk.incoming.get, talk.send))
                await until(lambda: talk.sent or serving.done())  # noqa: B023
                if talk.open:
                    talk.leave()
                await serving

    asyncio.run(main())
    return [talk.status for talk in talks]


def test_a_socket_says_what_the_stream_says(context: Context, feed: Feed, key: str) -> None:
    talk = SocketTalk(key)

    async def meanwhile() -> None:
        await until(lambda: talk.open)
        for item in (event(1), event(2, "doorbell.cpu"), Resync(reason="lost"), event(9)):
            feed.put(item)
        await until(lambda: len(talk.messages) == 3)
        context.drain()

    converse(context, talk, meanwhile)
    first, resync, last = talk.messages
    assert first == {"seq": 1, "topic": "job.1", "time": "2026-01-01T00:00:00.000Z", "body": {"n": 1}}
    assert resync == {"topic": "resync"}
    assert (last["seq"], last["body"]) == (2, {"n": 9})
    assert talk.farewell[0] == 1001
    names = {name for name, _ in talk.sent[0]["headers"]}
    assert b"x-request-id" in names
    assert not context.hub._lines


def test_what_a_client_says_is_dropped_and_one_that_leaves_is_forgotten(context: Context, feed: Feed, key: str) -> None:
    talk = SocketTalk(key)

    async def meanwhile() -> None:
        for number in range(100):
            talk.say(b"%d" % number)
        await until(lambda: talk.open and talk.incoming.empty())
        feed.put(event(1))
        await until(lambda: talk.messages)
        talk.leave()
        await until(lambda: not context.hub._lines)

    converse(context, talk, meanwhile)
    assert len(talk.messages) == 1
    assert {message["type"] for message in talk.sent} == {"websocket.accept", "websocket.send"}


@pytest.mark.parametrize("how", ENDS)
def test_an_open_socket_ends_with_the_access(context: Context, how: str) -> None:
    user_id, key_id, session_id, key, token = credentials_of(context)
    talk = SocketTalk(headers={"authorization": f"Bearer {token if how in BY_SESSION else key}"})

    async def meanwhile() -> None:
        await until(lambda: talk.open)
        await asyncio.to_thread(ENDS[how], user_id, key_id, session_id)
        async with asyncio.timeout(5 * PROMISED_S):  # a busy machine; the looks themselves are added up elsewhere
            await until(lambda: talk.sent[-1]["type"] == "websocket.close")

    converse(context, talk, meanwhile)
    code, reason = talk.farewell
    assert code == (4403 if how == "role changed" else 4401)
    assert reason and len(reason.encode()) <= 123


def test_a_client_that_does_not_listen_is_let_go(
    context: Context, feed: Feed, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "SEND_S", 0.05)
    talk = SocketTalk(key)
    tried: list[str] = []

    async def stuck(message: dict[str, Any]) -> None:
        tried.append(message["type"])
        if message["type"] != "websocket.accept":
            await asyncio.Event().wait()

    talk.send = stuck

    async def meanwhile() -> None:
        await until(lambda: tried)
        for number in range(events.UNREAD * 2):
            feed.put(event(number))
        await until(lambda: not context.hub._lines)

    converse(context, talk, meanwhile)
    assert tried == ["websocket.accept", "websocket.send", "websocket.close"]


@pytest.mark.parametrize("error", [OSError(), RuntimeError("after sending 'websocket.close'")])
def test_a_connection_that_the_server_closed_is_no_failure_of_ours(
    context: Context, feed: Feed, key: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    talk = SocketTalk(key)
    accept = talk.send

    async def gone(message: dict[str, Any]) -> None:
        if message["type"] == "websocket.send":
            raise error
        await accept(message)

    talk.send = gone

    async def meanwhile() -> None:
        await until(lambda: talk.open)
        feed.put(event(1))
        await until(lambda: not context.hub._lines)

    converse(context, talk, meanwhile)
    assert [message["type"] for message in talk.sent] == ["websocket.accept"]
    assert "unexpected failure" not in caplog.text


def test_one_listener_too_many(context: Context, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LISTENERS", 0)
    talk = SocketTalk(key)
    assert answered(context, talk) == [503]
    assert (b"retry-after", b"30") in [(name.lower(), value) for name, value in talk.sent[0]["headers"]]


# --- who gets in ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 101),
        ("http://test", 101),
        ("https://test", 101),
        ("https://a.example", 101),
        ("https://evil.example", 403),
        ("http://test.evil.example", 403),
        ("http://test:81", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_origins(context: Context, key: str, origin: str | None, status: int) -> None:
    context.settings = msgspec.structs.replace(context.settings, cors_origins="https://a.example")
    talk = SocketTalk(key, {} if origin is None else {"origin": origin})
    assert answered(context, talk) == [status]


def test_without_a_credential_and_with_too_small_a_role(context: Context, key: str) -> None:
    missing = SocketTalk()
    others = [
        SocketTalk(new_key("vic", "viewer")),
        SocketTalk(headers={"authorization": "Bearer x.y.z"}),
        SocketTalk(query=f"access_token={key}"),  # no credential in a URL
        SocketTalk(query=f"ticket={key}"),
        SocketTalk(key, query="ticket=wrong"),  # a wrong ticket is refused beside a good key
    ]
    assert answered(context, missing, *others) == [401, 403, 401, 401, 401, 401]
    assert missing.sent[0]["type"] == "websocket.http.response.start"
    assert json.loads(missing.body)["code"] == "unauthorized"


def test_a_page_with_its_cookie(context: Context) -> None:
    token = credentials_of(context)[-1]
    cookie = {"cookie": f"cvp_session={token}"}
    ours, theirs = (SocketTalk(headers=cookie | {"origin": f"http://{host}"}) for host in ("test", "evil.test"))
    assert answered(context, ours, theirs) == [101, 403]


def test_a_ticket_opens_one_socket_once(context: Context, key: str) -> None:
    owner = accounts.by_name("eve")
    assert owner is not None
    ticket = context.tickets.issue(owner[0].id, key.encode())
    first, second = SocketTalk(query=f"ticket={ticket}"), SocketTalk(query=f"ticket={ticket}")
    assert answered(context, first, second) == [101, 401]
    assert "unknown, used or older than 60 s" in json.loads(second.body)["detail"]


def test_a_ticket_stands_for_the_credential_it_was_asked_for_with(db_file: Path, tmp_path: Path) -> None:
    with gateway_at(tmp_path) as gateway:
        for role in ("viewer", "engineer"):
            answer = gateway.post("/auth/ticket", role=role)
            assert (answer.status_code, answer.json()["expires_in"]) == (201, TTL_S)
            assert gateway.context.tickets.redeem(answer.json()["ticket"]) == gateway.keys[role].encode()
        plain = gateway.get("/events/ws")
        problem(plain, 426, "upgrade_required")
        assert (plain.headers["upgrade"], plain.headers["sec-websocket-version"]) == ("websocket", "13")


@pytest.mark.parametrize("how", ENDS)
def test_what_ended_between_ticket_and_socket_counts(context: Context, how: str) -> None:
    user_id, key_id, session_id, key, token = credentials_of(context)
    ticket = context.tickets.issue(user_id, (token if how in BY_SESSION else key).encode())
    ENDS[how](user_id, key_id, session_id)
    talk = SocketTalk(query=f"ticket={ticket}")
    assert answered(context, talk) == [403 if how == "role changed" else 401]


def test_a_socket_opened_by_ticket_ends_with_the_credential_behind_it(context: Context) -> None:
    user_id, key_id, _, key, _ = credentials_of(context)
    talk = SocketTalk(query=f"ticket={context.tickets.issue(user_id, key.encode())}")

    async def meanwhile() -> None:
        await until(lambda: talk.open)
        await asyncio.to_thread(accounts.revoke_key, key_id, user_id)
        await until(lambda: talk.sent[-1]["type"] == "websocket.close")

    converse(context, talk, meanwhile)
    assert talk.farewell[0] == 4401


def test_a_socket_outlives_no_expiry(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    token = credentials_of(context)[-1]
    talk = SocketTalk(headers={"authorization": f"Bearer {token}"})

    async def meanwhile() -> None:
        await until(lambda: talk.open)
        later = clock.now_ms() + 61_000
        monkeypatch.setattr(clock, "now_ms", lambda: later)
        await until(lambda: talk.sent[-1]["type"] == "websocket.close")

    converse(context, talk, meanwhile)
    assert talk.farewell[0] == 4401


# --- tickets alone ----------------------------------------------------------------------------------------------------


def test_tickets_expire_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr(tickets.time, "monotonic", lambda: now_s)
    kept = Tickets()
    others = kept.issue("usr_2", b"other")
    mine = [kept.issue("usr_1", b"mine") for _ in range(PER_USER + 5)]
    assert len(kept._unused) == PER_USER + 1
    for gone in mine[:5]:
        with pytest.raises(errors.Unauthorized):
            kept.redeem(gone)
    assert kept.redeem(others) == b"other"
    assert kept.redeem(mine[5]) == b"mine"
    assert not any(text.encode() in key for text in mine for key in kept._unused), "kept by hash"
    now_s += TTL_S
    with pytest.raises(errors.Unauthorized):
        kept.redeem(mine[6])
    kept.issue("usr_3", b"x")
    assert len(kept._unused) == 1
