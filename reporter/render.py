"""All files of a report: the record, its two views, and the same as pages, as PDF and as a table."""

from __future__ import annotations

import msgspec

from reporter.html import page
from reporter.pdf import pdf
from reporter.simple import simple_view
from reporter.table import table
from reporter.technical import beneath, technical_view
from shared.verdict.report import Report, canonical


def render(report: Report) -> dict[str, bytes]:
    """File name to bytes; the same report gives the same bytes."""
    simple, technical = simple_view(report), technical_view(report)
    second_part = beneath(technical, simple.why)
    return {
        "report.json": canonical(report),
        "simple.json": msgspec.json.encode(simple),
        "technical.json": msgspec.json.encode(technical),
        "simple.html": page(report, simple, technical, "simple"),
        "technical.html": page(report, simple, technical, "technical"),
        "report.html": page(report, simple, second_part, "report"),
        "report.pdf": pdf(report, simple, second_part),
        "report.csv": table(report),
    }
