"""The nouns: what a model, a job, a candidate and a measurement are, as plain immutable structs.

They are stored as JSON in the database and in files, sent to children, and shown through the API; none of them has
behaviour beyond naming itself.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Task = Literal["classification", "detection"]
Framework = Literal["pytorch", "tensorflow", "onnx"]
EngineName = Literal["onnxruntime", "openvino", "tensorrt", "pytorch"]
ENGINES: tuple[EngineName, ...] = ("onnxruntime", "openvino", "tensorrt", "pytorch")
Precision = Literal["fp32", "fp16", "int8"]
MetricName = Literal[
    "latency_mean_ms",
    "latency_p50_ms",
    "latency_p95_ms",
    "latency_p99_ms",
    "throughput_fps",
    "cpu_util_pct",
    "gpu_util_pct",
    "memory_mb",
    "vram_usage_mb",
    "power_draw_w",
    "accuracy",
    "accuracy_drop",
    "load_ms",
    "artifact_mb",
]

Side = Annotated[int, Meta(ge=1, le=8192)]


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what users write: unknown fields are refused."""


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return msgspec.json.encode(value, order="sorted")


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A file in an artifact store (`shared.artifacts`)."""

    sha256: str
    size_bytes: int


# --- preprocessing contract -----------------------------------------------------------------------------------------


class Resize(Spec, frozen=True, kw_only=True):
    """How an image becomes the model's size.

    `stretch` ignores the aspect ratio, `shorter_side` scales then crops the centre, `letterbox` scales to fit and pads
    with `pad`. Bilinear and bicubic are Pillow's, with antialiasing.
    """

    height: Side
    width: Side
    mode: Literal["stretch", "shorter_side", "letterbox"] = "stretch"
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    scale_to: Side | None = None
    """`shorter_side` only: length of the shorter side before the centre crop (default: the larger of height, width)."""
    pad: Annotated[int, Meta(ge=0, le=255)] = 114


class Preprocessing(Spec, frozen=True, kw_only=True):
    """The contract between training, measuring and serving: from an image file to the model's input tensor.

    pixel = (value * scale - mean) / std, channel by channel in the order of `color`.
    """

    resize: Resize
    color: Literal["RGB", "BGR", "L"] = "RGB"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    dtype: Literal["float32", "float16", "uint8"] = "float32"
    scores: Literal["logits", "probabilities"] = "logits"
    """What a classifier's output holds: `logits` pass through softmax before they are shown as confidence."""

    @property
    def channels(self) -> int:
        """1 for `L`, 3 otherwise."""
        return 1 if self.color == "L" else 3

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON, 16 hex digits: the name of this contract in models, logs and packages."""
        return hashlib.sha256(canonical_json(self)).hexdigest()[:16]


# --- models ---------------------------------------------------------------------------------------------------------


class TensorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One input or output of a model: NumPy dtype name, and a shape whose dynamic axes are names (`"batch"`)."""

    name: str
    dtype: str
    shape: list[int | str]


class ModelDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What the check of an uploaded ONNX file found out by looking and by running it."""

    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    opset: int
    ir_version: int
    parameters: int
    dynamic_batch: bool
    preprocessing: Preprocessing | None
    """The user's contract checked against the input, or one derived from it; None when the input is no image."""
    labels: list[str] | None
    notes: list[str] = []


# --- candidates and measurements ------------------------------------------------------------------------------------


