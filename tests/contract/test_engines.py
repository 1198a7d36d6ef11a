"""What every engine owes its callers: the same tests over the fake, ONNX Runtime, OpenVINO and PyTorch."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from onnx import TensorProto, helper

from shared import errors, gpu, nets
from shared.engines import PRECISIONS, availability, onnxrt
from shared.engines.base import Engine
from shared.engines.fake import Fake
from shared.engines.onnxrt import CPU, CUDA, OnnxRuntime, cuda_works
from shared.engines.openvino import OpenVino
from shared.engines.precisions import Network
from shared.engines.pytorch import PyTorch
from shared.engines.tensorrt import TensorRt
from shared.specs import ENGINES, TensorInfo
from tests.conftest import needs
from tests.onnx_graphs import conv_model, graph, mean_model

REAL = [OnnxRuntime, OpenVino, *([TensorRt] if TensorRt.unavailable("fp32") is None else [])]
ALL = [Fake, *REAL, PyTorch]
SIDE = 32


class Sample(NamedTuple):
    """An engine with a network it can run: three scores an image."""

    cls: type[Engine]
    artifact: Path
    given: TensorInfo
    gives: TensorInfo
    answer: Callable[[np.ndarray], np.ndarray]
    """What it must answer, found out otherwise."""

    def images(self, n: int, side: int = 0, seed: int | None = None) -> np.ndarray:
        return images(n, side or int(self.given.shape[2]), seed)

    def infer(self, engine: Engine, given: np.ndarray) -> np.ndarray:
        return engine.infer({self.given.name: given})[self.gives.name]


def images(n: int, side: int = 8, seed: int | None = None) -> np.ndarray:
    return np.random.default_rng(n if seed is None else seed).random((n, 3, side, side), dtype=np.float32)


@pytest.fixture
def mean(tmp_path: Path) -> Path:
    return mean_model(tmp_path / "mean")  # without a suffix, as artifacts are named


@pytest.fixture(params=ALL, ids=lambda cls: cls.name)
def sample(request: pytest.FixtureRequest, tmp_path: Path) -> Sample:
    if request.param is PyTorch:
        found: Sample = request.getfixturevalue("network")
        return found
    given = TensorInfo(name="image", dtype="float32", shape=["batch", 3, 8, 8])
    gives = TensorInfo(name="scores", dtype="float32", shape=["batch", 3])
    return Sample(request.param, mean_model(tmp_path / "mean"), given, gives, lambda array: array.mean(axis=(2, 3)))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """A network of PyTorch's, beside itself as it was before it was kept."""
    torch = needs("torch")
    from shared.nets import architectures, weights

    net = architectures.build("cnn32", 3)
    path = tmp_path_factory.mktemp("network") / "weights"
    path.write_bytes(weights.state_bytes(net))
    given = TensorInfo(name="images", dtype="float32", shape=["batch", 3, SIDE, SIDE])
    gives = TensorInfo(name="output", dtype="float32", shape=["batch", 3])

    def answer(array: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return net.module(torch.from_numpy(array.copy())).numpy()

    return Sample(PyTorch, path, given, gives, answer)


@pytest.fixture
def engine(sample: Sample) -> Iterator[Engine]:
    engine = sample.cls(sample.artifact, threads=1)
    engine.prepare()
    with engine:
        yield engine


def test_computes_the_same(engine: Engine, sample: Sample) -> None:
    given = sample.images(5)
    scores = sample.infer(engine, given)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, sample.answer(given), rtol=1e-4, atol=1e-5)


