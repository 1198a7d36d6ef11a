"""What every engine owes its callers: the same tests over the fake, ONNX Runtime and OpenVINO."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from shared import errors
from shared.engines import availability, engine_class
from shared.engines.base import Engine
from shared.engines.fake import Fake
from shared.engines.onnxrt import OnnxRuntime, cuda_works
from shared.engines.openvino import OpenVino
from shared.engines.precisions import Network
from shared.specs import ENGINES, TensorInfo
from tests.onnx_graphs import conv_model, graph, mean_model

ALL = [Fake, OnnxRuntime, OpenVino]
REAL = [OnnxRuntime, OpenVino]


def images(n: int, side: int = 8) -> np.ndarray:
    return np.random.default_rng(n).random((n, 3, side, side), dtype=np.float32)


@pytest.fixture
def mean(tmp_path: Path) -> Path:
    return mean_model(tmp_path / "mean")  # without a suffix, as artifacts are named


@pytest.fixture(params=ALL, ids=lambda cls: cls.name)
def engine(request: pytest.FixtureRequest, mean: Path) -> Iterator[Engine]:
    engine: Engine = request.param(mean, threads=1)
    with engine:
        yield engine


def test_computes_the_same(engine: Engine) -> None:
    given = images(5)
    scores = engine.infer({"image": given})["scores"]
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, given.mean(axis=(2, 3)), rtol=1e-5)


def test_says_what_it_takes_gives_and_runs_on(engine: Engine) -> None:
    assert engine.inputs == [TensorInfo(name="image", dtype="float32", shape=["batch", 3, 8, 8])]
    assert engine.outputs == [TensorInfo(name="scores", dtype="float32", shape=["batch", 3])]
    expected = {"fake": "Fake", "openvino": "CPU"}
    expected["onnxruntime"] = "CUDAExecutionProvider" if cuda_works() else "CPUExecutionProvider"
    assert engine.provider == expected[engine.name]
    assert engine.device


@pytest.mark.parametrize(
    ("feeds", "says"),
    [
        ({}, "takes 'image'; given nothing"),
        ({"picture": images(1)}, "takes 'image'; given 'picture'"),
        ({"image": images(1), "more": images(1)}, "given 'image', 'more'"),
        ({"image": images(1).astype(np.float64)}, "must be float32 [batch, 3, 8, 8]; given float64 [1, 3, 8, 8]"),
        ({"image": images(1).astype(">f4")}, "must be float32"),
        ({"image": images(1)[0]}, "given float32 [3, 8, 8]"),
        ({"image": images(1, side=9)}, "given float32 [1, 3, 9, 9]"),
        ({"image": images(1)[:0]}, "given float32 [0, 3, 8, 8]"),
    ],
)
def test_refuses_what_does_not_fit(engine: Engine, feeds: dict[str, np.ndarray], says: str) -> None:
    with pytest.raises(errors.BadTensor) as refused:
        engine.infer(feeds)
    assert says in refused.value.message
    assert engine.infer({"image": images(2)})["scores"].shape == (2, 3)  # and goes on


def test_takes_arrays_that_are_not_contiguous(engine: Engine) -> None:
    channels_last = np.ascontiguousarray(images(2).transpose(0, 2, 3, 1))
    given = channels_last.transpose(0, 3, 1, 2)
    assert not given.flags.c_contiguous
    np.testing.assert_allclose(engine.infer({"image": given})["scores"], given.mean(axis=(2, 3)), rtol=1e-5)


def test_answers_belong_to_the_caller(engine: Engine) -> None:
    first = engine.infer({"image": images(2)})["scores"]
    kept = first.copy()
    engine.infer({"image": images(2) + 1})
    np.testing.assert_array_equal(first, kept)


def test_many_threads_get_their_own_answers(engine: Engine) -> None:
    wrong: list[int] = []
    barrier = threading.Barrier(4)

    def client(value: int) -> None:
        given = np.full((1 + value % 3, 3, 8, 8), value, dtype=np.float32)
        barrier.wait(10)
        for _ in range(50):
            if not np.array_equal(engine.infer({"image": given})["scores"], np.full((len(given), 3), value)):
                wrong.append(value)

    threads = [threading.Thread(target=client, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.name)
class TestLife:
    def test_is_inactive_before_and_after(self, cls: type[Engine], mean: Path) -> None:
        engine = cls(mean, threads=1)
        engine.deactivate()  # harmless
        with pytest.raises(errors.EngineFailed, match="not active"):
            engine.infer({"image": images(1)})
        with engine:
            engine.infer({"image": images(1)})
        with pytest.raises(errors.EngineFailed, match="not active"):
            engine.infer({"image": images(1)})
        with engine:  # and once more
            engine.infer({"image": images(1)})

    def test_a_file_that_is_gone_is_a_bad_model(self, cls: type[Engine], tmp_path: Path) -> None:
        with pytest.raises(errors.BadModel, match="gone"):
            cls(tmp_path / "gone", threads=1).activate()

    def test_another_precision_is_unavailable_and_says_why(self, cls: type[Engine], mean: Path) -> None:
        reason = cls.unavailable("fp16")
        if reason is None:
            pytest.skip("there is a GPU")
        with pytest.raises(errors.EngineUnavailable, match=re.escape(reason)):
            cls(mean, precision="fp16", threads=1).activate()


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`conv_model` in INT8."""
    folder = tmp_path_factory.mktemp("int8")
    network = Network(conv_model(folder / "model.onnx"), folder)
    return network.int8([images(1, side=16)] * 8, "image", "minmax", keep_ends=False)


