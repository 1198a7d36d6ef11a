"""A model in another precision, made of real images by a real child that has shut itself in."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarker import DatasetFiles, Made, PrecisionOrder
from benchmarker.quantize import CALIBRATING, DECIDING
from shared import child, errors, metadata
from shared.artifacts import ArtifactStore, Outputs
from shared.engines import engine_class
from shared.engines.precisions import Extent, Network
from shared.specs import ModelDescription, Precision, Preprocessing, Resize, TensorInfo
from tests.dataset_kit import Checked, Content, check_here, picture, zipped
from tests.onnx_graphs import conv_model, graph, mean_model

pytestmark = pytest.mark.process

LIMITS = child.Limits(wall_s=90, memory_mb=8192, file_mb=64)
CONTRACT = Preprocessing(resize=Resize(height=16, width=16))
LABELS = ["a", "b", "c", "d", "e"]


class Bench:
    """A dataset and a store; makes files the way the benchmark's child does."""

    def __init__(self, folder: Path, files: dict[str, Content]) -> None:
        self.folder = folder
        self.archive = zipped(folder / "images.zip", files)
        self.checked: Checked = check_here(self.archive)
        self.store = ArtifactStore(folder / "store")

    def files(self) -> DatasetFiles:
        return DatasetFiles(
            id="dst_1",
            name="d",
            index=str(self.checked.paths["index"]),
            index_sha256="0" * 64,
            pack=str(self.checked.paths["pack"]),
            archive=str(self.archive),
            num_test=1,
            classes=LABELS,
            class_ids=list(range(5)),
        )

    def make(
        self, model: Path, precision: Precision = "int8", batch: int | str = "batch", **changed: Any
    ) -> tuple[Made, Path]:
        description = ModelDescription(
            inputs=[TensorInfo(name="image", dtype="float32", shape=[batch, 3, 16, 16])],
            outputs=[TensorInfo(name="scores", dtype="float32", shape=[batch, 5])],
            opset=18,
            ir_version=10,
            parameters=1,
            dynamic_batch=isinstance(batch, str),
            preprocessing=CONTRACT,
            labels=LABELS,
        )
        with Outputs("tests") as outputs, tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            order = PrecisionOrder(
                precision=precision,
                artifact=str(model),
                task_type="classification",
                description=description,
                dataset=self.files(),
                scratch=scratch,
                output=outputs.stage("made", self.store),
            )
            order = msgspec.structs.replace(order, **changed)
            made = child.run("benchmarker.quantize", order, Made, limits=LIMITS, pass_fds=outputs.fds)
            return made, self.store.path(outputs.publish("made").sha256)


def parts(train: int = 40, **more: Content) -> dict[str, Content]:
    counts = {"train": train, "val": 2, "test": 2}
    numbered = [(part, label, number) for part, most in counts.items() for label in "ab" for number in range(most)]
    files = {f"{part}/{label}/{number}.jpg": picture(seed) for seed, (part, label, number) in enumerate(numbered)}
    return {**files, **{name.replace("__", "/") + ".jpg": content for name, content in more.items()}}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), parts())


def answers(path: Path, engine: str, precision: Precision, images: np.ndarray) -> np.ndarray:
    with engine_class(engine)(path, precision=precision, threads=1) as running:
        return running.infer({"image": images})["scores"]


def test_int8_in_the_form_that_is_fast_and_close_to_fp32(bench: Bench, tmp_path: Path) -> None:
    model = conv_model(tmp_path / "model.onnx")
    made, path = bench.make(model)
    assert made.recipe["method"] in ("minmax", "percentile", "entropy")
    assert {"agreement_minmax", "agreement_percentile", "agreement_entropy"} <= made.recipe.keys()
    assert (made.recipe["calibration_images"], made.recipe["deciding_images"]) == (40, 40)
    assert made.recipe["agreement"] >= 0.9

    proto = onnx.load(path)
    onnx.checker.check_model(proto)
    kinds = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    sizes = {tensor.name: list(tensor.dims) for tensor in proto.graph.initializer}
    activations = [kinds[node.input[2]] for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    assert set(activations) == {TensorProto.UINT8}
    weights = [node for node in proto.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in kinds]
    kernel = next(node for node in weights if len(sizes[node.input[0]]) == 4)
    assert (kinds[kernel.input[0]], sizes[kernel.input[1]]) == (TensorProto.INT8, [8])  # a scale a channel
    assert metadata.contract_in(metadata.read(path)) == CONTRACT
    assert metadata.labels_in(metadata.read(path)) == LABELS

    images = np.random.default_rng(0).random((3, 3, 16, 16), dtype=np.float32)
    expected = answers(model, "onnxruntime", "fp32", images)
    for engine in ("onnxruntime", "openvino"):
        found = answers(path, engine, "int8", images)
        assert not np.array_equal(found, expected)
        np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())


