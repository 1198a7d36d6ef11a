"""How good a detector's boxes are: COCO's mean average precision, over images as often as they were drawn."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from shared.specs import Detection, Sample
from shared.vision import boxes

Rows = npt.NDArray[np.float32]

MOST_BOXES = 100
"""Of a class in an image, surest first: what COCO looks at."""

MOST_ANSWERS = 300
"""Boxes of an image that are judged, surest first."""

LEAST_SCORE = 0.001
"""Boxes less sure than this do not count; the metric wants many more than are shown."""

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)


class MeanAP(NamedTuple):
    """Mean over classes; `map` over IoU 0.50 to 0.95 as well, `map50` at IoU 0.50."""

    map: float
    map50: float


class Matched(NamedTuple):
    """The boxes of one class over all images, surest first."""

    scores: npt.NDArray[np.float64]
    image: npt.NDArray[np.intp]
    right: npt.NDArray[np.bool_]
    """`[10, boxes]`: whether each has an object of its own at each of `IOUS`."""
    objects: npt.NDArray[np.intp]
    """Of the class, in each image."""


def true_boxes(sample: Sample) -> Rows:
    """The objects of an image, `[n, 5]`: x1, y1, x2, y2 in pixels of the original, class."""
    rows = [(box.x1, box.y1, box.x2, box.y2, box.class_id) for box in sample.boxes]
    return np.array(rows, np.float32).reshape(-1, 5)


def answers(
    output: npt.NDArray[np.generic], rules: Detection, size: tuple[int, int], places: Sequence[boxes.Placement]
) -> Iterator[Rows]:
    """The boxes of each image, as serving decodes them but down to `LEAST_SCORE`; `[n, 6]` with score and class.

    Args:
        output: Of the detector.
        rules: The contract.
        size: Width and height of its input.
        places: Where each original lies in that; boxes are in the original's pixels.

    Raises:
        errors.BadOutput: Its values are no boxes.
    """
    low = msgspec.structs.replace(rules, score_threshold=LEAST_SCORE, max_boxes=MOST_ANSWERS)
    for found, place in zip(boxes.find(output, low), places, strict=True):
        rows = [(*box.box, box.confidence, box.class_id) for box in boxes.placed(found, low, size, place, None)]
        yield np.array(rows, np.float32).reshape(-1, 6)


def coco(truths: Sequence[Rows], found: Sequence[Rows]) -> MeanAP:
    """As `pycocotools` computes it, by faster-coco-eval.

    Args:
        truths: Of each image `[n, 5]`: x1, y1, x2, y2, class.
        found: Of each image `[m, 6]`: x1, y1, x2, y2, score, class.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)  # it tells each of its figures in a line
    objects: list[dict[str, Any]] = [
        {"id": number, "image_id": image, "bbox": box, "area": box[2] * box[3], "category_id": class_id, "iscrowd": 0}
        for number, (image, box, class_id) in enumerate(_listed(truths), start=1)
    ]
    answers: list[dict[str, Any]] = [
        {"image_id": image, "bbox": _box(row), "score": float(row[4]), "category_id": int(row[5])}
        for image, rows in enumerate(found)
        for row in rows
    ]
    if not objects:
        return MeanAP(0.0, 0.0)
    classes = sorted({each["category_id"] for each in (*objects, *answers)})
    dataset = {
        "images": [{"id": image} for image in range(len(truths))],
        "annotations": objects,
        "categories": [{"id": class_id, "name": str(class_id)} for class_id in classes],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(dataset)
        evaluation = COCOeval_faster(truth, truth.loadRes(answers), "bbox")
        evaluation.run()
    whole, half = (max(0.0, float(evaluation.stats[place])) for place in (0, 1))
    return MeanAP(whole, half)


def _listed(truths: Sequence[Rows]) -> list[tuple[int, list[float], int]]:
    return [(image, _box(row), int(row[4])) for image, rows in enumerate(truths) for row in rows]


def _box(row: Rows) -> list[float]:
    x1, y1, x2, y2 = (float(value) for value in row[:4])
    return [x1, y1, x2 - x1, y2 - y1]


def match(truths: Sequence[Rows], found: Sequence[Rows]) -> list[Matched]:
    """Which boxes have found an object, class by class; only classes with objects count."""
    classes = np.unique(np.concatenate([rows[:, 4] for rows in truths])) if len(truths) else np.zeros(0)
    return [_matched(truths, found, int(class_id)) for class_id in classes]


def _matched(truths: Sequence[Rows], found: Sequence[Rows], class_id: int) -> Matched:
    scores: list[npt.NDArray[np.float64]] = []
    images: list[npt.NDArray[np.intp]] = []
    right: list[npt.NDArray[np.bool_]] = []
    objects = np.zeros(len(truths), np.intp)
    for image, (wanted, given) in enumerate(zip(truths, found, strict=True)):
        corners = wanted[wanted[:, 4] == class_id, :4]
        objects[image] = len(corners)
        rows = given[given[:, 5] == class_id]
        rows = rows[np.argsort(-rows[:, 4], kind="stable")][:MOST_BOXES]
        if len(rows):
            scores.append(rows[:, 4].astype(np.float64))
            images.append(np.full(len(rows), image, np.intp))
            right.append(_assigned(boxes.iou(rows[:, :4], corners)))
    if not scores:
        return Matched(np.zeros(0), np.zeros(0, np.intp), np.zeros((len(IOUS), 0), np.bool_), objects)
    flat = np.concatenate(scores)
    order = np.argsort(-flat, kind="stable")
    return Matched(flat[order], np.concatenate(images)[order], np.concatenate(right, axis=1)[:, order], objects)


def _assigned(overlaps: Rows) -> npt.NDArray[np.bool_]:
    """Each box, surest first, takes the object it overlaps most of those nobody has taken; `[10, boxes]`."""
    right = np.zeros((len(IOUS), len(overlaps)), np.bool_)
    if not overlaps.shape[1]:
        return right
    for level, least in enumerate(IOUS):
        free = np.ones(overlaps.shape[1], np.bool_)
        for box, row in enumerate(overlaps):
            best = int(np.where(free, row, -1.0).argmax())
            if free[best] and row[best] >= min(least, 1 - 1e-10):
                free[best], right[level, box] = False, True
    return right


def mean_ap(matched: Sequence[Matched], times: npt.NDArray[np.intp]) -> float:
    """The mAP over IoU 0.50 to 0.95 where image `i` is there `times[i]` times: once each, or as a bootstrap drew them.

    101 points of recall, the precision at each the best there is from there on, as COCO has it.
    """
    found = [_average_precision(each, times) for each in matched if (each.objects * times).sum()]
    return float(np.mean(found)) if found else 0.0


def _average_precision(matched: Matched, times: npt.NDArray[np.intp]) -> float:
    total = int((matched.objects * times).sum())
    weights = times[matched.image]
    hits = np.cumsum(matched.right * weights, axis=1)
    seen = np.cumsum(weights)
    precision = hits / np.maximum(seen, 1)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    values = []
    for level, curve in zip(hits, best, strict=True):
        places = np.searchsorted(level / total, RECALLS, side="left")
        values.append(
            np.where(places < len(curve), curve[np.minimum(places, len(curve) - 1)], 0.0) if len(curve) else 0.0
        )
    return float(np.mean([np.mean(value) for value in values]))
