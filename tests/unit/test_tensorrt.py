"""The TensorRT engine against a stand-in of its libraries, with their names and ways; the real ones never ran here."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from shared import errors, gpu
from shared.engines.tensorrt import KEPT_PLANS, TensorRt
from shared.specs import PLAN_BATCHES

SHAPES = {"image": (-1, 3, 8, 8), "scores": (-1, 3)}


class Card:
    """Memory of a GPU, which is ours; calls answer with a status first, as cuda-python's do."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamNonBlocking = 1

    def __init__(self) -> None:
        self.held: dict[int, Any] = {}
        self.full = False

    def cudaMalloc(self, nbytes: int) -> tuple[int, int | None]:
        if self.full:
            return 2, None
        block = (ctypes.c_uint8 * nbytes)()
        self.held[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    cudaMallocHost = cudaMalloc

    def cudaFree(self, address: int) -> tuple[int]:
        del self.held[address]
        return (0,)

    cudaFreeHost = cudaFree

    def cudaMemcpyAsync(self, to: int, of: int, nbytes: int, _kind: int, _stream: int) -> tuple[int]:
        ctypes.memmove(to, of, nbytes)
        return (0,)

    def cudaStreamCreateWithFlags(self, _flags: int) -> tuple[int, int]:
        return 0, 7

    def cudaStreamSynchronize(self, _stream: int) -> tuple[int]:
        return (0,)

    cudaStreamDestroy = cudaStreamSynchronize


class Context:
    """Runs the mean of each channel on the memory it was given."""

    def __init__(self) -> None:
        self.at: dict[str, int] = {}
        self.batch = 0

    def set_input_shape(self, _name: str, shape: tuple[int, ...]) -> bool:
        self.batch = shape[0]
        return self.batch <= PLAN_BATCHES[-1]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.batch, *SHAPES[name][1:])

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.at[name] = address
        return True

    def execute_async_v3(self, _stream: int) -> bool:
        shape = self.get_tensor_shape("image")
        count = int(np.prod(shape))
        image = np.ctypeslib.as_array((ctypes.c_float * count).from_address(self.at["image"])).reshape(shape)
        scores = np.ctypeslib.as_array((ctypes.c_float * (self.batch * 3)).from_address(self.at["scores"]))
        scores[:] = image.mean(axis=(2, 3)).reshape(-1)
        return True


class Library(ModuleType):
    """TensorRT as the engine calls it."""

    __version__ = "10.16.1.11"
    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    MemoryPoolType = SimpleNamespace(WORKSPACE=0)
    BuilderFlag = SimpleNamespace(TF32=3)
    TensorIOMode = SimpleNamespace(INPUT=0, OUTPUT=1)

    class Logger:
        ERROR = 1

        def __init__(self, _level: int) -> None:
            pass

    def __init__(self) -> None:
        super().__init__("tensorrt")
        self.built: list[dict[str, Any]] = []
        self.broken = ""

    def Builder(self, _logger: Any) -> Any:
        about: dict[str, Any] = {"shapes": {}}

        def build(_network: Any, _settings: Any) -> bytes | None:
            self.built.append(about)
            return b"a plan"

        profile = SimpleNamespace(set_shape=lambda name, *shapes: about["shapes"].update({name: shapes}))
        settings = SimpleNamespace(
            set_memory_pool_limit=lambda *_: None,
            clear_flag=lambda flag: about.update(cleared=flag),
            create_timing_cache=lambda old: about.update(timing=old),
            set_timing_cache=lambda *_: True,
            get_timing_cache=lambda: SimpleNamespace(serialize=lambda: b"times"),
            add_optimization_profile=lambda _: 0,
        )
        image = SimpleNamespace(name="image", shape=SHAPES["image"])
        return SimpleNamespace(
            create_network=lambda flags: SimpleNamespace(num_inputs=1, get_input=lambda _: image, flags=flags),
            create_builder_config=lambda: settings,
            create_optimization_profile=lambda: profile,
            build_serialized_network=build,
        )

    def OnnxParser(self, network: Any, _logger: Any) -> Any:
        assert network.flags == 1 << 1
        return SimpleNamespace(parse=lambda _: not self.broken, num_errors=1, get_error=lambda _: self.broken)

    def Runtime(self, _logger: Any) -> Any:
        names = list(SHAPES)
        engine = SimpleNamespace(
            create_execution_context=Context,
            num_io_tensors=2,
            get_tensor_name=lambda index: names[index],
            get_tensor_mode=names.index,
            get_tensor_dtype=lambda _: "float",
            get_tensor_shape=lambda name: SHAPES[name],
        )
        return SimpleNamespace(deserialize_cuda_engine=lambda plan: engine if plan == b"a plan" else None)

    def nptype(self, _dtype: str) -> type:
        return np.float32


