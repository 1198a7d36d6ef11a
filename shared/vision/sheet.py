"""The contact sheet: one picture that shows what a dataset looks like, a row a class."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from shared.specs import Box, Sample
from shared.vision.decode import decode

THUMB = 112
"""Pixels of a thumbnail's side; the whole image is in it."""

COLUMNS = 8
MOST_ROWS = 40
GAP, MARGIN, NAME_WIDTH, HEAD = 8, 28, 220, 64
PAPER, MARK, FOUND, EMPTY = "#ffffff", "#e4572e", "#1d6fd8", "#f1f3f5"
INK, FAINT = (27, 31, 36), (107, 114, 128)
FONT = "uni"
"""OpenCV's own, because it has the letters of many scripts; Pillow's default font has no ä."""
QUALITY = 88


Thumb = Image.Image
Edges = tuple[float, float, float, float]
"""Of a box, as parts of the image's sides: left, top, right, bottom."""


class Row(NamedTuple):
    """A class: its name, a line about it, and thumbnails."""

    name: str
    about: str
    thumbs: Sequence[Image.Image]


def thumbnail(image: Image.Image, boxes: Sequence[Edges] = (), found: Sequence[Edges] = ()) -> Image.Image:
    """The image at most `THUMB` wide and high, with boxes that are true, and within them, thinner, those found."""
    scale = THUMB / max(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    small = image.resize((size[0], size[1]), Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(small)
    right, bottom = small.width - 1, small.height - 1
    for edges, colour, width in ((boxes, MARK, 2), (found, FOUND, 1)):
        for x1, y1, x2, y2 in edges:
            draw.rectangle((x1 * right, y1 * bottom, x2 * right, y2 * bottom), outline=colour, width=width)
    return small


def thumbnail_of(data: bytes, sample: Sample, found: Sequence[Box] = ()) -> bytes:
    """A thumbnail of a sample's image file with its boxes, and those that were found, as PNG.

    Raises:
        errors.BadImage: It cannot be decoded.
    """
    buffer = io.BytesIO()
    thumbnail(decode(data), _edges(sample.boxes, sample), _edges(found, sample)).save(buffer, "PNG")
    return buffer.getvalue()


def _edges(boxes: Sequence[Box], sample: Sample) -> list[Edges]:
    width, height = sample.width, sample.height
    return [(box.x1 / width, box.y1 / height, box.x2 / width, box.y2 / height) for box in boxes]


def sheet(title: str, subtitle: str, rows: Sequence[Row], more: str) -> bytes:
    """The contact sheet as a JPEG: equal input gives equal bytes.

    Args:
        title: First line.
        subtitle: Second line.
        rows: At most `MOST_ROWS` are drawn, with at most `COLUMNS` thumbnails each.
        more: Last line, about classes that are not shown; may be empty.
    """
    shown = rows[:MOST_ROWS]
    width = 2 * MARGIN + NAME_WIDTH + COLUMNS * (THUMB + GAP) - GAP
    height = 2 * MARGIN + HEAD + len(shown) * (THUMB + GAP) + (24 if more else 0)
    page = Image.new("RGB", (width, height), PAPER)
    for index, row in enumerate(shown):
        _paste(page, MARGIN + HEAD + index * (THUMB + GAP), row.thumbs[:COLUMNS])
    pixels = np.array(page)
    _text(pixels, (MARGIN, MARGIN), title, size=24, color=INK, width=width - 2 * MARGIN)
    _text(pixels, (MARGIN, MARGIN + 34), subtitle, size=14, color=FAINT, width=width - 2 * MARGIN)
    for index, row in enumerate(shown):
        middle = MARGIN + HEAD + index * (THUMB + GAP) + THUMB // 2
        _text(pixels, (MARGIN, middle - 20), row.name, size=16, color=INK, width=NAME_WIDTH - 16)
        _text(pixels, (MARGIN, middle + 4), row.about, size=13, color=FAINT, width=NAME_WIDTH - 16)
    _text(pixels, (MARGIN, height - MARGIN - 16), more, size=14, color=FAINT, width=width - 2 * MARGIN)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _paste(page: Image.Image, top: int, thumbs: Sequence[Image.Image]) -> None:
    draw = ImageDraw.Draw(page)
    for column, thumb in enumerate(thumbs):
        left = MARGIN + NAME_WIDTH + column * (THUMB + GAP)
        draw.rectangle((left, top, left + THUMB - 1, top + THUMB - 1), fill=EMPTY)
        page.paste(thumb, (left + (THUMB - thumb.width) // 2, top + (THUMB - thumb.height) // 2))


def _text(
    pixels: npt.NDArray[np.uint8],
    at: tuple[int, int],
    text: str,
    *,
    size: int,
    color: tuple[int, int, int],
    width: int,
) -> None:
    """One line below and right of `at`, cut off with an ellipsis where it would be wider than `width`."""
    font = cv2.FontFace(FONT)
    text = text[:200]
    while text and cv2.getTextSize((0, 0), text, (0, 0), font, size)[2] > width:
        text = text.removesuffix("…")[:-1].rstrip() + "…"
    cv2.putText(pixels, text, (at[0], at[1] + size), color, font, size)
