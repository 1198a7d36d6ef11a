"""Accuracy against latency: what a faster setup costs in right answers, and which setups no other one beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from reportlab.graphics.shapes import Drawing
from reportlab.pdfbase.pdfmetrics import stringWidth

from reporter.charts import WIDTH
from reporter.lookup import is_selected, measured, subject, way
from reporter.shapes import BOLD, FONT, SMALL, Axis, Point, axis, mark, ring, stroke, whisker, window, words
from shared.verdict.report import CandidateRecord, Report

LEFT, FOOT, HEIGHT = 40.0, 30.0, 200.0
RIGHT = 100.0
"""Room for the names of the slowest."""
NAMED = 8
"""With more points, only the chosen one and those on the front carry a name."""


class Plane(NamedTuple):
    """Where latencies and accuracies lie."""

    across: Axis
    up: Axis

    def at(self, record: CandidateRecord) -> Point:
        """Where a candidate lies."""
        return self.across.at(_latency(record)), self.up.at(_accuracy(record))


Bounds = tuple[float, float, float, float]


def tradeoff_chart(report: Report) -> Drawing | None:
    """The measured candidates of one batch size with their intervals; None where accuracy was not measured."""
    shown = points(report)
    if not shown:
        return None
    drawing = Drawing(WIDTH, FOOT + HEIGHT + 18)
    across = axis(max(_bounds(record)[1] for record in shown), LEFT, WIDTH - LEFT - RIGHT)
    bounds = [_bounds(record) for record in shown]
    up = window(min(found[2] for found in bounds), max(found[3] for found in bounds), FOOT, HEIGHT)
    plane = Plane(across, up)
    _frame(drawing, plane, shown[0].batch_size)
    best = front(shown)
    for start, end in pairwise(stairs([plane.at(record) for record in best], across)):
        drawing.add(stroke(start, end, "muted", 1, (3, 2)))
    for record in shown:
        _point(drawing, record, plane)
    for record in shown:
        if is_selected(report, record):
            drawing.add(ring(plane.at(record), 6.5, "ink", width=1))
    _names(drawing, report, shown, plane)
    return drawing


def points(report: Report) -> list[CandidateRecord]:
    """Candidates with accuracy and P95 at the batch size of the chosen one, else at the smallest."""
    known = [
        record
        for record in measured(report)
        if record.metrics["accuracy"].value is not None and record.metrics["latency_p95_ms"].value is not None
    ]
    about = subject(report)
    sizes = {record.batch_size for record in known}
    batch = about.batch_size if about and about.batch_size in sizes else min(sizes, default=0)
    return [record for record in known if record.batch_size == batch]


def front(records: Sequence[CandidateRecord]) -> list[CandidateRecord]:
    """By estimate, those that no other one equals or beats in both P95 and accuracy (Pareto front), fastest first."""
    found: list[CandidateRecord] = []
    for record in sorted(records, key=lambda item: (_latency(item), -_accuracy(item))):
        if not found or _accuracy(record) > _accuracy(found[-1]):
            found.append(record)
    return found


def _frame(drawing: Drawing, plane: Plane, batch: int) -> None:
    across, up = plane
    for tick, label in zip(up.ticks, up.labels(), strict=True):
        y = up.at(tick)
        drawing.add(stroke((LEFT, y), (across.start + across.length, y), "grid", 0.5))
        drawing.add(words((LEFT - 5, y - 2.7), label, "muted", anchor="end", size=SMALL))
    for tick, label in zip(across.ticks, across.labels(), strict=True):
        x = across.at(tick)
        drawing.add(stroke((x, FOOT), (x, FOOT + HEIGHT), "grid", 0.5))
        drawing.add(words((x, FOOT - 12), label, "muted", anchor="middle", size=SMALL))
    told = "accuracy" if up.bottom <= 0 else "accuracy (the scale does not begin at 0)"
    drawing.add(words((0, FOOT + HEIGHT + 10), told, "muted", size=SMALL))
    title = f"P95 latency of a call at batch {batch:,}, ms"
    drawing.add(words((across.start + across.length / 2, FOOT - 24), title, "muted", anchor="middle", size=SMALL))


def _point(drawing: Drawing, record: CandidateRecord, plane: Plane) -> None:
    (x, y), (fast, slow, low, high) = plane.at(record), _bounds(record)
    across, up = plane
    for part in (
        *whisker((across.at(fast), y), (across.at(slow), y), record.engine),
        *whisker((x, up.at(low)), (x, up.at(high)), record.engine),
    ):
        drawing.add(part)
    drawing.add(mark((x, y), 3.2, record.engine, record.precision))


def stairs(best: Sequence[Point], across: Axis) -> list[Point]:
    """The front as stairs to the right: what lies below and right of them is beaten."""
    corners: list[Point] = [best[0]]
    for x, y in best[1:]:
        corners += [(x, corners[-1][1]), (x, y)]
    return [*corners, (across.start + across.length, corners[-1][1])]


def _names(drawing: Drawing, report: Report, shown: Sequence[CandidateRecord], plane: Plane) -> None:
    """Names where there is room beside their points; one that would cover another is left out."""
    taken: list[Bounds] = [(x - 5, y - 5, x + 5, y + 5) for x, y in map(plane.at, shown)]
    best = front(shown)
    order = sorted(shown, key=lambda record: (not is_selected(report, record), record not in best))
    for record in order:
        chosen = is_selected(report, record)
        if len(shown) > NAMED and not chosen and record not in best:
            continue
        font = BOLD if chosen else FONT
        width = stringWidth(way(report, record), font, SMALL)
        for x, y in _places(plane.at(record), width):
            bounds = (x, y - 2, x + width, y + 7)
            if x >= LEFT + 2 and x + width <= WIDTH and not any(_overlap(bounds, other) for other in taken):
                taken.append(bounds)
                drawing.add(words((x, y), way(report, record), "ink", font=font, size=SMALL))
                break


def _places(at: Point, width: float) -> list[Point]:
    """Where a name may start: right, left, above and below of its point, then a line further off."""
    x, y = at
    near = [(x + 9, y + 4), (x - 9 - width, y + 4), (x + 9, y - 10), (x - 9 - width, y - 10)]
    far = [(x + 9, y + 14), (x - 9 - width, y + 14), (x + 9, y - 20), (x - 9 - width, y - 20)]
    return [(a, b) for a, b in near + far if b - 2 >= FOOT and b + 7 <= FOOT + HEIGHT + 8]


def _overlap(a: Bounds, b: Bounds) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _latency(record: CandidateRecord) -> float:
    return record.metrics["latency_p95_ms"].value or 0.0


def _accuracy(record: CandidateRecord) -> float:
    return record.metrics["accuracy"].value or 0.0


def _bounds(record: CandidateRecord) -> Bounds:
    """Fastest, slowest, least and most accurate, by the intervals."""
    latency, accuracy = record.metrics["latency_p95_ms"], record.metrics["accuracy"]
    fast, slow = (_latency(record) if bound is None else bound for bound in (latency.low, latency.high))
    least, most = (_accuracy(record) if bound is None else bound for bound in (accuracy.low, accuracy.high))
    return fast, slow, least, most
