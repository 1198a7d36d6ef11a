"""Ends at once where there is no GPU: nothing was checked then, and that is no success."""

from __future__ import annotations

import pytest

from shared import gpu

NO_GPU = "There is no GPU here (NVIDIA's library finds no driver, and PyTorch no CUDA): nothing was checked."
NOTHING_CHECKED = 3


def pytest_sessionstart() -> None:
    if gpu.described() is None and not _seen_by_pytorch():
        pytest.exit(NO_GPU, returncode=NOTHING_CHECKED)


def _seen_by_pytorch() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())
