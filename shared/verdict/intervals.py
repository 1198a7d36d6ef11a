"""95 % intervals from measured samples: exact ones for percentiles, Student's for means over blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import bdtr, bdtrik, stdtrit

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """An estimate with its bounds; both bounds are None where the sample gives none."""

    value: float
    low: float | None
    high: float | None


class Ranks(NamedTuple):
    """1-based ranks into the sorted sample: the estimate and the bounds of its interval."""

    estimate: int
    low: int
    high: int


class NotEnoughSamples(ValueError):
    """The sample is too small for a bound on this percentile."""

    def __init__(self, n: int, needed: int) -> None:
        super().__init__(f"not enough samples: n={n}, needs >= {needed}")
        self.n, self.needed = n, needed


def samples_needed(p: float, confidence: float = CONFIDENCE) -> int:
    """The smallest n with a two-sided bound on the `p` quantile.

    The largest of n samples lies below the quantile with probability p**n, the smallest above it with (1-p)**n; both
    must be at most (1-confidence)/2. At 95 %: 6 for the median, 72 for P95, 368 for P99.
    """
    tail = (1 - confidence) / 2
    return math.ceil(math.log(tail) / math.log(max(p, 1 - p)))


def percentile_ranks(p: float, n: int, confidence: float = CONFIDENCE) -> Ranks:
    """Ranks (l, u) with P(X_(l) <= quantile <= X_(u)) >= confidence for any distribution of independent samples.

    The number of samples below the quantile is Binomial(n, p), so that l is the largest rank with P(Bin < l) <= a and
    u the smallest with P(Bin >= u) <= a, a = (1-confidence)/2 (David and Nagaraja, Order Statistics, 3rd ed., section
    7.1). The estimate is X_(ceil(np)), the inverse of the empirical distribution. Exact at any n, unlike the normal
    approximation.

    Raises:
        NotEnoughSamples: A bound would lie outside the sample.
    """
    tail = (1 - confidence) / 2
    if n < samples_needed(p, confidence):
        raise NotEnoughSamples(n, samples_needed(p, confidence))
    return Ranks(_rank(p, n), _binomial_quantile(tail, n, p), _binomial_quantile(1 - tail, n, p) + 1)


def _binomial_quantile(probability: float, n: int, p: float) -> int:
    """The smallest k with P(Bin(n, p) <= k) >= probability."""
    inverse: float = bdtrik(probability, n, p)  # on the reals; its last digit may be off at a whole number
    k = math.ceil(inverse)
    while k > 0 and bdtr(k - 1, n, p) >= probability:
        k -= 1
    while bdtr(k, n, p) < probability:
        k += 1
    return k


def _rank(p: float, n: int) -> int:
    # 0.95 * 700 is 665.0000000000001 in floating point; the tolerance keeps such a product from gaining a rank.
    return max(1, math.ceil(p * n - 1e-9 * n))


def percentile(values: Sequence[float] | np.ndarray, p: float, confidence: float = CONFIDENCE) -> Interval:
    """The `p` quantile with its exact order-statistic interval; every bound is one of the measured values.

    Raises:
        NotEnoughSamples: The sample gives no bound, and then there is no percentile either.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    ranks = percentile_ranks(p, len(ordered), confidence)
    return Interval(*(float(ordered[rank - 1]) for rank in ranks))


def rate_of_blocks(counts: Sequence[float], times: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Things per second over blocks of n_b things in e_b seconds each: sum n / sum e.

    A mean of the blocks' own rates would let a fast block hide a slow one (Jensen's inequality). The interval is that
    of the ratio estimator R = sum e / sum n, R +- t_(B-1) * s_d / (mean(n) * sqrt(B)) with d_b = e_b - R * n_b
    (Cochran, Sampling Techniques, 3rd ed., chapter 6), turned over; its upper end is at most the fastest block's rate.
    One block gives a rate and no bounds.
    """
    n, e = np.asarray(counts, dtype=np.float64), np.asarray(times, dtype=np.float64)
    ratio = float(e.sum() / n.sum())
    if len(n) < 2:
        return Interval(1 / ratio, None, None)
    spread = float((e - ratio * n).std(ddof=1)) / (float(n.mean()) * math.sqrt(len(n)))
    margin = float(stdtrit(len(n) - 1, (1 + confidence) / 2)) * spread
    quickest = float((e / n).min())
    return Interval(1 / ratio, 1 / (ratio + margin), 1 / max(ratio - margin, min(quickest, ratio)))


def mean_of_blocks(block_means: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The mean of independent block means m_1..m_B: m +- t_(B-1) * s / sqrt(B), s their standard deviation.

    Calls within a block are correlated, blocks are separate launches; so the blocks, not the calls, are the sample
    (batch means: Law, Simulation Modeling and Analysis, 5th ed., section 9.5.3). All quantities here are
    non-negative, and so is the lower bound. One block gives a mean and no bounds.
    """
    means = np.asarray(block_means, dtype=np.float64)
    value = float(means.mean())
    if len(means) < 2:
        return Interval(value, None, None)
    margin = float(stdtrit(len(means) - 1, (1 + confidence) / 2) * means.std(ddof=1) / math.sqrt(len(means)))
    return Interval(value, max(0.0, value - margin), value + margin)
