"""Clients of our own, for what wrk cannot do: requests that come by a schedule, and replies that are read.

All run in one thread of this process, on connections that stay open; one that breaks is opened again.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

import uvloop

from benchmarks.peers.servers import Door

NO_ANSWER = 0
"""Status of a request whose connection broke, or that was not answered in time."""
TIMEOUT_S = 60.0
AGAIN_S = 0.05
"""Before a connection that was refused is tried once more."""
OK = 200
HEAD_END = b"\r\n\r\n"


class Reply(NamedTuple):
    """What became of a request; times are monotonic, in seconds."""

    number: int
    """Which of the bodies it was."""
    due_s: float
    """When it should have been sent: by the schedule, or as soon as its client was free."""
    sent_s: float
    done_s: float
    status: int
    content: bytes

    @property
    def waited_ms(self) -> float:
        """Since it was due."""
        return (self.done_s - self.due_s) * 1000

    @property
    def answered_ms(self) -> float:
        """Since it was sent."""
        return (self.done_s - self.sent_s) * 1000


class Load(NamedTuple):
    """All replies, in the order they came."""

    replies: list[Reply]
    seconds: float
    cores: float
    """What the clients themselves used."""

    @property
    def answered(self) -> list[Reply]:
        """With status 200."""
        return [reply for reply in self.replies if reply.status == OK]


def closed(
    door: Door, bodies: Sequence[bytes], *, clients: int, requests: int | None = None, seconds: float = 0
) -> Load:
    """Each client sends again as soon as it is answered: so many requests in all, or for so long."""
    numbers = range(requests) if requests is not None else itertools.count()
    end_s = time.monotonic() + seconds if requests is None else float("inf")

    def due() -> Iterator[tuple[int, float]]:
        for number in numbers:
            if (now_s := time.monotonic()) >= end_s:
                return
            yield number % len(bodies), now_s

    return _run(door, bodies, clients, due())


def scheduled(door: Door, bodies: Sequence[bytes], *, clients: int, rate: float, seconds: float, seed: int = 0) -> Load:
    """Requests at random moments, `rate` a second, whether or not others were answered (Poisson).

    One that finds all clients busy is sent late; its wait counts from when it was due.
    """
    draw = random.Random(seed)

    def due() -> Iterator[tuple[int, float]]:
        at_s = began_s = time.monotonic()
        for number in itertools.count():
            at_s += draw.expovariate(rate)
            if at_s > began_s + seconds:
                return
            yield number % len(bodies), at_s

    return _run(door, bodies, clients, due())


def _run(door: Door, bodies: Sequence[bytes], clients: int, due: Iterator[tuple[int, float]]) -> Load:
    began_s, used_s = time.monotonic(), time.process_time()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        replies = runner.run(_all(door, bodies, clients, due))
    took_s = time.monotonic() - began_s
    return Load(replies, took_s, (time.process_time() - used_s) / took_s)


async def _all(door: Door, bodies: Sequence[bytes], clients: int, due: Iterator[tuple[int, float]]) -> list[Reply]:
    raw = [_raw(door, body) for body in bodies]
    replies: list[Reply] = []
    turn = asyncio.Lock()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(_client(door, raw, due, turn, replies))
    return replies


async def _client(
    door: Door, raw: Sequence[bytes], due: Iterator[tuple[int, float]], turn: asyncio.Lock, replies: list[Reply]
) -> None:
    connection = _Connection(door)
    try:
        while True:
            async with turn:  # who is free waits for the next one that is due
                number, due_s = next(due, (None, 0.0))
                if number is None:
                    return
                if (early_s := due_s - time.monotonic()) > 0:
                    await asyncio.sleep(early_s)
            sent_s = time.monotonic()
            status, content = await connection.ask(raw[number])
            replies.append(Reply(number, due_s, sent_s, time.monotonic(), status, content))
    finally:
        connection.close()


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, door: Door) -> None:
        parts = urlsplit(door.address)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    async def ask(self, raw: bytes) -> tuple[int, bytes]:
        """Status and content; `NO_ANSWER` where there is none."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                if self._transport is None:
                    self._transport, _ = await loop.create_connection(lambda: self, self._host, self._port)
                self._answer = loop.create_future()
                self._transport.write(raw)
                return await self._answer
        except (OSError, TimeoutError) as error:
            self.close()
            await asyncio.sleep(AGAIN_S)
            return NO_ANSWER, str(error).encode()

    def close(self) -> None:
        """Close it; the next request opens another."""
        self._received.clear()
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def data_received(self, data: bytes) -> None:
        self._received += data
        if (answer := _whole(self._received)) is None:
            return
        self._received.clear()
        if b"connection: close" in answer.head:
            self.close()
        self._settle((answer.status, answer.content))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the connection was closed"))

    def _settle(self, answer: tuple[int, bytes]) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)


class Single:
    """One client that waits for each answer, with little of its own: what it takes is counted as the server's.

    Args:
        door: Where it asks.
        body: What it sends every time.
    """

    def __init__(self, door: Door, body: bytes) -> None:
        parts = urlsplit(door.address)
        self._request = _raw(door, body)
        self._connection = socket.create_connection((parts.hostname, parts.port), TIMEOUT_S)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self) -> None:
        """Send it, and read the answer.

        Raises:
            OSError: The connection broke.
            SystemExit: It was answered with another status than 200.
        """
        self._connection.sendall(self._request)
        received = bytearray()
        while (answer := _whole(received)) is None:
            if not (more := self._connection.recv(1 << 16)):
                raise ConnectionResetError("the connection was closed")
            received += more
        if answer.status != OK:
            raise SystemExit(answer.content.decode())

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class _Answer(NamedTuple):
    head: bytes
    """In small letters."""
    status: int
    content: bytes


def _whole(received: bytearray) -> _Answer | None:
    """An answer that is here to its end."""
    head_end = received.find(HEAD_END)
    if head_end < 0:
        return None
    head, start = bytes(received[:head_end]).lower(), head_end + len(HEAD_END)
    length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
    if len(received) < start + length:
        return None
    return _Answer(head, int(head.split(b" ", 2)[1]), bytes(received[start : start + length]))


def _raw(door: Door, body: bytes) -> bytes:
    """A request as it goes over the wire."""
    request = door.request(body)
    lines = [f"POST {request.target} HTTP/1.1", f"Host: {urlsplit(door.address).netloc}"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    lines.append(f"Content-Length: {len(request.body)}")
    return "\r\n".join(lines).encode() + HEAD_END + request.body
