"""The one timing loop: what is reported as a latency was measured here."""

from __future__ import annotations

import contextlib
import gc
import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

from shared import errors
from shared.engines.base import Feeds, Tensor, describe
from shared.specs import TensorInfo

WINDOWS_COMPARED = 3
WINDOWS_MOST = 20
WINDOW_NS = 20_000_000
AGREEMENT = 1.10

ClockNs = Callable[[], int]


def _nothing() -> None:
    """Where nobody wants to know."""


class Runs(Protocol):
    """What can be timed: an activated engine."""

    def infer(self, feeds: Feeds, /) -> dict[str, Tensor]:
        """Run once."""


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """What `measure` found; the fields mean what they mean in `specs.Block`."""

    latencies_ns: list[int]
    elapsed_ns: int
    cpu_ns: int
    """CPU time of this process, all its threads, over the measured calls."""
    warmup_calls: int
    steady: bool


def measure(
    engine: Runs,
    feeds: Feeds,
    *,
    warmup_least: int,
    calls: int,
    max_seconds: float,
    on_start: Callable[[], None] = _nothing,
    clock: ClockNs = time.perf_counter_ns,
    cpu_clock: ClockNs = time.process_time_ns,
) -> Timing:
    """Warm up until steady, then time each call; the garbage collector rests meanwhile.

    Args:
        engine: Called with `feeds` each time; a failure ends the measurement and is raised.
        feeds: The input of every call.
        warmup_least: Calls before the first measured one, at least (`max_seconds` ends even these).
        calls: Measured calls, at most.
        max_seconds: Bounds the warm-up and the measurement, each: no call starts later.
        on_start: Called between the two.
        clock: Nanoseconds, monotonic.
        cpu_clock: Nanoseconds of CPU time of this process.
    """
    limit_ns = int(max_seconds * 1e9)
    with _no_collection():
        warmup_calls, steady = _warm_up(engine, feeds, warmup_least, limit_ns, clock)
        latencies: list[int] = []
        on_start()
        cpu_start = cpu_clock()
        start = end = clock()
        while len(latencies) < calls and (end - start < limit_ns or not latencies):
            begin = clock()
            engine.infer(feeds)
            end = clock()
            latencies.append(end - begin)
        cpu_ns = cpu_clock() - cpu_start
    return Timing(
        latencies_ns=latencies, elapsed_ns=end - start, cpu_ns=cpu_ns, warmup_calls=warmup_calls, steady=steady
    )


