"""The gateway process: one HTTP server on one event loop, and its orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
from collections.abc import Iterator

import uvicorn
import uvloop

from gateway.app import create_app
from gateway.context import Context
from gateway.listener import Listener
from gateway.protocol import BoundedHttp, BoundedSocket
from shared import config, process
from shared.db import connection
from shared.wire.client import BrokerClient
from shared.wire.events import AsyncEventFeed

NOTICE_S = 0.5
"""Between saying "not ready" and closing the port, so that whoever balances load looks once more."""

DRAIN_S = 28
"""Requests under way get this long to finish; a prediction is bounded by its own limits, an upload is cut."""

CONNECTIONS = 4096
"""Open at once; one more is answered 503."""

PING_S = 15.0
"""Between two pings of a WebSocket, and how long an answer may take."""

CLIENT_BYTES = 4096
"""Longest message of a client of a WebSocket. None is expected, and what comes is dropped."""

logger = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """uvicorn, but our `Stop` decides when it ends."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and let the garbage collector pass over what is there by then: with 10,000 models in the catalogue
        a full collection every few seconds stops everything for a tenth of a second.
        """
        await super().startup(sockets)
        ports = [port for server in self.servers for port in server.sockets]
        self._listener = Listener(ports, self._protocol, self.config.ssl)
        gc.freeze()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop, and take no more connections first."""
        self._listener.close()
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        return BoundedHttp(self.config, self.server_state, self.lifespan.state)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `shared.process`."""
        yield


def main(settings: config.Settings, stop: process.Stop) -> None:
    """Serve until asked to stop.

    Raises:
        config.BadSetting: HTTPS is to be served, and certificate and key cannot be used.
    """
    config.require_tls_pair(settings)
    connection.open_db(settings.db_file)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    uvloop.run(serve(settings, stop))


async def serve(settings: config.Settings, stop: process.Stop) -> None:
    """The server and everything behind it, on the running loop.

    Raises:
        RuntimeError: A background task died, or the server could not start; the supervisor restarts us.
    """
    async with (
        BrokerClient(settings.broker_endpoint, "gateway") as broker,
        AsyncEventFeed(settings.events_endpoint) as feed,
    ):
        context = Context(settings, broker, feed)
        server = Server(_uvicorn(settings, context))
        watch = asyncio.create_task(_end(server, context, stop))
        try:
            await server.serve()
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        if context.broken.is_set() or not server.started:
            raise RuntimeError("the gateway did not start, or lost a background task; see the log above")


def _uvicorn(settings: config.Settings, context: Context) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(context),
        host=settings.host,
        port=settings.port,
        http=BoundedHttp,
        ws=BoundedSocket,
        ws_max_size=CLIENT_BYTES,
        ws_ping_interval=PING_S,
        ws_ping_timeout=PING_S,
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=65,
        timeout_graceful_shutdown=DRAIN_S,
        ssl_certfile=settings.tls_cert if settings.tls_enabled else None,
        ssl_keyfile=settings.tls_key if settings.tls_enabled else None,
    )


async def _end(server: uvicorn.Server, context: Context, stop: process.Stop) -> None:
    """Wait for the wish to stop, or for a broken part; then drain."""
    wished = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(stop.read_fd, wished.set)
    try:
        waits = [asyncio.create_task(event.wait()) for event in (wished, context.broken)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        loop.remove_reader(stop.read_fd)
    logger.info("draining", extra={"broken": context.broken.is_set()})
    context.drain()
    await asyncio.sleep(NOTICE_S)
    server.should_exit = True


if __name__ == "__main__":
    process.service("gateway", main)
