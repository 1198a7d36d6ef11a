"""Batches of a dataset's prepared copies: decoded, varied and prepared by threads a few batches ahead.

Which image comes when, and how it is varied, is drawn from the seed and the epoch before anything starts; so a batch is
the same whatever thread makes it, and however often the training was interrupted before.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from shared import errors
from shared.specs import Augmentation, Preprocessing, Sample
from shared.vision import augmentation
from shared.vision.decode import decode
from shared.vision.preprocess import preprocess, shape
from trainer.sampling import Places

if TYPE_CHECKING:
    from PIL import Image

Tensor = npt.NDArray[np.float32]

Floats = npt.NDArray[np.float32]

MOST_WORKERS = 16
CACHE_BYTES = 512 * 2**20
"""Decoded pixels that are held, so that a small dataset is decoded once."""

AHEAD = 2
"""Batches beyond one a worker."""


def workers_for(threads: int, on_gpu: bool) -> int:
    """Threads that prepare images: on a processor they share its cores with the network."""
    return max(1, min(MOST_WORKERS, threads if on_gpu else threads // 2))


class Batch(NamedTuple):
    """Some images in one piece."""

    images: npt.NDArray[np.float32]
    """`[B, C, H, W]`, as the network takes them."""
    targets: npt.NDArray[np.int64] | npt.NDArray[np.float32]
    """What is true of each: its class, `[B]`; of a scene its objects, `[B, most, 5]` (`scenes.Scenes`)."""
    places: Places
    """`[B]`, in the list of samples."""


class Images:
    """The images of some samples with a class each, from the dataset's pack; several threads may ask.

    Args:
        pack: The file with the prepared copies.
        samples: Of the pack.
        contract: How images become tensors: float32, channels first.
    """

    def __init__(self, pack: Path, samples: Sequence[Sample], contract: Preprocessing) -> None:
        """Open the pack.

        Raises:
            errors.BadDataset: It is gone.
        """
        self.samples, self.contract = samples, contract
        self.labels = np.array([sample.class_id or 0 for sample in samples], np.int64)
        self._lock = threading.Lock()
        self._decoded: dict[int, Image.Image] = {}
        self._room = CACHE_BYTES
        try:
            self._pack = pack.open("rb")
        except OSError as error:
            raise errors.BadDataset("The dataset's files are gone or damaged; upload it again.") from error

    def close(self) -> None:
        """Let go of the file."""
        self._pack.close()

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, places: Places, kind: Augmentation = "none", draws: npt.NDArray[np.float32] | None = None) -> Batch:
        """Some images, each prepared as one that is sent for a prediction, after it was varied.

        Args:
            places: Which, `[B]`.
            kind: How they are varied.
            draws: `[B, augmentation.DRAWS]`; needed unless `kind` is `none`.

        Raises:
            errors.AppError: One cannot be read or decoded.
        """
        images = np.empty((len(places), *shape(self.contract)), np.float32)
        varied = [None] * len(places) if draws is None else draws
        truths = [
            self._fill(out, place, kind, drawn)
            for out, place, drawn in zip(images, places.tolist(), varied, strict=True)
        ]
        return Batch(images, self._joined(truths), places)

    def _fill(self, out: Floats, place: int, kind: Augmentation, draws: Floats | None) -> Any:
        """Write an image into its row of a batch; what is true of it, as it was varied."""
        image = self._image(place)
        if draws is not None:
            image = augmentation.augmented(image, kind, draws)
        preprocess(image, self.contract, out)
        return self.labels[place]

    def _joined(self, truths: list[Any]) -> npt.NDArray[np.int64] | npt.NDArray[np.float32]:
        return np.array(truths, np.int64)

    def _image(self, place: int) -> Image.Image:
        if (known := self._decoded.get(place)) is not None:
            return known
        sample = self.samples[place]
        with self._lock:
            self._pack.seek(sample.offset)
            data = self._pack.read(sample.size)
        if len(data) != sample.size:
            raise errors.BadDataset("The dataset's prepared copies are cut off; upload it again.")
        image = decode(data, self.contract.color)
        size = image.width * image.height * len(image.getbands())
        with self._lock:
            if size <= self._room and place not in self._decoded:
                self._decoded[place] = image
                self._room -= size
        return image


class Loader:
    """Prepares batches ahead of whoever takes them; at most `AHEAD` and one a worker wait at a time."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool = ThreadPoolExecutor(workers, "batches")

    def close(self) -> None:
        """Wait for what is being prepared, and end the threads."""
        self._pool.shutdown(cancel_futures=True)

    def load(
        self,
        images: Images,
        batches: Sequence[Places],
        kind: Augmentation = "none",
        draws: npt.NDArray[np.float32] | None = None,
    ) -> Iterator[Batch]:
        """The batches in their order.

        Args:
            images: Where they come from.
            batches: Places of the images of each.
            kind: How they are varied.
            draws: `[n, augmentation.DRAWS]` for all images of all batches, in that order.

        Raises:
            errors.AppError: An image cannot be read or decoded.
        """
        waiting: deque[Future[Batch]] = deque()
        at = 0
        try:
            for places in batches:
                rows = None if draws is None else draws[at : at + len(places)]
                at += len(places)
                waiting.append(self._pool.submit(images.batch, places, kind, rows))
                if len(waiting) >= self.workers + AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def draws_of(count: int, seed: int, epoch: int) -> npt.NDArray[np.float32]:
    """The numbers by which an epoch's images are varied, `[count, augmentation.DRAWS]`."""
    return np.random.default_rng((seed, epoch, 1)).random((count, augmentation.DRAWS), np.float32)
