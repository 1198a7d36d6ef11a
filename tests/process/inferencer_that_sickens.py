"""The real inferencer on an engine that breaks: `python -m tests.process.inferencer_that_sickens INDEX [SOON]`.

A tensor with a value over 1000 is what breaks it. From then on every call of this process fails, as after an error of
CUDA, though its heart beats on. Where it would end it begins anew, as supervisord would have it. With a value under
-1000 a call never returns; the watchdog has little patience here.

With SOON models that had nothing to do are probed after so many seconds. A tensor of 777 is answered; then the process
is broken and no request says so. After one of 555 only the model as it was loaded is, until it is loaded again.
"""

from __future__ import annotations

import os
import sys
import threading
from types import SimpleNamespace
from typing import Any

from inferencer import doubts, health, worker
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
        if SICK or hasattr(self, "sick"):
            raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")
        answers = infer(self, feeds)
        if any((array == 777).all() for array in feeds.values()):
            SICK.append(True)
        if any((array == 555).all() for array in feeds.values()):
            self.sick = True
        return answers

    return _infer


def again(_: int) -> None:
    """End, and begin anew."""
    os.execv(sys.executable, [sys.executable, "-m", "tests.process.inferencer_that_sickens", *sys.argv[1:]])


if __name__ == "__main__":
    engine: Any = engine_class("onnxruntime")
    engine._infer = sickening(engine._infer)
    vars(worker)["STUCK_S"] = 1.0
    if len(sys.argv) > 2:
        vars(health)["PROBE_S"] = float(sys.argv[2])
    vars(doubts)["os"] = SimpleNamespace(_exit=again)
    number = int(sys.argv[1])
    process.service(f"inferencer-{number}", lambda settings, stop: main(settings, stop, number))
