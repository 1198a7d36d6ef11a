"""An examination whose OpenVINO misbehaves as the order's seed says; the reference stays what it is."""

from __future__ import annotations

import time

import numpy as np

from benchmarker import Examined, ExamineOrder
from benchmarker.examination import examine
from shared import child, engines
from shared.engines.base import Active, Feeds, Tensor
from shared.engines.onnxrt import CUDA, OnnxRuntime
from shared.specs import Precision

IS_SOUND, IS_NAN_AT_8, LOSES_ACCURACY, HANGS, FALLS_BACK, CRASHES, IS_OFF, OVERFLOWS, TURNS = range(100, 109)


class Faulty(OnnxRuntime):
    """ONNX Runtime with a planted fault."""

    fault = IS_SOUND
    calls = rows = 0

    @classmethod
    def unavailable(cls, precision: Precision) -> str | None:
        return None

    def _activate(self) -> Active:
        active = super()._activate()
        return active._replace(asked=CUDA) if self.fault == FALLS_BACK else active

    def _infer(self, feeds: Feeds) -> dict[str, Tensor]:
        (image,) = feeds.values()
        outputs = {name: np.array(array) for name, array in super()._infer(feeds).items()}
        self.calls += 1
        for array in outputs.values():
            self._spoil(np.asarray(image), array)
        return outputs

    def _spoil(self, image: np.ndarray, scores: np.ndarray) -> None:
        batch = len(image)
        if self.fault == IS_NAN_AT_8 and batch == 8:
            scores[7, 0] = np.nan
        if self.fault == LOSES_ACCURACY and self.calls > 12:  # after what is compared number by number
            scores[(self.rows + np.arange(batch)) % (20 if scores.ndim == 2 else 5) == 0] *= -1
            self.rows += batch
        if self.fault == TURNS and self.calls > 12:
            scores[0] *= -1 if self.calls == 13 else 1
        if self.fault == HANGS and batch == 8:
            time.sleep(600)
        if self.fault == CRASHES and batch == 2:
            raise SystemExit("the kernel is broken")
        if self.fault == IS_OFF and batch == 2:
            scores += 0.01
        if self.fault == OVERFLOWS and float(image.min()) == float(image.max()) > 0:
            scores[...] = np.inf


def spoiled(order: ExamineOrder, report: child.Report) -> Examined:
    if order.reference is not None:
        Faulty.fault = order.seed
        engines._CLASSES["openvino"] = Faulty
    return examine(order, report)


if __name__ == "__main__":
    child.main(ExamineOrder, spoiled)
