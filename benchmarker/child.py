"""The child of a benchmark job: makes files, measures every candidate, stores what it measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from benchmarker import Measured, MeasureOrder, decoding, service
from benchmarker.files import Files
from benchmarker.measure import phases, run
from shared import child, errors
from shared.artifacts import ArtifactStore, intact
from shared.specs import Accuracy, GateResult, MeasurementSet, Series, canonical_json
from shared.verdict.figures import some
from shared.verdict.metrics import summarise

BEFORE_SCALES = 0.85
"""Where, of a benchmark's progress, scales of JPEGs are tried: the test split is asked once more for each."""


def carry_out(order: MeasureOrder, report: child.Report) -> Measured:
    """Measure and store.

    Raises:
        errors.BadModel: The model's file is gone or damaged.
        errors.EngineUnavailable: Not one candidate could be run; the message has every reason.
    """
    for path in (order.artifact, order.weights):
        if path and not intact(Path(path)):
            raise errors.BadModel("The model's file is gone from the disk, or damaged. Upload the model again.")
    files, scales = Files(order), decoding.scales(order)
    told = child.phase(report, 0.0, BEFORE_SCALES) if scales else report
    files.prepare(child.phase(told, 0.0, phases(order)[0]))
    result = run(order, told, files=files)
    if not any(series.status in ("measured", "rejected") for series in result.series):
        raise errors.EngineUnavailable(_nothing_measured(result))
    if scales:
        decoded = decoding.tried(order, result, files, child.phase(report, BEFORE_SCALES, 1.0))
        result = msgspec.structs.replace(result, decoding=decoded)
    if order.service and order.config.service_load:
        driven = service.drive(order, order.config.service_load, order.service, report)
        result = msgspec.structs.replace(result, service=driven)
    stored = ArtifactStore(Path(order.store)).put(canonical_json(result))
    gates = {(gate.engine, gate.precision): gate for gate in result.gates}
    rows = [
        _row(series, gates.get((series.candidate.engine, series.candidate.precision)), result.reference)
        for series in result.series
    ]
    noise = result.noise_floor
    return Measured(
        measurements=stored,
        rows=rows,
        files=files.prepared,
        golden=[gate.golden for gate in result.gates if gate.golden is not None],
        noise_floor=noise if noise and noise.benchmark_id == result.id else None,
    )


def _row(series: Series, gate: GateResult | None, reference: Accuracy | None) -> dict[str, Any]:
    figures = {name: metric.value for name, metric in summarise(series, gate, reference).items()}
    about = {
        "status": series.status,
        "reason": series.reason,
        "golden_sha256": gate.golden.sha256 if gate and gate.golden else None,
    }
    return msgspec.structs.asdict(series.candidate) | about | figures


def _nothing_measured(result: MeasurementSet) -> str:
    of: dict[str | None, list[str]] = {}
    for series in result.series:
        of.setdefault(series.reason, []).append(series.candidate.key)
    reasons = "; ".join(f"{some(keys)}: {reason}" for reason, keys in of.items())
    return f"No candidate could be measured on this machine. {reasons}"


if __name__ == "__main__":
    child.main(MeasureOrder, carry_out)
