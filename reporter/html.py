"""Self-contained pages of a report: the simple view, the technical view, and both; no script, no request."""

from __future__ import annotations

import math
import re
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from reportlab.graphics import renderSVG
from reportlab.graphics.shapes import Drawing

from reporter.charts import latency_key, latency_panels, throughput_chart
from reporter.lookup import heading
from reporter.shapes import COLOURS
from reporter.simple import SimpleView
from reporter.technical import TechnicalView
from shared.verdict.report import Report

Level = Literal["simple", "technical", "report"]

_RGB = re.compile(r"rgb\(([\d.]+)%,\s*([\d.]+)%,\s*([\d.]+)%\)")
_INDENT = re.compile(r"\s*\n\s*")
_SHADES = {name: tuple(bytes.fromhex(shade[1:])) for name, shade in COLOURS.items()}


def environment() -> Environment:
    """The templates, escaping everything that is not marked as safe."""
    return Environment(
        loader=PackageLoader("reporter"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def page(report: Report, simple: SimpleView, technical: TechnicalView, level: Level) -> bytes:
    """One page as UTF-8."""
    template = environment().get_template("report.html.j2")
    text = template.render(
        level=level,
        report=report,
        conditions_heading=heading(report),
        simple=simple if level != "technical" else None,
        technical=technical if level != "simple" else None,
        latency=[svg(drawing, "Latency of each candidate") for drawing in _latency(report)],
        throughput=[svg(drawing, "Throughput against batch size") for drawing in [throughput_chart(report)] if drawing],
    )
    return text.encode()


def _latency(report: Report) -> list[Drawing]:
    panels = latency_panels(report)
    return [latency_key(report), *panels] if panels else []


def svg(drawing: Drawing, label: str) -> Markup:
    """A drawing as inline SVG whose colours are the page's variables. Every text in it comes from us and is escaped."""
    text = renderSVG.drawToString(drawing)
    body = text[text.index("<g ") : text.rindex("</svg>")]
    body = re.sub(r'<g id="group" (transform="[^"]*") style="[^"]*">', r"<g \1>", body)
    body = _RGB.sub(_variable, body).replace("font-family: Helvetica", "font-family: Helvetica, Arial, sans-serif")
    body = body.replace("Helvetica, Arial, sans-serif-Bold", "Helvetica, Arial, sans-serif; font-weight: bold")
    body = _INDENT.sub("", body)
    return Markup(
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {drawing.width:g} {drawing.height:g}">{body}</svg>'
    )


def _variable(match: re.Match[str]) -> str:
    """The variable of the named colour that was meant: the SVG holds whole percents, a little off."""
    found = [float(percent) * 2.55 for percent in match.groups()]
    return f"var(--{min(_SHADES, key=lambda name: math.dist(_SHADES[name], found))})"