@pytest.mark.parametrize("cls", REAL, ids=lambda cls: cls.name)
class TestRealModels:
    def test_one_int8_file_serves_them_all(self, cls: type[Engine], quantised: Path, tmp_path: Path) -> None:
        given = images(3, side=16)
        with cls(conv_model(tmp_path / "fp32"), threads=1) as engine:
            expected = engine.infer({"image": given})["scores"]
        with cls(quantised, precision="int8", threads=1) as engine:
            together = engine.infer({"image": given})["scores"]
            alone = [engine.infer({"image": given[index : index + 1]})["scores"] for index in range(3)]
            assert (engine.inputs[0].dtype, engine.inputs[0].shape[1:]) == ("float32", [3, 16, 16])
            with pytest.raises(errors.BadTensor):
                engine.infer({"image": given.astype(np.uint8)})
        np.testing.assert_allclose(np.concatenate(alone), together, atol=1e-5)
        np.testing.assert_allclose(together, expected, atol=0.05 * np.abs(expected).max())
        assert not np.array_equal(together, expected)

    def test_they_agree_on_a_network(self, cls: type[Engine], tmp_path: Path) -> None:
        given = images(3, side=16)
        with OnnxRuntime(conv_model(tmp_path / "conv"), threads=1) as reference:
            expected = reference.infer({"image": given})["scores"]
        with cls(tmp_path / "conv", threads=2) as engine:
            np.testing.assert_allclose(engine.infer({"image": given})["scores"], expected, rtol=1e-4, atol=1e-5)

    def test_garbage_is_refused_without_our_paths(self, cls: type[Engine], tmp_path: Path) -> None:
        (tmp_path / "garbage").write_bytes(b"import os\n" * 50)
        with pytest.raises(errors.BadModel, match=cls.name) as refused:
            cls(tmp_path / "garbage", threads=1).activate()
        assert str(tmp_path) not in refused.value.message
        assert "\n" not in refused.value.message

    def test_a_truncated_model_is_refused(self, cls: type[Engine], tmp_path: Path) -> None:
        whole = conv_model(tmp_path / "conv").read_bytes()
        (tmp_path / "half").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(errors.BadModel):
            cls(tmp_path / "half", threads=1).activate()

    def test_an_unknown_operator_is_named(self, cls: type[Engine], tmp_path: Path) -> None:
        path = graph(
            tmp_path / "foreign",
            [helper.make_node("Frobnicate", ["x"], ["y"], domain="elsewhere")],
            {"x": (TensorProto.FLOAT, ["n", 3])},
            {"y": (TensorProto.FLOAT, ["n", 3])},
            foreign="elsewhere",
        )
        with pytest.raises(errors.BadModel, match="Frobnicate"):
            cls(path, threads=1).activate()

    def test_text_is_refused(self, cls: type[Engine], tmp_path: Path) -> None:
        path = graph(
            tmp_path / "text",
            [helper.make_node("Identity", ["x"], ["y"])],
            {"x": (TensorProto.STRING, ["n"])},
            {"y": (TensorProto.STRING, ["n"])},
        )
        engine = cls(path, threads=1)
        with pytest.raises(errors.BadModel, match="'x' is not made of numbers"):
            engine.activate()
        with pytest.raises(errors.EngineFailed, match="not active"):
            engine.infer({"x": np.array(["a"])})

    def test_a_failure_on_good_input_is_the_engines(self, cls: type[Engine], tmp_path: Path) -> None:
        path = graph(
            tmp_path / "two-rows",  # says that it takes any number of rows, and adds two
            [helper.make_node("Add", ["x", "two"], ["y"])],
            {"x": (TensorProto.FLOAT, ["n", 3])},
            {"y": (TensorProto.FLOAT, ["n", 3])},
            {"two": np.ones((2, 3), np.float32)},
        )
        with cls(path, threads=1) as engine:
            with pytest.raises(errors.EngineFailed, match=cls.name):
                engine.infer({"x": np.zeros((3, 3), np.float32)})
            assert engine.infer({"x": np.zeros((2, 3), np.float32)})["y"].sum() == 6

    @pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.float64, np.float16, np.bool_])
    def test_every_dtype_passes_through(self, cls: type[Engine], tmp_path: Path, dtype: type) -> None:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        path = graph(
            tmp_path / "same",
            [helper.make_node("Reshape", ["x", "shape"], ["y"])],
            {"x": (kind, ["n", 2])},
            {"y": (kind, ["n", 2, 1])},
            {"shape": np.array([-1, 2, 1])},
        )
        given = np.array([[0, 1], [1, 0]]).astype(dtype)
        with cls(path, threads=1) as engine:
            assert engine.inputs[0].dtype == np.dtype(dtype).name
            result = engine.infer({"x": given})["y"]
        assert result.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(result[..., 0], given)

    def test_axes_of_one_name_have_one_length(self, cls: type[Engine], tmp_path: Path) -> None:
        path = graph(
            tmp_path / "sum",
            [helper.make_node("Add", ["a", "b"], ["y"])],
            {"a": (TensorProto.FLOAT, ["n", 2]), "b": (TensorProto.FLOAT, ["n", 2])},
            {"y": (TensorProto.FLOAT, ["n", 2])},
        )
        with cls(path, threads=1) as engine, pytest.raises((errors.BadTensor, errors.EngineFailed)):
            engine.infer({"a": np.zeros((2, 2), np.float32), "b": np.zeros((3, 2), np.float32)})

    def test_output_names_survive(self, cls: type[Engine], tmp_path: Path) -> None:
        path = graph(
            tmp_path / "names",
            [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Identity", ["a"], ["b"])],
            {"x": (TensorProto.FLOAT, ["n", 2])},
            {"b": (TensorProto.FLOAT, ["n", 2]), "a": (TensorProto.FLOAT, ["n", 2])},
        )
        with cls(path, threads=1) as engine:
            assert [info.name for info in engine.outputs] == ["b", "a"]
            assert set(engine.infer({"x": np.ones((1, 2), np.float32)})) == {"a", "b"}


def test_fake_fails_and_waits_on_demand(mean: Path) -> None:
    with Fake(mean, failure=ValueError("on purpose")) as engine, pytest.raises(errors.EngineFailed, match="on purpose"):
        engine.infer({"image": images(1)})
    with pytest.raises(errors.BadModel, match="on purpose"):
        Fake(mean, broken=ValueError("on purpose")).activate()


def test_availability_lists_every_engine_and_says_why_not() -> None:
    listed = {(name, precision): reason for name, precision, reason in availability()}
    assert {name for name, _ in listed} == set(ENGINES)
    assert listed["onnxruntime", "fp32"] is None
    assert listed["openvino", "fp32"] is None
    assert listed["onnxruntime", "int8"] is None
    assert listed["openvino", "int8"] is None
    assert "FP16 gains nothing" in (listed["openvino", "fp16"] or "")
    assert (listed["onnxruntime", "fp16"] is None) == cuda_works()
    assert listed["tensorrt", "fp32"] in {
        "the tensorrt package is not installed",
        "this version has no tensorrt engine yet",
    }
    with pytest.raises(errors.EngineUnavailable, match="pytorch cannot run here"):
        engine_class("pytorch")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_no_engine_tells_anybody(engine: str, tmp_path: Path) -> None:
    """Left alone, both libraries keep an id below the user's home folder, and one a store of events."""
    code = "import sys; from pathlib import Path; from shared.engines import engine_class\n"
    code += "with engine_class(sys.argv[1])(Path(sys.argv[2]), threads=1): pass"
    model = Path(__file__).parents[2] / "examples" / "digits" / "digits.onnx"
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}  # nothing that says tests run here: both fall silent then
    subprocess.run([sys.executable, "-c", code, engine, str(model)], env=env, check=True, timeout=60)
    assert list(tmp_path.iterdir()) == []