@pytest.fixture
def card() -> Card:
    return Card()


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, card: Card, tmp_path: Path) -> Iterator[Library]:
    library = Library()
    monkeypatch.setattr("shared.engines.tensorrt._cuda", lambda: card)
    monkeypatch.setattr("shared.engines.tensorrt.importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(gpu, "described", lambda: "a card, driver 1.2")
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    yield library


@pytest.fixture
def engine(library: Library, tmp_path: Path) -> TensorRt:
    (tmp_path / "model").write_bytes(b"an ONNX file")
    return TensorRt(tmp_path / "model", precision="fp16", threads=1)


def images(n: int) -> np.ndarray:
    return np.random.default_rng(n).random((n, 3, 8, 8), dtype=np.float32)


def test_a_plan_is_built_once_and_only_loaded_from_then_on(engine: TensorRt, library: Library) -> None:
    with pytest.raises(errors.EngineUnavailable, match="no plan of this model for this GPU"):
        engine.activate()
    engine.prepare()
    engine.prepare()
    (about,) = library.built
    assert about["shapes"]["image"] == tuple((batch, 3, 8, 8) for batch in PLAN_BATCHES)
    assert (about["cleared"], about["timing"]) == (3, b"")
    with engine:
        assert (engine.provider, engine.device) == ("TensorRT", "CUDA:0")
        assert engine.inputs[0].shape == ["batch", 3, 8, 8] and engine.outputs[0].shape == ["batch", 3]


def test_another_model_card_version_or_precision_has_a_plan_of_its_own(
    engine: TensorRt, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.prepare()
    engine.artifact.write_bytes(b"another ONNX file")
    engine.prepare()
    assert library.built[-1]["timing"] == b"times", "what is known of this card's layers helps the next one"
    monkeypatch.setattr(gpu, "described", lambda: "another card, driver 1.2")
    engine.prepare()
    assert library.built[-1]["timing"] == b"", "of another card nothing is known"
    library.__version__ = "11.4.0.106"
    engine.prepare()
    TensorRt(engine.artifact, precision="fp32", threads=1).prepare()
    assert len(library.built) == 5


def test_it_answers_through_its_buffers_and_gives_them_back(engine: TensorRt, card: Card) -> None:
    engine.prepare()
    with engine:
        for n in (2, 32, 1):
            answer = engine.infer({"image": images(n)})["scores"]
            np.testing.assert_allclose(answer, images(n).mean(axis=(2, 3)), rtol=1e-5)
        kept = answer.copy()
        turned = np.asfortranarray(images(3))
        np.testing.assert_allclose(engine.infer({"image": turned})["scores"], turned.mean(axis=(2, 3)), rtol=1e-5)
        np.testing.assert_array_equal(answer, kept)
        assert len(card.held) == 4
        with pytest.raises(errors.EngineFailed, match="takes at most 32 images"):
            engine.infer({"image": images(33)})
    assert card.held == {}


def test_memory_that_runs_out_costs_that_call_alone(engine: TensorRt, card: Card) -> None:
    engine.prepare()
    with engine:
        card.full = True
        with pytest.raises(errors.EngineFailed, match="CUDA: 2"):
            engine.infer({"image": images(1)})
        card.full = False
        assert engine.infer({"image": images(1)})["scores"].shape == (1, 3)


def test_what_tensorrt_cannot_take_is_said_and_leaves_no_plan(engine: TensorRt, library: Library) -> None:
    library.broken = "no importer for Frobnicate"
    with pytest.raises(errors.BadModel, match="tensorrt cannot build a plan: no importer for Frobnicate"):
        engine.prepare()
    with pytest.raises(errors.EngineUnavailable, match="no plan"):
        engine.activate()


def test_a_plan_that_does_not_load_is_a_bad_model(engine: TensorRt) -> None:
    engine.prepare()
    engine._plan().write_bytes(b"of another GPU")
    with pytest.raises(errors.BadModel, match="the plan does not load"):
        engine.activate()


def test_old_plans_go(engine: TensorRt, library: Library) -> None:
    for number in range(KEPT_PLANS + 3):
        engine.artifact.write_bytes(b"%d" % number)
        engine.prepare()
    assert len(list(engine._plan().parent.glob("*.plan"))) == KEPT_PLANS
    assert engine._plan().is_file()


def test_why_it_cannot_run(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    assert TensorRt.unavailable("fp16") is None
    assert "signed" in (TensorRt.unavailable("int8") or "")
    monkeypatch.setattr(gpu, "described", lambda: None)
    assert TensorRt.unavailable("fp16") == "there is no NVIDIA GPU here"
