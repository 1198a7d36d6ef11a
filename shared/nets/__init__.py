"""The one door to PyTorch: networks built by name, read from files that nobody vouches for, turned into ONNX.

This module and `kinds` import no PyTorch; the others do, so they are imported where they are used, in a child. A child
that shuts itself in calls `settle` before it imports them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator

NOWHERE = "/"
"""A folder that exists, in which a process that is shut in can write nothing."""
THREADS = min(4, os.cpu_count() or 1)
"""Each thread takes address space, which a child is limited in; a conversion is mostly one thread's work."""

OUT_OF_MEMORY = ("allocate memory", "out of memory")
"""In what PyTorch says when there is none left, of the machine and of a GPU."""


def missing(then: str = "upload again") -> str | None:
    """What to do where PyTorch is not installed, and what after that; None where it is."""
    if all(importlib.util.find_spec(name) for name in ("torch", "torchvision", "timm", "onnxscript", "safetensors")):
        return None
    return f"PyTorch is not installed here: run `make setup-train` and {then}."


def settle() -> None:
    """Keep PyTorch and ONNX Runtime from looking for compilers, caches and temporary files where none may be made.

    Changes this process: its PATH is empty from now on. Call it before either library is imported.
    """
    os.environ |= {"PATH": "", "TORCHINDUCTOR_CACHE_DIR": NOWHERE, "ORT_DISABLE_TELEMETRY": "1"}
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(THREADS))
    tempfile.tempdir = NOWHERE


@contextlib.contextmanager
def allocations() -> Iterator[None]:
    """PyTorch tells that memory has run out with a RuntimeError like any other; here it becomes a MemoryError."""
    try:
        yield
    except RuntimeError as error:
        if not any(text in str(error) for text in OUT_OF_MEMORY):
            raise
        raise MemoryError(str(error)) from error
