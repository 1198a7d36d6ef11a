"""The machine and the software a measurement was made with."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import psutil

from shared import config, gpu
from shared.specs import SystemInfo, canonical_json

ENGINES = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-cu13", "torch")
OTHERS = ("numpy", "onnx", "pillow")


def system_info() -> SystemInfo:
    """This machine now.

    The fingerprint covers processor, cores, GPU with its driver and the engines' versions; not memory, kernel, Python
    or the other libraries, whose updates leave a measurement valid.
    """
    cpu, cores, card, engines = _cpu(), config.cores(), gpu.described(), _versions(ENGINES)
    stable = canonical_json({"cpu": cpu, "cores": cores, "gpu": card, "engines": engines})
    return SystemInfo(
        fingerprint=hashlib.sha256(stable).hexdigest()[:16],
        cpu=cpu,
        cores=cores,
        memory_mb=psutil.virtual_memory().total // 2**20,
        os=_os(),
        python=platform.python_version(),
        gpu=card,
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
