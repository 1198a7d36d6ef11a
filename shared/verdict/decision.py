"""Which candidate to deploy: constraints, then the objective with its uncertainty, then memory, file size, order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from shared.specs import Candidate
from shared.verdict import nearest, wording
from shared.verdict.assessment import Assessment, fixed_order
from shared.verdict.bootstrap import Bootstrap, Compared
from shared.verdict.constraints import Relaxation
from shared.verdict.intervals import Interval
from shared.verdict.metrics import better

DELTA = 0.05
"""Two candidates closer than this tie. The machine's noise floor, which may widen it, is not measured yet."""

MEMORY_STEP = 1.10
"""Memory within 10 % counts as equal."""

Objective = Literal["latency", "throughput"]
METRIC_OF: dict[Objective, Compared] = {"latency": "latency_p95_ms", "throughput": "throughput_fps"}


class Rejection(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate that was not chosen, and why."""

    candidate: Candidate
    why: str


class Decision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The choice. Every candidate is exactly one of `selected`, in `tied`, or in `rejected`.

    `tied` are those whose estimate lies within 5 % of the fastest and that lost on memory, size or order; `fragile`
    says that the intervals do not settle whether some candidate is within 5 %. `nearest` and `relax` are set when
    nothing passes.
    """

    selected: Candidate | None = None
    tied: list[Candidate]
    fragile: bool
    reasons: list[str]
    rejected: list[Rejection]
    nearest: Candidate | None = None
    relax: list[Relaxation] | None = None


@dataclass(frozen=True, slots=True)
class Contest:
    """Who is compared, by what, and who is left out of it for which reason."""

    metric: Compared
    contenders: list[Assessment]
    passed_over: dict[str, str]
    terms: list[str]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A contender against the fastest: how many times as slow, and what its interval says."""

    other: Assessment
    cost: Interval

    @property
    def standing(self) -> Literal["tied", "unresolved", "slower"]:
        """Tied inside +-5 %, slower when clear of it, unresolved otherwise or without an interval."""
        if self.cost.low is None or self.cost.high is None:
            return "unresolved"
        if self.cost.low > 1 + DELTA:
            return "slower"
        return "tied" if self.cost.low >= 1 / (1 + DELTA) and self.cost.high <= 1 + DELTA else "unresolved"

    @property
    def close(self) -> bool:
        """Whether the estimate itself is within 5 %: then speed is no reason against it."""
        return self.standing == "tied" or (self.standing == "unresolved" and self.cost.value <= 1 + DELTA)


def decide(assessments: Sequence[Assessment], objective: Objective, bootstrap: Bootstrap) -> Decision:
    """The decision over all candidates. Pure: equal measurements and seed give an equal decision."""
    eligible = [item for item in assessments if item.eligible]
    why = {item.key: wording.ineligible(item) for item in assessments if not item.eligible}
    if not eligible:
        return _nothing_passes(assessments, METRIC_OF[objective], why)
    contest = by_latency(assessments, eligible) if objective == "latency" else by_throughput(eligible)
    why |= contest.passed_over
    start = wording.passing(assessments, eligible)
    if not contest.contenders:
        return Decision(
            tied=[], fragile=False, reasons=[*start, *contest.terms], rejected=_rejections(assessments, why)
        )
    return _choose(assessments, contest, bootstrap, why, [*start, *contest.terms])


def by_latency(assessments: Sequence[Assessment], eligible: Sequence[Assessment]) -> Contest:
    """P95 at batch 1, or at the smallest batch that has an eligible candidate with a P95."""
    timed = [item for item in eligible if item.value("latency_p95_ms") is not None]
    why = {
        item.key: f"its P95 latency is unknown: {item.text('latency_p95_ms')}" for item in eligible if item not in timed
    }
    if not timed:
        return Contest("latency_p95_ms", [], why, [wording.no_percentile(eligible)])
    batch = min(item.candidate.batch_size for item in timed)
    contenders = [item for item in timed if item.candidate.batch_size == batch]
    why |= {item.key: f"latency is compared at batch {batch}" for item in timed if item not in contenders}
    return Contest("latency_p95_ms", contenders, why, wording.latency_terms(assessments, batch))


def by_throughput(eligible: Sequence[Assessment]) -> Contest:
    """Images per second, each engine configuration at the batch where it does most."""
    best: dict[tuple[object, ...], Assessment] = {}
    for item in eligible:
        way = (item.candidate.engine, item.candidate.precision, item.candidate.threads, item.candidate.instances)
        if way not in best or _leads("throughput_fps", item, best[way]):
            best[way] = item
    contenders = list(best.values())
    why = {}
    for item in eligible:
        way = (item.candidate.engine, item.candidate.precision, item.candidate.threads, item.candidate.instances)
        if item is not best[way]:
            why[item.key] = wording.other_batch(item, best[way])
    return Contest("throughput_fps", contenders, why, wording.throughput_terms())


def _leads(metric: Compared, a: Assessment, b: Assessment) -> bool:
    first, second = a.value(metric), b.value(metric)
    return first is not None and second is not None and better(metric, first, second)


def _choose(
    assessments: Sequence[Assessment], contest: Contest, bootstrap: Bootstrap, why: dict[str, str], start: list[str]
) -> Decision:
    fastest = contest.contenders[0]
    for item in contest.contenders[1:]:
        fastest = item if _leads(contest.metric, item, fastest) else fastest
    compared = [
        Comparison(item, cost_ratio(contest.metric, item, fastest, bootstrap))
        for item in contest.contenders
        if item is not fastest
    ]
    pool = [fastest, *(comparison.other for comparison in compared if comparison.close)]
    selected = min(pool, key=lambda item: tie_break(item, pool))
    tied = [
        item.candidate for item in sorted(pool, key=lambda item: fixed_order(item.candidate)) if item is not selected
    ]
    for comparison in compared:
        if not comparison.close:
            why[comparison.other.key] = wording.compared(contest.metric, comparison.standing, comparison.cost, fastest)
    fragile = any(comparison.standing == "unresolved" for comparison in compared)
    reasons = [
        *start,
        *wording.speed(contest.metric, fastest, [(c.other, c.standing, c.cost) for c in compared]),
        *wording.tie_break(selected, pool, len(contest.contenders), fragile),
    ]
    return Decision(
        selected=selected.candidate,
        tied=tied,
        fragile=fragile,
        reasons=reasons,
        rejected=_rejections([item for item in assessments if item not in pool], why),
    )


def cost_ratio(metric: Compared, item: Assessment, fastest: Assessment, bootstrap: Bootstrap) -> Interval:
    """How many times as slow `item` is as `fastest`: latency over latency, or throughput under throughput."""
    over, under = (item, fastest) if metric == "latency_p95_ms" else (fastest, item)
    above, below = over.value(metric), under.value(metric)
    assert above is not None and below is not None  # contenders have a value
    bounds = bootstrap.bounds(metric, over.key, under.key, above / below)
    return Interval(above / below, *(bounds or (None, None)))


def tie_break(item: Assessment, pool: Sequence[Assessment]) -> tuple[float, ...]:
    """Less memory in steps of 10 % above the least, then the smaller file, then the fixed order."""
    memory = item.value("memory_mb") or 0.0
    least = min(other.value("memory_mb") or 0.0 for other in pool)
    step = math.floor(math.log(memory / least, MEMORY_STEP)) if least else 0
    return (step, item.series.artifact_bytes, *fixed_order(item.candidate))


def _rejections(assessments: Sequence[Assessment], why: dict[str, str]) -> list[Rejection]:
    return [Rejection(candidate=item.candidate, why=why[item.key]) for item in assessments]


def _nothing_passes(assessments: Sequence[Assessment], metric: Compared, why: dict[str, str]) -> Decision:
    found = nearest.find(assessments, metric)
    return Decision(
        tied=[],
        fragile=False,
        reasons=wording.nothing_passes(assessments, found),
        rejected=_rejections(assessments, why),
        nearest=found.assessment.candidate if found else None,
        relax=found.relax if found else None,
    )
