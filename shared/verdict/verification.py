"""Whether a report is what it says: its hash, its source, and everything computed once more from the measurements."""

from __future__ import annotations

from typing import Literal

import msgspec

from shared.errors import InvalidInput
from shared.specs import MeasurementSet
from shared.verdict.report import SCHEMA, Report, build, canonical, measurements_sha256, parse, verify

Outcome = Literal["holds", "fails", "unknown"]

NOT_AT_HAND = "The measurements are not at hand, so nothing was computed again."


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at, and a sentence about it."""

    name: Literal["hash", "source", "decision", "report"]
    outcome: Outcome
    text: str


def verification(report: bytes, measurements: bytes | None, absent: str = NOT_AT_HAND) -> list[Check]:
    """Every check in order, as far as they can be made; `absent` says why there are no measurements."""
    found = _hash(report)
    if found.outcome == "fails":
        return [found]
    schema = msgspec.json.decode(report)["schema"]
    if schema != SCHEMA:
        text = f"It is a {schema}: this version computes {SCHEMA} by other rules, so only the hash was checked."
        return [found, Check(name="report", outcome="unknown", text=text)]
    try:
        record = parse(report)
    except msgspec.ValidationError as error:
        return [found, Check(name="report", outcome="fails", text=f"It is no {SCHEMA}: {error}.")]
    if measurements is None:
        return [found, Check(name="report", outcome="unknown", text=absent)]
    return [found, *_recomputed(report, record, measurements)]


def verdict(checks: list[Check]) -> Outcome:
    """Of the whole: it holds when every check does."""
    outcomes = {check.outcome for check in checks}
    return "fails" if "fails" in outcomes else "unknown" if "unknown" in outcomes else "holds"


def _hash(report: bytes) -> Check:
    if verify(report):
        return Check(name="hash", outcome="holds", text="The content is what its SHA-256 was computed over.")
    return Check(name="hash", outcome="fails", text=_why(report))


def _why(report: bytes) -> str:
    """What keeps bytes from being a report that verifies."""
    if report.startswith((b"%PDF", b"<")) or report[:200].lstrip().lower().startswith(b"<!doctype"):
        return "This is a page for people; only the JSON record can be verified: `cvp report export ID --format json`."
    try:
        record = msgspec.json.decode(report)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return "It is no JSON; export the record once more: `cvp report export ID --format json`."
    schema = record.get("schema") if isinstance(record, dict) else None
    if not isinstance(schema, str) or not schema.startswith("cvp.report/"):
        return "It is JSON, but no report of this platform."
    if schema > SCHEMA:
        return f"It is a {schema[:40]}, which a newer version wrote; verify it with that."
    return "The content is not what its SHA-256 was computed over: it was changed, or written again by another program."


def _recomputed(report: bytes, record: Report, measurements: bytes) -> list[Check]:
    try:
        source = msgspec.json.decode(measurements, type=MeasurementSet)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        return [Check(name="source", outcome="fails", text=f"The measurements cannot be read: {error}.")]
    named = record.metadata.measurements
    if measurements_sha256(source) != named.sha256:
        other = f", but {source.id}" if source.id != named.id else ", or were changed since"
        text = f"The measurements are not those it was computed from ({named.id}){other}."
        return [Check(name="source", outcome="fails", text=text)]
    held = Check(name="source", outcome="holds", text=f"The measurements are those it was computed from, {named.id}.")
    try:
        again = build(source, record.id)
    except InvalidInput as error:
        return [held, Check(name="decision", outcome="fails", text=error.message)]
    except (ArithmeticError, ValueError) as error:  # a date or a number that no benchmark writes
        text = f"Nothing follows from these measurements: {error}."
        return [held, Check(name="decision", outcome="fails", text=text)]
    return [held, *_compared(report, record, again)]


def _compared(report: bytes, record: Report, again: Report) -> list[Check]:
    if canonical(again) == report:
        return [
            Check(name="decision", outcome="holds", text="The decision follows from the measurements."),
            Check(name="report", outcome="holds", text="The whole report was computed again: every byte is the same."),
        ]
    if _choice(record) != _choice(again):
        return [Check(name="decision", outcome="fails", text="From these measurements follows another decision.")]
    if [item.metrics for item in record.candidates] != [item.metrics for item in again.candidates]:
        return [Check(name="report", outcome="fails", text="From these measurements follow other figures.")]
    parts = [name for name in Report.__struct_fields__ if name != "content_sha256" and _differs(name, record, again)]
    text = f"Figures and choice are the same, but not {', '.join(parts)}: another version wrote it, or somebody else."
    return [
        Check(name="decision", outcome="holds", text="The same choice follows from the measurements."),
        Check(name="report", outcome="unknown", text=text),
    ]


def _choice(report: Report) -> object:
    """What was decided, apart from the sentences."""
    decision = report.decision
    rejected = [rejection.candidate for rejection in decision.rejected]
    return decision.selected, decision.tied, decision.fragile, rejected, report.scale


def _differs(name: str, record: Report, again: Report) -> bool:
    return bool(getattr(record, name) != getattr(again, name))
