"""The simple view: what was chosen, how sure that is, what it changes, why, in words for somebody who decides."""

from __future__ import annotations

from typing import Literal

import msgspec

from reporter import decoding, plain
from reporter.lookup import best_of_each, candidate_of, measured, subject, when
from reporter.service import in_short
from shared.specs import Candidate, MetricName
from shared.verdict.constraints import Judgement
from shared.verdict.decision import METRIC_OF
from shared.verdict.figures import (
    capital,
    engine_title,
    estimate,
    fed,
    figure,
    hundredths,
    listing,
    plural,
    quantity,
    some,
    title,
)
from shared.verdict.intervals import samples_needed
from shared.verdict.present import Change
from shared.verdict.report import CandidateRecord, Delta, Report

Tone = Literal["good", "bad", "same"]
Level = Literal["clear", "tie", "fragile", "alone", "none"]

OTHERS = 5
"""So many other engines are named; the technical view has them all."""


class KeyFigure(msgspec.Struct, frozen=True, kw_only=True):
    """A figure for the first page: what it is, the figure with its unit, and what that means."""

    label: str
    figure: str
    unit: str
    meaning: str


class Sureness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether another measurement would choose the same."""

    level: Level
    title: str
    text: str


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What a switch to the choice changes: `now`, `then`, and the difference in words."""

    label: str
    now: str
    then: str
    text: str
    tone: Tone


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
    sureness: Sureness
    serving: str
    """What serves now, and where it comes from; empty without a choice."""
    changes: list[Difference]
    service: str
    """What users of the platform's own HTTP service got under load; empty where that was not ordered."""
    decoding: str
    """At which part of their size JPEGs are decoded, and what that saves; empty where none was to be tried."""
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
        figures=_figures(report, shown) if shown else [],
        sureness=_sureness(report),
        serving=_serving(report),
        changes=[_difference(change) for change in report.present.changes] if report.present else [],
        service=in_short(report.service) if report.service else "",
        decoding=decoding.in_short(decoded) if (decoded := decoding.record_of(report)) else "",
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
        sessions = f", {selected.instances} side by side" if selected.instances > 1 else ""
        limits = "it keeps every limit" if _limits(report) else "no limit was set"
        return f"{images}, {plural(selected.threads, 'processor thread')}{sessions}. {_chosen(report)}; {limits}."
    if report.decision.nearest:
        return f"{title(report.decision.nearest)} comes nearest."
    if not measured(report):
        if any(record.status == "rejected" for record in report.candidates):
            return "Every engine that runs on this machine was rejected before measuring."
        return "None of the engines that were asked for runs on this machine with this model."
    return f"A choice needs at least {samples_needed(0.95)} timed calls of each candidate."


def _chosen(report: Report) -> str:
    """For what, which is not speed where others are as fast as far as this run tells."""
    if report.decision.tied:
        return f"Chosen among {len(report.decision.tied) + 1} setups that speed does not separate"
    aim = "fastest answers" if report.metadata.config.objective == "latency" else "most images per second"
    return f"Chosen for {aim}, by estimate" if report.decision.fragile else f"Chosen for {aim}"


# --- figures --------------------------------------------------------------------------------------------------------


def _figures(report: Report, record: CandidateRecord) -> list[KeyFigure]:
    figures = [_response_time(record), _throughput(record), _memory(record)]
    return [*figures, _accuracy(report, record)] if record.metrics["accuracy"].value is not None else figures


def _accuracy(report: Report, record: CandidateRecord) -> KeyFigure:
    found, lost = record.metrics["accuracy"], record.metrics["accuracy_drop"]
    images = plural(found.n, "test image")
    against = (
        "; every answer as the original model's"
        if lost.exact
        else f"; {plain.difference(-(lost.value or 0.0), None, None)} as the original model's"
        if not lost.value
        else f"; {plain.difference(-lost.value, None, None)} than the original model's"
    )
    if report.metadata.model.task_type == "classification":
        meaning = f"of {images} are recognised{against}"
        return KeyFigure(label="Accuracy", figure=hundredths(found.value or 0.0), unit="%", meaning=meaning)
    meaning = f"mean average precision on {images}{against}"
    return KeyFigure(label="Accuracy", figure=figure(found.value or 0.0), unit="mAP", meaning=meaning)


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
    """`; 1.20–1.27 ms with 95 % confidence`."""
    found = record.metrics[metric]
    if found.value is None or found.low is None or found.high is None:
        return ""
    text = estimate(found.value, found.low, found.high)
    return f"; {quantity(metric, text[text.index('(') + 1 : -1])} with 95 % confidence"


# --- how sure -------------------------------------------------------------------------------------------------------


def _sureness(report: Report) -> Sureness:
    decision = report.decision
    if decision.selected is None:
        return Sureness(level="none", title="", text="")
    sample = _sample(report)
    if decision.fragile:
        text = "The measurements do not tell which setup is fastest; another run may choose differently."
        how = "Measure again on a machine with nothing else to do" if report.metadata.dirty else "Measure longer"
        return Sureness(level="fragile", title="Not settled", text=f"{text} {how} to settle it. {sample}")
    if decision.tied:
        names = _names(decision.tied)
        text = f"{names} {'is' if len(decision.tied) == 1 else 'are'} as fast, so something else decided; see below."
        return Sureness(level="tie", title="As good as another", text=f"{text} {sample}")
    rival = _runner_up(report)
    if rival is None:
        return Sureness(level="alone", title="No rival", text=f"No other setup could be chosen. {sample}")
    said = plain.relation(rival.metric, rival.ratio, rival.low, rival.high)
    record = next(record for record in measured(report) if candidate_of(record).key == rival.to)
    takes = f"takes {said}" if rival.metric == "latency_p95_ms" else f"does {said} images per second"
    text = f"The next best, {title(candidate_of(record))}, {takes}, with 95 % confidence. {sample}"
    return Sureness(level="clear", title="Clear", text=text)


