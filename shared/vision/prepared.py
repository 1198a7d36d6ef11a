"""A sample as it is kept: its prepared copy, its perceptual hash, its channel statistics and a small picture of it."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from shared.specs import Task
from shared.vision.decode import decode_reduced, is_decoded

SHORTER = 256
"""Pixels of the shorter side of a prepared copy for classification."""

LONGER = 640
"""Pixels of the longer side of a prepared copy for detection."""

MOST_KEPT_BYTES = 1024 * 1024
"""A small picture in a larger file than this carries something else; it is written anew."""

JPEG_QUALITY = 90
HASH_SIDE = 8

Triple = tuple[float, float, float]
_LEVELS = np.arange(256) / 255


class Prepared(NamedTuple):
    """What one pass over an image yields."""

    width: int
    height: int
    """Of the upright original."""
    data: bytes
    """The prepared copy, an image file."""
    dhash: int
    mean: Triple
    mean_of_squares: Triple
    """Of the RGB channels, 0 to 1."""
    image: Image.Image
    """The prepared copy's pixels."""


def prepare(data: bytes, task: Task) -> Prepared:
    """Look at an image file once. A file that is small enough already is its own prepared copy.

    Raises:
        errors.BadImage: It cannot be decoded.
        errors.TooLarge: More pixels than `decode` takes.
    """
    image, original = decode_reduced(data, SHORTER if task == "classification" else LONGER)
    small = _scaled(image, original, task)
    as_it_is = small is image and small.size == original and len(data) <= MOST_KEPT_BYTES and is_decoded(data)
    return _described(small, original, data if as_it_is else _encoded(small))


def prepare_frame(frame: Image.Image, task: Task) -> Prepared:
    """The same for an upright RGB frame of a video."""
    small = _scaled(frame, frame.size, task)
    return _described(small, frame.size, _encoded(small))


def dhash(image: Image.Image) -> int:
    """Difference hash (Krawetz, 2013): 64 bits, row by row, set where a grey cell is darker than its right one."""
    grey = image.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX)
    cells = np.asarray(grey, np.int16)
    return int.from_bytes(np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes(), "big")


def _scaled(image: Image.Image, original: tuple[int, int], task: Task) -> Image.Image:
    """At most `SHORTER` or `LONGER`; nothing is scaled up."""
    side, most = (min(original), SHORTER) if task == "classification" else (max(original), LONGER)
    if side <= most:
        return image
    size = tuple(max(1, round(length * most / side)) for length in original)
    return image.resize((size[0], size[1]), Image.Resampling.BILINEAR)


def _encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _described(image: Image.Image, original: tuple[int, int], data: bytes) -> Prepared:
    shares = np.array(image.histogram(), np.float64).reshape(3, 256) / (image.width * image.height)
    return Prepared(
        *original,
        data=data,
        dhash=dhash(image),
        mean=_triple(shares @ _LEVELS),
        mean_of_squares=_triple(shares @ _LEVELS**2),
        image=image,
    )


def _triple(values: np.ndarray) -> Triple:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
