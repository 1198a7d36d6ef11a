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
SCENE_ZOOM = 1.5
"""Strong, of an image with objects: how many times a side the frame is at most or, the other way round, at least."""
LIGHT_TONES, STRONG_TONES = (0.15, 0.0), (0.4, 0.1)
"""Largest change of contrast and brightness, and of one colour against another."""

Draws = npt.NDArray[np.float32]
Corners = npt.NDArray[np.float64]
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


def reframed(
    image: Image.Image, corners: Corners, kind: Augmentation, draws: Draws, beyond: int
) -> tuple[Image.Image, Corners]:
    """A variation of an image with objects: in another frame, relit, `strong` perhaps mirrored. No pixel is resampled.

    Args:
        image: RGB or grey; left as it is.
        corners: `[n, 4]` x1, y1, x2, y2 of the objects in its pixels.
        kind: `none` gives both as they are.
        draws: `[DRAWS]`, from 0 to 1: equal ones give equal pixels.
        beyond: The grey of what lies outside of the image.

    Returns:
        An image of the frame's size, and the corners in its pixels; some may lie outside of it.
    """
    if kind == "none":
        return image, corners
    numbers: list[float] = draws.tolist()
    left, top, right, bottom = _frame(image.size, kind, numbers)
    framed = Image.new(image.mode, (right - left, bottom - top), (beyond,) * len(image.getbands()))
    framed.paste(image, (-left, -top))
    found = corners - np.array([left, top, left, top])
    if kind == "strong" and numbers[7] < 0.5:
        framed = framed.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        found = np.array([framed.width, 0, framed.width, 0]) + found[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1])
    tones = LIGHT_TONES if kind == "light" else STRONG_TONES
    return framed.point(_tones(len(image.getbands()), tones, numbers[3:])), found


def _frame(size: tuple[int, int], kind: Augmentation, numbers: list[float]) -> tuple[int, int, int, int]:
    """Edges in whole pixels of the image, also beyond it; `strong` is within the image, or around all of it."""
    if kind == "light":
        left, top, right, bottom = (round(edge) for edge in _moved(size, numbers))
        return left, top, max(left + 1, right), max(top + 1, bottom)
    zoom = SCENE_ZOOM ** (2 * numbers[0] - 1)
    width, height = (max(1, round(side * zoom)) for side in size)
    left, top = round((size[0] - width) * numbers[1]), round((size[1] - height) * numbers[2])
    return left, top, left + width, top + height


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
