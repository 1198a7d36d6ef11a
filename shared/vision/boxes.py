"""From a detector's output to boxes in the pixels of the original image, without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from shared import errors
from shared.specs import BoxFormat, Detection, TensorInfo
from shared.vision.postprocess import DECIMALS, check_finite

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]

MOST_CANDIDATES = 3000
"""Boxes above the threshold that enter the suppression, best first: what an image holds many times over."""

ROWS_AT_ONCE = 256
"""Candidates compared with all others in one step: bounds the memory to a few megabytes."""

COORDINATE_DECIMALS = 2
MOST_CLASSES = 10_000
CORNERS = 6
"""Values of a finished box: four corners, score, class."""

LAYOUTS = (
    "[batch, 4 + classes, boxes] (yolo), [batch, boxes, 4 + classes] (yolo_rows), "
    "[batch, boxes, 5 + classes] (yolo_objectness) or [batch, boxes, 6] (corners)"
)


class Placement(NamedTuple):
    """Where the original image lies in the model's input: input pixel = original pixel * scale + offset."""

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    width: int
    height: int
    """Of the original; boxes are cut off at its edges."""


class Found(NamedTuple):
    """Boxes of one image in the pixels of the model's input, before suppression; `n` rows each."""

    corners: Floats
    """`[n, 4]`: x1, y1, x2, y2."""
    scores: Floats
    classes: Indices


class BoxScore(msgspec.Struct, frozen=True):
    """One object: its box in pixels of the original image, its class and how sure the model is."""

    box: tuple[float, float, float, float]
    class_id: int
    label: str
    confidence: float


def recognise(outputs: Sequence[TensorInfo], labels: Sequence[str] | None) -> BoxFormat | None:
    """How the first output, as it came, holds boxes; None where it could be read in two ways, or in none.

    With labels the number of classes decides. Without, boxes outnumber the values of one: 6 values are finished boxes,
    85 are 80 classes and an objectness, anything else is 4 numbers and the classes.
    """
    sizes = outputs[0].shape[1:]
    if len(sizes) != 2 or not all(isinstance(size, int) for size in sizes):
        return None
    first, second = (int(size) for size in sizes)
    if labels is not None:
        return _fitting(first, second, len(labels))
    if second == CORNERS and first != second:
        return "corners"
    if first == second or min(first, second) <= 4:
        return None
    if first < second:
        return "yolo"
    return "yolo_objectness" if second == 85 else "yolo_rows"


def _fitting(first: int, second: int, count: int) -> BoxFormat | None:
    """The one format in which `[batch, first, second]` holds boxes of `count` classes."""
    rows: list[tuple[BoxFormat, bool]] = [
        ("yolo", first == count + 4),
        ("yolo_rows", second == count + 4),
        ("yolo_objectness", second == count + 5),
        ("corners", second == CORNERS and count not in (1, 2)),
    ]
    fitting = [name for name, fits in rows if fits]
    return fitting[0] if len(fitting) == 1 else None


def classes(kind: BoxFormat, outputs: Sequence[TensorInfo]) -> int | None:
    """How many classes such an output tells apart; None for finished boxes, which name theirs.

    Raises:
        errors.BadModel: The first output cannot be of that format.
    """
    shape = outputs[0].shape
    values = shape[1] if kind == "yolo" and len(shape) == 3 else shape[-1] if len(shape) == 3 else None
    if kind == "corners" and values == CORNERS:
        return None
    count = values - (5 if kind == "yolo_objectness" else 4) if isinstance(values, int) else 0
    if kind == "corners" or not 1 <= count <= MOST_CLASSES:
        raise errors.BadModel(
            f"The first output {shape} does not hold boxes in the format {kind!r}. The formats are {LAYOUTS}; "
            "correct preprocessing.detection.format, or export the model with one of them."
        )
    return count


def find(output: npt.NDArray[np.generic], rules: Detection) -> list[Found]:
    """A detector's first output -> of each image the boxes at or above `rules.score_threshold`.

    Args:
        output: As `specs.Detection.format` says; the leading axis are the images.
        rules: The contract.

    Raises:
        errors.BadOutput: NaN or infinity, other values than the format has, or what is no class.
    """
    check_finite("boxes", output)
    values = output.shape[1 if rules.format == "yolo" else 2]
    fits = values == CORNERS if rules.format == "corners" else values > _start(rules)
    if not fits:
        raise errors.BadOutput(
            f"For this input the model's boxes have {values} values, which the format {rules.format!r} cannot have."
        )
    return [_of_one(rows, rules) for rows in np.asarray(output, dtype=np.float32)]


def _start(rules: Detection) -> int:
    """Where the scores of the classes begin among the values of a box."""
    return 5 if rules.format == "yolo_objectness" else 4


