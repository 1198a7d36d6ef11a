"""TensorRT: an ONNX file as a plan for this very GPU, built once by a job, kept, and only loaded from then on.

Never run: TensorRT could not be installed where this was written. It keeps to the part of the API that 10 and 11 share:
a strongly typed network, so that the file's own types (FP16 in an FP16 file) are the arithmetic. A plan is executable
content: it is only ever read from the folder that `prepare` writes, never from an upload.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from shared import config, errors, gpu
from shared.engines.base import Active, Engine, Feeds, Tensor, axis_name, numpy_dtype
from shared.specs import PLAN_BATCHES, Precision, TensorInfo, canonical_json

WORKSPACE = 1 << 30
"""Bytes of the GPU that a layer may use for itself."""
KEPT_PLANS = 32
"""Those that were loaded last."""


class TensorRt(Engine):
    """One context and one stream; calls take turns on them. Inputs and outputs pass through pinned memory."""

    name = "tensorrt"
    modules = ("tensorrt", "cuda.bindings.runtime")
    takes_gpu = True

    _engine: Any = None
    _context: Any = None
    _stream: Any = None

    @classmethod
    def unavailable(cls, precision: Precision) -> str | None:
        """Why it cannot run in this precision here; None when it can."""
        if importlib.util.find_spec("tensorrt") is None:
            return "the tensorrt package is not installed"
        if importlib.util.find_spec("cuda") is None:
            return "the cuda-python package is not installed"
        if gpu.described() is None:
            return "there is no NVIDIA GPU here"
        return (
            "it takes INT8 with signed activations only, and the INT8 files here have unsigned ones"
            if (precision == "int8")
            else None
        )

    def prepare(self) -> None:
        """Build the plan where there is none for this file, GPU, driver and version; takes minutes.

        Raises:
            errors.EngineUnavailable: The engine cannot run here.
            errors.BadModel: TensorRT cannot take this model.
        """
        super().prepare()
        path = self._plan()
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            plan = _built(self.artifact.read_bytes(), path.parent / f"timing-{self._machine()}")
        except errors.AppError:
            raise
        except Exception as error:
            raise errors.BadModel(f"tensorrt cannot build a plan: {self._plain(error)}") from error
        _write(path, plan)
        plans = sorted(path.parent.glob("*.plan"), key=lambda each: each.stat().st_mtime, reverse=True)
        for old in plans[KEPT_PLANS:]:
            old.unlink(missing_ok=True)

    def _plan(self) -> Path:
        """Where the plan is kept: everything that it depends on is in its name."""
        with self.artifact.open("rb") as file:
            model = hashlib.file_digest(file, hashlib.sha256).hexdigest()
        facts = {"model": model, "precision": self.precision, "batches": PLAN_BATCHES, "workspace": WORKSPACE}
        name = hashlib.sha256(canonical_json(facts | {"machine": self._machine()})).hexdigest()
        return config.load().plans / f"{name}.plan"

    @staticmethod
    def _machine() -> str:
        """GPU, driver and versions, in short."""
        versions = [importlib.metadata.version(name) for name in ("tensorrt", "cuda-python") if _installed(name)]
        facts = [gpu.described(), platform.machine(), platform.system(), *versions, _trt().__version__]
        return hashlib.sha256(canonical_json(facts)).hexdigest()[:16]

    def _activate(self) -> Active:
        trt, cuda = _trt(), _cuda()
        path = self._plan()
        if not path.is_file():
            raise errors.EngineUnavailable(
                "tensorrt has no plan of this model for this GPU, driver and version; a benchmark builds one."
            )
        os.utime(path)
        self._lock, self._buffers = threading.Lock(), dict[str, _Buffer]()
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = _there(self._runtime.deserialize_cuda_engine(path.read_bytes()), "the plan does not load")
        self._context = _there(self._engine.create_execution_context(), "there is no memory for the plan")
        (self._stream,) = _call(cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking))
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        taken = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        return Active(
            inputs=[self._info(name) for name in taken],
            outputs=[self._info(name) for name in names if name not in taken],
            provider="TensorRT",
            device="CUDA:0",
        )

    def _info(self, name: str) -> TensorInfo:
        dtype = np.dtype(_trt().nptype(self._engine.get_tensor_dtype(name)))
        shape = [
            axis_name(name, axis, None) if size < 0 else int(size)
            for axis, size in enumerate(self._engine.get_tensor_shape(name))
        ]
        return TensorInfo(name=name, dtype=numpy_dtype(name, dtype), shape=shape)

    def _infer(self, feeds: Feeds) -> dict[str, Tensor]:
        cuda = _cuda()
        with self._lock:
            for name, array in feeds.items():
                if not self._context.set_input_shape(name, array.shape):
                    raise ValueError(f"the plan takes at most {PLAN_BATCHES[-1]} images, given {list(array.shape)}")
                buffer = self._buffer(name, array.nbytes)
                buffer.host[: array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
                kind = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
                _call(cuda.cudaMemcpyAsync(buffer.device, buffer.pinned, array.nbytes, kind, self._stream))
            gives = {info.name: self._sized(info) for info in self.outputs}
            if not self._context.execute_async_v3(int(self._stream)):
                raise RuntimeError("the plan could not be run")
            for name, (nbytes, _) in gives.items():
                buffer, kind = self._buffers[name], cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
                _call(cuda.cudaMemcpyAsync(buffer.pinned, buffer.device, nbytes, kind, self._stream))
            _call(cuda.cudaStreamSynchronize(self._stream))
            return {
                info.name: self._buffers[info.name].host[:nbytes].view(info.dtype).reshape(shape).copy()
                for info, (nbytes, shape) in zip(self.outputs, gives.values(), strict=True)
            }

    def _sized(self, info: TensorInfo) -> tuple[int, tuple[int, ...]]:
        """Bytes and shape of an output, for the inputs' shapes; its buffer is there then."""
        shape = tuple(int(size) for size in self._context.get_tensor_shape(info.name))
        if any(size < 0 for size in shape):
            raise ValueError(f"how large {info.name!r} is shows only while the model runs")
        nbytes = int(np.prod(shape)) * np.dtype(info.dtype).itemsize
        self._buffer(info.name, nbytes)
        return nbytes, shape

    def _buffer(self, name: str, nbytes: int) -> _Buffer:
        """One that is large enough; it stays for the next call."""
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer.host) < nbytes:
            if buffer is not None:
                del self._buffers[name]
                buffer.free()
            buffer = self._buffers[name] = _Buffer.of(max(1, nbytes))
            if not self._context.set_tensor_address(name, int(buffer.device)):
                raise RuntimeError(f"the plan takes no memory for {name!r}")
        return buffer

    def _deactivate(self) -> None:
        for buffer in getattr(self, "_buffers", {}).values():
            buffer.free()
        self._buffers = {}
        self._context = self._engine = self._runtime = None
        if self._stream is not None:
            _cuda().cudaStreamDestroy(self._stream)
            self._stream = None


