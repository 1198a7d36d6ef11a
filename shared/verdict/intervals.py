"""95 % intervals from measured samples: exact ones for percentiles, Student's for means over blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import bdtr, bdtrik, betaincinv, ndtri, stdtrit

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


def design_effect(blocks: Sequence[np.ndarray], limit: float) -> float:
    """How many times as much the share of calls up to `limit` varies between blocks as it would between random ones.

    deff = [B / (B-1) * sum (n_b/n)^2 (s_b - s)^2] / [s (1-s) / n], s_b the share in block b, s the share of all
    (Kish, Survey Sampling, 1965, chapter 5). 1 for independent calls; more where calls of one launch resemble each
    other, because launches differ or because a call resembles the one before. 1 with one block.
    """
    sizes = np.asarray([len(block) for block in blocks], dtype=np.float64)
    shares = np.asarray([np.mean(block <= limit) for block in blocks])
    total = sizes.sum()
    share = float((sizes * shares).sum() / total)
    if len(blocks) < 2 or not 0 < share < 1:
        return 1.0
    between = len(blocks) / (len(blocks) - 1) * float(((sizes / total) ** 2 * (shares - share) ** 2).sum())
    return between * float(total) / (share * (1 - share))


def percentile_of_blocks(blocks: Sequence[np.ndarray], p: float, confidence: float = CONFIDENCE) -> Interval:
    """The `p` quantile of all calls; its exact interval, wider where calls of one block resemble each other.

    The n calls then count as n' = n / (deff * (t_(B-1) / z)^2) independent ones, and the bounds are the quantiles at
    the Clopper-Pearson limits of p in n' trials (Woodruff, JASA 47, 1952; Korn and Graubard, Survey Methodology 24,
    1998). A bound that would lie beyond the sample is its extreme. With independent calls, n' >= n, or one block it is
    `percentile`.

    Raises:
        NotEnoughSamples: As `percentile`.
    """
    ordered = np.sort(np.concatenate(blocks))
    ranks, n, tail = percentile_ranks(p, len(ordered), confidence), len(ordered), (1 - confidence) / 2
    value = float(ordered[ranks.estimate - 1])
    low, high = ranks.low, ranks.high
    if len(blocks) > 1:
        t_over_z = float(stdtrit(len(blocks) - 1, 1 - tail) / ndtri(1 - tail))
        effective = n / max(1.0, design_effect(blocks, value) * t_over_z**2)
        least = float(betaincinv(p * effective, (1 - p) * effective + 1, tail))
        most = float(betaincinv(p * effective + 1, (1 - p) * effective, 1 - tail))
        low = min(low, max(1, math.floor(least * n)))
        high = max(high, min(n, math.ceil(most * n) + 1))
    return Interval(value, float(ordered[low - 1]), float(ordered[min(high, n) - 1]))


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
