"""How sure a ratio between two candidates is: a seeded bootstrap over rounds, then over the calls of each round."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import stdtrit

from shared.specs import Series
from shared.verdict.intervals import CONFIDENCE
from shared.verdict.metrics import latencies_ms, usable

RESAMPLES = 10_000

Compared = Literal["latency_p95_ms", "throughput_fps"]
"""The metrics candidates are compared by."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One candidate in one round: its calls in order of duration, its images and the wall time they took."""

    calls_ms: np.ndarray
    images: int
    elapsed_s: float


class Bootstrap:
    """Replicates of every candidate's P95 and throughput over the same resampled rounds.

    A replicate draws as many rounds as there were, with replacement, then calls within each drawn round (hierarchical
    bootstrap: Davison and Hinkley, Bootstrap Methods and their Application, section 3.8). Candidates share the drawn
    rounds because they are measured interleaved: what a bad minute did to all of them cancels in their ratio. The
    result depends on the measurements and the seed alone, not on the order of the candidates.
    """

    def __init__(self, series: Iterable[Series], seed: int, resamples: int = RESAMPLES) -> None:
        self._launches = {item.candidate.key: launches(item) for item in series}
        self._rounds = sorted({number for found in self._launches.values() for number in found})
        self._seed = seed
        shape = (resamples, len(self._rounds))
        self._picks = _generator(seed, "rounds").integers(0, max(1, len(self._rounds)), shape)
        self._replicates: dict[tuple[str, str], np.ndarray] = {}

    def bounds(self, metric: Compared, over: str, under: str, ratio: float) -> tuple[float, float] | None:
        """95 % bounds around `ratio`, the estimate of metric(over) / metric(under); None with fewer than two rounds.

        ratio * exp(+- t_(B-1) * s * sqrt(B / (B-1))), s the standard deviation of the replicates' log ratio, B the
        smaller number of rounds: a t interval with the bootstrap's standard error. With two or three rounds a
        percentile interval holds the truth in 65 to 90 % of cases, because a resample cannot leave the rounds there
        are; the t and the factor make up for that (Hesterberg, What Teachers Should Know About the Bootstrap, The
        American Statistician 69(4), 2015).
        """
        rounds = min(len(self._launches[over]), len(self._launches[under]))
        if rounds < 2:
            return None
        logs = np.log(self._replicate(metric, over) / self._replicate(metric, under))
        reach = stdtrit(rounds - 1, (1 + CONFIDENCE) / 2) * math.sqrt(rounds / (rounds - 1))
        margin = math.exp(reach * float(np.nanstd(logs)))
        return ratio / margin, ratio * margin

    def _replicate(self, metric: Compared, key: str) -> np.ndarray:
        if (metric, key) not in self._replicates:
            draw = p95_replicates if metric == "latency_p95_ms" else throughput_replicates
            found = self._launches[key]
            self._replicates[metric, key] = draw(
                list(found.values()), self._drawn(found), _generator(self._seed, f"{metric} {key}")
            )
        return self._replicates[metric, key]

    def _drawn(self, found: dict[int, Launch]) -> np.ndarray:
        """The picked rounds as indices into the candidate's launches, -1 where it has none in that round."""
        index = {number: position for position, number in enumerate(found)}
        return np.asarray([index.get(number, -1) for number in self._rounds])[self._picks]


def launches(series: Series) -> dict[int, Launch]:
    """The timed calls of a candidate by round; blocks of one round are one launch."""
    grouped = defaultdict(list)
    for block in usable(series):
        grouped[block.round].append(block)
    found = {}
    for number, blocks in grouped.items():
        calls = np.sort(latencies_ms(blocks))
        elapsed_s = sum(block.elapsed_ns for block in blocks) / 1e9
        found[number] = Launch(calls, len(calls) * series.candidate.batch_size, elapsed_s)
    return found


def p95_replicates(found: list[Launch], drawn: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """P95 over the drawn launches with their calls resampled; NaN where none was drawn.

    The k-th smallest of M draws from a distribution F is F^-1(U), U ~ Beta(k, M-k+1), so that one random number
    stands for M resampled calls; F is the mixture of the drawn launches, inverted by bisection over the measured
    values.
    """
    weights = np.stack([(drawn == index).sum(axis=1) for index in range(len(found))], axis=1)
    total = weights @ np.asarray([len(launch.calls_ms) for launch in found])
    filled = np.maximum(total, 1)
    rank = np.maximum(1, np.ceil(0.95 * filled - 1e-9 * filled))
    wanted = generator.beta(rank, filled - rank + 1) * total
    values = np.unique(np.concatenate([launch.calls_ms for launch in found]))
    low, high = np.zeros(len(drawn), dtype=np.int64), np.full(len(drawn), len(values) - 1)
    for _ in range(len(values).bit_length()):
        middle = (low + high) // 2
        below = sum(
            weights[:, index] * np.searchsorted(launch.calls_ms, values[middle], side="right")
            for index, launch in enumerate(found)
        )
        high = np.where(below >= wanted, middle, high)
        low = np.where(below >= wanted, low, middle + 1)
    return np.where(total > 0, values[high], np.nan)


def throughput_replicates(found: list[Launch], drawn: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Images over wall time of the drawn launches with their calls resampled; NaN where none was drawn.

    The time of n resampled calls is drawn as a normal with the sum's mean and variance n * s^2, kept within n times the
    shortest and n times the longest call, which no sum of n can leave.
    """
    calls = [launch.calls_ms for launch in found]
    spent = np.asarray([c.sum() for c in calls])
    spread = np.asarray([c.std() * math.sqrt(len(c)) for c in calls])
    least, most = (np.asarray([c[end] * len(c) for c in calls]) for end in (0, -1))
    resampled = spent[drawn] + spread[drawn] * generator.standard_normal(drawn.shape)
    resampled = np.clip(resampled, least[drawn], most[drawn])
    elapsed_s = np.asarray([launch.elapsed_s for launch in found])[drawn] * resampled / spent[drawn]
    images = np.asarray([launch.images for launch in found])[drawn]
    present = drawn >= 0
    total_s = np.where(present, elapsed_s, 0.0).sum(axis=1)
    return np.where(total_s > 0, (images * present).sum(axis=1) / np.where(total_s > 0, total_s, 1.0), np.nan)


def _generator(seed: int, purpose: str) -> np.random.Generator:
    """A stream of its own for each purpose, so that no candidate's draws depend on which others were drawn before."""
    digest = hashlib.sha256(purpose.encode()).digest()
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, int.from_bytes(digest[:8])])))
