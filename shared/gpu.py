"""The GPUs, as NVIDIA's management library sees them; the one file that asks it."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

MB = 2**20
ENERGY_S = 1.0
"""Work that is shorter is not told by the energy counter, which is renewed some ten times a second."""
VALUES = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""Where a sample has its value, by its `nvmlValueType_t`."""

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
    """The GPU that engines run on, and its driver; None without one, or without the library that asks."""
    with _library() as nvml:
        if nvml is None:
            return None
        name = nvml.nvmlDeviceGetName(_ours(nvml))
        return f"{name}, driver {nvml.nvmlSystemGetDriverVersion()}"
    return None


class Taken(NamedTuple):
    """Memory in use on the GPU that engines run on, in MB; None where the device does not tell."""

    here_mb: float | None
    """By this process; not told in a container whose processes have other numbers than the driver's."""
    by_all_mb: float | None


def taken() -> Taken | None:
    """What is in use now; None without a GPU, or without the library that asks."""
    with _library() as nvml:
        if nvml is None:
            return None
        running = _asked(nvml, nvml.nvmlDeviceGetComputeRunningProcesses) or []
        ours = [each.usedGpuMemory for each in running if each.pid == os.getpid() and each.usedGpuMemory is not None]
        memory = _asked(nvml, nvml.nvmlDeviceGetMemoryInfo)
        return Taken(sum(ours) / MB if ours else None, None if memory is None else memory.used / MB)
    return None  # the library failed half-way; `_library` said so


def grown_mb(before: Taken | None, after: Taken | None) -> float | None:
    """What this process took in between: by its own account where there is one, else by that of the whole device.

    None where nobody tells. A process that was on no list before had nothing.
    """
    if before is None or after is None:
        return None
    if after.here_mb is not None:
        return max(0.0, after.here_mb - (before.here_mb or 0.0))
    if before.by_all_mb is None or after.by_all_mb is None:
        return None
    return max(0.0, after.by_all_mb - before.by_all_mb)


def total_mb() -> float | None:
    """Memory of the GPU that engines run on; None without one, or where it does not tell."""
    with _library() as nvml:
        memory = None if nvml is None else _asked(nvml, nvml.nvmlDeviceGetMemoryInfo)
        return None if memory is None else memory.total / MB
    return None  # the library failed half-way; `_library` said so


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """Who uses the GPUs now, and what slows them down."""

    processes: int
    """That compute on one of them, this one not counted."""
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
                found = nvml.nvmlDeviceGetComputeRunningProcesses(device)
                running += sum(each.pid != os.getpid() for each in found)
            with contextlib.suppress(nvml.NVMLError):
                reasons |= nvml.nvmlDeviceGetCurrentClocksThrottleReasons(device)
        return Use(processes=running, slowed_by=[told for bit, told in SLOWED_BY.items() if reasons & bit])
    return None  # the library failed half-way; `_library` said so


class Drawn(msgspec.Struct, frozen=True, kw_only=True):
    """What work took of the GPU; None where the device does not tell."""

    util_pct: float | None = None
    """Share of the time in which something ran on it, over the driver's own samples."""
    vram_mb: float | None = None
    """Memory of the device that came into use since the meter was made."""
    power_w: float | None = None
    """Mean over the time, from the device's energy counter; the mean of its own samples where it has none."""


class Meter:
    """Reads the GPU around a piece of work. It asks before and after, never meanwhile: the driver keeps samples itself.

    Made before anything is loaded, started when the work begins; without a GPU every figure is None.
    """

    def __init__(self) -> None:
        self._memory: Any = None
        self._started: tuple[int, float, int | None] | None = None
        with _library() as nvml:
            if nvml is not None:
                self._memory = _asked(nvml, nvml.nvmlDeviceGetMemoryInfo)

    def start(self) -> None:
        """The work begins now."""
        with _library() as nvml:
            if nvml is not None:
                self._started = time.time_ns(), time.monotonic(), _asked(nvml, nvml.nvmlDeviceGetTotalEnergyConsumption)

    def read(self) -> Drawn:
        """The work is done, and what it uses is still held."""
        with _library() as nvml:
            if nvml is None or self._started is None:
                return Drawn()
            began_ns, began_s, energy_mj = self._started
            memory = _asked(nvml, nvml.nvmlDeviceGetMemoryInfo)
            energy_after = _asked(nvml, nvml.nvmlDeviceGetTotalEnergyConsumption)
            elapsed_s = time.monotonic() - began_s
            power_w = _sampled(nvml, nvml.NVML_TOTAL_POWER_SAMPLES, began_ns)
            if elapsed_s >= ENERGY_S and energy_mj is not None and energy_after is not None:
                power_w = (energy_after - energy_mj) / elapsed_s
            grown = None if memory is None or self._memory is None else memory.used - self._memory.used
            return Drawn(
                util_pct=_sampled(nvml, nvml.NVML_GPU_UTILIZATION_SAMPLES, began_ns),
                vram_mb=None if grown is None else max(0, grown) / MB,
                power_w=None if power_w is None else power_w / 1000,
            )
        return Drawn()  # the library failed half-way; `_library` said so


def _sampled(nvml: Any, kind: int, since_ns: int) -> float | None:
    """Mean of the samples that the driver took since then, by the wall clock; None without one."""
    found = _asked(nvml, nvml.nvmlDeviceGetSamples, kind, since_ns // 1000)
    if found is None:
        return None
    kind_of_value, samples = found
    values = [float(getattr(each.sampleValue, VALUES[kind_of_value])) for each in samples]
    return sum(values) / len(values) if values else None


def _asked(nvml: Any, call: Any, *args: Any) -> Any:
    """The device's answer; "not supported" is common, so each figure is asked for itself, and None."""
    with contextlib.suppress(nvml.NVMLError):
        return call(_ours(nvml), *args)
    return None


def _ours(nvml: Any) -> Any:
    """The device that engines run on: the first that CUDA may see (in the order of the bus, as NVML counts)."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if first.startswith(("GPU-", "MIG-")):
        return nvml.nvmlDeviceGetHandleByUUID(first)
    return nvml.nvmlDeviceGetHandleByIndex(int(first) if first.isdigit() else 0)


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
