"""ONNX Runtime: the engine that serves by default, on the CPU or on CUDA."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from shared import errors
from shared.engines.base import NO_GPU, REASON_MAX, Active, Engine, Feeds, Tensor, axis_name, numpy_dtype
from shared.specs import Precision, TensorInfo

# Read when the library is loaded: without it, it makes a device id and a store of events to send to its vendor.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
FATAL = 4
"""Log level at which ONNX Runtime is silent: what matters comes as an exception."""
FP32_ON_CUDA = {"use_tf32": "0"}
"""FP32 is FP32: TF32, the default, keeps ten bits of a number."""
NAMED = 5
MB = 2**20
SPIN_US = 100
"""How long idle engine threads spin. The default burns a core beside the other processes and serves slower."""

# An Identity model (opset 13, IR 7, float [1]): the smallest thing a session can be made of.
_IDENTITY = bytes.fromhex(
    "08073a370a100a017812017922084964656e746974791201695a0f0a0178"
    "120a0a08080112040a020801620f0a0179120a0a08080112040a02080142040a00100d"
)

_DTYPES = {
    "float": "float32",
    "double": "float64",
    "float16": "float16",
    "bool": "bool",
    **{name: name for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")},
}

logger = logging.getLogger(__name__)


class OnnxRuntime(Engine):
    """One session, called by every thread: `run` is thread-safe and lets go of the interpreter lock."""

    name = "onnxruntime"
    modules = ("onnxruntime",)
    takes_gpu = True
    noise: ClassVar[re.Pattern[str]] = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
    _session: Any = None
    _names: Sequence[str] = ()
    """Of its outputs."""

    @classmethod
    def unavailable(cls, precision: Precision) -> str | None:
        """Why it cannot run in this precision here; None when it can."""
        if importlib.util.find_spec("onnxruntime") is None:
            return "the onnxruntime package is not installed"
        return NO_GPU if precision == "fp16" and not cuda_works() else None

    @classmethod
    def bring_in(cls) -> None:
        """Import the library and have CUDA start where it does: what that takes of the GPU is no model's own."""
        super().bring_in()
        with contextlib.suppress(Exception):  # `activate` says why
            cuda_works()

    def _activate(self) -> Active:
        import onnxruntime

        wanted = self._providers()
        options = _options(self.threads)
        if wanted[0] == CUDA:
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        settings = [self._on_cuda() if provider == CUDA else {} for provider in wanted]
        session = onnxruntime.InferenceSession(str(self.artifact), options, providers=wanted, provider_options=settings)
        session.disable_fallback()  # a provider that fails later is a failure, not a reason to go on with another
        provider = session.get_providers()[0]
        self._session, self._names = session, [node.name for node in session.get_outputs()]
        return Active(
            inputs=[_info(node) for node in session.get_inputs()],
            outputs=[_info(node) for node in session.get_outputs()],
            provider=provider,
            device="CUDA:0" if provider == CUDA else "CPU",
            asked=wanted[0],
            notes=_left_behind(session) if provider == CUDA else (),
        )

    def _providers(self) -> list[str]:
        """What to ask for, best first."""
        return [CUDA, CPU] if cuda_works() else [CPU]

    def _on_cuda(self) -> dict[str, str]:
        """Its settings there. A session that is bounded takes no more at a time than it needs, or it could not be."""
        if self.gpu_mb is None:
            return FP32_ON_CUDA
        bound = {"gpu_mem_limit": str(int(self.gpu_mb * MB)), "arena_extend_strategy": "kSameAsRequested"}
        return FP32_ON_CUDA | bound

    def _infer(self, feeds: Feeds) -> dict[str, Tensor]:
        # By name: asked for everything, the session looks the names up again, each call.
        return dict(zip(self._names, self._session.run(self._names, feeds), strict=True))

    def _deactivate(self) -> None:
        self._session = None


class Reference(OnnxRuntime):
    """The same on the CPU, whatever else is there: what all engines are compared with."""

    takes_gpu = False

    def _providers(self) -> list[str]:
        return [CPU]


def _left_behind(session: Any) -> tuple[str, ...]:
    """A sentence on the operators that CUDA does not run, which ONNX Runtime gives to the CPU without a word."""
    assigned = [
        (part.ep_name, node.op_type)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]
    left = [operator for provider, operator in assigned if provider != CUDA]
    if not left:
        return ()
    kinds = sorted(set(left))
    named = ", ".join(kinds[:NAMED]) + (" and others" if len(kinds) > NAMED else "")
    return (f"{len(left)} of {len(assigned)} operators run on the CPU and not on the GPU: {named}.",)


@functools.cache
def cuda_works() -> bool:
    """Whether CUDA runs here, asked of a real session: the list of providers names CUDA where no GPU is, too."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(FATAL)
    if CUDA not in onnxruntime.get_available_providers():
        return False
    onnxruntime.preload_dlls()  # finds CUDA and cuDNN where pip has put them
    session = onnxruntime.InferenceSession(_IDENTITY, _options(1), providers=[CUDA, CPU])
    works = bool(session.get_providers()[0] == CUDA)
    if not works:
        logger.warning("onnxruntime is built for CUDA, but CUDA does not start here; it runs on the CPU")
    return works


def loaded(model: bytes, threads: int = 1) -> Callable[[Feeds], dict[str, Tensor]]:
    """A model in memory made ready on the CPU, for a check before there is a file; what it returns runs it.

    Raises:
        errors.BadModel: ONNX Runtime refuses the model.
        errors.EngineFailed: Raised by the run.
    """
    import onnxruntime

    def plain(error: Exception) -> str:
        return " ".join(OnnxRuntime.noise.sub("", str(error)).split())[:REASON_MAX]

    try:
        session = onnxruntime.InferenceSession(model, _options(threads), providers=[CPU])
    except Exception as error:
        raise errors.BadModel(f"onnxruntime cannot load the model: {plain(error)}") from error
    names = [node.name for node in session.get_outputs()]

    def run(feeds: Feeds) -> dict[str, Tensor]:
        try:
            return dict(zip(names, session.run(names, feeds), strict=True))
        except Exception as error:
            raise errors.EngineFailed(f"onnxruntime failed: {plain(error)}") from error

    return run


def _options(threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = FATAL
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
    return options


def _info(node: Any) -> TensorInfo:
    kind = _DTYPES.get(node.type.removeprefix("tensor(").removesuffix(")"))
    dtype = numpy_dtype(node.name, np.dtype(kind) if kind else None)
    shape = [
        size if isinstance(size, int) else axis_name(node.name, axis, size) for axis, size in enumerate(node.shape)
    ]
    return TensorInfo(name=node.name, dtype=dtype, shape=shape)
