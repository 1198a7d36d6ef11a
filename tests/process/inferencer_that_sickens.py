"""The real inferencer on an engine that breaks for good: `python -m tests.process.inferencer_that_sickens INDEX`.

A tensor with a value over 1000 is what breaks it. From then on every call of this process fails, as after an error of
CUDA, though its heart beats on. Where it would end it begins anew, as supervisord would have it. With a value under
-1000 a call never returns; the watchdog has little patience here.
"""

from __future__ import annotations

import os
import sys
import threading
from types import SimpleNamespace
from typing import Any

from inferencer import doubts, worker
from inferencer.__main__ import main
from shared import process
from shared.engines import engine_class

SICK: list[bool] = []


def sickening(infer: Any) -> Any:
    """The engine's own method, and the illness."""

    def _infer(self: Any, feeds: Any) -> Any:
        if any((array > 1000).any() for array in feeds.values()):
            SICK.append(True)
        if any((array < -1000).any() for array in feeds.values()):
            threading.Event().wait()
        if SICK:
            raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")
        return infer(self, feeds)

    return _infer


def again(_: int) -> None:
    """End, and begin anew."""
    os.execv(sys.executable, [sys.executable, "-m", "tests.process.inferencer_that_sickens", *sys.argv[1:]])


if __name__ == "__main__":
    engine: Any = engine_class("onnxruntime")
    engine._infer = sickening(engine._infer)
    vars(worker)["STUCK_S"] = 1.0
    vars(doubts)["os"] = SimpleNamespace(_exit=again)
    number = int(sys.argv[1])
    process.service(f"inferencer-{number}", lambda settings, stop: main(settings, stop, number))
