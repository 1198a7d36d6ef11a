"""TensorFlow and Keras files become ONNX, or are refused with their sentence: real TensorFlow, in its real sandbox."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import onnx
import pytest

from preparer import Conversion, ConversionOrder
from preparer.describe import DescribeOrder, describe
from shared import child, config, errors
from shared.specs import ConversionFacts, TensorInfo

LIMITS = child.Limits(wall_s=200, memory_mb=8192, cpu_s=100, file_mb=64)

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def python() -> Path:
    found = config.tensorflow_python()
    if found is None:
        assert os.environ.get("CI") != "true", config.NO_TENSORFLOW
        pytest.skip(config.NO_TENSORFLOW)
    return found


@pytest.fixture(scope="module")
def files(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files of `tensorflow_files`, and beside them a folder in which nothing may appear."""
    folder = tmp_path_factory.mktemp("tensorflow")
    for name in ("made", "untouched"):
        (folder / name).mkdir()
    command = [python, "-m", "tests.process.tensorflow_files", folder / "made", folder / "untouched" / "ran"]
    environment = os.environ | {"PYTHONPATH": str(config.HOME), "KERAS_HOME": str(folder / "keras")}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return folder / "made"


def convert(
    python: Path, path: Path, shape: tuple[int, ...] | None = None, limits: child.Limits = LIMITS
) -> tuple[ConversionFacts, bytes]:
    """The facts and the ONNX bytes."""
    with tempfile.TemporaryFile() as out:
        order = ConversionOrder(path=str(path), outputs={"onnx": out.fileno()}, input_shape=shape)
        answer = child.run(
            "preparer.from_tensorflow", order, Conversion, limits=limits, python=python, pass_fds=[out.fileno()]
        )
        out.seek(0)
        return answer.facts, out.read()


@pytest.mark.parametrize(
    ("name", "source", "inputs", "outputs"),
    [
        ("cnn.keras", "Keras archive", {"image": ["batch", 16, 16, 3]}, {"scores": ["batch", 5]}),
        ("cnn.h5", "Keras HDF5 file", {"image": ["batch", 16, 16, 3]}, {"scores": ["batch", 5]}),
        ("sequential.keras", "Keras archive", {"image": ["batch", 16, 16, 3]}, {"output": ["batch", 5]}),
        ("sequential.h5", "Keras HDF5 file", {"image": ["batch", 16, 16, 3]}, {"output": ["batch", 5]}),
        ("keras.pb", "frozen TensorFlow graph", {"image": ["batch", 16, 16, 3]}, {"Identity": ["batch", 5]}),
        ("cnn.pb", "frozen TensorFlow graph", {"image": ["batch", 8, 8, 3]}, {"scores": ["batch", 4]}),
        ("efficientnet.keras", "Keras archive", {"input_layer": ["batch", 32, 32, 3]}, {"predictions": ["batch", 7]}),
        ("mobilenet.h5", "Keras HDF5 file", {"input_layer_1": ["batch", 32, 32, 3]}, {"predictions": ["batch", 7]}),
    ],
)
def test_it_computes_the_same(
    python: Path, files: Path, tmp_path: Path, name: str, source: str, inputs: dict[str, list[int | str]], outputs: dict
):
    """EfficientNet's Normalization constants, above all, are no inputs."""
    nameless = tmp_path / "0123abcd"  # as artifacts are kept
    nameless.write_bytes((files / name).read_bytes())
    facts, content = convert(python, nameless)
    assert facts.source == source
    assert [each.batch for each in facts.parity] == [1, 2, 8]
    assert max(each.max_abs_diff for each in facts.parity) < 1e-5
    assert facts.dynamic_batch
    model = onnx.load_from_string(content)
    assert {item.domain: item.version for item in model.opset_import} == {"": facts.opset} == {"": 18}
    (tmp_path / "model.onnx").write_bytes(content)
    order = DescribeOrder(
        path=str(tmp_path / "model.onnx"), task_type="classification", preprocessing=None, labels=None
    )
    described = describe(order)
    assert described.inputs == [TensorInfo(name=key, dtype="float32", shape=shape) for key, shape in inputs.items()]
    assert {info.name: info.shape for info in described.outputs} == outputs
    assert described.dynamic_batch
    assert described.preprocessing is not None
    assert described.preprocessing.layout == "NHWC"
    assert facts.seconds > 0
    assert facts.peak_memory_mb > 100
    assert facts.exporter.startswith("tf2onnx 1.")


def sizes(content: bytes) -> dict[str, list[int | str]]:
    graph = onnx.load_from_string(content).graph
    return {
        value.name: [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.output]
    }


def test_a_fixed_batch_is_declared_fixed(python: Path, files: Path):
    facts, content = convert(python, files / "fixed.keras")
    assert (facts.dynamic_batch, [each.batch for each in facts.parity]) == (False, [4])
    assert sizes(content) == {"image": [4, 16, 16, 3], "scores": [4, 5]}


