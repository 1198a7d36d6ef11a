"""The memory of this process as the system sees it: how much is resident, and that what is free goes back."""

from __future__ import annotations

import ctypes

import psutil

from shared import gpu

TURN_S = 20.0
LEFT_MB = 512.0
"""What may stay resident beyond the models before it is worth starting again: libraries, buffers, a cache."""

MB = 2**20


class Heap:
    """What is resident, beside what the models account for. Thread-safe."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._libc = ctypes.CDLL(None)

    def resident_mb(self) -> float:
        """Memory of this process that is in RAM."""
        return float(self._process.memory_info().rss) / MB

    def on_gpu(self) -> gpu.Taken | None:
        """Memory of the GPU in use now; None where there is none."""
        return gpu.taken()

    def give_back(self) -> None:
        """Return to the system what has been freed."""
        if hasattr(self._libc, "malloc_trim"):
            self._libc.malloc_trim(0)


def may_start_again(index: int, processes: int, now_s: float) -> bool:
    """Whether it is the turn of a process of the farm to leave and come back, while the others serve.

    Args:
        index: Which of them it is.
        processes: How many there are.
        now_s: The wall clock, which is the same for all of them.
    """
    turn, since_s = divmod(now_s, TURN_S)
    return int(turn) % processes == index and since_s < TURN_S / 2
