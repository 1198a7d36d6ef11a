"""From the bytes of an image file to pixels, with every limit checked before memory is taken."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from shared import errors

MAX_PIXELS = 50_000_000
MAX_SIDE = 32_767
"""Longer sides are no photographs, and resizing them costs far more than their pixels suggest."""

COLOR_MODES = {"RGB": "RGB", "BGR": "RGB", "L": "L"}
"""The Pillow mode an image of each contract colour is kept in; BGR is turned when the tensor is made."""

# Ours is checked first and raises; Pillow's own would warn.
Image.MAX_IMAGE_PIXELS = None

_OTHERS = {
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"%PDF": "a PDF",
    b"<": "XML or HTML",
    b"{": "JSON",
}


def decode(
    data: bytes | memoryview, color: Literal["RGB", "BGR", "L"] = "RGB", most_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Decode a JPEG, PNG or WebP, upright (EXIF orientation applied), in the mode of `COLOR_MODES[color]`.

    Transparency and colour profiles are dropped, 16-bit samples keep their upper byte, of an animation the first
    frame is taken: what a training pipeline sees through `Image.open(path).convert("RGB")`, less its surprises.

    Raises:
        errors.BadImage: Empty, truncated, damaged, or another format.
        errors.TooLarge: More than `most_pixels`, or a side longer than `MAX_SIDE`.
    """
    kind = _format(bytes(data[:16]))
    try:
        image = Image.open(io.BytesIO(data), formats=(kind,))
        _check_size(image, most_pixels)
        image.load()
    except (errors.AppError, MemoryError):
        raise
    except Exception as error:  # hostile bytes make Pillow raise nearly anything
        why = "unreadable header" if isinstance(error, UnidentifiedImageError) else error
        raise errors.BadImage(f"The {kind} is damaged or incomplete ({why}). Send the whole file.") from error
    return _convert(_upright(image), COLOR_MODES[color])


def _format(head: bytes) -> str:
    """The format by its first bytes, whatever a name or header says.

    Raises:
        errors.BadImage: None of ours.
    """
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if not head:
        raise errors.BadImage("The image is empty: send the bytes of a JPEG, PNG or WebP.")
    other = next((name for magic, name in _OTHERS.items() if head.startswith(magic)), "not an image we know")
    if head[4:8] == b"ftyp":
        other = "a HEIC, AVIF or video"
    raise errors.BadImage(f"This is {other}: send the bytes of a JPEG, PNG or WebP.")


def _check_size(image: Image.Image, most_pixels: int) -> None:
    width, height = image.size
    if width * height > most_pixels:
        most = f"{MAX_PIXELS // 1_000_000} million" + ("" if most_pixels == MAX_PIXELS else " in one request")
        raise errors.TooLarge(f"The image has {width} x {height} pixels; the most are {most}. Scale it down.")
    if max(width, height) > MAX_SIDE:
        raise errors.TooLarge(f"The image has {width} x {height} pixels; a side has at most {MAX_SIDE:,}.")


def _upright(image: Image.Image) -> Image.Image:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # a damaged EXIF block: the picture itself is fine
        return image
    return image


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion clips at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P":  # through RGBA, the way that knows palettes with transparency
        image = image.convert("RGBA")
    if image.mode == "RGBA" and mode == "L":
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)