class _Buffer(NamedTuple):
    """Memory of the GPU and as much of pinned memory."""

    device: Any
    pinned: Any
    host: npt.NDArray[np.uint8]
    """The pinned memory, as an array."""

    @classmethod
    def of(cls, nbytes: int) -> _Buffer:
        (device,) = _call(_cuda().cudaMalloc(nbytes))
        (pinned,) = _call(_cuda().cudaMallocHost(nbytes))
        return cls(device, pinned, np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(int(pinned))))

    def free(self) -> None:
        _cuda().cudaFree(self.device)
        _cuda().cudaFreeHost(self.pinned)


def _built(model: bytes, timing: Path) -> bytes:
    """The plan of a model; what was found out about single layers is kept in `timing` for the next one."""
    trt = _trt()
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        raise ValueError("; ".join(str(parser.get_error(index)) for index in range(parser.num_errors)))
    settings = builder.create_builder_config()
    settings.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE)
    settings.clear_flag(trt.BuilderFlag.TF32)  # FP32 is FP32
    known = settings.create_timing_cache(timing.read_bytes() if timing.exists() else b"")
    settings.set_timing_cache(known, False)
    profile, free = builder.create_optimization_profile(), False
    for index in range(network.num_inputs):
        given = network.get_input(index)
        first, *rest = (int(size) for size in given.shape)
        if any(size < 0 for size in rest):
            raise ValueError(f"input {given.name!r} leaves more than the batch open; export it with fixed sizes")
        free = free or first < 0
        profile.set_shape(given.name, *((batch if first < 0 else first, *rest) for batch in PLAN_BATCHES))
    if free and settings.add_optimization_profile(profile) < 0:
        raise ValueError("the sizes of its inputs contradict one another")
    plan = _there(builder.build_serialized_network(network, settings), "no kernels fit it")
    with contextlib.suppress(OSError):
        _write(timing, bytes(settings.get_timing_cache().serialize()))
    return bytes(plan)


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def _there(thing: Any, otherwise: str) -> Any:
    """TensorRT answers None where others raise."""
    if thing is None:
        raise RuntimeError(otherwise)
    return thing


def _call(answer: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a call to CUDA gives besides its status, which is raised where it is an error."""
    status, *rest = answer
    if int(status):
        raise RuntimeError(f"CUDA: {getattr(status, 'name', status)}")
    return tuple(rest)


def _trt() -> Any:
    import tensorrt

    return tensorrt


def _cuda() -> Any:
    from cuda.bindings import runtime

    return runtime


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