def _of_one(values: Floats, rules: Detection) -> Found:
    """`values`: `[boxes, ...]`, or `[..., boxes]` for the format `yolo`."""
    rows = values.T if rules.format == "yolo" else values
    if rules.format == "corners":
        kept = rows[rows[:, 4] >= rules.score_threshold]
        if ((kept[:, 5] < 0) | (kept[:, 5] >= MOST_CLASSES)).any():
            raise errors.BadOutput(
                "The model's boxes name classes that cannot be: the sixth value of a box is its class."
            )
        return Found(kept[:, :4], kept[:, 4], kept[:, 5].astype(np.intp))
    start = _start(rules)
    sureness = values[start:].max(axis=0) if rules.format == "yolo" else rows[:, start:].max(axis=1)
    if rules.format == "yolo_objectness":
        with np.errstate(over="ignore"):
            sureness = sureness * rows[:, 4]
        check_finite("scores", sureness)
    sure = np.flatnonzero(sureness >= rules.score_threshold)
    return Found(_corners(rows[sure, :4]), sureness[sure], rows[sure, start:].argmax(axis=1))


def _corners(centred: Floats) -> Floats:
    """`[n, 4]` of centre x, centre y, width, height -> x1, y1, x2, y2."""
    half = centred[:, 2:] / 2
    with np.errstate(over="ignore"):
        return np.concatenate([centred[:, :2] - half, centred[:, :2] + half], axis=1)


def suppress(found: Found, iou_threshold: float, most: int) -> Indices:
    """Greedy non-maximum suppression within each class; indices of what stays, best first, at most `most`.

    A box goes when its intersection over union with a better one of its class is above the threshold.
    """
    order = np.argsort(-found.scores, kind="stable")[:MOST_CANDIDATES]
    corners, classes = found.corners[order], found.classes[order]
    alive = np.ones(len(order), dtype=np.bool_)
    kept: list[int] = []
    for start in range(0, len(order), ROWS_AT_ONCE):
        end = start + ROWS_AT_ONCE
        rivals = classes[start:end, None] == classes[None, start:]
        covered = rivals & (iou(corners[start:end], corners[start:]) > iou_threshold)
        for row, covers in enumerate(covered):
            if not alive[start + row]:
                continue
            kept.append(start + row)
            if len(kept) == most:
                return order[kept]
            alive[start:] &= ~covers
    return order[kept]


def iou(some: Floats, others: Floats) -> Floats:
    """Intersection over union of corners, `[n, 4]` and `[m, 4]` -> `[n, m]`; 0 where two boxes have no area."""
    with np.errstate(over="ignore", invalid="ignore"):  # of boxes beyond any image
        width = np.minimum(some[:, None, 2], others[:, 2]) - np.maximum(some[:, None, 0], others[:, 0])
        height = np.minimum(some[:, None, 3], others[:, 3]) - np.maximum(some[:, None, 1], others[:, 1])
        shared = width.clip(0) * height.clip(0)
        union = _areas(some)[:, None] + _areas(others) - shared
        return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def _areas(corners: Floats) -> Floats:
    return np.asarray((corners[:, 2] - corners[:, 0]).clip(0) * (corners[:, 3] - corners[:, 1]).clip(0))


def placed(
    found: Found, rules: Detection, size: tuple[int, int], placement: Placement | None, labels: Sequence[str] | None
) -> list[BoxScore]:
    """What is shown of one image: suppressed, moved into the original's pixels, cut off at its edges.

    Args:
        found: Boxes in the model's input.
        rules: The contract.
        size: Width and height of the model's input, for coordinates from 0 to 1.
        placement: Where the original lies in the input; None: there is none, boxes stay in the input's pixels.
        labels: Names of the classes.

    Raises:
        errors.BadOutput: Boxes that reach beyond what numbers can hold.
    """
    if rules.coordinates == "normalized":
        with np.errstate(over="ignore"):
            found = found._replace(corners=found.corners * np.array([*size, *size], np.float32))
    check_finite("boxes", found.corners)
    if rules.format == "corners":  # the model has suppressed them itself
        chosen = np.argsort(-found.scores, kind="stable")[: rules.max_boxes]
    else:
        chosen = suppress(found, rules.iou_threshold, rules.max_boxes)
    corners = found.corners[chosen].astype(np.float64)
    if placement is not None:
        corners = _moved(corners, placement)
    whole = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    return [
        BoxScore(
            box=(x1, y1, x2, y2),
            class_id=int(found.classes[index]),
            label=_label(int(found.classes[index]), labels),
            confidence=round(float(found.scores[index]), DECIMALS),
        )
        for index, (x1, y1, x2, y2) in zip(
            chosen[whole], corners[whole].round(COORDINATE_DECIMALS).tolist(), strict=True
        )
    ]


def _moved(corners: npt.NDArray[np.float64], placement: Placement) -> npt.NDArray[np.float64]:
    offsets = np.array([placement.offset_x, placement.offset_y] * 2)
    scales = np.array([placement.scale_x, placement.scale_y] * 2)
    return np.asarray(np.clip((corners - offsets) / scales, 0, [placement.width, placement.height] * 2))


def _label(class_id: int, labels: Sequence[str] | None) -> str:
    return labels[class_id] if labels and 0 <= class_id < len(labels) else str(class_id)
