"""Divides samples into train, val and test: seeded, stratified by class, never through a group.

A group is what must stay together, the frames of one video. Its stratum is the rarest class in it, so that rare classes
are spread first and on purpose; what a stratum rounds off is made up for in the next.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from shared import errors
from shared.specs import SPLITS, Split

DEFAULT = (80, 10, 10)
FEW = 5
"""From this many groups on, every stratum is in every part that is asked for."""

NO_CLASS = -1


class Group(NamedTuple):
    """Samples that stay together: their key, how many, and the classes among them (empty: images without objects)."""

    key: str
    size: int
    classes: frozenset[int]


def check_parts(parts: Sequence[int]) -> None:
    """Check percentages as asked for.

    Raises:
        errors.InvalidInput: They are no division with a training part.
    """
    if len(parts) != len(SPLITS) or min(parts) < 0 or sum(parts) != 100 or parts[0] < 1:
        raise errors.InvalidInput(
            "split takes per cent for train/val/test that make 100, such as 80/10/10; train not 0."
        )


def divide(groups: Sequence[Group], parts: tuple[float, float, float], seed: int) -> dict[str, Split]:
    """The part of every group, by its key. The order of `groups` does not matter; the same seed gives the same parts.

    Every class has a group in training.
    """
    common = Counter(name for group in groups for name in group.classes)
    strata: defaultdict[int, list[Group]] = defaultdict(list)
    for group in sorted(groups):
        rarest = min(group.classes, key=lambda name: (common[name], name), default=NO_CLASS)
        strata[rarest].append(group)
    owed = dict.fromkeys(SPLITS, 0.0)
    chosen: dict[str, Split] = {}
    for stratum in sorted(strata, key=lambda name: (len(strata[name]), name)):
        members = strata[stratum]
        random.Random(f"{seed}/{stratum}").shuffle(members)
        members.sort(key=lambda group: -group.size)
        _divide_stratum(members, parts, owed, chosen)
    _give_every_class_training(groups, chosen)
    return chosen


def _divide_stratum(
    members: list[Group], parts: tuple[float, float, float], owed: dict[Split, float], chosen: dict[str, Split]
) -> None:
    """Each group goes where most is missing, the first to training. `owed` carries over what was rounded.

    What is owed may be more than a stratum holds, so of `FEW` or more groups the last are kept for parts without any.
    """
    total = sum(group.size for group in members)
    missing = {split: total * part / 100 + owed[split] for split, part in zip(SPLITS, parts, strict=True) if part}
    without = list(missing) if len(members) >= FEW else []
    for index, group in enumerate(members):
        if index == 0:
            to = SPLITS[0]
        elif len(members) - index <= len(without):
            to = without[-1]
        else:  # of equals the smaller part, so that val and test are not left out of small classes
            to = max(reversed(missing), key=missing.__getitem__)
        if to in without:
            without.remove(to)
        chosen[group.key] = to
        missing[to] -= group.size
    owed.update(missing)


def _give_every_class_training(groups: Sequence[Group], chosen: dict[str, Split]) -> None:
    trained = {name for group in groups if chosen[group.key] == "train" for name in group.classes}
    for group in sorted(groups):
        if not group.classes <= trained:
            chosen[group.key] = "train"
            trained |= group.classes
