"""The engines this version has, and why one of them cannot run here."""

from __future__ import annotations

import importlib.util

from shared import errors
from shared.engines.base import Active, Engine, Feeds, Tensor, check_feeds, describe
from shared.engines.onnxrt import OnnxRuntime, Reference
from shared.engines.openvino import OpenVino
from shared.engines.pytorch import PyTorch
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
_CLASSES: dict[EngineName, type[Engine]] = {"onnxruntime": OnnxRuntime, "openvino": OpenVino, "pytorch": PyTorch}
_PACKAGES: dict[EngineName, str] = {"tensorrt": "tensorrt"}


def engine_class(name: EngineName) -> type[Engine]:
    """The class of an engine.

    Raises:
        errors.EngineUnavailable: This version has no such engine.
    """
    if name not in _CLASSES:
        raise errors.EngineUnavailable(f"{name} cannot run here: {unavailable(name, 'fp32')}.")
    return _CLASSES[name]


def unavailable(name: EngineName, precision: Precision) -> str | None:
    """Why an engine cannot run in a precision on this machine; None when it can."""
    if name in _CLASSES:
        return _CLASSES[name].unavailable(precision)
    if importlib.util.find_spec(_PACKAGES[name]) is None:
        return f"the {_PACKAGES[name]} package is not installed"
    return f"this version has no {name} engine yet"


def availability() -> list[tuple[EngineName, Precision, str | None]]:
    """Every engine and precision, with the reason where it cannot run here."""
    return [(name, precision, unavailable(name, precision)) for name in ENGINES for precision in PRECISIONS]
