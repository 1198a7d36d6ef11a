"""The machine and the software a measurement was made with."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import psutil

from shared import config
from shared.specs import SystemInfo, canonical_json

ENGINES = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-cu13", "torch")
OTHERS = ("numpy", "onnx", "pillow")

logger = logging.getLogger(__name__)


def system_info() -> SystemInfo:
    """This machine now.

    The fingerprint covers processor, cores, GPU with its driver and the engines' versions; not memory, kernel, Python
    or the other libraries, whose updates leave a measurement valid.
    """
    cpu, cores, gpu, engines = _cpu(), config.cores(), _gpu(), _versions(ENGINES)
    stable = canonical_json({"cpu": cpu, "cores": cores, "gpu": gpu, "engines": engines})
    return SystemInfo(
        fingerprint=hashlib.sha256(stable).hexdigest()[:16],
        cpu=cpu,
        cores=cores,
        memory_mb=psutil.virtual_memory().total // 2**20,
        os=_os(),
        python=platform.python_version(),
        gpu=gpu,
        versions=engines | _versions(OTHERS),
    )


def _cpu() -> str:
    """The processor's own name; ARM kernels give none, the architecture stands in."""
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"{found[1].strip()} ({platform.machine()})" if found else platform.machine()


def _os() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    return f"{name}, kernel {platform.release()}"


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _gpu() -> str | None:
    """The first GPU and its driver; None without one, or without the library that asks."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        name = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))
        return f"{name}, driver {pynvml.nvmlSystemGetDriverVersion()}"
    except pynvml.NVMLError as error:
        logger.warning("the GPU cannot be read", extra={"error": str(error)})
        return None
    finally:
        pynvml.nvmlShutdown()
