"""One HTTP/1.1 connection of the load generator: stays open, one request at a time, and costs little processor time.

Comfortable clients use more of it than the service they are to measure; the parser is the one uvicorn uses.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from typing import NamedTuple, cast

import httptools

BROKEN_OFF = "the connection was closed before the answer was complete"


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: bytes


class NoAnswer(Exception):
    """There is none; the message says why, in a few words."""


class Connection(asyncio.Protocol):
    """Opened by `connect`; after a `NoAnswer` it is of no more use."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body = bytearray()
        self._lost = True

    @property
    def usable(self) -> bool:
        """Whether another request can be sent."""
        return not self._lost

    async def send(self, request: bytes, within_s: float) -> Answer:
        """Send a whole request, headers and body, and wait for all of the answer.

        Raises:
            NoAnswer: None came within `within_s` seconds, or nothing that is HTTP.
        """
        if self._lost or self._transport is None:
            raise NoAnswer(BROKEN_OFF)
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        self._transport.write(request)
        late = loop.call_later(within_s, self._fail, f"none came within {within_s:g} s")
        try:
            return await self._answer
        finally:
            late.cancel()
            self._answer = None

    def close(self) -> None:
        """Leave at once."""
        self._lost = True
        if self._transport is not None:
            self._transport.abort()

    # --- called by asyncio and by the parser --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport, self._lost = cast(asyncio.Transport, transport), False

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._fail(BROKEN_OFF)

    def data_received(self, data: bytes) -> None:
        """A part of an answer."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail("what came is not HTTP")

    def on_body(self, body: bytes) -> None:
        """A part of an answer's body."""
        self._body += body

    def on_message_complete(self) -> None:
        """An answer is whole."""
        answer = Answer(self._parser.get_status_code(), bytes(self._body))
        self._body.clear()
        if not self._parser.should_keep_alive():
            self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    def _fail(self, why: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(NoAnswer(why))
        self.close()


async def connect(host: str, port: int, tls: ssl.SSLContext | None, within_s: float) -> Connection:
    """Open a connection.

    Raises:
        NoAnswer: Nobody listens, or the certificate is not the expected one.
    """
    try:
        async with asyncio.timeout(within_s):
            _, connection = await asyncio.get_running_loop().create_connection(Connection, host, port, ssl=tls)
    except TimeoutError:
        raise NoAnswer(f"no connection within {within_s:g} s") from None
    except ssl.SSLError as error:
        raise NoAnswer(f"TLS failed: {error.reason}") from error
    except OSError as error:
        raise NoAnswer(f"no connection: {os.strerror(error.errno) if error.errno else error}") from error
    return connection
