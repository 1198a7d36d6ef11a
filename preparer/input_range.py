"""Which pixel values a graph was made for, by the arithmetic it begins with: 0 to 255, or smaller ones.

Keras models often carry their own `Rescaling` or `Normalization`. An image whose values were divided by 255 before
would be nearly black to them, and nothing fails: the predictions are only wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper

RESHAPING = frozenset(
    [
        "Cast",
        "Concat",
        "Gather",
        "Identity",
        "Pad",
        "Reshape",
        "Resize",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    ]
)
"""Operators that move values, or choose among them, without changing what range they have."""

MOST_VALUES = 65_536
"""Of a constant that is looked at: one a channel, or one a pixel of a small image."""

MOST_STEPS = 64
"""Operators that are followed from the input on."""

LARGEST_FACTOR = 1 / 16
"""A value is multiplied by less only where it reaches 255: 1/255, 1/127.5, one over a deviation of 30 to 80."""

SMALLEST_MEAN = 2.0
"""What is subtracted from values of 0 to 1, or of -1 to 1, is less than this."""


class _Line(NamedTuple):
    """What became of a pixel value x so far: `factor * x + shift`, in the middle over the channels."""

    factor: float = 1.0
    shift: float = 0.0

    @property
    def takes_bytes(self) -> bool:
        factor = abs(self.factor)
        return 0 < factor < LARGEST_FACTOR or (factor > 0 and abs(self.shift) / factor > SMALLEST_MEAN)


def takes_bytes(graph: GraphProto, name: str) -> bool:
    """Whether the arithmetic that the input `name` meets first is made for values of 0 to 255; False if it is not sure.

    Followed are multiplication, division, addition and subtraction of constants and normalisation, up to the first
    operator that is something else.
    """
    constants = _constants(graph)
    readers = defaultdict[str, list[NodeProto]](list)
    for node in graph.node:
        for given in set(node.input):
            readers[given].append(node)
    waiting = [(name, _Line())]
    for _ in range(MOST_STEPS):
        if not waiting:
            break
        value, line = waiting.pop()
        if line.takes_bytes:
            return True
        for node in readers[value]:
            after = line if node.op_type in RESHAPING else _after(node, value, line, constants)
            if after is not None:
                waiting += [(made, after) for made in node.output]
    return any(line.takes_bytes for _, line in waiting)


def _constants(graph: GraphProto) -> dict[str, TensorProto]:
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    return found


def _after(node: NodeProto, value: str, line: _Line, constants: Mapping[str, TensorProto]) -> _Line | None:
    """The line behind an operator; None where it is not arithmetic with constants."""
    if node.op_type == "BatchNormalization" and node.input[0] == value:
        return _normalised(node, line, constants)
    if node.op_type not in ("Mul", "Div", "Add", "Sub") or len(node.input) != 2:
        return None
    first = node.input[0] == value
    number = _middle(constants.get(node.input[1 if first else 0]))
    if number is None or (node.op_type == "Div" and (number == 0 or not first)):
        return None
    if node.op_type in ("Mul", "Div"):
        by = number if node.op_type == "Mul" else 1 / number
        return _Line(line.factor * by, line.shift * by)
    if node.op_type == "Sub" and not first:
        return _Line(-line.factor, number - line.shift)
    return _Line(line.factor, line.shift + (number if node.op_type == "Add" else -number))


def _normalised(node: NodeProto, line: _Line, constants: Mapping[str, TensorProto]) -> _Line | None:
    scale, shift, mean, variance = (_middle(constants.get(name)) for name in node.input[1:5])
    if scale is None or shift is None or mean is None or variance is None or variance < 0:
        return None
    by = scale / (variance + 1e-5) ** 0.5
    return _Line(line.factor * by, (line.shift - mean) * by + shift)


def _middle(tensor: TensorProto | None) -> float | None:
    """The median of a constant; None where there is none, or one that is too large or no number."""
    if tensor is None or not 0 < np.prod(tensor.dims, dtype=object) <= MOST_VALUES:
        return None
    try:
        middle = float(np.median(numpy_helper.to_array(tensor).astype(np.float64)))
    except (KeyError, TypeError, ValueError):  # strings, a type that is none, too few bytes: the engine says what it is
        return None
    return middle if np.isfinite(middle) else None
