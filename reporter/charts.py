"""The two charts of a report, drawn once as vectors: latency of every candidate, throughput against batch size."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from reportlab.graphics.shapes import Drawing
from reportlab.pdfbase.pdfmetrics import stringWidth

from reporter.lookup import is_selected, measured, way
from reporter.shapes import (
    BOLD,
    FONT,
    SIZE,
    SMALL,
    Axis,
    Point,
    axis,
    box,
    diamond,
    dot,
    fit,
    ring,
    spread,
    stroke,
    whisker,
    words,
)
from shared.specs import MetricName
from shared.verdict.figures import estimate
from shared.verdict.report import CandidateRecord, Report

WIDTH = 482.0
"""Points; the width of the text on an A4 page."""
LABEL_WIDTH_MOST = 180.0
FIGURE_WIDTH = 104.0
ROW = 22.0
ROWS_A_PANEL = 24
"""More rows continue in another panel, so that a drawing always fits a page."""
FOOT = 16.0


def latency_panels(report: Report) -> list[Drawing]:
    """A drawing for each batch size, with its own scale: P50 to P99 of every candidate, P95 with its interval."""
    panels = []
    timed = [record for record in measured(report) if record.metrics["latency_p50_ms"].value is not None]
    for batch in sorted({record.batch_size for record in timed}):
        rows = [record for record in timed if record.batch_size == batch]
        scale = _rows_axis(report, max(map(_furthest, rows)))
        for start in range(0, len(rows), ROWS_A_PANEL):
            panels.append(_latency_panel(report, f"Batch {batch:,}", rows[start : start + ROWS_A_PANEL], scale))
    return panels


def latency_key(report: Report) -> Drawing:
    """What the marks of the latency panels mean."""
    drawing = Drawing(WIDTH, 14)
    x, y = _label_width(report), 5.0
    drawing.add(ring((x, y), 3, "muted", inside="paper"))
    drawing.add(words((x + 7, y - 3), "median (P50)", "muted"))
    drawing.add(box((x + 66, y - 3.5), 14, 7, "muted-tint"))
    drawing.add(diamond((x + 73, y), 3.6, "muted"))
    drawing.add(words((x + 84, y - 3), "P95 with its 95 % interval", "muted"))
    drawing.add(stroke((x + 186, y - 3.5), (x + 186, y + 3.5), "muted", 1.2))
    drawing.add(words((x + 191, y - 3), "P99", "muted"))
    drawing.add(words((WIDTH - 6, y - 3), "P95 latency", "muted", anchor="end"))
    return drawing


def throughput_chart(report: Report) -> Drawing | None:
    """Images per second against batch size, a line an engine configuration; bars where there is one batch size."""
    records = measured(report)
    batches = sorted({record.batch_size for record in records})
    if len(batches) > 1:
        return _throughput_lines(report, records, batches)
    return _throughput_bars(report, records[:ROWS_A_PANEL]) if records else None


# --- rows: a candidate each, on a horizontal scale -------------------------------------------------------------------


def _latency_panel(report: Report, name: str, rows: Sequence[CandidateRecord], scale: Axis) -> Drawing:
    top = FOOT + ROW * len(rows)
    drawing = Drawing(WIDTH, top + 16)
    drawing.add(words((0, top + 6), name, "ink", font=BOLD))
    _rows_frame(drawing, report, rows, scale, "ms")
    for index, record in enumerate(rows):
        _latency_marks(drawing, record, scale, top - ROW * (index + 0.5))
        _row_words(drawing, report, record, (scale.start, top - ROW * (index + 0.5)), _p95_words(record))
    return drawing


def _throughput_bars(report: Report, rows: Sequence[CandidateRecord]) -> Drawing:
    top = FOOT + ROW * len(rows)
    drawing = Drawing(WIDTH, top + 4)
    scale = _rows_axis(report, max(map(_most, rows)))
    _rows_frame(drawing, report, rows, scale, "images/s")
    for index, record in enumerate(rows):
        y, found = top - ROW * (index + 0.5), record.metrics["throughput_fps"]
        drawing.add(box((scale.start, y - 4), scale.at(found.value or 0.0) - scale.start, 8, record.engine))
        if found.low is not None and found.high is not None:
            for part in whisker((scale.at(found.low), y), (scale.at(found.high), y), "ink"):
                drawing.add(part)
        _row_words(drawing, report, record, (scale.start, y), _words(record, "throughput_fps"))
    return drawing


def _rows_frame(drawing: Drawing, report: Report, rows: Sequence[CandidateRecord], scale: Axis, unit: str) -> None:
    """The tint behind the chosen candidate, the grid and its labels."""
    top = FOOT + ROW * len(rows)
    for index, record in enumerate(rows):
        if is_selected(report, record):
            drawing.add(box((0, top - ROW * (index + 1)), WIDTH, ROW, "band"))
    for tick, label in zip(scale.ticks, scale.labels(unit), strict=True):
        x = scale.at(tick)
        drawing.add(stroke((x, FOOT), (x, top), "grid", 0.5 if tick else 1))
        drawing.add(words((x, FOOT - 10), label, "muted", anchor="middle", size=SMALL))


def _label_width(report: Report) -> float:
    """Room for the longest name, the same in every panel of a report."""
    widest = max(stringWidth(way(report, record), BOLD, SIZE) for record in measured(report))
    return float(min(LABEL_WIDTH_MOST, widest + 22))


def _rows_axis(report: Report, largest: float) -> Axis:
    start = _label_width(report)
    return axis(largest, start, WIDTH - start - FIGURE_WIDTH - 12)


def _row_words(drawing: Drawing, report: Report, record: CandidateRecord, at: Point, figure: str) -> None:
    """The name of a row, which ends where the plot starts, and its figure; `at` is the plot's left edge."""
    x, y = at
    font = _font(report, record)
    drawing.add(words((6, y - 3), fit(way(report, record), x - 14, font), "ink", font=font))
    drawing.add(words((WIDTH - 6, y - 3), figure, "ink", font=font, anchor="end"))


