"""What a network's answers are worth: the figures of an epoch, by which the best is chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from shared.specs import Preprocessing, Sample, WorstSample

WORST = 12

Loss = Callable[[list[Tensor], Tensor], tuple[Tensor, Tensor | None]]
"""Of a network's outputs in training and what is true, each with the images in front: the loss to learn from, and the
share of right answers where a task has one."""


class Judgement(NamedTuple):
    """Of a network, on all images of the part val."""

    losses: npt.NDArray[np.float32]
    """Of each image."""
    loss: float
    accuracy: float
    """The larger, the better; what it is depends on the task (`specs.EpochFigures`)."""
    map50: float | None
    confusion: list[tuple[int, int, int]]
    """As in `specs.TrainingResult`."""
    worst: list[WorstSample]


class Judge(Protocol):
    """Hears what a network says to images of which the truth is known; each once, in any order."""

    def hear(self, module: nn.Module, images: Tensor, targets: Tensor, places: npt.NDArray[np.int64]) -> None:
        """What the network, in eval mode, says to some of them."""

    def judgement(self) -> Judgement:
        """Of all it heard."""


NewJudge = Callable[[Sequence[Sample], Preprocessing], Judge]


def worst(losses: npt.NDArray[np.float32]) -> list[int]:
    """Places of the largest losses, the largest first."""
    found: list[int] = (-losses).argsort(kind="stable")[:WORST].tolist()
    return found
