"""Throughput against batch size: a line an engine, precision and way to run it, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from reportlab.graphics.shapes import Drawing

from reporter.charts import LABEL_WIDTH_MOST, WIDTH, bars
from reporter.lookup import is_selected, measured, way
from reporter.shapes import BOLD, DASHES, FONT, SMALL, Axis, axis, box, fit, mark, ring, spread, stroke, whisker, words
from shared.verdict.figures import estimate
from shared.verdict.report import CandidateRecord, Report

LINES_A_PANEL = 10
"""More lines continue in another panel with the same scales: they could not be told apart in one."""

LEFT = 40.0
WORD = 40.0
"""Room for the word beside a point."""

Line = list[CandidateRecord]


def throughput_panels(report: Report) -> list[Drawing]:
    """Images per second against batch size; bars where there is one batch size."""
    records = measured(report)
    batches = sorted({record.batch_size for record in records})
    if len(batches) < 2:
        return bars(report, "throughput_fps")
    lines: dict[str, Line] = {}
    for record in records:
        lines.setdefault(way(report, record), []).append(record)
    top, names = max(map(_most, records)), list(lines)
    pieces = [names[start : start + LINES_A_PANEL] for start in range(0, len(names), LINES_A_PANEL)]
    return [_panel(report, {name: lines[name] for name in piece}, batches, top) for piece in pieces]


def _panel(report: Report, lines: dict[str, Line], batches: Sequence[int], top: float) -> Drawing:
    left, right, height = LEFT, WIDTH - LABEL_WIDTH_MOST, max(130.0, 22.0 * len(lines))
    drawing = Drawing(WIDTH, 30 + height + 18)
    scale = axis(top, 30.0, height, most_ticks=8)
    inset = min(40.0, (right - left) / (2 * len(batches)))
    step = (right - left - 2 * inset) / (len(batches) - 1)
    x_of = {batch: left + inset + step * index for index, batch in enumerate(batches)}
    _frame(drawing, scale, x_of, left, right)
    for line in lines.values():
        points = [(x_of[record.batch_size], scale.at(_throughput(record))) for record in line]
        for start, end in pairwise(points):
            drawing.add(stroke(start, end, line[0].engine, 1.2, DASHES[line[0].precision]))
    records = [record for line in lines.values() for record in line]
    for record in records:
        _point(drawing, record, x_of[record.batch_size], scale)
    _mark_chosen(drawing, report, records, x_of, scale)
    _names(drawing, report, lines, right + 6, scale)
    return drawing


def _frame(drawing: Drawing, scale: Axis, x_of: dict[int, float], left: float, right: float) -> None:
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
    drawing.add(mark((x, y), 2.6, record.engine, record.precision))


def _mark_chosen(
    drawing: Drawing, report: Report, records: Sequence[CandidateRecord], x_of: dict[int, float], scale: Axis
) -> None:
    """A ring around the chosen point and the word beside it, or above or below it where there is no room."""
    for chosen in records:
        if is_selected(report, chosen):
            x, y = x_of[chosen.batch_size], scale.at(_throughput(chosen))
            drawing.add(ring((x, y), 6.5, "ink", width=1))
            if x - LEFT >= WORD:
                drawing.add(box((x - 38, y - 4.5), 30, 9, "paper"))
                drawing.add(words((x - 9, y - 2.7), "chosen", "ink", font=BOLD, anchor="end", size=SMALL))
                continue
            above = [scale.at(_throughput(other)) - y for other in records if other.batch_size == chosen.batch_size]
            below = any(0 < gap < 30 for gap in above) and y - scale.start > 20
            drawing.add(
                words((x, y - 16 if below else y + 11), "chosen", "ink", font=BOLD, anchor="middle", size=SMALL)
            )


def _names(drawing: Drawing, report: Report, lines: dict[str, Line], x: float, scale: Axis) -> None:
    """Each line named beside its end, with its mark; names are moved apart where lines end close together."""
    ends = sorted((scale.at(_throughput(line[-1])), name) for name, line in lines.items())
    places = spread([end for end, _ in ends], 20.0, scale.start + 4, scale.start + scale.length)
    for place, (_, name) in zip(places, ends, strict=True):
        last = lines[name][-1]
        font = BOLD if any(is_selected(report, record) for record in lines[name]) else FONT
        drawing.add(stroke((x, place + 3.6), (x + 16, place + 3.6), last.engine, 1.2, DASHES[last.precision]))
        drawing.add(mark((x + 8, place + 3.6), 2.6, last.engine, last.precision))
        drawing.add(words((x + 21, place + 1), fit(name, WIDTH - x - 21, font), "ink", font=font))
        drawing.add(words((x + 21, place - 8), f"{_words(last)} at batch {last.batch_size}", "muted", size=SMALL))


def _throughput(record: CandidateRecord) -> float:
    return record.metrics["throughput_fps"].value or 0.0


def _most(record: CandidateRecord) -> float:
    return max(_throughput(record), record.metrics["throughput_fps"].high or 0.0)


def _words(record: CandidateRecord) -> str:
    found = record.metrics["throughput_fps"]
    return estimate(found.value or 0.0, found.low, found.high)
