"""The load generator: drives an HTTP service in a closed loop or in an open one, and keeps what each request took.

Well-kept generators do not do both: locust's Poisson waits start with the answer before, wrk and hey count from the
moment of sending, k6 (which counts right) and vegeta are programs no package index of ours has under a permissive
licence. In an open loop the requests are due by a schedule drawn beforehand, and latency counts from then.
"""

from __future__ import annotations

import asyncio
import random
import selectors
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from benchmarker.connection import Answer, Connection, NoAnswer, connect
from shared.specs import MOST_REQUESTS, LoadFailures, Loop, Served

WITHIN_S = 75.0
"""Longest wait for one answer: the service's own limits are 30 s in the queue and 30 s at work, by default."""
CONNECT_S = 5.0
PAUSE_S = 0.2
"""A client without an answer, or told to come back, waits so long; else a service that is down is asked in a tight
loop."""
CONNECTIONS = 512
"""Open at once in an open loop; requests beyond wait for one, and their latency goes on counting."""
IDLE_NS = 5_000_000_000
"""A connection unused for longer is not used again: the service closes idle ones (after 10 s before a first request),
and a request that crosses with that would count as a failure."""
KEPT = 10_000
"""Answered requests of a loop that are kept one by one, at most."""
EXAMPLE = 300
"""Characters of a failure's example."""


