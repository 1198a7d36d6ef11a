"""The GPUs, as NVIDIA's management library sees them; the one file that asks it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import msgspec

MB = 2**20

SLOWED_BY = {
    0x04: "its power limit",
    0x08: "a hardware slowdown",
    0x20: "heat",
    0x40: "heat (hardware)",
    0x80: "the power supply",
}
"""Bits of `nvmlClocksThrottleReasons` (nvml.h) that mean less than full speed."""

logger = logging.getLogger(__name__)


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU now; None where the device does not tell."""

    index: int
    name: str
    util_pct: float | None
    memory_used_mb: int | None
    memory_total_mb: int | None
    power_w: float | None
    temperature_c: float | None


def figures() -> list[Gpu] | None:
    """Every GPU now; None without one, or without the library that asks."""
    with _library() as nvml:
        if nvml is None:
            return None
        return [_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount())] or None
    return None  # the library failed half-way; `_library` said so


def described() -> str | None:
    """The first GPU and its driver; None without one, or without the library that asks."""
    with _library() as nvml:
        if nvml is None:
            return None
        name = nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(0))
        return f"{name}, driver {nvml.nvmlSystemGetDriverVersion()}"
    return None


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """Who uses the GPUs now, and what slows them down."""

    processes: int
    """That compute on one of them."""
    slowed_by: list[str]
    """Reasons in force, in words."""


def use() -> Use | None:
    """Of all GPUs together; None without one, or without the library that asks."""
    with _library() as nvml:
        if nvml is None:
            return None
        devices = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        running, reasons = 0, 0
        for device in devices:
            with contextlib.suppress(nvml.NVMLError):
                running += len(nvml.nvmlDeviceGetComputeRunningProcesses(device))
            with contextlib.suppress(nvml.NVMLError):
                reasons |= nvml.nvmlDeviceGetCurrentClocksThrottleReasons(device)
        return Use(processes=running, slowed_by=[told for bit, told in SLOWED_BY.items() if reasons & bit])
    return None  # the library failed half-way; `_library` said so


def _gpu(nvml: Any, index: int) -> Gpu:
    device = nvml.nvmlDeviceGetHandleByIndex(index)

    def ask(call: Any, *args: Any) -> Any:
        with contextlib.suppress(nvml.NVMLError):  # "not supported" is common: each figure for itself
            return call(device, *args)
        return None

    used = ask(nvml.nvmlDeviceGetUtilizationRates)
    memory = ask(nvml.nvmlDeviceGetMemoryInfo)
    power_mw = ask(nvml.nvmlDeviceGetPowerUsage)
    return Gpu(
        index=index,
        name=str(ask(nvml.nvmlDeviceGetName)),
        util_pct=None if used is None else float(used.gpu),
        memory_used_mb=None if memory is None else memory.used // MB,
        memory_total_mb=None if memory is None else memory.total // MB,
        power_w=None if power_mw is None else power_mw / 1000,
        temperature_c=ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
    )


@contextlib.contextmanager
def _library() -> Iterator[Any]:
    """The library, open; None where it is not installed or finds no driver."""
    try:
        import pynvml
    except ImportError:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    except pynvml.NVMLError as error:
        logger.warning("the GPU cannot be read", extra={"error": str(error)})
    finally:
        pynvml.nvmlShutdown()