class Candidate(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A way to serve: what is measured, chosen and deployed."""

    engine: EngineName
    precision: Precision
    batch_size: int
    threads: int
    instances: int = 1

    @property
    def key(self) -> str:
        """The one name of a candidate in tables, files and logs: `onnxruntime/fp32/b8/t2/i1`."""
        return f"{self.engine}/{self.precision}/b{self.batch_size}/t{self.threads}/i{self.instances}"


class Constraint(Spec, frozen=True, kw_only=True):
    """A limit the deployment must keep; only a clear pass passes."""

    metric: MetricName
    op: Literal["<=", "<", ">=", ">"]
    value: Annotated[float, Meta(ge=-1e12, le=1e12)]


class BenchmarkSpec(Spec, frozen=True, kw_only=True):
    """A benchmark as ordered: what the API takes, stored with the job, quoted in the report."""

    model_id: str
    engines: Annotated[tuple[EngineName, ...], Meta(min_length=1, max_length=8)] = ENGINES
    precisions: Annotated[tuple[Precision, ...], Meta(min_length=1, max_length=3)] = ("fp32",)
    batch_sizes: Annotated[tuple[Annotated[int, Meta(ge=1, le=256)], ...], Meta(min_length=1, max_length=16)] = (1, 8)
    threads: Annotated[tuple[Annotated[int, Meta(ge=1, le=256)], ...], Meta(min_length=1, max_length=8)] | None = None
    """Engine threads to try; default: one candidate with every core this process may use."""
    num_warmup: Annotated[int, Meta(ge=1, le=10_000)] = 10
    num_iterations: Annotated[int, Meta(ge=5, le=1_000_000)] = 700
    max_seconds: Annotated[float, Meta(gt=0, le=3600)] = 60.0
    objective: Literal["latency", "throughput"] = "latency"
    isolation: Literal["exclusive", "shared"] = "exclusive"
    constraints: Annotated[tuple[Constraint, ...], Meta(max_length=32)] = ()
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """One launch of one candidate: load, warm up, measure, leave. Latencies are raw, in call order, nothing clipped."""

    round: int
    load_ms: float
    warmup_calls: int
    steady: bool
    """Whether the last three warm-up windows agreed within 10 %; an unsteady block is kept and marked."""
    latencies_ns: list[int]
    """Wall time of each call with `batch_size` images, copies in and out included."""
    elapsed_ns: int
    """Wall time of the whole block; throughput is images / elapsed."""
    cpu_util_pct: float
    """CPU time of the candidate's process over the block, 100 = one core."""
    memory_mb: float
    """Peak resident memory of the candidate's process (it holds one session and nothing else)."""


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """All there is about one candidate: its blocks, or why there are none."""

    candidate: Candidate
    status: Literal["measured", "unavailable", "failed"]
    reason: str | None = None
    provider: str | None = None
    device: str | None = None
    artifact_bytes: int = 0
    blocks: list[Block] = []
    failures: list[str] = []
    """Failed launches, one sentence each: a separate series, never a 0 ms success."""


class MeasuredModel(msgspec.Struct, frozen=True, kw_only=True):
    """The model as it was measured."""

    id: str
    name: str
    task_type: Task
    sha256: str
    file_size: int
    parameters: int
    inputs: list[TensorInfo]
    preprocessing_hash: str | None


class SystemInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The machine and the software of a measurement. `fingerprint` changes when a result would no longer carry over."""

    fingerprint: str
    cpu: str
    cores: int
    memory_mb: int
    os: str
    python: str
    gpu: str | None
    versions: dict[str, str]


class MeasurementSet(msgspec.Struct, frozen=True, kw_only=True):
    """A finished benchmark: everything the decision and the report are computed from, and nothing else is."""

    schema: Literal["cvp.measurements/1"] = "cvp.measurements/1"
    id: str
    created_at: str
    model: MeasuredModel
    config: BenchmarkSpec
    system: SystemInfo
    conditions: list[str]
    """What disturbed or qualifies the run, one sentence each; empty for a clean one."""
    series: list[Series]


# --- jobs -----------------------------------------------------------------------------------------------------------

JobKind = Literal["convert", "benchmark", "report"]
JobStatus = Literal["queued", "running", "completed", "failed", "cancelled"]
Lane = Literal["accelerator", "cpu", "report"]

LANE_OF: dict[JobKind, Lane] = {"convert": "cpu", "benchmark": "accelerator", "report": "report"}


class ConvertSpec(Spec, frozen=True, kw_only=True):
    """Check and describe an uploaded model."""

    model_id: str
    input_shape: tuple[int, ...] | None = None
    """What its owner says the first input takes, batch included; settles axes the graph leaves open."""


class ReportSpec(Spec, frozen=True, kw_only=True):
    """Decide over a measurement set and write the report."""

    benchmark_id: str