def test_a_batch_that_only_seems_free_is_declared_fixed(python: Path, files: Path):
    facts, content = convert(python, files / "one.pb")
    assert (facts.dynamic_batch, [each.batch for each in facts.parity]) == (False, [1])
    assert sizes(content)["image"] == [1, 8, 8, 3]


def test_several_inputs_and_outputs_keep_their_names(python: Path, files: Path):
    facts, content = convert(python, files / "two.keras")
    assert [each.batch for each in facts.parity] == [1, 2, 8]
    assert list(sizes(content)) == ["left", "right", "a", "multiply"]


def test_open_axes_are_settled_by_who_uploads(python: Path, files: Path):
    facts, content = convert(python, files / "open.keras", (1, 12, 10, 3))
    assert facts.dynamic_batch
    assert sizes(content)["image"] == ["batch", 12, 10, 3]
    with pytest.raises(errors.BadModel, match=r"axes axis1, axis2 open\. Upload it with input_shape"):
        convert(python, files / "open.pb")
    with pytest.raises(errors.BadModel, match=r"input_shape is \[1, 12, 10, 4\], but input 'image' takes"):
        convert(python, files / "open.pb", (1, 12, 10, 4))


def test_arithmetic_in_half_precision_may_differ_by_its_rounding(python: Path, files: Path):
    facts, _ = convert(python, files / "half.keras")
    assert 0 < max(each.max_abs_diff for each in facts.parity) < 1e-2


REFUSED = {
    "lambda.keras": "holds a Lambda, which is a program",
    "lambda.h5": "holds a Lambda, which is a program",
    "marshalled.keras": "holds a lambda, which is a program",
    "marshalled.h5": "holds a lambda, which is a program",
    "savedmodel.keras": "holds a TFSMLayer",
    "module.keras": "'system' comes from the module 'os'",
    "custom.keras": "'Dense' comes from the package 'mine'",
    "function.keras": r"Keras 3\.15\.1 cannot load the model: .*get_file",
    "lookup.keras": r"Keras 3\.15\.1 cannot load the model: ",
    "slip.keras": r"holds '\.\./\.\./slipped' beside the model",
    "asset.keras": r"holds 'assets/words\.txt' beside the model",
    "cut.keras": r"damaged .*check that the upload was not cut off",
    "cut.h5": r"no complete HDF5 file .*check that the upload was not cut off",
    "cut.pb": "no complete TensorFlow file",
    "flipped.keras": "damaged .*Bad CRC-32",
    "garbage.h5": "no complete HDF5 file",
    "garbage.pb": "no complete TensorFlow file",
    "deep.keras": "configuration cannot be read",
    "other.keras": "no model that Keras saved",
    "bomb.keras": r"config\.json in the archive is larger than 64 MB",
    "only.weights.h5": "weights without the model",
    "linked.h5": "'kernel' in the HDF5 file is a link",
    "outside.h5": "'k' lies in another file",
    "fill.h5": r"arrays in the file take 4,000,000,",
    "huge.keras": "units in the model's configuration is no size",
    "file.pb": r"Operator ReadFile \('ReadFile'\) is not one",
    "random.pb": "Operator RandomUniform",
    "loop.pb": r"functions of its own \(body\)",
    "variable.pb": "not frozen: 'w' is a variable",
    "saved_model.pb": "graph of a SavedModel folder",
    "splat.pb": r"constants take 4,000,000,",
    "cycle.pb": "cannot read the graph: 1 nodes in a cycle",
    "shapeless.pb": "'features' is of no declared shape",
    "many.pb": r"20 ends .*extract_sub_graph",
    "leftover.pb": "operator L2Loss has no counterpart in ONNX",
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_its_sentence(python: Path, files: Path, name: str):
    with pytest.raises(errors.BadModel, match=REFUSED[name]) as refused:
        convert(python, files / name)
    assert len(refused.value.message) < 800
    assert str(files) not in refused.value.message
    assert list((files.parent / "untouched").iterdir()) == []
    assert not list(files.parents[1].rglob("slipped"))


def test_a_layer_larger_than_the_memory(python: Path, files: Path):
    with pytest.raises(errors.TooLarge, match="more memory than a conversion may use"):
        convert(python, files / "large.keras")


def test_a_refused_file_leaves_the_output_empty(python: Path, files: Path):
    with tempfile.TemporaryFile() as out:
        order = ConversionOrder(path=str(files / "cut.h5"), outputs={"onnx": out.fileno()})
        with pytest.raises(errors.BadModel):
            child.run(
                "preparer.from_tensorflow", order, Conversion, limits=LIMITS, python=python, pass_fds=[out.fileno()]
            )
        assert os.fstat(out.fileno()).st_size == 0


def test_converted_twice_a_file_gives_the_same_bytes(python: Path, files: Path):
    assert convert(python, files / "cnn.h5")[1] == convert(python, files / "cnn.h5")[1]
