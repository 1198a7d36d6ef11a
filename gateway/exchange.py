"""One HTTP exchange from outside: request id, log line, patience with slow bodies, refusing without cutting off."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable
from http import HTTPStatus
from typing import cast

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPReceiveMessage, HTTPScope, Message, Receive, Scope, Send

from gateway.access import PATHS
from gateway.audit import Trail, worth_an_entry
from gateway.errors import CLIENT_CLOSED, BodyTooSlow
from gateway.protocol import BODY_IS_HERE
from gateway.safety import headers_of_every_answer
from gateway.sockets import Socket
from gateway.tally import Tally
from shared import ids, trace
from shared.clock import Monotonic

BODY_PATIENCE_S = 30.0
"""How long a body may stay behind `BODY_BYTES_PER_S`; a body that pauses that long is refused, and one that drips."""

BODY_BYTES_PER_S = 4096
"""Slowest body on average; what arrives faster earns back the patience that was used up, and no more than that."""

LINGER_S = 5.0
"""How long what a refused client still sends is read and dropped, so that it gets to see the refusal."""

LINES_PER_S = 20
"""Predictions that went well, found the queue full or were not waited for, with a line of their own in the log.
Thousands a second would push everything else out of it within a minute, and cost as much as serving them."""

PREDICTIONS = frozenset(
    {
        "/api/v1/inference/predict",
        "/v2/models/{model}/infer",
        "/v2/models/{model}/versions/{version}/infer",
    }
)

logger = logging.getLogger("gateway.access")


class Sampling:
    """Gives the first `LINES_PER_S` of each second a line, and counts the others.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Monotonic = time.monotonic) -> None:
        self._clock = clock
        self._second = 0
        self._lines = 0
        self._left_out = 0

    def left_out(self) -> int | None:
        """For one that gets a line: how many did not since the last that did. For one that does not: None."""
        second = int(self._clock())
        if second != self._second:
            self._second, self._lines = second, 0
        if self._lines >= LINES_PER_S:
            self._left_out += 1
            return None
        self._lines += 1
        count, self._left_out = self._left_out, 0
        return count


