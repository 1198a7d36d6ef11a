"""What an uploaded ONNX file may be, and the sentence each refused one gets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from preparer import DescribeOrder
from preparer.describe import describe
from shared import child, errors
from shared.specs import ModelDescription, Preprocessing, Resize

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
Shape = list[int | str]


def classifier(
    shape: Shape | None = None, *, classes: int = 4, softmax: bool = False, inner: str = "features"
) -> onnx.ModelProto:
    """Mean over the pixels, then one linear layer."""
    shape = ["n", 3, 8, 8] if shape is None else shape
    weights = np.arange(3 * classes, dtype=np.float32).reshape(3, classes)
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], [inner], keepdims=0),
        helper.make_node("MatMul", [inner, "weights"], ["logits"]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["logits"], ["scores"]))
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores" if softmax else "logits", TensorProto.FLOAT, [shape[0], classes])],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([2, 3], dtype=np.int64), "axes"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture
def look(tmp_path: Path) -> Callable[..., ModelDescription]:
    def look(model: onnx.ModelProto | bytes, **facts: object) -> ModelDescription:
        path = tmp_path / "model.onnx"
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        plain = {"path": str(path), "task_type": "classification", "preprocessing": None, "labels": None}
        return describe(msgspec.convert(plain | facts, DescribeOrder))

    return look


def test_a_model_is_described(look):
    found = look(classifier(), labels=["a", "b", "c", "d"])
    assert found.dynamic_batch
    assert found.inputs[0].shape == ["batch", 3, 8, 8]
    assert found.outputs[0].shape == ["batch", 4]
    assert found.parameters == 14
    assert found.preprocessing == Preprocessing(resize=Resize(height=8, width=8))
    assert "No preprocessing was given" in found.notes[0]


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_is_declared_fixed(look, batch: int):
    found = look(classifier([batch, 3, 8, 8]))
    assert not found.dynamic_batch
    assert found.inputs[0].shape == [batch, 3, 8, 8]


def test_open_sizes_are_settled_by_the_contract(look):
    contract = Preprocessing(resize=Resize(height=16, width=24))
    found = look(classifier(["n", 3, "h", "w"]), preprocessing=contract)
    assert found.inputs[0].shape == ["batch", 3, 16, 24]
    with pytest.raises(errors.BadModel, match="leaves the axes h, w open"):
        look(classifier(["n", 3, "h", "w"]))


def test_open_sizes_are_settled_by_the_stated_shape(look):
    found = look(classifier(["n", 3, "h", "w"]), input_shape=(1, 3, 16, 24))
    assert found.inputs[0].shape == ["batch", 3, 16, 24]
    assert found.preprocessing == Preprocessing(resize=Resize(height=16, width=24))
    for wrong in ((1, 4, 16, 24), (1, 3, 16)):
        with pytest.raises(errors.BadModel, match="input_shape is"):
            look(classifier(["n", 3, "h", "w"]), input_shape=wrong)
    with pytest.raises(errors.BadModel, match="Correct `resize`"):
        other = Preprocessing(resize=Resize(height=8, width=8))
        look(classifier(["n", 3, "h", "w"]), input_shape=(1, 3, 16, 24), preprocessing=other)


def test_probabilities_are_recognised(look):
    derived = look(classifier(softmax=True)).preprocessing
    assert derived is not None
    assert derived.scores == "probabilities"
    told = look(classifier(softmax=True), preprocessing=Preprocessing(resize=Resize(height=8, width=8)))
    assert "ends in Softmax" in told.notes[0]


def test_a_batch_that_is_free_in_name_only_is_declared_fixed(look):
    found = look(lying_batch())
    assert not found.dynamic_batch
    assert found.inputs[0].shape == [1, 3, 8, 8]
    assert "does not run at batch 2" in found.notes[-1]


def truncated() -> bytes:
    return classifier().SerializeToString()[:-60]


def external() -> onnx.ModelProto:
    model = classifier()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return model


def external_in_a_subgraph() -> onnx.ModelProto:
    hidden = numpy_helper.from_array(np.zeros(4, np.float32), "hidden")
    hidden.ClearField("raw_data")
    hidden.data_location = TensorProto.EXTERNAL
    hidden.external_data.add(key="location", value="/etc/passwd")
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [4])
    constant = helper.make_node("Constant", [], ["out"], value=hidden)
    branch = helper.make_graph([constant], "branch", [], [out])
    model = classifier()
    model.graph.node.append(helper.make_node("If", ["logits"], ["x"], then_branch=branch, else_branch=branch))
    return model


def custom_operator() -> onnx.ModelProto:
    model = classifier()
    model.graph.node[0].domain = "com.example"
    return model


def broken_graph() -> onnx.ModelProto:
    model = classifier()
    model.graph.node[1].input[0] = "nothing"
    return model


def lying_batch() -> onnx.ModelProto:
    """A free batch axis that a Reshape to (1, 192) denies."""
    model = classifier()
    shape = numpy_helper.from_array(np.array([1, 192], dtype=np.int64), "shape")
    model.graph.initializer.append(shape)
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.append(helper.make_node("Reshape", ["image", "shape"], ["flat"]))
    model.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["n", 192]))
    return model


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (lambda: b"GIF89a, not a model at all", "not a complete ONNX file|holds no ONNX graph"),
        (lambda: b"", "holds no ONNX graph"),
        (lambda: b"PK\x03\x04" + bytes(64), "not a complete ONNX file|holds no ONNX graph"),
        (truncated, "not a complete ONNX file|checker refuses"),
        (external, "external data"),
        (external_in_a_subgraph, "external data"),
        (custom_operator, "com.example::ReduceMean"),
        (broken_graph, "checker refuses"),
    ],
)
def test_what_cannot_be_served_is_refused_with_a_reason(look, made, sentence):
    with pytest.raises(errors.BadModel, match=sentence):
        look(made())


@pytest.mark.parametrize(
    ("contract", "sentence"),
    [
        (Preprocessing(resize=Resize(height=9, width=8)), "Correct `resize`"),
        (Preprocessing(resize=Resize(height=8, width=8), color="L"), "Correct `resize`"),
        (Preprocessing(resize=Resize(height=8, width=8), dtype="uint8"), "preprocessing makes uint8"),
        (Preprocessing(resize=Resize(height=8, width=8), std=(0.0,)), "std must not be 0"),
        (Preprocessing(resize=Resize(height=8, width=8), mean=(0.0, 0.0)), "mean needs 1 or 3"),
        (Preprocessing(resize=Resize(height=8, width=8), scale=1e308), "no tensor can hold"),
    ],
)
def test_a_contract_that_does_not_fit_is_refused(look, contract, sentence):
    with pytest.raises(errors.BadModel, match=sentence):
        look(classifier(), preprocessing=contract)


def test_labels_must_be_as_many_as_classes(look):
    with pytest.raises(errors.BadModel, match="3 labels, but the model has 4 classes"):
        look(classifier(), labels=["a", "b", "c"])


def test_the_digits_example_passes_through_the_real_child():
    order = DescribeOrder(
        path=str(DIGITS / "digits.onnx"),
        task_type="classification",
        preprocessing=msgspec.json.decode((DIGITS / "preprocessing.json").read_bytes(), type=Preprocessing),
        labels=msgspec.json.decode((DIGITS / "labels.json").read_bytes(), type=list[str]),
    )
    limits = child.Limits(wall_s=60, memory_mb=4096, cpu_s=60, file_mb=1)
    found = child.run("preparer.enclosed", order, ModelDescription, limits=limits)
    assert found.dynamic_batch
    assert found.notes == []


def test_a_model_that_wants_too_much_memory_is_a_refusal_not_a_crash(tmp_path: Path):
    graph = helper.make_graph(
        [
            helper.make_node("ConstantOfShape", ["huge"], ["filled"]),
            helper.make_node("ReduceMean", ["filled"], ["mean"], keepdims=0),
            helper.make_node("Add", ["image", "mean"], ["out"]),
        ],
        "bomb",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [numpy_helper.from_array(np.array([10**12], dtype=np.int64), "huge")],
    )
    path = tmp_path / "bomb.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    )
    order = DescribeOrder(path=str(path), task_type="classification", preprocessing=None, labels=None)
    limits = child.Limits(wall_s=60, memory_mb=4096, cpu_s=60, file_mb=1)
    with pytest.raises((errors.AppError, child.ChildDied)):
        child.run("preparer.enclosed", order, ModelDescription, limits=limits)


def tensor_classifier(*last: onnx.NodeProto) -> onnx.ModelProto:
    """Takes rows of four numbers and gives them back, through `last` where there is one."""
    nodes = list(last) or [helper.make_node("Identity", ["rows"], ["scores"])]
    graph = helper.make_graph(
        nodes,
        "rows",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 4])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_what_the_scores_are_is_decided_once(look):
    softmax = helper.make_node("Softmax", ["rows"], ["inner"]), helper.make_node("Identity", ["inner"], ["scores"])
    found = look(tensor_classifier(*softmax))
    assert (found.preprocessing, found.scores) == (None, "probabilities")
    assert "taken for probabilities" in found.notes[-1]
    sometimes = look(tensor_classifier())  # of rows that happen to be a distribution it gives a distribution
    assert (sometimes.preprocessing, sometimes.scores) == (None, "logits")
    assert "taken for logits" in sometimes.notes[-1]


def constant(name: str, value: float | list[float]) -> onnx.TensorProto:
    return numpy_helper.from_array(
        np.array(value, np.float32).reshape((1, -1, 1, 1) if isinstance(value, list) else ()), name
    )


def scaling(*steps: tuple[str, float | list[float]], reverse: bool = False) -> onnx.ModelProto:
    """`classifier`, with some arithmetic with constants before it."""
    model = classifier(["n", 3, 8, 8])
    before, nodes = "image", []
    for number, (kind, value) in enumerate(steps):
        given = [before, f"c{number}"]
        model.graph.initializer.append(constant(f"c{number}", value))
        nodes.append(helper.make_node(kind, given[::-1] if reverse else given, [f"v{number}"]))
        nodes.append(helper.make_node("Identity", [f"v{number}"], [f"i{number}"]))
        before = f"i{number}"
    model.graph.node[0].input[0] = before
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    return model


@pytest.mark.parametrize(
    "model",
    [
        scaling(("Mul", 1 / 255)),
        scaling(("Mul", 1 / 255), reverse=True),
        scaling(("Div", 255.0)),
        scaling(("Mul", 1 / 127.5), ("Add", -1.0)),
        scaling(("Sub", 127.5), ("Div", 128.0)),
        scaling(("Sub", [123.7, 116.3, 103.5]), ("Div", [58.4, 57.1, 57.4])),
        scaling(("Sub", [103.9, 116.8, 123.7])),
        scaling(("Add", [-103.9, -116.8, -123.7])),
    ],
)
def test_a_model_that_scales_its_images_itself_gets_them_unscaled(look, model: onnx.ModelProto):
    found = look(model)
    assert found.preprocessing.scale == 1.0
    assert "not divided by 255" in found.notes[0]
    assert "kept as they are" in found.notes[1]
    said = look(model, preprocessing=Preprocessing(resize=Resize(height=8, width=8)))
    assert said.preprocessing.scale == 1 / 255
    assert "nearly black" in said.notes[0]
    assert not look(model, preprocessing=Preprocessing(resize=Resize(height=8, width=8), scale=1.0)).notes


@pytest.mark.parametrize(
    "model",
    [
        classifier(),
        scaling(("Mul", 2.0), ("Sub", 1.0)),
        scaling(("Sub", [0.485, 0.456, 0.406]), ("Div", [0.229, 0.224, 0.225])),
        scaling(("Sub", 0.5), ("Div", 0.5)),
        scaling(("Mul", 0.0)),
        scaling(("Mul", 255.0)),
        scaling(("Mul", float("nan"))),
        scaling(("Div", 0.0)),
    ],
)
def test_a_model_for_values_below_one_gets_them_divided(look, model: onnx.ModelProto):
    assert look(model).preprocessing.scale == 1 / 255