def measure_together(
    sessions: Sequence[Runs],
    feeds: Feeds,
    *,
    warmup_least: int,
    calls: int,
    max_seconds: float,
    on_start: Callable[[], None] = _nothing,
) -> Timing:
    """The same for several sessions side by side, each in a thread of its own; one session is simply measured.

    Every session warms up among the others. When the last one is steady all start together and take calls from one
    count, so that none is left alone at the end. Latencies are of all sessions, one session after another; the wall
    time runs from the common start to the last answer.

    Args:
        sessions: At least one.
        feeds: The input of every call.
        warmup_least: Of each session.
        calls: Measured calls of all sessions together, at most.
        max_seconds: Bounds the warm-up and the measurement, each.
        on_start: Called once, between the two.
    """
    if len(sessions) == 1:
        return measure(
            sessions[0], feeds, warmup_least=warmup_least, calls=calls, max_seconds=max_seconds, on_start=on_start
        )
    together = _Together(len(sessions), feeds, warmup_least, calls, int(max_seconds * 1e9), on_start=on_start)
    with _no_collection(), ThreadPoolExecutor(len(sessions)) as threads:
        running = [threads.submit(together.run, session) for session in sessions]
        failures = [failure for each in running if (failure := each.exception())]
        for failure in sorted(failures, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
            raise failure  # of the session that failed, not of those that waited for it
        found = [each.result() for each in running]
    return Timing(
        latencies_ns=[latency for each in found for latency in each.latencies_ns],
        elapsed_ns=max(each.end_ns for each in found) - together.start_ns,
        cpu_ns=time.process_time_ns() - together.cpu_start_ns,
        warmup_calls=sum(each.warmup_calls for each in found),
        steady=all(each.steady for each in found),
    )


class _Session(NamedTuple):
    """What one of several sessions did."""

    warmup_calls: int
    steady: bool
    latencies_ns: list[int]
    end_ns: int


class _Together:
    """Several sessions between a common start and a common end."""

    def __init__(
        self,
        sessions: int,
        feeds: Feeds,
        warmup_least: int,
        calls: int,
        limit_ns: int,
        *,
        on_start: Callable[[], None],
    ) -> None:
        self._on_start = on_start
        self._feeds, self._warmup_least, self._calls, self._limit_ns = feeds, warmup_least, calls, limit_ns
        self._taken = itertools.count()  # `next` on it is one step of the interpreter: no call is taken twice
        self._ready = threading.Barrier(sessions, action=self._start)
        self.start_ns = self.cpu_start_ns = 0

    def _start(self) -> None:
        self._on_start()
        self.cpu_start_ns, self.start_ns = time.process_time_ns(), time.perf_counter_ns()

    def run(self, session: Runs) -> _Session:
        """Warm up, wait for the others, measure."""
        try:
            warmup_calls, steady = _warm_up(
                session, self._feeds, self._warmup_least, self._limit_ns, time.perf_counter_ns
            )
            self._ready.wait()
            latencies, end = self._measure(session)
        except BaseException:
            self._ready.abort()
            raise
        return _Session(warmup_calls, steady, latencies, end)

    def _measure(self, session: Runs) -> tuple[list[int], int]:
        latencies: list[int] = []
        end = self.start_ns
        while (taken := next(self._taken)) < self._calls and (end - self.start_ns < self._limit_ns or not taken):
            begin = time.perf_counter_ns()
            session.infer(self._feeds)
            end = time.perf_counter_ns()
            latencies.append(end - begin)
        return latencies, end


def _warm_up(engine: Runs, feeds: Feeds, least: int, limit_ns: int, clock: ClockNs) -> tuple[int, bool]:
    """Calls made, and whether the medians of the last three windows agreed within 10 %.

    A window lasts 20 ms and a third of `least` calls, whichever is longer; there are at most 20.
    """
    window_calls = -(-least // WINDOWS_COMPARED)
    medians: list[float] = []
    made = 0
    start = clock()
    while len(medians) < WINDOWS_MOST:
        window: list[int] = []
        begin = end = clock()
        while len(window) < window_calls or end - begin < WINDOW_NS:
            before = clock()
            if before - start >= limit_ns:
                return made, False
            engine.infer(feeds)
            end = clock()
            window.append(end - before)
            made += 1
        medians.append(statistics.median(window))
        if _agree(medians[-WINDOWS_COMPARED:]):
            return made, True
    return made, False


def _agree(medians: Sequence[float]) -> bool:
    return len(medians) == WINDOWS_COMPARED and max(medians) <= AGREEMENT * min(medians)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector out: a pause of its own would be reported as the engine's."""
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


def synthetic_feeds(inputs: Sequence[TensorInfo], batch_size: int, seed: int) -> dict[str, Tensor]:
    """Input of the right shapes from a seed: floats uniform in [0, 1), `uint8` over its range, other integers and
    booleans 0 or 1 (they tend to be indices and flags).

    Raises:
        errors.InvalidInput: The model has another fixed batch, or an axis beside the batch without a size.
    """
    random = np.random.default_rng(seed)
    return {info.name: _draw(random, info, _sizes(info, batch_size)) for info in inputs}


def _sizes(info: TensorInfo, batch_size: int) -> list[int]:
    sizes = [batch_size if axis == 0 and isinstance(size, str) else size for axis, size in enumerate(info.shape)]
    fixed = [size for size in sizes if isinstance(size, int)]
    if len(fixed) < len(sizes):
        raise errors.InvalidInput(
            f"Input {info.name!r} is {describe(info)}: only the batch may be left open. Export it with fixed sizes."
        )
    if fixed and fixed[0] != batch_size:
        raise errors.InvalidInput(
            f"Input {info.name!r} is {describe(info)}: the model runs batches of {fixed[0]}, not {batch_size}."
        )
    return fixed


def _draw(random: np.random.Generator, info: TensorInfo, sizes: list[int]) -> Tensor:
    dtype = np.dtype(info.dtype)
    if dtype.kind == "f":
        return random.random(sizes, dtype=np.float32).astype(dtype)
    return random.integers(0, 256 if dtype == np.uint8 else 2, sizes).astype(dtype)
