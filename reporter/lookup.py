"""What both views and the charts ask of a report: its chosen candidate, the measured ones, names and dates."""

from __future__ import annotations

from datetime import datetime

from shared.specs import Candidate, Constraint
from shared.verdict.constraints import Judgement
from shared.verdict.decision import METRIC_OF
from shared.verdict.figures import engine_title, limit, plural
from shared.verdict.report import CandidateRecord, Report


def candidate_of(record: CandidateRecord) -> Candidate:
    """The candidate a record is about."""
    return Candidate(
        engine=record.engine,
        precision=record.precision,
        batch_size=record.batch_size,
        threads=record.threads,
        instances=record.instances,
    )


def measured(report: Report) -> list[CandidateRecord]:
    """The candidates that have figures."""
    return [record for record in report.candidates if record.status == "measured" and record.metrics]


def is_selected(report: Report, record: CandidateRecord) -> bool:
    """Whether this is the chosen one."""
    return candidate_of(record) == report.decision.selected


def subject(report: Report) -> CandidateRecord | None:
    """The candidate a report is about: the chosen one, else the nearest one."""
    wanted = report.decision.selected or report.decision.nearest
    return next((record for record in report.candidates if candidate_of(record) == wanted), None)


def best_of_each(report: Report) -> list[CandidateRecord]:
    """The best setup of each engine and precision by the objective, best first; what is chosen stands for its own.

    Latency is compared at the batch size the report is about.
    """
    metric = METRIC_OF[report.metadata.config.objective]
    about = subject(report)
    shown = [record for record in measured(report) if record.metrics[metric].value is not None]
    if metric == "latency_p95_ms" and about is not None:
        shown = [record for record in shown if record.batch_size == about.batch_size]
    sign = -1 if metric == "throughput_fps" else 1
    best: dict[tuple[str, str], CandidateRecord] = {}
    for record in sorted(shown, key=lambda item: (item != about, sign * (item.metrics[metric].value or 0.0))):
        best.setdefault((record.engine, record.precision), record)
    return sorted(best.values(), key=lambda item: sign * (item.metrics[metric].value or 0.0))


def way(report: Report, record: CandidateRecord) -> str:
    """`ONNX Runtime FP32`, with threads and instances where the report has several: a candidate without its batch."""
    parts = [engine_title(candidate_of(record))]
    shown = measured(report) or report.candidates
    if len({other.threads for other in shown}) > 1:
        parts.append(plural(record.threads, "thread"))
    if len({other.instances for other in shown}) > 1:
        parts.append(plural(record.instances, "instance"))
    return ", ".join(parts)


def short(report: Report, record: CandidateRecord) -> str:
    """`ONNX Runtime FP32, batch 8`: enough to tell the candidates of this report apart."""
    return f"{way(report, record)}, batch {record.batch_size}"


def limit_of(judgement: Judgement | Constraint) -> str:
    """The constraint as a phrase."""
    return limit(Constraint(metric=judgement.metric, op=judgement.op, value=judgement.value))


def when(created_at: str) -> str:
    """`2026-01-31 08:15 UTC`."""
    return datetime.fromisoformat(created_at).strftime("%Y-%m-%d %H:%M UTC")


def heading(report: Report) -> str:
    """What stands over the conditions of a run, on the first page."""
    dirty = "Dirty run: something else was at work while this was measured"
    return dirty if report.metadata.dirty else "Conditions of this run"
