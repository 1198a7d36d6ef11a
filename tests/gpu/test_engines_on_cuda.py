"""Engines on a GPU: they answer like the CPU, in FP32 and FP16, and say where they run."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarker import Launched, LaunchOrder
from shared import child, errors, gpu
from shared.engines import Engine, Reference, engine_class, unavailable
from shared.specs import Candidate, EngineName, Precision

SIDE = 32
TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2}
"""Of the largest output. TF32, which must be off, is ten times further away than the first."""
CASES: list[tuple[EngineName, Precision]] = [
    ("pytorch", "fp32"),
    ("pytorch", "fp16"),
    ("onnxruntime", "fp32"),
    ("onnxruntime", "fp16"),
]


class Network:
    """One network as PyTorch's weights and, where the exporter is there, as ONNX files."""

    def __init__(self, folder: Path) -> None:
        torch = pytest.importorskip("torch", reason="PyTorch is not installed")
        for name in ("torchvision", "safetensors", "msgspec"):
            pytest.importorskip(name, reason=f"{name} is not installed")
        from shared.nets import architectures, weights

        self.net = architectures.build("cnn32", 10)
        self.folder = folder
        (folder / "weights").write_bytes(weights.state_bytes(self.net))
        self._torch = torch

    def images(self, n: int) -> np.ndarray:
        return np.random.default_rng(n).standard_normal((n, 3, SIDE, SIDE), dtype=np.float32)

    def answer(self, images: np.ndarray) -> np.ndarray:
        """On the CPU."""
        with self._torch.inference_mode():
            return np.asarray(self.net.module(self._torch.from_numpy(images)).numpy())

    def file(self, engine: EngineName, precision: Precision) -> Path:
        if engine == "pytorch":
            return self.folder / "weights"
        for name in ("onnx", "onnxruntime", "onnxscript", "onnxconverter_common"):
            pytest.importorskip(name, reason=f"{name} is not installed")
        from shared.engines.precisions import Network as Graph
        from shared.nets import export

        path = self.folder / "fp32"
        if not path.exists():
            path.write_bytes(export.export(self.net).onnx)
        return path if precision == "fp32" else Graph(path, self.folder).fp16(keep_sensitive=False)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return Network(tmp_path_factory.mktemp("network"))


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[EngineName, Precision]:
    engine, precision = request.param
    if why := unavailable(engine, precision):
        pytest.skip(f"{engine} in {precision}: {why}")
    return engine, precision


@pytest.fixture
def engine(case: tuple[EngineName, Precision], network: Network) -> Iterator[Engine]:
    name, precision = case
    with engine_class(name)(network.file(name, precision), precision=precision, threads=1) as engine:
        yield engine


def test_it_runs_on_the_gpu_and_says_so(engine: Engine) -> None:
    assert "CUDA" in engine.provider.upper()
    assert engine.device == "CUDA:0"
    assert engine.notes == (), "every operator of this network has a kernel for CUDA"


@pytest.mark.parametrize("batch", [1, 2, 32])
def test_it_answers_like_the_cpu(engine: Engine, network: Network, batch: int) -> None:
    images = network.images(batch)
    expected = network.answer(images)
    (given,) = engine.infer({engine.inputs[0].name: images}).values()
    assert given.dtype == np.float32
    assert np.abs(given - expected).max() <= TOLERANCE[engine.precision] * np.abs(expected).max()


def test_the_reference_stays_on_the_cpu(network: Network) -> None:
    with Reference(network.file("onnxruntime", "fp32"), threads=1) as engine:
        assert (engine.provider, engine.device) == ("CPUExecutionProvider", "CPU")


def test_more_memory_than_there_is_costs_that_call_alone(engine: Engine, network: Network) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    free, _ = torch.cuda.mem_get_info()
    left = 256 * 2**20
    hoard = torch.empty(max(1, free - left), dtype=torch.uint8, device="cuda")
    name = engine.inputs[0].name
    try:
        with pytest.raises(errors.EngineFailed, match=f"(?i){engine.name} failed: .*memory"):
            engine.infer({name: np.zeros((20_000, 3, SIDE, SIDE), np.float32)})
    finally:
        del hoard
        gc.collect()
        torch.cuda.empty_cache()
    (given,) = engine.infer({name: network.images(1)}).values()
    assert np.isfinite(given).all()


def test_a_bound_on_its_memory_is_kept(case: tuple[EngineName, Precision], network: Network) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    name, precision = case
    try:
        with engine_class(name)(network.file(name, precision), precision=precision, threads=1, gpu_mb=64) as engine:
            images = np.zeros((20_000, 3, SIDE, SIDE), np.float32)
            with pytest.raises(errors.EngineFailed, match=f"(?i){name} failed: .*memory"):
                engine.infer({engine.inputs[0].name: images})
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_launch_in_a_process_of_its_own_is_measured_with_the_gpu(
    case: tuple[EngineName, Precision], engine: Engine, network: Network
) -> None:
    name, precision = case
    order = LaunchOrder(
        candidate=Candidate(engine=name, precision=precision, batch_size=8, threads=1),
        round=1,
        artifact=str(network.file(name, precision)),
        inputs=engine.inputs,
        seed=0,
        calls=100_000,
        warmup_least=10,
        max_seconds=3.0,
    )
    launched = child.run("benchmarker.candidate", order, Launched, limits=child.Limits(wall_s=300))
    assert launched.device == "CUDA:0"
    block = launched.block
    if gpu.described() is None:
        assert (block.gpu_util_pct, block.vram_mb, block.power_w) == (None, None, None)
        pytest.skip("nvidia-ml-py is not installed: the figures are rightly `not measured`, their values are not seen")
    assert block.vram_mb is not None and block.vram_mb > 50
    assert block.gpu_util_pct is None or 0 < block.gpu_util_pct <= 100
    assert block.power_w is None or 5 < block.power_w < 2000
