"""Images with objects in them, which move along when an image is varied and prepared."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from shared.specs import Augmentation
from shared.vision import augmentation, mean_ap
from shared.vision.preprocess import placement, preprocess
from trainer.batches import Floats, Images

LEAST_VISIBLE = 0.2
"""Of an object's area; with less of it in the frame it is none."""
LEAST_SIDE = 2.0
"""Pixels of the network's input; a smaller object cannot be seen."""
NO_OBJECT = -1.0


class Scenes(Images):
    """The images of some samples with their boxes: what is true of a batch is `[B, most, 5]`.

    Class and corners in pixels of the network's input, rows of `NO_OBJECT` after an image's last; `most` is at least 1.
    `labels` are all alike, since no class is drawn more often.
    """

    def _fill(self, out: Floats, place: int, kind: Augmentation, draws: Floats | None) -> Any:
        image, sample = self._image(place), self.samples[place]
        found = mean_ap.true_boxes(sample)
        corners = found[:, :4] * np.tile(np.divide(image.size, (sample.width, sample.height)), 2)
        if draws is not None:
            image, corners = augmentation.reframed(image, corners, kind, draws, self.contract.resize.pad)
        preprocess(image, self.contract, out)
        place_of = placement(image.size, self.contract.resize)
        scales = np.array([place_of.scale_x, place_of.scale_y] * 2)
        offsets = np.array([place_of.offset_x, place_of.offset_y] * 2)
        return _seen(found[:, 4], corners * scales + offsets, np.array(out.shape[:0:-1]))

    def _joined(self, truths: list[Any]) -> npt.NDArray[np.int64] | npt.NDArray[np.float32]:
        most = max(1, *(len(rows) for rows in truths)) if truths else 1
        joined = np.full((len(truths), most, 5), NO_OBJECT, np.float32)
        for into, rows in zip(joined, truths, strict=True):
            into[: len(rows)] = rows
        return joined


def _seen(classes: Floats, corners: npt.NDArray[np.float64], size: npt.NDArray[np.intp]) -> Floats:
    """Objects cut off at the input's edges, `[n, 5]`, without those of which too little is left.

    Args:
        classes: `[n]`.
        corners: `[n, 4]` in pixels of the input, also beyond it.
        size: Width and height of the input.
    """
    cut = corners.clip(0, np.tile(size, 2))
    before, after = corners[:, 2:] - corners[:, :2], cut[:, 2:] - cut[:, :2]
    seen = (after.prod(1) >= LEAST_VISIBLE * before.prod(1)) & (after.min(1, initial=np.inf) >= LEAST_SIDE)
    return np.column_stack([classes, cut])[seen].astype(np.float32)
