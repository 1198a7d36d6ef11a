"""Which candidate to deploy: constraints, then the objective with its uncertainty, then memory, file size, order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec

from shared.specs import Candidate, MeasurementSet, NoiseFloor
from shared.verdict import nearest, wording
from shared.verdict.assessment import Assessment, assess, fixed_order
from shared.verdict.constraints import Relaxation
from shared.verdict.intervals import Interval
from shared.verdict.rounds import Compared, Rounds

DELTA = 0.05
"""Two candidates closer than this tie, or than twice the machine's noise floor where that is more."""

WORTH_A_SWITCH = 0.10
"""Whoever is to replace the active deployment takes at least this much less time for an image, or more where the
margin of a tie is wider: on a machine whose noise passes for a tie it must not pass for a reason to switch."""
SURE_OF_IT = 0.95
"""And with at least this probability."""

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

    `tied` are those whose estimate lies within the margin of the fastest and that lost on memory, size or order, or to
    the active deployment; `fragile` says that the intervals do not settle whether some candidate is within the margin.
    `nearest` and `relax` are set when nothing passes.
    """

    selected: Candidate | None = None
    tied: list[Candidate]
    fragile: bool
    reasons: list[str]
    rejected: list[Rejection]
    nearest: Candidate | None = None
    relax: list[Relaxation] | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """What the choice is for, and what it takes."""

    objective: Objective
    margin: float = DELTA
    """Two candidates whose ratio lies within 1 / (1 + margin) and 1 + margin are equally fast."""
    margin_told: str = ""
    """That, and why, for the reader."""
    incumbent: Candidate | None = None
    """What was activated before, as the candidate that stands for it (`compared_as`)."""
    fixed_batch: int | None = None
    """The only batch the model takes; None where it takes any."""

    @property
    def worth(self) -> float:
        """The share of its time that whoever replaces the active deployment must save."""
        return max(WORTH_A_SWITCH, 1 - 1 / (1 + self.margin))


def margin_of(noise: NoiseFloor | None) -> float:
    """Within which ratio two candidates tie on a machine with this noise floor, or with none measured."""
    return max(DELTA, 2 * noise.value) if noise else DELTA


def rules_of(measurements: MeasurementSet) -> Rules:
    """The rules of a measurement set; margin = max(5 %, 2 * noise floor)."""
    inputs, noise = measurements.model.inputs, measurements.noise_floor
    margin = margin_of(noise)
    batch = inputs[0].shape[0] if inputs and inputs[0].shape else None
    return Rules(
        objective=measurements.config.objective,
        margin=margin,
        margin_told=wording.margin_told(margin, noise, measurements.created_at),
        incumbent=_as_measured(measurements),
        fixed_batch=batch if isinstance(batch, int) else None,
    )


def compared_as(active: Candidate, objective: Objective, batches: Iterable[int]) -> Candidate:
    """The candidate that stands for an active deployment where these batches are measured.

    For latency that is the smallest: a deployment answers an image that waits alone in a call of one, however many it
    may take. Its throughput is that of its own batch.
    """
    smallest = min(batches, default=active.batch_size)
    batch = min(active.batch_size, smallest) if objective == "latency" else active.batch_size
    return msgspec.structs.replace(active, batch_size=batch)


def _as_measured(measurements: MeasurementSet) -> Candidate | None:
    if measurements.incumbent is None:
        return None
    batches = [series.candidate.batch_size for series in measurements.series if series.status == "measured"]
    return compared_as(measurements.incumbent, measurements.config.objective, batches)


def chosen(measurements: MeasurementSet) -> Candidate | None:
    """The candidate that a report on this measurement set will choose.

    Raises:
        errors.InvalidInput: The set contradicts itself.
    """
    assessments = assess(measurements)
    return decide(assessments, rules_of(measurements), Rounds(item.series for item in assessments)).selected


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
    margin: float

    @property
    def standing(self) -> Literal["tied", "unresolved", "slower"]:
        """Tied inside the margin, slower when clear of it, unresolved otherwise or without an interval."""
        if self.cost.low is None or self.cost.high is None:
            return "unresolved"
        most = 1 + self.margin
        if self.cost.low > most:
            return "slower"
        return "tied" if self.cost.low >= 1 / most and self.cost.high <= most else "unresolved"

    @property
    def close(self) -> bool:
        """Whether the estimate itself is within the margin: then speed is no reason against it."""
        return self.standing == "tied" or (self.standing == "unresolved" and self.cost.value <= 1 + self.margin)


def decide(assessments: Sequence[Assessment], rules: Rules, rounds: Rounds) -> Decision:
    """The decision over all candidates. Pure: equal measurements, rules and seed give an equal decision."""
    eligible = [item for item in assessments if item.eligible]
    why = {item.key: wording.ineligible(item) for item in assessments if not item.eligible}
    if not eligible:
        return _nothing_passes(assessments, METRIC_OF[rules.objective], why)
    contest = (
        by_latency(assessments, eligible, rules) if rules.objective == "latency" else by_throughput(eligible, rounds)
    )
    why |= contest.passed_over
    start = wording.passing(assessments, eligible)
    if not contest.contenders:
        return Decision(
            tied=[], fragile=False, reasons=[*start, *contest.terms], rejected=_rejections(assessments, why)
        )
    decision = _choose(assessments, contest, rules, rounds, why)
    return msgspec.structs.replace(decision, reasons=[*start, *contest.terms, *decision.reasons])


def by_latency(assessments: Sequence[Assessment], eligible: Sequence[Assessment], rules: Rules) -> Contest:
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
    return Contest("latency_p95_ms", contenders, why, wording.latency_terms(assessments, batch, rules.fixed_batch))


def by_throughput(eligible: Sequence[Assessment], rounds: Rounds) -> Contest:
    """Images per second, each engine configuration at the batch where it does most."""
    ways: dict[tuple[object, ...], list[Assessment]] = {}
    for item in eligible:
        way = (item.candidate.engine, item.candidate.precision, item.candidate.threads, item.candidate.instances)
        ways.setdefault(way, []).append(item)
    contenders, why = [], {}
    for batches in ways.values():
        best = _fastest("throughput_fps", batches, rounds)
        contenders.append(best)
        for item in batches:
            if item is not best:
                why[item.key] = wording.other_batch(item, best, cost_ratio("throughput_fps", item, best, rounds))
    return Contest("throughput_fps", contenders, why, wording.throughput_terms())


def _fastest(metric: Compared, items: Sequence[Assessment], rounds: Rounds) -> Assessment:
    """The one that is slower than no other, round against round; where each is slower than one, the least so.

    Figures over all launches would not do: of candidates that ran in different rounds, one may only have had the better
    ones.
    """
    return min(items, key=lambda item: max(cost_ratio(metric, item, other, rounds).value for other in items))


def _choose(
    assessments: Sequence[Assessment],
    contest: Contest,
    rules: Rules,
    rounds: Rounds,
    why: dict[str, str],
) -> Decision:
    fastest = _fastest(contest.metric, contest.contenders, rounds)
    compared = [
        Comparison(item, cost_ratio(contest.metric, item, fastest, rounds), rules.margin)
        for item in contest.contenders
        if item is not fastest
    ]
    pool = [fastest, *(comparison.other for comparison in compared if comparison.close)]
    for comparison in compared:
        if not comparison.close:
            why[comparison.other.key] = wording.compared(contest.metric, comparison.standing, comparison.cost, fastest)
    fragile = any(comparison.standing == "unresolved" for comparison in compared)
    reasons = wording.speed(contest.metric, fastest, [(c.other, c.standing, c.cost) for c in compared], rules.margin)
    if compared:
        reasons.append(rules.margin_told)
    settled = _settled(assessments, contest, rules, pool, rounds)
    selected = settled.selected
    if settled.equals:
        others = len(settled.equals) < len(pool)
        reasons += wording.tie_break(selected, settled.equals, len(contest.contenders), fragile, others=others)
    tied = [item for item in pool if item is not selected] if selected in pool else []
    if selected not in pool:
        costs = {item.key: cost_ratio(contest.metric, selected, item, rounds) for item in pool}
        why |= {item.key: wording.not_worth(contest.metric, item, costs[item.key], rules.worth) for item in pool}
    left = [item for item in assessments if item is not selected and item not in tied]
    return Decision(
        selected=selected.candidate,
        tied=sorted((item.candidate for item in tied), key=fixed_order),
        fragile=fragile,
        reasons=[*reasons, *settled.said],
        rejected=_rejections(left, why),
    )


class Settled(NamedTuple):
    """Who is chosen, out of which equals (none where the active deployment stays), and what to say about the latter."""

    selected: Assessment
    equals: Sequence[Assessment]
    said: list[str]


def _settled(
    assessments: Sequence[Assessment],
    contest: Contest,
    rules: Rules,
    pool: Sequence[Assessment],
    rounds: Rounds,
) -> Settled:
    """The choice out of the pool, unless none of it is clearly worth a switch from the active deployment.

    Worth it is P(time(one) <= (1 - 10 %) * time(active)) >= 95 %, time being the latency or the inverse of the
    throughput. One that was not measured, keeps not every constraint or is not compared is nothing to stay with.
    """
    best = _best_of(pool)
    if rules.incumbent is None:
        return Settled(best, pool, [])
    active = next((item for item in assessments if item.candidate == rules.incumbent), None)
    if active is best:
        return Settled(best, pool, [wording.same_as_before()])
    comparable = active in contest.contenders or (contest.metric == "throughput_fps" and active and active.eligible)
    if active is None or not comparable:
        reason = _why_not_compared(active, contest) if active else "it was not measured in this run"
        return Settled(best, pool, [wording.no_incumbent(rules.incumbent, reason)])
    switches = {item.key: switch(contest.metric, active, item, rules, rounds) for item in pool}
    worth_it = [item for item in pool if (switches[item.key].sure or 0.0) >= SURE_OF_IT]
    if worth_it:
        best = _best_of(worth_it)
        return Settled(best, worth_it, [wording.switched(contest.metric, active, switches[best.key])])
    return Settled(active, [], [wording.kept(contest.metric, active, best, switches[best.key])])


def _best_of(equals: Sequence[Assessment]) -> Assessment:
    return min(equals, key=lambda item: tie_break(item, equals))


def _why_not_compared(active: Assessment, contest: Contest) -> str:
    return contest.passed_over.get(active.key) or wording.ineligible(active)


def switch(metric: Compared, active: Assessment, best: Assessment, rules: Rules, rounds: Rounds) -> wording.Switch:
    """What `best` would gain over the active deployment, and how sure it is that this is as much as is asked for."""
    over, under = (active, best) if metric == "latency_p95_ms" else (best, active)
    sure = rounds.confidence(metric, over.key, under.key, 1 / (1 - rules.worth))
    return wording.Switch(cost_ratio(metric, active, best, rounds), sure, rules.worth)


def cost_ratio(metric: Compared, item: Assessment, fastest: Assessment, rounds: Rounds) -> Interval:
    """How many times as slow `item` is as `fastest`: latency over latency, or throughput under throughput."""
    over, under = (item, fastest) if metric == "latency_p95_ms" else (fastest, item)
    return rounds.ratio(metric, over.key, under.key)


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