def _latency_marks(drawing: Drawing, record: CandidateRecord, scale: Axis, y: float) -> None:
    p50, p95, p99 = (record.metrics[name] for name in ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms"))
    median = scale.at(p50.value or 0.0)
    drawing.add(stroke((median, y), (scale.at(_slowest(record)), y), record.engine, 1.2))
    if p99.value is not None:
        x = scale.at(p99.value)
        drawing.add(stroke((x, y - 3.5), (x, y + 3.5), record.engine, 1.2))
    if p95.low is not None and p95.high is not None:
        low, high = scale.at(p95.low), scale.at(p95.high)
        drawing.add(box((low, y - 3.5), high - low, 7, f"{record.engine}-tint"))
    drawing.add(ring((median, y), 3, record.engine, inside="paper"))
    if p95.value is not None:
        drawing.add(diamond((scale.at(p95.value), y), 3.6, record.engine))


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


# --- lines: throughput against batch size ----------------------------------------------------------------------------


def _throughput_lines(report: Report, records: Sequence[CandidateRecord], batches: Sequence[int]) -> Drawing:
    lines: dict[str, list[CandidateRecord]] = {}
    for record in records:
        lines.setdefault(way(report, record), []).append(record)
    left, right, plot_height = 40.0, WIDTH - _label_width(report), max(150.0, 20.0 * len(lines))
    drawing = Drawing(WIDTH, 30 + plot_height + 18)
    scale = axis(max(map(_most, records)), 30.0, plot_height, most_ticks=8)
    inset = min(40.0, (right - left) / (2 * len(batches)))
    step = (right - left - 2 * inset) / (len(batches) - 1)
    x_of = {batch: left + inset + step * index for index, batch in enumerate(batches)}
    _lines_frame(drawing, scale, x_of, left, right)
    for line in lines.values():
        points = [(x_of[record.batch_size], scale.at(_throughput(record))) for record in line]
        for start, end in pairwise(points):
            drawing.add(stroke(start, end, line[0].engine, 1.2))
    for record in records:
        _point(drawing, record, x_of[record.batch_size], scale)
    _mark_chosen(drawing, report, records, x_of, scale)
    _line_names(drawing, report, lines, right + 8, scale)
    return drawing


def _lines_frame(drawing: Drawing, scale: Axis, x_of: dict[int, float], left: float, right: float) -> None:
    for tick, label in zip(scale.ticks, scale.labels(), strict=True):
        y = scale.at(tick)
        drawing.add(stroke((left, y), (right, y), "grid", 0.5 if tick else 1))
        drawing.add(words((left - 5, y - 2.7), label, "muted", anchor="end", size=SMALL))
    drawing.add(words((0, scale.start + scale.length + 10), "images per second", "muted", size=SMALL))
    for batch, x in x_of.items():
        drawing.add(words((x, scale.start - 12), f"{batch:,}", "muted", anchor="middle", size=SMALL))
    title = "images per call (batch size)"
    drawing.add(words(((left + right) / 2, scale.start - 24), title, "muted", anchor="middle", size=SMALL))


def _point(drawing: Drawing, record: CandidateRecord, x: float, scale: Axis) -> None:
    found, y = record.metrics["throughput_fps"], scale.at(_throughput(record))
    if found.low is not None and found.high is not None:
        for part in whisker((x, scale.at(found.low)), (x, scale.at(found.high)), record.engine):
            drawing.add(part)
    drawing.add(dot((x, y), 2, record.engine))


def _mark_chosen(
    drawing: Drawing, report: Report, records: Sequence[CandidateRecord], x_of: dict[int, float], scale: Axis
) -> None:
    """A ring around the chosen point, and the word above it, or below where another point is in the way."""
    for chosen in records:
        if is_selected(report, chosen):
            x, y = x_of[chosen.batch_size], scale.at(_throughput(chosen))
            above = [scale.at(_throughput(other)) - y for other in records if other.batch_size == chosen.batch_size]
            below = any(0 < gap < 30 for gap in above)
            drawing.add(ring((x, y), 6.5, "ink", width=1))
            drawing.add(
                words((x, y - 16 if below else y + 11), "chosen", "ink", font=BOLD, anchor="middle", size=SMALL)
            )


def _line_names(
    drawing: Drawing, report: Report, lines: dict[str, list[CandidateRecord]], x: float, scale: Axis
) -> None:
    """Each line named beside its end, in its colour; names are moved apart where lines end close together."""
    ends = sorted((scale.at(_throughput(line[-1])), name) for name, line in lines.items())
    places = spread([end for end, _ in ends], 20.0, scale.start + 4, scale.start + scale.length)
    for place, (_, name) in zip(places, ends, strict=True):
        last = lines[name][-1]
        font = BOLD if any(is_selected(report, record) for record in lines[name]) else FONT
        drawing.add(words((x, place + 1), fit(name, WIDTH - x, font), last.engine, font=font))
        drawing.add(words((x, place - 8), _words(last, "throughput_fps"), "muted", size=SMALL))


def _throughput(record: CandidateRecord) -> float:
    return record.metrics["throughput_fps"].value or 0.0


def _most(record: CandidateRecord) -> float:
    return max(_throughput(record), record.metrics["throughput_fps"].high or 0.0)


def _words(record: CandidateRecord, metric: MetricName) -> str:
    found = record.metrics[metric]
    return estimate(found.value or 0.0, found.low, found.high)


def _font(report: Report, record: CandidateRecord) -> str:
    return BOLD if is_selected(report, record) else FONT
