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
CHANNELS = 3
"""Of colours."""

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
MOST_COPIED = 2**20
"""Pixels of an image of Pillow's that are worth being copied for it."""
MOST_VECTORED = 16 * 2**20
"""Pixels: it makes two more copies of them, and where there is no memory for one, it ends the process."""
_of_thread = threading.local()


def scaled(image: Image.Image | Pixels, size: tuple[int, int], interpolation: Interpolation, box: Box) -> Pixels:
    """What lies within `box` at `size` (width, height), antialiased where it shrinks: as Pillow's `resize`.

    Bilinear colours are computed with the processor's vector instructions where these are known, in a quarter of the
    time. Weights are rounded otherwise then: some samples, about one in nine, are one of 255 steps from Pillow's, and
    very few are two.
    """
    if _VECTORED and interpolation == "bilinear":
        if isinstance(image, Image.Image) and image.mode == "RGB" and image.width * image.height <= MOST_COPIED:
            image = pixels_of(image)
        if not isinstance(image, Image.Image):
            seen, shifted = _seen(image, size, box)
            if seen.size <= CHANNELS * MOST_VECTORED:
                return _vectored(seen, size, shifted)
    whole = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return pixels_of(whole.resize(size, _PILLOWS[interpolation], box=box))


def pixels_of(image: Image.Image) -> Pixels:
    """The pixels of an image in mode RGB or L."""
    return np.asarray(image).reshape(image.height, image.width, -1)


def _vectored(pixels: Pixels, size: tuple[int, int], box: Box) -> Pixels:
    """Bilinear. Of the library's bicubic, more than rounding differs from Pillow's."""
    from cykooz_resizer import CropBox, FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions

    height, width, _ = pixels.shape
    crop = CropBox(
        box.left, box.top, min(box.right - box.left, width - box.left), min(box.bottom - box.top, height - box.top)
    )
    options = ResizeOptions(ResizeAlg.convolution(FilterType.bilinear), use_alpha=False, crop_box=crop)
    # A copy, because bytes are what the library takes; Pillow's own images, which it takes too, it knows from inside.
    source, goal = ImageData(width, height, PixelType.U8x3, pixels.tobytes()), ImageData(*size, PixelType.U8x3)
    _resizer().resize(source, goal, options)
    return np.frombuffer(goal.get_buffer(), np.uint8).reshape(size[1], size[0], CHANNELS)


def _seen(pixels: Pixels, size: tuple[int, int], box: Box) -> tuple[Pixels, Box]:
    """The pixels that the filter looks at, and where the box is in them."""
    across, down = (
        1 + math.ceil(max(1.0, length / goal))  # to each side of its centre a pixel of the larger of the two images
        for length, goal in zip((box.right - box.left, box.bottom - box.top), size, strict=True)
    )
    left, top = max(0, int(box.left) - across), max(0, int(box.top) - down)
    seen = pixels[top : math.ceil(box.bottom) + down, left : math.ceil(box.right) + across]
    return seen, Box(box.left - left, box.top - top, box.right - left, box.bottom - top)


def _resizer() -> Any:
    """This thread's: it keeps the filter's weights of its last call, and takes one call at a time."""
    found = getattr(_of_thread, "resizer", None)
    if found is None:
        from cykooz_resizer import Resizer

        found = _of_thread.resizer = Resizer()
    return found
