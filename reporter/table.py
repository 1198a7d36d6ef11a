"""The report as CSV: one row per candidate, every metric with its interval, safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io

from reporter.lookup import candidate_of, is_selected, limit_of
from shared.verdict.figures import QUANTITIES, Value, cell
from shared.verdict.report import CandidateRecord, Report


def table(report: Report) -> bytes:
    """RFC 4180 as UTF-8 with a header row; an empty field where there is no figure."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, fieldnames=_columns(report))
    writer.writeheader()
    for record in report.candidates:
        writer.writerow({name: cell(value) for name, value in _row(report, record).items()})
    return out.getvalue().encode()


def _row(report: Report, record: CandidateRecord) -> dict[str, Value]:
    row: dict[str, Value] = {
        "report_id": report.id,
        "created_at": report.metadata.created_at,
        "model_id": report.metadata.model.id,
        "model": report.metadata.model.name,
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
        found = record.metrics.get(name)
        row[name] = found.value if found else None
        row[f"{name}_low"] = found.low if found else None
        row[f"{name}_high"] = found.high if found else None
        row[f"{name}_n"] = found.n if found else None
    row["parity_max_abs"] = record.parity.max_abs if record.parity else None
    row["parity_max_rel"] = record.parity.max_rel if record.parity else None
    row["flips"] = record.parity.flips if record.parity else None
    for index, judgement in enumerate(record.constraints, start=1):
        row[f"constraint_{index}"] = limit_of(judgement)
        row[f"constraint_{index}_verdict"] = judgement.verdict
    return row | {"notes": "; ".join(record.notes)}


def _columns(report: Report) -> list[str]:
    return list(_row(report, report.candidates[0])) if report.candidates else ["report_id"]
