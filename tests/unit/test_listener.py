"""New connections come in together, however long a turn of the event loop takes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import uvloop

from gateway.listener import Listener

MANY, TURNS = 40, 10


class Echo(asyncio.Protocol):
    """Answers what it is told."""

    made = ended = 0

    def connection_made(self, transport: Any) -> None:
        Echo.made += 1
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        Echo.ended += 1


async def until_ended(count: int) -> None:
    async with asyncio.timeout(10):
        while Echo.ended < count:
            await asyncio.sleep(0.01)


@pytest.fixture
def port() -> Iterator[socket.socket]:
    Echo.made = Echo.ended = 0
    with socket.create_server(("127.0.0.1", 0), backlog=MANY) as made:
        made.setblocking(False)
        yield made


def test_all_that_wait_are_taken_at_once(port: socket.socket) -> None:
    async def scenario() -> None:
        listener = Listener([port], Echo, None)
        with ExitStack() as clients:
            for _ in range(MANY):
                clients.enter_context(socket.create_connection(port.getsockname()))
            for _ in range(TURNS):
                await asyncio.sleep(0)
            assert Echo.made == MANY
        await until_ended(MANY)
        listener.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


def test_connections_work_and_none_comes_after_the_end(port: socket.socket) -> None:
    async def scenario() -> None:
        listener = Listener([port], Echo, None)
        with socket.create_connection(port.getsockname()) as client:
            client.sendall(b"hello")
            assert await asyncio.to_thread(client.recv, 9) == b"hello"
            listener.close()
            with socket.create_connection(port.getsockname()):
                for _ in range(TURNS):
                    await asyncio.sleep(0)
                assert Echo.made == 1
        await until_ended(1)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
