"""The bootstrap of ratios against brute force, simulation and its own promises."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from shared.specs import Series
from shared.verdict.bootstrap import (
    Bootstrap,
    Compared,
    Launch,
    launches,
    noise_floor,
    p95_replicates,
    throughput_replicates,
)
from shared.verdict.intervals import percentile
from shared.verdict.metrics import summarise
from tests.unit.measurements import candidate, measured

A, B = candidate("onnxruntime"), candidate("openvino")


def generator(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def some_launches(count: int = 5, calls: int = 80) -> list[Launch]:
    found = launches(measured(A, 1.2, rounds=count, calls=count * calls, drift=0.1))
    return list(found.values())


@pytest.mark.parametrize(
    ("replicates", "plain"),
    [
        (p95_replicates, lambda chosen: percentile(np.concatenate([one.calls_ms for one in chosen]), 0.95).value),
        (
            throughput_replicates,
            lambda chosen: sum(one.images for one in chosen) / sum(one.elapsed_s for one in chosen),
        ),
    ],
)
def test_replicates_are_the_figures_of_the_drawn_launches(
    replicates: Callable[[list[Launch], np.ndarray], np.ndarray], plain: Callable[[list[Launch]], float]
) -> None:
    found = some_launches()
    drawn = generator().integers(0, len(found), (300, len(found)))
    assert replicates(found, drawn) == pytest.approx([plain([found[index] for index in row]) for row in drawn])


def test_a_candidate_missing_from_a_round_is_left_out_of_it() -> None:
    found = some_launches(2)
    drawn = np.array([[-1, -1, -1], [0, -1, -1], [1, 0, -1]])
    for replicates in (p95_replicates, throughput_replicates):
        values = replicates(found, drawn)
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


def test_how_sure_a_ratio_is_to_reach_a_limit() -> None:
    pair = Bootstrap([measured(A, 1.0, calls=7000), measured(B, 1.3, calls=7000)], 0)
    low, high = pair.bounds("latency_p95_ms", B.key, A.key, 1.3)

    def sure(least: float) -> float:
        return pair.probability("latency_p95_ms", B.key, A.key, 1.3, least)

    assert sure(1.3) == pytest.approx(0.5)
    assert sure(low) == pytest.approx(0.975)
    assert sure(high) == pytest.approx(0.025)
    once = Bootstrap([measured(A, 1.2, rounds=1), measured(B, 1.3)], 0)
    assert once.probability("latency_p95_ms", B.key, A.key, 1.08, 1.0) is None


def test_the_noise_floor_is_what_equals_end_up_apart() -> None:
    """Of 60 pairs of equal candidates whose launches vary by 3 %, 19 in 20 are no further apart than its like says."""
    apart, floors = [], []
    for seed in range(60):
        one, other = (
            measured(A, 1.0, rounds=10, drift=0.03, seed=seed),
            measured(A, 1.0, rounds=10, drift=0.03, seed=seed + 999),
        )
        floors.append(noise_floor(one, other, seed, resamples=500))
        p95 = [summarise(each)["latency_p95_ms"].value for each in (one, other)]
        apart.append(abs(np.log(p95[0] / p95[1])))
    assert np.mean(apart <= np.median(floors)) >= 0.9
    assert np.median(floors) < 0.08


def test_a_noise_floor_needs_two_pairs_of_launches_and_repeats() -> None:
    one, other = measured(A, 1.0), measured(A, 1.0, seed=8)
    assert noise_floor(one, other, 3) == noise_floor(one, other, 3)
    assert noise_floor(one, msgspec.structs.replace(other, blocks=other.blocks[:1]), 3) is None
