"""The sentences of a decision: what an engineer would sign, with the figures."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from shared.specs import Candidate, Constraint, MetricName, NoiseFloor
from shared.verdict.accuracy import drop
from shared.verdict.assessment import Assessment
from shared.verdict.constraints import Judgement, Relaxation
from shared.verdict.figures import engine_title, factor, figure, limit, listing, plural, quantity, title
from shared.verdict.gate import too_small
from shared.verdict.intervals import Interval, samples_needed
from shared.verdict.rounds import ENOUGH

if TYPE_CHECKING:
    from shared.verdict.nearest import Nearest

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
    "Percentiles carry order-statistic (binomial) 95 % intervals over all calls, exact for independent calls; where "
    "the sample is too small for a bound there is no percentile. Where calls of one launch resemble each other more "
    "than those of different launches, they count as fewer (design effect) and the interval is wider, at most as wide "
    "as the sample. What is assumed is that launches are independent of each other.",
    "Mean latency, CPU use and load time are means over blocks with Student 95 % intervals: a block is one launch. "
    "Throughput is all images over the wall time of all blocks, with the interval of a ratio over blocks.",
    "CPU use is the processor time of the candidate's process, 100 % = one core. Memory is the highest peak of that "
    "process over all blocks, judged as observed. 1 MB = 2^20 bytes.",
    "A constraint passes when the whole interval keeps the limit, fails when none of it does, and is inconclusive "
    "otherwise. Only a pass passes.",
    "Candidates are compared round by round: the ratio of two is the median of the ratios of their launches in one "
    "round, with its order-statistic (sign test) 95 % interval; the fastest is the one that is slower than no other. A "
    "launch that the machine held up is one ratio among many there, whereas one in ten can carry a P95 over all calls "
    "away; the two may differ. Two candidates count as equally fast when the whole interval lies within the margin: "
    "5 %, or twice the noise floor of the machine where that is more. The noise floor is the 95 % quantile of "
    "|ln ratio| between two series of one candidate measured as if it were two, the signs of its rounds drawn anew.",
    "Between candidates that are equally fast, less memory decides (steps of 10 %), then the smaller model file, then "
    "a fixed order. Where the intervals leave open whether a candidate is within the margin, the choice is called "
    "fragile.",
    "An active deployment stays unless it was not measured, keeps not every constraint, or one of those that count as "
    "fastest takes at least 10 % less time with a confidence of at least 95 % (one-sided sign test over rounds); where "
    "the margin is wider than that, it has to be beyond the margin.",
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


def margin_told(margin: float, noise: NoiseFloor | None, created_at: str) -> str:
    """How close counts as equally fast, and why."""
    if noise is None:
        why = "the noise floor of this machine was not measured, so it does not widen the margin"
    else:
        told = f"the noise floor of this machine is {percent(noise.value)}, measured {age(noise, created_at)}"
        why = f"{told}; twice that is {'more' if 2 * noise.value >= margin else 'less'} than 5 %"
    return f"The margin within which candidates count as equally fast is ±{percent(margin)}: {why}."


def age(noise: NoiseFloor, created_at: str) -> str:
    """How old a noise floor was when the benchmark that uses it was made: `in this run`, `3 days before (2026-…)`."""
    measured_at = datetime.fromisoformat(noise.measured_at)
    days = (datetime.fromisoformat(created_at) - measured_at).days
    if noise.measured_at == created_at:
        return "in this run"
    before = "the same day" if days < 1 else f"{plural(days, 'day')} before"
    return f"{before} ({measured_at:%Y-%m-%d %H:%M} UTC, {noise.benchmark_id})"


def percent(share: float) -> str:
    """`5 %`, `7.4 %`."""
    return f"{100 * share:.3g} %"


def latency_terms(assessments: Sequence[Assessment], batch: int, fixed_batch: int | None) -> list[str]:
    """What latency means here, and why it is not batch 1 where it is not."""
    if batch == fixed_batch:
        return [f"Compared by P95 latency, round by round, at batch {batch}, the only one this model takes."]
    if batch == 1:
        return ["Compared by P95 latency, round by round, at batch 1."]
    at_one = any(item.measured and item.candidate.batch_size == 1 for item in assessments)
    why = "no candidate at batch 1 keeps every constraint" if at_one else "batch 1 was not measured"
    return [f"Compared by P95 latency, round by round, at batch {batch}, the smallest that can be compared: {why}."]


def throughput_terms() -> list[str]:
    """What throughput means here."""
    return ["Compared by images per second, round by round, each engine at its best batch size."]


def no_percentile(eligible: Sequence[Assessment]) -> str:
    """No candidate has a P95."""
    most = max(item.metrics["latency_p95_ms"].n for item in eligible)
    return (
        f"No choice by latency: a P95 needs at least {samples_needed(0.95)} timed calls per candidate, "
        f"and there are at most {most}."
    )


def other_batch(item: Assessment, best: Assessment, cost: Interval) -> str:
    """A batch size at which the same engine does less."""
    there = f"at batch {best.candidate.batch_size} this engine does {bounds(cost)} as many"
    return f"{item.text('throughput_fps')}; {there}"


def bounds(cost: Interval) -> str:
    """`1.31× (1.25–1.38)`, or the ratio and that it has no interval."""
    if cost.low is None or cost.high is None:
        return f"{factor(cost.value)} (no interval: fewer than {ENOUGH} rounds)"
    return f"{factor(cost.value)} ({cost.low:.2f}–{cost.high:.2f})"


def compared(metric: MetricName, standing: str, cost: Interval, fastest: Assessment) -> str:
    """Why a slower contender was not chosen."""
    start = "slower" if standing == "slower" else "slower by estimate, not for certain"
    return f"{start}: {_against(metric, cost, title(fastest.candidate))}"


def _against(metric: MetricName, cost: Interval, fastest: str) -> str:
    if metric == "throughput_fps":
        return f"{fastest} does {bounds(cost)} as many images per second"
    return f"{bounds(cost)} the latency of {fastest}"


def speed(
    metric: MetricName, fastest: Assessment, others: Sequence[tuple[Assessment, str, Interval]], margin: float
) -> list[str]:
    """The fastest with its figure, and every other contender against it."""
    if not others:
        return [f"{title(fastest.candidate)} has {fastest.text(metric)}."]
    said = [f"Fastest by estimate: {title(fastest.candidate)} with {fastest.text(metric)}."]
    for other, standing, cost in others:
        against = _against(metric, cost, "the fastest")
        said.append(f"{title(other.candidate)}: {other.text(metric)}; {against}: {_means(standing, cost, margin)}.")
    return said


def _means(standing: str, cost: Interval, margin: float) -> str:
    if standing == "tied":
        return f"equally fast within ±{percent(margin)}"
    if standing == "slower":
        return "clearly slower"
    across = f"not settled, the interval reaches across the {percent(margin)} margin"
    return "not settled" if cost.low is None else across


def same_as_before() -> str:
    """The choice serves already."""
    return "That is the active deployment: nothing has to be switched."


def no_incumbent(active: Candidate, why: str) -> str:
    """The active deployment is not one that could stay."""
    return f"The active deployment, {title(active)}, is not what the choice was held against: {why}."


class Switch(NamedTuple):
    """What a switch from the active deployment would gain."""

    cost: Interval
    """How many times as slow the active one is."""
    sure: float | None
    """That it saves the time asked for; None where too few rounds tell."""
    worth: float
    """The share of its time that a switch must save."""


def switched(metric: MetricName, active: Assessment, switch: Switch) -> str:
    """The choice is worth a switch."""
    sure = _confidence(switch.sure or 0.0)
    return (
        f"It is worth a switch from the active deployment, {title(active.candidate)}: "
        f"{_against_active(metric, switch.cost)}, at least {percent(switch.worth)} better with a confidence of {sure}."
    )


def kept(metric: MetricName, active: Assessment, best: Assessment, switch: Switch) -> str:
    """The active deployment stays."""
    few = f"fewer than {ENOUGH} rounds do not tell"
    how = few if switch.sure is None else f"the confidence is {_confidence(switch.sure)}, and 95 % are asked for"
    return (
        f"Kept: {title(active.candidate)}, the active deployment. Without it the choice would be "
        f"{title(best.candidate)}: {_against_active(metric, switch.cost)}. That is not for certain the "
        f"{percent(switch.worth)} a switch is worth; {how}."
    )


def not_worth(metric: MetricName, item: Assessment, cost: Interval, worth: float) -> str:
    """Why a candidate was not chosen over the active deployment, which is `cost` times as slow."""
    return f"{item.text(metric)}; {_against_active(metric, cost)}: not clearly better by {percent(worth)}"


def _against_active(metric: MetricName, cost: Interval) -> str:
    if metric == "throughput_fps":
        return f"it does {bounds(cost)} as many images per second as the active one"
    return f"the active one takes {bounds(cost)} its latency"


def _confidence(sure: float) -> str:
    return "over 99.9 %" if sure > 0.999 else "under 0.1 %" if sure < 0.001 else f"{100 * sure:.1f} %"


def tie_break(
    selected: Assessment, pool: Sequence[Assessment], contenders: int, fragile: bool, *, others: bool
) -> list[str]:
    """What settled the choice; `others`: whether it has further equals, which are no reason to switch."""
    rest = [item for item in pool if item is not selected]
    if not rest:
        fastest = "the fastest by estimate" if fragile else "because it is the fastest"
        why = fastest if contenders > 1 else "the only candidate that can be compared"
        if others:
            why = "of those that count as fastest the only one that is clearly worth a switch"
        return [f"Chosen: {title(selected.candidate)}, {why}."]
    return [
        f"Chosen: {title(selected.candidate)}. Speed does not separate it from "
        f"{listing([title(item.candidate) for item in rest])}; {_settled_by(selected, rest)}."
    ]


def _settled_by(selected: Assessment, others: Sequence[Assessment]) -> str:
    """Which of the rules put it before which of the others."""
    least = min(map(_memory, [selected, *others]))
    heavier = [item for item in others if _memory(item) >= 1.1 * least > 0]
    alike = [item for item in others if item not in heavier]
    larger = [item for item in alike if item.series.artifact_bytes > selected.series.artifact_bytes]
    said = []
    if heavier:
        against = f"({_mb(_memory(selected))} against {_mb(min(map(_memory, heavier)))})"
        said.append(f"it takes less memory{_than(heavier, others)} {against}")
    elif alike:
        said.append("memory is alike within 10 %")
    if larger:
        smallest = min(larger, key=lambda item: item.series.artifact_bytes)
        than = _than(larger, others, "that of ")
        sizes = f"({selected.text('artifact_mb')} against {smallest.text('artifact_mb')})"
        said.append(f"its model file is smaller{than} {sizes}")
    equal = [item for item in alike if item not in larger]
    if equal == list(others):
        return "memory is alike within 10 % and its file is no larger, so the fixed order of candidates decides"
    if equal:
        said.append(f"the fixed order of candidates puts it before {_titles(equal)}")
    return listing(said)


def _than(beaten: Sequence[Assessment], others: Sequence[Assessment], what: str = "") -> str:
    """Whom a rule put it before, where that is not everybody."""
    return f" than {what}{_titles(beaten)}" if len(beaten) < len(others) else ""


def _titles(items: Sequence[Assessment]) -> str:
    return listing([title(item.candidate) for item in items])


def _memory(item: Assessment) -> float:
    return item.value("memory_mb") or 0.0


def _mb(value: float) -> str:
    return quantity("memory_mb", figure(value))


def nothing_passes(assessments: Sequence[Assessment], found: Nearest | None) -> list[str]:
    """Why there is no choice, and what would make one possible."""
    measured = sum(item.measured for item in assessments)
    if found is None:
        whys = dict.fromkeys(f"{engine_title(item.candidate)}: {ineligible(item)}." for item in assessments)
        return ["No choice: not one candidate could be measured.", *(why.replace("..", ".") for why in whys)]
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