class Exchanges:
    """ASGI layer around the whole application."""

    def __init__(self, app: ASGIApp, tally: Tally, trail: Trail) -> None:
        self._app, self._tally, self._trail = app, tally, trail
        self._sampling = Sampling()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == ScopeType.WEBSOCKET:
            socket = Socket(receive, send)
            scope, receive, send = socket.handshake(scope), socket.receive, socket.send
        elif scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        finally:
            exchange.log(self._tally, self._sampling)
            exchange.audit(self._trail)


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._started = time.perf_counter()
        self._status = 0
        self._made = ""
        self._body_pending, self._body_held_back, offered, parent = False, False, None, None
        self._patience_s = BODY_PATIENCE_S
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                offered = value.decode("latin-1")
            elif name == b"traceparent":
                parent = trace.traceparent(value)
            elif name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
                self._body_pending = True
            elif name == b"expect":
                self._body_held_back = True
        self.request_id = ids.request_id(offered)
        self._span = trace.Span(scope["method"], parent, "server")
        scope["state"]["request_id"], scope["state"]["traceparent"] = self.request_id, self._span.traceparent

    async def receive(self) -> HTTPReceiveMessage:
        """The next part of the body, or the end of the connection.

        Raises:
            BodyTooSlow: The client stopped sending in the middle of the body, or it only drips.
        """
        if not self._body_pending:
            return cast(HTTPReceiveMessage, await self._receive())  # waits for the client to leave: no bound
        if BODY_IS_HERE in self._scope["state"]:
            return await self._take()  # most are: a timer for each would cost more than reading it
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._patience_s):
                message = await self._take()
        except TimeoutError:
            raise BodyTooSlow(
                f"The body arrives too slowly: for {BODY_PATIENCE_S:.0f} s less than {BODY_BYTES_PER_S // 1024} KiB/s."
            ) from None
        if message["type"] == "http.request":
            self._patience_s += began - time.monotonic() + len(message["body"]) / BODY_BYTES_PER_S
            self._patience_s = min(self._patience_s, BODY_PATIENCE_S)
        return message

    async def _take(self) -> HTTPReceiveMessage:
        message = cast(HTTPReceiveMessage, await self._receive())
        if self._body_pending and message["type"] == "http.disconnect":
            self._scope["state"]["left_early"] = True
        self._body_pending = message["type"] == "http.request" and message["more_body"]
        return message

    async def send(self, message: Message) -> None:
        """Pass the answer on, with the headers every answer has."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._made = _last_part(message["headers"])
            if self._body_pending and not self._body_held_back:
                await self._take_what_arrived()
            headers = [*message["headers"], (b"x-request-id", self.request_id.encode())]
            headers += headers_of_every_answer(headers, encrypted=self._scope["scheme"] == "https")
            if self._body_pending:
                headers.append((b"connection", b"close"))
            message["headers"] = headers
        elif self._body_pending and not message.get("more_body"):
            await self._send(cast(Message, {**message, "more_body": True}))
            await self._linger()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    async def _take_what_arrived(self) -> None:
        """A small body is here already; without it in the way the connection can be used again."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                await self._take()

    async def _linger(self) -> None:
        """Closing while the client still sends resets the connection, and the refusal with it; so read on a little."""
        try:
            async with asyncio.timeout(LINGER_S):
                while self._body_pending:
                    await self._take()
        except TimeoutError:
            self._body_pending = False

    def log(self, tally: Tally, sampling: Sampling) -> None:
        """The request's line in the log, if it gets one, and its count."""
        duration_s = time.perf_counter() - self._started
        route = self._route()
        tally.answered(self._scope["method"], route, self._status, duration_s)
        if trace.exporting():
            self._trace(route)
        left_out = sampling.left_out() if self._is_one_of_many(route) else 0
        if left_out is None:
            return
        account, traceparent = self._scope["state"].get("account"), self._scope["state"]["traceparent"]
        logger.info(
            "request",
            extra=({"traceparent": traceparent} if traceparent else {})
            | ({"predictions_without_a_line": left_out} if left_out else {})
            | {
                "request_id": self.request_id,
                "user": account.username if account else None,
                "action": f"{self._scope['method']} {route or 'unknown'}",
                "method": self._scope["method"],
                "path": self._scope["path"],
                "status": self._status,
                "duration_ms": round(duration_s * 1000, 2),
            },
        )

    def _is_one_of_many(self, route: str | None) -> bool:
        """Whether its line may be left out: a prediction, and nothing is wrong."""
        usual = HTTPStatus.OK <= self._status < HTTPStatus.MULTIPLE_CHOICES
        return (
            route in PREDICTIONS
            and (usual or self._status in (HTTPStatus.TOO_MANY_REQUESTS, CLIENT_CLOSED))
            and not logger.isEnabledFor(logging.DEBUG)
        )

    def _trace(self, route: str | None) -> None:
        method, status = self._scope["method"], self._status
        known: dict[str, trace.Value] = {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "cvp.request_id": self.request_id,
        }
        failed = None if 0 < status < 500 else f"answered {status}" if status else "the client left"
        self._span.note(known, name=f"{method} {route or 'unknown'}", failed=failed)
        self._span.end()

    def audit(self, trail: Trail) -> None:
        """The request's entry in the audit log, if it is worth one."""
        route, method, state = self._route(), self._scope["method"], self._scope["state"]
        if route is None or not worth_an_entry(method, route, self._status):
            return
        account = state.get("account")
        user_id = account.id if account else state.get("audit_user")
        named = ",".join(str(value) for value in self._scope.get("path_params", {}).values())
        resource = state.get("audit_resource") or self._made or named
        trail.note(self.request_id, user_id, f"{method} {route}", resource, self._status)

    def _route(self) -> str | None:
        """The template of the path; None for a path nobody serves."""
        template = self._scope.get("path_template")
        return template if template in PATHS else None


def _last_part(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The id in `Location`: what the call made."""
    location = next((value for name, value in headers if name.lower() == b"location"), b"")
    return location.rpartition(b"/")[2].decode("latin-1")
