"""Drawings as inline SVG: colours are the page's variables, words keep their measured width in any font."""

from __future__ import annotations

import re
from collections.abc import Iterator

from markupsafe import Markup, escape
from reportlab.graphics.shapes import Circle, Drawing, Line, Polygon, Rect, Shape, String
from reportlab.lib.colors import Color
from reportlab.pdfbase.pdfmetrics import stringWidth

from reporter.shapes import BOLD, PAINTS

ANCHORS = {"start": "start", "middle": "middle", "end": "end"}
_NAMES = {paint.hexval(): name for name, paint in PAINTS.items()}
_UNSPEAKABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


def svg(drawing: Drawing, label: str) -> Markup:
    """A drawing with its alternative text. ReportLab's own SVG writer fixes colours and knows no alternative text."""
    body = Markup("").join(_element(shape, drawing.height) for shape in drawing.contents)
    return Markup('<svg role="img" viewBox="0 0 {} {}"><title>{}</title>{}</svg>').format(
        _number(drawing.width), _number(drawing.height), _UNSPEAKABLE.sub("", label), body
    )


def _element(shape: Shape, height: float) -> Markup:
    """One shape; in SVG y points down.

    Raises:
        TypeError: The charts do not draw with it.
    """
    if isinstance(shape, String):
        return _words(shape, height)
    if isinstance(shape, Line):
        ends = {"x1": shape.x1, "y1": height - shape.y1, "x2": shape.x2, "y2": height - shape.y2}
        return _tag("line", ends, shape)
    if isinstance(shape, Rect):
        corner = {"x": shape.x, "y": height - shape.y - shape.height, "width": shape.width, "height": shape.height}
        return _tag("rect", corner, shape)
    if isinstance(shape, Circle):
        return _tag("circle", {"cx": shape.cx, "cy": height - shape.cy, "r": shape.r}, shape)
    if isinstance(shape, Polygon):
        points = list(zip(shape.points[::2], shape.points[1::2], strict=True))
        corners = " ".join(f"{_number(x)},{_number(height - y)}" for x, y in points)
        return Markup('<polygon points="{}"{}/>').format(corners, _paint(shape))
    raise TypeError(f"No SVG for a {type(shape).__name__}.")


def _tag(name: str, numbers: dict[str, float], shape: Shape) -> Markup:
    geometry = "".join(f' {key}="{_number(value)}"' for key, value in numbers.items())
    return Markup(f"<{name}{geometry}") + _paint(shape) + Markup("/>")


def _words(shape: String, height: float) -> Markup:
    """Text squeezed or stretched to the width it was laid out with, so that nothing runs into anything."""
    width = stringWidth(shape.text, shape.fontName, shape.fontSize)
    bold = Markup(' font-weight="bold"') if shape.fontName == BOLD else ""
    return Markup(
        '<text x="{}" y="{}" font-size="{}" text-anchor="{}" textLength="{}" lengthAdjust="spacingAndGlyphs"'
        ' fill="{}"{}>{}</text>'
    ).format(
        _number(shape.x),
        _number(height - shape.y),
        _number(shape.fontSize),
        ANCHORS[shape.textAnchor],
        _number(width),
        _variable(shape.fillColor),
        bold,
        escape(shape.text),
    )


def _paint(shape: Shape) -> Markup:
    return Markup("").join(_paints(shape))


def _paints(shape: Shape) -> Iterator[Markup]:
    if not isinstance(shape, Line):
        yield Markup(' fill="{}"').format(_variable(shape.fillColor))
    if shape.strokeColor is not None:
        width = _number(shape.strokeWidth)
        yield Markup(' stroke="{}" stroke-width="{}"').format(_variable(shape.strokeColor), width)
        if shape.strokeDashArray:
            yield Markup(' stroke-dasharray="{}"').format(" ".join(map(str, shape.strokeDashArray)))


def _variable(colour: Color | None) -> str:
    return "none" if colour is None else f"var(--{_NAMES[colour.hexval()]})"


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
