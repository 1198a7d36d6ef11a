"""The engines this version has, and why one of them cannot run here."""

from __future__ import annotations

from shared.engines.base import Active, Engine, Feeds, Tensor, check_feeds, describe
from shared.engines.onnxrt import OnnxRuntime, Reference
from shared.engines.openvino import OpenVino
from shared.engines.pytorch import PyTorch
from shared.engines.tensorrt import TensorRt
from shared.specs import ENGINES, EngineName, Precision

__all__ = [
    "Active",
    "Engine",
    "Feeds",
    "Reference",
    "Tensor",
    "availability",
    "check_feeds",
    "describe",
    "engine_class",
    "unavailable",
]

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
_CLASSES: dict[EngineName, type[Engine]] = {
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "pytorch": PyTorch,
    "tensorrt": TensorRt,
}


def engine_class(name: EngineName) -> type[Engine]:
    """The class of an engine."""
    return _CLASSES[name]


def unavailable(name: EngineName, precision: Precision) -> str | None:
    """Why an engine cannot run in a precision on this machine; None when it can."""
    return _CLASSES[name].unavailable(precision)


def availability() -> list[tuple[EngineName, Precision, str | None]]:
    """Every engine and precision, with the reason where it cannot run here."""
    return [(name, precision, unavailable(name, precision)) for name in ENGINES for precision in PRECISIONS]
