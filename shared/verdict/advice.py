"""What to do next: how to deploy the choice, and what would make it surer."""

from __future__ import annotations

from collections.abc import Sequence

from shared.specs import Accuracy, Candidate, EngineName, MeasurementSet
from shared.verdict.accuracy import accuracy
from shared.verdict.assessment import Assessment
from shared.verdict.decision import Decision
from shared.verdict.decoding import DecodingRecord
from shared.verdict.figures import QUANTITIES, engine_title, fed, listing, plural, some, title
from shared.verdict.intervals import samples_needed
from shared.verdict.metrics import FROM_DATASET, PERCENTILES

LEAST_MAP = 0.01
"""Of a detector; below, its boxes lie beside the objects."""

_PACKAGES: dict[EngineName, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt", "tensorrt-cu13"),
    "pytorch": ("torch",),
}


def recommendations(measurements: MeasurementSet, assessments: Sequence[Assessment], decision: Decision) -> list[str]:
    """What to do before relying on the choice, most important first."""
    found = []
    if measurements.conditions:
        found.append("Read the conditions of the run first; where they can be removed, measure again.")
    if decision.fragile:
        found.append(
            "The choice is fragile, another run may choose differently: measure longer to settle it "
            f"({_longer(measurements)})."
        )
    open_limits = [item for item in assessments if _undecided(item)]
    if open_limits:
        names = some([title(item.candidate) for item in open_limits])
        found.append(
            f"Measure longer to settle whether {names} {'keeps' if len(open_limits) == 1 else 'keep'} the limits "
            f"({_longer(measurements)})."
        )
    found += _too_few(assessments)
    if any(relaxation.value is not None for relaxation in decision.relax or ()):
        found.append("Decide whether a constraint may be relaxed as stated, or deploy on a faster machine.")
    found += _unsteady(assessments)
    if any(item.series.failures for item in assessments):
        found.append("Look into the failed launches before deploying; they are listed with their candidates.")
    compared = {engine_title(item.candidate) for item in assessments if item.measured}
    absent = {engine_title(item.candidate) for item in assessments if item.series.status == "unavailable"} - compared
    if measurements.system.gpu is None:
        absent.add("ONNX Runtime on CUDA (no NVIDIA GPU found)")
    if absent:
        found.append(f"Not compared: {listing(sorted(absent))}. A machine that runs them may change the choice.")
    found += _accuracy(measurements, assessments, decision)
    return found


def deployment_steps(
    measurements: MeasurementSet, selected: Candidate | None, report_id: str, decoding: DecodingRecord | None = None
) -> list[str]:
    """How to serve the selected candidate, with JPEGs decoded as was chosen; empty without one."""
    if selected is None:
        return []
    model = measurements.model
    steps = [
        _fetch(measurements, selected),
        f"Install {_pins(measurements, selected.engine)}, the version that was measured.",
        f"Load it with {engine_title(selected)}, {plural(selected.threads, 'thread')} per session and "
        f"{plural(selected.instances, 'session')}; send {plural(selected.batch_size, fed(model))} per call.",
    ]
    if model.preprocessing_hash:
        steps.append(
            f"Prepare images by the model's preprocessing contract {model.preprocessing_hash}; "
            f"GET /api/v1/models/{model.id} shows it{_reduced(decoding)}."
        )
    steps.append(
        "Measure once where it is deployed and compare with this report's intervals; "
        f"they hold for fingerprint {measurements.system.fingerprint}."
    )
    order = f'{{"report_id": "{report_id}"}}'
    steps.append(
        f"On this platform one call does all of that: PUT /api/v1/models/{model.id}/deployment with {order}, or `cvp "
        f"deploy {model.id} --report {report_id}`. It is tried first; predictions go on meanwhile."
    )
    return steps


def _reduced(decoding: DecodingRecord | None) -> str:
    if decoding is None or decoding.selected == decoding.own:
        return ""
    return f", but for JPEGs: decode those at 1/{decoding.selected} of their size (libjpeg's scaled decoding)"


