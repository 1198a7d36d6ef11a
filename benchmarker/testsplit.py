"""The test split: which images are asked, what the answers are worth, and what calibration must not have seen."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shared import errors
from shared.specs import Accuracy, DatasetIndex, Detection, Sample
from shared.verdict.accuracy import packed
from shared.vision import boxes, mean_ap

MOST_IMAGES = {"classification": 10_000, "detection": 2_500}
"""Of the test split; of a larger one so many are drawn. COCO's metric holds every box in memory as an object."""

DRAWS = 500
"""Bootstrap replicates of a detector's mAP."""

NEAR = 2
"""Bits of 64 by which the perceptual hashes of two images that look alike differ at most."""

SAME_OBJECT = 0.5
"""Intersection over union from which two boxes of a class are the same answer."""

TOP = 5

Rows = npt.NDArray[np.generic]


class Asked(NamedTuple):
    """The images of the test split in the order they are asked, and what is true of them."""

    samples: list[Sample]
    total: int
    """Of the whole split."""

    def truths(self, count: int) -> list[npt.NDArray[np.float32]]:
        """Objects of the first `count` images, each `[n, 5]`: x1, y1, x2, y2, class."""
        return [mean_ap.true_boxes(sample) for sample in self.samples[:count]]


def asked(index: DatasetIndex, seed: int) -> Asked:
    """The test split in an order drawn from the seed, so that a part of it is a fair sample."""
    test = [sample for sample in index.samples if sample.split == "test"]
    return Asked(random.Random(seed).sample(test, min(len(test), MOST_IMAGES[index.task_type])), len(test))


# --- answers ---------------------------------------------------------------------------------------------------------


def best_classes(scores: Rows) -> npt.NDArray[np.int32]:
    """The model's best classes of each image, best first: `[n, 5]`, -1 where there are fewer."""
    best = np.argsort(-scores.astype(np.float64), axis=1, kind="stable")[:, :TOP]
    return np.pad(best, ((0, 0), (0, TOP - best.shape[1])), constant_values=-1).astype(np.int32)


def top_accuracy(best: npt.NDArray[np.int32], wanted: Sequence[int]) -> Accuracy:
    """Of a classifier; `wanted` are the model's ids of the true classes."""
    truth = np.asarray(wanted, np.int32)
    right = best[:, 0] == truth
    return Accuracy(
        metric="top1",
        n=len(truth),
        value=float(right.mean()),
        top5=float((best == truth[:, None]).any(axis=1).mean()),
        correct=packed(right),
    )


def map_accuracy(
    truths: Sequence[npt.NDArray[np.float32]],
    found: Sequence[npt.NDArray[np.float32]],
    reference: Sequence[npt.NDArray[np.float32]] | None,
    seed: int,
) -> Accuracy:
    """Of a detector, beside the reference's boxes on the same images where this is not the reference itself."""
    whole = mean_ap.coco(truths, found)
    draw = np.random.default_rng(seed)
    count = len(truths)
    times = [np.bincount(draw.integers(0, count, count), minlength=count) for _ in range(DRAWS)]
    matched = mean_ap.match(truths, found)
    values = [mean_ap.mean_ap(matched, each) for each in times]
    drops, drop = None, None
    if reference is not None:
        before = mean_ap.match(truths, reference)
        drops = [round(mean_ap.mean_ap(before, each) - value, 6) for each, value in zip(times, values, strict=True)]
        drop = mean_ap.coco(truths, reference).map - whole.map
    return Accuracy(
        metric="map",
        n=count,
        value=whole.map,
        map50=whole.map50,
        values=[round(value, 6) for value in values],
        drops=drops,
        drop=drop,
    )


def other_boxes(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32], rules: Detection) -> bool:
    """Whether two answers for an image show different objects."""
    shown = [rows[rows[:, 4] >= rules.score_threshold][: rules.max_boxes] for rows in (one, other)]
    if len(shown[0]) != len(shown[1]):
        return True
    overlaps = boxes.iou(shown[0][:, :4], shown[1][:, :4])
    alike = (overlaps >= SAME_OBJECT) & (shown[0][:, None, 5] == shown[1][:, 5])
    free = np.ones(len(shown[1]), np.bool_)
    for row in alike:
        partner = np.flatnonzero(row & free)
        if not len(partner):
            return True
        free[partner[0]] = False
    return False


# --- calibration -----------------------------------------------------------------------------------------------------


def overlap(calibration: Sequence[Sample], test: Sequence[Sample], pack: Path) -> tuple[list[str], int]:
    """Test images that calibration has seen, by name or by content, and how many others look alike.

    Raises:
        errors.BadDataset: The prepared copies are gone.
    """
    names = {(sample.member, sample.time_s) for sample in calibration}
    alike: defaultdict[int, list[Sample]] = defaultdict(list)
    for sample in calibration:
        alike[sample.dhash].append(sample)
    seen = [sample for sample in test if (sample.member, sample.time_s) in names]
    others = [sample for sample in test if (sample.member, sample.time_s) not in names]
    try:
        with pack.open("rb") as copies:

            def content(sample: Sample) -> bytes:
                copies.seek(sample.offset)
                return copies.read(sample.size)

            twins = {
                id(sample)
                for sample in others
                if any(
                    twin.size == sample.size and content(twin) == content(sample)
                    for twin in alike.get(sample.dhash, ())
                )
            }
    except OSError as error:
        raise errors.BadDataset("The dataset's files are gone or damaged; upload it again.") from error
    seen += [sample for sample in others if id(sample) in twins]
    rest = [sample for sample in others if id(sample) not in twins]
    return [sample.member for sample in seen], _near(list(alike), [sample.dhash for sample in rest])


def _near(some: Sequence[int], others: Sequence[int]) -> int:
    """How many of the others look like one of some; even surfaces look like nothing."""
    hashes = np.array([each for each in some if each not in (0, 2**64 - 1)], np.uint64)
    telling = [each for each in others if each not in (0, 2**64 - 1)]
    if not len(hashes):
        return 0
    return sum(int(np.bitwise_count(hashes ^ np.uint64(each)).min()) <= NEAR for each in telling)
