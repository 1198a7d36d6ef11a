"""From a frozen TensorFlow graph to ONNX, and the proof that both compute the same."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
import tf2onnx.optimizer
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from preparer.frozen_graph import BATCH, Frozen
from shared import errors
from shared.engines.base import Feeds
from shared.engines.onnxrt import loaded
from shared.engines.timing import synthetic_feeds
from shared.specs import Parity

OPSET = 18
"""The newest tf2onnx makes."""
BATCHES = (1, 2, 8)
TOLERANCE, HALF_TOLERANCE = 1e-4, 1e-2
"""Of the largest output, or of 1 where that is smaller; the second where the source itself computes in float16."""
DOMAINS = {"", "ai.onnx", "ai.onnx.ml"}
ADVICE = "Convert the model to ONNX yourself, where you can change it, and upload that."


def exporter() -> str:
    """Which programs made the file."""
    import keras

    return f"tf2onnx {tf2onnx.__version__}, TensorFlow {tf.__version__}, Keras {keras.__version__}"


def converted(source: Frozen) -> ModelProto:
    """The graph in standard ONNX operators: inputs and outputs named as in the source, in its order of axes.

    Raises:
        errors.BadModel: An operator has no counterpart.
    """
    names = [*source.input_tensors, *source.output_tensors]
    _let_copies_go()
    try:
        model, _ = tf2onnx.convert.from_graph_def(
            source.graph, input_names=source.input_tensors, output_names=source.output_tensors, opset=OPSET
        )
    except MemoryError:
        raise
    except Exception as error:
        raise errors.BadModel(f"tf2onnx cannot convert the model: {_one_line(error)} {ADVICE}") from error
    gc.collect()
    _refuse_leftovers(model)
    wanted = [*(info.name for info in source.inputs), *source.output_names]
    _rename(model.graph, dict(zip(names, wanted, strict=True)))
    _name_batch(model, source, free=all(isinstance(info.shape[0], str) for info in source.inputs))
    model.producer_name, model.producer_version = "tf2onnx", tf2onnx.__version__
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise errors.BadModel(f"The conversion gave no valid ONNX: {_one_line(error)} {ADVICE}") from error
    return model


def _let_copies_go() -> None:
    """Collect garbage before each of tf2onnx's optimisations, in this process from now on.

    Each copies the whole graph, and parts of a copy refer to one another: left to Python, which counts objects and not
    their bytes, all copies stay: 5 GB of a network of 95 MB.
    """
    gc.freeze()  # the libraries' own objects, which stay anyway, are not looked at again

    def tidy(make: Callable[[], Any]) -> Callable[[], Any]:
        def tidied() -> Any:
            gc.collect()
            return make()

        return tidied

    optimizers = tf2onnx.optimizer._optimizers
    optimizers.update({name: tidy(make) for name, make in optimizers.items()})


def compared(source: Frozen, model: ModelProto) -> tuple[list[Parity], bool]:
    """Run both on the same seeded input; a batch that is not free after all is declared fixed in `model`.

    Returns:
        The largest absolute difference at batch 1, 2 and 8, or at the fixed one, and whether the batch is free.

    Raises:
        errors.BadModel: One of them does not run, or they differ.
    """
    first = source.inputs[0].shape[0]
    if isinstance(first, int):
        return [_difference(source, model, first)], False
    found = [_difference(source, model, 1)]
    try:
        found += [_difference(source, model, batch) for batch in BATCHES[1:]]
    except DoesNotRun:
        _name_batch(model, source, free=False)
        return found, False
    return found, True


class DoesNotRun(errors.BadModel):
    """The source or its conversion refuses a batch."""


def _difference(source: Frozen, model: ModelProto, batch: int) -> Parity:
    feeds = synthetic_feeds(source.inputs, batch, seed=0)
    try:
        expected = source.run([feeds[info.name] for info in source.inputs])
    except (ValueError, TypeError, tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
        raise DoesNotRun(f"The model does not run in TensorFlow at batch {batch}: {_one_line(error)}") from error
    found = _run(model, feeds)
    half = any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
    tolerance = HALF_TOLERANCE if half else TOLERANCE
    worst = max(_apart(name, expected[at], found[name], tolerance) for at, name in enumerate(source.output_names))
    return Parity(batch=batch, max_abs_diff=worst, max_abs_output=max(map(_largest, expected)))


def _run(model: ModelProto, feeds: Feeds) -> dict[str, np.ndarray]:
    try:
        return loaded(model.SerializeToString())(feeds)
    except errors.AppError as error:
        raise DoesNotRun(f"The converted model does not run: {error.message} {ADVICE}") from error


def _apart(name: str, expected: np.ndarray, found: np.ndarray, tolerance: float) -> float:
    if expected.shape != found.shape:
        raise DoesNotRun(
            f"Output {name!r} is {list(expected.shape)} in TensorFlow and {list(found.shape)} in ONNX. {ADVICE}"
        )
    if not expected.size:
        return 0.0
    wide = expected.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinity less infinity
        apart = np.where(_same(wide, found), 0.0, np.abs(wide - found.astype(np.float64)))
    worst = float(apart.max())
    if not worst <= tolerance * max(1.0, _largest(wide)):
        raise errors.BadModel(
            f"Output {name!r} differs by {worst:.2g} between TensorFlow and its conversion to ONNX. {ADVICE}"
        )
    return worst


def _largest(values: np.ndarray) -> float:
    return float(np.abs(values[np.isfinite(values)].astype(np.float64)).max(initial=0.0))


def _same(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    same: np.ndarray = (one == other) | (np.isnan(one) & np.isnan(other.astype(np.float64)))
    return same


def _refuse_leftovers(model: ModelProto) -> None:
    """tf2onnx leaves what it does not know as it is, and only logs that."""
    domains = {item.domain: item.version for item in model.opset_import}
    for node in _nodes(model.graph):
        known = node.domain in DOMAINS and onnx.defs.has(node.op_type, domains.get(node.domain, OPSET), node.domain)
        if not known:
            raise errors.BadModel(f"The TensorFlow operator {node.op_type} has no counterpart in ONNX. {ADVICE}")
    used = {node.domain for node in _nodes(model.graph)} | {""}
    kept = [item for item in model.opset_import if item.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _rename(graph: GraphProto, names: dict[str, str]) -> None:
    """`x:0` becomes `x` wherever it stands; a name that is taken already makes way."""
    new = set(names.values()) - set(names)
    names = {**{name: name + "/inner" for name in new}, **names}
    for value in [*graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        value.name = names.get(value.name, value.name)
    for node in _nodes(graph):
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def _name_batch(model: ModelProto, source: Frozen, *, free: bool) -> None:
    """Declare the inputs' sizes, and the leading axis of the outputs where the batch is free.

    A fixed one is 1 where the source leaves it open.
    """
    del model.graph.value_info[:]  # would contradict them
    by_name = {info.name: info for info in source.inputs}
    for value in model.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, by_name[value.name].shape, strict=True):
            if isinstance(size, int):
                dim.dim_value = size
            elif free:
                dim.dim_param = BATCH
            else:
                dim.dim_value = 1
    for value in model.graph.output:
        dims = value.type.tensor_type.shape.dim
        for axis, dim in enumerate(dims):
            if free and axis == 0 and not dim.HasField("dim_value"):
                dim.dim_param = BATCH
            elif dim.HasField("dim_param"):
                dim.ClearField("dim_param")  # tf2onnx makes these up


def _one_line(error: Exception) -> str:
    line = " ".join(str(error).split())[:300] or type(error).__name__
    return line if line.endswith(".") else line + "."
