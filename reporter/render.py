"""All files of a report: the record, its views, the same as pages, PDF and table, and the model over time."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from reporter.html import history_page, page
from reporter.pdf import pdf
from reporter.simple import simple_view
from reporter.table import table
from reporter.technical import beneath, technical_view
from shared.verdict.report import Report, canonical


def render(report: Report, earlier: Sequence[Report] = ()) -> dict[str, bytes]:
    """File name to bytes; the same report, with the same `earlier` ones of its model, gives the same bytes."""
    simple, technical = simple_view(report), technical_view(report)
    second_part = beneath(technical, simple.why)
    return {
        "report.json": canonical(report),
        "simple.json": msgspec.json.encode(simple),
        "technical.json": msgspec.json.encode(technical),
        "simple.html": page(report, simple, technical, "simple"),
        "technical.html": page(report, simple, technical, "technical"),
        "history.html": history_page(report, [*earlier, report]),
        "report.html": page(report, simple, second_part, "report"),
        "report.pdf": pdf(report, simple, second_part),
        "report.csv": table(report),
    }
