"""The child that writes one report: decides over a measurement set, or tells what a training reached."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from reporter import ReportOrder, TrainingOrder, WriteOrder, Written
from shared import child, errors, sandbox
from shared.artifacts import ArtifactStore, intact
from shared.specs import MeasurementSet, canonical_json

if TYPE_CHECKING:
    from shared.verdict.report import Report

logger = logging.getLogger(__name__)


def work(order: ReportOrder, _report: child.Report) -> Written:
    """Write what was ordered."""
    if order.training is not None:
        return enclosed(order.training)
    assert order.benchmark is not None  # one of the two
    return write(order.benchmark)


def enclosed(order: TrainingOrder) -> Written:
    """The report of a training, with its dataset and nothing else in reach: it shows images that users uploaded."""
    sandbox.enter([Path(__file__).parent, *(Path(path) for path in (order.index, order.pack) if path)])
    from reporter.html import training_page  # its libraries start threads, which must be inside as well
    from reporter.thumbnails import thumbnails

    record = order.record
    found = order.index and order.pack
    pictures = thumbnails(Path(str(order.index)), Path(str(order.pack)), record.result.worst) if found else []
    content = canonical_json(record)
    for name, data in (("report.html", training_page(record, pictures)), ("report.json", content)):
        with open(order.outputs[name], "wb", closefd=False) as file:
            file.write(data)
    sha256 = hashlib.sha256(content).hexdigest()
    return Written(report_id=record.id, content_sha256=sha256, selected_engine=None, files={})


def write(order: WriteOrder) -> Written:
    """Read the measurements, decide, render, store.

    Raises:
        errors.NotFound: The measurements are gone from the disk, or were changed there.
    """
    from reporter.render import render  # heavy, and not for what shuts itself in
    from shared.verdict.report import build

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
    from shared.verdict.report import parse

    for path in order.earlier:
        try:
            yield parse(Path(path).read_bytes())
        except (OSError, msgspec.DecodeError) as error:
            logger.warning("the history of report %s goes without %s: %s", order.report_id, path, error)


if __name__ == "__main__":
    child.main(ReportOrder, work)
