"""JPEG photographs of one size: drawn from seeds, or real scans of handwritten digits on a sheet of paper.

scikit-learn ships the scans (`make setup-train`), 8 x 8 pixels each.
"""

from __future__ import annotations

import functools
import io
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

SIZE = (640, 480)
QUALITY = 92
GREY = 128

TRAIN, VAL = 1000, 197
"""Of the 1,797 scans; the other 600 are held out. So many can tell that an engine which gets one or two of them wrong
loses less than a point of accuracy."""
DIGIT, MOVED = 320, 30
"""Pixels: the side of a digit, and how far from the middle it lies at most."""
SHEETS = 32
"""Sheets of paper that are learned from, and as many others that the held-out digits are on."""
PAPER, CONTRAST, INK = 170, 0.5, 24

Pixels = npt.NDArray[np.float32]


@functools.cache
def photograph(seed: int) -> bytes:
    """A JPEG of some 55 KB, drawn at every scale from the whole to a few pixels, as photographs are."""
    return _jpeg(_canvas(seed) + GREY)


def scanned(scan: npt.NDArray[np.uint8], sheet: int, seed: int) -> bytes:
    """A JPEG of a digit in dark ink, somewhere about the middle of a sheet.

    Args:
        scan: Ink from 0 to 255, `[8, 8]`.
        sheet: Which one.
        seed: Of the place.
    """
    moved = np.random.default_rng(seed).integers(-MOVED, MOVED + 1, 2)
    left, top = ((length - DIGIT) // 2 + int(by) for length, by in zip(SIZE, moved, strict=True))
    digit = Image.new("L", SIZE)
    digit.paste(Image.fromarray(scan).resize((DIGIT, DIGIT), Image.Resampling.BICUBIC), (left, top))
    ink: Pixels = np.asarray(digit, np.float32)[..., None] / np.float32(255)
    return _jpeg(_sheet(sheet) * (1 - ink) + INK * ink)


def write_scans(path: Path) -> None:
    """A ZIP of all scans, a folder a part and in it a folder a class: to learn from, to judge epochs by, held out."""
    from examples.digits import dataset

    scans = [pair for split in dataset.load() for pair in zip(split.pixels, split.labels, strict=True)]
    made = path.with_suffix(".part")
    with zipfile.ZipFile(made, "w") as archive:
        for number, (scan, label) in enumerate(scans):
            part = "train" if number < TRAIN else "val" if number < TRAIN + VAL else "test"
            sheet = number % SHEETS + (SHEETS if part == "test" else 0)
            archive.writestr(f"{part}/{label}/{number:04}.jpg", scanned(scan, sheet, number))
    made.rename(path)


def held_out(path: Path) -> list[bytes]:
    """The images of the part test of such a ZIP, in an order that says nothing about their classes."""
    with zipfile.ZipFile(path) as archive:
        return [archive.read(name) for name in archive.namelist() if name.startswith("test/")]


@functools.cache
def _sheet(number: int) -> Pixels:
    return PAPER + CONTRAST * _canvas(number)


def _canvas(seed: int) -> Pixels:
    """About zero, `[height, width, 3]`."""
    draw = np.random.default_rng(seed)
    canvas = np.zeros((SIZE[1], SIZE[0], 3), np.float32)
    for cells in (2, 4, 8, 16, 32, 64, 160):
        noise = draw.standard_normal((cells * 3 // 4 or 1, cells, 3)).astype(np.float32)
        planes = [Image.fromarray(noise[..., plane]).resize(SIZE, Image.Resampling.BICUBIC) for plane in range(3)]
        canvas += np.stack([np.asarray(plane) for plane in planes], axis=-1) * (40 / (1 + cells / 16))
    return canvas


def _jpeg(canvas: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
