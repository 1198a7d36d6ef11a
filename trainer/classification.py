"""What a classifier is trained for: the right class of an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from shared.nets.architectures import tensors
from shared.specs import Preprocessing, Sample, WorstSample
from trainer import judging
from trainer.judging import Judgement

AUXILIARY = 0.3
"""Weight of the loss of auxiliary outputs, which some networks have in training (Szegedy et al.)."""


def loss(outputs: list[Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy, in float32, of the first output and, with less weight, of auxiliary ones; share of right answers.

    Args:
        outputs: Logits, `[B, classes]` each.
        labels: `[B]`.
    """
    first, *others = (nn.functional.cross_entropy(each.float(), labels) for each in outputs)
    right = (outputs[0].detach().argmax(1) == labels).double().mean()
    return first + AUXILIARY * sum(others) if others else first, right


class Judge:
    """Judges a classifier by the class that it is surest of.

    Args:
        samples: All of which it will hear.
    """

    def __init__(self, samples: Sequence[Sample], _contract: Preprocessing) -> None:
        self._samples = samples
        self._losses, self._confidences = np.zeros((2, len(samples)), np.float32)
        self._labels, self._predicted = np.zeros((2, len(samples)), np.int64)

    def hear(self, module: nn.Module, images: Tensor, labels: Tensor, places: npt.NDArray[np.int64]) -> None:
        """What the network says to some images."""
        logits = tensors(module(images))[0].float()
        best = logits.softmax(1).max(1)
        self._losses[places] = nn.functional.cross_entropy(logits, labels, reduction="none").cpu().numpy()
        self._confidences[places], self._predicted[places] = best.values.cpu().numpy(), best.indices.cpu().numpy()
        self._labels[places] = labels.cpu().numpy()

    def judgement(self) -> Judgement:
        """Of all it heard."""
        return Judgement(
            losses=self._losses,
            loss=float(self._losses.astype(np.float64).mean()),
            accuracy=float((self._predicted == self._labels).mean()),
            map50=None,
            confusion=self._confusion(),
            worst=[self._described(place) for place in judging.worst(self._losses)],
        )

    def _confusion(self) -> list[tuple[int, int, int]]:
        pairs, counts = np.unique(np.stack([self._labels, self._predicted]), axis=1, return_counts=True)
        return [(int(true), int(said), int(count)) for (true, said), count in zip(pairs.T, counts, strict=True)]

    def _described(self, place: int) -> WorstSample:
        sample = self._samples[place]
        return WorstSample(
            member=sample.member,
            time_s=sample.time_s,
            class_id=int(self._labels[place]),
            predicted=int(self._predicted[place]),
            confidence=round(float(self._confidences[place]), 6),
            loss=round(float(self._losses[place]), 6),
        )
