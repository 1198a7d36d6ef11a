"""How well a model in another precision agrees with itself in FP32, image by image: what a calibration is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from shared.engines import Tensor
from shared.specs import Detection, Preprocessing, Task
from shared.vision import boxes

SAME_OBJECT = 0.5
"""Intersection over union from which two boxes of a class show one object."""

Outputs = dict[str, Tensor]
"""Of one image, the first axis being its batch of one."""


class Agreement(NamedTuple):
    """The larger the better, in this order; so `max` finds the best."""

    same: float
    """Share of the answer that is the same, 0 to 1, mean over images: of a classifier the best class, of a detector the
    boxes (F1); 1 where the output is neither."""
    closeness: float
    """Less the difference of all outputs relative to their size: 0 where they are equal."""


def agreement(expected: Sequence[Outputs], found: Sequence[Outputs], task: Task, contract: Preprocessing) -> Agreement:
    """Of at least one image.

    Args:
        expected: In FP32.
        found: In the other precision, of the same images in the same order. What is not finite agrees with nothing.
        task: What the first output is.
        contract: How a detector's is read.
    """
    same, errors, sizes = [], 0.0, 0.0
    for one, other in zip(expected, found, strict=True):
        if not all(np.isfinite(array).all() for array in other.values()):
            return Agreement(0.0, -np.inf)
        first = next(iter(one))
        same.append(_same(one[first], other[first], task, contract.detection))
        for name, array in one.items():
            wanted = np.asarray(array, dtype=np.float64)
            errors += float(np.square(wanted - other[name].astype(np.float64)).sum())
            sizes += float(np.square(wanted).sum())
    return Agreement(float(np.mean(same)), -float(np.sqrt(errors / sizes)) if sizes else -float(errors > 0))


def _same(expected: Tensor, found: Tensor, task: Task, rules: Detection | None) -> float:
    if task == "classification" and expected.ndim == 2:
        return float((expected.argmax(axis=1) == found.argmax(axis=1)).mean())
    if task == "detection" and expected.ndim == 3 and rules is not None:
        return float(np.mean(list(map(_overlap, _kept(expected, rules), _kept(found, rules)))))
    return 1.0


def _kept(output: Tensor, rules: Detection) -> list[boxes.Found]:
    """What would be shown: confident boxes, of each object one, best first."""
    kept = []
    for found in boxes.find(output, rules):
        best = boxes.suppress(found, rules.iou_threshold, rules.max_boxes)
        kept.append(boxes.Found(found.corners[best], found.scores[best], found.classes[best]))
    return kept


def _overlap(expected: boxes.Found, found: boxes.Found) -> float:
    """F1 of boxes matched one to one, best first; 1 where neither has any."""
    total = len(expected.classes) + len(found.classes)
    if not total:
        return 1.0
    fits = boxes.iou(expected.corners, found.corners)
    fits[expected.classes[:, None] != found.classes[None, :]] = 0
    matched = 0
    for row in fits:
        if len(row) and row.max() >= SAME_OBJECT:
            fits[:, row.argmax()] = 0
            matched += 1
    return 2 * matched / total
