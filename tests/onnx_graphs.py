"""Tiny ONNX graphs, made where a test needs one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

Shape = Sequence[int | str]


def graph(
    path: Path,
    nodes: list[NodeProto],
    inputs: dict[str, tuple[int, Shape]],
    outputs: dict[str, tuple[int, Shape]],
    constants: dict[str, np.ndarray] | None = None,
    foreign: str | None = None,
) -> Path:
    """Write a checked model of these nodes; inputs and outputs are `name: (TensorProto type, shape)`.

    `foreign` is a second operator domain.
    """
    made = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(foreign, 1)] if foreign else [])]
    model = helper.make_model(made, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def mean_model(path: Path, batch: int | str = "batch", side: int | str = 8, kind: int = TensorProto.FLOAT) -> Path:
    """`image` [batch, 3, side, side] -> `scores` [batch, 3]: the mean of each channel."""
    return graph(
        path,
        [helper.make_node("ReduceMean", ["image", "axes"], ["scores"], keepdims=0)],
        {"image": (kind, [batch, 3, side, side])},
        {"scores": (kind, [batch, 3])},
        {"axes": np.array([2, 3])},
    )


def conv_model(path: Path) -> Path:
    """`image` [batch, 3, 16, 16] -> `scores` [batch, 5]: convolution, ReLU, pooling, a dense layer, fixed weights."""
    random = np.random.default_rng(7)
    return graph(
        path,
        [
            helper.make_node("Conv", ["image", "kernel"], ["features"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["features"], ["active"]),
            helper.make_node("GlobalAveragePool", ["active"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "dense"], ["scores"]),
        ],
        {"image": (TensorProto.FLOAT, ["batch", 3, 16, 16])},
        {"scores": (TensorProto.FLOAT, ["batch", 5])},
        {
            "kernel": random.standard_normal((8, 3, 3, 3)).astype(np.float32),
            "dense": random.standard_normal((8, 5)).astype(np.float32),
        },
    )


def cell_detector(path: Path) -> Path:
    """`image` [batch, 1, 64, 64] -> `boxes` [batch, 6, 16], in YOLO's format: a box for each of 4 x 4 cells, as sure as
    the cell is bright (class 0), half as sure of class 1.
    """
    centres = [16 * cell + 8 for cell in range(4)]
    fixed = np.array([[x, y, 16, 16] for y in centres for x in centres], np.float32).T[None]
    return graph(
        path,
        [
            helper.make_node("AveragePool", ["image"], ["cells"], kernel_shape=[16, 16], strides=[16, 16]),
            helper.make_node("Reshape", ["cells", "flat"], ["scores"]),
            helper.make_node("Mul", ["scores", "none"], ["zeros"]),
            helper.make_node("Add", ["zeros", "fixed"], ["places"]),
            helper.make_node("Mul", ["scores", "half"], ["others"]),
            helper.make_node("Concat", ["places", "scores", "others"], ["boxes"], axis=1),
        ],
        {"image": (TensorProto.FLOAT, ["batch", 1, 64, 64])},
        {"boxes": (TensorProto.FLOAT, ["batch", 6, 16])},
        {
            "flat": np.array([0, 1, 16], np.int64),
            "none": np.array(0, np.float32),
            "half": np.array(0.5, np.float32),
            "fixed": fixed,
        },
    )
