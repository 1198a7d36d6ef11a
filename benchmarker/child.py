"""The child of a benchmark job: measures every candidate, stores the measurement set, answers with the figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from benchmarker import Measured, MeasureOrder
from benchmarker.measure import run
from shared import child, errors
from shared.artifacts import ArtifactStore
from shared.specs import MeasurementSet, Series, canonical_json
from shared.verdict.metrics import summarise


def carry_out(order: MeasureOrder, report: child.Report) -> Measured:
    """Measure and store.

    Raises:
        errors.EngineUnavailable: Not one candidate could be measured; the message has every reason.
    """
    result = run(order, report)
    if not any(series.status == "measured" for series in result.series):
        raise errors.EngineUnavailable(_nothing_measured(result))
    stored = ArtifactStore(Path(order.store)).put(canonical_json(result))
    return Measured(measurements=stored, rows=[_row(series) for series in result.series])


def _row(series: Series) -> dict[str, Any]:
    figures = {name: metric.value for name, metric in summarise(series).items()}
    return msgspec.structs.asdict(series.candidate) | {"status": series.status, "reason": series.reason} | figures


def _nothing_measured(result: MeasurementSet) -> str:
    reasons = "; ".join(f"{series.candidate.key}: {series.reason}" for series in result.series)
    return f"No candidate could be measured on this machine. {reasons}"


if __name__ == "__main__":
    child.main(MeasureOrder, carry_out)
