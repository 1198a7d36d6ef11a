"""What the charts are drawn with: fonts, named colours, a linear scale and a few vector shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from reportlab.graphics.shapes import Circle, Line, Polygon, Rect, Shape, String
from reportlab.lib.colors import HexColor
from reportlab.pdfbase.pdfmetrics import stringWidth

from shared.specs import EngineName, Precision

Point = tuple[float, float]

FONT, BOLD, SIZE, SMALL = "Helvetica", "Helvetica-Bold", 8.0, 7.5
DOT = 1.6
"""Radius of the mark of a median: smaller than the sign of an engine, which may be a hollow circle."""

COLOURS: dict[str, str] = {
    "ink": "#1b2430",
    "muted": "#5b6673",
    "grid": "#dfe3e8",
    "band": "#eaf2fb",
    "paper": "#ffffff",
    "onnxruntime": "#0072b2",
    "openvino": "#c85200",
    "tensorrt": "#00795a",
    "pytorch": "#8f4f7f",
    "muted-tint": "#c8ccd1",
    "onnxruntime-tint": "#a6cee5",
    "openvino-tint": "#ecc2a6",
    "tensorrt-tint": "#a6d0c5",
    "pytorch-tint": "#d8c1d2",
}
"""Engines in the hues of Okabe and Ito, darkened where text needs it: told apart with any colour vision, and on a grey
printer by their labels. Pages replace the colours by name for a dark background."""

CORNERS: dict[EngineName, tuple[Point, ...]] = {
    "openvino": ((-0.85, -0.85), (-0.85, 0.85), (0.85, 0.85), (0.85, -0.85)),
    "tensorrt": ((-1, -0.8), (0, 1), (1, -0.8)),
    "pytorch": ((-1.1, 0), (0, 1.1), (1.1, 0), (0, -1.1)),
}
DASHES: dict[Precision, Sequence[float] | None] = {"fp32": None, "fp16": (5, 2), "int8": (1.5, 1.5)}

PAINTS = {name: HexColor(value) for name, value in COLOURS.items()}


class Axis(NamedTuple):
    """A linear scale: its lower and upper end, the places of its ticks, and where it lies on paper."""

    bottom: float
    top: float
    ticks: list[float]
    start: float
    length: float

    def at(self, value: float) -> float:
        """Where a value lies."""
        return self.start + self.length * (value - self.bottom) / (self.top - self.bottom)

    def labels(self, unit: str = "") -> list[str]:
        """The ticks as text, with as many decimals as their step needs; the last one carries the unit."""
        places = max(0, -math.floor(math.log10(self.ticks[1] - self.ticks[0]) + 1e-9))
        texts = [f"{tick:,.{places}f}" for tick in self.ticks]
        return [*texts[:-1], f"{texts[-1]} {unit}".rstrip()]


def axis(largest: float, start: float, length: float, most_ticks: int = 7) -> Axis:
    """A scale from zero to a little beyond `largest`, its ticks at 1, 2 or 5 times a power of ten."""
    top = 1.04 * max(largest, 1e-9)
    step = _step(top / (most_ticks - 1))
    return Axis(0.0, top, [step * index for index in range(math.floor(top / step) + 1)], start, length)


def window(low: float, high: float, start: float, length: float, most_ticks: int = 6) -> Axis:
    """A scale around the values from `low` to `high`; it begins at a tick, seldom at zero."""
    step = _step(max(high - low, abs(high) * 1e-3, 1e-9) / (most_ticks - 2))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    ticks = [step * index for index in range(first, last + 1)]
    return Axis(ticks[0], ticks[-1], ticks, start, length)


def _step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, at least `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))


class Decades(NamedTuple):
    """A logarithmic scale: its lower and upper end, the places of its ticks, and where it lies on paper."""

    bottom: float
    top: float
    ticks: list[float]
    start: float
    length: float

    def at(self, value: float) -> float:
        """Where a value lies; below the lower end, there."""
        share = math.log(max(value, self.bottom) / self.bottom) / math.log(self.top / self.bottom)
        return self.start + self.length * share

    def labels(self, unit: str) -> list[str]:
        """The ticks as text; the last one carries the unit."""
        texts = [f"{tick:,.12g}" for tick in self.ticks]
        return [*texts[:-1], f"{texts[-1]} {unit}"]


FEW_DECADES = 2.5
"""Up to so many have ticks at 2 and 5 as well."""


def decades(least: float, largest: float, start: float, length: float) -> Decades:
    """A logarithmic scale from `least` to a little beyond `largest`, both above zero."""
    bottom, top = least / 1.1, max(largest, 2 * least) * 1.1
    exponents = range(math.floor(math.log10(bottom)), math.ceil(math.log10(top)) + 1)
    factors = (1, 2, 5) if math.log10(top / bottom) <= FEW_DECADES else (1,)
    ticks = [float(f"{factor}e{exponent}") for exponent in exponents for factor in factors]
    return Decades(bottom, top, [tick for tick in ticks if bottom <= tick <= top], start, length)


def words(at: Point, text: str, colour: str, *, font: str = FONT, anchor: str = "start", size: float = SIZE) -> String:
    """Text, its baseline starting, centred or ending at a point."""
    return String(*at, text, fontName=font, fontSize=size, fillColor=PAINTS[colour], textAnchor=anchor)


def stroke(start: Point, end: Point, colour: str, width: float = 1.0, dash: Sequence[float] | None = None) -> Line:
    """A straight line."""
    return Line(*start, *end, strokeColor=PAINTS[colour], strokeWidth=width, strokeDashArray=dash)


def box(corner: Point, width: float, height: float, colour: str) -> Rect:
    """A filled rectangle from its lower left corner."""
    return Rect(*corner, width, height, fillColor=PAINTS[colour], strokeColor=None)


def ring(centre: Point, radius: float, colour: str, *, inside: str | None = None, width: float = 1.2) -> Circle:
    """A circle's outline, with or without a filling."""
    fill = PAINTS[inside] if inside else None
    return Circle(*centre, radius, fillColor=fill, strokeColor=PAINTS[colour], strokeWidth=width)