def test_says_what_it_takes_gives_and_runs_on(engine: Engine, sample: Sample) -> None:
    assert engine.inputs == [sample.given]
    assert engine.outputs == [sample.gives]
    expected = {"fake": "Fake", "openvino": "CPU", "pytorch": "CPU" if gpu.described() is None else "CUDA"}
    expected["onnxruntime"] = "CUDAExecutionProvider" if cuda_works() else "CPUExecutionProvider"
    assert engine.provider == expected[engine.name]
    assert engine.device


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda name, given: {}, "takes NAME; given nothing"),
        (lambda name, given: {"picture": given}, "takes NAME; given 'picture'"),
        (lambda name, given: {name: given, "more": given}, "given NAME, 'more'"),
        (lambda name, given: {name: given.astype(np.float64)}, "must be float32 [batch, 3, SIDE, SIDE]; given float64"),
        (lambda name, given: {name: given.astype(">f4")}, "must be float32"),
        (lambda name, given: {name: given[0]}, "given float32 [3, SIDE, SIDE]"),
        (
            lambda name, given: {name: given[..., 1:, 1:]},
            "must be float32 [batch, 3, SIDE, SIDE]; given float32 [1, 3,",
        ),
        (lambda name, given: {name: given[:0]}, "given float32 [0, 3, SIDE, SIDE]"),
    ],
)
def test_refuses_what_does_not_fit(
    engine: Engine, sample: Sample, change: Callable[[str, np.ndarray], dict[str, np.ndarray]], says: str
) -> None:
    name, side = sample.given.name, str(sample.given.shape[2])
    with pytest.raises(errors.BadTensor) as refused:
        engine.infer(change(name, sample.images(1)))
    assert says.replace("NAME", repr(name)).replace("SIDE", side) in refused.value.message
    assert sample.infer(engine, sample.images(2)).shape == (2, 3)  # and goes on


def test_takes_arrays_that_are_not_contiguous_or_may_not_be_written(engine: Engine, sample: Sample) -> None:
    channels_last = np.ascontiguousarray(sample.images(2).transpose(0, 2, 3, 1))
    given = channels_last.transpose(0, 3, 1, 2)
    assert not given.flags.c_contiguous
    given.flags.writeable = False
    np.testing.assert_allclose(sample.infer(engine, given), sample.answer(given), rtol=1e-4, atol=1e-5)


def test_answers_belong_to_the_caller(engine: Engine, sample: Sample) -> None:
    first = sample.infer(engine, sample.images(2))
    kept = first.copy()
    sample.infer(engine, sample.images(2) + 1)
    np.testing.assert_array_equal(first, kept)
    first[:] = 0  # they may be written


def test_many_threads_get_their_own_answers(engine: Engine, sample: Sample) -> None:
    wrong: list[int] = []
    barrier = threading.Barrier(4)
    expected = [sample.answer(sample.images(1 + seed % 3, seed=seed)) for seed in range(4)]

    def client(seed: int) -> None:
        given = sample.images(1 + seed % 3, seed=seed)
        barrier.wait(10)
        for _ in range(50):
            if not np.allclose(sample.infer(engine, given), expected[seed], rtol=1e-4, atol=1e-5):
                wrong.append(seed)

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


