"""Looks at an uploaded ONNX file, refuses what we cannot serve, runs it once, and says what it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from preparer import DescribeOrder, input_range
from shared import errors, metadata
from shared.engines import engine_class
from shared.engines.base import Engine
from shared.engines.timing import synthetic_feeds
from shared.specs import MAX_SIDE, Detection, ModelDescription, Preprocessing, Scores, Task, TensorInfo
from shared.vision import boxes, postprocess, preprocess

STANDARD_DOMAINS = {"", "ai.onnx", "ai.onnx.ml"}
BATCH = "batch"
MAX_AXES = 8
MAX_VALUES = 2**28
"""In one input: a request of 1 GiB as float32, more than any call takes."""

TRIES = 4
"""Inputs a model without contract is run on: scores that are a distribution every time are taken for probabilities."""


def describe(order: DescribeOrder) -> ModelDescription:
    """Check the file and run it at batch 1, and at batch 2 where its batch is free.

    Raises:
        errors.BadModel: The file is refused; the message says why and what to do.
    """
    path = Path(order.path)
    model = _parse(path)
    _refuse_foreign_parts(model)
    _check(model)
    order = _completed(order)
    inputs = [_tensor(value) for value in _true_inputs(model.graph)]
    if order.input_shape is not None:
        inputs[0] = _told(inputs[0], order.input_shape)
    preprocessing, notes = _contract(order, inputs, model)
    inputs = [_sized(info, preprocessing) for info in inputs]
    declared_free = all(isinstance(info.shape[0], str) for info in inputs)
    outputs, dynamic, scores = _try_out(path, inputs, declared_free, notes)
    preprocessing = _with_boxes(order, preprocessing, outputs, notes)
    if not dynamic:
        inputs = [msgspec.structs.replace(info, shape=[_fixed(info), *info.shape[1:]]) for info in inputs]
    _check_labels(order, preprocessing, outputs)
    notes += _undecoded(order, preprocessing, outputs) or _taken_for(preprocessing, scores)
    return ModelDescription(
        inputs=inputs,
        outputs=outputs,
        opset=next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0),
        ir_version=model.ir_version,
        parameters=sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer),
        dynamic_batch=dynamic,
        preprocessing=preprocessing,
        labels=order.labels,
        scores=scores,
        notes=notes,
    )


def _parse(path: Path) -> ModelProto:
    try:
        model = onnx.load_model(path, load_external_data=False)
    except MemoryError:
        raise
    except Exception as error:
        raise errors.BadModel(
            f"This is not a complete ONNX file ({_first_line(error)}). Export it again, "
            "or check that the upload was not cut off."
        ) from error
    if not model.graph.node:
        raise errors.BadModel(
            "The file holds no ONNX graph. Export the model again as a single .onnx file; save a TensorFlow SavedModel "
            "as .keras."
        )
    return model


def _refuse_foreign_parts(model: ModelProto) -> None:
    """No weights outside the file, no operators outside the standard."""
    for tensor in _tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise errors.BadModel(
                f"The weights of {tensor.name or 'a tensor'} are in another file (external data). Save the model as a "
                "single file: onnx.save(model, path, save_as_external_data=False)."
            )
    own = {function.domain for function in model.functions}
    for node in _nodes(model):
        if node.domain not in STANDARD_DOMAINS | own:
            raise errors.BadModel(
                f"Operator {node.domain}::{node.op_type} is not part of the ONNX standard, so it cannot run on every "
                "engine. Export the model with standard operators only."
            )


def _check(model: ModelProto) -> None:
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        raise errors.BadModel(f"The ONNX checker refuses the file: {_first_line(error)}") from error


def _completed(order: DescribeOrder) -> DescribeOrder:
    """What its owner left open, as the file's own metadata have it."""
    pairs = metadata.read(Path(order.path))
    return msgspec.structs.replace(
        order,
        preprocessing=metadata.contract_in(pairs) if order.preprocessing is None else order.preprocessing,
        labels=metadata.labels_in(pairs) if order.labels is None else order.labels,
    )


def _true_inputs(graph: GraphProto) -> list[ValueInfoProto]:
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if not inputs:
        raise errors.BadModel("The model has no input.")
    return inputs


def _tensor(value: ValueInfoProto) -> TensorInfo:
    """An input as declared; the leading axis, when free, is called `batch`."""
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        raise errors.BadModel(f"Input {value.name!r} is no tensor with a declared number of axes; export it with one.")
    tensor = value.type.tensor_type
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    shape: list[int | str] = []
    for axis, dim in enumerate(tensor.shape.dim):
        fixed = dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None
        shape.append(fixed or (BATCH if axis == 0 else dim.dim_param or f"axis{axis}"))
    if not shape:
        raise errors.BadModel(
            f"Input {value.name!r} is a scalar; a model takes batches, so its first axis is the batch."
        )
    if len(shape) > MAX_AXES:
        raise errors.BadModel(f"Input {value.name!r} has {len(shape):,} axes; at most {MAX_AXES} can be served.")
    return TensorInfo(name=value.name, dtype=dtype, shape=shape)


