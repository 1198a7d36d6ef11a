"""At which part of their size JPEGs are decoded: the fastest that is sure to save time and to keep the accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np

from shared.specs import Constraint, DecodedAt, JpegScale, MeasuredDecoding
from shared.verdict import wording
from shared.verdict.assessment import Assessment
from shared.verdict.constraints import Judgement, judge_all
from shared.verdict.figures import round_significant
from shared.verdict.intervals import Interval, NotEnoughSamples, percentile
from shared.verdict.metrics import FROM_DATASET, Metric, from_dataset

CHANGED_CHOICE = "The scales were tried with another candidate than this report chooses."
NOT_FASTER = "it is not sure to save time"
SLOWER = "it is slower than the chosen one"
NO_FASTER = "it is not sure to be faster than the chosen one, which decodes more of the image"


class ScaleRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One scale: what an image takes, what that saves against the contract's own, and what it costs in accuracy."""

    scale: JpegScale
    ms: Metric
    """To decode and prepare one image: the median round, `n` of them."""
    saved_ms: Metric | None = None
    """The contract's own less this one, round against round; None of the contract's own."""
    accuracy: Metric | None = None
    accuracy_drop: Metric | None = None
    """Of the choice with JPEGs decoded so; against ONNX Runtime on the CPU in FP32 with JPEGs as the contract says."""
    constraints: list[Judgement] = []
    """Those on accuracy."""
    flips: int | None = None
    """Images of the test split that are answered otherwise than by the reference."""
    why_not: str | None = None
    """Why it was not chosen; None of the chosen one."""


class DecodingRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """At which scale JPEGs are to be decoded, and why."""

    own: JpegScale
    """The contract's, which stays where no other is sure to be better."""
    serves: JpegScale
    """What served the model when it was measured."""
    selected: JpegScale
    reason: str | None = None
    """Why no other could be judged."""
    looked_at: int = 0
    images: int = 0
    width: int = 0
    height: int = 0
    scales: list[ScaleRecord] = []
    conditions: list[str] = []


def is_faster(own: DecodedAt, other: DecodedAt) -> bool:
    """Whether a scale is sure to save time: the whole interval of what it saves is above zero."""
    low = _median(np.subtract(own.round_ns, other.round_ns)).low
    return low is not None and low > 0


def decoding_record(found: MeasuredDecoding, selected: Assessment | None) -> DecodingRecord:
    """What the scales that were tried amount to, with the candidate that is chosen. Pure, as the whole report.

    Of those that keep every limit on accuracy for certain and save time for certain the fastest is chosen, and of
    those that are not surely slower than it the one that decodes most of the image.
    """
    about = DecodingRecord(
        own=found.own,
        serves=found.serves,
        selected=found.own,
        reason=found.reason,
        looked_at=found.looked_at,
        images=found.images,
        width=found.width,
        height=found.height,
        conditions=found.conditions,
    )
    if found.reason is not None or not found.scales:
        return about
    if selected is None or found.candidate != selected.candidate:
        return msgspec.structs.replace(about, reason=CHANGED_CHOICE)
    own, *others = found.scales
    judged = {each.scale: _judged(each, own, found.images, selected) for each in others}
    best = _best([each for each in others if judged[each.scale].why_not is None])
    if best is None:
        return msgspec.structs.replace(about, scales=[_own(own, found.images), *judged.values()])
    records = [_passed_over(record, best.scale) for record in (_own(own, found.images), *judged.values())]
    return msgspec.structs.replace(about, selected=best.scale, scales=records)


def _passed_over(record: ScaleRecord, chosen: JpegScale) -> ScaleRecord:
    """With why it is not the chosen one, where nothing else speaks against it."""
    if record.scale == chosen or record.why_not is not None:
        return record
    return msgspec.structs.replace(record, why_not=SLOWER if record.scale < chosen else NO_FASTER)


def _best(fit: Sequence[DecodedAt]) -> DecodedAt | None:
    """The first, and so the largest image, that is not surely slower than the fastest."""
    if not fit:
        return None
    fastest = min(fit, key=lambda each: float(np.median(each.round_ns)))
    return next(each for each in fit if not is_faster(each, fastest))


def _own(own: DecodedAt, images: int) -> ScaleRecord:
    return ScaleRecord(scale=own.scale, ms=_per_image(own.round_ns, images))


def _judged(each: DecodedAt, own: DecodedAt, images: int, selected: Assessment) -> ScaleRecord:
    """A scale by itself: whether it may be chosen."""
    saved = _per_image(np.subtract(own.round_ns, each.round_ns), images)
    record = ScaleRecord(scale=each.scale, ms=_per_image(each.round_ns, images), saved_ms=saved)
    if not is_faster(own, each):
        return msgspec.structs.replace(record, why_not=NOT_FASTER)
    limits = tuple(
        Constraint(metric=limit.metric, op=limit.op, value=limit.value)
        for limit in selected.constraints
        if limit.metric in FROM_DATASET
    )
    metrics = from_dataset(each.gate, selected.reference)
    decoded = replace(selected, metrics=metrics, constraints=judge_all(limits, metrics), gate=each.gate)
    problems = " ".join(each.gate.problems) if each.gate else ""
    return msgspec.structs.replace(
        record,
        accuracy=metrics["accuracy"],
        accuracy_drop=metrics["accuracy_drop"],
        flips=each.gate.flips if each.gate else None,
        constraints=decoded.constraints,
        why_not=problems or wording.ineligible(decoded) or None,
    )


def _per_image(round_ns: Sequence[int] | np.ndarray, images: int) -> Metric:
    """Milliseconds of one image in the median round."""
    value, low, high = (None if ns is None else round_significant(ns / images / 1e6) for ns in _median(round_ns))
    return Metric(value=value, low=low, high=high, n=len(round_ns))


def _median(values: Sequence[int] | np.ndarray) -> Interval:
    """With its bounds, where there are enough values for any."""
    try:
        return percentile(values, 0.5)
    except NotEnoughSamples:
        return Interval(float(np.median(values)), None, None)
