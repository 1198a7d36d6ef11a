"""Self-contained pages of a report: the simple view, the technical view, and both; no script, no request."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from reportlab.graphics.shapes import Drawing

from reporter import SearchRecord, TrainingRecord, search
from reporter.confusion import matrix
from reporter.curves import curves, overlaid
from reporter.figures import Figure, figures, overview_figure, service_figure
from reporter.history import history
from reporter.lookup import heading
from reporter.pair import pair
from reporter.simple import SimpleView
from reporter.svg import svg
from reporter.technical import TechnicalView
from reporter.training import metric, training_view
from shared.specs import canonical_json
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


def training_page(record: TrainingRecord, pictures: Sequence[bytes | None] = ()) -> bytes:
    """The report of a training as UTF-8; `pictures` are PNG files of its worst samples, in their order."""
    view = training_view(record)
    shown = [None if each is None else f"data:image/png;base64,{base64.b64encode(each).decode()}" for each in pictures]
    text = (
        environment()
        .get_template("training.html.j2")
        .render(
            view=view,
            curves=_shown(_curves(record)),
            matrix=_shown(_matrix(record)),
            search=None if record.search is None else _search(record.search),
            pair=None if record.before is None else _pair(record.before, record),
            pictures=shown or [None] * len(view.worst),
            sha256=hashlib.sha256(canonical_json(record)).hexdigest(),
        )
    )
    return text.encode()


def _curves(record: TrainingRecord) -> Figure:
    result, name = record.result, metric(record)
    best = result.epochs[result.best_epoch - 1]
    return Figure(
        title="How it went",
        drawings=[curves(result, name)],
        caption="Each epoch is one pass over the training images. The grey line is taken while they are varied and the "
        "network still changes, the other one after the epoch, on validation images. Training that gets better while "
        "validation gets worse learns by heart. The ring is the epoch whose weights were kept.",
        told=f"Loss and {name} of {len(result.epochs)} epochs; in the best, number {best.epoch}, validation has a loss "
        f"of {best.val_loss:.3g} and {name} {best.val_accuracy:.3g}.",
    )


def _matrix(record: TrainingRecord) -> Figure | None:
    drawing = matrix(record.result)
    if drawing is None:
        return None
    return Figure(
        title="What is taken for what",
        drawings=[drawing],
        caption="A row is a class, a column an answer. Squares on the diagonal are right answers, those beside it "
        "mix-ups. Numbers are validation images.",
        told="The confusion matrix; the table below has the least recognised classes.",
    )


def _pair(before: TrainingRecord, after: TrainingRecord) -> dict[str, object]:
    """What the page says and shows of the training before."""
    found = pair(before, after)
    curves = Figure(
        title="",
        drawings=[overlaid([before.result, after.result], found.names, metric(after))],
        caption="Both on their validation images, epoch by epoch; a ring is the epoch whose weights were kept.",
        told="Loss and accuracy of both trainings; the table below has what they reached.",
    )
    return {"told": found.told, "tables": found.tables, "curves": _shown(curves)}


def _search(record: SearchRecord) -> dict[str, object]:
    """What the page says and shows of a search."""
    fitness, front, strips = search.fitness(record), search.front(record), search.strips(record)
    made = (search.front_table, search.finalists, search.latency_table, search.gene_table)
    tables = [make(record) for make in made]
    drawn = [
        Figure(
            title="Generation by generation",
            drawings=[fitness] if fitness else [],
            caption="Each dot is a setting that was trained to the end. The line is the best so far; the dashed line "
            "the best that chance found, where that was asked for.",
            told="The best accuracy so far after each generation.",
        ),
        Figure(
            title="Accuracy against latency",
            drawings=[front] if front else [],
            caption="Up and to the left is better. Filled: settings that no other beats in both (Pareto front). With a "
            "ring: the one that was chosen.",
            told=f"{len(record.outcome.front)} settings are on the Pareto front.",
        ),
        Figure(
            title="What the genes did",
            drawings=strips,
            caption="A dot a setting, by its accuracy after its first training, which was as long for each. The best "
            "fifth are darker.",
            told="Accuracy against each gene; the table below has what each is in the best fifth.",
        ),
    ]
    return {
        "told": search.told(record),
        "figures": [_shown(figure) for figure in drawn if figure.drawings],
        "tables": [table for table in tables if table.rows],
    }


def _shown(figure: Figure | None) -> dict[str, object] | None:
    """A figure with its drawings as markup."""
    if figure is None:
        return None
    return {"title": figure.title, "caption": figure.caption, "drawings": _drawn(figure.drawings, figure.told)}


def _drawn(drawings: Sequence[Drawing], told: str) -> list[Markup]:
    """The alternative text stands with the first drawing; the others continue it."""
    return [svg(drawing, told if index == 0 else "continued") for index, drawing in enumerate(drawings)]