def area(points: Sequence[Point], colour: str) -> Polygon:
    """A filled outline."""
    flat = [coordinate for point in points for coordinate in point]
    return Polygon(flat, fillColor=PAINTS[colour], strokeColor=None)


def mark(centre: Point, radius: float, engine: EngineName, precision: Precision) -> Shape:
    """The sign of an engine, told apart without colour too: filled in FP32, tinted in FP16, hollow in INT8."""
    inside = {"fp32": engine, "fp16": f"{engine}-tint", "int8": "paper"}[precision]
    paint = {"fillColor": PAINTS[inside], "strokeColor": PAINTS[engine], "strokeWidth": 1.2}
    if engine == "onnxruntime":
        return Circle(*centre, radius, **paint)
    x, y = centre
    corners = [(x + radius * 1.15 * dx, y + radius * 1.15 * dy) for dx, dy in CORNERS[engine]]
    return Polygon([coordinate for corner in corners for coordinate in corner], **paint)


def whisker(low: Point, high: Point, colour: str) -> list[Line]:
    """A line between two points with a short bar across each end."""
    dx, dy = (0.0, 3.0) if low[1] == high[1] else (3.0, 0.0)
    ends = [stroke((x - dx, y - dy), (x + dx, y + dy), colour) for x, y in (low, high)]
    return [stroke(low, high, colour), *ends]


def fit(text: str, width: float, font: str, size: float = SIZE) -> str:
    """The text, shortened with an ellipsis where it would be too wide."""
    if stringWidth(text, font, size) <= width:
        return text
    while text and stringWidth(f"{text}…", font, size) > width:
        text = text[:-1]
    return text.rstrip(" ,") + "…"


def spread(places: list[float], least: float, low: float, high: float) -> list[float]:
    """Ascending places moved apart to at least `least`, around where they were and, if there is room, within bounds."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + least) if moved else place)
    if not moved:
        return []
    shift = max(min((places[-1] - moved[-1]) / 2, high - moved[-1]), low - moved[0])
    return [place + shift for place in moved]
