"""What was chosen over time: from the record of each report its choice, and the figures of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from gateway import schemas
from shared import clock
from shared.artifacts import ArtifactStore
from shared.specs import Candidate, EngineName, MetricName, Precision, SeriesStatus

FIGURES: tuple[MetricName, ...] = (
    "latency_p50_ms", "latency_p95_ms", "throughput_fps", "memory_mb", "accuracy", "accuracy_drop",
)  # fmt: skip
"""What a history shows of a choice; the report has the rest."""


class _Order(msgspec.Struct):
    objective: str


class _Metadata(msgspec.Struct):
    fingerprint: str
    created_at: str
    config: _Order
    dirty: bool = False


class _Decision(msgspec.Struct):
    fragile: bool
    selected: Candidate | None = None


class _Record(msgspec.Struct):
    engine: EngineName
    precision: Precision
    batch_size: int
    threads: int
    instances: int
    status: SeriesStatus
    metrics: dict[MetricName, schemas.PastFigure]


class _Report(msgspec.Struct):
    metadata: _Metadata
    decision: _Decision
    candidates: list[_Record]


_REPORT = msgspec.json.Decoder(_Report)
_FILES = msgspec.json.Decoder(dict[str, str])


def past_choice(row: Any, store: ArtifactStore) -> schemas.PastChoice:
    """A line of the history, of a stored row of a report; without figures where its record is gone."""
    sha256 = _FILES.decode(row.files).get("report.json")
    record = _read(store.path(sha256)) if sha256 else None
    chosen = record.decision.selected if record else None
    figures = next((item.metrics for item in record.candidates if _is(item, chosen)), {}) if record else {}
    return schemas.PastChoice(
        report_id=row.id,
        benchmark_id=row.benchmark_id,
        model_id=row.model_id,
        measured_at=record.metadata.created_at if record else clock.iso(row.created_at_ms),
        objective=record.metadata.config.objective if record else None,
        fingerprint=record.metadata.fingerprint if record else None,
        dirty=record.metadata.dirty if record else None,
        fragile=record.decision.fragile if record else None,
        num_measured=sum(item.status == "measured" for item in record.candidates) if record else 0,
        num_rejected=sum(item.status == "rejected" for item in record.candidates) if record else 0,
        selected=chosen,
        figures={name: figures[name] for name in FIGURES if name in figures and figures[name].value is not None},
    )


def _read(path: Path) -> _Report | None:
    try:
        return _REPORT.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):  # housekeeping tells of lost files; a list goes on without them
        return None


def _is(item: _Record, chosen: Candidate | None) -> bool:
    return chosen is not None and all(
        getattr(item, name) == getattr(chosen, name) for name in Candidate.__struct_fields__
    )
