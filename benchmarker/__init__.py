"""The measuring side: the speed of every way to serve a model on this machine.

What the benchmarker, its child and the processes of the candidates say to each other lives here, so that a parent
imports nothing heavy.
"""

from __future__ import annotations

from typing import Any

import msgspec

from shared.specs import (
    Accuracy,
    BenchmarkSpec,
    Block,
    BodySource,
    Candidate,
    EngineName,
    JpegScale,
    MeasuredModel,
    ModelDescription,
    NoiseFloor,
    Parity,
    Precision,
    PreparedFile,
    Preprocessing,
    ServiceLoad,
    Stored,
    Task,
    TensorInfo,
)

ROUNDS = 12
"""Launches of each candidate. What a launch happens to get (memory layout, clock, neighbours) shifts all its calls, so
the spread between launches decides how sure a comparison is. Of 12 ratios the interval of the median leaves out two at
either end: as many launches may be held up without a verdict becoming unsure."""


Recipe = dict[str, str | int | float | bool]


class DatasetFiles(msgspec.Struct, frozen=True, kw_only=True):
    """A ready dataset: where its files lie, and which output of the model each of its classes is."""

    id: str
    name: str
    index: str
    index_sha256: str
    pack: str
    archive: str
    """The ZIP with the originals."""
    num_test: int
    classes: list[str]
    class_ids: list[int]
    """Of each class, in the dataset's order: the model's id for it."""


class PrecisionOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A model's file in another precision to make. The answer is a `Made`."""

    precision: Precision
    artifact: str
    """Path of the FP32 file."""
    task_type: Task
    description: ModelDescription
    dataset: DatasetFiles | None
    scratch: str
    """Path of an empty folder that its parent removes."""
    output: int
    """Descriptor that gets the file, with contract and labels in its metadata."""
    keep_sensitive: bool = False
    """FP16, second try: what overflows first stays FP32."""


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """How a file in another precision came about; the fields mean what they mean in `specs.PreparedFile`."""

    recipe: Recipe
    notes: list[str]


class ServiceAccess(msgspec.Struct, frozen=True, kw_only=True):
    """How the load generator reaches the service: over loopback, with a credential for predictions alone."""

    host: str
    port: int
    certificate: str | None
    """Path of the one that is expected, where HTTPS is served."""
    key: str
    """Ends with the job. It travels in orders, through pipes: never as an argument, in the environment or in a log."""

    def __repr__(self) -> str:
        return f"ServiceAccess(host={self.host!r}, port={self.port})"


class BodiesOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What the service is to be sent. The answer is a `Bodies`."""

    dataset: DatasetFiles | None
    description: ModelDescription
    inputs: list[TensorInfo]
    seed: int
    output: int
    """Descriptor that gets them."""


class Bodies(msgspec.Struct, frozen=True, kw_only=True):
    """What was made; the fields mean what they mean in `specs.MeasuredService`."""

    source: BodySource
    count: int
    middle_bytes: int


class DriveOrder(msgspec.Struct, frozen=True, kw_only=True):
    """The service to drive. The answer is a `specs.MeasuredService`."""

    load: ServiceLoad
    access: ServiceAccess
    model_id: str
    seed: int
    bodies: int
    """Descriptor to read them from."""


class MeasureOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A benchmark, for the job's child. The answer is a `Measured`."""

    id: str
    artifact: str
    """Path of the model's ONNX file."""
    weights: str | None = None
    """Path of its weights, where it was made of a network of PyTorch."""
    store: str
    """Folder of the artifact store that gets the measurement set."""
    models: str
    """Folder of the one that has the models, and gets golden samples."""
    model: MeasuredModel
    description: ModelDescription
    config: BenchmarkSpec
    dataset: DatasetFiles | None = None
    known: list[PreparedFile] = []
    """What earlier benchmarks of the model have made."""
    outputs: dict[Precision, int] = {}
    """Descriptors of the files that may be made, and `staged` where these lie."""
    staged: dict[Precision, str] = {}
    incumbent: Candidate | None = None
    """What was activated for the model."""
    jpeg_scale: JpegScale | None = None
    """At which JPEGs are decoded for it now; None: as its contract says."""
    noise_floor: NoiseFloor | None = None
    """As remembered for this machine."""
    broker: str | None = None
    """Endpoint of the broker, which counts the predictions that disturb the run."""
    service: ServiceAccess | None = None
    """Where the order has `service_load`."""
    rounds: int = ROUNDS
    """Launches of each candidate, at most; iterations and seconds are divided among them."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A finished benchmark: its measurement set, stored, and one row of figures a candidate for the history."""

    measurements: Stored
    rows: list[dict[str, Any]]
    files: list[PreparedFile] = []
    """Beside FP32."""
    golden: list[Stored] = []
    """In the store of the models."""
    noise_floor: NoiseFloor | None = None
    """Where this run measured it and nothing disturbed that: to be remembered."""


class LaunchOrder(msgspec.Struct, frozen=True, kw_only=True):
    """One launch of one candidate, for a process of its own. The answer is a `Launched`."""

    candidate: Candidate
    round: int
    artifact: str
    inputs: list[TensorInfo]
    seed: int
    calls: int
    warmup_least: int
    max_seconds: float


class Launched(msgspec.Struct, frozen=True, kw_only=True):
    """What one launch measured, and what really ran the model."""

    block: Block
    provider: str
    device: str


class ExamineOrder(msgspec.Struct, frozen=True, kw_only=True):
    """An engine and precision to examine, for a process of its own. The answer is an `Examined`."""

    engine: EngineName
    precision: Precision
    artifact: str
    """The model in that precision, as the engine takes it."""
    task_type: Task
    inputs: list[TensorInfo]
    description: ModelDescription
    batches: list[int]
    """Ascending."""
    threads: int
    seed: int
    dataset: DatasetFiles | None
    calibration: list[int] | None = None
    """Places in the dataset's index that INT8 was calibrated with; None where that was not recorded."""
    seconds: float
    """No image of the test split is begun later."""
    reference: int | None = None
    """Descriptor to read the reference's answers from; None for the reference itself."""
    answers: int | None = None
    """Descriptor the reference writes them to."""
    golden: int | None = None
    """Descriptor that gets golden samples."""
    answers_only: bool = False
    """Whether the test split alone is looked at: parity and stress were, with another contract for the same tensors."""


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """What an examination found; the fields are those of `specs.GateResult`."""

    provider: str
    finite: bool | None
    problems: list[str]
    notes: list[str]
    parity: list[Parity]
    flips: int | None
    checked: int
    accuracy: Accuracy | None


class JpegsOrder(msgspec.Struct, frozen=True, kw_only=True):
    """JPEGs of the test split to decode at several scales, for a process of its own. The answer is a `JpegsTimed`."""

    dataset: DatasetFiles
    contract: Preprocessing
    """Whose own scale is the first of `scales`."""
    scales: list[JpegScale]
    rounds: int
    seed: int


class JpegsTimed(msgspec.Struct, frozen=True, kw_only=True):
    """How long that took; the fields are those of `specs.MeasuredDecoding`."""

    looked_at: int
    images: int
    width: int
    height: int
    round_ns: list[list[int]]
    """Of each scale, in the order of the request; empty without JPEGs."""
