"""Events for browsers and consoles: one feed from the broker, a bounded line for each listener."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import msgspec

from shared import errors
from shared.wire.events import Resync
from shared.wire.messages import DOORBELL, Event

LISTENERS = 200
PER_USER = 20
"""Of them; one user, or somebody with their key, must not take every place."""

UNREAD = 256
"""Events a slow listener may be behind; beyond that it is told to read the lists again."""

BEAT_S = 15.0
"""Pause after which a comment is sent, so that a dead connection is noticed."""

CHECK_S = 0.5
"""Between two looks at a listener's credential, whether there is news or not."""

Welcome: TypeAlias = Callable[[], Awaitable[object]]


class News(NamedTuple):
    """Something for listeners: as a server-sent event, and as the message of a socket (empty: nothing to say)."""

    sse: bytes
    message: str


RESYNC = News(b'event: resync\ndata: {"topic":"resync"}\n\n', '{"topic":"resync"}')
BEAT = News(b": still here\n\n", "")
Line: TypeAlias = asyncio.Queue[News | None]
"""What a listener has not read yet; None ends it."""


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """An event as listeners get it; `seq` counts by one while this gateway runs."""

    seq: int
    topic: str
    time: str
    body: dict[str, Any]


class Hub:
    """Hands every event to every listener."""

    def __init__(self) -> None:
        self._lines: dict[Line, str] = {}
        """What each listener has not read, and whose it is."""
        self._seq = 0
        self._closed = False

    async def relay(self, feed: AsyncIterator[Event | Resync]) -> None:
        """Pass events on until cancelled; the doorbells of the workers are no news to people."""
        async for item in feed:
            if isinstance(item, Resync):
                self._to_all(RESYNC)
            elif not item.topic.startswith(DOORBELL):
                self._seq += 1
                notice = Notice(seq=self._seq, topic=item.topic, time=item.time, body=item.body)
                message = msgspec.json.encode(notice)
                self._to_all(News(b"id: %d\ndata: %s\n\n" % (self._seq, message), message.decode()))

    async def listen(self, user_id: str, missed: bool, still_welcome: Welcome) -> AsyncIterator[bytes]:
        """The server-sent events of one listener, until it leaves, its credential ends, or the gateway stops.

        Args:
            user_id: Whose they are.
            missed: It was connected before, so events may have passed it by: begin with `resync`.
            still_welcome: Raises `errors.AppError` once the credential is no longer good.
        """
        async with contextlib.aclosing(self.follow(user_id, still_welcome)) as news:
            with contextlib.suppress(errors.AppError):
                async for item in news:
                    yield RESYNC.sse if missed else item.sse
                    missed = False

    async def follow(self, user_id: str, still_welcome: Welcome) -> AsyncGenerator[News, None]:
        """What one listener gets, until the gateway stops: `BEAT` as soon as it hears, news, `BEAT` in between.

        Raises:
            errors.Unavailable: There is no room, see `check_room`.
            errors.AppError: From `still_welcome`: the credential is no longer good.
        """
        with self._line(user_id) as line:
            yield BEAT
            check_s = time.monotonic() + CHECK_S
            beat_s = time.monotonic() + BEAT_S
            while True:
                news = await _next(line, check_s)
                if time.monotonic() >= check_s:
                    await still_welcome()
                    check_s = time.monotonic() + CHECK_S
                if news is None:
                    return
                if news is not BEAT or time.monotonic() >= beat_s:
                    yield news
                    beat_s = time.monotonic() + BEAT_S

    def close(self) -> None:
        """End every stream, for good: whoever connects again now would only keep us from stopping."""
        self._closed = True
        for line in self._lines:
            _put(line, None)

    def check_room(self, user_id: str) -> None:
        """Refuse one listener too many.

        Raises:
            errors.Unavailable: `LISTENERS` are connected, `PER_USER` of this user, or the gateway stops.
        """
        if self._closed:
            raise errors.Unavailable("The gateway stops; connect again.", retry_after_s=1)
        if len(self._lines) >= LISTENERS:
            raise errors.Unavailable(f"{LISTENERS} listeners are connected already; try again later.", retry_after_s=30)
        if sum(whose == user_id for whose in self._lines.values()) >= PER_USER:
            raise errors.Unavailable(
                f"You listen to events {PER_USER} times already; close a page or a program that does.", retry_after_s=30
            )

    @contextlib.contextmanager
    def _line(self, user_id: str) -> Iterator[Line]:
        self.check_room(user_id)  # many may have been let in at once
        line: Line = asyncio.Queue(UNREAD)
        self._lines[line] = user_id
        try:
            yield line
        finally:
            del self._lines[line]

    def _to_all(self, news: News) -> None:
        for line in self._lines:
            _put(line, news)


async def _next(line: Line, until_s: float) -> News | None:
    """What comes next on a line, None for its end; `BEAT` if that takes too long."""
    try:
        async with asyncio.timeout(max(0.0, until_s - time.monotonic())):
            return await line.get()
    except TimeoutError:
        return BEAT


def _put(line: Line, news: News | None) -> None:
    if line.full():
        while not line.empty():
            line.get_nowait()
        if news is not None:
            news = RESYNC
    line.put_nowait(news)