class Target(NamedTuple):
    """What is driven: where it listens, and whole requests (headers and body) to send in turn."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    requests: Sequence[bytes]


class Latency(msgspec.Struct, frozen=True):
    """Of an answer, milliseconds."""

    queue: float = 0.0
    decode: float = 0.0
    inference: float = 0.0


class Prediction(msgspec.Struct, frozen=True):
    """What is read of an answer."""

    engine: str = ""
    precision: str = ""
    batch_size: int = 0
    latency_ms: Latency = Latency()


class Problem(msgspec.Struct, frozen=True):
    """What is read of a problem document."""

    code: str = ""
    detail: str = ""


class _Answered(NamedTuple):
    due_ns: int
    late_ns: int
    latency_ns: int
    parts: Latency


_prediction = msgspec.json.Decoder(Prediction)
_problem = msgspec.json.Decoder(Problem)


def schedule(rate: float, seconds: float, seed: int) -> list[int]:
    """When requests are due, in nanoseconds from the start: a Poisson process, `MOST_REQUESTS` at most.

    Args:
        rate: A second, on average.
        seconds: Nothing is due later.
        seed: The same gives the same.
    """
    draw, at_s = random.Random(seed), 0.0
    due: list[int] = []
    while (at_s := at_s + draw.expovariate(rate)) < seconds and len(due) < MOST_REQUESTS:
        due.append(int(at_s * 1e9))
    return due


def run(work: Awaitable[Loop]) -> Loop:
    """Run one of the loops below to its end.

    The event loop waits by select(2), whose timeouts are microseconds: those of epoll are whole milliseconds, which
    would make every request of a schedule late by half of one.
    """

    async def awaited() -> Loop:
        return await work

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        return runner.run(awaited())


async def closed(target: Target, users: int, seconds: float, most: int = MOST_REQUESTS) -> Loop:
    """`users` clients with a connection each, open from the start, who send again as soon as they have their answer.

    Ends after `seconds`, or `most` requests; answers to those under way are waited for.
    """
    tally = _Tally("closed", users, None, target)
    end_ns = int(seconds * 1e9)

    async def user(connection: Connection | None) -> None:
        try:
            while tally.now_ns() < end_ns and tally.sent < most:
                connection, content = await tally.exchange(tally.now_ns(), connection)
                if not content:
                    await asyncio.sleep(PAUSE_S)
        finally:
            if connection is not None:
                connection.close()

    ready = await tally.connections(users)
    tally.start()
    await asyncio.gather(*(user(ready[at] if at < len(ready) else None) for at in range(users)))
    return tally.loop()


async def open_(target: Target, users: int, rate: float, due_ns: Sequence[int]) -> Loop:
    """Send every request when it is due, whatever became of those before.

    Args:
        target: The service.
        users: Connections that are open at the start; more are opened as they are needed.
        rate: That the schedule was drawn from, for the record.
        due_ns: The schedule.
    """
    tally = _Tally("open", users, rate, target)
    pool = _Pool(tally)
    await pool.fill(users)
    tally.start()
    under_way: dict[asyncio.Task[None], int] = {}
    for due in due_ns:
        if (wait_s := (due - tally.now_ns()) / 1e9) > 0:
            await asyncio.sleep(wait_s)
        task = asyncio.create_task(pool.exchange(due))
        under_way[task] = due
        task.add_done_callback(lambda ended: under_way.pop(ended, None))
    await _end(under_way, tally)
    pool.close()
    return tally.loop()


async def _end(under_way: dict[asyncio.Task[None], int], tally: _Tally) -> None:
    """Wait for what was due; of what is not answered in time, say so."""
    if not under_way:
        return
    await asyncio.wait(list(under_way), timeout=WITHIN_S)
    left = dict(under_way)
    for task, due in left.items():
        task.cancel()
        tally.failed("no answer", None, f"none came within {WITHIN_S:g} s after the last request was due", due)
    await asyncio.gather(*left, return_exceptions=True)


class _Tally:
    """Sends for one loop, and counts."""

    def __init__(self, kind: Any, users: int, rate: float | None, target: Target) -> None:
        self.target, self.sent = target, 0
        self._kind, self._users, self._rate = kind, users, rate
        self._answered: list[_Answered] = []
        self._failures: dict[tuple[str, int | None], LoadFailures] = {}
        self._served: dict[tuple[str, str, int], int] = {}
        self.start()

    def start(self) -> None:
        """The loop begins now."""
        self._began_ns, self._last_ns, self._cpu_s = time.perf_counter_ns(), 0, time.process_time()

    def now_ns(self) -> int:
        """Since the start."""
        return time.perf_counter_ns() - self._began_ns

    async def usable(self, connection: Connection | None) -> Connection:
        """This connection, or a new one.

        Raises:
            NoAnswer: None can be opened.
        """
        if connection is not None and connection.usable:
            return connection
        return await connect(self.target.host, self.target.port, self.target.tls, CONNECT_S)

    async def connections(self, count: int) -> list[Connection]:
        """So many, or fewer where they cannot be opened: the requests will say so."""
        opened = await asyncio.gather(*(self.usable(None) for _ in range(count)), return_exceptions=True)
        return [each for each in opened if isinstance(each, Connection)]

    async def exchange(self, due_ns: int, held: Connection | None) -> tuple[Connection | None, bool]:
        """Send the next request, over `held` if that is usable; returns the connection it used and whether a
        prediction came back.
        """
        request = self.target.requests[self.sent % len(self.target.requests)]
        self.sent += 1
        connection = None
        try:
            connection = await self.usable(held)
            late_ns = self.now_ns() - due_ns
            answer = await connection.send(request, WITHIN_S)
        except NoAnswer as failure:
            self.failed("no answer", None, str(failure), due_ns)
            return connection, False
        except asyncio.CancelledError:
            if connection is not None:
                connection.close()
            raise
        self._last_ns = self.now_ns()
        return connection, self._count(answer, due_ns, late_ns, self._last_ns - due_ns)

    def _count(self, answer: Answer, due_ns: int, late_ns: int, latency_ns: int) -> bool:
        if answer.status != 200:
            problem = Problem()
            with suppress(msgspec.MsgspecError):
                problem = _problem.decode(answer.body)
            said = problem.detail or answer.body.decode(errors="replace")
            self.failed(problem.code or f"http {answer.status}", answer.status, said, due_ns)
            return False
        try:
            found = _prediction.decode(answer.body)
        except msgspec.MsgspecError:
            self.failed("no prediction", answer.status, answer.body.decode(errors="replace"), due_ns)
            return False
        by = (found.engine, found.precision, found.batch_size)
        self._served[by] = self._served.get(by, 0) + 1
        self._answered.append(_Answered(due_ns, late_ns, latency_ns, found.latency_ms))
        return True

    def failed(self, code: str, status: int | None, said: str, due_ns: int) -> None:
        """A request was not answered with a prediction."""
        self._last_ns = self.now_ns()
        before = self._failures.get((code, status))
        first = before or LoadFailures(
            code=code, status=status, example=said[:EXAMPLE], count=0, first_ns=due_ns, last_ns=due_ns
        )
        self._failures[code, status] = msgspec.structs.replace(
            first, count=first.count + 1, last_ns=max(first.last_ns, due_ns), first_ns=min(first.first_ns, due_ns)
        )

    def loop(self) -> Loop:
        """What came of it."""
        every = -(-len(self._answered) // KEPT) or 1
        kept = sorted(self._answered)[::every]
        return Loop(
            kind=self._kind,
            users=self._users,
            rate=self._rate,
            elapsed_ns=self._last_ns or self.now_ns(),
            sent=len(self._answered) + sum(each.count for each in self._failures.values()),
            answered=len(self._answered),
            served=[_served(by, count) for by, count in sorted(self._served.items())],
            failures=[self._failures[key] for key in sorted(self._failures, key=str)],
            every=every,
            scheduled_ns=[each.due_ns for each in kept],
            latencies_ns=[each.latency_ns for each in kept],
            late_ns=[each.late_ns for each in kept],
            queue_us=[round(1000 * each.parts.queue) for each in kept],
            decode_us=[round(1000 * each.parts.decode) for each in kept],
            inference_us=[round(1000 * each.parts.inference) for each in kept],
            cpu_s=time.process_time() - self._cpu_s,
        )


def _served(by: tuple[str, str, int], answers: int) -> Served:
    engine, precision, batch_size = by
    return Served(engine=engine, precision=precision, batch_size=batch_size, answers=answers)


class _Pool:
    """Connections of an open loop: whoever is due takes a free one, or opens one, or waits for one in turn."""

    def __init__(self, tally: _Tally) -> None:
        self._tally = tally
        self._free: list[tuple[int, Connection]] = []
        """Since when, by the clock, and which; the one used last is at the end."""
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._open = 0

    async def fill(self, count: int) -> None:
        """Open connections, before the start."""
        opened = await self._tally.connections(count)
        now_ns = time.perf_counter_ns()
        self._free = [(now_ns, each) for each in opened]

    async def exchange(self, due_ns: int) -> None:
        """One request over one of the connections."""
        if self._open >= CONNECTIONS:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn  # whoever finished has left us its place
        else:
            self._open += 1
        held = self._fresh()
        connection, _ = await self._tally.exchange(due_ns, held)
        if connection is not None and connection.usable:
            self._free.append((time.perf_counter_ns(), connection))
        if self._waiting:
            self._waiting.popleft().set_result(None)
        else:
            self._open -= 1

    def _fresh(self) -> Connection | None:
        """A free connection that was in use lately."""
        if not self._free:
            return None
        since_ns, connection = self._free.pop()
        if time.perf_counter_ns() - since_ns <= IDLE_NS:
            return connection
        connection.close()
        self.close()  # those before it were free for longer
        return None

    def close(self) -> None:
        """Close what is free."""
        for _, connection in self._free:
            connection.close()
        self._free.clear()
