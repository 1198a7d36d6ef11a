"""The sentences of a decision: what an engineer would sign, with the figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shared.specs import Constraint, MetricName
from shared.verdict.accuracy import drop
from shared.verdict.assessment import Assessment
from shared.verdict.constraints import Judgement, Relaxation
from shared.verdict.figures import factor, figure, limit, listing, plural, quantity, title
from shared.verdict.gate import too_small
from shared.verdict.intervals import Interval, samples_needed

if TYPE_CHECKING:
    from shared.verdict.nearest import Nearest

MARGIN = (
    "Two candidates count as equally fast when the whole 95 % interval of their ratio lies within ±5 %. "
    "The noise floor of this machine was not measured, so the margin is not widened by it."
)

METHOD: tuple[str, ...] = (
    "Before anything is measured, each engine and precision answers real, dark, bright and noisy input at batch 1, 2 "
    "and every batch of the order beside ONNX Runtime on the CPU in FP32: no NaN, no infinity, differences of at most "
    "0.1 % of the largest value of a channel in FP32 and 2 % in FP16. What does not is rejected.",
    "With a dataset both answer its test split, prepared as for serving. Accuracy carries a Wilson interval, the drop "
    "against the reference Tango's interval for paired shares; COCO's mAP carries a bootstrap interval over images, "
    "from 500 draws. A drop clearly above the limit is rejected; where the interval leaves it open, it is not chosen. "
    "Where every image is answered alike there is no drop, however few there are.",
    "What is measured is a way to serve: engine, precision, batch, and so many sessions side by side with so many "
    "threads each. Candidates are measured in interleaved rounds, one process alive at a time. Latency is that of a "
    "call among those of the other sessions. Every call is kept, nothing clipped.",
    "Percentiles carry exact order-statistic (binomial) 95 % intervals over all calls; where the sample is too small "
    "for a bound there is no percentile. These intervals treat calls as independent.",
    "Mean latency, CPU use and load time are means over blocks with Student 95 % intervals: a block is one launch. "
    "Throughput is all images over the wall time of all blocks, with the interval of a ratio over blocks.",
    "CPU use is the processor time of the candidate's process, 100 % = one core. Memory is the highest peak of that "
    "process over all blocks, judged as observed. 1 MB = 2^20 bytes.",
    "A constraint passes when the whole interval keeps the limit, fails when none of it does, and is inconclusive "
    "otherwise. Only a pass passes.",
    "Ratios carry 95 % Student intervals whose standard error comes from a seeded bootstrap over rounds, then over "
    f"calls; the candidates share the drawn rounds. {MARGIN}",
    "Between candidates that are equally fast, less memory decides (steps of 10 %), then the smaller model file, then "
    "a fixed order. Where the intervals leave open whether a candidate is within 5 %, the choice is called fragile.",
)


def ineligible(item: Assessment) -> str:
    """Why a candidate could not be chosen."""
    if item.series.status == "unavailable":
        return f"not available on this machine: {item.series.reason or 'no reason was recorded'}"
    if item.series.status == "rejected":
        return f"rejected before measuring: {item.series.reason or 'no reason was recorded'}"
    if item.series.status == "failed":
        return f"failed: {item.series.reason or listing(item.series.failures) or 'no reason was recorded'}"
    if not item.measured:
        return "no call was timed"
    return "; ".join(judged(item, judgement) for judgement in item.constraints if judgement.verdict != "pass")


def judged(item: Assessment, judgement: Judgement) -> str:
    """A verdict that is no pass, with the figure: `fails P95 latency ≤ 10 ms with 12.3 (12.0–12.6) ms`."""
    wanted = limit(Constraint(metric=judgement.metric, op=judgement.op, value=judgement.value))
    if judgement.verdict == "not_measured":
        return f"{wanted} cannot be judged ({item.metrics[judgement.metric].note or 'not measured'})"
    start = "fails" if judgement.verdict == "fail" else "is inconclusive on"
    return f"{start} {wanted} with {item.text(judgement.metric)}{_short_of(item, judgement)}"


def _short_of(item: Assessment, judgement: Judgement) -> str:
    """How many images would tell, where there were too few."""
    accuracy = item.gate.accuracy if item.gate else None
    if (judgement.metric, judgement.verdict) != ("accuracy_drop", "inconclusive") or not accuracy or not item.reference:
        return ""
    return f": {too_small(drop(item.reference, accuracy), judgement.value)}"


def passing(assessments: Sequence[Assessment], eligible: Sequence[Assessment]) -> list[str]:
    """How many of the measured candidates keep the constraints."""
    measured = [item for item in assessments if item.measured]
    limits = [limit(Constraint(metric=c.metric, op=c.op, value=c.value)) for c in eligible[0].constraints]
    if not limits:
        return [f"{plural(len(measured), 'candidate')} measured; no constraint was set."]
    verb = "keeps" if len(eligible) == 1 else "keep"
    return [f"{len(eligible)} of {plural(len(measured), 'measured candidate')} {verb} {listing(limits)}."]


def latency_terms(assessments: Sequence[Assessment], batch: int) -> list[str]:
    """What latency means here, and why it is not batch 1 where it is not."""
    if batch == 1:
        return ["Compared by P95 latency at batch 1."]
    at_one = any(item.measured and item.candidate.batch_size == 1 for item in assessments)
    why = "no candidate at batch 1 keeps every constraint" if at_one else "batch 1 was not measured"
    return [f"Compared by P95 latency at batch {batch}, the smallest that can be compared: {why}."]


def throughput_terms() -> list[str]:
    """What throughput means here."""
    return ["Compared by images per second, each engine at its best batch size."]


def no_percentile(eligible: Sequence[Assessment]) -> str:
    """No candidate has a P95."""
    most = max(item.metrics["latency_p95_ms"].n for item in eligible)
    return (
        f"No choice by latency: a P95 needs at least {samples_needed(0.95)} timed calls per candidate, "
        f"and there are at most {most}."
    )


def other_batch(item: Assessment, best: Assessment) -> str:
    """A batch size at which the same engine does less."""
    here, there = item.text("throughput_fps"), best.text("throughput_fps")
    return f"{here}; this engine does more at batch {best.candidate.batch_size}, {there}"


def bounds(cost: Interval) -> str:
    """`1.31× (1.25–1.38)`, or the ratio and that it has no interval."""
    if cost.low is None or cost.high is None:
        return f"{factor(cost.value)} (no interval: one round)"
    return f"{factor(cost.value)} ({cost.low:.2f}–{cost.high:.2f})"


def compared(metric: MetricName, standing: str, cost: Interval, fastest: Assessment) -> str:
    """Why a slower contender was not chosen."""
    start = "slower" if standing == "slower" else "slower by estimate, not for certain"
    return f"{start}: {_against(metric, cost, title(fastest.candidate))}"


def _against(metric: MetricName, cost: Interval, fastest: str) -> str:
    if metric == "throughput_fps":
        return f"{fastest} does {bounds(cost)} as many images per second"
    return f"{bounds(cost)} the latency of {fastest}"


def speed(metric: MetricName, fastest: Assessment, others: Sequence[tuple[Assessment, str, Interval]]) -> list[str]:
    """The fastest with its figure, and every other contender against it."""
    if not others:
        return [f"{title(fastest.candidate)} has {fastest.text(metric)}."]
    said = [f"Fastest by estimate: {title(fastest.candidate)} with {fastest.text(metric)}."]
    for other, standing, cost in others:
        against = _against(metric, cost, "the fastest")
        said.append(f"{title(other.candidate)}: {other.text(metric)}; {against}: {_means(standing, cost)}.")
    return [*said, MARGIN]


def _means(standing: str, cost: Interval) -> str:
    if standing == "tied":
        return "equally fast within ±5 %"
    if standing == "slower":
        return "clearly slower"
    return "not settled" if cost.low is None else "not settled, the interval reaches across the 5 % margin"


def tie_break(selected: Assessment, pool: Sequence[Assessment], contenders: int, fragile: bool) -> list[str]:
    """What settled the choice."""
    others = [item for item in pool if item is not selected]
    if not others:
        fastest = "the fastest by estimate" if fragile else "because it is the fastest"
        why = fastest if contenders > 1 else "the only candidate that can be compared"
        return [f"Chosen: {title(selected.candidate)}, {why}."]
    return [
        f"Chosen: {title(selected.candidate)}. Speed does not separate it from "
        f"{listing([title(item.candidate) for item in others])}; {_settled_by(selected, others)}."
    ]


def _settled_by(selected: Assessment, others: Sequence[Assessment]) -> str:
    least = min(others, key=lambda item: item.value("memory_mb") or 0.0)
    own, next_best = selected.value("memory_mb") or 0.0, least.value("memory_mb") or 0.0
    if own and next_best / own >= 1.1:
        return f"it takes less memory ({_mb(own)} against {_mb(next_best)})"
    rival = min(others, key=lambda item: item.series.artifact_bytes)
    if selected.series.artifact_bytes < rival.series.artifact_bytes:
        return (
            f"memory is alike within 10 %, its model file is smaller ({selected.text('artifact_mb')} against "
            f"{rival.text('artifact_mb')})"
        )
    return "memory is alike within 10 % and its file is no larger, so the fixed order of candidates decides"


def _mb(value: float) -> str:
    return quantity("memory_mb", figure(value))


def nothing_passes(assessments: Sequence[Assessment], found: Nearest | None) -> list[str]:
    """Why there is no choice, and what would make one possible."""
    measured = sum(item.measured for item in assessments)
    if found is None:
        return ["No choice: not one candidate could be measured."]
    said = [f"No choice: none of {plural(measured, 'measured candidate')} passes every constraint."]
    item = found.assessment
    said.append(f"Nearest: {title(item.candidate)}: {ineligible(item)}.")
    limits = [relaxation for relaxation in found.relax if relaxation.value is not None]
    if limits:
        said.append(
            f"With {listing([relaxed_limit(relaxation) for relaxation in limits])} it would pass{_rest(found)}."
        )
    return said


def relaxed_limit(relaxation: Relaxation) -> str:
    """`P95 latency ≤ 12.7 ms instead of 10`."""
    assert relaxation.value is not None  # callers leave out those without a limit
    wanted = limit(Constraint(metric=relaxation.metric, op=relaxation.op, value=relaxation.value))
    return f"{wanted} instead of {relaxation.instead_of:,.12g}"


def _rest(found: Nearest) -> str:
    hopeless = sum(relaxation.value is None for relaxation in found.relax)
    return ", apart from what cannot be judged" if hopeless else " every constraint"
