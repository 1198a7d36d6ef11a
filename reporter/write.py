"""The child that decides over one measurement set and writes its report files into the store."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from reporter import WriteOrder, Written
from reporter.render import render
from shared import child
from shared.artifacts import ArtifactStore
from shared.specs import MeasurementSet
from shared.verdict.report import build

logger = logging.getLogger(__name__)


def write(order: WriteOrder) -> Written:
    """Read the measurements, decide, render, store."""
    measurements = msgspec.json.decode(Path(order.measurements).read_bytes(), type=MeasurementSet)
    report = build(measurements, order.report_id)
    store = ArtifactStore(Path(order.store))
    selected = report.decision.selected
    logger.info("report %s selects %s", order.report_id, selected.engine if selected else "nothing")
    return Written(
        report_id=order.report_id,
        content_sha256=report.content_sha256,
        selected_engine=selected.engine if selected else None,
        files={name: store.put(content) for name, content in render(report).items()},
    )


if __name__ == "__main__":
    child.main(WriteOrder, lambda order, _report: write(order))
