"""Percentile and mean intervals against brute force and simulation."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri

from shared.verdict.intervals import (
    NotEnoughSamples,
    design_effect,
    mean_of_blocks,
    percentile,
    percentile_of_blocks,
    percentile_ranks,
    samples_needed,
)


def exact_ranks(n: int, p: Fraction) -> tuple[int, int] | None:
    """The definition, in whole numbers: the tightest ranks whose tails are at most 2.5 % each."""
    tail = Fraction(25, 1000)
    mass = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    below = [sum(mass[:rank]) for rank in range(n + 1)]  # P(Bin < rank)
    lows = [rank for rank in range(1, n + 1) if below[rank] <= tail]
    highs = [rank for rank in range(1, n + 1) if 1 - below[rank] <= tail]
    return (max(lows), min(highs)) if lows and highs else None


@settings(deadline=None)
@given(st.integers(1, 110), st.sampled_from([Fraction(1, 2), Fraction(9, 10), Fraction(19, 20), Fraction(1, 4)]))
def test_ranks_are_the_exact_ones(n: int, p: Fraction) -> None:
    expected = exact_ranks(n, p)
    if expected is None:
        with pytest.raises(NotEnoughSamples):
            percentile_ranks(float(p), n)
    else:
        ranks = percentile_ranks(float(p), n)
        assert (ranks.low, ranks.high) == expected
        assert ranks.low <= ranks.estimate <= ranks.high


@pytest.mark.parametrize(("p", "needed"), [(0.5, 6), (0.95, 72), (0.99, 368)])
def test_smallest_sample_of_each_percentile(p: float, needed: int) -> None:
    assert samples_needed(p) == needed
    percentile_ranks(p, needed)
    with pytest.raises(NotEnoughSamples, match=f"not enough samples: n={needed - 1}, needs >= {needed}"):
        percentile_ranks(p, needed - 1)


def test_known_ranks_of_the_default_run() -> None:
    assert percentile_ranks(0.95, 700) == (665, 653, 677)
    assert percentile_ranks(0.5, 700).estimate == 350


def test_a_million_samples() -> None:
    ranks = percentile_ranks(0.99, 1_000_000)
    assert ranks.estimate == 990_000
    assert ranks.low == pytest.approx(990_000 - 1.96 * math.sqrt(9900), abs=3)


@settings(deadline=None)
@given(st.lists(st.floats(0.001, 1e6), min_size=72, max_size=200), st.randoms())
def test_bounds_are_samples_and_order_does_not_matter(values: list[float], random: random.Random) -> None:
    found = percentile(values, 0.95)
    shuffled = list(values)
    random.shuffle(shuffled)
    assert percentile(shuffled, 0.95) == found
    assert {found.value, found.low, found.high} <= set(values)
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize(("p", "n"), [(0.5, 30), (0.95, 100), (0.95, 700), (0.99, 700)])
def test_percentile_intervals_cover_what_they_promise(p: float, n: int) -> None:
    generator = np.random.default_rng(3)
    truth = -math.log(1 - p)
    draws = np.sort(generator.exponential(size=(4000, n)), axis=1)
    ranks = percentile_ranks(p, n)
    covered = np.mean((draws[:, ranks.low - 1] <= truth) & (truth <= draws[:, ranks.high - 1]))
    assert 0.945 <= covered <= 0.99  # at least 95 %, less the noise of 4,000 draws; not much more than needed


def test_mean_intervals_cover_what_they_promise() -> None:
    generator = np.random.default_rng(4)
    found = [mean_of_blocks(list(row)) for row in generator.normal(10, 1, (3000, 5))]
    covered = np.mean([interval.low <= 10 <= interval.high for interval in found])
    assert covered == pytest.approx(0.95, abs=0.015)


def test_mean_by_hand() -> None:
    found = mean_of_blocks([1.0, 2.0, 3.0])
    margin = 4.302652729911275 / math.sqrt(3)  # t_2 at 97.5 %, s = 1
    assert found == (2.0, pytest.approx(max(0.0, 2 - margin)), pytest.approx(2 + margin))


def test_one_block_has_a_mean_and_no_bounds() -> None:
    assert mean_of_blocks([3.5]) == (3.5, None, None)


def test_a_lower_bound_is_not_negative() -> None:
    assert mean_of_blocks([0.1, 9.0]).low == 0.0


# --- calls of one launch are alike ----------------------------------------------------------------------------------


def launches_of(generator: np.random.Generator, likeness: float, drift: float) -> list[np.ndarray]:
    """10 launches of 70 lognormal calls: each like the one before (AR(1)), and launches that differ."""
    walk = generator.standard_normal((10, 70))
    for at in range(1, 70):
        walk[:, at] = likeness * walk[:, at - 1] + math.sqrt(1 - likeness**2) * walk[:, at]
    return list(np.exp(0.2 * walk + drift * generator.standard_normal((10, 1))))


@pytest.mark.parametrize("p", [0.5, 0.95, 0.99])
@pytest.mark.parametrize(("likeness", "drift"), [(0.0, 0.0), (0.6, 0.0), (0.0, 0.05), (0.6, 0.03)])
def test_percentiles_of_calls_that_are_alike_cover_what_they_promise(p: float, likeness: float, drift: float) -> None:
    truth = math.exp(math.sqrt(0.2**2 + drift**2) * float(ndtri(p)))
    found = [
        percentile_of_blocks(launches_of(np.random.default_rng([seed, 1]), likeness, drift), p) for seed in range(400)
    ]
    assert np.mean([interval.low <= truth <= interval.high for interval in found]) >= 0.93  # 95 % less noise of 400


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(0.001, 1e6), min_size=40, max_size=60), min_size=2, max_size=5), st.randoms())
def test_blocks_never_make_an_interval_narrower(blocks: list[list[float]], random: random.Random) -> None:
    exact = percentile([value for block in blocks for value in block], 0.95)
    found = percentile_of_blocks([np.asarray(block) for block in blocks], 0.95)
    assert found.value == exact.value
    assert found.low <= exact.low
    assert found.high >= exact.high
    shuffled = [random.sample(block, len(block)) for block in random.sample(blocks, len(blocks))]
    assert percentile_of_blocks([np.asarray(block) for block in shuffled], 0.95) == found


def test_one_block_is_taken_as_independent_and_too_few_calls_are_refused() -> None:
    calls = np.arange(1.0, 101.0)
    assert percentile_of_blocks([calls], 0.95) == percentile(calls, 0.95)
    with pytest.raises(NotEnoughSamples):
        percentile_of_blocks([calls[:30], calls[30:60]], 0.95)


def test_the_design_effect_by_hand() -> None:
    """Two blocks of four, one wholly below the limit and one wholly above: eight calls tell as much as one."""
    assert design_effect([np.full(4, 1.0), np.full(4, 9.0)], 5.0) == pytest.approx(8.0)
    assert design_effect([np.array([1.0, 9.0]), np.array([9.0, 1.0])], 5.0) == 0.0
    assert design_effect([np.array([1.0, 9.0])], 5.0) == 1.0
