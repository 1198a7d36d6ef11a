"""How far two ways to run one model are apart: outputs beside outputs, and what a precision allows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from shared.specs import Parity, Precision

Values = Sequence[npt.NDArray[np.generic]]

TOLERANCE: dict[Precision, float | None] = {"fp32": 1e-3, "fp16": 2e-2, "int8": None}
"""Largest difference from FP32, as `Parity.max_rel_diff`: what engines of one precision differ by when nothing is wrong
(summation order in FP32, 11 bits of mantissa in FP16). Where the field compares at 1e-5, sound engines fail
(NVIDIA/TensorRT#2709). INT8 rounds by design: what it costs shows in the accuracy alone."""


def compare(batch: int, wanted: Values, given: Values) -> Parity:
    """How far `given` is from `wanted`; both finite, every array with the batch first.

    A difference is seen against the largest value of its channel, or 1 if that is less. A channel is an index of the
    second axis or of the last one, whichever is the smaller: boxes come as `[batch, values, boxes]` or the other way
    round, and an error in a score of 0.5 must not hide behind a coordinate of 600.

    Raises:
        ValueError: The shapes differ.
    """
    shapes = [list(each.shape) for each in wanted], [list(each.shape) for each in given]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the outputs have the shapes {shapes[1]} instead of {shapes[0]}")
    furthest = largest = relative = 0.0
    for one, other in zip(wanted, given, strict=True):
        if not one.size:
            continue
        scale = _scale(one)
        largest = max(largest, _largest(one))
        for row, answer in zip(_rows(one), _rows(other), strict=True):  # a row at a time: outputs may be large
            apart = np.abs(row.astype(np.float64) - answer.astype(np.float64))
            furthest = max(furthest, float(apart.max()))
            relative = max(relative, float((apart / scale).max()))
    return Parity(batch=batch, max_abs_diff=furthest, max_abs_output=largest, max_rel_diff=relative)


def _rows(values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    return values if values.ndim else values.reshape(1)


def _largest(values: npt.NDArray[np.generic]) -> float:
    return max(abs(float(values.max())), abs(float(values.min())))


def _scale(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """What a difference is divided by, broadcast over the places of one row."""
    if values.ndim < 3:
        return np.asarray(max(1.0, _largest(values)))
    middle = np.abs(values).max(axis=(0, *range(2, values.ndim))).astype(np.float64)
    last = np.abs(values).max(axis=tuple(range(values.ndim - 1))).astype(np.float64)
    wide = middle.reshape(-1, *([1] * (values.ndim - 2)))
    return np.asarray(np.maximum(1.0, np.minimum(wide, last)))
