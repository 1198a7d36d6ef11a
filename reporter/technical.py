"""The technical view: every figure with its interval, verdicts, ratios, what was not measured, method, machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from reporter.decoding import decoding_facts, decoding_table
from reporter.lookup import candidate_of, is_selected, limit_of, measured, short, subject, way, when
from reporter.parts import NONE, Cell, Fact, Row, Table, metric_cell
from reporter.service import service_facts, service_tables
from shared.specs import MetricName
from shared.verdict.constraints import Judgement, Verdict
from shared.verdict.figures import (
    QUANTITIES,
    capital,
    engine_title,
    estimate,
    factor,
    listing,
    plural,
    quantity,
    span,
)
from shared.verdict.metrics import Metric
from shared.verdict.report import DELTA_METRICS, CandidateRecord, Delta, FileRecord, Report
from shared.verdict.wording import METHOD, age, percent

SAID_BEFORE = "Nothing was chosen; “Why” in the first part has every reason."
CONSTRAINTS_A_TABLE = 4
LATENCIES: tuple[MetricName, ...] = ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms", "latency_mean_ms")
RESOURCES: tuple[MetricName, ...] = ("throughput_fps", "cpu_util_pct", "memory_mb", "load_ms", "artifact_mb")
VERDICTS: dict[Verdict, str] = {
    "pass": "pass",
    "fail": "fail",
    "inconclusive": "inconclusive",
    "not_measured": "not measured",
}


class TechnicalView(msgspec.Struct, frozen=True, kw_only=True):
    """Everything in a report, in the order it is read."""

    level: str = "technical"
    report_id: str
    model: str
    created_at: str
    conditions: list[str]
    dirty: bool
    reasons: list[str]
    tables: list[Table]
    passed_over: list[Fact]
    notes: list[Fact]
    service: list[Fact]
    service_tables: list[Table]
    """The platform's own HTTP service under load; empty where that was not ordered."""
    recommendations: list[str]
    deployment_steps: list[str]
    method: list[str]
    facts: list[Fact]


def technical_view(report: Report) -> TechnicalView:
    """The view of a report."""
    tables = [_metrics_table(report, "Latency of a call", LATENCIES), _metrics_table(report, "Resources", RESOURCES)]
    tables += [_accuracy_table(report), decoding_table(report)]
    tables += [*_constraints_tables(report), *_deltas_tables(report)]
    return TechnicalView(
        report_id=report.id,
        model=report.metadata.model.name,
        created_at=when(report.metadata.created_at),
        conditions=report.metadata.conditions,
        dirty=report.metadata.dirty,
        reasons=report.decision.reasons,
        tables=[table for table in tables if table.rows],
        passed_over=_passed_over(report),
        notes=_notes(report),
        service=service_facts(report.service) if report.service else [],
        service_tables=service_tables(report),
        recommendations=report.recommendations,
        deployment_steps=report.deployment_steps,
        method=list(METHOD),
        facts=_facts(report),
    )


def beneath(view: TechnicalView, said: Sequence[str]) -> TechnicalView:
    """The view for a document whose first part has `said` why; where that is all there is, it is not said twice."""
    return msgspec.structs.replace(view, reasons=[SAID_BEFORE]) if view.reasons == said else view


def _row(report: Report, record: CandidateRecord, cells: list[Cell]) -> Row:
    candidate = candidate_of(record)
    return Row(key=candidate.key, name=short(report, record), selected=is_selected(report, record), cells=cells)


def _heading(metric: MetricName) -> tuple[str, str]:
    return capital(QUANTITIES[metric].label.removesuffix(" latency")), QUANTITIES[metric].unit


def _metrics_table(report: Report, name: str, columns: Sequence[MetricName]) -> Table:
    records = measured(report)
    return Table(
        title=name,
        columns=[_heading(metric) for metric in columns],
        rows=[_row(report, record, [metric_cell(record.metrics[metric]) for metric in columns]) for record in records],
        note=_sample(records),
    )


def _sample(records: Sequence[CandidateRecord]) -> str:
    """`700 calls in 5 blocks per candidate; 95 % intervals in brackets.`"""
    calls = sorted({record.metrics["latency_p50_ms"].n for record in records})
    blocks = sorted({record.metrics["throughput_fps"].n for record in records})
    if not calls:
        return ""
    return f"{_extent(calls, 'call')} in {_extent(blocks, 'block')} per candidate; 95 % intervals in brackets."


def _extent(counts: Sequence[int], noun: str) -> str:
    return plural(counts[0], noun) if len(counts) == 1 else f"{counts[0]:,} to {plural(counts[-1], noun)}"


