"""Where the gateway's blocking work runs: one database writer, a few readers, password hashing, big file calls."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from gateway.tally import Tally
from shared import errors

P = ParamSpec("P")
T = TypeVar("T")


class Pool:
    """A few threads with a bounded line in front of them; a full line refuses instead of growing.

    Args:
        name: What waits here, as the refusal calls it.
        threads: Calls that run at once.
        waiting: Calls that may wait.
    """

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        self.name = name
        self._limit = threads + waiting
        self._open = 0
        self._lock = threading.Lock()
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `call` in a thread of the pool.

        Raises:
            errors.Unavailable: The line is full.
        """
        with self._lock:
            if self._open >= self._limit:
                raise errors.Unavailable(f"Too much waits for {self.name}; try again shortly.", retry_after_s=1)
            self._open += 1
        future = self._executor.submit(call, *args, **kwargs)
        future.add_done_callback(self._leave)
        return await asyncio.wrap_future(future)

    def _leave(self, _: Future[Any]) -> None:
        with self._lock:
            self._open -= 1

    def close(self) -> None:
        """Drop what waits and let what runs finish."""
        self._executor.shutdown(wait=True, cancel_futures=True)


class Store:
    """The blocking work of the gateway, each kind in its own pool. SQLite has one writer at a time, so have we."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._readers = Pool("the database", threads=3, waiting=256)
        self._writer = Pool("the database", threads=1, waiting=128)
        self._hashing = Pool("sign-in", threads=2, waiting=32)
        self._files = Pool("the disk", threads=2, waiting=32)
        self._appending = asyncio.Lock()

    async def read(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a reading function of `shared.db`."""
        with self._counted():
            return await self._readers.run(call, *args, **kwargs)

    async def write(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function that writes; it opens its own `write()` transaction."""
        with self._counted():
            return await self._writer.run(call, *args, **kwargs)

    async def hash(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Hash or check a password: 19 MiB and tens of milliseconds each, so two at once at most."""
        return await self._hashing.run(call, *args, **kwargs)

    async def file(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A slow call on a big file (syncing an upload)."""
        return await self._files.run(call, *args, **kwargs)

    async def append(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A short call on a big file, one at a time: uploads wait for each other and leave the other thread free."""
        async with self._appending:
            return await self._files.run(call, *args, **kwargs)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except errors.Unavailable:
            self._tally.database_errors += 1
            raise

    def close(self) -> None:
        """End all threads."""
        for pool in (self._readers, self._writer, self._hashing, self._files):
            pool.close()
