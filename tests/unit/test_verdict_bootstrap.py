"""The bootstrap of ratios against brute force, simulation and its own promises."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from shared.specs import Series
from shared.verdict.bootstrap import Bootstrap, Compared, Launch, launches, p95_replicates, throughput_replicates
from shared.verdict.metrics import summarise
from tests.unit.measurements import candidate, measured

A, B = candidate("onnxruntime"), candidate("openvino")


def generator(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def some_launches(count: int = 5, calls: int = 80) -> list[Launch]:
    found = launches(measured(A, 1.2, rounds=count, calls=count * calls, drift=0.1))
    return list(found.values())


def test_p95_replicates_are_those_of_plain_resampling() -> None:
    found = some_launches()
    drawn = generator().integers(0, len(found), (4000, len(found)))
    quick = p95_replicates(found, drawn, generator(2))
    rank = int(0.95 * sum(len(launch.calls_ms) for launch in found))
    plain_generator = generator(3)
    plain = [
        np.sort(np.concatenate([plain_generator.choice(found[i].calls_ms, len(found[i].calls_ms)) for i in row]))[
            rank - 1
        ]
        for row in drawn[:2000]
    ]
    assert quick.mean() == pytest.approx(np.mean(plain), rel=0.005)
    assert quick.std() == pytest.approx(np.std(plain), rel=0.10)
    assert np.quantile(quick, [0.05, 0.95]) == pytest.approx(np.quantile(plain, [0.05, 0.95]), rel=0.01)
    measured_values = np.concatenate([launch.calls_ms for launch in found])
    assert np.isin(quick, measured_values).all()


def test_throughput_replicates_are_those_of_plain_resampling() -> None:
    found = some_launches()
    drawn = generator().integers(0, len(found), (4000, len(found)))
    quick = throughput_replicates(found, drawn, generator(2))
    plain_generator = generator(3)

    def resampled_s(launch: Launch) -> float:
        calls = launch.calls_ms
        return launch.elapsed_s * plain_generator.choice(calls, len(calls)).sum() / calls.sum()

    plain = [sum(found[i].images for i in row) / sum(resampled_s(found[i]) for i in row) for row in drawn[:2000]]
    assert quick.mean() == pytest.approx(np.mean(plain), rel=0.002)
    assert quick.std() == pytest.approx(np.std(plain), rel=0.10)


def test_a_candidate_missing_from_a_round_is_left_out_of_it() -> None:
    found = some_launches(2)
    drawn = np.array([[-1, -1, -1], [0, -1, -1], [1, 0, -1]])
    for replicates in (p95_replicates, throughput_replicates):
        values = replicates(found, drawn, generator())
        assert np.isnan(values[0])
        assert np.isfinite(values[1:]).all()


def test_same_seed_same_bounds_whatever_the_order_or_company() -> None:
    a, b, c = measured(A, 1.2), measured(B, 1.3), measured(candidate("openvino", 8), 6.0)
    first = Bootstrap([a, b], 5).bounds("latency_p95_ms", B.key, A.key, 1.08)
    assert Bootstrap([c, b, a], 5).bounds("latency_p95_ms", B.key, A.key, 1.08) == first
    assert Bootstrap([a, b], 6).bounds("latency_p95_ms", B.key, A.key, 1.08) != first


def test_one_round_gives_no_bounds() -> None:
    found = Bootstrap([measured(A, 1.2, rounds=1), measured(B, 1.3)], 0)
    assert found.bounds("latency_p95_ms", B.key, A.key, 1.08) is None


def test_what_hits_a_whole_round_cancels() -> None:
    """Rounds up to twice as slow for both: the ratio stays narrow although each latency is all over the place."""
    slow = [1.0, 1.9, 1.3, 2.0, 1.6]

    def drifting(series: Series) -> Series:
        blocks = [
            msgspec.structs.replace(
                block, latencies_ns=[int(ns * by) for ns in block.latencies_ns], elapsed_ns=int(block.elapsed_ns * by)
            )
            for block, by in zip(series.blocks, slow, strict=True)
        ]
        return msgspec.structs.replace(series, blocks=blocks)

    pair = [drifting(measured(A, 1.0, drift=0)), drifting(measured(B, 1.3, drift=0))]
    low, high = Bootstrap(pair, 0).bounds("throughput_fps", B.key, A.key, 1 / 1.3)
    assert low == pytest.approx(1 / 1.3, rel=0.06)
    assert high / low < 1.06


@pytest.mark.parametrize("metric", ["latency_p95_ms", "throughput_fps"])
@pytest.mark.parametrize("rounds", [2, 3, 5, 10])
def test_bounds_cover_the_true_ratio(metric: Compared, rounds: int) -> None:
    """150 benchmarks whose rounds vary by 3 %: at least 93 % of the bounds hold the true ratio, 1.2 or its inverse."""
    truth = 1.2 if metric == "latency_p95_ms" else 1 / 1.2
    covered = 0
    for seed in range(150):
        a, b = (measured(of, ms, rounds=rounds, calls=300, drift=0.03, seed=seed) for of, ms in ((A, 1.0), (B, 1.2)))
        ratio = summarise(b)[metric].value / summarise(a)[metric].value
        low, high = Bootstrap([a, b], seed, resamples=1000).bounds(metric, B.key, A.key, ratio)
        covered += low <= truth <= high
    assert covered >= 139
