"""The timing loop on a clock made of arithmetic, and the synthetic input."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from shared import errors
from shared.engines.base import Feeds, Tensor, check_feeds
from shared.engines.timing import WINDOWS_MOST, measure, measure_together, synthetic_feeds
from shared.specs import TensorInfo

MS = 1_000_000


class Clockwork:
    """An engine whose call number `n` takes `cost(n)` nanoseconds on the clock it carries."""

    def __init__(self, cost: Callable[[int], int]) -> None:
        self.now = 1_000
        self.calls = 0
        self.collecting: set[bool] = set()
        self._cost = cost

    def clock(self) -> int:
        return self.now

    def infer(self, feeds: Feeds) -> dict[str, Tensor]:
        self.now += self._cost(self.calls)
        self.calls += 1
        self.collecting.add(gc.isenabled())
        return {}


def run(engine: Clockwork, *, warmup_least: int = 9, calls: int = 10, max_seconds: float = 60.0):
    return measure(engine, {}, warmup_least=warmup_least, calls=calls, max_seconds=max_seconds, clock=engine.clock)


def test_a_steady_engine_takes_three_windows_and_all_calls() -> None:
    engine = Clockwork(lambda _: 30 * MS)
    timing = run(engine)
    assert timing.steady
    assert timing.warmup_calls == 9
    assert timing.latencies_ns == [30 * MS] * 10
    assert timing.elapsed_ns == 300 * MS
    assert engine.calls == 19


def test_a_fast_engine_warms_up_for_sixty_milliseconds() -> None:
    assert run(Clockwork(lambda _: MS)).warmup_calls == 60


def test_warm_up_goes_on_until_windows_agree() -> None:
    slow_start = Clockwork(lambda n: (100 if n < 6 else 30) * MS)
    timing = run(slow_start)
    assert timing.steady
    assert timing.warmup_calls == 6 + 9
    assert set(timing.latencies_ns) == {30 * MS}


def test_an_engine_that_never_settles_is_marked() -> None:
    growing = Clockwork(lambda n: int(30 * MS * 1.06**n))
    timing = run(growing, max_seconds=10_000)
    assert not timing.steady
    assert timing.warmup_calls == WINDOWS_MOST * 3
    assert len(timing.latencies_ns) == 10


class Sleeper:
    """An engine whose calls last 4 ms, for several threads; it fails from call number `fails_after` on."""

    def __init__(self, fails_after: int = 10**9) -> None:
        self.threads: set[int] = set()
        self._calls = itertools.count()
        self._fails_after = fails_after

    def infer(self, feeds: Feeds) -> dict[str, Tensor]:
        self.threads.add(threading.get_ident())
        if next(self._calls) >= self._fails_after:
            raise errors.EngineFailed("the kernel is broken")
        time.sleep(0.004)
        return {}


def test_sessions_run_side_by_side_and_share_the_calls() -> None:
    engine = Sleeper()
    begin = time.perf_counter_ns()
    timing = measure_together([engine, engine, engine], {}, warmup_least=3, calls=31, max_seconds=30)
    took_ns = time.perf_counter_ns() - begin
    assert len(engine.threads) == 3
    assert len(timing.latencies_ns) == 31
    assert timing.elapsed_ns < took_ns
    assert sum(timing.latencies_ns) > 2 * timing.elapsed_ns, "three sessions, one after the other"
    assert gc.isenabled()


def test_a_session_that_fails_ends_them_all_with_its_reason() -> None:
    engine = Sleeper(fails_after=20)
    with pytest.raises(errors.EngineFailed, match="the kernel is broken"):
        measure_together([engine, engine], {}, warmup_least=3, calls=1000, max_seconds=30)


@pytest.mark.parametrize("sessions", [1, 3])
def test_the_start_is_told_once_between_warm_up_and_measurement(sessions: int) -> None:
    engine = Sleeper()
    told: list[int] = []
    timing = measure_together(
        [engine] * sessions,
        {},
        warmup_least=3,
        calls=10,
        max_seconds=30,
        on_start=lambda: told.append(next(engine._calls)),
    )
    assert told == [timing.warmup_calls]
    assert next(engine._calls) == timing.warmup_calls + 11


def test_windows_within_ten_percent_agree() -> None:
    assert run(Clockwork(lambda n: (100, 100, 100, 105, 105, 105, 110, 110, 110)[min(n, 8)] * MS)).warmup_calls == 9
    assert run(Clockwork(lambda n: (100, 100, 100, 105, 105, 105, 112, 112, 112)[min(n, 8)] * MS)).warmup_calls == 12


def test_time_ends_the_measurement_and_the_warm_up() -> None:
    timing = run(Clockwork(lambda _: 400 * MS), calls=700, max_seconds=2.0)
    assert len(timing.latencies_ns) == 5  # the fifth starts at 1.6 s
    assert timing.elapsed_ns == 2_000 * MS
    assert timing.warmup_calls == 5
    assert not timing.steady


def test_one_call_is_always_measured() -> None:
    assert len(run(Clockwork(lambda _: 5_000 * MS), max_seconds=0.001).latencies_ns) == 1


def test_outliers_are_kept() -> None:
    timing = run(Clockwork(lambda n: (900 if n == 12 else 30) * MS))
    assert timing.latencies_ns[3] == 900 * MS
    assert timing.elapsed_ns == sum(timing.latencies_ns)


def test_the_garbage_collector_rests_and_comes_back() -> None:
    engine = Clockwork(lambda _: 30 * MS)
    frozen = gc.get_freeze_count()
    assert gc.isenabled()
    run(engine)
    assert engine.collecting == {False}
    assert gc.isenabled()
    assert gc.get_freeze_count() <= frozen


def test_a_failure_is_raised_and_the_collector_comes_back() -> None:
    def fail(_: int) -> int:
        raise errors.EngineFailed("on purpose")

    with pytest.raises(errors.EngineFailed, match="on purpose"):
        run(Clockwork(fail))
    assert gc.isenabled()


INPUTS = [
    TensorInfo(name="image", dtype="float32", shape=["batch", 3, 4, 4]),
    TensorInfo(name="pixels", dtype="uint8", shape=["batch", 50]),
    TensorInfo(name="index", dtype="int64", shape=["batch", 50]),
    TensorInfo(name="mask", dtype="bool", shape=["batch", 50]),
    TensorInfo(name="half", dtype="float16", shape=["n", 5]),
]


def test_synthetic_input_fits_and_repeats() -> None:
    feeds = synthetic_feeds(INPUTS, 8, seed=3)
    check_feeds(INPUTS, feeds)
    assert all(len(array) == 8 for array in feeds.values())
    again, other = synthetic_feeds(INPUTS, 8, seed=3), synthetic_feeds(INPUTS, 8, seed=4)
    assert all(np.array_equal(feeds[name], again[name]) for name in feeds)
    assert not np.array_equal(feeds["image"], other["image"])
    assert feeds["image"].min() >= 0
    assert feeds["image"].max() < 1
    assert feeds["pixels"].max() > 200
    assert set(np.unique(feeds["index"])) == {0, 1}


def test_a_fixed_batch_is_respected() -> None:
    fixed = [TensorInfo(name="image", dtype="float32", shape=[4, 3, 2, 2])]
    assert synthetic_feeds(fixed, 4, seed=0)["image"].shape == (4, 3, 2, 2)
    with pytest.raises(errors.InvalidInput, match="batches of 4, not 8"):
        synthetic_feeds(fixed, 8, seed=0)


def test_an_open_axis_beside_the_batch_is_refused() -> None:
    with pytest.raises(errors.InvalidInput, match="only the batch may be left open"):
        synthetic_feeds([TensorInfo(name="image", dtype="float32", shape=["batch", 3, "height", 4])], 1, seed=0)