def _names(candidates: list[Candidate]) -> str:
    return some([title(candidate) for candidate in candidates])


def _sample(report: Report) -> str:
    """What the answer rests on."""
    about = subject(report)
    if about is None:
        return ""
    calls, rounds = about.metrics["latency_p50_ms"].n, about.metrics["throughput_fps"].n
    return f"It rests on {plural(calls, 'timed call')} in {plural(rounds, 'separate run')} of the choice."


def _runner_up(report: Report) -> Delta | None:
    """The nearest of those that keep every limit and could have been chosen."""
    selected, metric = report.decision.selected, METRIC_OF[report.metadata.config.objective]
    assert selected is not None  # asked only where there is a choice
    keys = {
        candidate_of(record).key
        for record in measured(report)
        if all(judgement.verdict == "pass" for judgement in record.constraints)
        and (record.batch_size == selected.batch_size or metric == "throughput_fps")
    }
    rivals = [delta for delta in report.deltas if delta.metric == metric and delta.to in keys]
    return min(rivals, key=lambda delta: delta.ratio if metric == "latency_p95_ms" else -delta.ratio, default=None)


# --- what changes ---------------------------------------------------------------------------------------------------


def _serving(report: Report) -> str:
    if report.decision.selected is None:
        return ""
    if report.present is None:
        if report.metadata.incumbent:
            active = title(report.metadata.incumbent)
            return f"{active} serves now; it was not measured here, so nothing can be said about the difference."
        return "ONNX Runtime FP32 serves now; it was not measured here, so nothing can be said about the difference."
    serves = title(report.present.candidate)
    why = "" if report.present.activated else ", as long as nothing else is activated"
    if not report.present.changes:
        record = decoding.record_of(report)
        beside = " but the size at which JPEGs are decoded" if record and record.selected != record.serves else ""
        return f"{serves} serves already{why}: nothing changes{beside}."
    return f"{serves} serves now{why}."


def _difference(change: Change) -> Difference:
    name = change.metric
    if name == "accuracy":
        now, then = (f"{hundredths(value)} %" for value in (change.before, change.after))
        said, sign = plain.difference(change.by, change.low, change.high), change.by
    else:
        now, then = (quantity(name, figure(value)) for value in (change.before, change.after))
        said, sign = plain.relation(name, change.by, change.low, change.high), change.by - 1
    better = (sign > 0) == (name in ("throughput_fps", "accuracy"))
    alike = said.startswith(("about the same", "the same", "between ")) or "do not settle" in said
    return Difference(
        label=capital({"latency_p95_ms": "response time"}.get(name, plain.NAMES[name])),
        now=now,
        then=then,
        text=said,
        tone="same" if alike else "good" if better else "bad",
    )


# --- why ------------------------------------------------------------------------------------------------------------


def _why(report: Report) -> list[str]:
    if report.decision.selected is None:
        return report.decision.reasons
    settled = report.decision.reasons[-1:] if report.decision.tied or report.metadata.incumbent else []
    return [_kept(report), *settled, *_against_others(report)]


def _limits(report: Report) -> list[Judgement]:
    """Those that were ordered, and the one on accuracy that a dataset brings."""
    return next((record.constraints for record in measured(report)), [])


def _kept(report: Report) -> str:
    found, limits = measured(report), _limits(report)
    ran = f"{len(found)} of {plural(len(report.candidates), 'setup')} ran on this machine"
    if not limits:
        return f"{ran}{_rejected(report)}."
    keep = sum(all(judgement.verdict == "pass" for judgement in record.constraints) for record in found)
    phrase = listing([plain.limit(constraint) for constraint in limits])
    return f"{ran}{_rejected(report)}; {keep} of them {'keeps' if keep == 1 else 'keep'} the limits: {phrase}."


def _rejected(report: Report) -> str:
    count = sum(record.status == "rejected" for record in report.candidates)
    return f", {count} {'was' if count == 1 else 'were'} rejected before measuring" if count else ""


def _against_others(report: Report) -> list[str]:
    """The best setup of every other engine and precision, in words."""
    metric = METRIC_OF[report.metadata.config.objective]
    ratios = {delta.to: delta for delta in report.deltas if delta.metric == metric}
    said = []
    for record in best_of_each(report):
        delta = ratios.get(candidate_of(record).key)
        if delta is None:
            continue
        relation = plain.relation(metric, delta.ratio, delta.low, delta.high)
        does = f"its response time is {relation}" if metric == "latency_p95_ms" else f"it does {relation} images/s"
        said.append(f"{engine_title(candidate_of(record))}: {does}{_yet(record)}.")
    return said[:OTHERS]


def _yet(record: CandidateRecord) -> str:
    """Which limits keep a candidate out."""
    missed = [plain.NAMES[judgement.metric] for judgement in record.constraints if judgement.verdict != "pass"]
    return f"; it is not sure to keep the limit on {listing(list(dict.fromkeys(missed)))}" if missed else ""
