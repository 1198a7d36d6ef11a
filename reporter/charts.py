"""Charts with a row a candidate: how its calls are spread, how much it does, and the few of the first page.

All charts are drawn by hand with ReportLab's shapes, once for pages and paper: its chart classes know no intervals,
and Matplotlib would weigh 40 MB for the few marks they need.
"""

from __future__ import annotations

from collections.abc import Sequence

from reportlab.graphics.shapes import Drawing, Polygon
from reportlab.pdfbase.pdfmetrics import stringWidth

from reporter.lookup import best_of_each, candidate_of, is_selected, measured, way
from reporter.shapes import (
    BOLD,
    DOT,
    FONT,
    SIZE,
    SMALL,
    Axis,
    Decades,
    Point,
    area,
    axis,
    box,
    fit,
    mark,
    ring,
    stroke,
    whisker,
    words,
)
from shared.specs import MetricName
from shared.verdict.decision import METRIC_OF
from shared.verdict.distribution import density
from shared.verdict.figures import QUANTITIES, engine_title, estimate
from shared.verdict.report import CandidateRecord, Report

WIDTH = 482.0
"""Points; the width of the text on an A4 page."""
LABEL_WIDTH_MOST = 180.0
FIGURE_WIDTH = 104.0
ROW = 24.0
RIDGE = 12.0
"""How high the most frequent durations of a candidate stand."""
ROWS_A_PANEL = 24
"""More rows continue in another panel, so that a drawing always fits a page."""
OVERVIEW_ROWS = 6
FOOT = 16.0


def latency_panels(report: Report) -> list[Drawing]:
    """Drawings for each batch size, with a scale of its own: how the calls of every candidate are spread, and its P95.

    The scale ends behind the last P99; calls beyond it are not drawn.
    """
    panels = []
    timed = [record for record in measured(report) if record.metrics["latency_p50_ms"].value is not None]
    for batch in sorted({record.batch_size for record in timed}):
        rows = [record for record in timed if record.batch_size == batch]
        scale = _axis(_label_width([way(report, record) for record in rows]), max(map(_furthest, rows)))
        for start in range(0, len(rows), ROWS_A_PANEL):
            name = f"Batch {batch:,}" + (", continued" if start else "")
            panels.append(_latency_panel(report, name, rows[start : start + ROWS_A_PANEL], scale))
    return panels


def latency_key() -> Drawing:
    """What the marks of the latency panels mean."""
    drawing = Drawing(WIDTH, 18)
    y = 5.0
    drawing.add(area(((6, y), (10, y + 5), (15, y + 10), (20, y + 4), (30, y)), "muted-tint"))
    drawing.add(words((35, y), "all calls: the higher, the more", "muted"))
    drawing.add(ring((158, y + 2), DOT, "muted", inside="muted"))
    drawing.add(words((164, y), "median", "muted"))
    for part in whisker((208, y + 2), (226, y + 2), "muted"):
        drawing.add(part)
    drawing.add(mark((217, y + 2), 2.8, "onnxruntime", "fp32"))
    drawing.add(words((231, y), "P95 with its 95 % interval", "muted"))
    drawing.add(stroke((338, y - 2), (338, y + 6), "muted", 1.2))
    drawing.add(words((343, y), "P99", "muted"))
    drawing.add(words((WIDTH - 6, y), "P95, ms", "muted", anchor="end"))
    return drawing


def bars(report: Report, metric: MetricName, records: Sequence[CandidateRecord] | None = None) -> list[Drawing]:
    """A bar a candidate with its interval; the overview of the first page, or all candidates in panels."""
    shown = [record for record in measured(report) if record.metrics[metric].value is not None]
    if records is not None:
        shown = [record for record in shown if record in records]
    if not shown:
        return []
    names = [way(report, record) for record in shown]
    scale = _axis(_label_width(names), max(_most(record, metric) for record in shown))
    pieces = [shown[start : start + ROWS_A_PANEL] for start in range(0, len(shown), ROWS_A_PANEL)]
    return [_bars(report, piece, names, scale, metric) for piece in pieces]


def overview(report: Report) -> list[Drawing]:
    """The best setup of each engine and precision, the best one first."""
    metric = METRIC_OF[report.metadata.config.objective]
    shown = best_of_each(report)[:OVERVIEW_ROWS]
    if len(shown) < 2:
        return []
    names = [engine_title(candidate_of(record)) for record in shown]
    scale = _axis(_label_width(names), max(_most(record, metric) for record in shown))
    return [_bars(report, shown, names, scale, metric)]


# --- a row ----------------------------------------------------------------------------------------------------------


def _latency_panel(report: Report, name: str, rows: Sequence[CandidateRecord], scale: Axis) -> Drawing:
    top = FOOT + ROW * len(rows)
    drawing = Drawing(WIDTH, top + 16)
    drawing.add(words((0, top + 6), name, "ink", font=BOLD))
    _frame(drawing, report, rows, scale, "ms")
    for index, record in enumerate(rows):
        foot = top - ROW * (index + 1)
        _ridge(drawing, record, scale, foot + 8)
        _marks(drawing, record, scale, foot + 8)
        at = (scale.start, foot + ROW / 2)
        _row_words(drawing, way(report, record), _p95_words(record), at, _font(report, record))
    return drawing