class TestLife:
    def test_is_inactive_before_and_after(self, sample: Sample) -> None:
        engine = sample.cls(sample.artifact, threads=1)
        engine.deactivate()  # harmless
        with pytest.raises(errors.EngineFailed, match="not active"):
            sample.infer(engine, sample.images(1))
        with engine:
            sample.infer(engine, sample.images(1))
        with pytest.raises(errors.EngineFailed, match="not active"):
            sample.infer(engine, sample.images(1))
        with engine:  # and once more
            sample.infer(engine, sample.images(1))

    def test_a_file_that_is_gone_is_a_bad_model(self, sample: Sample, tmp_path: Path) -> None:
        with pytest.raises(errors.BadModel, match="gone"):
            sample.cls(tmp_path / "gone", threads=1).activate()

    def test_garbage_is_refused_without_our_paths(self, sample: Sample, tmp_path: Path) -> None:
        if sample.cls is Fake:
            return  # it takes any file
        whole = sample.artifact.read_bytes()
        for content in (b"import os\n" * 50, whole[: len(whole) // 2]):
            (tmp_path / "garbage").write_bytes(content)
            with pytest.raises(errors.BadModel, match=sample.cls.name) as refused:
                sample.cls(tmp_path / "garbage", threads=1).activate()
            assert str(tmp_path) not in refused.value.message
            assert "\n" not in refused.value.message

    def test_another_precision_is_unavailable_and_says_why(self, sample: Sample) -> None:
        reason = sample.cls.unavailable("fp16")
        if reason is None:
            pytest.skip("there is a GPU")
        with pytest.raises(errors.EngineUnavailable, match=re.escape(reason)):
            sample.cls(sample.artifact, precision="fp16", threads=1).activate()


class TestNetworks:
    """What is PyTorch's own."""

    @pytest.fixture(autouse=True)
    def _torch(self) -> None:
        needs("torch")

    def test_weights_that_do_not_say_whose_they_are(self, tmp_path: Path) -> None:
        import safetensors.torch

        from shared.nets import architectures

        state = architectures.build("cnn32", 3).module.state_dict()
        safetensors.torch.save_file(state, tmp_path / "bare")
        with pytest.raises(errors.BadModel, match="does not say whose weights these are"):
            PyTorch(tmp_path / "bare", threads=1).activate()

    def test_weights_of_another_network(self, tmp_path: Path) -> None:
        import safetensors.torch

        from shared.nets import architectures, weights

        state = architectures.build("cnn32", 3).module.state_dict()
        header = '{"architecture":"resnet18","num_classes":3,"input_shape":[3,32,32]}'
        safetensors.torch.save_file(state, tmp_path / "other", {weights.HEADER: header})
        with pytest.raises(errors.BadModel, match="do not fit resnet18"):
            PyTorch(tmp_path / "other", threads=1).activate()

    def test_int8_and_the_threads_of_the_process(self, network: Sample) -> None:
        import torch

        assert "has no INT8" in (PyTorch.unavailable("int8") or "")
        before = torch.get_num_threads()
        with PyTorch(network.artifact, threads=2):
            assert torch.get_num_threads() == 2
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`conv_model` in INT8."""
    folder = tmp_path_factory.mktemp("int8")
    network = Network(conv_model(folder / "model.onnx"), folder)
    return network.int8([images(1, side=16)] * 8, "image", "minmax", "whole")


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
        with pytest.raises(errors.BadModel, match="'x' holds no numbers"):
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


@pytest.mark.parametrize(
    ("providers", "said"),
    [
        ([CUDA, CUDA], ()),
        ([CUDA, CPU], ("1 of 2 operators run on the CPU and not on the GPU: MaxPool.",)),
        ([CPU, CPU], ("2 of 2 operators run on the CPU and not on the GPU: Conv, MaxPool.",)),
    ],
)
def test_operators_that_cuda_leaves_to_the_cpu_are_named(
    monkeypatch: pytest.MonkeyPatch, mean: Path, providers: list[str], said: tuple[str, ...]
) -> None:
    import onnxruntime

    parts = [
        SimpleNamespace(ep_name=name, get_nodes=lambda operator=operator: [SimpleNamespace(op_type=operator)])
        for name, operator in zip(providers, ("Conv", "MaxPool"), strict=True)
    ]
    asked: list[Any] = []

    class Session(onnxruntime.InferenceSession):
        """Says that it runs on a GPU."""

        def __init__(self, path: str, options: Any, providers: list[str], provider_options: list[dict[str, str]]):
            asked.append((providers, provider_options))
            super().__init__(path, options, providers=[CPU])

        def get_providers(self) -> list[str]:
            return [CUDA, CPU]

        def get_provider_graph_assignment_info(self) -> list[Any]:
            return parts

    monkeypatch.setattr(onnxrt, "cuda_works", lambda: True)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    with OnnxRuntime(mean, threads=1) as engine:
        assert (engine.provider, engine.device, engine.notes) == (CUDA, "CUDA:0", said)
    with OnnxRuntime(mean, threads=1, gpu_mb=1.5):
        bound = {"gpu_mem_limit": "1572864", "arena_extend_strategy": "kSameAsRequested"}
    assert asked == [([CUDA, CPU], [{"use_tf32": "0"} | each, {}]) for each in ({}, bound)]


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
    if importlib.util.find_spec("tensorrt") is None:
        assert {listed["tensorrt", each] for each in PRECISIONS} == {"the tensorrt package is not installed"}
    assert (listed["pytorch", "fp32"] is None) == (nets.missing() is None)
    assert "INT8" in (listed["pytorch", "int8"] or "") or "make setup-train" in (listed["pytorch", "int8"] or "")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_no_engine_tells_anybody(engine: str, tmp_path: Path) -> None:
    """Left alone, both libraries keep an id below the user's home folder, and one a store of events."""
    code = "import sys; from pathlib import Path; from shared.engines import engine_class\n"
    code += "with engine_class(sys.argv[1])(Path(sys.argv[2]), threads=1): pass"
    model = Path(__file__).parents[2] / "examples" / "digits" / "digits.onnx"
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}  # nothing that says tests run here: both fall silent then
    subprocess.run([sys.executable, "-c", code, engine, str(model)], env=env, check=True, timeout=60)
    assert list(tmp_path.iterdir()) == []
