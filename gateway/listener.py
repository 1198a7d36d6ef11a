"""New connections, all that wait at once.

libuv accepts one in each turn of the event loop. With hundreds of busy connections a turn takes long, and whoever is
new would wait for as many turns as there are others before: one caller with many connections would keep everybody out.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Callable, Iterable

MOST = 64
"""Connections taken before others get their turn."""

logger = logging.getLogger(__name__)


class Listener:
    """Accepts beside a server of the event loop, on the same ports.

    Args:
        ports: What the server listens on.
        protocol: Makes what speaks on a connection.
        tls: Of HTTPS.
    """

    def __init__(
        self, ports: Iterable[socket.socket], protocol: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._protocol, self._tls = protocol, tls
        self._arriving: set[asyncio.Task[None]] = set()
        self._ports = [socket.socket(fileno=os.dup(port.fileno())) for port in ports]
        for port in self._ports:
            port.setblocking(False)
            self._loop.add_reader(port.fileno(), self._accept, port)

    def close(self) -> None:
        """Take no more."""
        for port in self._ports:
            self._loop.remove_reader(port.fileno())
            port.close()
        for task in self._arriving:
            task.cancel()

    def _accept(self, port: socket.socket) -> None:
        for _ in range(MOST):
            try:
                connection, _address = port.accept()
            except OSError:  # none is left, or it is gone again; where files run out libuv turns the next ones away
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._connect(connection))
            self._arriving.add(task)
            task.add_done_callback(self._arriving.discard)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection, ssl=self._tls)
        except (OSError, TimeoutError) as error:  # a handshake that fails, among others
            logger.debug("a connection did not come about: %s", error)
            connection.close()