def _bars(
    report: Report, rows: Sequence[CandidateRecord], names: Sequence[str], scale: Axis, metric: MetricName
) -> Drawing:
    top = FOOT + ROW * len(rows)
    drawing = Drawing(WIDTH, top + 4)
    unit = QUANTITIES[metric].unit
    _frame(drawing, report, rows, scale, unit)
    for index, (record, name) in enumerate(zip(rows, names, strict=False)):
        y, found = top - ROW * (index + 0.5), record.metrics[metric]
        drawing.add(box((scale.start, y - 5), scale.at(found.value or 0.0) - scale.start, 10, f"{record.engine}-tint"))
        drawing.add(stroke((scale.at(found.value or 0.0), y - 5), (scale.at(found.value or 0.0), y + 5), record.engine))
        if found.low is not None and found.high is not None:
            for part in whisker((scale.at(found.low), y), (scale.at(found.high), y), "ink"):
                drawing.add(part)
        said = f"{_words(record, metric)} {unit}"
        _row_words(drawing, name, said, (scale.start, y), _font(report, record))
    return drawing


def _frame(drawing: Drawing, report: Report, rows: Sequence[CandidateRecord], scale: Axis, unit: str) -> None:
    """The tint behind the chosen candidate, the grid and its labels."""
    top = FOOT + ROW * len(rows)
    for index, record in enumerate(rows):
        if is_selected(report, record):
            drawing.add(box((0, top - ROW * (index + 1)), WIDTH, ROW, "band"))
    for tick, label in zip(scale.ticks, scale.labels(unit), strict=True):
        x = scale.at(tick)
        drawing.add(stroke((x, FOOT), (x, top), "grid", 0.5 if tick else 1))
        drawing.add(words((x, FOOT - 10), label, "muted", anchor="middle", size=SMALL))


def _label_width(names: Sequence[str]) -> float:
    """Room for the longest name."""
    return float(min(LABEL_WIDTH_MOST, max(stringWidth(name, BOLD, SIZE) for name in names) + 22))


def _axis(start: float, largest: float) -> Axis:
    return axis(largest, start, WIDTH - start - FIGURE_WIDTH - 12)


def _row_words(drawing: Drawing, name: str, figure: str, at: Point, font: str) -> None:
    """The name of a row, which ends where the plot starts, and its figure; `at` is the plot's left edge."""
    x, y = at
    drawing.add(words((6, y - 3), fit(name, x - 14, font), "ink", font=font))
    drawing.add(words((WIDTH - 6, y - 3), figure, "ink", font=font, anchor="end"))


def _ridge(drawing: Drawing, record: CandidateRecord, scale: Axis, y: float) -> None:
    bars = density(record.latency) if record.latency else []
    for shape in outlines([bar for bar in bars if bar[1] <= scale.top], scale, y, f"{record.engine}-tint"):
        drawing.add(shape)


def outlines(bars: Sequence[tuple[float, float, float]], scale: Axis | Decades, y: float, colour: str) -> list[Polygon]:
    """A histogram that stands on `y`, an outline for each run of bins that touch; bars as of `density`."""
    runs: list[list[Point]] = []
    for low, high, height in bars:
        left, right, top = scale.at(low), scale.at(high), y + RIDGE * height
        if not runs or runs[-1][-1] != (left, y):
            runs.append([(left, y)])
        else:
            runs[-1].pop()
        runs[-1] += [(left, top), (right, top), (right, y)]
    return [area(run, colour) for run in runs]


def _marks(drawing: Drawing, record: CandidateRecord, scale: Axis, y: float) -> None:
    p50, p95, p99 = (record.metrics[name] for name in ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms"))
    median = scale.at(p50.value or 0.0)
    drawing.add(stroke((median, y), (scale.at(_slowest(record)), y), record.engine, 1.2))
    if p99.value is not None:
        x = scale.at(p99.value)
        drawing.add(stroke((x, y - 4), (x, y + 4), record.engine, 1.2))
    drawing.add(ring((median, y), DOT, record.engine, inside=record.engine))
    if p95.low is not None and p95.high is not None:
        for part in whisker((scale.at(p95.low), y), (scale.at(p95.high), y), "ink"):
            drawing.add(part)
    if p95.value is not None:
        drawing.add(mark((scale.at(p95.value), y), 2.8, record.engine, record.precision))


def _furthest(record: CandidateRecord) -> float:
    """Where the marks of a row end; few calls have a P95 whose interval reaches beyond everything else."""
    return max(_slowest(record), record.metrics["latency_p95_ms"].high or 0.0)


def _slowest(record: CandidateRecord) -> float:
    """The highest percentile there is."""
    names: tuple[MetricName, ...] = ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms")
    return max(record.metrics[name].value or 0.0 for name in names)


def _p95_words(record: CandidateRecord) -> str:
    if record.metrics["latency_p95_ms"].value is None:
        return "no P95: too few calls"
    return f"{_words(record, 'latency_p95_ms')} ms"


def _most(record: CandidateRecord, metric: MetricName) -> float:
    found = record.metrics[metric]
    return max(found.value or 0.0, found.high or 0.0)


def _words(record: CandidateRecord, metric: MetricName) -> str:
    found = record.metrics[metric]
    return estimate(found.value or 0.0, found.low, found.high)


def _font(report: Report, record: CandidateRecord) -> str:
    return BOLD if is_selected(report, record) else FONT
