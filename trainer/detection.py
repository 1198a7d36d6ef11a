"""What a detector is trained for: scores that say how well its boxes fit, boxes that fit, sides it is sure of.

The losses of YOLOv8: binary cross-entropy, complete IoU, and distribution focal loss (Li et al., Generalized Focal
Loss, 2020), over the cells that answer for an object.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from shared.nets.yolov8 import REG_MAX, YOLOv8, cells
from shared.specs import FoundBox, Preprocessing, Sample, WorstSample
from shared.vision import mean_ap
from shared.vision.preprocess import placement
from trainer import judging
from trainer.assignment import assign, ciou
from trainer.judging import Judgement

CLASS_GAIN, BOX_GAIN, SIDE_GAIN = 0.5, 7.5, 1.5
MOST_SHOWN = 20
"""Boxes of an image that are told of."""
LAST_BIN = REG_MAX - 1.01
"""Farthest that a side can be learned to be, in cells: between two bins."""


class Answers(NamedTuple):
    """What the N cells of some images said."""

    scores: Tensor
    """`[B, N, classes]` logits."""
    sides: Tensor
    """`[B, N, 4, REG_MAX]` logits of the distance of each side, in cells."""
    corners: Tensor
    """`[B, N, 4]` in pixels of the input."""
    centres: Tensor
    """`[N, 2]`, in cells."""
    strides: Tensor
    """`[N, 1]`, pixels of a cell."""


class Losses(NamedTuple):
    """Sums over the cells of each image, `[B]`, before gains."""

    scores: Tensor
    boxes: Tensor
    sides: Tensor
    weights: Tensor
    """By which their sum is divided: of the wanted scores."""

    def sums(self) -> Tensor:
        """All three with their gains, `[B]`."""
        return CLASS_GAIN * self.scores + BOX_GAIN * self.boxes + SIDE_GAIN * self.sides


def loss(outputs: list[Tensor], objects: Tensor) -> tuple[Tensor, None]:
    """The loss of a batch, in which an image with many objects counts for more.

    Where the batch was halved, each half is divided by its own weight.

    Args:
        outputs: Of each stride, as `YOLOv8.raw` gives them.
        objects: `[B, M, 5]` class and corners in pixels of the input, M at least 1; class -1 stands for none.
    """
    found = losses(outputs, objects)
    return found.sums().sum() / found.weights.sum().clamp(min=1), None


def losses(raw: list[Tensor], objects: Tensor) -> Losses:
    """Of each image, in float32; arguments as for `loss`."""
    answers = answered(raw)
    centres = answers.centres * answers.strides
    seen = zip(answers.scores.detach().sigmoid(), answers.corners.detach(), objects, strict=True)
    assigned = [assign(scores, corners, centres, truths) for scores, corners, truths in seen]
    corners, wanted = (torch.stack(column) for column in zip(*assigned, strict=True))
    weights = wanted.sum(2)
    return Losses(
        scores=nn.functional.binary_cross_entropy_with_logits(answers.scores, wanted, reduction="none").sum((1, 2)),
        boxes=((1 - ciou(corners, answers.corners)) * weights).sum(1),
        sides=(_focal(answers, corners) * weights).sum(1),
        weights=weights.sum(1),
    )


def answered(raw: list[Tensor]) -> Answers:
    """What is in the maps of the three strides, cell by cell, in float32."""
    flat = torch.cat([each.flatten(2) for each in raw], 2).float().transpose(1, 2)
    centres, strides = cells([(int(each.shape[2]), int(each.shape[3])) for each in raw], flat)
    sides, scores = flat.split((4 * REG_MAX, flat.shape[2] - 4 * REG_MAX), 2)
    sides = sides.unflatten(2, (4, REG_MAX))
    distances = sides.softmax(3) @ torch.arange(REG_MAX, dtype=flat.dtype, device=flat.device)
    before, after = distances.chunk(2, 2)
    corners = torch.cat([centres.T - before, centres.T + after], 2) * strides[:, None]
    return Answers(scores, sides, corners, centres.T, strides[:, None])


def _focal(answers: Answers, corners: Tensor) -> Tensor:
    """Distribution focal loss of the four sides, their mean, `[B, N]`: the two bins around the truth share it."""
    first, last = (corners / answers.strides).chunk(2, 2)
    truth = torch.cat([answers.centres - first, last - answers.centres], 2).clamp(0, LAST_BIN)
    below = truth.long()
    share = truth - below
    chances = answers.sides.log_softmax(3)
    found = [chances.gather(3, bins[..., None]).squeeze(3) for bins in (below, below + 1)]
    return -(found[0] * (1 - share) + found[1] * share).mean(2)


class Judge:
    """Judges a detector by COCO's mean average precision, of boxes decoded as in serving.

    Args:
        samples: All of which it will hear.
        contract: With `detection`.
    """

    def __init__(self, samples: Sequence[Sample], contract: Preprocessing) -> None:
        assert contract.detection is not None
        self._samples, self._rules, self._resize = samples, contract.detection, contract.resize
        self._found: list[mean_ap.Rows] = [np.zeros((0, 6), np.float32)] * len(samples)
        self._sums, self._weights = np.zeros((2, len(samples)), np.float32)

    def hear(self, module: nn.Module, images: Tensor, objects: Tensor, places: npt.NDArray[np.int64]) -> None:
        """What the network says to some images."""
        assert isinstance(module, YOLOv8)
        raw = module.raw(images)
        found = losses(raw, objects)
        self._sums[places], self._weights[places] = found.sums().cpu().numpy(), found.weights.cpu().numpy()
        if not np.isfinite(self._sums[places]).all():
            return  # nor are its boxes
        output = module.decoded(raw).float().cpu().numpy()
        samples = [self._samples[place] for place in places.tolist()]
        lying = [placement((sample.width, sample.height), self._resize) for sample in samples]
        size = (self._resize.width, self._resize.height)
        for place, rows in zip(places.tolist(), mean_ap.answers(output, self._rules, size, lying), strict=True):
            self._found[place] = rows

    def judgement(self) -> Judgement:
        """Of all it heard."""
        losses = self._sums / self._weights.clip(1)
        found = mean_ap.coco([mean_ap.true_boxes(sample) for sample in self._samples], self._found)
        return Judgement(
            losses=losses,
            loss=float(self._sums.sum(dtype=np.float64) / max(1.0, self._weights.sum(dtype=np.float64))),
            accuracy=found.map,
            map50=found.map50,
            confusion=[],
            worst=[self._described(place, float(losses[place])) for place in judging.worst(losses)],
        )

    def _described(self, place: int, worth: float) -> WorstSample:
        sample = self._samples[place]
        found = [_box(row) for row in self._found[place].tolist()]
        return WorstSample(
            member=sample.member,
            time_s=sample.time_s,
            loss=round(worth, 6),
            objects=len(sample.boxes),
            found=[box for box in found if box.confidence >= self._rules.score_threshold][:MOST_SHOWN],
        )


def _box(row: list[float]) -> FoundBox:
    x1, y1, x2, y2 = (round(edge, 1) for edge in row[:4])
    return FoundBox(x1=x1, y1=y1, x2=x2, y2=y2, confidence=round(row[4], 4), class_id=int(row[5]))
