"""Which cells of a detector answer for which objects, and how surely: task-aligned assignment.

Feng et al., TOOD: Task-aligned One-stage Object Detection, 2021.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from shared.nets.yolov8 import STRIDES

MOST_CELLS = 10
"""That answer for one object."""
SCORE_POWER, OVERLAP_POWER = 0.5, 6.0
"""How much of a cell's alignment is its score, and how much its overlap (alpha and beta)."""
LEAST_SIDE = float(STRIDES[0])
"""Pixels. A smaller object counts as large as this where cells within it are looked for, so that there is one."""
TINY = 1e-7


class Assigned(NamedTuple):
    """What the N cells of one image should have said."""

    corners: Tensor
    """`[N, 4]`: of the object that the cell answers for; of other cells of any."""
    scores: Tensor
    """`[N, classes]`: of its class how well the cell does beside the object's best, which gets its overlap; otherwise
    0. A row of zeros is background."""


def assign(scores: Tensor, corners: Tensor, centres: Tensor, objects: Tensor) -> Assigned:
    """Choose for each object the cells within it that see its class and its place best; no gradient is to come in.

    A cell that several objects choose goes to the one that its box overlaps most.

    Args:
        scores: `[N, classes]` from 0 to 1, as the cells said.
        corners: `[N, 4]` x1, y1, x2, y2 in pixels, as the cells said.
        centres: `[N, 2]` of the cells, in pixels.
        objects: `[M, 5]` class and corners, M at least 1; class -1 stands for no object.
    """
    real = objects[:, 0] >= 0
    labels = objects[:, 0].long().clamp(min=0)
    truths = objects[:, 1:]
    candidates = _within(centres, truths) & real[:, None]
    overlaps = ciou(truths[:, None], corners[None]).clamp(min=0) * candidates
    alignment = scores.T[labels].pow(SCORE_POWER) * overlaps.pow(OVERLAP_POWER)
    best = alignment.topk(min(MOST_CELLS, len(centres)), dim=1)
    chosen = torch.zeros_like(candidates).scatter_(1, best.indices, best.values > 0)
    owners = (overlaps * chosen).argmax(0)
    alignment *= chosen & (owners == torch.arange(len(objects), device=objects.device)[:, None])
    owned = alignment > 0
    reached = (overlaps * owned).amax(1, keepdim=True)
    highest = alignment.amax(1, keepdim=True)
    shares = torch.where(owned, alignment / highest.clamp(min=torch.finfo(highest.dtype).tiny) * reached, 0.0)
    wanted = torch.zeros_like(scores).scatter_(1, labels[owners, None], shares.amax(0)[:, None])
    return Assigned(truths[owners], wanted)


def _within(centres: Tensor, corners: Tensor) -> Tensor:
    """Which cells have their centre in which boxes, `[M, N]`."""
    middle = (corners[:, :2] + corners[:, 2:]) / 2
    half = ((corners[:, 2:] - corners[:, :2]) / 2).clamp(min=LEAST_SIDE / 2)
    return ((centres[None] - middle[:, None]).abs() <= half[:, None]).all(2)


def ciou(truths: Tensor, boxes: Tensor) -> Tensor:
    """Complete intersection over union of corners, `[..., 4]` each, `[...]`: also of how far apart and how unlike.

    1 for equal boxes, below 0 for distant ones (Zheng et al., Distance-IoU Loss, 2020). No gradient comes through the
    weight of the proportions, as published.
    """
    (x1, y1, x2, y2), (u1, v1, u2, v2) = truths.unbind(-1), boxes.unbind(-1)
    width, height, wide, high = x2 - x1, y2 - y1, u2 - u1, v2 - v1
    shared = (torch.minimum(x2, u2) - torch.maximum(x1, u1)).clamp(min=0)
    shared = shared * (torch.minimum(y2, v2) - torch.maximum(y1, v1)).clamp(min=0)
    iou = shared / (width * height + wide * high - shared + TINY)
    around = (torch.maximum(x2, u2) - torch.minimum(x1, u1)) ** 2 + (torch.maximum(y2, v2) - torch.minimum(y1, v1)) ** 2
    apart = ((x1 + x2 - u1 - u2) ** 2 + (y1 + y2 - v1 - v2) ** 2) / 4
    unlike = 4 / math.pi**2 * (torch.atan(width / (height + TINY)) - torch.atan(wide / (high + TINY))) ** 2
    with torch.no_grad():
        weight = unlike / (1 - iou + unlike + TINY)
    return iou - apart / (around + TINY) - weight * unlike
