"""Server-sent events: what reaches a listener, and how a slow, a revoked and a departed one are dealt with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import events
from gateway.events import Hub
from shared import errors
from shared.wire.events import Resync
from shared.wire.messages import Event
from tests.unit.gateway_kit import Conversation, Feed, Gateway, context_at, converse, gateway_at, new_key, problem


@pytest.fixture
def gateway(db_file: Path, tmp_path: Path) -> Iterator[Gateway]:
    with gateway_at(tmp_path) as running:
        yield running


def event(seq: int, topic: str = "job.1") -> Event:
    return Event(seq=seq, boot_id="b", topic=topic, time="2026-01-01T00:00:00.000Z", body={"n": seq})


def test_events_reach_a_listener(db_file: Path, tmp_path: Path) -> None:
    feed = Feed()
    context = context_at(tmp_path, feed=feed)
    talk = Conversation("GET", "/api/v1/events", new_key("eve", "engineer"))

    async def meanwhile() -> None:
        while not talk.sent:
            await asyncio.sleep(0.01)
        for item in (event(1), event(2, "doorbell.cpu"), Resync(reason="lost"), event(9)):
            feed.put(item)
        while talk.body.count(b"data:") < 3:
            await asyncio.sleep(0.01)
        context.drain()

    converse(context, talk, meanwhile)
    assert talk.headers["content-type"].startswith("text/event-stream")
    assert b"doorbell" not in talk.body
    first, resync, last = [
        json.loads(line.removeprefix(b"data: ")) for line in talk.body.split(b"\n") if line.startswith(b"data:")
    ]
    assert first == {"seq": 1, "topic": "job.1", "time": "2026-01-01T00:00:00.000Z", "body": {"n": 1}}
    assert resync == {"topic": "resync"}
    assert (last["seq"], last["body"]) == (2, {"n": 9})


def test_a_listener_that_leaves_is_forgotten(db_file: Path, tmp_path: Path) -> None:
    context = context_at(tmp_path)
    talk = Conversation("GET", "/api/v1/events", new_key("eve", "engineer"))

    async def meanwhile() -> None:
        while not talk.body:
            await asyncio.sleep(0.01)
        assert len(context.hub._lines) == 1
        talk.leave()

    converse(context, talk, meanwhile)
    assert not context.hub._lines


async def welcome() -> None:
    """The credential is good."""


def test_a_listener_that_comes_back_reads_again() -> None:
    async def first(missed: bool) -> bytes:
        stream = Hub().listen("usr_1", missed, welcome)
        return await anext(stream)

    assert b"resync" in asyncio.run(first(True))
    assert b"resync" not in asyncio.run(first(False))


def test_a_slow_listener_is_told_to_read_again_and_does_not_grow() -> None:
    async def main() -> bytes:
        hub, feed = Hub(), Feed()
        relay = asyncio.create_task(hub.relay(feed))
        stream = hub.listen("usr_1", False, welcome)
        await anext(stream)
        for number in range(events.UNREAD + 1):
            feed.put(event(number))
        while not feed._items.empty():
            await asyncio.sleep(0)
        relay.cancel()
        hub.close()
        rest = b"".join([data async for data in stream])
        assert not hub._lines
        return rest

    assert asyncio.run(main()) == events.RESYNC.sse


def test_a_stream_ends_when_its_credential_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "CHECK_S", 0.01)
    asked = 0

    async def welcome_twice() -> None:
        nonlocal asked
        asked += 1
        if asked > 2:
            raise errors.Unauthorized("revoked")

    async def main() -> list[bytes]:
        return [data async for data in Hub().listen("usr_1", False, welcome_twice)]

    assert asyncio.run(main()) == [events.BEAT.sse]
    assert asked == 3


def test_a_quiet_stream_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "CHECK_S", 0.005)
    monkeypatch.setattr(events, "BEAT_S", 0.01)

    async def main() -> None:
        stream = Hub().listen("usr_1", False, welcome)
        async with asyncio.timeout(10):
            assert [await anext(stream) for _ in range(4)] == [events.BEAT.sse] * 4

    asyncio.run(main())


def test_a_busy_stream_ends_when_its_credential_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "CHECK_S", 0.01)

    async def not_welcome() -> None:
        raise errors.Unauthorized("revoked")

    async def main() -> None:
        hub, feed = Hub(), Feed()
        relay = asyncio.create_task(hub.relay(feed))
        async with asyncio.timeout(10):
            async for _ in hub.listen("usr_1", False, not_welcome):
                feed.put(event(1))  # every event is followed by the next: the line is never empty
        relay.cancel()

    asyncio.run(main())


def test_listeners_are_bounded(monkeypatch: pytest.MonkeyPatch, gateway: Gateway) -> None:
    monkeypatch.setattr(events, "LISTENERS", 0)
    problem(gateway.get("/events"), 503, "unavailable")


def test_a_user_takes_a_part_of_the_places_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "PER_USER", 2)

    async def main() -> None:
        hub = Hub()
        mine = [hub.follow("usr_1", welcome) for _ in range(3)]
        hub.check_room("usr_1")
        for news in mine[:2]:
            await anext(news)
        with pytest.raises(errors.Unavailable, match="2 times"):
            hub.check_room("usr_1")
        with pytest.raises(errors.Unavailable, match="2 times"):  # let in before the others were there
            await anext(mine[2])
        await anext(hub.follow("usr_2", welcome))
        await mine[0].aclose()
        hub.check_room("usr_1")

    asyncio.run(main())


def test_nobody_connects_to_a_gateway_that_stops(gateway: Gateway) -> None:
    gateway.context.drain()
    assert "stops" in problem(gateway.get("/events"), 503, "unavailable")["detail"]
