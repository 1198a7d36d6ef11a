"""An FP32 model as INT8 and as FP16, made by well-kept tools; they work through files, here and in `tempfile`'s folder.

INT8 is static quantisation by ONNX Runtime in the one form that is fast on CPUs: QDQ, weights S8 with a scale a
channel, activations U8. VNNI multiplies just these two, and ONNX Runtime and OpenVINO take the same file; signed
activations, the tools' default, gain nothing on x86.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import onnx
from onnx import version_converter
from onnxconverter_common import float16
from onnxruntime.quantization import (
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from shared import errors
from shared.engines.base import REASON_MAX, Tensor

Method = Literal["minmax", "percentile", "entropy"]
METHODS: dict[Method, CalibrationMethod] = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
Extent = Literal["whole", "inner", "weighted"]
"""What becomes INT8: all that comes before the last weights; of that not the first and last layers with weights; only
layers with weights, which is what transformers want: their sums and normalisations lose most and gain nothing."""
SCHEME = "QDQ, activations U8, weights S8 per channel"
PERCENTILE = 99.99
"""Of the values of a tensor; what lies beyond is cut off."""

LEAST_OPSET = 13
"""The first in which a scale a channel can be written down."""

SENSITIVE = (
    "Softmax",
    "LogSoftmax",
    "Sigmoid",
    "LayerNormalization",
    "ReduceMean",
    "ReduceSum",
    "Pow",
    "Exp",
    "Sqrt",
    "Div",
)
"""Operators whose sums, powers or quotients leave what FP16 can hold first."""

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


class Network:
    """A model made ready for another precision: batch normalisations folded, shapes known, every node named.

    Args:
        model: The FP32 file.
        scratch: A folder for what lies between; removed by whoever made it.
    """

    def __init__(self, model: Path, scratch: Path) -> None:
        """Make it ready.

        Raises:
            errors.BadModel: The tools cannot take this model.
        """
        self._scratch = scratch
        self._path = scratch / "ready.onnx"
        with _Tools():
            quant_pre_process(_new_enough(model, scratch), self._path, skip_symbolic_shape=True)
            ready = onnx.load(self._path)
            for index, node in enumerate(ready.graph.node):
                node.name = f"{node.op_type}_{index}"
            onnx.save(ready, self._path)
        self._nodes = list(ready.graph.node)
        self._constants = {tensor.name for tensor in ready.graph.initializer}

    def fp16(self, *, keep_sensitive: bool) -> Path:
        """The model in FP16, its inputs and outputs as they were.

        Args:
            keep_sensitive: Leave `SENSITIVE` operators and what follows the last weights in FP32.

        Raises:
            errors.BadModel: The converter fails on this model.
        """
        target = self._scratch / "fp16.onnx"
        blocked = [*float16.DEFAULT_OP_BLOCK_LIST, *(SENSITIVE if keep_sensitive else [])]
        with _Tools(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one for every tiny weight
            made = float16.convert_float_to_float16(
                onnx.load(self._path),
                keep_io_types=True,
                op_block_list=blocked,
                node_block_list=self._tail() if keep_sensitive else [],
            )
            onnx.checker.check_model(made)
            onnx.save(made, target)
        return target

    def int8(
        self,
        rows: Sequence[Tensor],
        name: str,
        method: Method,
        extent: Extent,
        on_row: Callable[[], None] = lambda: None,
    ) -> Path:
        """The model in INT8, with ranges that the method draws from its activations on these inputs.

        What follows the last weights stays FP32: it costs next to nothing, and boxes and scores in one tensor would
        share one scale.

        Args:
            rows: Inputs, each a whole batch of the model; one after the other, so that one's activations are in memory.
            name: Of the model's input.
            method: How ranges are drawn; what it has drawn once is remembered.
            extent: What becomes INT8.
            on_row: Called after each of the inputs was run; the arithmetic that follows the last may take longer.

        Raises:
            errors.BadModel: The tools fail on this model, or it has no weights.
        """
        if not any(map(self._is_weighted, self._nodes)):
            raise errors.BadModel("It has no convolution and no matrix of weights, which are what INT8 makes faster.")
        target = self._scratch / f"{method}-{extent}.onnx"
        with _Tools():
            quantize_static(
                self._path,
                target,
                _Reader(name, rows, on_row),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=self._kept(extent),
                calibrate_method=METHODS[method],
                extra_options={"CalibStridedMinMax": 1, "CalibPercentile": PERCENTILE},
                calibration_cache_path=self._scratch / f"{method}.json",
            )
        return target

    def _is_weighted(self, node: Any) -> bool:
        return node.op_type in WEIGHTED and any(name in self._constants for name in node.input)

    def _kept(self, extent: Extent) -> list[str]:
        """Nodes that stay FP32."""
        if extent == "weighted":
            return [node.name for node in self._nodes if not self._is_weighted(node)]
        return [*self._tail(), *(self._ends() if extent == "inner" else [])]

    def _tail(self) -> list[str]:
        """Nodes after which no weights come."""
        return [
            node.name
            for node, after in zip(self._nodes, self._weights_after(), strict=True)
            if not after and not self._is_weighted(node)
        ]

    def _ends(self) -> list[str]:
        """Weighted layers before which, or after which, there is no other."""
        weighted = [self._is_weighted(node) for node in self._nodes]
        found, fed = set(), set()  # tensors that weights had a part in
        for node, heavy, after in zip(self._nodes, weighted, self._weights_after(), strict=True):
            before = any(name in fed for name in node.input)
            if before or heavy:
                fed.update(node.output)
            if heavy and not (before and after):
                found.add(node.name)
        return sorted(found)

    def _weights_after(self) -> list[bool]:
        """Of each node, whether its outputs reach weights; a graph's nodes stand in the order they run."""
        reaching: set[str] = set()
        found = []
        for node in reversed(self._nodes):
            after = any(name in reaching for name in node.output)
            found.append(after)
            if after or self._is_weighted(node):
                reaching.update(node.input)
        return found[::-1]


def _new_enough(model: Path, scratch: Path) -> Path:
    """The model, or a copy in an operator set that knows scales a channel."""
    proto = onnx.load(model)
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset >= LEAST_OPSET:
        return model
    newer = scratch / "newer.onnx"
    onnx.save(version_converter.convert_version(proto, LEAST_OPSET), newer)
    return newer


class _Reader:
    """Inputs one by one; the tools ask for ranges of them, so that they hold one's activations at a time.

    A `CalibrationDataReader` to them, which is any class with `get_next`.
    """

    def __init__(self, name: str, rows: Sequence[Tensor], on_row: Callable[[], None]) -> None:
        self._name, self._rows, self._on_row = name, rows, on_row
        self._left: Iterator[Tensor] = iter(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._left = iter(self._rows[start_index:end_index])

    def get_next(self) -> dict[str, Tensor] | None:
        row = next(self._left, None)
        if row is None:  # they ask for one input at a time, and then once more
            self._on_row()
            return None
        return {self._name: row}


class _Tools:
    """Quiet, and what the tools raise as a sentence."""

    def __enter__(self) -> None:
        logging.getLogger().addFilter(_not_advice)

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        logging.getLogger().removeFilter(_not_advice)
        if isinstance(error, Exception) and not isinstance(error, errors.AppError | MemoryError):
            line = " ".join(str(error).split())[:REASON_MAX] or type(error).__name__
            raise errors.BadModel(f"The tools cannot make it: {line}") from error


def _not_advice(record: logging.LogRecord) -> bool:
    told = record.getMessage()  # of normalisations: their weights get one scale, as they should
    return "pre-processing before quantization" not in told and "is out-of-range for weight" not in told
