"""The contact sheet: one picture that shows what a dataset looks like, a row a class."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

THUMB = 112
"""Pixels of a thumbnail's side; the whole image is in it."""

COLUMNS = 8
MOST_ROWS = 40
GAP, MARGIN, NAME_WIDTH, HEAD = 8, 28, 220, 64
PAPER, INK, FAINT, MARK, EMPTY = "#ffffff", "#1b1f24", "#6b7280", "#e4572e", "#f1f3f5"
QUALITY = 88


Thumb = Image.Image


class Row(NamedTuple):
    """A class: its name, a line about it, and thumbnails."""

    name: str
    about: str
    thumbs: Sequence[Image.Image]


def thumbnail(image: Image.Image, boxes: Sequence[tuple[float, float, float, float]] = ()) -> Image.Image:
    """The image at most `THUMB` wide and high, with boxes given as parts of its sides."""
    scale = THUMB / max(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    small = image.resize((size[0], size[1]), Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(small)
    for x1, y1, x2, y2 in boxes:
        right, bottom = small.width - 1, small.height - 1
        draw.rectangle((x1 * right, y1 * bottom, x2 * right, y2 * bottom), outline=MARK, width=2)
    return small


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
    draw = ImageDraw.Draw(page)
    _text(draw, (MARGIN, MARGIN), title, size=24, fill=INK, width=width - 2 * MARGIN)
    _text(draw, (MARGIN, MARGIN + 34), subtitle, size=14, fill=FAINT, width=width - 2 * MARGIN)
    for index, row in enumerate(shown):
        _row(page, draw, MARGIN + HEAD + index * (THUMB + GAP), row)
    if more:
        _text(draw, (MARGIN, height - MARGIN - 16), more, size=14, fill=FAINT, width=width - 2 * MARGIN)
    buffer = io.BytesIO()
    page.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _row(page: Image.Image, draw: ImageDraw.ImageDraw, top: int, row: Row) -> None:
    middle = top + THUMB // 2
    _text(draw, (MARGIN, middle - 20), row.name, size=17, fill=INK, width=NAME_WIDTH - 16)
    _text(draw, (MARGIN, middle + 4), row.about, size=13, fill=FAINT, width=NAME_WIDTH - 16)
    for column, thumb in enumerate(row.thumbs[:COLUMNS]):
        left = MARGIN + NAME_WIDTH + column * (THUMB + GAP)
        draw.rectangle((left, top, left + THUMB - 1, top + THUMB - 1), fill=EMPTY)
        page.paste(thumb, (left + (THUMB - thumb.width) // 2, top + (THUMB - thumb.height) // 2))


def _text(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, *, size: int, fill: str, width: int) -> None:
    """One line, cut off with an ellipsis where it would be wider than `width`."""
    font = ImageFont.load_default(size)
    text = text[:200]
    while text and draw.textlength(text, font) > width:
        text = text[:-2].rstrip() + "…"
        if text == "…":
            break
    draw.text(at, text, fill=fill, font=font)
