"""Two reports side by side: what was ordered and measured otherwise, which figures really differ, what was decided."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from shared.specs import Candidate, JpegScale, MetricName
from shared.verdict.decision import MEMORY_STEP
from shared.verdict.figures import round_significant
from shared.verdict.intervals import Interval
from shared.verdict.metrics import Metric
from shared.verdict.report import CandidateRecord, Report

Standing = Literal["changed", "alike", "unclear"]

MARGIN = 0.05
"""Figures this close are alike, as in a decision; twice the noise floor of a machine widens it."""

RATIOS: tuple[MetricName, ...] = (
    "latency_p50_ms", "latency_p95_ms", "latency_p99_ms", "throughput_fps", "load_ms",
)  # fmt: skip
OBSERVED: tuple[MetricName, ...] = ("memory_mb", "artifact_mb")
SHARES: tuple[MetricName, ...] = ("accuracy", "accuracy_drop")
UNTOLD = ("created_at", "measurements", "conditions", "noise_floor", "dirty", "reference")
"""Parts of the metadata that differ between any two runs, or are compared on their own."""


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """Something about the runs that differs, by its name in the record (`system.versions.onnxruntime`)."""

    what: str
    before: Any
    after: Any


class Shift(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A figure of one candidate in both reports. `by` is the ratio, of accuracy the difference, with 95 % bounds.

    `changed`: the whole interval lies outside the margin (of accuracy: apart from 0); `alike`: all of it inside (of
    accuracy: the interval holds 0); `unclear`: the figures do not settle it.
    """

    metric: MetricName
    before: float
    after: float
    by: float
    low: float | None = None
    high: float | None = None
    standing: Standing


class Shifts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One candidate in both reports: `measured` of the one and `rejected` of the other, or its figures."""

    candidate: str
    before: str
    after: str
    reason: str | None = None
    """Why it was not measured the second time."""
    shifts: list[Shift] = []


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """From one report to another, in the order given."""

    before: str
    after: str
    before_at: str
    after_at: str
    comparable: bool
    """Whether both measured the same model on a machine with the same fingerprint."""
    margin: float
    conditions: list[Condition]
    disturbances: list[str]
    """What qualifies either run."""
    candidates: list[Shifts]
    selected_before: str | None
    selected_after: str | None
    scale_before: JpegScale | None
    scale_after: JpegScale | None
    """Of decoding JPEGs; None where none was to be tried."""
    fragile: bool
    """Whether either choice was."""


def compare(before: Report, after: Report) -> Comparison:
    """The comparison. Pure; of the same pair always the same."""
    first, second = before.metadata, after.metadata
    floors = [noise.value for noise in (first.noise_floor, second.noise_floor) if noise is not None]
    margin = max([MARGIN, *(2 * floor for floor in floors)])
    told = [("first", text) for text in first.conditions] + [("second", text) for text in second.conditions]
    return Comparison(
        before=before.id,
        after=after.id,
        before_at=first.created_at,
        after_at=second.created_at,
        comparable=first.model.sha256 == second.model.sha256 and first.fingerprint == second.fingerprint,
        margin=margin,
        conditions=list(_conditions("", _told(first), _told(second))),
        disturbances=[f"In the {which}: {text}" for which, text in told],
        candidates=_candidates(before, after, margin),
        selected_before=_key(before.decision.selected),
        selected_after=_key(after.decision.selected),
        scale_before=before.scale,
        scale_after=after.scale,
        fragile=before.decision.fragile or after.decision.fragile,
    )


def _told(metadata: object) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(metadata)
    return {name: value for name, value in found.items() if name not in UNTOLD}


def _conditions(path: str, before: object, after: object) -> Iterator[Condition]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted({*before, *after}):
            yield from _conditions(f"{path}.{name}".lstrip("."), before.get(name), after.get(name))
    elif before != after:
        yield Condition(what=path, before=before, after=after)


def _candidates(before: Report, after: Report, margin: float) -> list[Shifts]:
    old, new = ({_key_of(record): record for record in report.candidates} for report in (before, after))
    return [_shifts(key, old.get(key), new.get(key), margin) for key in dict.fromkeys([*new, *old])]


def _shifts(key: str, old: CandidateRecord | None, new: CandidateRecord | None, margin: float) -> Shifts:
    shifts = [_shift(metric, old, new, margin) for metric in (*RATIOS, *OBSERVED, *SHARES)] if old and new else []
    return Shifts(
        candidate=key,
        before=old.status if old else "absent",
        after=new.status if new else "absent",
        reason=new.reason if new else None,
        shifts=[found for found in shifts if found is not None],
    )


def _shift(metric: MetricName, old: CandidateRecord, new: CandidateRecord, margin: float) -> Shift | None:
    first, second = old.metrics.get(metric), new.metrics.get(metric)
    if first is None or second is None or first.value is None or second.value is None:
        return None
    if metric in SHARES:
        by = apart(_interval(first), _interval(second))
        standing = _of_shares(by, exactly=first.value == second.value)
    elif not first.value or not second.value:
        return None
    elif metric in OBSERVED:
        by = Interval(second.value / first.value, None, None)
        standing = "changed" if max(by.value, 1 / by.value) > MEMORY_STEP else "alike"
    else:
        by = ratio(_interval(first), _interval(second))
        standing = _of_ratio(by, margin)
    value, low, high = (None if bound is None else round_significant(bound) for bound in by)
    assert value is not None  # the estimate of an interval is a number
    return Shift(metric=metric, before=first.value, after=second.value, by=value, low=low, high=high, standing=standing)


def apart(before: Interval, after: Interval) -> Interval:
    """`after` less `before`, two independent estimates with 95 % bounds each.

    d - √((a - l_a)² + (u_b - b)²) to d + √((u_a - a)² + (b - l_b)²) (method of variance estimates recovery: Zou and
    Donner, Construction of confidence limits about effect measures, Statistics in Medicine 27(10), 2008).
    """
    value = after.value - before.value
    if before.low is None or before.high is None or after.low is None or after.high is None:
        return Interval(value, None, None)
    down = math.hypot(after.value - after.low, before.high - before.value)
    up = math.hypot(after.high - after.value, before.value - before.low)
    return Interval(value, value - down, value + up)


def ratio(before: Interval, after: Interval) -> Interval:
    """`after` over `before`: the same of their logarithms; all are above zero."""
    value, low, high = apart(_logarithms(before), _logarithms(after))
    return Interval(math.exp(value), *(None if bound is None else math.exp(bound) for bound in (low, high)))


def _logarithms(found: Interval) -> Interval:
    bounds = (None if bound is None or bound <= 0 else math.log(bound) for bound in (found.low, found.high))
    return Interval(math.log(found.value), *bounds)


def _of_ratio(by: Interval, margin: float) -> Standing:
    if by.low is None or by.high is None:
        return "unclear"
    if by.low > 1 + margin or by.high < 1 / (1 + margin):
        return "changed"
    return "alike" if by.low >= 1 / (1 + margin) and by.high <= 1 + margin else "unclear"


def _of_shares(by: Interval, *, exactly: bool) -> Standing:
    if exactly:
        return "alike"
    if by.low is None or by.high is None:
        return "unclear"
    return "alike" if by.low <= 0 <= by.high else "changed"


def _interval(found: Metric) -> Interval:
    assert found.value is not None  # asked for figures only
    return Interval(found.value, found.low, found.high)


def _key(candidate: Candidate | None) -> str | None:
    return None if candidate is None else candidate.key


def _key_of(record: CandidateRecord) -> str:
    return Candidate(**{name: getattr(record, name) for name in Candidate.__struct_fields__}).key
