"""Scaling: what lies within a box of an image, at another size."""

from __future__ import annotations

import importlib.util
import math
import threading
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
"""`[height, width, channels]`, one channel or three."""

Interpolation = Literal["nearest", "bilinear", "bicubic"]


class Box(NamedTuple):
    """A part of an image, in its pixels; edges may lie between two."""

    left: float
    top: float
    right: float
    bottom: float


_PILLOWS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_VECTORED = importlib.util.find_spec("cykooz_resizer") is not None
_of_thread = threading.local()


def scaled(pixels: Pixels, size: tuple[int, int], interpolation: Interpolation, box: Box) -> Pixels:
    """What lies within `box` at `size` (width, height), antialiased where it shrinks: as Pillow's `resize`.

    Bilinear is computed with the processor's vector instructions where these are known, in a quarter of the time. Its
    weights are rounded otherwise: some samples, about one in nine, are one of 255 steps from Pillow's.
    """
    if _VECTORED and interpolation == "bilinear":
        return _vectored(pixels, size, box)
    return pixels_of(
        Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).resize(
            size, _PILLOWS[interpolation], box=box
        )
    )


def pixels_of(image: Image.Image) -> Pixels:
    """The pixels of an image in mode RGB or L."""
    return np.asarray(image).reshape(image.height, image.width, -1)


def _vectored(pixels: Pixels, size: tuple[int, int], box: Box) -> Pixels:
    """Bilinear. Of the library's bicubic, more than rounding differs from Pillow's."""
    from cykooz_resizer import CropBox, FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions

    seen, left, top = _seen(pixels, size, box)
    height, width, channels = seen.shape
    kind = PixelType.U8 if channels == 1 else PixelType.U8x3
    crop = CropBox(left, top, min(box.right - box.left, width - left), min(box.bottom - box.top, height - top))
    options = ResizeOptions(ResizeAlg.convolution(FilterType.bilinear), use_alpha=False, crop_box=crop)
    # A copy, because bytes are what the library takes; Pillow's own images, which it takes too, it knows from inside.
    source, goal = ImageData(width, height, kind, seen.tobytes()), ImageData(*size, kind)
    _resizer().resize(source, goal, options)
    return np.frombuffer(goal.get_buffer(), np.uint8).reshape(size[1], size[0], channels)


def _seen(pixels: Pixels, size: tuple[int, int], box: Box) -> tuple[Pixels, float, float]:
    """The pixels that the filter looks at, and where the box begins in them."""
    across, down = (
        1 + math.ceil(max(1.0, length / goal))  # to each side of its centre a pixel of the larger of the two images
        for length, goal in zip((box.right - box.left, box.bottom - box.top), size, strict=True)
    )
    left, top = max(0, int(box.left) - across), max(0, int(box.top) - down)
    seen = pixels[top : math.ceil(box.bottom) + down, left : math.ceil(box.right) + across]
    return seen, box.left - left, box.top - top


def _resizer() -> Any:
    """This thread's: it keeps the filter's weights of its last call, and takes one call at a time."""
    found = getattr(_of_thread, "resizer", None)
    if found is None:
        from cykooz_resizer import Resizer

        found = _of_thread.resizer = Resizer()
    return found
