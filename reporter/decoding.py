"""What decoding JPEGs at a part of their size saves and costs: in a sentence, a table and facts."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import UnsetType

from reporter import plain
from reporter.lookup import subject
from reporter.parts import NONE, Cell, Fact, Row, Table, metric_cell
from shared.specs import JpegScale
from shared.verdict.decoding import DecodingRecord, ScaleRecord
from shared.verdict.figures import capital, estimate, listing, plural
from shared.verdict.metrics import Metric
from shared.verdict.report import CandidateRecord, Report

SIZES: dict[JpegScale, str] = {1: "full size", 2: "half their size", 4: "a quarter of their size"}
RULE = (
    "Chosen is the fastest that is sure to save time and to keep every limit on accuracy; of equally fast ones the one "
    "that decodes most of the image."
)


def record_of(report: Report) -> DecodingRecord | None:
    """What a report says of it; None where no scale was to be tried."""
    return None if isinstance(report.decoding, UnsetType) else report.decoding


# --- in a sentence ---------------------------------------------------------------------------------------------------


def in_short(record: DecodingRecord) -> str:
    """For somebody who decides."""
    chosen = next((each for each in record.scales if each.scale == record.selected != record.own), None)
    if chosen is not None:
        return f"Decoding JPEGs at {SIZES[chosen.scale]} saves {_time(chosen.saved_ms)} an image and {_costs(chosen)}."
    stay = f"JPEGs are decoded at {SIZES[record.own]}, as the model's contract says"
    if record.reason:
        return f"{stay}; no other size could be judged. {record.reason}"
    why = [f"at {SIZES[each.scale]} {_why(each)}" for each in record.scales if each.scale != record.own]
    return f"{stay}: {listing(why)}."


def _why(each: ScaleRecord) -> str:
    """Why a scale was not chosen; the technical view has the figures."""
    drop, verdicts = each.accuracy_drop, {judgement.verdict for judgement in each.constraints}
    if "fail" in verdicts and drop is not None and drop.value:
        return f"{plain.points(drop.value)} of accuracy are lost, beyond the limits"
    if "inconclusive" in verdicts:
        return "the test images do not tell whether the limits on accuracy are kept"
    return (each.why_not or "").rstrip(".")


def _time(saved: Metric | None) -> str:
    if saved is None or saved.value is None:
        return "time"
    return f"{estimate(saved.value, saved.low, saved.high)} ms"


def _costs(chosen: ScaleRecord) -> str:
    """Of accuracy, against the original model with whole images."""
    drop = chosen.accuracy_drop
    if chosen.flips == 0:
        return "changes no answer on the test images"
    if drop is None or not drop.value:
        return "costs no accuracy"
    if drop.value < 0:
        return f"costs no accuracy (it is {plain.difference(-drop.value, None, None)} than the original model's)"
    return f"costs {plain.points(drop.value)} of accuracy against the original model, precision included"


# --- in figures ------------------------------------------------------------------------------------------------------


def decoding_table(report: Report) -> Table:
    """Every scale that was timed; without rows where there is none."""
    record = record_of(report)
    columns = [
        ("Decode, prepare", "ms an image"),
        ("Saved", "ms an image"),
        ("Accuracy", ""),
        ("Accuracy drop", ""),
        ("Other answers", "images"),
    ]
    if record is None:
        return Table(title="", columns=columns, rows=[])
    about = subject(report)
    rows = [
        Row(
            key=f"jpeg_scale {each.scale}",
            name=capital(SIZES[each.scale]),
            selected=each.scale == record.selected,
            cells=[metric_cell(each.ms), metric_cell(each.saved_ms), *_answers(each, record, about)],
        )
        for each in record.scales
    ]
    return Table(
        title="JPEGs decoded at a part of their size", of="Decoded at", columns=columns, rows=rows, note=_note(record)
    )


def _answers(each: ScaleRecord, record: DecodingRecord, about: CandidateRecord | None) -> list[Cell]:
    """What the choice answers; decoded as the contract says that is what the gate has seen."""
    accuracy, drop, flips = each.accuracy, each.accuracy_drop, each.flips
    if each.scale == record.own and about is not None:
        accuracy, drop = about.metrics.get("accuracy"), about.metrics.get("accuracy_drop")
        flips = about.parity.flips if about.parity else None
    return [metric_cell(accuracy), metric_cell(drop), Cell(text=NONE if flips is None else f"{flips:,}")]


def _note(record: DecodingRecord) -> str:
    rounds = record.scales[0].ms.n if record.scales else 0
    return (
        f"{plural(record.images, 'JPEG')} of the test split, the middle one {record.width} x {record.height}, decoded "
        f"and prepared in {plural(rounds, 'round')}, all sizes in turn; 95 % intervals in brackets. {RULE}"
    )


def decoding_facts(report: Report) -> Iterator[Fact]:
    """What the table does not say."""
    record = record_of(report)
    if record is None:
        return
    if record.reason:
        yield Fact(label="JPEGs", text=f"Decoded at {SIZES[record.own]}. {record.reason}")
    for each in record.scales:
        if each.scale != record.own and each.why_not:
            yield Fact(label=f"JPEGs at {SIZES[each.scale]}", text=capital(f"{each.why_not}."))
    if record.conditions:
        yield Fact(label="JPEGs, disturbed", text=" ".join(record.conditions))
