"""Events for browsers and consoles: one feed from the broker, a bounded line for each listener."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import msgspec

from shared import errors
from shared.wire.events import Resync
from shared.wire.messages import DOORBELL, Event

LISTENERS = 200
UNREAD = 256
"""Events a slow listener may be behind; beyond that it is told to read the lists again."""

BEAT_S = 15.0
"""Pause after which a comment is sent, so that a dead connection is noticed."""

CHECK_S = 0.5
"""Between two looks at a listener's credential, whether there is news or not."""

RESYNC = b'event: resync\ndata: {"topic":"resync"}\n\n'
BEAT = b": still here\n\n"


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """An event as listeners get it; `seq` counts by one while this gateway runs."""

    seq: int
    topic: str
    time: str
    body: dict[str, Any]


class Hub:
    """Hands every event to every listener."""

    def __init__(self) -> None:
        self._lines: set[asyncio.Queue[bytes | None]] = set()
        self._seq = 0

    async def relay(self, feed: AsyncIterator[Event | Resync]) -> None:
        """Pass events on until cancelled; the doorbells of the workers are no news to people."""
        async for item in feed:
            if isinstance(item, Resync):
                self._to_all(RESYNC)
            elif not item.topic.startswith(DOORBELL):
                self._seq += 1
                notice = Notice(seq=self._seq, topic=item.topic, time=item.time, body=item.body)
                self._to_all(b"id: %d\ndata: %s\n\n" % (self._seq, msgspec.json.encode(notice)))

    async def listen(self, missed: bool, still_welcome: Callable[[], Awaitable[object]]) -> AsyncIterator[bytes]:
        """The server-sent events of one listener, until it leaves, its credential ends, or the gateway stops.

        Args:
            missed: It was connected before, so events may have passed it by: begin with `resync`.
            still_welcome: Raises `errors.AppError` once the credential is no longer good.
        """
        with self._line() as line:
            yield RESYNC if missed else BEAT
            check_s = time.monotonic() + CHECK_S
            beat_s = time.monotonic() + BEAT_S
            while True:
                news = await _next(line, check_s)
                if time.monotonic() >= check_s:
                    if not await _good(still_welcome):
                        return
                    check_s = time.monotonic() + CHECK_S
                if news is None:
                    return
                if news or time.monotonic() >= beat_s:
                    yield news or BEAT
                    beat_s = time.monotonic() + BEAT_S

    def close(self) -> None:
        """End every stream."""
        for line in self._lines:
            _put(line, None)

    def check_room(self) -> None:
        """Refuse one listener too many.

        Raises:
            errors.Unavailable: `LISTENERS` are connected.
        """
        if len(self._lines) >= LISTENERS:
            raise errors.Unavailable(f"{LISTENERS} listeners are connected already; try again later.", retry_after_s=30)

    @contextlib.contextmanager
    def _line(self) -> Iterator[asyncio.Queue[bytes | None]]:
        line: asyncio.Queue[bytes | None] = asyncio.Queue(UNREAD)
        self._lines.add(line)
        try:
            yield line
        finally:
            self._lines.discard(line)

    def _to_all(self, data: bytes) -> None:
        for line in self._lines:
            _put(line, data)


async def _next(line: asyncio.Queue[bytes | None], until_s: float) -> bytes | None:
    """What comes next on a line, None for its end; nothing (empty) if that takes too long."""
    try:
        async with asyncio.timeout(max(0.0, until_s - time.monotonic())):
            return await line.get()
    except TimeoutError:
        return b""


async def _good(still_welcome: Callable[[], Awaitable[object]]) -> bool:
    try:
        await still_welcome()
    except errors.AppError:
        return False
    return True


def _put(line: asyncio.Queue[bytes | None], data: bytes | None) -> None:
    if line.full():
        while not line.empty():
            line.get_nowait()
        if data is not None:
            data = RESYNC
    line.put_nowait(data)
