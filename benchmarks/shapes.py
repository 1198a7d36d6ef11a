"""Circles, squares and triangles on noise, each with its box: what a detector can learn within minutes."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ["circle", "square", "triangle"]
MOST_SHAPES = 4
LEAST, MOST = 0.14, 0.4
"""Of the image's side."""
GAP = 2
"""Pixels between two shapes at least."""

Box = tuple[int, int, int, int, int]


def picture(side: int, seed: int) -> tuple[bytes, list[Box]]:
    """A PNG, and of each shape its class and its edges in pixels; right and bottom are the first pixel beyond it."""
    random = np.random.default_rng(seed)
    image = Image.fromarray(random.integers(0, 256, (side, side, 3), np.uint8))
    draw = ImageDraw.Draw(image)
    found: list[Box] = []
    for _ in range(int(random.integers(1, MOST_SHAPES + 1))):
        size = int(side * random.uniform(LEAST, MOST))
        left, top = (int(value) for value in random.integers(0, side - size, 2))
        right, bottom = left + size, top + size
        if any(_touch((left, top, right, bottom), box) for _, *box in found):
            continue
        kind = int(random.integers(len(CLASSES)))
        _draw(draw, kind, (left, top, right - 1, bottom - 1), random)
        found.append((kind, left, top, right, bottom))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue(), found


def _touch(one: Sequence[int], other: Sequence[int]) -> bool:
    return all(one[axis] < other[axis + 2] + GAP and other[axis] < one[axis + 2] + GAP for axis in (0, 1))


def _draw(draw: ImageDraw.ImageDraw, kind: int, edges: tuple[int, int, int, int], random: np.random.Generator) -> None:
    colour = tuple(int(value) for value in random.integers(0, 256, 3))
    left, _, right, bottom = edges
    if CLASSES[kind] == "circle":
        draw.ellipse(edges, fill=colour)
    elif CLASSES[kind] == "square":
        draw.rectangle(edges, fill=colour)
    else:
        draw.polygon([(left, bottom), (right, bottom), ((left + right) // 2, edges[1])], fill=colour)


def yolo(counts: dict[str, int], side: int, seed: int = 0) -> dict[str, bytes]:
    """The files of a dataset in YOLO's layout, so many images of each part."""
    files = {"data.yaml": f"names: [{', '.join(CLASSES)}]\n".encode()}
    for part, count in counts.items():
        for number in range(count):
            data, found = picture(side, seed + len(files))
            files[f"images/{part}/{number}.png"] = data
            files[f"labels/{part}/{number}.txt"] = "\n".join(_line(box, side) for box in found).encode()
    return files


def _line(box: Box, side: int) -> str:
    kind, x1, y1, x2, y2 = box
    values = np.array([x1 + x2, y1 + y2, 2 * (x2 - x1), 2 * (y2 - y1)]) / (2 * side)
    return " ".join([str(kind), *(f"{value:.6f}" for value in values)])