def _told(info: TensorInfo, given: tuple[int, ...]) -> TensorInfo:
    """The input with its open axes as its owner says; the batch stays as the graph has it."""
    fits = len(given) == len(info.shape) and all(
        isinstance(declared, str) or declared == said for declared, said in zip(info.shape, given, strict=True)
    )
    if not fits:
        raise errors.BadModel(f"input_shape is {list(given)}, but input {info.name!r} takes {info.shape}.")
    return msgspec.structs.replace(info, shape=[info.shape[0], *given[1:]])


def _contract(
    order: DescribeOrder, inputs: list[TensorInfo], model: ModelProto
) -> tuple[Preprocessing | None, list[str]]:
    """The owner's contract checked against the input, or a plain one derived from it."""
    notes: list[str] = []
    ends_in_softmax = _ends_in_softmax(model.graph)
    if order.preprocessing is None:
        derived = _derive(inputs, ends_in_softmax, order.task_type)
        if derived is not None and input_range.takes_bytes(model.graph, inputs[0].name):
            derived = msgspec.structs.replace(derived, scale=1.0)
            notes.append(
                "The model begins with arithmetic for values of 0 to 255 (a rescaling or normalisation of its own), so "
                "images are not divided by 255 before."
            )
        if derived is not None:
            how = "stretched to" if derived.resize.mode == "stretch" else "fitted into"
            notes.append(
                f"No preprocessing was given: images are {how} the input's size, values "
                f"{'kept as they are' if derived.scale == 1 else 'divided by 255'}, colour order {derived.color}. "
                "Upload with `preprocessing` if the model was trained otherwise."
            )
        return derived, notes
    try:
        preprocess.check_contract(order.preprocessing, inputs)
    except errors.AppError as error:
        raise errors.BadModel(error.message) from error
    if _scaled_twice(order.preprocessing, inputs, model):
        notes.append(
            "The model begins with arithmetic for values of 0 to 255, but its contract scales them down before: images "
            "come out nearly black. Upload with preprocessing.scale = 1, or without preprocessing."
        )
    if ends_in_softmax and order.preprocessing.scores == "logits" and order.task_type == "classification":
        notes.append(
            "The model ends in Softmax, but its contract says `logits`: confidences come out flattened. "
            "Upload with preprocessing.scores = probabilities."
        )
    return order.preprocessing, notes


def _scaled_twice(contract: Preprocessing, inputs: list[TensorInfo], model: ModelProto) -> bool:
    scaled = contract.scale / min(contract.std) < input_range.LARGEST_FACTOR
    return scaled and input_range.takes_bytes(model.graph, inputs[0].name)


def _derive(inputs: list[TensorInfo], ends_in_softmax: bool, task: Task) -> Preprocessing | None:
    """A plain contract for one image input; detectors are trained on images with their proportions kept."""
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].dtype not in ("float32", "float16", "uint8"):
        return None
    _, *rest = inputs[0].shape
    layout = "NCHW" if rest[0] in (1, 3) else "NHWC" if rest[2] in (1, 3) else None
    channels, height, width = rest if layout == "NCHW" else (rest[2], rest[0], rest[1])
    if layout is None or not isinstance(height, int) or not isinstance(width, int):
        return None
    if max(height, width) > MAX_SIDE:
        return None
    return msgspec.convert(
        {
            "resize": {
                "height": height,
                "width": width,
                "mode": "letterbox" if task == "detection" else "stretch",
            },
            "color": "L" if channels == 1 else "RGB",
            "layout": layout,
            "dtype": inputs[0].dtype,
            "scale": 1.0 if inputs[0].dtype == "uint8" else 1 / 255,
            "scores": "probabilities" if ends_in_softmax else "logits",
        },
        Preprocessing,
    )


def _sized(info: TensorInfo, contract: Preprocessing | None) -> TensorInfo:
    """The input with every axis but the batch settled, by the contract where the graph leaves it open."""
    shape = [info.shape[0], *(preprocess.shape(contract) if contract else info.shape[1:])]
    if free := [axis for axis in shape[1:] if isinstance(axis, str)]:
        raise errors.BadModel(
            f"Input {info.name!r} leaves the axes {', '.join(map(str, free))} open. Upload it with preprocessing "
            "(its `resize` settles them) or with input_shape, or export it with fixed sizes."
        )
    if (values := math.prod(size for size in shape if isinstance(size, int))) > MAX_VALUES:
        raise errors.BadModel(f"Input {info.name!r} takes {values:,} values; at most {MAX_VALUES:,} can be served.")
    return msgspec.structs.replace(info, shape=shape)


def _try_out(
    path: Path, inputs: list[TensorInfo], declared_free: bool, notes: list[str]
) -> tuple[list[TensorInfo], bool, Scores]:
    """Run it; returns the outputs as they came, whether the batch really is free, and what the scores are."""
    with engine_class("onnxruntime")(path, threads=1) as engine:
        tries = []
        for seed in range(TRIES):
            try:
                tries.append(engine.infer(synthetic_feeds(inputs, _fixed(inputs[0]), seed=seed)))
            except errors.AppError as error:
                raise errors.BadModel(f"The model does not run: {error.message}") from error
        values = tries[0]
        dynamic = declared_free and _runs_at_two(engine, inputs, notes)
        if not all(np.isfinite(value).all() for value in values.values() if value.dtype.kind == "f"):
            notes.append("On seeded random input the model gives NaN or infinite values.")
        outputs = [_named_batch(info, values[info.name], dynamic) for info in engine.outputs]
        return outputs, dynamic, _scores([found[outputs[0].name] for found in tries])


