"""Whether a candidate keeps a limit: pass, fail, inconclusive or not measured, and what limit it would keep."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Literal

import msgspec

from shared.specs import Constraint, MetricName
from shared.verdict.metrics import Metric

Verdict = Literal["pass", "fail", "inconclusive", "not_measured"]
Op = Literal["<=", "<", ">=", ">"]

AS_OBSERVED: frozenset[MetricName] = frozenset({"memory_mb", "vram_usage_mb", "artifact_mb"})
"""Judged by the observed value: a peak that was seen, a file whose size is known. All others need an interval."""

_HOLDS: dict[Op, Callable[[float, float], bool]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
}


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """A constraint with its verdict for one candidate."""

    metric: MetricName
    op: Op
    value: float
    verdict: Verdict


class Relaxation(msgspec.Struct, frozen=True, kw_only=True):
    """A constraint with the limit at which a candidate would pass; `value` is None when no limit would do."""

    metric: MetricName
    op: Op
    value: float | None
    instead_of: float


def judge(constraint: Constraint, metric: Metric | None) -> Verdict:
    """Pass when the whole interval keeps the limit, fail when none of it does, inconclusive when it straddles.

    A figure without an interval is inconclusive, unless it is one of `AS_OBSERVED` or exact; so is a percentile the
    sample was too small for. No figure at all is not measured.
    """
    if metric is None or not metric.n:
        return "not_measured"
    bounds = _bounds(constraint.metric, metric)
    if bounds is None:
        return "inconclusive"
    kept = [_HOLDS[constraint.op](bound, constraint.value) for bound in bounds]
    return "pass" if all(kept) else "inconclusive" if any(kept) else "fail"


def judge_all(constraints: tuple[Constraint, ...], metrics: dict[MetricName, Metric]) -> list[Judgement]:
    """Every constraint with its verdict, in the order they were given."""
    return [
        Judgement(metric=c.metric, op=c.op, value=c.value, verdict=judge(c, metrics.get(c.metric))) for c in constraints
    ]


def relaxed(judgement: Judgement, metric: Metric | None) -> Relaxation:
    """The nearest limit of three digits or so that the metric passes for certain; None where no interval exists."""
    bounds = _bounds(judgement.metric, metric) if metric else None
    limit = None
    if bounds is not None:
        worst = max(bounds) if judgement.op in ("<=", "<") else min(bounds)
        limit = _round_outward(worst, judgement.op)
    return Relaxation(metric=judgement.metric, op=judgement.op, value=limit, instead_of=judgement.value)


def distance(relaxation: Relaxation) -> float:
    """How far a limit moves, as a share of the larger of the two; infinite where no limit would do."""
    if relaxation.value is None:
        return math.inf
    scale = max(abs(relaxation.value), abs(relaxation.instead_of))
    return abs(relaxation.value - relaxation.instead_of) / scale if scale else 0.0


def _bounds(name: MetricName, metric: Metric) -> tuple[float, float] | None:
    if metric.value is not None and (name in AS_OBSERVED or metric.exact):
        return metric.value, metric.value
    return None if metric.low is None or metric.high is None else (metric.low, metric.high)


def _round_outward(worst: float, op: Op) -> float:
    """The first number of three significant digits that the bound keeps."""
    step = 10.0 ** (math.floor(math.log10(abs(worst))) - 2) if abs(worst) >= 1e-6 else 0.001
    steps = math.ceil(worst / step) if op in ("<=", "<") else math.floor(worst / step)
    while not _HOLDS[op](worst, limit := float(f"{steps * step:.12g}")):
        steps += 1 if op in ("<=", "<") else -1
    return limit
