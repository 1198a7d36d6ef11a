"""The canonical report: one record computed from a measurement set, its bytes, and the check of its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, get_args

import msgspec
from msgspec import UNSET, UnsetType

from shared.specs import (
    BenchmarkSpec,
    Candidate,
    EngineName,
    GateResult,
    JpegScale,
    MeasuredDataset,
    MeasuredModel,
    MeasurementSet,
    MetricName,
    NoiseFloor,
    Precision,
    PreparedFile,
    SeriesStatus,
    SystemInfo,
    canonical_json,
)
from shared.verdict.advice import deployment_steps, recommendations
from shared.verdict.assessment import Assessment, assess, fixed_order
from shared.verdict.constraints import Judgement
from shared.verdict.decision import Decision, decide, rules_of
from shared.verdict.decoding import DecodingRecord, decoding_record
from shared.verdict.distribution import Distribution, distribution
from shared.verdict.figures import round_significant
from shared.verdict.intervals import Interval
from shared.verdict.metrics import Metric, accuracy_metric, remarks, usable
from shared.verdict.present import Present, present
from shared.verdict.rounds import Rounds
from shared.verdict.service import ServiceRecord, service_record

Schema = Literal["cvp.report/1", "cvp.report/2"]
SCHEMA: Schema = "cvp.report/2"
DELTA_METRICS: tuple[MetricName, ...] = ("latency_p95_ms", "throughput_fps", "memory_mb")


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """The measurement set a report was computed from."""

    id: str
    schema: str
    sha256: str
    """Over its canonical JSON with the series in fixed order: one other sample, another hash."""


class FileRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A file in another precision, made of the model; the fields mean what they mean in `specs.PreparedFile`."""

    sha256: str
    size_bytes: int
    recipe: dict[str, str | int | float | bool]
    """Without the places of the images it has seen: the measurement set names them."""
    notes: list[str]


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, as ordered, on what, when, and what disturbed it."""

    model: MeasuredModel
    config: BenchmarkSpec
    system: SystemInfo
    fingerprint: str
    created_at: str
    conditions: list[str]
    dirty: bool = False
    noise_floor: NoiseFloor | None = None
    incumbent: Candidate | None = None
    measurements: Source
    dataset: MeasuredDataset | None = None
    reference: Metric | None = None
    """Accuracy of ONNX Runtime on the CPU in FP32, which all others are compared with."""
    files: dict[Precision, FileRecord] = {}
    """Beside the model's own."""


class ParityRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How far an engine in one precision is from ONNX Runtime on the CPU in FP32."""

    max_abs: float
    max_rel: float | None
    """Against the largest value of the channel, at least 1."""
    flips: int | None
    """Images of the test split that are answered otherwise."""


class CandidateRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One candidate with all its figures and verdicts."""

    engine: EngineName
    precision: Precision
    batch_size: int
    threads: int
    instances: int
    status: SeriesStatus
    reason: str | None = None
    provider: str | None
    device: str | None
    metrics: dict[MetricName, Metric]
    latency: Distribution | None = None
    """Every timed call, in bins."""
    parity: ParityRecord | None = None
    constraints: list[Judgement]
    notes: list[str]
    """What qualifies the figures: failed launches, blocks that had not settled, a part of the test split."""


class Delta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A metric of one candidate over that of another (keys): `ratio` is `to` over `from`.

    Of P95 and throughput it is the median of the rounds' ratios (`rounds.Rounds.ratio`), not of the figures over all
    calls.
    """

    metric: MetricName
    from_: str = msgspec.field(name="from")
    to: str
    ratio: float
    low: float | None = None
    high: float | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a reader, a page or another program needs; all views are derived from it."""

    schema: Schema = SCHEMA
    id: str
    metadata: Metadata
    candidates: list[CandidateRecord]
    deltas: list[Delta]
    decision: Decision
    present: Present | None = None
    """What serves the model now, and what the choice would change; None without a choice, or where it was not
    measured."""
    recommendations: list[str]
    deployment_steps: list[str]
    service: ServiceRecord | None = None
    """The platform's own HTTP service under load, where that was ordered; no part of the decision."""
    decoding: DecodingRecord | UnsetType = UNSET
    """At which part of their size JPEGs are decoded for the choice, where scales were to be tried."""
    content_sha256: str = ""

    @property
    def scale(self) -> JpegScale | None:
        """The part 1/n of its size at which a JPEG is decoded for the choice; None where none was to be tried."""
        return None if isinstance(self.decoding, UnsetType) else self.decoding.selected


def build(measurements: MeasurementSet, report_id: str) -> Report:
    """The report. Pure: the same measurements and id give the same bytes, in whatever order the series are stored.

    Raises:
        InvalidInput: The measurement set contradicts itself.
    """
    assessments = assess(measurements)
    rules = rules_of(measurements)
    rounds = Rounds(item.series for item in assessments)
    decision = decide(assessments, rules, rounds)
    decoding = _decoding(measurements, assessments, decision)
    report = Report(
        id=report_id,
        metadata=_metadata(measurements),
        candidates=[_candidate(item) for item in assessments],
        deltas=_deltas(assessments, decision, rounds),
        decision=decision,
        present=present(assessments, decision.selected, rules.incumbent, rounds),
        recommendations=recommendations(measurements, assessments, decision),
        deployment_steps=deployment_steps(measurements, decision.selected, report_id, decoding),
        service=service_record(measurements.service) if measurements.service else None,
        decoding=decoding or UNSET,
    )
    return msgspec.structs.replace(report, content_sha256=_content_sha256(msgspec.to_builtins(report)))


