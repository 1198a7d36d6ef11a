"""When nothing passes: the candidate that comes nearest, and the smallest relaxation that would make it pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from shared.specs import MetricName
from shared.verdict.assessment import Assessment, fixed_order
from shared.verdict.constraints import Relaxation, distance, relaxed
from shared.verdict.metrics import better


@dataclass(frozen=True, slots=True)
class Nearest:
    """The nearest candidate and the limits at which it passes."""

    assessment: Assessment
    relax: list[Relaxation]


def find(assessments: Sequence[Assessment], objective: MetricName) -> Nearest | None:
    """The measured candidate whose limits have to move least; None when nothing was measured.

    Least means: first the fewest constraints that no limit can satisfy (not measured, or no interval), then the
    smallest sum of relative moves, then the better objective, then the fixed order.
    """
    options = [Nearest(item, relaxations(item)) for item in assessments if item.measured]
    return min(options, key=lambda option: _cost(option, objective), default=None)


def relaxations(item: Assessment) -> list[Relaxation]:
    """For every constraint that is not a pass, the limit at which it would be one."""
    return [relaxed(found, item.metrics.get(found.metric)) for found in item.constraints if found.verdict != "pass"]


def _cost(option: Nearest, objective: MetricName) -> tuple[float, ...]:
    moves = [distance(relaxation) for relaxation in option.relax]
    value = option.assessment.value(objective)
    rank = math.inf if value is None else value if better(objective, 0, 1) else -value
    hopeless = sum(math.isinf(move) for move in moves)
    return (
        hopeless,
        sum(move for move in moves if math.isfinite(move)),
        rank,
        *fixed_order(option.assessment.candidate),
    )
