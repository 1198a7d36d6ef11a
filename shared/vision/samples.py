"""The images of a checked dataset, as they were uploaded: what calibrates a model and what it is judged by."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
from PIL import Image

from shared import errors
from shared.specs import DatasetIndex, Preprocessing, Sample
from shared.vision.decode import Picture
from shared.vision.preprocess import Tensor, preprocess, read, shape

LARGEST_IMAGE = 64 * 1024 * 1024
"""Bytes of an image file; its check refused larger ones."""


def read_index(path: Path) -> DatasetIndex:
    """The list of a dataset's samples.

    Raises:
        errors.BadDataset: The file is gone or damaged.
    """
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=DatasetIndex)
    except (OSError, msgspec.MsgspecError) as error:
        raise errors.BadDataset("The dataset's list of samples is gone or damaged; upload it again.") from error


class SampleImages:
    """Gives the image file of a sample, bounded and checked; one thread at a time.

    That of an uploaded image is the original, since the prepared copy of a large one was scaled down and a model is to
    see what it will be sent. The frame of a video is its prepared copy: no other file of it is there.

    Args:
        archive: The ZIP that was uploaded.
        pack: The prepared copies.
    """

    def __init__(self, archive: Path, pack: Path) -> None:
        """Open both.

        Raises:
            errors.BadDataset: One is gone or damaged.
        """
        try:
            self._zip = zipfile.ZipFile(archive)
            self._pack: BinaryIO = pack.open("rb")
        except (OSError, zipfile.BadZipFile) as error:
            raise errors.BadDataset("The dataset's files are gone or damaged; upload it again.") from error
        self._members = {entry.orig_filename: entry for entry in self._zip.infolist()}

    def __enter__(self) -> SampleImages:
        return self

    def __exit__(self, *_: object) -> None:
        self._pack.close()
        self._zip.close()

    def read(self, sample: Sample) -> bytes:
        """The bytes of a sample's image file.

        Raises:
            errors.BadDataset: They are not there any more, or damaged.
        """
        if sample.time_s is not None:
            self._pack.seek(sample.offset)
            return self._pack.read(sample.size)
        entry = self._members.get(sample.member)
        if entry is None or entry.file_size > LARGEST_IMAGE:
            raise errors.BadDataset(
                f"The dataset's ZIP has no usable {sample.member[:200]!r} any more; upload it again."
            )
        try:
            return self._zip.read(entry)
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise errors.BadDataset(
                f"{sample.member[:200]!r} in the dataset's ZIP is damaged; upload it again."
            ) from error

    def picture(self, sample: Sample, contract: Preprocessing) -> Picture:
        """A sample as serving would decode it; the frame of a video, whose prepared copy happens to be a JPEG, whole.

        Raises:
            errors.AppError: It cannot be read or decoded.
        """
        return read(self.read(sample), contract if sample.time_s is None else contract.reduced(1))

    def tensors(self, samples: list[Sample], contract: Preprocessing) -> Iterator[Tensor]:
        """Each sample as the model takes it, `[1, *shape]`: decoded and prepared as one that is sent for prediction.

        Raises:
            errors.AppError: One cannot be read or decoded.
        """
        for sample in samples:
            row = np.empty((1, *shape(contract)), contract.dtype)
            preprocess(self.picture(sample, contract), contract, row[0])
            yield row


def drawn_image(height: int, width: int, seed: int) -> bytes:
    """A JPEG drawn from a seed, of soft shapes as photographs have them: noise would take unusually long to decode."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
