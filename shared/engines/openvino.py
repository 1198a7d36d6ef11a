"""OpenVINO on the CPU."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections import deque
from types import ModuleType
from typing import Any, ClassVar, cast

import numpy as np

from shared.engines.base import NO_GPU, Active, Engine, Feeds, Tensor, axis_name, numpy_dtype
from shared.specs import Precision, TensorInfo

# With this package OpenVINO tells its vendor that it was imported, under an id that it keeps in the home folder. Where
# the package cannot be imported, it falls back to a stub of its own that tells nothing.
cast("dict[str, ModuleType | None]", sys.modules).setdefault("openvino_telemetry", None)


class OpenVino(Engine):
    """One compiled model with one stream; every thread that is inside `infer` holds an infer request of its own.

    The latency hint gives the model one stream: concurrent calls take turns on it, each with all `threads`.
    """

    name = "openvino"
    modules = ("openvino", "openvino.frontend")
    noise: ClassVar[re.Pattern[str]] = re.compile(
        r"^(Exception from|Check ').*$|^FrontEnd API failed with .*$", re.MULTILINE
    )

    _compiled: Any = None
    _idle: deque[Any]

    @classmethod
    def unavailable(cls, precision: Precision) -> str | None:
        """Why it cannot run in this precision here; None when it can."""
        if importlib.util.find_spec("openvino") is None:
            return "the openvino package is not installed"
        return NO_GPU if precision == "fp16" else None

    def _activate(self) -> Active:
        import openvino
        from openvino.frontend import FrontEndManager

        # The ONNX front end by name: left to guess, OpenVINO tries every format it knows on the file.
        frontend = FrontEndManager().load_by_framework("onnx")
        model = frontend.convert(frontend.load(str(self.artifact)))
        core = openvino.Core()
        self._compiled = core.compile_model(model, "CPU", _config(self.threads))
        self._idle = deque()
        return Active(
            inputs=[_info(port) for port in self._compiled.inputs],
            outputs=[_info(port) for port in self._compiled.outputs],
            provider=",".join(self._compiled.get_property("EXECUTION_DEVICES")),
            device="CPU",
        )

    def _infer(self, feeds: Feeds) -> dict[str, Tensor]:
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        # Not the synchronous `infer`: with one thread (2026.4) it swallows failures and returns uninitialised memory.
        request.start_async(feeds, share_inputs=True)
        request.wait()
        arrays = list(request.results.values())  # copies
        self._idle.append(request)  # a request whose inference failed is dropped
        return {info.name: array for info, array in zip(self.outputs, arrays, strict=True)}

    def _deactivate(self) -> None:
        self._idle = deque()
        self._compiled = None


def _config(threads: int) -> dict[str, object]:
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "EXECUTION_MODE_HINT": "ACCURACY",
        "ENABLE_CPU_PINNING": False,  # pinned, the processes of one machine all sit on the same cores
    }


def _info(port: Any) -> TensorInfo:
    name = port.any_name
    try:
        dtype: np.dtype[np.generic] | None = np.dtype(port.element_type.to_dtype())
    except RuntimeError:  # a type without a NumPy counterpart
        dtype = None
    shape = [
        axis_name(name, axis, None) if size.is_dynamic else size.get_length()
        for axis, size in enumerate(port.partial_shape)
    ]
    return TensorInfo(name=name, dtype=numpy_dtype(name, dtype), shape=shape)
