"""How many times as slow one candidate is as another, round by round.

Candidates are measured interleaved, one launch of each a round, and compared the same way: launch against launch of
the same round, and the median of those ratios. What hits a whole round cancels, and what hits a single launch (a
neighbour on the machine for half a second) moves one ratio among many. Over all calls together one such launch in ten
is enough to carry a P95 away.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import Literal

import numpy as np
from scipy.special import bdtr

from shared.specs import Series
from shared.verdict.intervals import CONFIDENCE, Interval, percentile_ranks, samples_needed
from shared.verdict.metrics import by_launch, latencies_ms, launch_p95_ms, usable

RESAMPLES = 10_000
ENOUGH = samples_needed(0.5)
"""Rounds it takes for an interval of the median: 6."""

Compared = Literal["latency_p95_ms", "throughput_fps"]
"""The metrics candidates are compared by."""

Figures = dict[int, float]
"""A figure of a candidate's launches by round."""


class Rounds:
    """Every candidate's P95 and throughput, launch by launch. The order of the candidates does not matter."""

    def __init__(self, series: Iterable[Series]) -> None:
        self._figures = {item.candidate.key: figures(item) for item in series}

    def ratio(self, metric: Compared, over: str, under: str) -> Interval:
        """The median of metric(over) / metric(under) over the rounds that have both, with its 95 % interval.

        The bounds are ratios of two of the rounds, by the order-statistic (sign test) interval of `percentile_ranks`:
        it holds for rounds that are independent, whatever the distribution. No bounds with fewer than 6 such rounds;
        with none, the ratio of the typical launches.
        """
        logs = np.sort(_log_ratios(self._figures[over][metric], self._figures[under][metric]))
        if not len(logs):
            typical = (float(np.median(list(self._figures[key][metric].values()))) for key in (over, under))
            return Interval(next(typical) / next(typical), None, None)
        value = math.exp(np.median(logs))
        if len(logs) < ENOUGH:
            return Interval(value, None, None)
        ranks = percentile_ranks(0.5, len(logs))
        return Interval(value, math.exp(logs[ranks.low - 1]), math.exp(logs[ranks.high - 1]))

    def confidence(self, metric: Compared, over: str, under: str, least: float) -> float | None:
        """How sure it is that the median of metric(over) / metric(under) is at least `least`: a one-sided sign test.

        If the median were less, each of n rounds would reach `least` with a probability under 1/2; k of them or more
        then do with P(Bin(n, 1/2) >= k) at most, and the confidence is what that leaves of 1. None with fewer than 6
        rounds.
        """
        logs = _log_ratios(self._figures[over][metric], self._figures[under][metric])
        if len(logs) < ENOUGH:
            return None
        reached = int((logs >= math.log(least)).sum())
        return float(bdtr(reached - 1, len(logs), 0.5)) if reached else 0.0


def noise_floor(first: Series, second: Series, seed: int, resamples: int = RESAMPLES) -> float | None:
    """How far apart two series of one candidate end up: the larger, of P95 and throughput, 95 % quantile of |ln ratio|.

    The ratio is that of `Rounds.ratio`: what is quantified is the ratio of two whole benchmarks, which is what a tie is
    judged by, not that of two launches. Which of the two launches of a round was called the first is mere chance, so
    any signs of the log ratios are as likely as those that were seen; they are drawn from the seed (a randomisation
    test: Edgington and Onghena, Randomization Tests, 4th ed., 2007). None with fewer than 6 rounds that have both.
    """
    pair = [figures(first), figures(second)]
    found = []
    for metric in ("latency_p95_ms", "throughput_fps"):
        logs = _log_ratios(pair[0][metric], pair[1][metric])
        if len(logs) < ENOUGH:
            return None
        signs = _generator(seed, metric).choice((-1.0, 1.0), (resamples, len(logs)))
        found.append(float(np.quantile(np.abs(np.median(logs * signs, axis=1)), CONFIDENCE)))
    return max(found)


def figures(series: Series) -> dict[Compared, Figures]:
    """P95 latency and throughput of each launch; blocks of one round are one launch."""
    p95: Figures = {}
    throughput: Figures = {}
    for blocks in by_launch(usable(series)):
        number, calls = blocks[0].round, latencies_ms(blocks)
        p95[number] = launch_p95_ms(calls)
        throughput[number] = len(calls) * series.candidate.batch_size / sum(block.elapsed_ns for block in blocks) * 1e9
    return {"latency_p95_ms": p95, "throughput_fps": throughput}


def _log_ratios(over: Figures, under: Figures) -> np.ndarray:
    return np.log([over[number] / under[number] for number in over if number in under])


def _generator(seed: int, purpose: str) -> np.random.Generator:
    """A stream of its own for each metric, so that neither's draws depend on the other's."""
    digest = hashlib.sha256(purpose.encode()).digest()
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, int.from_bytes(digest[:8])])))
