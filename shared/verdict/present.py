"""What the choice would change: its figures against those of what serves the model now."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shared.specs import Candidate, MetricName
from shared.verdict.accuracy import change
from shared.verdict.assessment import Assessment
from shared.verdict.figures import round_significant
from shared.verdict.intervals import Interval
from shared.verdict.rounds import Rounds

RATIOS: tuple[MetricName, ...] = ("latency_p95_ms", "throughput_fps", "memory_mb")


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A metric of what serves now, the same of the choice, and what lies between them with its 95 % bounds.

    `by` is the choice's figure over the present one; of accuracy it is the choice's less the present one.
    """

    metric: MetricName
    before: float
    after: float
    by: float
    low: float | None = None
    high: float | None = None


class Present(msgspec.Struct, frozen=True, kw_only=True):
    """What serves the model now, and what the choice would change; no changes where they are the same."""

    candidate: Candidate
    """As it was measured here."""
    activated: bool
    """Whether somebody activated it; else it is what serves every model until then, ONNX Runtime FP32."""
    changes: list[Change]


def present(
    assessments: Sequence[Assessment], selected: Candidate | None, incumbent: Candidate | None, rounds: Rounds
) -> Present | None:
    """The comparison; None where nothing was chosen, or what serves now was not measured."""
    after = next((item for item in assessments if item.candidate == selected), None)
    if after is None:
        return None
    before = _serving(assessments, after.candidate, incumbent)
    if before is None:
        return None
    changes = [] if before is after else [_ratio(metric, before, after, rounds) for metric in RATIOS]
    if before is not after:
        changes.append(_accuracy(before, after))
    return Present(
        candidate=before.candidate,
        activated=incumbent is not None,
        changes=[found for found in changes if found is not None],
    )


def _serving(assessments: Sequence[Assessment], selected: Candidate, incumbent: Candidate | None) -> Assessment | None:
    """What was activated; else the default at the choice's batch size, with as few threads as were measured."""
    measured = [item for item in assessments if item.measured]
    if incumbent is not None:
        return next((item for item in measured if item.candidate == incumbent), None)
    wanted = ("onnxruntime", "fp32", selected.batch_size)
    default = [
        item
        for item in measured
        if (item.candidate.engine, item.candidate.precision, item.candidate.batch_size) == wanted
    ]
    return min(default, key=lambda item: (item.candidate.instances, item.candidate.threads), default=None)


def _ratio(metric: MetricName, before: Assessment, after: Assessment, rounds: Rounds) -> Change | None:
    old, new = before.value(metric), after.value(metric)
    if not old or not new:
        return None
    if metric in ("latency_p95_ms", "throughput_fps"):
        return _change(metric, old, new, rounds.ratio(metric, after.key, before.key))
    return _change(metric, old, new, Interval(new / old, None, None))


def _accuracy(before: Assessment, after: Assessment) -> Change | None:
    if before.gate is None or after.gate is None or before.gate.accuracy is None or after.gate.accuracy is None:
        return None
    old, new = before.value("accuracy"), after.value("accuracy")
    if old is None or new is None:
        return None
    return _change("accuracy", old, new, change(before.gate.accuracy, after.gate.accuracy))


def _change(metric: MetricName, before: float, after: float, by: Interval) -> Change:
    value, low, high = (None if bound is None else round_significant(bound) for bound in by)
    assert value is not None  # the estimate of an interval is a number
    return Change(metric=metric, before=before, after=after, by=value, low=low, high=high)
