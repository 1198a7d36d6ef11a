"""Self-contained pages of a report: the simple view, the technical view, and both; no script, no request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from reportlab.graphics.shapes import Drawing

from reporter.figures import Figure, figures, overview_figure, service_figure
from reporter.history import history
from reporter.lookup import heading
from reporter.simple import SimpleView
from reporter.svg import svg
from reporter.technical import TechnicalView
from shared.verdict.report import Report

Level = Literal["simple", "technical", "report"]

HISTORY_CAPTION = (
    "What each report chose, oldest first, with its 95 % interval. A circle is ONNX Runtime, a square OpenVINO, a "
    "triangle TensorRT, a diamond PyTorch; filled in FP32, tinted in FP16, hollow in INT8. A dashed line stands where "
    "the machine or its software changed: figures on its two sides do not compare."
)


def environment() -> Environment:
    """The templates, escaping everything that is not marked as safe."""
    return Environment(
        loader=PackageLoader("reporter"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        finalize=_unbroken,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _unbroken(value: object) -> object:
    """A number and its `%` stay on one line."""
    return value.replace(" %", "\N{NO-BREAK SPACE}%") if isinstance(value, str) else value


def page(report: Report, simple: SimpleView, technical: TechnicalView, level: Level) -> bytes:
    """One page as UTF-8."""
    template = environment().get_template("report.html.j2")
    text = template.render(
        level=level,
        report=report,
        conditions_heading=heading(report),
        simple=simple if level != "technical" else None,
        technical=technical if level != "simple" else None,
        overview=_shown(overview_figure(report)),
        service_chart=_shown(service_figure(report)),
        charts=[_shown(figure) for figure in figures(report)],
    )
    return text.encode()


def history_page(report: Report, reports: Sequence[Report]) -> bytes:
    """The page over time of the model of `report`, from all its reports, as UTF-8."""
    found = history(reports)
    chart = {"caption": HISTORY_CAPTION, "drawings": _drawn(found.drawings, found.told)}
    text = environment().get_template("history.html.j2").render(report=report, history=found, chart=chart)
    return text.encode()


def _shown(figure: Figure | None) -> dict[str, object] | None:
    """A figure with its drawings as markup."""
    if figure is None:
        return None
    return {"title": figure.title, "caption": figure.caption, "drawings": _drawn(figure.drawings, figure.told)}


def _drawn(drawings: Sequence[Drawing], told: str) -> list[Markup]:
    """The alternative text stands with the first drawing; the others continue it."""
    return [svg(drawing, told if index == 0 else "continued") for index, drawing in enumerate(drawings)]
