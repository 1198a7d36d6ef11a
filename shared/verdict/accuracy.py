"""What answers on a test split amount to: accuracy and its drop against the reference, each with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from shared import errors
from shared.specs import Accuracy
from shared.verdict.intervals import CONFIDENCE, Interval

Bits = npt.NDArray[np.bool_]

Z = float(ndtri((1 + CONFIDENCE) / 2))
HALVINGS = 60
"""Of an interval of length 2: to the last digit of a float."""


class Drop(NamedTuple):
    """The reference's accuracy less that of an engine, on the same images."""

    interval: Interval
    n: int
    disagree: float
    """Share of the images on which one is right and the other is not; of a detector, what would vary as much."""


def packed(right: Sequence[bool] | Bits) -> str:
    """One bit an image, as `Accuracy.correct` holds them."""
    return np.packbits(np.asarray(right, dtype=np.bool_)).tobytes().hex()


def unpacked(correct: str, n: int) -> Bits:
    """The bits of `Accuracy.correct`.

    Raises:
        errors.InvalidInput: There are not so many.
    """
    try:
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(correct), np.uint8))
    except ValueError:
        bits = np.zeros(0, np.uint8)
    if not n <= len(bits) < n + 8:
        raise errors.InvalidInput(f"The measurement set holds {len(bits)} answers where it says {n}; measure again.")
    return bits[:n].astype(np.bool_)


def accuracy(found: Accuracy) -> Interval:
    """The accuracy: a share with Wilson's interval, or a mAP with that of its bootstrap."""
    if found.correct is None:
        return Interval(found.value, *_middle(found.values or []))
    right = int(unpacked(found.correct, found.n).sum())
    return wilson(right, found.n)


def drop(reference: Accuracy, found: Accuracy) -> Drop:
    """How much less accurate `found` is than the reference, on the images both have seen."""
    if reference.correct is None or found.correct is None:
        draws = found.drops or []
        value = found.drop if found.drop is not None else reference.value - found.value
        spread = float(np.std(draws)) if draws else 0.0
        return Drop(Interval(value, *_middle(draws)), found.n, spread**2 * found.n)
    n = min(reference.n, found.n)
    before, after = unpacked(reference.correct, reference.n)[:n], unpacked(found.correct, found.n)[:n]
    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    return Drop(tango(lost, won, n), n, (lost + won) / n if n else 0.0)


def change(before: Accuracy, after: Accuracy) -> Interval:
    """The accuracy of `after` less that of `before`, on the images both have seen; negative where it got worse."""
    if before.drops and after.drops:
        draws = np.subtract(before.drops, after.drops)  # both against one reference, over the same draws
        lost = (after.drop or 0.0) - (before.drop or 0.0)
        return Interval(-lost, *_middle(draws.tolist()))
    value, low, high = drop(before, after).interval
    return Interval(0.0 - value, None if high is None else -high, None if low is None else -low)


def wilson(successes: int, n: int) -> Interval:
    """A share with its score interval (Wilson, Probable inference, Journal of the American Statistical Association
    22(158), 1927): (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n).
    """
    if not n:
        return Interval(0.0, None, None)
    p = successes / n
    centre, reach = p + Z**2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    low, high = ((centre + side * reach) / (1 + Z**2 / n) for side in (-1, 1))
    return Interval(p, low if successes else 0.0, high if successes < n else 1.0)


def tango(lost: int, won: int, n: int) -> Interval:
    """The difference of two paired shares, (lost - won) / n, with its score interval.

    Bounds are where |score(d)| = z: score(d) = (lost - won - n d) / √(n (2 q + d (1 - d))), q the likeliest share of
    images won under a difference of d (Tango, Equivalence test and confidence interval for the difference in
    proportions for the paired-sample design, Statistics in Medicine 17(8), 1998). Without a single image on which the
    two disagree it is ± z² / (n + z²).
    """
    if not n:
        return Interval(0.0, None, None)

    def score(d: float) -> float:
        linear = -lost - won + (2 * n - lost + won) * d
        q = (math.sqrt(max(0.0, linear**2 + 8 * n * won * d * (1 - d))) - linear) / (4 * n)
        variance = n * (2 * q + d * (1 - d))
        over = lost - won - n * d
        return over / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, over) if over else 0.0

    value = (lost - won) / n
    return Interval(value, _falling(score, Z, -1.0, value), _falling(score, -Z, value, 1.0))


def _falling(score: Callable[[float], float], goal: float, low: float, high: float) -> float:
    """Where a function that falls from `low` to `high` crosses the goal."""
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if score(middle) > goal else (low, middle)
    return (low + high) / 2


def needed(found: Drop, limit: float) -> int | None:
    """About how many images would settle whether the drop keeps the limit, if it stays as it is; None when none would.

    Half the interval, z √((r - d²) / n), must be less than what lies between drop and limit.
    """
    gap = abs(limit - found.interval.value)
    spread = found.disagree - found.interval.value**2
    return math.ceil(Z**2 * spread / gap**2) if gap > 0 and spread > 0 else None


def _middle(draws: Sequence[float]) -> tuple[float | None, float | None]:
    """Bounds of the middle 95 % of bootstrap replicates (percentile interval)."""
    if not draws:
        return None, None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.asarray(draws, dtype=np.float64), [tail, 1 - tail])
    return float(low), float(high)
