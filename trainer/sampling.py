"""Which images train and which validate, in what order, how often: functions of the dataset, a seed and the epoch."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shared import errors, split
from shared.specs import ClassBalance, DatasetIndex, Sample

IMBALANCED = 1.5
"""How many times the images of the smallest class the largest has, before any balancing."""
LEAST_TRAIN = 2
MOST_JUDGED = 2500
"""Validation images of a detector; of more so many are drawn. COCO's metric holds every box in memory as an object."""

_POWERS: dict[ClassBalance, float] = {"none": 1.0, "sqrt": 0.5, "equal": 0.0}

Places = npt.NDArray[np.int64]


class Parts(NamedTuple):
    """Samples by what they are for; none is of the part test."""

    train: list[Sample]
    val: list[Sample]


def parts(index: DatasetIndex, validation_split: float | None, seed: int) -> Parts:
    """The parts train and val as they are, or divided anew: stratified, the frames of a video together.

    Raises:
        errors.InvalidInput: One is empty, or has no object; or there are not two classes to tell apart.
    """
    detection = index.task_type == "detection"
    usable = [
        sample for sample in index.samples if sample.split != "test" and (detection or sample.class_id is not None)
    ]
    if validation_split is not None:
        members: dict[str, list[Sample]] = {}
        for sample in usable:
            members.setdefault(sample.member, []).append(sample)
        groups = [split.Group(name, len(frames), _classes(frames)) for name, frames in members.items()]
        share = 100 * validation_split
        chosen = split.divide(groups, (100 - share, share, 0), seed)
        found = Parts(*([each for each in usable if chosen[each.member] == part] for part in ("train", "val")))
    else:
        found = Parts(*([each for each in usable if each.split == part] for part in ("train", "val")))
    _check(found)
    if not detection:
        _check_classes(found)
        return found
    _check_objects(found)
    drawn = random.Random(seed).sample(range(len(found.val)), min(len(found.val), MOST_JUDGED))
    return found._replace(val=[found.val[place] for place in sorted(drawn)])


def _classes(samples: Sequence[Sample]) -> frozenset[int]:
    return frozenset(label for sample in samples for label in _shown(sample))


def _shown(sample: Sample) -> frozenset[int]:
    """The class of an image, or those of the objects in it."""
    if sample.class_id is not None:
        return frozenset({sample.class_id})
    return frozenset(box.class_id for box in sample.boxes)


def _check(found: Parts) -> None:
    if len(found.train) < LEAST_TRAIN:
        raise errors.InvalidInput(
            f"The dataset has {len(found.train)} images for training; at least {LEAST_TRAIN} are needed."
        )
    if not found.val:
        raise errors.InvalidInput(
            "The dataset has no images in its part val, by which the best epoch is chosen. Order with "
            "validation_split, such as 0.2, or upload more images."
        )


def _check_classes(found: Parts) -> None:
    if len(_classes(found.train)) < 2:
        raise errors.InvalidInput("The images for training are all of one class; a classifier needs two or more.")


def _check_objects(found: Parts) -> None:
    for part, samples in (("train", found.train), ("val", found.val)):
        if not _classes(samples):
            raise errors.InvalidInput(
                f"No image of the part {part} has an object in it, and a detector needs some. Order with "
                "validation_split, such as 0.2, or upload more images with boxes."
            )


def epoch_order(labels: Places, balance: ClassBalance, seed: int, epoch: int) -> Places:
    """Which training images an epoch goes through, in its order: as many as there are.

    Balanced, images of rare classes come several times and some of frequent ones not at all, others in other epochs; no
    image comes again before every one of its class has. Otherwise each comes once.

    Args:
        labels: The class of each, `[n]`.
        balance: Acts only on what is `IMBALANCED`.
        seed: With `epoch` it says all there is to chance.
        epoch: From 1.
    """
    random = np.random.default_rng((seed, epoch, 0))
    classes, counts = np.unique(labels, return_counts=True)
    if balance == "none" or counts.max() <= IMBALANCED * counts.min():
        return random.permutation(len(labels))
    drawn = []
    for label, wanted in zip(classes, shares(counts, balance), strict=True):
        members = np.flatnonzero(labels == label)
        rounds = [random.permutation(members) for _ in range(-(-int(wanted) // len(members)))]
        drawn.append(np.concatenate([*rounds, members[:0]])[:wanted])
    return random.permutation(np.concatenate(drawn))


def shares(counts: Places, balance: ClassBalance) -> Places:
    """How many images of each class an epoch draws; as many in all as there are, of each class at least one."""
    weights = counts.astype(np.float64) ** _POWERS[balance]
    exact = 1 + (counts.sum() - len(counts)) * weights / weights.sum()
    found = np.floor(exact).astype(np.int64)
    rest = int(counts.sum() - found.sum())
    found[np.argsort(found - exact, kind="stable")[:rest]] += 1
    return found


def batches(order: Places, size: int) -> list[Places]:
    """Cut into as few batches of at most `size` as it takes, nearly alike: none is left over with an image or two.

    Of an odd number in pairs the first batch has three, since a normalisation needs two images.
    """
    return np.array_split(order, max(1, min(-(-len(order) // size), len(order) // LEAST_TRAIN)))


def class_counts(samples: Sequence[Sample]) -> Counter[int]:
    """How many images each class has, or is in."""
    return Counter(label for sample in samples for label in _shown(sample))
