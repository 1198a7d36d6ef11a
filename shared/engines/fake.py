"""An engine without a library, for tests of everything around engines: mean over pixels, late or failing on demand."""

from __future__ import annotations

import time
from pathlib import Path
from typing import cast

import numpy as np

from shared.engines.base import Active, Engine, Feeds, Tensor
from shared.specs import Precision, TensorInfo


class Fake(Engine):
    """Takes `image`, float32 `[batch, 3, 8, 8]`, and gives `scores`, float32 `[batch, 3]`: each channel's mean.

    Args:
        artifact: Any file that exists.
        precision: Only fp32 is available.
        threads: Ignored.
        delay_s: How long each `infer` takes.
        failure: Raised by each `infer`.
        broken: Raised by `activate`.
    """

    name = "fake"

    def __init__(
        self,
        artifact: Path,
        *,
        precision: Precision = "fp32",
        threads: int = 1,
        delay_s: float = 0.0,
        failure: Exception | None = None,
        broken: Exception | None = None,
    ) -> None:
        super().__init__(artifact, precision=precision, threads=threads)
        self.delay_s, self.failure, self.broken = delay_s, failure, broken

    @classmethod
    def unavailable(cls, precision: Precision) -> str | None:
        """Anything but fp32 is not there."""
        return None if precision == "fp32" else f"the fake engine has no {precision.upper()}"

    def _activate(self) -> Active:
        if self.broken is not None:
            raise self.broken
        return Active(
            inputs=[TensorInfo(name="image", dtype="float32", shape=["batch", 3, 8, 8])],
            outputs=[TensorInfo(name="scores", dtype="float32", shape=["batch", 3])],
            provider="Fake",
            device="CPU",
        )

    def _infer(self, feeds: Feeds) -> dict[str, Tensor]:
        if self.delay_s:
            time.sleep(self.delay_s)
        if self.failure is not None:
            raise self.failure
        image = cast("np.ndarray[tuple[int, ...], np.dtype[np.float32]]", feeds["image"])
        return {"scores": image.mean(axis=(2, 3), dtype=np.float32)}

    def _deactivate(self) -> None:
        """There is nothing to let go of."""
