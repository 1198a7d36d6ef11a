"""From a classifier's scores to what is shown: confidences and the best classes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from shared import errors
from shared.specs import Scores

ScoreRows = npt.NDArray[np.generic]
Confidences = npt.NDArray[np.float64]

DECIMALS = 6
"""Confidences are rounded to what a float32 can mean."""


class ClassScore(msgspec.Struct, frozen=True):
    """One class of a classification."""

    class_id: int
    label: str
    confidence: float


def confidences(scores: ScoreRows, kind: Scores) -> Confidences:
    """Rows of scores -> rows of confidences: softmax of logits (one column: the sigmoid), probabilities as they are.

    Raises:
        errors.BadOutput: No scores, NaN, or an infinity that leaves no order.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.shape[1] == 0:
        raise errors.BadOutput("The model gives no scores for this input: check its export.")
    if kind == "logits":
        with np.errstate(invalid="ignore", over="ignore"):
            values = _sigmoid(values) if values.shape[1] == 1 else _softmax(values)
    check_finite("scores", values)
    return values


def check_finite(name: str, values: npt.NDArray[np.generic]) -> None:
    """Refuse NaN and infinities.

    Raises:
        errors.BadOutput: There is one.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise errors.BadOutput(
            f"The model's {name} hold NaN or infinity for this input: check its preprocessing and its export."
        )


def top_k(row: Confidences, labels: Sequence[str] | None, k: int) -> list[ClassScore]:
    """The `k` best classes of one image, best first; equals keep the order of their ids. No label: the id as text."""
    best = np.argsort(-row, kind="stable")[:k]
    return [
        ClassScore(
            class_id=int(index),
            label=labels[index] if labels and index < len(labels) else str(index),
            confidence=round(float(row[index]), DECIMALS),
        )
        for index in best
    ]


def is_distribution(scores: ScoreRows) -> bool:
    """Whether every row already lies in [0, 1] and sums to 1: what a model that ends in softmax gives."""
    values = np.asarray(scores, dtype=np.float64)
    return bool((values >= 0).all() and (values <= 1).all() and (np.abs(values.sum(axis=1) - 1) < 1e-3).all())


def _softmax(logits: Confidences) -> Confidences:
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True), dtype=np.float64)


def _sigmoid(logits: Confidences) -> Confidences:
    return np.asarray(1 / (1 + np.exp(-logits)), dtype=np.float64)
