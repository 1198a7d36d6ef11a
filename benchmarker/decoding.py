"""Tries at which part of their size JPEGs can be decoded: first what that saves, then what it costs in accuracy."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from benchmarker import JpegsOrder, JpegsTimed, MeasureOrder, gate
from benchmarker.conditions import disturbances, read
from benchmarker.files import Files
from shared import child, errors
from shared.specs import DecodedAt, JpegScale, MeasuredDecoding, MeasurementSet
from shared.verdict.decision import chosen
from shared.verdict.decoding import is_faster
from shared.verdict.figures import plural

ROUNDS = 12
"""As many as candidates have: the interval of the median leaves out two at either end."""
WITHIN_S = 600.0
MEMORY_MB = 8192
"""Address space: the files, and one image of the largest size there may be."""

NOTHING_CHOSEN = "Nothing was chosen, so there are no answers that a scale could be judged by."

Time = Callable[[JpegsOrder], JpegsTimed]


def scales(order: MeasureOrder) -> list[JpegScale]:
    """Those to try beyond the contract's own, ascending: at less than that nothing is saved, and at 1 nothing lost."""
    contract = order.description.preprocessing
    if contract is None or order.dataset is None:
        return []
    return sorted(scale for scale in set(order.config.scales) if scale > contract.reduction)


def take_time(order: JpegsOrder) -> JpegsTimed:
    """Time them in a process of their own.

    Raises:
        errors.AppError: The dataset cannot be read.
        child.ChildDied: It crashed or was killed.
    """
    limits = child.Limits(wall_s=WITHIN_S, memory_mb=MEMORY_MB)
    return child.run("benchmarker.jpegs", order, JpegsTimed, limits=limits)


def tried(
    order: MeasureOrder,
    measured: MeasurementSet,
    files: Files,
    report: child.Report,
    *,
    time: Time = take_time,
    examine: gate.Examine = gate.examine,
) -> MeasuredDecoding:
    """Time every scale, and have the chosen candidate answer the test split at those that are sure to save time.

    Whatever goes wrong is the result: the measurement of the candidates stands.

    Args:
        order: The benchmark, which has `scales` to try.
        measured: What came of its candidates.
        files: What engines run.
        report: Told what goes on: `checking` and `fraction`.
        time: Takes the time; replaced by tests.
        examine: Examines one engine in one precision; replaced by tests.
    """
    contract = order.description.preprocessing
    assert contract is not None and order.dataset is not None  # `scales` finds none otherwise
    selected, own = chosen(measured), contract.reduction
    nothing = MeasuredDecoding(own=own, serves=order.jpeg_scale or own)
    if selected is None:
        return msgspec.structs.replace(nothing, reason=NOTHING_CHOSEN)
    nothing = msgspec.structs.replace(nothing, candidate=selected)
    every = [own, *scales(order)]
    asked = JpegsOrder(dataset=order.dataset, contract=contract, scales=every, rounds=ROUNDS, seed=order.config.seed)
    report({"checking": "decoding of JPEGs"})
    before = read(broker=order.broker)
    try:
        taken = time(asked)
    except (errors.AppError, child.ChildDied) as failure:
        return msgspec.structs.replace(nothing, reason=f"The time could not be taken: {failure}")
    found = _found(nothing, every, taken, disturbances(before, read(broker=order.broker)))
    worth = [each.scale for each in found.scales[1:] if is_faster(found.scales[0], each)]
    if not worth:
        return found
    seen = files.seen("int8") if selected.precision == "int8" else None
    results = gate.at_scales(order, selected, worth, files.path, report, examine=examine, calibration=seen)
    judged = dict(zip(worth, results, strict=True))
    answered = [msgspec.structs.replace(each, gate=judged.get(each.scale)) for each in found.scales]
    return msgspec.structs.replace(found, scales=answered)


def _found(
    nothing: MeasuredDecoding, every: list[JpegScale], taken: JpegsTimed, conditions: list[str]
) -> MeasuredDecoding:
    none = f"None of the {plural(taken.looked_at, 'image')} of the test split that were looked at is a JPEG."
    return msgspec.structs.replace(
        nothing,
        reason=None if taken.images else none,
        looked_at=taken.looked_at,
        images=taken.images,
        width=taken.width,
        height=taken.height,
        scales=[DecodedAt(scale=at, round_ns=ns) for at, ns in zip(every, taken.round_ns, strict=bool(taken.images))],
        conditions=conditions,
    )
