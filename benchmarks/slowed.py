"""One launch of a candidate whose every call takes a share longer: what a slower engine looks like, and nothing else.

The share comes from the environment, so that the order stays the product's own.
"""

from __future__ import annotations

import os
import time

from benchmarker import Launched, LaunchOrder
from benchmarker.candidate import launch
from shared import child, engines
from shared.engines import Feeds, Tensor
from shared.engines.onnxrt import OnnxRuntime

LONGER = "CVP_REFEREE_LONGER"


class Slowed(OnnxRuntime):
    """ONNX Runtime that stays busy after each call."""

    def _infer(self, feeds: Feeds) -> dict[str, Tensor]:
        begin = time.perf_counter()
        answer = super()._infer(feeds)
        end = begin + (time.perf_counter() - begin) * (1 + float(os.environ[LONGER]))
        while time.perf_counter() < end:
            pass
        return answer


def slowed(order: LaunchOrder, _report: child.Report) -> Launched:
    engines._CLASSES["onnxruntime"] = Slowed  # of this process alone
    return launch(order)


if __name__ == "__main__":
    child.main(LaunchOrder, slowed)
