"""What a client may send before it has signed in has an end: headers in bytes, fields and time, and connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from gateway import __main__ as service
from gateway import protocol
from gateway.protocol import BODY_IS_HERE, HEADER_BYTES, HEADER_FIELDS, PRESENCE, BoundedHttp, BoundedSocket
from tests.unit.gateway_kit import context_at

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[Any]]
GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"


class Echo:
    """Answers with the size of the body; remembers whether it was there at once, and how its requests ended."""

    def __init__(self) -> None:
        self.ends: list[str] = []
        self.whole: list[bool] = []
        self.padding = b""
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.read, self.left = asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.whole.append(BODY_IS_HERE in scope["state"])
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.ends.append("gone")
                return
            size, more = size + len(message["body"]), message["more_body"]
        scope["state"][PRESENCE].on_leaving = self.left.set
        self.read.set()
        await self.go_on.wait()
        scope["state"][PRESENCE].on_leaving = None
        body = self.padding + str(size).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})
        self.ends.append("answered")


def converse(
    talk: Callable[[Echo, Callable[[], Awaitable[Any]]], Awaitable[Any]],
    protocol_class: type[BoundedHttp] = BoundedHttp,
    make_app: type[Echo] = Echo,
    **options: Any,
) -> Any:
    """Run `talk` with the application and a way to open connections to it."""

    async def main() -> Any:
        app = make_app()
        config = uvicorn.Config(app, http=BoundedHttp, ws="none", lifespan="off", log_config=None, **options)
        config.load()
        state = ServerState()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: protocol_class(config, state, {}), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        opened: list[asyncio.StreamWriter] = []

        async def connect() -> Any:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            opened.append(writer)
            return reader, writer

        try:
            async with asyncio.timeout(10):
                return await talk(app, connect)
        finally:
            for writer in opened:
                writer.close()
            server.close()
            async with asyncio.timeout(5):
                while state.connections or state.tasks:
                    await asyncio.sleep(0.01)

    return asyncio.run(main())


def answers(*parts: bytes) -> bytes:
    """Everything the server answers to `parts`, up to its closing."""

    async def talk(_: Echo, connect: Any) -> bytes:
        reader, writer = await connect()
        for part in parts:
            writer.write(part)
            await writer.drain()
        return bytes(await reader.read())

    return bytes(converse(talk))


def refused(answer: bytes, status: int, code: str) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in head and b"content-type: application/problem+json" in head
    problem = json.loads(body)
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["request_id"].encode() in head and problem["detail"]


IN_VAIN = (
    b"Connection: keep-alive, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\n",
)


@pytest.mark.parametrize("wish", IN_VAIN, ids=["HTTP/2", "WebSocket"])
@pytest.mark.parametrize("pieces", [1, 2, 400], ids=["at once", "body later", "in drops"])
def test_a_body_is_read_where_another_protocol_is_asked_for_in_vain(wish: bytes, pieces: int) -> None:
    head = POST + wish + b"Content-Length: 5\r\n\r\n"
    chunked = POST + wish + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
    last = POST + b"Connection: close\r\nContent-Length: 2\r\n\r\nab"
    whole = head + b"hello" + GET + wish + b"\r\n" + chunked + last
    size = {1: len(whole), 2: len(head), 400: -(-len(whole) // 400)}[pieces]
    told = answers(*(whole[at : at + size] for at in range(0, len(whole), size)))
    sizes = [each.partition(b"\r\n\r\n")[2] for each in told.split(b"HTTP/1.1 ")[1:]]
    assert sizes == [b"5", b"0", b"7", b"2"]


def test_a_wish_for_another_protocol_does_not_widen_the_bounds() -> None:
    wish = POST + IN_VAIN[0]
    refused(answers(wish + b"X: y\r\n" * HEADER_FIELDS + b"Content-Length: 1\r\n\r\na"), 431, "header_too_large")
    refused(answers(wish + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400, "bad_request")


@pytest.mark.parametrize(
    "flood",
    [
        b"X-A: " + b"a" * 100 + b"\r\n",
        b"X" * 1000,
        b"a:\r\n",
        b"\r\n",
    ],
    ids=["fields", "a name without end", "tiny fields", "empty lines"],
)
def test_a_header_without_end_is_refused_soon(flood: bytes) -> None:
    start = b"" if flood == b"\r\n" else GET
    refused(answers(start + flood * (2 * HEADER_BYTES // len(flood))), 431, "header_too_large")


def test_a_url_without_end_is_refused() -> None:
    refused(answers(b"GET /", b"a" * (HEADER_BYTES + 1)), 431, "header_too_large")


@pytest.mark.parametrize(
    "header",
    [b"X-A: b\r\n" * HEADER_FIELDS, b"X-A: " + b"a" * HEADER_BYTES + b"\r\n", b"Cookie: " + b"c" * 200_000 + b"\r\n"],
    ids=["fields", "one byte over", "in one piece"],
)
def test_a_complete_header_over_the_bounds_is_refused(header: bytes) -> None:
    refused(answers(GET + header + b"\r\n"), 431, "header_too_large")


def test_a_header_at_the_bounds_is_served() -> None:
    rest = b"X-A: b\r\n" * (HEADER_FIELDS - 2) + b"Connection: close\r\n\r\n"
    assert answers(GET + rest).startswith(b"HTTP/1.1 200 ")
    large = b"X-A: " + b"a" * (HEADER_BYTES - 200) + b"\r\nConnection: close\r\n\r\n"
    assert answers(GET, large).startswith(b"HTTP/1.1 200 ")


def test_a_large_body_is_no_header() -> None:
    size = 5 * HEADER_BYTES
    head = POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % size
    assert answers(head + b"a" * size).endswith(str(size).encode())


def test_a_body_that_is_here_is_said_to_be() -> None:
    async def talk(app: Echo, connect: Any) -> list[bool]:
        reader, writer = await connect()
        head = POST + b"Content-Length: 2\r\n\r\n"
        for first, rest in ((head + b"ab", b""), (head, b"ab"), (head + b"a", b"b")):
            called = len(app.whole)
            writer.write(first)
            while len(app.whole) == called:
                await asyncio.sleep(0.01)
            writer.write(rest)
            assert (await reader.readuntil(b"\r\n\r\n2")).startswith(b"HTTP/1.1 200 ")
        return app.whole

    assert converse(talk) == [True, False, False]


@pytest.mark.parametrize("size", [2, 1_000_000])
def test_who_waits_for_an_answer_is_heard_leaving(size: int) -> None:
    """Also when its body was so large that reading paused meanwhile."""

    async def talk(app: Echo, connect: Any) -> bool:
        app.go_on.clear()
        _, writer = await connect()
        writer.write(POST + b"Content-Length: %d\r\n\r\n" % size + b"a" * size)
        await writer.drain()
        await app.read.wait()
        assert not app.left.is_set()
        writer.close()
        await app.left.wait()
        app.go_on.set()
        return True

    assert converse(talk)


def test_a_trailer_without_end_ends_the_request() -> None:
    async def talk(app: Echo, connect: Any) -> list[str]:
        _, writer = await connect()
        writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n")
        with contextlib.suppress(ConnectionError):
            while not app.ends:
                writer.write(b"X-A: " + b"a" * HEADER_BYTES)
                await writer.drain()
        while not app.ends:
            await asyncio.sleep(0.01)
        return app.ends

    assert converse(talk) == ["gone"]


@pytest.mark.parametrize("sent", [b"", b"GET / HT", GET], ids=["nothing", "a line", "no blank line"])
def test_a_header_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(protocol, "HEADER_S", 0.05)
    answer = answers(sent)
    if sent:
        refused(answer, 408, "header_too_slow")
    else:
        assert answer == b""


@pytest.mark.parametrize("sent", [b"GET / HT", b"\r\n"], ids=["a line", "an empty line"])
def test_a_later_header_has_a_deadline_too(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    async def talk(_: Echo, connect: Any) -> bytes:
        reader, writer = await connect()
        writer.write(GET + b"\r\n")
        await reader.readuntil(b"\r\n\r\n0")
        monkeypatch.setattr(protocol, "HEADER_S", 0.05)
        writer.write(sent)
        return bytes(await reader.read())

    refused(converse(talk), 408, "header_too_slow")


def test_an_answer_that_takes_long_is_not_cut_by_a_slow_header_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEADER_S", 0.3)

    async def talk(app: Echo, connect: Any) -> bytes:
        app.go_on.clear()
        reader, writer = await connect()
        writer.write(GET + b"\r\n" + b"GET / HT")
        asyncio.get_running_loop().call_later(0.9, app.go_on.set)
        return bytes(await reader.read())

    first, _, second = converse(talk).partition(b"\r\n\r\n0")
    assert first.startswith(b"HTTP/1.1 200 ")
    refused(second, 408, "header_too_slow")


def test_broken_chunking_is_answered_and_the_application_told() -> None:
    async def talk(app: Echo, connect: Any) -> tuple[bytes, list[str]]:
        reader, writer = await connect()
        writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        await asyncio.sleep(0)
        writer.write(b"ZZ\r\nab\r\n")
        answer = await reader.read()
        while not app.ends:
            await asyncio.sleep(0.01)
        return bytes(answer), app.ends

    answer, ends = converse(talk)
    refused(answer, 400, "bad_request")
    assert ends == ["gone"]


def test_requests_in_line_on_one_connection_are_bounded() -> None:
    async def talk(app: Echo, connect: Any, requests: int) -> int:
        app.go_on.clear()
        reader, writer = await connect()
        writer.write((GET + b"\r\n") * (requests - 1) + GET + b"Connection: close\r\n\r\n")
        await writer.drain()
        asyncio.get_running_loop().call_later(0.05, app.go_on.set)
        return (await reader.read()).count(b"HTTP/1.1 200 ")

    in_line = 1 + protocol.PIPELINED
    assert converse(lambda app, connect: talk(app, connect, in_line)) == in_line
    assert converse(lambda app, connect: talk(app, connect, 50 * in_line)) == 0


LARGE = bytes(16 * 2**20)
"""More than the network's buffers hold."""


