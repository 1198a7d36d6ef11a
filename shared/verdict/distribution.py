"""How the calls of a candidate are spread: a histogram in fixed bins, so that no view needs the raw samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

import msgspec
import numpy as np

from shared.specs import Block
from shared.verdict.figures import round_significant

SIGNIFICANT_BITS = 6
"""Bins are alike within an octave, 32 of them: 1.6 to 3.1 % wide (the layout of HdrHistogram)."""
LOG_BITS = 4
"""Of the wider bins on a logarithmic scale."""


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """All timed calls of a candidate, counted in bins that are the same for every candidate of every report.

    `bins` holds the lower edge in nanoseconds and the count of every bin with a call in it, in ascending order;
    `width_ns` of the edge is how wide the bin is.
    """

    n: int
    least_ms: float
    most_ms: float
    bins: list[tuple[int, int]]


def width_ns(lower_ns: int) -> int:
    """The width of the bin that begins at `lower_ns`."""
    return 1 << max(0, lower_ns.bit_length() - SIGNIFICANT_BITS)


def distribution(blocks: Sequence[Block]) -> Distribution | None:
    """The calls of these blocks; None without one. Integers throughout, so that every machine counts alike."""
    return counted(np.fromiter(chain.from_iterable(block.latencies_ns for block in blocks), np.int64))


def counted(latencies_ns: Sequence[int] | np.ndarray) -> Distribution | None:
    """The same of any latencies."""
    calls = np.asarray(latencies_ns, np.int64)
    if not len(calls):
        return None
    bits = np.frexp(calls.astype(np.float64))[1]  # like int.bit_length, exact below 2**53 ns, a hundred days
    shift = np.maximum(0, bits - SIGNIFICANT_BITS)
    edges, counts = np.unique(calls >> shift << shift, return_counts=True)
    return Distribution(
        n=len(calls),
        least_ms=round_significant(int(calls.min()) / 1e6),
        most_ms=round_significant(int(calls.max()) / 1e6),
        bins=list(zip(edges.tolist(), counts.tolist(), strict=True)),
    )


def density(found: Distribution) -> list[tuple[float, float, float]]:
    """Start and end of each bin in milliseconds and its height, the highest 1; bins without a call are left out."""
    bars = [(lower, width_ns(lower), count) for lower, count in found.bins]
    highest = max((count / width for _, width, count in bars), default=math.inf)
    return [(lower / 1e6, (lower + width) / 1e6, count / width / highest) for lower, width, count in bars]


def log_density(found: Distribution) -> list[tuple[float, float, float]]:
    """The same for a logarithmic scale: heights are calls over the ratio of a bin's edges, and bins are wider, eight an
    octave, since such a scale gives few calls much room.
    """
    counts: dict[tuple[int, int], int] = {}
    for lower, count in found.bins:
        width = 1 << max(0, lower.bit_length() - LOG_BITS)
        edges = lower // width * width, lower // width * width + width
        counts[edges] = counts.get(edges, 0) + count
    bars = [(low, high, count / math.log(high / low)) for (low, high), count in counts.items() if low]
    highest = max((height for *_, height in bars), default=math.inf)
    return [(low / 1e6, high / 1e6, height / highest) for low, high, height in bars]
