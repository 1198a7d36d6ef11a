"""The one timing loop: what is reported as a latency was measured here."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

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
        clock: Nanoseconds, monotonic.
        cpu_clock: Nanoseconds of CPU time of this process.
    """
    limit_ns = int(max_seconds * 1e9)
    with _no_collection():
        warmup_calls, steady = _warm_up(engine, feeds, warmup_least, limit_ns, clock)
        latencies: list[int] = []
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