def _scores(tries: list[np.ndarray]) -> Scores:
    """What the rows of the first output are, as far as a few inputs show."""
    found = all(rows.ndim == 2 and rows.shape[1] > 1 and postprocess.is_distribution(rows) for rows in tries)
    return "probabilities" if found else "logits"


def _taken_for(preprocessing: Preprocessing | None, scores: Scores) -> list[str]:
    """What was decided about the scores where no contract says it."""
    if preprocessing is not None:
        return []
    how = "shown as they are" if scores == "probabilities" else "turned into confidences by softmax"
    return [f"The scores were taken for {scores} on seeded random input: they are {how}."]


def _runs_at_two(engine: Engine, inputs: list[TensorInfo], notes: list[str]) -> bool:
    try:
        engine.infer(synthetic_feeds(inputs, 2, seed=0))
    except errors.AppError:
        notes.append(
            "The batch axis is declared free, but the model does not run at batch 2; it is treated as fixed at 1. "
            "Export it with a dynamic batch to serve it faster."
        )
        return False
    return True


def _fixed(info: TensorInfo) -> int:
    return info.shape[0] if isinstance(info.shape[0], int) else 1


def _named_batch(info: TensorInfo, value: np.ndarray, dynamic: bool) -> TensorInfo:
    shape: list[int | str] = [int(size) for size in value.shape]
    if dynamic and shape:
        shape[0] = BATCH
    return msgspec.structs.replace(info, shape=shape, dtype=value.dtype.name)


def _with_boxes(
    order: DescribeOrder, contract: Preprocessing | None, outputs: list[TensorInfo], notes: list[str]
) -> Preprocessing | None:
    """The contract with the rules for a detector's boxes, recognised by the output's shape where they are not given."""
    if contract is None or order.task_type != "detection" or contract.detection is not None:
        return contract
    kind = boxes.recognise(outputs, order.labels)
    if kind is None:
        return contract
    notes.append(
        f"The boxes were taken for the format {kind!r} by the shape of the output; upload with "
        "preprocessing.detection if they come out wrong."
    )
    return msgspec.structs.replace(contract, detection=Detection(format=kind))


def _classes(order: DescribeOrder, contract: Preprocessing | None, outputs: list[TensorInfo]) -> int | None:
    """How many classes the first output tells apart; None where it does not say."""
    if order.task_type == "detection":
        rules = contract.detection if contract else None
        return None if rules is None else boxes.classes(rules.format, outputs)
    size = outputs[0].shape[1] if len(outputs[0].shape) == 2 else None
    return size if isinstance(size, int) else None


def _check_labels(order: DescribeOrder, contract: Preprocessing | None, outputs: list[TensorInfo]) -> None:
    classes = _classes(order, contract, outputs)
    if order.labels is not None and classes is not None and classes != len(order.labels):
        raise errors.BadModel(f"There are {len(order.labels)} labels, but the model has {classes} classes.")


def _undecoded(order: DescribeOrder, contract: Preprocessing | None, outputs: list[TensorInfo]) -> list[str]:
    shape = outputs[0].shape
    if order.task_type == "classification":
        decoded, why = len(shape) == 2, f"its first output {shape} is not [batch, classes]"
    else:
        decoded = contract is not None and contract.detection is not None
        why = f"its first output {shape} could be read in several ways, or in none: {boxes.LAYOUTS}"
        why = f"{why}; upload with preprocessing.detection" if contract else "it takes no images"
    return [] if decoded else [f"Predictions of this {order.task_type} model come as raw outputs ({why})."]


def _ends_in_softmax(graph: GraphProto) -> bool:
    last = next((node for node in graph.node if graph.output and graph.output[0].name in node.output), None)
    return last is not None and last.op_type == "Softmax"


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Every node, those of subgraphs and functions included."""
    waiting: list[GraphProto | FunctionProto] = [model.graph, *model.functions]
    while waiting:
        for node in waiting.pop().node:
            yield node
            waiting += [attribute.g for attribute in node.attribute if attribute.type == AttributeProto.GRAPH]
            waiting += [graph for attribute in node.attribute for graph in attribute.graphs]


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every constant: initializers, sparse ones, attributes, of subgraphs and functions too."""
    graphs = [model.graph]
    for node in _nodes(model):
        for attribute in node.attribute:
            graphs += [attribute.g, *attribute.graphs]
            yield from (attribute.t, *attribute.tensors)
            sparse = [attribute.sparse_tensor, *attribute.sparse_tensors]
            yield from (part for tensor in sparse for part in (tensor.values, tensor.indices))
    for graph in graphs:
        yield from graph.initializer
        yield from (part for tensor in graph.sparse_initializer for part in (tensor.values, tensor.indices))


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
