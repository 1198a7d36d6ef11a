"""What an examination feeds: the images of the test split, or input drawn from a seed; alike for every engine."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarker import ExamineOrder
from benchmarker.testsplit import Asked, asked
from shared.engines import Feeds, Tensor
from shared.engines.timing import synthetic_feeds
from shared.runtime import Runtime
from shared.specs import UNFIT, Sample
from shared.vision.boxes import Placement
from shared.vision.preprocess import placement, preprocess, shape
from shared.vision.samples import SampleImages, read_index

AT_ONCE = 16
"""Images of the test split in one call, at most."""


class Inputs:
    """What is fed: rows of the test split where there is one, else drawn from the seed; equal in every examination."""

    def __init__(self, order: ExamineOrder, runtime: Runtime) -> None:

        self._order, self._runtime = order, runtime
        self._images: SampleImages | None = None
        self.asked = Asked([], 0)
        if order.dataset is not None:
            self._index = read_index(Path(order.dataset.index))
            self.asked = asked(self._index, order.seed)
            self._images = SampleImages(Path(order.dataset.archive), Path(order.dataset.pack))
        usable = order.description.preprocessing is not None and self.asked.samples
        self.source = "real" if usable else "synthetic"
        self._rows: Feeds = {}

    def __enter__(self) -> Inputs:
        return self

    def __exit__(self, *_: object) -> None:
        if self._images is not None:
            self._images.__exit__()

    def unfit(self) -> str | None:
        """Why the test split cannot be answered, for all engines alike."""
        contract = self._order.description.preprocessing
        if contract is None:
            return f"{UNFIT}the model takes no images (it has no preprocessing contract); order without dataset_id."
        if not self.asked.samples:
            return f"{UNFIT}the test split is empty."
        if not self._runtime.splits:
            return f"{UNFIT}the model does not answer a batch row by row."
        dimensions = len(self._order.description.outputs[0].shape)
        if self._order.task_type == "classification":
            return None if dimensions == 2 else f"{UNFIT}the first output is not one row an image."
        return None if contract.detection else f"{UNFIT}nobody knows how its output holds boxes."

    def calibration(self) -> list[Sample] | None:
        """Samples that INT8 was calibrated with; None where that was not recorded."""
        places = self._order.calibration
        return None if places is None else [self._index.samples[place] for place in places]

    def wanted_classes(self, count: int) -> list[int]:
        """The model's ids of the true classes of the first `count` images."""
        assert self._order.dataset is not None
        ids = self._order.dataset.class_ids
        return [-2 if sample.class_id is None else ids[sample.class_id] for sample in self.asked.samples[:count]]

    def renamed(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Boxes with the dataset's classes; others are left out, since nobody has marked such objects."""
        assert self._order.dataset is not None
        places = {model_id: place for place, model_id in enumerate(self._order.dataset.class_ids)}
        classes = np.array([places.get(int(each), -1) for each in rows[:, 5]], np.float32)
        known = rows[classes >= 0].copy()
        known[:, 5] = classes[classes >= 0]
        return known

    def real(self, batch: int) -> Feeds:
        """So many rows; of a test split with fewer images they come again."""
        if self.source == "synthetic":
            return self._drawn(batch)
        name = self._order.inputs[0].name
        have = self._rows.get(name)
        if have is None or len(have) < min(batch, len(self.asked.samples)):
            self._rows = {name: self._prepared(0, batch)[0]}
        rows = self._rows[name]
        return {name: np.ascontiguousarray(rows[np.arange(batch) % len(rows)])}

    def _drawn(self, rows: int) -> Feeds:
        """Rows from the seed; where the model's batch is fixed, those of as many batches as it takes."""
        inputs, seed = self._order.inputs, self._order.seed
        batch = next((size for size in inputs[0].shape[:1] if isinstance(size, int)), rows)
        if batch == rows:
            return synthetic_feeds(inputs, rows, seed)
        drawn = [synthetic_feeds(inputs, batch, seed + more) for more in range(math.ceil(rows / batch))]
        return {name: np.concatenate([feeds[name] for feeds in drawn])[:rows] for name in drawn[0]}

    def extreme(self, batch: int) -> Iterator[tuple[str, Feeds]]:
        """Named inputs at the ends of what the model can be sent."""
        drawn = synthetic_feeds(self._order.inputs, batch, self._order.seed + 1)
        low, high = self._range()
        for name, share in (("the darkest input", 0.0), ("the brightest input", 1.0), ("noise", None)):
            feeds = {}
            for key, array in drawn.items():
                if array.dtype.kind == "f":
                    spread = array.astype(np.float32) if share is None else np.full(array.shape, share, np.float32)
                    feeds[key] = (low + spread * (high - low)).astype(array.dtype)
                else:
                    top = 255 if array.dtype == np.uint8 else 1
                    feeds[key] = array if share is None else np.full_like(array, int(share * top))
            yield name, feeds

    def _range(self) -> tuple[float, float]:
        """Between what a black and a white pixel become; without a contract -10 to 10, far beyond normalised data."""
        contract = self._order.description.preprocessing
        if contract is None:
            return -10.0, 10.0
        mean, std = np.asarray(contract.mean), np.asarray(contract.std)
        ends = np.concatenate([(0.0 - mean) / std, (255.0 * contract.scale - mean) / std])
        return float(ends.min()), float(ends.max())

    def batches(self, seconds: float) -> Iterator[tuple[Feeds, list[Placement]]]:
        """The test split, some images at a time, none begun after so many seconds; with where the originals lie."""
        end = time.monotonic() + seconds
        step = min(AT_ONCE, max(self._order.batches[-1], 1))
        for start in range(0, len(self.asked.samples), step):
            if start and time.monotonic() > end:
                return
            rows, places = self._prepared(start, step)
            yield {self._order.inputs[0].name: rows}, places

    def _prepared(self, start: int, count: int) -> tuple[Tensor, list[Placement]]:

        contract = self._order.description.preprocessing
        assert contract is not None and self._images is not None
        samples = self.asked.samples[start : start + count]
        rows, places = np.empty((len(samples), *shape(contract)), contract.dtype), []
        for sample, row in zip(samples, rows, strict=True):
            picture = self._images.picture(sample, contract)
            preprocess(picture, contract, row)
            place = placement(picture.size, contract.resize)
            # the frame of a video is kept scaled down, and its objects are marked in the original's pixels
            across, down = picture.size[0] / sample.width, picture.size[1] / sample.height
            places.append(
                place._replace(
                    scale_x=place.scale_x * across,
                    scale_y=place.scale_y * down,
                    width=sample.width,
                    height=sample.height,
                )
            )
        return rows, places
