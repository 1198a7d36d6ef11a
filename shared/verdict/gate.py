"""Whether an engine may be measured in a precision: first it must compute what the reference computes."""

from __future__ import annotations

import msgspec

from shared.parity import TOLERANCE
from shared.specs import Accuracy, Constraint, GateResult, MeasurementSet, Parity, Precision
from shared.verdict.accuracy import Drop, drop, needed
from shared.verdict.constraints import judge
from shared.verdict.figures import estimate, limit, plural
from shared.verdict.metrics import drop_metric

REFERENCE = "ONNX Runtime on the CPU in FP32"
NO_ACCURACY = (
    "INT8 rounds every value, so only the accuracy on a test split says what it is worth, and there is none. "
    "Order with a dataset whose classes are the model's."
)


def accuracy_limit(measurements: MeasurementSet) -> Constraint | None:
    """The limit that an order with a dataset sets by `accuracy_drop`, unless it has a constraint of its own on that."""
    config = measurements.config
    own = any(constraint.metric == "accuracy_drop" for constraint in config.constraints)
    if measurements.dataset is None or own:
        return None
    return Constraint(metric="accuracy_drop", op="<=", value=config.accuracy_drop)


def judged(found: GateResult, reference: Accuracy | None, accuracy_drop: float) -> GateResult:
    """The result with its verdict and the problems that follow from its figures.

    Parity decides where it can: always in FP32, without accuracy in FP16, never in INT8. A clear excess over
    `accuracy_drop` fails; where the interval straddles it the verdict is inconclusive.
    """
    problems = [*found.problems, *_parity(found), *_accuracy(found, reference, accuracy_drop)]
    verdict = "fail" if problems else _open(found, reference, accuracy_drop)
    return msgspec.structs.replace(found, problems=problems, verdict=verdict)


def too_small(found: Drop, most: float) -> str:
    """Why a drop could not be judged, with the number of images that could."""
    start = f"the {plural(found.n, 'image')} of the test split cannot tell whether the drop keeps {most:g}"
    count = needed(found, most)
    return start if count is None else f"{start}; it takes about {max(count, found.n + 1):,}"


def _parity(found: GateResult) -> list[str]:
    most = TOLERANCE[found.precision]
    if most is None or (found.precision != "fp32" and found.accuracy is not None):
        return []
    beyond = [each for each in found.parity if each.max_rel_diff is not None and each.max_rel_diff > most]
    return [_apart(each, found.precision, most) for each in beyond]


def _apart(parity: Parity, precision: Precision, most: float) -> str:
    return (
        f"At batch {parity.batch} its outputs differ from those of {REFERENCE} by up to {parity.max_abs_diff:.3g}, "
        f"{parity.max_rel_diff:.2g} of the largest of their channel; {most:g} is allowed in {precision.upper()}."
    )


def _accuracy(found: GateResult, reference: Accuracy | None, most: float) -> list[str]:
    if found.accuracy is None or reference is None:
        return [NO_ACCURACY] if found.precision == "int8" and not found.problems else []
    metric = drop_metric(found, reference)
    constraint = Constraint(metric="accuracy_drop", op="<=", value=most)
    if judge(constraint, metric) != "fail" or metric.value is None:
        return []
    return [
        f"It is less accurate than {REFERENCE} by {estimate(metric.value, metric.low, metric.high)} on "
        f"{plural(found.accuracy.n, 'image')} of the test split ({found.accuracy.value:.4g} against "
        f"{reference.value:.4g}); wanted is {limit(constraint)}."
    ]


def _open(found: GateResult, reference: Accuracy | None, most: float) -> str:
    """The verdict of a result without a problem."""
    if found.finite is None:
        return "not_checked"
    if found.accuracy is None or reference is None:
        return "pass"
    kept = judge(Constraint(metric="accuracy_drop", op="<=", value=most), drop_metric(found, reference))
    return "pass" if kept == "pass" else "inconclusive"


def remark(found: GateResult, reference: Accuracy | None, most: float) -> str | None:
    """What an inconclusive result is short of."""
    if found.verdict != "inconclusive" or found.accuracy is None or reference is None:
        return None
    return too_small(drop(reference, found.accuracy), most)
