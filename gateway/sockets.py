"""WebSockets as HTTP exchanges: a handshake is routed, guarded, logged and refused like any GET; then only we speak."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple, cast

from litestar.types import HTTPReceiveMessage, HTTPScope, Message, Receive, Send, WebSocketScope

from gateway.errors import ClientGone
from gateway.events import News
from shared import errors

SEND_S = 10.0
"""How long a client may not take what is sent to it, the network's buffers being full."""

SWITCHING = 101
GOING_AWAY = 1001
TOO_SLOW = 4408
OWN_CODES = 4000
"""Codes of our own are this and the HTTP status of the reason."""

REASON_BYTES = 123
"""Most that a closing frame can carry (RFC 6455, 5.5)."""


class Farewell(NamedTuple):
    """Why we close."""

    code: int
    reason: str


class Socket:
    """A client that asks for a WebSocket.

    Args:
        receive: Of the ASGI server, for a WebSocket.
        send: Likewise.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send

    def handshake(self, scope: WebSocketScope) -> HTTPScope:
        """The scope of the GET that the handshake is, with this socket in its state."""
        http = {name: value for name, value in scope.items() if name != "subprotocols"}
        scheme = "https" if scope["scheme"] == "wss" else "http"
        state = {**scope.get("state", {}), "socket": self}
        return cast(HTTPScope, {**http, "type": "http", "method": "GET", "scheme": scheme, "state": state})

    async def receive(self) -> HTTPReceiveMessage:
        """What the client does, as of a request without body: it is there, or it leaves. What it says is dropped."""
        while (message := cast(dict[str, Any], await self._receive()))["type"] == "websocket.receive":
            pass
        if message["type"] == "websocket.connect":
            return {"type": "http.request", "body": b"", "more_body": False}
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """The answer to the handshake: 101 accepts, everything else refuses."""
        if message["type"] == "http.response.start" and message["status"] == SWITCHING:
            accept = {"type": "websocket.accept", "subprotocol": None, "headers": message["headers"]}
            await self._send(cast(Message, accept))
        else:
            await self._send(cast(Message, {**message, "type": f"websocket.{message['type']}"}))

    async def tell(self, news: AsyncGenerator[News, None]) -> None:
        """Send news until they end, the client leaves, or it does not listen; then close."""
        speaking, leaving = asyncio.create_task(self._speak(news)), asyncio.create_task(self._left())
        try:
            await asyncio.wait((speaking, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not leaving.done() and (farewell := await speaking) is not None:
                await self._close(farewell)
        finally:
            for task in (speaking, leaving):
                task.cancel()
            await asyncio.gather(speaking, leaving, return_exceptions=True)

    async def _speak(self, news: AsyncGenerator[News, None]) -> Farewell | None:
        """Say everything there is to say; None: nobody hears it any more."""
        try:
            async for item in news:
                if item.message:
                    async with asyncio.timeout(SEND_S):
                        await self._say(item.message)
        except TimeoutError:
            return Farewell(TOO_SLOW, f"Nothing was read for {SEND_S:.0f} s.")
        except errors.AppError as error:
            return Farewell(OWN_CODES + error.status, error.message)
        except ClientGone:
            return None
        return Farewell(GOING_AWAY, "The gateway stops; connect again.")

    async def _say(self, message: str) -> None:
        try:
            await self._send({"type": "websocket.send", "text": message, "bytes": None})
        except (OSError, RuntimeError):  # uvicorn's two ways of saying that it has closed the connection itself
            raise ClientGone from None

    async def _left(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def _close(self, farewell: Farewell) -> None:
        """Say why; a client that does not listen is not told, the protocol cuts it off."""
        reason = farewell.reason.encode()[:REASON_BYTES].decode(errors="ignore")
        with contextlib.suppress(OSError, RuntimeError):
            async with asyncio.timeout(0.5):
                await self._send({"type": "websocket.close", "code": farewell.code, "reason": reason})
