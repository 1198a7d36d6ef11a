"""The broker's events, as a job worker waits for its doorbell and as the gateway passes them on to browsers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import msgspec
import zmq

from shared.wire import codec, sockets
from shared.wire.codec import BadFrames
from shared.wire.messages import Event
from shared.wire.sockets import Socket

MAX_UNREAD = 1000

logger = logging.getLogger(__name__)


class Resync(msgspec.Struct, frozen=True, kw_only=True):
    """Events were missed, so read again whatever you keep. `reason` is a sentence for logs."""

    reason: str


class EventFeed:
    """Waits for events on a thread that has nothing else to do.

    Args:
        endpoint: The broker's PUB.
        topics: Prefixes of the topics to hear; `doorbell.cpu` for one lane, an empty one for everything.
    """

    def __init__(self, endpoint: str, topics: Sequence[str]) -> None:
        self._socket = sockets.subscriber(endpoint, topics)

    def wait(self, timeout_s: float, also_fd: int | None = None) -> Event | None:
        """The next event, or None after `timeout_s` or as soon as `also_fd` is readable (a `Stop`'s pipe)."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        if also_fd is not None:
            poller.register(also_fd, zmq.POLLIN)
        end_s = time.monotonic() + timeout_s
        while (event := _next(self._socket)) is None:
            left_s = end_s - time.monotonic()
            if left_s <= 0 or also_fd in dict(poller.poll(int(left_s * 1000) + 1)):
                return None
        return event

    def close(self) -> None:
        """Stop listening."""
        sockets.close(self._socket)


class AsyncEventFeed:
    """Every event of the broker, on one event loop: `async with` opens it, `async for` reads it.

    Yields `Event`, and `Resync` wherever some may be missing: a gap in `seq`, a broker that restarted, or a reader that
    fell more than 1,000 events behind.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._unread: deque[Event | Resync] = deque()
        self._arrived = asyncio.Event()
        self._last: Event | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._socket = sockets.subscriber(self._endpoint, [""])
        self._fd = sockets.fd(self._socket)
        self._loop.add_reader(self._fd, self._read)
        self._read()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.remove_reader(self._fd)
        sockets.close(self._socket)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event | Resync:
        while not self._unread:
            self._arrived.clear()
            await self._arrived.wait()
        return self._unread.popleft()

    def _read(self) -> None:
        while (event := _next(self._socket)) is not None:
            reason = _missing(self._last, event)
            self._last = event
            if reason is not None:
                self._unread.append(Resync(reason=reason))
            self._unread.append(event)
            if len(self._unread) > MAX_UNREAD:
                self._unread.clear()
                self._unread.append(Resync(reason=f"more than {MAX_UNREAD} events were unread"))
        self._arrived.set()


def _missing(last: Event | None, event: Event) -> str | None:
    """Why events may be missing between two that were received one after the other; None if none is."""
    if last is None:
        return None
    if event.boot_id != last.boot_id:
        return "the broker restarted"
    if event.seq != last.seq + 1:
        return f"{event.seq - last.seq - 1} events were lost"
    return None


def _next(socket: Socket) -> Event | None:
    while (frames := sockets.receive(socket)) is not None:
        try:
            return codec.event(frames[1:])[0]
        except BadFrames as bad:
            logger.warning("the broker sent a bad event: %s", bad)
    return None