def _fetch(measurements: MeasurementSet, selected: Candidate) -> str:
    model = measurements.model
    path = f"/api/v1/models/{model.id}/onnx"
    if selected.engine == "pytorch":
        return (
            "Take the weights that this model was uploaded with: those were measured, not its ONNX file. "
            f"GET /api/v1/models/{model.id} names their network (`architecture`)."
        )
    made = next((file for file in measurements.files if file.precision == selected.precision), None)
    if made is None:
        return f"Fetch the model that was measured: GET {path}. Its SHA-256 must be {model.sha256}."
    name = selected.precision.upper()
    return (
        f"Fetch the {name} file that was measured: GET {path}?precision={selected.precision}. Its SHA-256 must be "
        f"{made.sha256}; another one was made by a later benchmark."
    )


def _pins(measurements: MeasurementSet, engine: EngineName) -> str:
    versions = measurements.system.versions
    pins = [f"{package} {versions[package]}" for package in _PACKAGES[engine] if package in versions]
    return listing(pins) if pins else _PACKAGES[engine][0]


def _longer(measurements: MeasurementSet) -> str:
    config = measurements.config
    return f"num_iterations above {config.num_iterations:,}, max_seconds above {config.max_seconds:g}"


def _undecided(item: Assessment) -> bool:
    """Whether longer measuring might let a candidate in: it would not tell more of its accuracy."""
    missed = [judgement for judgement in item.constraints if judgement.verdict != "pass"]
    timed = all(judgement.metric not in FROM_DATASET and judgement.verdict == "inconclusive" for judgement in missed)
    return item.measured and bool(missed) and timed


def _accuracy(measurements: MeasurementSet, assessments: Sequence[Assessment], decision: Decision) -> list[str]:
    limited = [constraint.metric for constraint in measurements.config.constraints if constraint.metric in FROM_DATASET]
    if limited and measurements.dataset is None:
        return ["Order with dataset_id: a limit on accuracy is judged on a test split, and never passes without one."]
    if measurements.reference is not None and _guesses(measurements, measurements.reference):
        return [
            "The model itself is hardly ever right on the test split: check that its labels, its preprocessing and the "
            "dataset belong together before anything else."
        ]
    chosen = next((item for item in assessments if item.candidate == decision.selected), None)
    if chosen is not None and chosen.value("accuracy") is None:
        return ["Check accuracy on your own data before production: this benchmark measured speed, not accuracy."]
    unsure = [
        item
        for item in assessments
        for judgement in item.constraints
        if (judgement.metric, judgement.verdict) == ("accuracy_drop", "inconclusive")
    ]
    if not unsure or measurements.dataset is None:
        return []
    names = listing(list(dict.fromkeys(engine_title(item.candidate) for item in unsure)))
    loses = "loses" if " and " not in names else "lose"
    return [
        f"The test split of {measurements.dataset.name} is too small to tell what {names} {loses} in accuracy; "
        "the reasons against them say how many images would."
    ]


def _guesses(measurements: MeasurementSet, reference: Accuracy) -> bool:
    """Whether the reference does no better than somebody who does not look at the images."""
    if reference.metric == "map" or measurements.dataset is None:
        return reference.value < LEAST_MAP
    return (accuracy(reference).low or 0.0) <= 1 / len(measurements.dataset.classes)


def _too_few(assessments: Sequence[Assessment]) -> list[str]:
    missing = [
        (p, QUANTITIES[name].label)
        for name, p in PERCENTILES.items()
        if any(item.measured and item.value(name) is None for item in assessments)
    ]
    if not missing:
        return []
    needed = max(samples_needed(p) for p, _ in missing)
    names = listing([label for _, label in missing])
    return [f"Order at least {needed} iterations to see {names} of every candidate."]


def _unsteady(assessments: Sequence[Assessment]) -> list[str]:
    names = [title(item.candidate) for item in assessments if any(not block.steady for block in item.series.blocks)]
    if not names:
        return []
    return [f"Raise num_warmup: {some(names)} had not settled in every round."]
