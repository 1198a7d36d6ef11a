"""Frozen TensorFlow graphs: made of a Keras model or read from a `.pb` file, every operator on a list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from shared import errors
from shared.specs import TensorInfo

KIND = "frozen TensorFlow graph"
BATCH = "batch"
MAX_OUTPUTS = 16
MAX_WEIGHTS = 2**31
"""Bytes: an ONNX file, which is one Protocol Buffers message, holds no more."""

_OPERATORS = """
Abs Add AddN AddV2 All Any ArgMax ArgMin AvgPool AvgPool3D BatchMatMul BatchMatMulV2 BatchMatMulV3 BatchToSpaceND
BiasAdd BroadcastTo Cast Ceil ClipByValue ComplexAbs Concat ConcatV2 Const Conv1D Conv2D Conv2DBackpropInput Conv3D
Conv3DBackpropInputV2 Cos CropAndResize Cumsum DepthToSpace DepthwiseConv2dNative Div DivNoNan Einsum Elu Equal Erf
Exp ExpandDims Expm1 Fill Floor FloorDiv FloorMod FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 Gather GatherNd
GatherV2 Greater GreaterEqual Identity IdentityN InvertPermutation IsInf IsNan L2Loss LRN LeakyRelu Less LessEqual
Log Log1p LogSoftmax LogicalAnd LogicalNot LogicalOr MatMul Max MaxPool MaxPool3D MaxPoolV2 Maximum Mean Min Minimum
MirrorPad Mod Mul Neg NoOp NonMaxSuppressionV2 NonMaxSuppressionV3 NonMaxSuppressionV4 NonMaxSuppressionV5 NotEqual
OneHot OnesLike Pack Pad PadV2 Placeholder Pow Prod Range Rank RealDiv Reciprocal Relu Relu6 Reshape ResizeBilinear
ResizeBicubic ResizeNearestNeighbor ReverseV2 Round Rsqrt ScatterNd Select SelectV2 Selu Shape Sigmoid Sign Sin Size
Slice Softmax Softplus Softsign SpaceToBatchND SpaceToDepth Split SplitV Sqrt Square SquaredDifference Squeeze
StopGradient StridedSlice Sub Sum Tan Tanh Tile TopKV2 Transpose Unpack Where ZerosLike
"""
OPERATORS = frozenset(_OPERATORS.split())
"""What computes numbers from numbers. Nothing here opens a file, calls a function, keeps state or draws at random."""
VARIABLES = {"VarHandleOp", "ReadVariableOp", "Variable", "VariableV2", "AssignVariableOp", "RestoreV2"}


class Frozen(msgspec.Struct, frozen=True, kw_only=True):
    """A graph whose weights are constants, and the model it came from."""

    graph: Any
    """`tf.compat.v1.GraphDef`."""
    inputs: list[TensorInfo]
    """NumPy dtypes; a free leading axis is called `batch`."""
    input_tensors: list[str]
    """Names in the graph, `x:0`."""
    output_tensors: list[str]
    output_names: list[str]
    """What the outputs are to be called."""
    run: Callable[[Sequence[np.ndarray]], list[np.ndarray]]
    """The source itself, as its framework runs it: inputs and outputs in the order above."""


def from_keras(model: Any, given: tuple[int, ...] | None) -> Frozen:
    """Freeze a loaded Keras model for inference; its Normalization constants, too, become constants of the graph.

    Args:
        model: A functional or sequential `keras.Model`.
        given: The shape of the first input, batch included, where the model leaves axes open.
    """
    import keras

    if not getattr(model, "inputs", None):
        raise errors.BadModel(
            "The model does not say what it takes. Give its first layer an Input with a shape, and save it again."
        )
    infos = [_keras_input(tensor) for tensor in model.inputs]
    infos = _told(infos, given)
    names = _unique([str(name) for name in getattr(model, "output_names", [])] or ["output"])
    # a loaded Sequential has one input and no `input`: that exists once it was called
    structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input

    def call(*tensors: Any) -> list[Any]:
        packed = keras.tree.pack_sequence_as(structure, list(tensors))
        return list(keras.tree.flatten(model(packed, training=False)))

    try:
        function = tf.function(call, autograph=False)
        frozen = convert_variables_to_constants_v2(function.get_concrete_function(*map(_spec, infos)))
    except (TypeError, ValueError, tf.errors.OpError) as error:
        raise errors.BadModel(f"TensorFlow cannot freeze the model: {_one_line(error)}") from error
    graph = frozen.graph.as_graph_def()
    check(graph)
    outputs = [tensor.name for tensor in frozen.outputs]
    return Frozen(
        graph=graph,
        inputs=infos,
        input_tensors=[tensor.name for tensor in frozen.inputs],
        output_tensors=outputs,
        output_names=names if len(names) == len(outputs) else _unique(["output"] * len(outputs)),
        run=lambda arrays: [np.asarray(value) for value in call(*map(tf.constant, arrays))],
    )


def from_file(path: Path, given: tuple[int, ...] | None) -> Frozen:
    """Read a frozen graph: its inputs are its placeholders, its outputs what no other node takes.

    Raises:
        errors.BadModel: It is no such file, not frozen, or has operators or axes that cannot be converted.
    """
    graph = _parsed(path.read_bytes())
    check(graph)
    wanted = [node.name for node in graph.node if node.op == "Placeholder"]
    if not wanted:
        raise errors.BadModel("The graph has no placeholder, so nothing goes in. Freeze it with its input.")
    try:
        function = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph, name=""), [])
        infos = _told([_placeholder(function.graph.get_tensor_by_name(name + ":0")) for name in wanted], given)
        outputs = _ends(graph, function.graph)
        inputs = [name + ":0" for name in wanted]
        pruned = function.prune(inputs, outputs)
    except (TypeError, ValueError, tf.errors.OpError) as error:
        raise errors.BadModel(f"TensorFlow cannot read the graph: {_one_line(error)}") from error
    return Frozen(
        graph=graph,
        inputs=infos,
        input_tensors=inputs,
        output_tensors=outputs,
        output_names=_unique([name.partition(":")[0] for name in outputs]),
        run=lambda arrays: [value.numpy() for value in pruned(*map(tf.constant, arrays))],
    )


def _parsed(content: bytes) -> Any:
    advice = "Upload a frozen GraphDef (convert_variables_to_constants_v2), or save the Keras model as model.keras."
    try:
        graph = tf.compat.v1.GraphDef.FromString(content)
    except DecodeError:
        graph = tf.compat.v1.GraphDef()
    if graph.node:
        return graph
    try:
        saved = bool(SavedModel.FromString(content).meta_graphs)
    except DecodeError:
        saved = False
    if saved:
        raise errors.BadModel(f"This is the graph of a SavedModel folder, whose weights are in other files. {advice}")
    raise errors.BadModel(f"This is no complete TensorFlow file. {advice}")


def check(graph: Any) -> None:
    """Only listed operators, no functions, and no more weights than a file holds.

    Raises:
        errors.BadModel: The first thing that is against it.
    """
    if graph.library.function:
        raise errors.BadModel(
            f"The graph has functions of its own ({graph.library.function[0].signature.name}), such as loops. Freeze "
            "it with convert_variables_to_constants_v2, which removes them where it can."
        )
    total = 0
    for node in graph.node:
        if node.op in VARIABLES:
            raise errors.BadModel(
                f"The graph is not frozen: {node.name!r} is a variable, whose value is in another file. Freeze it with "
                "convert_variables_to_constants_v2, or save the Keras model as model.keras."
            )
        if node.op not in OPERATORS:
            raise errors.BadModel(
                f"Operator {node.op} ({node.name!r}) is not one that models of images need, so it is not run here. "
                "Take it out, or convert the model to ONNX where you trust it."
            )
        if node.op == "Const":
            total += _size(node)
    if total > MAX_WEIGHTS:
        raise errors.BadModel(f"The graph's constants take {total:,} bytes; a model may have {MAX_WEIGHTS:,}.")


def _size(node: Any) -> int:
    """Bytes of a constant unpacked: one stored value may stand for any number of them."""
    tensor = node.attr["value"].tensor
    try:
        itemsize = tf.dtypes.as_dtype(tensor.dtype).size or 1
    except TypeError as error:
        raise errors.BadModel(f"The constant {node.name!r} has a type that TensorFlow does not know.") from error
    count = 1
    for dim in tensor.tensor_shape.dim:
        if dim.size < 0:
            raise errors.BadModel(f"The constant {node.name!r} has an axis of negative length.")
        count *= dim.size
    return int(count * itemsize)


def _ends(graph: Any, imported: Any) -> list[str]:
    """The tensors nothing takes."""
    taken = {name.lstrip("^").partition(":")[0] for node in graph.node for name in node.input}
    ends = [node for node in graph.node if node.name not in taken and node.op not in ("Const", "NoOp", "Placeholder")]
    tensors = [tensor.name for node in ends for tensor in imported.get_operation_by_name(node.name).outputs]
    if not tensors:
        raise errors.BadModel("The graph computes nothing: every node is an input or a constant.")
    if len(tensors) > MAX_OUTPUTS:
        raise errors.BadModel(
            f"The graph has {len(tensors):,} ends ({', '.join(tensors[:3])}, ...), so its outputs cannot be told. Keep "
            "the part that leads to them: tf.compat.v1.graph_util.extract_sub_graph(graph_def, [output])."
        )
    return tensors


def _placeholder(tensor: Any) -> TensorInfo:
    return _info(tensor.op.name, tensor.dtype, None if tensor.shape.rank is None else tensor.shape.as_list())


def _keras_input(tensor: Any) -> TensorInfo:
    return _info(str(tensor.name), tf.dtypes.as_dtype(tensor.dtype), list(tensor.shape))


def _info(name: str, dtype: Any, sizes: list[int | None] | None) -> TensorInfo:
    if sizes is None or not sizes:
        raise errors.BadModel(
            f"Input {name!r} is {'of no declared shape' if sizes is None else 'a single value, not a batch'}. "
            "Freeze the graph for inference, its inputs with shapes and its switches (training, keep_prob) fixed."
        )
    kind = np.dtype(dtype.as_numpy_dtype)
    if kind.kind not in "fiub":
        raise errors.BadModel(f"Input {name!r} takes {dtype.name}, not numbers; such models are not served.")
    shape: list[int | str] = [size or (BATCH if axis == 0 else f"axis{axis}") for axis, size in enumerate(sizes)]
    return TensorInfo(name=name, dtype=kind.name, shape=shape)


def _told(inputs: list[TensorInfo], given: tuple[int, ...] | None) -> list[TensorInfo]:
    """The inputs with every axis but the batch settled.

    Raises:
        errors.BadModel: One stays open, or what was given does not fit.
    """
    first = inputs[0]
    if given is not None:
        if len(given) != len(first.shape) or any(
            isinstance(size, int) and size != said for size, said in zip(first.shape, given, strict=True)
        ):
            raise errors.BadModel(f"input_shape is {list(given)}, but input {first.name!r} takes {first.shape}.")
        inputs = [msgspec.structs.replace(first, shape=[first.shape[0], *given[1:]]), *inputs[1:]]
    for info in inputs:
        if free := [str(size) for size in info.shape[1:] if isinstance(size, str)]:
            raise errors.BadModel(
                f"Input {info.name!r} leaves the axes {', '.join(free)} open. Upload it with input_shape or "
                "preprocessing, or save it with fixed sizes."
            )
    return inputs


def _spec(info: TensorInfo) -> Any:
    sizes = [size if isinstance(size, int) else None for size in info.shape]
    return tf.TensorSpec(sizes, tf.dtypes.as_dtype(info.dtype), name=info.name)


def _unique(names: list[str]) -> list[str]:
    return [name if names.index(name) == at else f"{name}_{at}" for at, name in enumerate(names)]


def _one_line(error: Exception) -> str:
    line = " ".join(str(error).split())[:300]
    return line if line.endswith(".") else line + "."
