"""Near-duplicates across parts: pairs of samples whose perceptual hashes hardly differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shared.specs import SPLITS, Split

RADIUS = 2
"""Differing bits of 64 up to which two images are reported."""

MOST_COMPARED = 30_000_000_000
"""Pairs of different hashes; a minute or so. Beyond it the larger part is thinned out evenly, and that is said."""

CHUNK = 1 << 22

Hashes = npt.NDArray[np.uint64]


class Found(NamedTuple):
    """Pairs by their places among the samples, nearest first, and how many there were."""

    pairs: list[tuple[int, int, int]]
    """First, second, distance."""
    total: int
    complete: bool


def across(hashes: Hashes, splits: list[Split], most: int) -> Found:
    """Compare every sample with every one of another part, exactly.

    Of samples with the same hash within one part the first stands for all, so a still camera is one pair and not a
    million. Hashes of even surfaces (no bit or all bits set) say nothing and are left out.

    Args:
        hashes: One a sample.
        splits: Its part.
        most: Pairs to return.
    """
    parts = np.array([SPLITS.index(split) for split in splits])
    firsts = {part: _firsts(hashes, np.flatnonzero(parts == part)) for part in range(len(SPLITS))}
    pairs: list[tuple[int, int, int]] = []
    count, complete = 0, True
    for one, other in ((0, 1), (0, 2), (1, 2)):
        left, right = firsts[one], firsts[other]
        step = max(1, -(-len(left) * len(right) // MOST_COMPARED))
        complete &= step == 1
        for near in _near(hashes, left[::step], right):
            count += len(near)
            nearest = near[np.lexsort(near.T[::-1])][:most]
            pairs = sorted(
                [*pairs, *((first, second, distance) for distance, first, second in nearest.tolist())],
                key=lambda pair: (pair[2], pair),
            )[:most]
    return Found(pairs, count, complete)


def _firsts(hashes: Hashes, places: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    values, first = np.unique(hashes[places], return_index=True)
    telling = (values != 0) & (values != np.uint64(2**64 - 1))
    chosen: npt.NDArray[np.intp] = places[np.sort(first[telling])]
    return chosen


def _near(hashes: Hashes, left: npt.NDArray[np.intp], right: npt.NDArray[np.intp]) -> Iterator[npt.NDArray[np.int64]]:
    """Rows of distance, first, second: a block of the left ones at a time, so that memory is bounded."""
    rows = max(1, CHUNK // max(1, len(right)))
    for start in range(0, len(left), rows):
        block = left[start : start + rows]
        distances = np.bitwise_count(hashes[block][:, None] ^ hashes[right][None, :])
        row, column = np.nonzero(distances <= RADIUS)
        if len(row):
            yield np.stack([distances[row, column].astype(np.int64), block[row], right[column]], axis=1)