def _accuracy_table(report: Report) -> Table:
    """Each engine and precision beside the reference: rejected ones as well."""
    seen: dict[tuple[str, str], CandidateRecord] = {}
    for record in report.candidates:
        if record.parity is not None:
            seen.setdefault((record.engine, record.precision), record)
    return Table(
        title="Beside ONNX Runtime on the CPU in FP32",
        columns=[("Accuracy", ""), ("Accuracy drop", ""), ("Other answers", "images"), ("Largest difference", "")],
        rows=[
            Row(
                key=f"{record.engine}/{record.precision}",
                name=engine_title(candidate_of(record)),
                selected=False,
                cells=_beside(record),
            )
            for record in seen.values()
        ],
        note=_asked(report),
    )


def _beside(record: CandidateRecord) -> list[Cell]:
    parity = record.parity
    assert parity is not None  # the table leaves out the others
    nothing = Metric(n=0)
    relative = "" if parity.max_rel is None else f"({parity.max_rel:.2g} of its channel)"
    verdict: Verdict | None = "fail" if record.status == "rejected" else None
    return [
        metric_cell(record.metrics.get("accuracy", nothing)),
        metric_cell(record.metrics.get("accuracy_drop", nothing)),
        Cell(text=NONE if parity.flips is None else f"{parity.flips:,}"),
        Cell(text=f"{parity.max_abs:.3g}", detail=relative, tone=verdict),
    ]


def _asked(report: Report) -> str:
    dataset, found = report.metadata.dataset, report.metadata.reference
    if dataset is None or found is None or found.value is None:
        return "Outputs on the same input; accuracy was not measured."
    said = estimate(found.value, found.low, found.high)
    return f"{plural(found.n, 'image')} of the test split of {dataset.name}; the reference has {said}: {found.note}."


def _constraints_tables(report: Report) -> list[Table]:
    """Verdicts of every candidate, a few constraints a table; a dataset brings a limit on accuracy of its own."""
    constraints = measured(report)[0].constraints if measured(report) else []
    tables = []
    for start in range(0, len(constraints), CONSTRAINTS_A_TABLE):
        part = slice(start, start + CONSTRAINTS_A_TABLE)
        tables.append(
            Table(
                title="Constraints, continued" if start else "Constraints",
                columns=[(capital(limit_of(constraint)), "") for constraint in constraints[part]],
                rows=[
                    _row(report, record, [_verdict(record, judgement) for judgement in record.constraints[part]])
                    for record in measured(report)
                ],
                note="Only a pass passes: the whole interval must keep the limit.",
            )
        )
    return tables


def _verdict(record: CandidateRecord, judgement: Judgement) -> Cell:
    found = record.metrics[judgement.metric]
    if found.value is None:
        detail = (found.note or "").removeprefix("not measured: ")
    else:
        detail = found.note or "" if found.exact else estimate(found.value, found.low, found.high)
    return Cell(text=VERDICTS[judgement.verdict], detail=detail, tone=judgement.verdict)


def _deltas_tables(report: Report) -> list[Table]:
    base = subject(report)
    if base is None or not report.deltas:
        return []
    by_key: dict[str, dict[MetricName, Delta]] = {}
    for delta in report.deltas:
        by_key.setdefault(delta.to, {})[delta.metric] = delta
    records = {candidate_of(record).key: record for record in measured(report)}
    table = Table(
        title=f"Compared with {short(report, base)}",
        columns=[(capital(QUANTITIES[metric].label), "") for metric in DELTA_METRICS],
        rows=[
            _row(report, records[key], [_ratio(found.get(metric)) for metric in DELTA_METRICS])
            for key, found in by_key.items()
        ],
        note="Ratio of each candidate's figure to that of the candidate it is compared with.",
    )
    return [table]


def _ratio(delta: Delta | None) -> Cell:
    if delta is None:
        return Cell(text=NONE)
    detail = "" if delta.low is None or delta.high is None else f"({span(delta.low, delta.high, 2)})"
    return Cell(text=factor(delta.ratio), detail=detail)


def _passed_over(report: Report) -> list[Fact]:
    """Why each candidate was not chosen; those of one engine with one reason share a line."""
    records = {candidate_of(record): record for record in report.candidates}
    why = {
        candidate: "about as fast as the fastest; lost on memory, file size or fixed order"
        if report.present is None or not report.present.activated or report.present.changes
        else "about as fast; the active deployment stays"
        for candidate in report.decision.tied
    }
    why |= {rejection.candidate: rejection.why for rejection in report.decision.rejected}
    grouped: dict[tuple[str, str], list[int]] = {}
    for candidate, reason in why.items():
        grouped.setdefault((way(report, records[candidate]), reason), []).append(candidate.batch_size)
    return [
        Fact(label=f"{name}, batch {listing([f'{batch:,}' for batch in sorted(set(batches))])}", text=capital(reason))
        for (name, reason), batches in grouped.items()
    ]


