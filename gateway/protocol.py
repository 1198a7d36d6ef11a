"""HTTP/1.1 as uvicorn speaks it, with an end to everything a client may send before it has signed in."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from http import HTTPStatus

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from gateway.errors import PROBLEM_JSON, Problem
from shared import ids

HEADER_BYTES = 16 * 1024
"""Four thousand connections of somebody without credentials hold 64 MiB with it."""

HEADER_FIELDS = 100

HEADER_S = 10.0
"""From the connection, or from the first byte of a later request on it, to the blank line after the header."""

PIPELINED = 16
"""Requests that may wait behind the one being answered: a connection can bring thousands in one piece."""

TAKE_S = 60.0
TAKE_BYTES = 64 * 1024
"""What a client must take in `TAKE_S` of an answer that waits for it; one that does not read would hold it for good."""

LINGER_S = 1.0
"""How long what a refused client still sends is dropped: closing at once would reset the connection, answer and all."""

SOCKET = b"/api/v1/events/ws"
SOCKET_KEY = rb"[A-Za-z0-9+/]{22}=="
"""Sixteen bytes in Base64 (RFC 6455, 4.1)."""

CLOSE_S = 2.0
"""Between the end of a WebSocket on our side and that of its connection."""

UNSENT_BYTES = 2**20
"""What may wait for the client of a WebSocket to read."""

BODY_IS_HERE = "body_is_here"
"""In the state of a request whose body has come in completely: nobody has to wait for it."""

PRESENCE = "presence"
"""In the state of a request: the `Presence` of its client."""

REASONS: dict[HTTPStatus, tuple[str, str]] = {
    HTTPStatus.BAD_REQUEST: ("bad_request", "This is not valid HTTP/1.1."),
    HTTPStatus.REQUEST_TIMEOUT: ("header_too_slow", f"The header of a request must be here within {HEADER_S:.0f} s."),
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: (
        "header_too_large",
        f"The header of a request has at most {HEADER_FIELDS} fields and {HEADER_BYTES // 1024} KiB.",
    ),
    HTTPStatus.SERVICE_UNAVAILABLE: ("unavailable", "Too many connections are open; try again shortly."),
}


class HeaderTooLarge(Exception):
    """The header of a request is over its bounds; ends the parsing."""


class TooManyPipelined(Exception):
    """More than `PIPELINED` requests wait on one connection; ends the parsing."""


class Presence:
    """Whether the client of a connection is there. One request of a connection is answered at a time."""

    __slots__ = ("gone", "on_leaving")

    def __init__(self) -> None:
        self.gone = False
        self.on_leaving: Callable[[], None] | None = None
        """Called when it leaves; belongs to the request that is being answered."""

    def end(self) -> None:
        """The connection is lost."""
        self.gone = True
        if self.on_leaving is not None:
            self.on_leaving()


class BoundedHttp(HttpToolsProtocol):
    """One connection with bounds: of headers in bytes, fields and time, of requests in line, of answers not read."""

    _deadline: asyncio.TimerHandle | None = None
    _taking: asyncio.TimerHandle | None = None
    """Runs while more of an answer waits for the client than the network takes."""
    _unheard = 0
    """Bytes received since a header or a part of a body was complete: what the parser may be holding on to."""
    _in_header = True
    _refused = False
    _upgraded = False
    """The connection is a WebSocket now, and `BoundedSocket` has it."""
    _answering: RequestResponseCycle | None = None
    """The request that is being answered or was last; `cycle` is the one that came last, and may wait behind it."""
    _replaced = False
    """Another parser has taken over a request, which the one before has yet to call complete."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Take the connection, unless too many are open."""
        self._presence = Presence()
        self.app_state = {**self.app_state, PRESENCE: self._presence}
        super().connection_made(transport)
        if self.limit_concurrency is not None and len(self.connections) > self.limit_concurrency:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, linger=False)
        else:
            self._deadline = self.loop.call_later(HEADER_S, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._in_time()
        self._taken()
        super().connection_lost(exc)
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        self._presence.end()

    def pause_writing(self) -> None:
        """The client reads more slowly than we answer."""
        super().pause_writing()
        self._await_taking()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._taken()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Parse what came, and see that a header comes to an end."""
        if self._refused:
            return
        self._unheard += len(data)
        self._unset_keepalive_if_required()
        self._parse(data)
        if self._upgraded:
            return
        if self._unheard > HEADER_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self._deadline is None and (self._in_header or not self._busy()):
            self._deadline = self.loop.call_later(HEADER_S, self._late)

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over."""
        self._upgraded = True
        super().handle_websocket_upgrade()

    def _should_upgrade(self) -> bool:
        """Whether this is a whole handshake where there is a socket; any other is answered as the plain GET it is."""
        given = dict(self.headers)
        return (
            super()._should_upgrade()
            and self.parser.get_method() == b"GET"
            and self.parser.get_http_version() == "1.1"
            and self.url.partition(b"?")[0] == SOCKET
            and given.get(b"sec-websocket-version") == b"13"
            and re.fullmatch(SOCKET_KEY, given.get(b"sec-websocket-key", b"")) is not None
            and not {b"content-length", b"transfer-encoding"} & given.keys()
        )

    def _parse(self, data: bytes) -> None:
        """As uvicorn does, but what follows a header that asks for another protocol in vain is no less of a request."""
        while data and not self._refused:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserError:
                self.send_400_response("")
            except httptools.HttpParserUpgrade as upgrade:
                if not self._should_upgrade():
                    data = data[upgrade.args[0] :]
                    continue
                self.handle_websocket_upgrade()
            return

    def _begin_anew(self) -> None:
        """Have the header parsed once more without the wish for another protocol: it is why a parser takes no body.

        Some clients, Java's among them, ask for HTTP/2 with every first request.
        """
        line = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        fields = [b"%s: %s" % (name, value) for name, value in self.headers if name != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser.feed_data(b"\r\n".join([line, *fields, b"", b""]))
        self._replaced = True

    def on_message_begin(self) -> None:
        """A header begins."""
        self._in_header = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A header is complete.

        Raises:
            HeaderTooLarge: It came at once, so it was not noticed before.
            TooManyPipelined: Too many came before it was answered.
        """
        if len(self.headers) > HEADER_FIELDS or (self._unheard > HEADER_BYTES and self._header_bytes() > HEADER_BYTES):
            self._unheard = HEADER_BYTES + 1
            raise HeaderTooLarge
        if len(self.pipeline) >= PIPELINED:
            raise TooManyPipelined
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT" and not self._should_upgrade():
            self._begin_anew()
            return
        self._in_header, self._unheard = False, 0
        self._in_time()
        super().on_headers_complete()
        if not self.pipeline:
            self._answering = self.cycle

    def on_response_complete(self) -> None:
        """An answer has left; the next in line gets its own."""
        if self.pipeline:
            self._answering = self.pipeline[-1][0]
        super().on_response_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body; what follows the last one, the trailer, is bounded like a header."""
        self._unheard = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is here to its end.

        Reading goes on, also after a body that was large: it is how one hears that the client left.
        """
        if self._replaced:
            self._replaced = False
            return
        self.scope["state"][BODY_IS_HERE] = True
        super().on_message_complete()
        if self.flow.read_paused and not self.pipeline:
            self.flow.resume_reading()

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed; uvicorn calls this."""
        too_large = self._unheard > HEADER_BYTES
        self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if too_large else HTTPStatus.BAD_REQUEST)

    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _header_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _await_taking(self) -> None:
        self._taking = self.loop.call_later(TAKE_S, self._look_at_taking, self.transport.get_write_buffer_size())

    def _look_at_taking(self, before_bytes: int) -> None:
        if before_bytes - self.transport.get_write_buffer_size() < TAKE_BYTES:
            self.transport.abort()
        else:
            self._await_taking()

    def _taken(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None

    def _late(self) -> None:
        """The time for a header is over; behind a request that is still being answered it begins anew."""
        if self._busy():
            self._deadline = self.loop.call_later(HEADER_S, self._late)
        elif self._unheard or (self._in_header and self.cycle is not None):
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.transport.close()

    def _in_time(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, status: HTTPStatus, *, linger: bool = True) -> None:
        """Answer, unless another answer is under way, and close the connection."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self.parser = None  # type: ignore[assignment]  # nothing is parsed any more, and it holds what came
        self._in_time()
        busy = self._busy()
        if not (busy and (self.cycle.response_started or self.pipeline)):
            self.transport.write(_answer(status))
        if busy:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if linger and not busy and self.transport.can_write_eof():
            self.transport.write_eof()
            self.loop.call_later(LINGER_S, self.transport.close)
        else:
            self.transport.close()


class BoundedSocket(WebSocketsSansIOProtocol):
    """One WebSocket that is gone soon after its end, and whose client cannot make us hold what it does not read."""

    def data_received(self, data: bytes) -> None:
        """Take what came; its pings are answered only while it reads the answers."""
        super().data_received(data)
        if self.transport.get_write_buffer_size() > UNSENT_BYTES:
            self.transport.abort()

    def keepalive_timeout(self) -> None:
        """Give up a client that answers no ping: uvicorn waits for it to read what is left, and it may never."""
        super().keepalive_timeout()
        self.loop.call_later(CLOSE_S, self.transport.abort)

    async def run_asgi(self) -> None:
        """Serve it, and see that it ends."""
        await super().run_asgi()
        self.loop.call_later(CLOSE_S, self.transport.abort)


def _answer(status: HTTPStatus) -> bytes:
    code, detail = REASONS[status]
    request_id = ids.request_id(None)
    problem = Problem(
        type=f"urn:cv-platform:problem:{code}",
        title=status.phrase,
        status=status,
        detail=detail,
        code=code,
        request_id=request_id,
    )
    body = msgspec.json.encode(problem)
    head = f"content-type: {PROBLEM_JSON}\r\ncontent-length: {len(body)}\r\nx-request-id: {request_id}\r\n"
    retry = "retry-after: 1\r\n" if status == HTTPStatus.SERVICE_UNAVAILABLE else ""
    return STATUS_LINE[status] + f"{head}{retry}connection: close\r\n\r\n".encode() + body
