"""The report as CSV: a row for each candidate and each loop through the service, figures with their intervals, safe to
open in a spreadsheet.
"""

from __future__ import annotations

import csv
import io
from itertools import chain

from reporter.lookup import candidate_of, is_selected, limit_of
from reporter.service import loops
from shared.specs import MetricName
from shared.verdict.figures import QUANTITIES, Value, cell
from shared.verdict.metrics import Metric
from shared.verdict.report import CandidateRecord, Report
from shared.verdict.service import LoopRecord


def table(report: Report) -> bytes:
    """RFC 4180 as UTF-8 with a header row; an empty field where there is no figure."""
    out = io.StringIO(newline="")
    rows = [_row(report, record) for record in report.candidates]
    rows += [_loop(report, name, loop) for name, loop in loops(report.service)] if report.service else []
    writer = csv.DictWriter(out, fieldnames=list(dict.fromkeys(chain.from_iterable(rows))) or ["report_id"])
    writer.writeheader()
    for row in rows:
        writer.writerow({name: cell(value) for name, value in row.items()})
    return out.getvalue().encode()


def _row(report: Report, record: CandidateRecord) -> dict[str, Value]:
    row = _about(report) | {
        "candidate": candidate_of(record).key,
        "engine": record.engine,
        "precision": record.precision,
        "batch_size": record.batch_size,
        "threads": record.threads,
        "instances": record.instances,
        "status": record.status,
        "reason": record.reason,
        "selected": "yes" if is_selected(report, record) else "no",
        "provider": record.provider,
        "device": record.device,
    }
    for name in QUANTITIES:
        row |= _estimate(name, record.metrics.get(name))
    row["parity_max_abs"] = record.parity.max_abs if record.parity else None
    row["parity_max_rel"] = record.parity.max_rel if record.parity else None
    row["flips"] = record.parity.flips if record.parity else None
    for index, judgement in enumerate(record.constraints, start=1):
        row[f"constraint_{index}"] = limit_of(judgement)
        row[f"constraint_{index}_verdict"] = judgement.verdict
    return row | {"notes": "; ".join(record.notes)}


def _loop(report: Report, name: str, loop: LoopRecord) -> dict[str, Value]:
    """A loop, told from candidates by its status."""
    figures: dict[MetricName, Metric] = {
        "latency_p50_ms": loop.latency_p50_ms,
        "latency_p95_ms": loop.latency_p95_ms,
        "latency_p99_ms": loop.latency_p99_ms,
    }
    row = _about(report) | {"candidate": f"service: {name}", "status": "service", "selected": "no"}
    for metric, found in figures.items():
        row |= _estimate(metric, found)
    return row | {
        "service_users": loop.users,
        "service_ordered_per_s": loop.offered_per_s,
        **_estimate("service_answered_per_s", loop.throughput_per_s),
        "service_sent": loop.sent,
        "service_answered": loop.answered,
        "service_refused": loop.refused,
        "service_failed": loop.failed,
        "service_overloaded": "yes" if loop.behind else "no",
    }


def _about(report: Report) -> dict[str, Value]:
    return {
        "report_id": report.id,
        "created_at": report.metadata.created_at,
        "model_id": report.metadata.model.id,
        "model": report.metadata.model.name,
    }


def _estimate(name: str, found: Metric | None) -> dict[str, Value]:
    return {
        name: found.value if found else None,
        f"{name}_low": found.low if found else None,
        f"{name}_high": found.high if found else None,
        f"{name}_n": found.n if found else None,
    }
