"""The chart of the service under load: how its requests are spread, beside the calls of the engine alone."""

from __future__ import annotations

from typing import NamedTuple

from reportlab.graphics.shapes import Drawing
from reportlab.pdfbase.pdfmetrics import stringWidth

from reporter.charts import FIGURE_WIDTH, FOOT, ROW, WIDTH, outlines
from reporter.lookup import short
from reporter.service import ALONE, alone, loops
from reporter.shapes import DOT, FONT, SIZE, SMALL, Decades, decades, fit, ring, stroke, whisker, words
from shared.verdict.distribution import Distribution, log_density
from shared.verdict.figures import estimate
from shared.verdict.metrics import Metric
from shared.verdict.report import Report


class Ridge(NamedTuple):
    """A row: its name, its colour, how it is spread, and its percentiles in milliseconds."""

    name: str
    colour: str
    latency: Distribution
    p50: Metric
    p95: Metric
    p99: Metric


def service_panel(report: Report) -> Drawing | None:
    """A row for the engine alone and one for each loop, on a logarithmic scale: they lie far apart."""
    rows = _rows(report)
    if not rows or report.service is None:
        return None
    top = FOOT + ROW * len(rows)
    drawing = Drawing(WIDTH, top + 4)
    start = min(200.0, max(stringWidth(row.name, FONT, SIZE) for row in rows) + 22)
    least = min(max(row.latency.least_ms, 1e-3) for row in rows)
    largest = max(max(row.latency.most_ms, row.p95.high or 0.0) for row in rows)
    scale = decades(least, largest, start, WIDTH - start - FIGURE_WIDTH - 12)
    for tick, label in zip(scale.ticks, scale.labels("ms"), strict=True):
        x = scale.at(tick)
        drawing.add(stroke((x, FOOT), (x, top), "grid", 0.5))
        drawing.add(words((x, FOOT - 10), label, "muted", anchor="middle", size=SMALL))
    for index, row in enumerate(rows):
        y = top - ROW * (index + 1) + 8
        for shape in outlines(log_density(row.latency), scale, y, f"{row.colour}-tint"):
            drawing.add(shape)
        _percentiles(drawing, row, scale, y)
        drawing.add(words((6, y + 1), fit(row.name, start - 14, FONT), "ink"))
        drawing.add(words((WIDTH - 6, y + 1), _said(row.p95), "ink", anchor="end"))
    return drawing


def _rows(report: Report) -> list[Ridge]:
    if report.service is None:
        return []
    found = [
        Ridge(name, "muted", loop.latency, loop.latency_p50_ms, loop.latency_p95_ms, loop.latency_p99_ms)
        for name, loop in loops(report.service)
        if loop.latency is not None
    ]
    engine = alone(report)
    if found and engine is not None and engine.latency is not None:
        p50, p95, p99 = (engine.metrics[name] for name in ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms"))
        name = f"{short(report, engine)}, {ALONE}"
        found.insert(0, Ridge(name, engine.engine, engine.latency, p50, p95, p99))
    return found


def _percentiles(drawing: Drawing, row: Ridge, scale: Decades, y: float) -> None:
    """As in the charts of the candidates: a ring for P50, a dot with its interval for P95, a tick for P99."""
    known = [found.value for found in (row.p50, row.p95, row.p99) if found.value is not None]
    if not known:
        return
    drawing.add(stroke((scale.at(known[0]), y), (scale.at(known[-1]), y), row.colour, 1.2))
    if row.p99.value is not None:
        x = scale.at(row.p99.value)
        drawing.add(stroke((x, y - 4), (x, y + 4), row.colour, 1.2))
    if row.p50.value is not None:
        drawing.add(ring((scale.at(row.p50.value), y), DOT, row.colour, inside=row.colour))
    if row.p95.low is not None and row.p95.high is not None:
        for part in whisker((scale.at(row.p95.low), y), (scale.at(row.p95.high), y), "ink"):
            drawing.add(part)
    if row.p95.value is not None:
        drawing.add(ring((scale.at(row.p95.value), y), 2.8, row.colour, inside=row.colour))


def _said(p95: Metric) -> str:
    return "no P95: too few requests" if p95.value is None else f"{estimate(p95.value, p95.low, p95.high)} ms"