def test_the_same_order_makes_the_same_bytes(bench: Bench, tmp_path: Path) -> None:
    model = conv_model(tmp_path / "model.onnx")
    (first, path), (again, same) = bench.make(model), bench.make(model)
    assert (first, path) == (again, same)


def test_a_fixed_batch_is_calibrated_a_batch_at_a_time(bench: Bench, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["features"]),
        helper.make_node("Relu", ["features"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["scores"]),
    ]
    kernel = np.random.default_rng(3).standard_normal((5, 3, 3, 3)).astype(np.float32)
    ends = ({"image": (TensorProto.FLOAT, [3, 3, 16, 16])}, {"scores": (TensorProto.FLOAT, [3, 5])})
    model = graph(tmp_path / "fixed.onnx", nodes, *ends, {"kernel": kernel})
    _, path = bench.make(model, batch=3)
    images = np.random.default_rng(0).random((3, 3, 16, 16), dtype=np.float32)
    assert answers(path, "openvino", "int8", images).shape == (3, 5)


def test_an_old_operator_set_is_raised(bench: Bench, tmp_path: Path) -> None:
    proto = onnx.load(conv_model(tmp_path / "new.onnx"))
    proto.opset_import[0].version = 11  # its operators are the same there
    old = tmp_path / "old.onnx"
    onnx.save(proto, old)
    _, path = bench.make(old)
    assert next(entry.version for entry in onnx.load(path).opset_import if not entry.domain) >= 13


def test_an_image_that_is_tested_with_does_not_calibrate(tmp_path: Path) -> None:
    both = picture(1000)
    planted = Bench(tmp_path, parts(train=40, train__a__planted=both, test__b__other_name=both))
    made, _ = planted.make(conv_model(tmp_path / "model.onnx"))
    (note,) = made.notes
    assert "'train/a/planted.jpg'" in note
    assert "did not calibrate" in note
    assert made.recipe["calibration_images"] == 40


def test_no_more_images_than_it_takes(tmp_path: Path) -> None:
    many = Bench(tmp_path, parts(train=80))
    made, _ = many.make(conv_model(tmp_path / "model.onnx"))
    assert (made.recipe["calibration_images"], made.recipe["deciding_images"]) == (CALIBRATING, DECIDING)


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidInput, match=r"at least 8 images of the part `train`.*has 6"):
        Bench(tmp_path, parts(train=3)).make(conv_model(tmp_path / "model.onnx"))


@pytest.mark.parametrize("broken", ["index", "pack", "archive"])
def test_a_dataset_whose_files_are_gone_is_refused(bench: Bench, tmp_path: Path, broken: str) -> None:
    files = msgspec.structs.replace(bench.files(), **{broken: str(tmp_path / "gone")})
    with pytest.raises(errors.BadDataset, match="upload it again"):
        bench.make(conv_model(tmp_path / "model.onnx"), dataset=files)