def _notes(report: Report) -> list[Fact]:
    noted = [
        Fact(label=short(report, record), text=capital(note)) for record in report.candidates for note in record.notes
    ]
    return [*noted, *decoding_facts(report)]


def _facts(report: Report) -> list[Fact]:
    """Model, machine, order and provenance."""
    return [*_model_facts(report), *_file_facts(report), *_machine_facts(report), *_order_facts(report)]


def _model_facts(report: Report) -> list[Fact]:
    model = report.metadata.model
    inputs = "; ".join(f"{info.name} {info.dtype} [{', '.join(map(str, info.shape))}]" for info in model.inputs)
    return [
        Fact(label="Model", text=model.name),
        Fact(label="Model id", text=f"{model.id}, {model.task_type}"),
        Fact(label="Parameters", text=f"{model.parameters:,}; file {model.file_size:,} bytes"),
        Fact(label="Input", text=inputs),
        Fact(label="Preprocessing", text=model.preprocessing_hash or "none"),
        Fact(label="Model SHA-256", text=model.sha256),
    ]


def _file_facts(report: Report) -> Iterator[Fact]:
    """What was made of the model, and how."""
    for precision, file in sorted(report.metadata.files.items()):
        about = f"{file.size_bytes:,} bytes, {_recipe(file)}; SHA-256 {file.sha256}."
        yield Fact(label=f"{precision.upper()} file", text=" ".join([about, *file.notes]))


def _recipe(file: FileRecord) -> str:
    recipe = file.recipe
    if "calibration_images" not in recipe:
        return "sensitive operators in FP32" if recipe.get("sensitive_in_fp32") else "whole in that precision"
    extent = {"inner": ", the first and last layers in FP32", "weighted": ", only layers with weights in INT8"}
    less = extent.get(str(recipe.get("extent")), "")
    return (
        f"calibrated by {recipe['method']} on {plural(int(recipe['calibration_images']), 'image')}{less}; of "
        f"{recipe['deciding_images']} others it answers {float(recipe['agreement']):.0%} as FP32 does"
    )


def _machine_facts(report: Report) -> list[Fact]:
    system = report.metadata.system
    versions = ", ".join(f"{name} {version}" for name, version in sorted(system.versions.items()))
    return [
        Fact(label="Processor", text=f"{system.cpu}, {plural(system.cores, 'core')}"),
        Fact(label="GPU", text=system.gpu or "none"),
        Fact(label="Main memory", text=quantity("memory_mb", f"{system.memory_mb:,}")),
        Fact(label="System", text=f"{system.os}; Python {system.python}"),
        Fact(label="Software", text=versions),
        Fact(label="Fingerprint", text=system.fingerprint),
        Fact(label="Noise floor", text=_noise_floor(report)),
    ]


def _noise_floor(report: Report) -> str:
    noise = report.metadata.noise_floor
    if noise is None:
        return "not measured; order a benchmark with noise_floor"
    measured_at = age(noise, report.metadata.created_at)
    return f"{percent(noise.value)} over {plural(noise.runs, 'pair')} of launches, measured {measured_at}"


def _order_facts(report: Report) -> list[Fact]:
    config, source = report.metadata.config, report.metadata.measurements
    calls = f"up to {plural(config.num_iterations, 'call')} or {config.max_seconds:g} s per candidate"
    warm_up = f"at least {plural(config.num_warmup, 'warm-up call')} per launch"
    providers = sorted({f"{engine_title(candidate_of(r))}: {r.provider} on {r.device}" for r in measured(report)})
    return [
        Fact(label="Objective", text=config.objective),
        Fact(label="Ordered", text=f"{calls}, {warm_up}, {config.isolation}, seed {config.seed}"),
        *_dataset_facts(report),
        *([Fact(label="Ran on", text="; ".join(providers))] if providers else []),
        Fact(label="Measured at", text=report.metadata.created_at),
        Fact(label="Measurements", text=f"{source.id}, SHA-256 {source.sha256}"),
        Fact(label="Report SHA-256", text=report.content_sha256),
    ]


def _dataset_facts(report: Report) -> list[Fact]:
    dataset = report.metadata.dataset
    if dataset is None:
        return []
    about = f"{dataset.name} ({dataset.id}), {plural(dataset.num_test, 'image')} in the test split"
    return [Fact(label="Dataset", text=about), Fact(label="Index SHA-256", text=dataset.index_sha256)]
