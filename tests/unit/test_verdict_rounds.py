"""Ratios round by round, against brute force, simulation and their own promises."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.verdict.intervals import Interval
from shared.verdict.metrics import summarise
from shared.verdict.rounds import Compared, Rounds, figures, noise_floor
from tests.unit.measurements import candidate, measured, slowed

A, B = candidate("onnxruntime"), candidate("openvino")
METRICS: tuple[Compared, ...] = ("latency_p95_ms", "throughput_fps")


def of_ratios(ratios: list[float], metric: Compared = "latency_p95_ms") -> Interval:
    """What comes of two candidates whose launches have these ratios, one a round."""
    calls = [
        msgspec.structs.replace(block, latencies_ns=[1_000_000], elapsed_ns=1_000_000)
        for block in measured(A, 1.0, rounds=len(ratios), calls=len(ratios)).blocks
    ]
    under = msgspec.structs.replace(measured(A, 1.0), blocks=calls)
    over = slowed(
        msgspec.structs.replace(under, candidate=B), {number: by for number, by in enumerate(ratios, start=1)}
    )
    return Rounds([under, over]).ratio(metric, B.key, A.key)


def test_figures_are_those_of_a_launch_and_blocks_of_one_round_are_one() -> None:
    whole = measured(candidate("openvino", 8), 6.0, rounds=6)
    halves = [
        msgspec.structs.replace(block, latencies_ns=part, elapsed_ns=block.elapsed_ns // 2)
        for block in whole.blocks
        for part in (block.latencies_ns[::2], block.latencies_ns[1::2])
    ]
    p95 = {
        block.round: float(np.quantile(block.latencies_ns, 0.95, method="inverted_cdf")) / 1e6 for block in whole.blocks
    }
    found, split = figures(whole), figures(msgspec.structs.replace(whole, blocks=halves))
    assert found["latency_p95_ms"] == pytest.approx(p95)
    assert found["throughput_fps"][1] == pytest.approx(8e9 * 116 / whole.blocks[0].elapsed_ns)
    for metric in METRICS:
        assert split[metric] == pytest.approx(found[metric])


def test_the_ratio_is_the_median_of_the_rounds_and_its_bounds_are_two_of_them() -> None:
    ratios = [1.00, 1.01, 1.02, 1.03, 1.04, 1.05, 1.06, 1.07, 1.08, 1.09, 1.10, 1.11]
    found = of_ratios(ratios[::-1])
    assert found.value == pytest.approx(math.sqrt(1.05 * 1.06))
    assert found.low == pytest.approx(1.02)  # the third from either end: P(Bin(12, 1/2) <= 2) = 1.9 %
    assert found.high == pytest.approx(1.09)


def test_two_launches_of_twelve_that_were_held_up_do_not_move_a_comparison() -> None:
    """Over all calls they carry the P95 away."""
    still, held = (measured(of, 1.0, calls=12_000, drift=0) for of in (A, B))
    found = Rounds([still, slowed(held, {3: 1.6, 9: 5.0})]).ratio("latency_p95_ms", B.key, A.key)
    assert found.low is not None
    assert found.high is not None
    assert 0.9 < found.low <= found.value <= found.high < 1.1
    apart = summarise(slowed(held, {3: 1.6, 9: 5.0}))["latency_p95_ms"].value
    assert apart is not None
    assert apart > 1.5


def test_what_hits_a_whole_round_cancels() -> None:
    bad = {1: 1.9, 2: 1.3, 3: 2.0, 5: 1.6, 8: 3.0, 9: 1.2, 11: 1.4}
    pair = [slowed(measured(of, ms, rounds=12, drift=0), bad) for of, ms in ((A, 1.0), (B, 1.3))]
    found = Rounds(pair).ratio("throughput_fps", B.key, A.key)
    assert found.low is not None
    assert found.high is not None
    assert found.value == pytest.approx(1 / 1.3, rel=0.03)
    assert found.high / found.low < 1.06


@given(st.lists(st.floats(0.5, 2.0), min_size=6, max_size=30))
def test_turning_a_ratio_over_turns_its_interval_over(ratios: list[float]) -> None:
    there, back = of_ratios(ratios), of_ratios([1 / ratio for ratio in ratios])
    assert there.low is not None
    assert there.high is not None
    assert [1 / there.value, 1 / there.high, 1 / there.low] == pytest.approx(list(back), rel=1e-5)


def test_five_rounds_give_an_estimate_and_no_bounds() -> None:
    found = of_ratios([1.2] * 5)
    assert (round(found.value, 6), found.low, found.high) == (1.2, None, None)
    assert of_ratios([1.2] * 6).low == pytest.approx(1.2)


def test_only_rounds_that_have_both_are_compared() -> None:
    one, other = measured(A, 1.0, rounds=12, drift=0), measured(B, 2.0, rounds=12, drift=0)
    early = msgspec.structs.replace(one, blocks=one.blocks[:6])
    late = msgspec.structs.replace(other, blocks=slowed(other, dict.fromkeys(range(7, 13), 9.0)).blocks)
    assert Rounds([early, late]).ratio("latency_p95_ms", B.key, A.key).value == pytest.approx(2.0, rel=0.1)
    never = msgspec.structs.replace(late, blocks=late.blocks[6:])
    assert Rounds([early, never]).ratio("latency_p95_ms", B.key, A.key) == Interval(
        pytest.approx(18.0, rel=0.1), None, None
    )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rounds", [6, 9, 12])
def test_bounds_cover_the_true_ratio(metric: Compared, rounds: int) -> None:
    """200 benchmarks whose rounds vary by 3 %: at least 93 % of the bounds hold the true ratio, 1.2 or its inverse."""
    truth = 1.2 if metric == "latency_p95_ms" else 1 / 1.2
    covered = 0
    for seed in range(200):
        pair = [measured(of, ms, rounds=rounds, calls=600, drift=0.03, seed=seed) for of, ms in ((A, 1.0), (B, 1.2))]
        found = Rounds(pair).ratio(metric, B.key, A.key)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= truth <= found.high
    assert covered >= 186


def test_how_sure_a_ratio_is_to_reach_a_limit() -> None:
    pair = [measured(A, 1.0, rounds=12, drift=0), measured(B, 1.3, rounds=12, drift=0)]
    found = Rounds([pair[0], slowed(pair[1], {1: 0.5})])

    def sure(least: float) -> float | None:
        return found.confidence("latency_p95_ms", B.key, A.key, least)

    assert sure(0.5) == pytest.approx(1 - 0.5**12)
    assert sure(1.1) == pytest.approx(1 - 13 * 0.5**12)  # 11 of 12 rounds reach it
    assert sure(2.0) == 0
    few = Rounds([measured(A, 1.2, rounds=5), measured(B, 1.3)])
    assert few.confidence("latency_p95_ms", B.key, A.key, 1.0) is None


def test_the_order_of_the_candidates_does_not_matter() -> None:
    a, b, c = measured(A, 1.2), measured(B, 1.3), measured(candidate("openvino", 8), 6.0)
    for metric in METRICS:
        assert Rounds([a, b]).ratio(metric, B.key, A.key) == Rounds([c, b, a]).ratio(metric, B.key, A.key)


def test_the_noise_floor_is_what_equals_end_up_apart() -> None:
    """Of 60 pairs of equal candidates whose launches vary by 3 %, 19 in 20 are no further apart than its like says."""
    apart, floors = [], []
    for seed in range(60):
        one, other = (
            measured(of, 1.0, rounds=12, drift=0.03, seed=drawn) for of, drawn in ((A, seed), (B, seed + 999))
        )
        floor = noise_floor(one, other, seed, resamples=500)
        assert floor is not None
        floors.append(floor)
        pair = Rounds([one, other])
        apart.append(max(abs(math.log(pair.ratio(metric, B.key, A.key).value)) for metric in METRICS))
    assert np.mean(np.asarray(apart) <= np.median(floors)) >= 0.9
    assert np.median(floors) < 0.08


def test_a_noise_floor_needs_six_rounds_and_repeats() -> None:
    one, other = measured(A, 1.0), measured(A, 1.0, seed=8)
    assert noise_floor(one, other, 3) == noise_floor(one, other, 3)
    assert noise_floor(one, msgspec.structs.replace(other, blocks=other.blocks[:5]), 3) is None
