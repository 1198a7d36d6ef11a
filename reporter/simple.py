"""The simple view: what was chosen, how good it is, why, what to do next, in words for somebody who decides."""

from __future__ import annotations

import msgspec

from reporter.lookup import candidate_of, limit_of, measured, short, subject, when
from shared.specs import Candidate, MetricName
from shared.verdict.figures import engine_title, estimate, factor, fed, figure, listing, plural, quantity, span, title
from shared.verdict.intervals import samples_needed
from shared.verdict.report import CandidateRecord, Report


class KeyFigure(msgspec.Struct, frozen=True, kw_only=True):
    """A figure for the first page: what it is, the figure with its unit, and what that means."""

    label: str
    figure: str
    unit: str
    meaning: str


class SimpleView(msgspec.Struct, frozen=True, kw_only=True):
    """What was chosen and why; or why nothing was chosen, and what would change that."""

    level: str = "simple"
    report_id: str
    model: str
    created_at: str
    headline: str
    summary: str
    selected: Candidate | None
    figures_of: str
    """Whose figures these are: the chosen setup, or the one that comes nearest."""
    figures: list[KeyFigure]
    why: list[str]
    deployment_steps: list[str]
    conditions: list[str]
    """What disturbed or qualifies the run."""
    dirty: bool
    """Whether something disturbed it."""
    caveats: list[str]
    """What to do before relying on it."""


def simple_view(report: Report) -> SimpleView:
    """The view of a report."""
    shown = subject(report)
    return SimpleView(
        report_id=report.id,
        model=report.metadata.model.name,
        created_at=when(report.metadata.created_at),
        headline=_headline(report),
        summary=_summary(report),
        selected=report.decision.selected,
        figures_of=title(candidate_of(shown)) if shown else "",
        figures=_figures(shown) if shown else [],
        why=_why(report),
        deployment_steps=report.deployment_steps,
        conditions=report.metadata.conditions,
        dirty=report.metadata.dirty,
        caveats=report.recommendations,
    )


def _headline(report: Report) -> str:
    if report.decision.selected:
        return f"Use {engine_title(report.decision.selected)}"
    if not measured(report):
        return "Nothing could be measured"
    return "No setup keeps every limit" if report.decision.nearest else "Not enough samples to choose"


def _summary(report: Report) -> str:
    """One sentence under the headline."""
    selected = report.decision.selected
    if selected:
        images = plural(selected.batch_size, fed(report.metadata.model)) + " at a time"
        limits = "no limit was set"
        if report.metadata.config.constraints:
            limits = "it keeps every limit you set"
        elif report.metadata.reference is not None:
            limits = "its accuracy was compared with the reference's, no other limit was set"
        aim = "fastest answers" if report.metadata.config.objective == "latency" else "most images per second"
        return f"{images}, {plural(selected.threads, 'processor thread')}. Chosen for {aim}; {limits}."
    if report.decision.nearest:
        return f"{title(report.decision.nearest)} comes nearest."
    if not measured(report):
        if any(record.status == "rejected" for record in report.candidates):
            return "Every engine that runs on this machine was rejected before measuring."
        return "None of the engines that were asked for runs on this machine with this model."
    return f"A choice needs at least {samples_needed(0.95)} timed calls of each candidate."


def _figures(record: CandidateRecord) -> list[KeyFigure]:
    figures = [_response_time(record), _throughput(record), _memory(record)]
    return [*figures, _accuracy(record)] if record.metrics["accuracy"].value is not None else figures


def _accuracy(record: CandidateRecord) -> KeyFigure:
    found, lost = record.metrics["accuracy"], record.metrics["accuracy_drop"]
    drop = lost.note or f"{estimate(lost.value or 0.0, lost.low, lost.high)} less than the reference"
    return KeyFigure(
        label="Accuracy",
        figure=figure(found.value or 0.0),
        unit="",
        meaning=f"on {plural(found.n, 'image')} of the test split{_range(record, 'accuracy')}; {drop}",
    )


def _response_time(record: CandidateRecord) -> KeyFigure:
    found = record.metrics["latency_p95_ms"]
    if found.value is None:
        return KeyFigure(label="Response time", figure="–", unit="", meaning=found.note or "not measured")
    call = "calls" if record.batch_size == 1 else f"calls with {record.batch_size} images"
    meaning = f"19 of 20 {call} are answered within this time{_range(record, 'latency_p95_ms')}"
    return KeyFigure(label="Response time", figure=figure(found.value), unit="ms", meaning=meaning)


def _throughput(record: CandidateRecord) -> KeyFigure:
    found = record.metrics["throughput_fps"]
    meaning = f"one call after another, without a pause{_range(record, 'throughput_fps')}"
    return KeyFigure(label="Throughput", figure=figure(found.value or 0.0), unit="images/s", meaning=meaning)


def _memory(record: CandidateRecord) -> KeyFigure:
    found = record.metrics["memory_mb"]
    meaning = "highest memory use of the process that runs the model"
    return KeyFigure(label="Memory", figure=figure(found.value or 0.0), unit="MB", meaning=meaning)


def _range(record: CandidateRecord, metric: MetricName) -> str:
    """`; between 1.20 and 1.27 ms with 95 % confidence`."""
    found = record.metrics[metric]
    if found.value is None or found.low is None or found.high is None:
        return ""
    text = estimate(found.value, found.low, found.high)
    return f"; {quantity(metric, text[text.index('(') + 1 : -1])} with 95 % confidence"


def _why(report: Report) -> list[str]:
    if report.decision.selected is None:
        return report.decision.reasons
    settled = report.decision.reasons[-1:] if report.decision.tied or report.metadata.incumbent else []
    return [_kept(report), *settled, *_against_others(report)]


def _kept(report: Report) -> str:
    found = measured(report)
    limits = found[0].constraints if found else []
    ran = f"{len(found)} of {plural(len(report.candidates), 'setup')} ran on this machine"
    if not limits:
        return f"{ran}{_rejected(report)}."
    keep = sum(all(judgement.verdict == "pass" for judgement in record.constraints) for record in found)
    phrase = listing([limit_of(constraint) for constraint in limits])
    return f"{ran}{_rejected(report)}; {keep} of them {'keeps' if keep == 1 else 'keep'} {phrase}."


def _rejected(report: Report) -> str:
    count = sum(record.status == "rejected" for record in report.candidates)
    return f", {count} {'was' if count == 1 else 'were'} rejected before measuring" if count else ""


def _against_others(report: Report) -> list[str]:
    """The other engines at the chosen batch size, in words."""
    selected = report.decision.selected
    records = {candidate_of(record).key: record for record in measured(report)}
    said = []
    for delta in report.deltas:
        other = records[delta.to]
        wanted = "latency_p95_ms" if report.metadata.config.objective == "latency" else "throughput_fps"
        if delta.metric != wanted or selected is None or other.batch_size != selected.batch_size:
            continue
        interval = "" if delta.low is None or delta.high is None else f" ({span(delta.low, delta.high, 2)})"
        does = "response time is" if wanted == "latency_p95_ms" else "throughput is"
        said.append(f"{short(report, other)}: its {does} {factor(delta.ratio)}{interval} that of the choice.")
    return said
