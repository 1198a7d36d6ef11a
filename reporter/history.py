"""A model's reports over time: what each chose, how quick that is, and what changed on the machine in between."""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

from reportlab.graphics.shapes import Drawing
from reportlab.pdfbase.pdfmetrics import stringWidth

from reporter.charts import WIDTH
from reporter.lookup import candidate_of, is_selected, when
from reporter.shapes import BOLD, FONT, SMALL, Axis, axis, mark, stroke, whisker, words
from shared.specs import MetricName
from shared.verdict.comparison import compare
from shared.verdict.figures import QUANTITIES, engine_title, figure, places_for, plural, span
from shared.verdict.metrics import Metric
from shared.verdict.report import CandidateRecord, Report

LEFT, FOOT, HEIGHT, HEAD = 40.0, 20.0, 110.0, 26.0
DATE_WIDTH = 60.0
SHOWN: tuple[MetricName, ...] = ("latency_p95_ms", "throughput_fps")


class Run(NamedTuple):
    """A report, and the record of what it chose; None where nothing passed."""

    report: Report
    chosen: CandidateRecord | None


class Line(NamedTuple):
    """A row of the table."""

    when: str
    report_id: str
    choice: str
    figures: list[tuple[str, str]]
    """Each with its interval, which may be empty."""
    remarks: str


class Change(NamedTuple):
    """What is another between two runs."""

    second: int
    """Index of the later one."""
    letter: str
    text: str


class History(NamedTuple):
    """All the page shows."""

    drawings: list[Drawing]
    told: str
    lines: list[Line]
    changes: list[Change]


def history(reports: Sequence[Report]) -> History:
    """From the reports of one model, in any order."""
    ordered = sorted(reports, key=lambda report: (report.metadata.created_at, report.id))
    runs = [Run(each, next((one for one in each.candidates if is_selected(each, one)), None)) for each in ordered]
    changes = list(_changes(ordered))
    return History(
        drawings=[drawing for metric in SHOWN if (drawing := _panel(runs, changes, metric))],
        told=f"The choices of {plural(len(runs), 'report')}; the table below has their figures.",
        lines=[_line(run) for run in reversed(runs)],
        changes=changes,
    )


def _changes(reports: Sequence[Report]) -> Iterator[Change]:
    """Between runs whose figures do not compare: another machine, or other software on it."""
    letters = iter(string.ascii_uppercase * 2)
    for index, (before, after) in enumerate(pairwise(reports), start=1):
        if before.metadata.fingerprint != after.metadata.fingerprint:
            found = [each for each in compare(before, after).conditions if each.what.startswith("system.")]
            said = [
                f"{each.what.removeprefix('system.').removeprefix('versions.')} {each.before or 'none'} → "
                f"{each.after or 'none'}"
                for each in found
                if each.what != "system.fingerprint"
            ]
            told = ", ".join(said) or "the fingerprint"
            yield Change(index, next(letters), f"{when(after.metadata.created_at)}: {told}")


# --- the drawing ------------------------------------------------------------------------------------------------------


def _panel(runs: Sequence[Run], changes: Sequence[Change], metric: MetricName) -> Drawing | None:
    """A mark a run in its order, with its interval; lines join what compares."""
    figures = [run.chosen.metrics[metric] for run in runs if run.chosen is not None]
    largest = max((max(found.value or 0.0, found.high or 0.0) for found in figures), default=0.0)
    if not largest:
        return None
    drawing, scale = Drawing(WIDTH, FOOT + HEIGHT + HEAD), axis(largest, FOOT, HEIGHT, most_ticks=6)
    step = (WIDTH - LEFT) / len(runs)
    x_of = [LEFT + step * (index + 0.5) for index in range(len(runs))]
    _frame(drawing, runs, x_of, scale, metric)
    for change in changes:
        x = x_of[change.second] - step / 2
        drawing.add(stroke((x, FOOT), (x, FOOT + HEIGHT + 6), "muted", 0.8, (3, 2)))
        drawing.add(words((x, FOOT + HEIGHT + 9), change.letter, "ink", font=BOLD, anchor="middle", size=SMALL))
    apart = {change.second for change in changes}
    for index in range(1, len(runs)):
        ends = [_value(run, metric) for run in runs[index - 1 : index + 1]]
        if index not in apart and None not in ends:
            left, right = ((x, scale.at(value or 0.0)) for x, value in zip(x_of[index - 1 :], ends, strict=False))
            drawing.add(stroke(left, right, "muted-tint"))
    for run, x in zip(runs, x_of, strict=True):
        _point(drawing, run, x, scale, metric)
    return drawing


def _frame(drawing: Drawing, runs: Sequence[Run], x_of: Sequence[float], scale: Axis, metric: MetricName) -> None:
    label, unit = QUANTITIES[metric]
    drawing.add(words((0, FOOT + HEIGHT + 16), f"{label[0].upper()}{label[1:]}, {unit}", "ink", font=BOLD))
    for tick, label in zip(scale.ticks, scale.labels(), strict=True):
        y = scale.at(tick)
        drawing.add(stroke((LEFT, y), (WIDTH, y), "grid", 0.5 if tick else 1))
        drawing.add(words((LEFT - 5, y - 2.7), label, "muted", anchor="end", size=SMALL))
    every = max(1, round(DATE_WIDTH * len(runs) / (WIDTH - LEFT)))
    for run, x in list(zip(runs, x_of, strict=True))[::every]:
        date = datetime.fromisoformat(run.report.metadata.created_at).strftime("%m-%d %H:%M")
        half = stringWidth(date, FONT, SMALL) / 2
        drawing.add(words((min(x, WIDTH - half), FOOT - 12), date, "muted", anchor="middle", size=SMALL))


def _point(drawing: Drawing, run: Run, x: float, scale: Axis, metric: MetricName) -> None:
    found = run.chosen.metrics[metric] if run.chosen else None
    if run.chosen is None or found is None or found.value is None:
        drawing.add(words((x, FOOT + 4), "none", "muted", anchor="middle", size=SMALL))
        return
    if found.low is not None and found.high is not None:
        for part in whisker((x, scale.at(found.low)), (x, scale.at(found.high)), "ink"):
            drawing.add(part)
    drawing.add(mark((x, scale.at(found.value)), 3.0, run.chosen.engine, run.chosen.precision))


def _value(run: Run, metric: MetricName) -> float | None:
    return run.chosen.metrics[metric].value if run.chosen else None


# --- the table --------------------------------------------------------------------------------------------------------


def _line(run: Run) -> Line:
    metadata, chosen = run.report.metadata, run.chosen
    remarks = [
        f"for {metadata.config.objective}",
        *(["fragile"] if run.report.decision.fragile else []),
        *(["dirty run"] if metadata.dirty else []),
    ]
    return Line(
        when=when(metadata.created_at),
        report_id=run.report.id,
        choice=f"{engine_title(candidate_of(chosen))}, batch {chosen.batch_size}" if chosen else "nothing passed",
        figures=[_figure(chosen.metrics[metric]) if chosen else ("–", "") for metric in SHOWN],
        remarks=", ".join(remarks),
    )


def _figure(found: Metric) -> tuple[str, str]:
    if found.value is None:
        return "too few calls", ""
    if found.low is None or found.high is None:
        return figure(found.value), ""
    places = places_for(found.value, found.low, found.high)
    return figure(found.value, places), span(found.low, found.high, places)