def test_a_damaged_archive_is_refused(bench: Bench, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.zip"
    content = bytearray(bench.archive.read_bytes())
    with zipfile.ZipFile(bench.archive) as archive:
        for entry in archive.infolist():
            content[entry.header_offset + 200] ^= 0xFF
    damaged.write_bytes(content)
    files = msgspec.structs.replace(bench.files(), archive=str(damaged))
    with pytest.raises(errors.BadDataset, match="is damaged; upload it again"):
        bench.make(conv_model(tmp_path / "model.onnx"), dataset=files)


def test_a_model_without_weights_is_refused(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(errors.BadModel, match="no convolution and no matrix of weights"):
        bench.make(mean_model(tmp_path / "mean.onnx", side=16))


def test_a_model_that_breaks_is_refused_and_not_half_written(bench: Bench, tmp_path: Path) -> None:
    model = tmp_path / "broken.onnx"
    model.write_bytes(conv_model(tmp_path / "model.onnx").read_bytes()[:-400])
    with pytest.raises(errors.BadModel):
        bench.make(model)


@pytest.mark.parametrize("keep_sensitive", [False, True])
def test_fp16_keeps_its_inputs_and_outputs(bench: Bench, tmp_path: Path, keep_sensitive: bool) -> None:
    model = conv_model(tmp_path / "model.onnx")
    made, path = bench.make(model, "fp16", keep_sensitive=keep_sensitive)
    assert made.recipe == {"sensitive_in_fp32": keep_sensitive}
    proto = onnx.load(path)
    assert {value.type.tensor_type.elem_type for value in (*proto.graph.input, *proto.graph.output)} == {
        TensorProto.FLOAT
    }
    assert TensorProto.FLOAT16 in {tensor.data_type for tensor in proto.graph.initializer}
    assert metadata.contract_in(metadata.read(path)) == CONTRACT
    images = np.random.default_rng(0).random((2, 3, 16, 16), dtype=np.float32)
    expected = answers(model, "onnxruntime", "fp32", images)
    np.testing.assert_allclose(answers(path, "onnxruntime", "fp32", images), expected, rtol=1e-2)


def test_sensitive_operators_stay_in_fp32(bench: Bench, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "dense"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"]),
    ]
    dense = np.random.default_rng(3).standard_normal((768, 5)).astype(np.float32)
    ends = ({"image": (TensorProto.FLOAT, ["n", 3, 16, 16])}, {"scores": (TensorProto.FLOAT, ["n", 5])})
    model = graph(tmp_path / "softmax.onnx", nodes, *ends, {"dense": dense})

    def softmax_input(path: Path) -> int:
        proto = onnx.shape_inference.infer_shapes(onnx.load(path))
        kinds = {value.name: value.type.tensor_type.elem_type for value in proto.graph.value_info}
        return kinds[next(node for node in proto.graph.node if node.op_type == "Softmax").input[0]]

    assert softmax_input(bench.make(model, "fp16")[1]) == TensorProto.FLOAT16
    assert softmax_input(bench.make(model, "fp16", keep_sensitive=True)[1]) == TensorProto.FLOAT
    (int8,) = [node for node in onnx.load(bench.make(model)[1]).graph.node if node.op_type == "Softmax"]
    assert int8.output[0] == "scores"  # what follows the last weights is not quantised


def test_sums_between_layers_with_weights_stay_in_fp32_where_only_those_become_int8(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["tokens", "first"], ["hidden"]),
        helper.make_node("Tanh", ["hidden"], ["active"]),
        helper.make_node("Add", ["active", "tokens"], ["sum"]),
        helper.make_node("Softmax", ["sum"], ["shares"]),
        helper.make_node("MatMul", ["shares", "last"], ["scores"]),
    ]
    draw = np.random.default_rng(3)
    weights = {name: draw.standard_normal((8, 8)).astype(np.float32) for name in ("first", "last")}
    ends = ({"tokens": (TensorProto.FLOAT, ["n", 8])}, {"scores": (TensorProto.FLOAT, ["n", 8])})
    network = Network(graph(tmp_path / "model.onnx", nodes, *ends, weights), tmp_path)
    rows = [draw.standard_normal((1, 8)).astype(np.float32) for _ in range(8)]

    def reads_the_sum(extent: Extent) -> list[str]:
        proto = onnx.load(network.int8(rows, "tokens", "minmax", extent))
        assert TensorProto.INT8 in {tensor.data_type for tensor in proto.graph.initializer}
        return [node.op_type for node in proto.graph.node if "sum" in node.input]

    assert reads_the_sum("whole") == ["QuantizeLinear"]
    assert reads_the_sum("weighted") == ["Softmax"]


def test_weights_that_are_no_numbers_are_refused(bench: Bench, tmp_path: Path) -> None:
    proto = onnx.load(conv_model(tmp_path / "model.onnx"))
    kernel = next(tensor for tensor in proto.graph.initializer if tensor.name == "kernel")
    kernel.CopyFrom(numpy_helper.from_array(np.full(list(kernel.dims), np.nan, np.float32), "kernel"))
    model = tmp_path / "nan.onnx"
    onnx.save(proto, model)
    with pytest.raises(errors.BadModel, match="failed"):
        bench.make(model)
