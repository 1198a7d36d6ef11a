"""How sure a ratio between two candidates is: a seeded bootstrap over rounds."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import stdtr, stdtrit

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

    A replicate draws as many rounds as there were, with replacement, each with all its calls: how calls vary within a
    launch is part of how launches vary, and drawing calls anew within each would count it twice (Davison and Hinkley,
    Bootstrap Methods and their Application, section 3.8, their strategy 1). Candidates share the drawn rounds because
    they are measured interleaved: what a bad minute did to all of them cancels in their ratio. The result depends on
    the measurements and the seed alone, not on the order of the candidates.
    """

    def __init__(self, series: Iterable[Series], seed: int, resamples: int = RESAMPLES) -> None:
        self._launches = {item.candidate.key: launches(item) for item in series}
        self._rounds = sorted({number for found in self._launches.values() for number in found})
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
        found = self._spread(metric, over, under)
        if found is None:
            return None
        freedom, error = found
        margin = math.exp(float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error)
        return ratio / margin, ratio * margin

    def probability(self, metric: Compared, over: str, under: str, ratio: float, least: float) -> float | None:
        """How sure it is that metric(over) / metric(under), estimated as `ratio`, is at least `least`.

        T_(B-1)((ln ratio - ln least) / e), with T Student's distribution and e the standard error that `bounds` uses:
        it is 97.5 % where `least` is the lower bound. None with fewer than two rounds.
        """
        found = self._spread(metric, over, under)
        if found is None:
            return None
        freedom, error = found
        distance = math.log(ratio / least)
        return float(stdtr(freedom, distance / error)) if error else float(distance >= 0)

    def _spread(self, metric: Compared, over: str, under: str) -> tuple[int, float] | None:
        """Degrees of freedom, and the standard error of a log ratio; None with fewer than two rounds."""
        rounds = min(len(self._launches[over]), len(self._launches[under]))
        if rounds < 2:
            return None
        logs = np.log(self._replicate(metric, over) / self._replicate(metric, under))
        return rounds - 1, float(np.nanstd(logs)) * math.sqrt(rounds / (rounds - 1))

    def _replicate(self, metric: Compared, key: str) -> np.ndarray:
        if (metric, key) not in self._replicates:
            draw = p95_replicates if metric == "latency_p95_ms" else throughput_replicates
            found = self._launches[key]
            self._replicates[metric, key] = draw(list(found.values()), self._drawn(found))
        return self._replicates[metric, key]

    def _drawn(self, found: dict[int, Launch]) -> np.ndarray:
        """The picked rounds as indices into the candidate's launches, -1 where it has none in that round."""
        index = {number: position for position, number in enumerate(found)}
        return np.asarray([index.get(number, -1) for number in self._rounds])[self._picks]


def noise_floor(first: Series, second: Series, seed: int, resamples: int = RESAMPLES) -> float | None:
    """How far apart two series of one candidate end up: the larger, of P95 and throughput, 95 % quantile of |ln ratio|.

    Replicates are drawn as for `Bootstrap`: as many pairs of launches as there were (the two launches of one round),
    with replacement. What is quantified is therefore the ratio of two whole benchmarks of so
    many launches, which is what a tie is judged by, not that of two launches. None with fewer than two pairs.
    """
    pair = [launches(first), launches(second)]
    rounds = sorted(set(pair[0]) & set(pair[1]))
    if len(rounds) < 2:
        return None
    picks = _generator(seed, "noise floor").integers(0, len(rounds), (resamples, len(rounds)))
    found = []
    for draw in (p95_replicates, throughput_replicates):
        one, other = (draw([side[number] for number in rounds], picks) for side in pair)
        found.append(float(np.quantile(np.abs(np.log(one / other)), CONFIDENCE)))
    return max(found)


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


def p95_replicates(found: list[Launch], drawn: np.ndarray) -> np.ndarray:
    """P95 over all calls of the drawn launches; NaN where none was drawn.

    It is the smallest measured value that at least 95 % of those calls do not exceed, found by bisection.
    """
    weights = np.stack([(drawn == index).sum(axis=1) for index in range(len(found))], axis=1)
    total = weights @ np.asarray([len(launch.calls_ms) for launch in found])
    wanted = np.maximum(1, np.ceil(0.95 * total - 1e-9 * total))
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


def throughput_replicates(found: list[Launch], drawn: np.ndarray) -> np.ndarray:
    """Images over wall time of the drawn launches; NaN where none was drawn."""
    present = drawn >= 0
    images = np.where(present, np.asarray([launch.images for launch in found])[drawn], 0).sum(axis=1)
    total_s = np.where(present, np.asarray([launch.elapsed_s for launch in found])[drawn], 0.0).sum(axis=1)
    return np.where(total_s > 0, images / np.where(total_s > 0, total_s, 1.0), np.nan)


def _generator(seed: int, purpose: str) -> np.random.Generator:
    """A stream of its own for each purpose, so that no candidate's draws depend on which others were drawn before."""
    digest = hashlib.sha256(purpose.encode()).digest()
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, int.from_bytes(digest[:8])])))
