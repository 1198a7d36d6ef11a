"""What the technical view is made of: facts, and tables whose cells are figures with their intervals."""

from __future__ import annotations

import msgspec

from shared.verdict.constraints import Verdict
from shared.verdict.figures import figure, places_for, span
from shared.verdict.metrics import Metric

NONE = "–"


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """A label with its text."""

    label: str
    text: str


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in a table: a figure, its interval below it, and a word that qualifies it."""

    text: str
    detail: str = ""
    tone: Verdict | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate in a table, or what `Table.of` says."""

    key: str
    name: str
    selected: bool
    cells: list[Cell]


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A table of candidates, or of something else; `columns` are label and unit."""

    title: str
    of: str = "Candidate"
    columns: list[tuple[str, str]]
    rows: list[Row]
    note: str = ""


def metric_cell(found: Metric | None) -> Cell:
    """A figure with its interval, or a dash with the reason."""
    if found is None:
        return Cell(text=NONE)
    if found.value is None:
        return Cell(text=NONE, detail=found.note or "")
    if found.exact:
        return Cell(text=figure(found.value), detail=found.note or "")
    return Cell(text=figure(found.value), detail=interval(found.value, found.low, found.high))


def interval(value: float, low: float | None, high: float | None) -> str:
    """`(1.20–1.27)`, as precise as the value; empty without bounds."""
    return "" if low is None or high is None else f"({span(low, high, places_for(value, low, high))})"
