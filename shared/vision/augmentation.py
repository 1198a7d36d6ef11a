"""Varies images for training, as photographs might have come out otherwise; the contract then prepares them as ever.

All randomness is in the numbers that come in: `DRAWS` of them an image, drawn from a seed by the caller.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from shared.specs import Augmentation

DRAWS = 8
"""Numbers from 0 to 1 that an image's variation takes."""

SMALL_SIDE = 64
"""Images whose network sees no more pixels a side are varied lightly: they often show characters, which a mirror or a
tight framing makes another one."""

SHIFT, ZOOM = 0.1, 0.12
"""Light: of the side, to either direction, and of the size."""
LEAST_AREA, MOST_STRETCH = 0.35, 4 / 3
"""Strong: of the image, and of its proportions (random resized crop; Szegedy et al., 2015)."""
LIGHT_TONES, STRONG_TONES = (0.15, 0.0), (0.4, 0.1)
"""Largest change of contrast and brightness, and of one colour against another."""

Draws = npt.NDArray[np.float32]
Box = tuple[float, float, float, float]
_LEVELS = np.arange(256, dtype=np.float32)


def default_for(side: int) -> Augmentation:
    """What fits a network that takes images of this longer side."""
    return "light" if side <= SMALL_SIDE else "strong"


def augmented(image: Image.Image, kind: Augmentation, draws: Draws) -> Image.Image:
    """A variation of an RGB or grey image, not always of its size.

    Args:
        image: Left as it is.
        kind: `none` gives the image itself.
        draws: `[DRAWS]`, from 0 to 1: equal ones give equal pixels.
    """
    if kind == "none":
        return image
    numbers: list[float] = draws.tolist()
    if kind == "light":
        moved = image.transform(
            image.size, Image.Transform.EXTENT, _moved(image.size, numbers), Image.Resampling.BILINEAR
        )
        return moved.point(_tones(len(image.getbands()), LIGHT_TONES, numbers[3:]))
    framed = image.crop(_framed(image.size, numbers))
    if numbers[7] < 0.5:
        framed = framed.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return framed.point(_tones(len(image.getbands()), STRONG_TONES, numbers[3:]))


def _moved(size: tuple[int, int], numbers: list[float]) -> Box:
    """The part of the plane that is shown; what lies beyond the image is black."""
    width, height = size
    zoom = 1 + ZOOM * (2 * numbers[0] - 1)
    left = width * ((1 - zoom) / 2 + SHIFT * (2 * numbers[1] - 1))
    top = height * ((1 - zoom) / 2 + SHIFT * (2 * numbers[2] - 1))
    return left, top, left + width * zoom, top + height * zoom


def _framed(size: tuple[int, int], numbers: list[float]) -> tuple[int, int, int, int]:
    """A part of the image, in whole pixels."""
    width, height = size
    area = LEAST_AREA + (1 - LEAST_AREA) * numbers[0]
    stretch = math.exp(math.log(MOST_STRETCH) * (2 * numbers[1] - 1) / 2)
    wide = max(1, min(width, round(width * math.sqrt(area) * stretch)))
    high = max(1, min(height, round(height * math.sqrt(area) / stretch)))
    left, top = int(numbers[2] * (width - wide + 1)), int(numbers[6] * (height - high + 1))
    left, top = min(left, width - wide), min(top, height - high)
    return left, top, left + wide, top + high


def _tones(bands: int, most: tuple[float, float], numbers: list[float]) -> list[int]:
    """What becomes of each level of each band: contrast around the middle, brightness, and a tint."""
    light, tint = most
    contrast, brightness = 1 + light * (2 * numbers[0] - 1), light * 128 * (2 * numbers[1] - 1)
    base = (_LEVELS - 128) * np.float32(contrast) + np.float32(128 + brightness)
    found: list[int] = []
    for band in range(bands):
        gain = 1 + tint * (2 * numbers[2] - 1) * (band - 1) if bands > 1 else 1.0
        found += np.clip(np.rint(base * np.float32(gain)), 0, 255).astype(np.uint8).tolist()
    return found