class Stream(Echo):
    """Sends until its client leaves."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        leaving = asyncio.create_task(receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not leaving.done():
            await send({"type": "http.response.body", "body": b"still here", "more_body": True})
            await asyncio.sleep(0.01)
        self.left.set()


def test_a_stream_hears_its_client_leaving_though_another_request_waits_behind_it() -> None:
    async def talk(app: Echo, connect: Any) -> None:
        reader, writer = await connect()
        writer.write(GET + b"\r\n" + GET + b"\r\n")
        await reader.read(1)
        writer.close()
        await app.left.wait()

    converse(talk, make_app=Stream)


def test_a_client_that_does_not_take_its_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "TAKE_S", 0.05)
    cut = asyncio.Event()

    class Noticed(BoundedHttp):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            cut.set()

    async def talk(app: Echo, connect: Any) -> None:
        app.padding = LARGE
        _, writer = await connect()  # nobody reads what comes
        writer.write(GET + b"\r\n")
        await cut.wait()

    converse(talk, protocol_class=Noticed)


@pytest.mark.parametrize(("took", "cut"), [(protocol.TAKE_BYTES, False), (protocol.TAKE_BYTES - 1, True)])
def test_a_client_that_takes_its_answer_slowly_gets_it(took: int, cut: bool) -> None:
    class Waiting:
        """A transport that got rid of some of what was written."""

        aborted = False

        def get_write_buffer_size(self) -> int:
            return 1_000_000 - took

        def abort(self) -> None:
            self.aborted = True

    async def main() -> bool:
        config = uvicorn.Config(Echo(), http=BoundedHttp, ws="none", lifespan="off", log_config=None)
        connection, transport = BoundedHttp(config, ServerState(), {}), Waiting()
        connection.transport = transport
        connection._look_at_taking(1_000_000)
        assert (connection._taking is None) == cut  # looked at again
        connection._taken()
        return transport.aborted

    assert asyncio.run(main()) == cut


def test_connections_are_bounded() -> None:
    async def talk(_: Echo, connect: Any) -> bytes:
        await connect()
        await connect()
        reader, _ = await connect()
        return bytes(await reader.read())

    refused(converse(talk, limit_concurrency=2), 503, "unavailable")


def test_the_gateway_speaks_it(tmp_path: Path) -> None:
    context = context_at(tmp_path)
    config = service._uvicorn(context.settings, context)
    config.load()
    assert config.http_protocol_class is BoundedHttp
    assert config.limit_concurrency == service.CONNECTIONS


def test_a_socket_whose_pings_are_not_answered_is_cut_whatever_it_has_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "CLOSE_S", 0.01)

    class Clogged:
        """A transport that never gets rid of what was written; closing it waits for that."""

        aborted = asyncio.Event()

        def is_closing(self) -> bool:
            return False

        def write(self, data: bytes) -> None: ...

        def close(self) -> None: ...

        def abort(self) -> None:
            self.aborted.set()

    async def main() -> None:
        config = uvicorn.Config(Echo(), http=BoundedHttp, ws=BoundedSocket, lifespan="off", log_config=None)
        socket, transport = BoundedSocket(config, ServerState(), {}), Clogged()
        socket.transport = transport
        socket.keepalive_timeout()
        async with asyncio.timeout(10):
            await transport.aborted.wait()

    asyncio.run(main())