def _decoding(
    measurements: MeasurementSet, assessments: Sequence[Assessment], decision: Decision
) -> DecodingRecord | None:
    if isinstance(measurements.decoding, UnsetType):
        return None
    selected = next((item for item in assessments if item.candidate == decision.selected), None)
    return decoding_record(measurements.decoding, selected)


def canonical(report: Report) -> bytes:
    """The report's one form as bytes: JSON, keys sorted, no spaces."""
    return canonical_json(report)


def parse(data: bytes) -> Report:
    """The report from its bytes.

    Raises:
        msgspec.ValidationError: The bytes are no report of this schema.
    """
    return msgspec.json.decode(data, type=Report)


def verify(data: bytes) -> bool:
    """Whether the bytes are a canonical report whose content is what its `content_sha256` was computed over."""
    try:
        record = msgspec.json.decode(data)
        if not isinstance(record, dict) or record.get("schema") not in get_args(Schema):
            return False
        # Byte for byte, so that no repeated key or number in another spelling reads differently elsewhere.
        return canonical_json(record) == data and record.get("content_sha256") == _content_sha256(record)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return False


def measurements_sha256(measurements: MeasurementSet) -> str:
    """The hash that a report names its source by: the same in whatever order series and gates are stored."""
    ordered = sorted(measurements.series, key=lambda item: fixed_order(item.candidate))
    gates = sorted(measurements.gates, key=lambda gate: (gate.engine, gate.precision))
    stable = msgspec.structs.replace(measurements, series=ordered, gates=gates)
    return hashlib.sha256(canonical_json(stable)).hexdigest()


def _content_sha256(record: dict[str, object]) -> str:
    content = {name: value for name, value in record.items() if name != "content_sha256"}
    return hashlib.sha256(canonical_json(content)).hexdigest()


def _metadata(measurements: MeasurementSet) -> Metadata:
    return Metadata(
        model=measurements.model,
        config=measurements.config,
        system=measurements.system,
        fingerprint=measurements.system.fingerprint,
        created_at=measurements.created_at,
        conditions=measurements.conditions,
        dirty=measurements.dirty,
        noise_floor=measurements.noise_floor,
        incumbent=measurements.incumbent,
        measurements=Source(
            id=measurements.id,
            schema=measurements.schema,
            sha256=measurements_sha256(measurements),
        ),
        dataset=measurements.dataset,
        reference=accuracy_metric(measurements.reference) if measurements.reference else None,
        files={file.precision: _file(file) for file in measurements.files},
    )


def _file(file: PreparedFile) -> FileRecord:
    recipe = {name: value for name, value in file.recipe.items() if name != "seen"}
    return FileRecord(sha256=file.sha256, size_bytes=file.size_bytes, recipe=recipe, notes=file.notes)


def _candidate(item: Assessment) -> CandidateRecord:
    candidate, series = item.candidate, item.series
    return CandidateRecord(
        engine=candidate.engine,
        precision=candidate.precision,
        batch_size=candidate.batch_size,
        threads=candidate.threads,
        instances=candidate.instances,
        status=series.status,
        reason=series.reason,
        provider=series.provider,
        device=series.device,
        metrics=item.metrics,
        latency=distribution(usable(series)) if item.measured else None,
        parity=_parity(item.gate),
        constraints=item.constraints,
        notes=[*(item.gate.notes if item.gate else ()), *remarks(series)],
    )


def _parity(gate: GateResult | None) -> ParityRecord | None:
    if gate is None or not gate.parity:
        return None
    relative = [each.max_rel_diff for each in gate.parity if each.max_rel_diff is not None]
    return ParityRecord(
        max_abs=round_significant(max(each.max_abs_diff for each in gate.parity)),
        max_rel=round_significant(max(relative)) if relative else None,
        flips=gate.flips,
    )


def _deltas(assessments: Sequence[Assessment], decision: Decision, rounds: Rounds) -> list[Delta]:
    """Every other measured candidate against the chosen one, or the nearest one when nothing was chosen."""
    reference = decision.selected or decision.nearest
    base = next((item for item in assessments if item.candidate == reference), None)
    if base is None:
        return []
    others = [item for item in assessments if item.measured and item is not base]
    deltas = [_delta(metric, base, other, rounds) for other in others for metric in DELTA_METRICS]
    return [delta for delta in deltas if delta is not None]


def _delta(metric: MetricName, base: Assessment, other: Assessment, rounds: Rounds) -> Delta | None:
    above, below = other.value(metric), base.value(metric)
    if not above or not below:
        return None
    by = Interval(above / below, None, None)
    if metric in ("latency_p95_ms", "throughput_fps"):
        by = rounds.ratio(metric, other.key, base.key)
    ratio, low, high = (None if bound is None else round_significant(bound) for bound in by)
    assert ratio is not None  # the estimate of an interval is a number
    return Delta(metric=metric, from_=base.key, to=other.key, ratio=ratio, low=low, high=high)
