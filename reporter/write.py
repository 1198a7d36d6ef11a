"""The child that decides over one measurement set and writes its report files into the store."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec

from reporter import WriteOrder, Written
from reporter.render import render
from shared import child, errors
from shared.artifacts import ArtifactStore, intact
from shared.specs import MeasurementSet
from shared.verdict.report import Report, build, parse

logger = logging.getLogger(__name__)


def write(order: WriteOrder) -> Written:
    """Read the measurements, decide, render, store.

    Raises:
        errors.NotFound: The measurements are gone from the disk, or were changed there.
    """
    if not intact(Path(order.measurements)):
        raise errors.NotFound("The measurements are gone from the disk, or were changed there; benchmark again.")
    measurements = msgspec.json.decode(Path(order.measurements).read_bytes(), type=MeasurementSet)
    report = build(measurements, order.report_id)
    store = ArtifactStore(Path(order.store))
    selected = report.decision.selected
    logger.info("report %s selects %s", order.report_id, selected.engine if selected else "nothing")
    return Written(
        report_id=order.report_id,
        content_sha256=report.content_sha256,
        selected_engine=selected.engine if selected else None,
        files={name: store.put(content) for name, content in render(report, list(_earlier(order))).items()},
    )


def _earlier(order: WriteOrder) -> Iterator[Report]:
    """Those that are still there and of this schema."""
    for path in order.earlier:
        try:
            yield parse(Path(path).read_bytes())
        except (OSError, msgspec.DecodeError) as error:
            logger.warning("the history of report %s goes without %s: %s", order.report_id, path, error)


if __name__ == "__main__":
    child.main(WriteOrder, lambda order, _report: write(order))
