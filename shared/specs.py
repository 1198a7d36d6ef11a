"""The nouns: what a model, a job, a candidate and a measurement are, as plain immutable structs.

They are stored as JSON in the database and in files, sent to children, and shown through the API; none of them has
behaviour beyond naming itself.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

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

Scores = Literal["logits", "probabilities"]
"""What a classifier gives: anything (softmax makes confidences of it), or confidences."""

MAX_SIDE = 8192
Side = Annotated[int, Meta(ge=1, le=MAX_SIDE)]


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

    height: Annotated[Side, Meta(description="Pixels.")]
    width: Annotated[Side, Meta(description="Pixels.")]
    mode: Annotated[
        Literal["stretch", "shorter_side", "letterbox"],
        Meta(
            description="`stretch` ignores proportions, `shorter_side` crops to the centre, `letterbox` adds a border."
        ),
    ] = "stretch"
    interpolation: Annotated[
        Literal["nearest", "bilinear", "bicubic"], Meta(description="How pixels between pixels are made.")
    ] = "bilinear"
    scale_to: Annotated[
        Side | None,
        Meta(description="For `shorter_side`: its length before the crop; default the larger of height and width."),
    ] = None
    pad: Annotated[int, Meta(ge=0, le=255, description="For `letterbox`: the grey of the border.")] = 114


JpegScale = Literal[1, 2, 4]
"""A JPEG is decoded at 1/n of its size."""

BoxFormat = Literal["yolo", "yolo_rows", "yolo_objectness", "corners"]


class Detection(Spec, frozen=True, kw_only=True):
    """How a detector's first output becomes boxes; the first axis is always the batch.

    `yolo`: `[batch, 4 + classes, boxes]`, centre, width, height and a score a class (YOLOv8 and later).
    `yolo_rows`: the same as `[batch, boxes, 4 + classes]`.
    `yolo_objectness`: `[batch, boxes, 5 + classes]`, an objectness before the scores (YOLOv5, YOLOX).
    `corners`: `[batch, boxes, 6]`, x1, y1, x2, y2, score, class, suppressed by the model.
    """

    format: Annotated[BoxFormat, Meta(description="What the first output holds.")]
    coordinates: Annotated[
        Literal["pixels", "normalized"], Meta(description="Pixels of the model's input, or 0 to 1 across it.")
    ] = "pixels"
    score_threshold: Annotated[float, Meta(ge=0, le=1, description="Boxes below are not shown.")] = 0.25
    iou_threshold: Annotated[
        float, Meta(ge=0, le=1, description="Overlap with a better box of the same class, above which a box goes.")
    ] = 0.7
    max_boxes: Annotated[int, Meta(ge=1, le=1000, description="Most boxes of one image.")] = 300


class Preprocessing(Spec, frozen=True, kw_only=True):
    """The contract between training, measuring and serving: from an image file to the model's input tensor.

    pixel = (value * scale - mean) / std, channel by channel in the order of `color`.
    """

    resize: Annotated[Resize, Meta(description="How an image becomes the size the model takes.")]
    color: Annotated[Literal["RGB", "BGR", "L"], Meta(description="Order of the channels; L is grey.")] = "RGB"
    scale: Annotated[float, Meta(description="Each pixel (0 to 255) is multiplied by this first.")] = 1 / 255
    mean: Annotated[tuple[float, ...], Meta(description="Subtracted then, one for all channels or one each.")] = (0.0,)
    std: Annotated[tuple[float, ...], Meta(description="Divided by then, one for all channels or one each.")] = (1.0,)
    layout: Annotated[
        Literal["NCHW", "NHWC"], Meta(description="Order of the axes: batch, channels, height, width.")
    ] = "NCHW"
    dtype: Annotated[Literal["float32", "float16", "uint8"], Meta(description="Type of the input tensor.")] = "float32"
    scores: Annotated[
        Scores,
        Meta(description="What a classifier answers; logits pass through softmax before they are shown."),
    ] = "logits"
    detection: Annotated[
        Detection | None,
        Meta(description="How a detector's output becomes boxes; recognised by its shape where not given."),
    ] = None
    jpeg_scale: Annotated[
        JpegScale | UnsetType,
        Meta(
            description="A JPEG is decoded at 1/n of its size, which costs less, unless it would end up smaller than "
            "half of what `resize` scales it to. Default 1."
        ),
    ] = UNSET
    """Not said where it is 1, so that contracts from before there was a choice keep their hash."""

    def __post_init__(self) -> None:
        """Make one contract of the two ways to write the default."""
        if self.jpeg_scale == 1:
            msgspec.structs.force_setattr(self, "jpeg_scale", UNSET)

    @property
    def reduction(self) -> JpegScale:
        """`jpeg_scale`, or its default."""
        return 1 if self.jpeg_scale is UNSET else self.jpeg_scale

    def reduced(self, scale: JpegScale) -> Preprocessing:
        """The same contract with JPEGs decoded at another scale."""
        return msgspec.structs.replace(self, jpeg_scale=scale)

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
    scores: Scores = "logits"
    """Decided once, here, for a classifier that has no contract to say it: no answer may change what they are."""
    notes: list[str] = []


class Architecture(msgspec.Struct, frozen=True, kw_only=True):
    """A network by name (`shared.nets.architectures`), and what it was made for."""

    name: str
    num_classes: int
    task: Task
    preprocessing: Preprocessing
    """The one its published weights were trained with."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Of one image: channels, height, width."""
        return 3, self.preprocessing.resize.height, self.preprocessing.resize.width


class Pretrained(msgspec.Struct, frozen=True, kw_only=True):
    """Published weights of an architecture, and where they are fetched from."""

    name: str
    url: str
    """Over HTTPS; the file's name ends with the first digits of its SHA-256, as all of torchvision's do."""
    max_bytes: int
    """A longer file is not the one that is meant."""


class Preset(msgspec.Struct, frozen=True, kw_only=True):
    """A model that comes with the platform; as JSON it is the file that an upload would be."""

    schema: Literal["cvp.preset/1"] = "cvp.preset/1"
    name: str
    description: str
    architecture: Architecture
    parameters: int
    """Weights of the network as it is trained, with the published number of classes."""
    seed: int = 0
    """Of the initial weights, where there are no pretrained ones."""
    pretrained: Pretrained | None = None


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """Two ways to run one model on the same input: a converted one beside its source, an engine beside another."""

    batch: int
    max_abs_diff: float
    max_abs_output: float
    """Of the source: what the difference is to be seen against."""
    max_rel_diff: float | None = None
    """Largest difference over the largest value of its channel, at least 1."""


SEEDED = "seeded initialisation"
"""How the source of weights begins that nothing was learned into."""


class ConversionFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How a model became ONNX, and how well."""

    source: str
    """What the file turned out to be, in words."""
    exporter: str
    """Programs and their versions."""
    opset: int
    """As written in the ONNX file."""
    dynamic_batch: bool
    parity: list[Parity]
    """On seeded input, one a batch; a single one where the batch is fixed."""
    seconds: float
    """Of the child's work."""
    peak_memory_mb: float
    """Resident."""
    stages: int | None = None
    """Parts of the network that a training may leave as they are; None of one that nobody can take apart."""

    @property
    def unlearned(self) -> bool:
        """Whether the weights were drawn from a seed, and nothing was learned."""
        return self.source.startswith(SEEDED)


# --- datasets -------------------------------------------------------------------------------------------------------

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
DatasetLayout = Literal["folders", "table", "yolo", "coco"]


class DatasetSpec(Spec, frozen=True, kw_only=True):
    """Check an uploaded dataset and prepare it for training."""

    dataset_id: str


class Box(msgspec.Struct, frozen=True, kw_only=True):
    """An object: its class and its edges in pixels of the upright original, within the image."""

    class_id: int
    x1: float
    y1: float
    x2: float
    y2: float


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One usable image, or frame of a video."""

    member: str
    """Its name in the archive, exactly; never a path on our disk."""
    time_s: float | None = None
    """Of a frame of a video, from its start."""
    width: int
    height: int
    """Pixels of the upright original."""
    split: Split
    class_id: int | None = None
    boxes: tuple[Box, ...] = ()
    dhash: int
    """Perceptual hash, 64 bits: whether each of 8 x 8 grey cells is darker than its right neighbour."""
    offset: int
    size: int
    """Where its prepared copy lies in the pack, in bytes."""


class DatasetIndex(msgspec.Struct, frozen=True, kw_only=True):
    """What training, calibration and accuracy read: an artifact, as MessagePack. `samples` are in the pack's order.

    The pack holds an image file a sample, back to back: upright, at most 256 pixels on the shorter side
    (classification) or 640 on the longer (detection). Smaller originals are in it as they were uploaded.
    """

    schema: Literal["cvp.dataset/1"] = "cvp.dataset/1"
    task_type: Task
    classes: list[str]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Of the training samples' RGB channels, 0 to 1, each image with the same weight."""
    samples: list[Sample]


class DatasetWarning(msgspec.Struct, frozen=True, kw_only=True):
    """Something about an upload that its owner should know."""

    where: str
    what: str


class ClassCount(msgspec.Struct, frozen=True, kw_only=True):
    """How often a class occurs: in images and, for detection, as boxes."""

    name: str
    train: int
    val: int
    test: int
    boxes: int | None = None


class ImageSizes(msgspec.Struct, frozen=True, kw_only=True):
    """Sides of the originals, in pixels."""

    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]


class NearDuplicate(msgspec.Struct, frozen=True, kw_only=True):
    """Two samples of different parts that look alike: what is learned from one is asked in the other."""

    first: str
    first_split: Split
    second: str
    second_split: Split
    distance: int
    """Differing bits of the two perceptual hashes."""


class DatasetSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What the check of a dataset found; small enough for a row. `warnings` and `near_duplicates` are shortened."""

    layout: DatasetLayout
    split_source: Literal["given", "made"]
    """Whether the parts came with the upload."""
    classes: list[ClassCount]
    splits: dict[Split, int]
    num_samples: int
    num_skipped: int
    sizes: ImageSizes
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    warnings: list[DatasetWarning]
    num_warnings: int
    near_duplicates: list[NearDuplicate]
    num_near_duplicates: int
    images_per_s: float


# --- training -------------------------------------------------------------------------------------------------------

Optimizer = Literal["sgd", "adam", "adamw"]
Augmentation = Literal["none", "light", "strong"]
ClassBalance = Literal["none", "sqrt", "equal"]
MOST_EPOCHS = 1000


class HyperParameters(Spec, frozen=True, kw_only=True):
    """How a network learns. What is not said depends on the rest, and the result says what was used."""

    learning_rate: Annotated[
        Annotated[float, Meta(gt=0, le=10)] | None,
        Meta(description="The highest, after the warm-up; default: 0.001, with SGD 0.05."),
    ] = None
    batch_size: Annotated[int, Meta(ge=2, le=4096, description="Images a step.")] = 32
    optimizer: Annotated[
        Optimizer, Meta(description="`sgd` has Nesterov momentum 0.9; `adamw` decays weights apart from the gradient.")
    ] = "adamw"
    weight_decay: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(description="Of weights, not of biases and normalisations; default: 0.01 with AdamW, otherwise 0.0005."),
    ] = None
    dropout_rate: Annotated[
        Annotated[float, Meta(ge=0, le=0.9)] | None,
        Meta(
            description="Share of values dropped where the network has dropout, or before its last layer; default: as "
            "the network has it."
        ),
    ] = None
    augmentation: Annotated[
        Augmentation | None,
        Meta(
            description="How training images are varied, with the boxes in them. `light`: shifted, scaled and relit a "
            "little. `strong`: other framings, mirrored, other colours. Default: `light` up to 64 pixels, where images "
            "often are characters, `strong` above."
        ),
    ] = None
    image_size: Annotated[
        Annotated[int, Meta(ge=8, le=1280)] | None,
        Meta(
            description="Height and width in pixels at which the network sees images, in training and ever after; of a "
            "detector a multiple of 32. Some networks take one size alone. Default: as the model takes them."
        ),
    ] = None
    class_balance: Annotated[
        ClassBalance,
        Meta(
            description="How often images of rare classes are drawn, where the largest class has over 1.5 times the "
            "images of the smallest: as they are, by the square root of their number, or each class alike. Images with "
            "boxes are drawn as they are."
        ),
    ] = "sqrt"
    frozen_stages: Annotated[
        int,
        Meta(ge=0, le=256, description="How many parts of the network, from its input on, keep the weights they have."),
    ] = 0
    patience: Annotated[
        Annotated[int, Meta(ge=1, le=MOST_EPOCHS)] | None,
        Meta(description="Ends after so many epochs without improvement; default: a quarter of them, at least 5."),
    ] = None


class TrainingSpec(Spec, frozen=True, kw_only=True):
    """A training as ordered: what the API takes, stored with the job."""

    model_id: Annotated[str, Meta(description="The model to start from: a preset, or one whose weights were kept.")]
    dataset_id: Annotated[str, Meta(description="A ready dataset of the same task.")]
    max_epochs: Annotated[int, Meta(ge=1, le=MOST_EPOCHS, description="Passes over the training images, at most.")]
    name: Annotated[
        Annotated[str, Meta(min_length=1, max_length=200)] | None,
        Meta(description="Of the model that it makes; default: those of model and dataset."),
    ] = None
    validation_split: Annotated[
        Annotated[float, Meta(ge=0.01, le=0.9)] | None,
        Meta(
            description="Divides the dataset's parts train and val anew, each class alike, with this share for "
            "validation; the part test is never touched. Default: the parts as they are."
        ),
    ] = None
    seed: Annotated[
        int,
        Meta(ge=0, le=2**32 - 1, description="Of the division, the order of the images, their variations, new layers."),
    ] = 0
    hyperparams: Annotated[HyperParameters, Meta(description="How the network learns.")] = HyperParameters()
    priority: Annotated[
        int,
        Meta(ge=-100, le=100, description="Higher starts first; five minutes of waiting are worth one step."),
    ] = 0


class EpochFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One point of the learning curves."""

    epoch: int
    """From 1."""
    loss: float
    """Mean over the training images, varied as they were, while the weights changed."""
    accuracy: float | None
    """The same, as a share of right answers; None for a detector, whose boxes are not judged while it learns."""
    val_loss: float
    val_accuracy: float
    """Of the part val after the epoch, prepared as for a prediction: the share of right answers, or of a detector
    COCO's mean average precision over IoU 0.50 to 0.95, by which the best epoch is chosen."""
    val_map50: float | None = None
    """Of a detector: its mean average precision at IoU 0.50."""
    learning_rate: float
    """At its end."""
    seconds: float
    """With validation."""


class FoundBox(Box, frozen=True, kw_only=True):
    """An object as a detector finds it."""

    confidence: float
    """0 to 1."""


class WorstSample(msgspec.Struct, frozen=True, kw_only=True):
    """A validation image that the trained network gets most wrong, or is least sure of.

    Classes are a classifier's; an image with many objects has no single one.
    """

    member: str
    time_s: float | None
    class_id: int | None = None
    predicted: int | None = None
    confidence: float | None = None
    """In what it predicted, 0 to 1."""
    loss: float
    objects: int = 0
    """That are marked in it, with a box each."""
    found: list[FoundBox] = []
    """What a detector shows for it, surest first."""


class TrainingResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a finished training reached, and how: everything its report shows."""

    schema: Literal["cvp.training/1"] = "cvp.training/1"
    classes: list[str]
    epochs: list[EpochFigures]
    best_epoch: int
    """Whose weights are the result."""
    final_accuracy: float
    final_loss: float
    """Of the best epoch, on the part val, as `EpochFigures` has them."""
    final_map50: float | None = None
    confusion: list[tuple[int, int, int]]
    """True class, predicted class, how many validation images; without those that are none. Empty for a detector."""
    worst: list[WorstSample]
    """The largest loss first."""
    hyperparams: HyperParameters
    """As they were used, nothing left open; `image_size` is None where images are no squares."""
    seed: int
    num_train: int
    num_val: int
    stopped_early: bool
    duration_s: float
    """Of all epochs, whatever happened between them."""
    images_per_s: float
    """Training images over the seconds of the epochs, validation included."""
    device: str
    threads: int
    """Of the processor; weights repeat bit by bit on a CPU of the same kind with as many."""
    versions: dict[str, str]
    notes: list[str]
    """What a reader should know, one sentence each."""


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """Where a model that was trained here comes from, beside the model it began as (`parent_id`)."""

    training_id: str
    search_id: str | None
    """The search whose best hyper-parameters it was trained with."""
    dataset_id: str
    dataset_name: str
    dataset_index_sha256: str
    """Of the list of its samples: what exactly it learned from."""
    validation_split: float | None
    """As ordered; None: the dataset's own parts."""
    seed: int
    best_epoch: int
    versions: dict[str, str]
    """Of the libraries that trained it."""


# --- candidates and measurements ------------------------------------------------------------------------------------


class Candidate(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A way to serve: what is measured, chosen and deployed. `instances` sessions of `threads` each, side by side."""

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

    metric: Annotated[MetricName, Meta(description="What is limited.")]
    op: Annotated[Literal["<=", "<", ">=", ">"], Meta(description="How it compares with the value.")]
    value: Annotated[float, Meta(ge=-1e12, le=1e12, description="In the unit of the metric, the end of its name.")]


FEWEST_REQUESTS, MOST_REQUESTS = 10, 100_000
"""Of one loop that drives the service; of fewer there is nothing to tell."""


class ServiceLoad(Spec, frozen=True, kw_only=True):
    """How the service itself is driven, once the candidates are measured: two loops, reported apart."""

    users: Annotated[
        int, Meta(ge=1, le=200, description="Closed loop: clients that each send again as soon as they are answered.")
    ]
    arrival_rate: Annotated[
        Annotated[float, Meta(gt=0, le=10_000)] | None,
        Meta(
            description="Open loop: requests a second that arrive whether or not others are answered; default: half of "
            "what the closed loop reached."
        ),
    ] = None
    seconds: Annotated[float, Meta(ge=1, le=300, description="Of each loop.")] = 30.0


PLAN_BATCHES = (1, 8, 32)
"""The smallest batch that a plan of TensorRT takes, the one it is made for, and the largest."""
DEFAULT_BATCHES = (1, 8)
"""Of a benchmark that names none, where the model takes any batch."""


class BenchmarkSpec(Spec, frozen=True, kw_only=True):
    """A benchmark as ordered: what the API takes, stored with the job, quoted in the report."""

    model_id: Annotated[str, Meta(description="The model to measure; it must be ready.")]
    engines: Annotated[
        Annotated[tuple[EngineName, ...], Meta(min_length=1, max_length=8)] | None,
        Meta(
            description="Engines to measure; default: all, PyTorch only where there is a GPU. One that does not run "
            "here is listed with why."
        ),
    ] = None
    dataset_id: Annotated[
        str | None,
        Meta(description="A ready dataset of the same task: `train` calibrates INT8, `test` tells the accuracy."),
    ] = None
    precisions: Annotated[
        Annotated[tuple[Precision, ...], Meta(min_length=1, max_length=3)] | None,
        Meta(description="Number formats to measure; default: FP32, INT8 with a dataset, FP16 where there is a GPU."),
    ] = None
    batch_sizes: Annotated[
        Annotated[tuple[Annotated[int, Meta(ge=1, le=256)], ...], Meta(min_length=1, max_length=16)] | None,
        Meta(
            description="Images a call, each measured on its own; default: 1 and 8, or the batch the model is fixed at."
        ),
    ] = None
    threads: Annotated[
        Annotated[tuple[Annotated[int, Meta(ge=1, le=256)], ...], Meta(min_length=1, max_length=8)] | None,
        Meta(description="Engine threads of a session to try; default: every core there is, shared by the sessions."),
    ] = None
    instances: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=64)], ...],
        Meta(min_length=1, max_length=8, description="Sessions that run side by side in one process, to try."),
    ] = (1,)
    num_warmup: Annotated[
        int, Meta(ge=1, le=10_000, description="Calls before the measuring; more are made until the times are steady.")
    ] = 10
    num_iterations: Annotated[int, Meta(ge=5, le=1_000_000, description="Calls measured of each candidate.")] = 700
    max_seconds: Annotated[
        float,
        Meta(
            gt=0,
            le=3600,
            description="Longest measuring of one candidate, all rounds together, in seconds.",
        ),
    ] = 60.0
    objective: Annotated[
        Literal["latency", "throughput"],
        Meta(description="What the choice is for: the shortest wait, or the most images a second."),
    ] = "latency"
    isolation: Annotated[
        Literal["exclusive", "shared"], Meta(description="Whether the measuring has the machine to itself.")
    ] = "exclusive"
    constraints: Annotated[
        tuple[Constraint, ...],
        Meta(max_length=32, description="Limits the choice must keep; what is not measured does not pass."),
    ] = ()
    accuracy_drop: Annotated[
        float,
        Meta(
            ge=0, le=1, description="With a dataset: the largest accepted loss of accuracy against FP32; 0.01 is 1 %."
        ),
    ] = 0.01
    jpeg_scales: Annotated[
        Annotated[tuple[JpegScale, ...], Meta(min_length=1, max_length=3)] | UnsetType,
        Meta(
            description="With a dataset: parts 1/n of their size to decode JPEGs at, tried once a candidate is chosen. "
            "The fastest that is sure to save time and to keep the limits on accuracy is deployed with it. Default: as "
            "the model's contract says, 1 mostly."
        ),
    ] = UNSET
    seed: Annotated[
        int, Meta(ge=0, le=2**32 - 1, description="Makes the order of the rounds and the input repeatable.")
    ] = 0
    noise_floor: Annotated[
        bool,
        Meta(
            description="Measure one candidate twice, as if it were two: how far apart equals end up on this machine. "
            "Remembered for its later benchmarks."
        ),
    ] = False
    service_load: Annotated[
        ServiceLoad | None,
        Meta(description="Drive this platform's own HTTP service with the model, as it serves now, and report that."),
    ] = None
    priority: Annotated[
        int,
        Meta(ge=-100, le=100, description="Higher starts first; five minutes of waiting are worth one step."),
    ] = 0

    @property
    def scales(self) -> tuple[JpegScale, ...]:
        """`jpeg_scales`; none where nothing was said."""
        return () if isinstance(self.jpeg_scales, UnsetType) else self.jpeg_scales


class DeploymentOrder(Spec, frozen=True, kw_only=True):
    """What is to serve a model: the decision of a report, or an engine in a precision."""

    report_id: Annotated[
        str | None, Meta(description="Takes what this report chose, as it was measured; nothing else is said then.")
    ] = None
    engine: Annotated[EngineName | None, Meta(description="Which engine serves.")] = None
    precision: Annotated[
        Precision | None,
        Meta(description="In which number format; INT8 and FP16 need the file that a benchmark made of the model."),
    ] = None
    batch_size: Annotated[
        Annotated[int, Meta(ge=1, le=256)] | None,
        Meta(description="Most images of waiting requests in one call; default 4, or the batch the model is fixed at."),
    ] = None
    threads: Annotated[
        Annotated[int, Meta(ge=1, le=256)] | None, Meta(description="Engine threads of a session; default 1.")
    ] = None
    instances: Annotated[
        Annotated[int, Meta(ge=1, le=64)] | None,
        Meta(description="Sessions side by side, divided among the inference processes; default one a process."),
    ] = None
    jpeg_scale: Annotated[
        JpegScale | None,
        Meta(description="JPEGs are decoded at 1/n of their size; default: as the model's contract says."),
    ] = None


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """One launch of one candidate: load, warm up, measure, leave. Latencies are raw, in call order, nothing clipped."""

    round: int
    load_ms: float
    warmup_calls: int
    steady: bool
    """Whether the last three warm-up windows agreed within 10 %; an unsteady block is kept and marked."""
    latencies_ns: list[int]
    """Wall time of each call with `batch_size` images, copies in and out included; session after session."""
    elapsed_ns: int
    """Wall time of the whole block; throughput is images / elapsed."""
    cpu_util_pct: float
    """CPU time of the candidate's process over the block, 100 = one core."""
    memory_mb: float
    """Peak resident memory of the candidate's process (it holds its sessions and nothing else)."""
    gpu_util_pct: float | None = None
    """Of a candidate on a GPU, over the measured calls; None where the device does not tell, as with the next two."""
    vram_mb: float | None = None
    """Memory of the device that came into use since before the model was loaded."""
    power_w: float | None = None
    """Mean power of the device over the measured calls."""


SeriesStatus = Literal["measured", "unavailable", "rejected", "failed"]


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """All there is about one candidate: its blocks, or why there are none."""

    candidate: Candidate
    status: SeriesStatus
    """`rejected` candidates did not pass the gate and were not measured."""
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


class PreparedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A model's file in another precision, and how it was made."""

    precision: Precision
    sha256: str
    size_bytes: int
    recipe: dict[str, str | int | float | bool]
    """From what (hashes, counts, a seed), by what (method, versions), and how well it agreed with FP32."""
    notes: list[str]
    """What a reader should know, one sentence each."""
    reused: bool = False
    """Whether an earlier benchmark had made it."""


class MeasuredDataset(msgspec.Struct, frozen=True, kw_only=True):
    """The dataset that INT8 was calibrated with and accuracy measured on, as it was."""

    id: str
    name: str
    index_sha256: str
    classes: list[str]
    num_test: int
    """Images of the test split."""
    num_calibration: int = 0
    """Images of the training split that INT8 was calibrated with."""


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """How right a model is on the test split: facts that every interval is computed from again."""

    metric: Literal["top1", "map"]
    """Share of images whose best class is right, or COCO's mean average precision over IoU 0.50 to 0.95."""
    n: int
    """Images, in an order drawn from the benchmark's seed; of two, the first ones are the same images."""
    value: float
    top5: float | None = None
    map50: float | None = None
    correct: str | None = None
    """Of a classifier: whether each image's best class is right, four images a hexadecimal digit, the first in the
    highest bit, zeros at the end."""
    values: list[float] | None = None
    """Of a detector: its mAP over images drawn again and again from the seed (bootstrap)."""
    drops: list[float] | None = None
    """Of a detector: the reference's mAP less this one's over the same draws."""
    drop: float | None = None
    """Of a detector: the reference's mAP less this one's, over all `n` images."""


GateVerdict = Literal["pass", "fail", "inconclusive", "not_checked"]


UNFIT = "Accuracy was not measured: "
"""How the gate's note begins that says why a model cannot answer the dataset it was ordered with."""


class GateResult(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine answers in one precision, beside the reference (ONNX Runtime on the CPU in FP32)."""

    engine: EngineName
    precision: Precision
    verdict: GateVerdict
    """As it was acted upon: what fails is not measured; `inconclusive` leaves open whether the limit is kept."""
    problems: list[str] = []
    """Why not, one sentence each."""
    notes: list[str] = []
    """What qualifies the check, one sentence each."""
    finite: bool | None = None
    """No NaN and no infinity, on real and on extreme input; None where that was not seen."""
    parity: list[Parity] = []
    flips: int | None = None
    """Images of the test split that are answered otherwise than by the reference; None without a dataset."""
    checked: int = 0
    """Images of the test split that were compared."""
    accuracy: Accuracy | None = None
    provider: str | None = None
    seconds: float = 0.0
    golden: Stored | None = None
    """Samples with this engine's answers, to be replayed before it serves."""


class DecodedAt(msgspec.Struct, frozen=True, kw_only=True):
    """What decoding JPEGs at one scale takes and does."""

    scale: JpegScale
    round_ns: list[int]
    """Of each round, all scales in turn: decoding and preparing all the images, one after another."""
    gate: GateResult | None = None
    """What the chosen engine answers to images of the test split decoded so. None where that was not asked: of the
    contract's own scale, which the gate has asked, and of one that is not sure to save time."""


class MeasuredDecoding(msgspec.Struct, frozen=True, kw_only=True):
    """JPEGs of the test split decoded at the scales that were to be tried."""

    reason: str | None = None
    """Why nothing was found out."""
    own: JpegScale
    """The contract's."""
    serves: JpegScale
    """What served the model when it was measured."""
    candidate: Candidate | None = None
    """What was chosen, whose answers were asked for."""
    looked_at: int = 0
    """Images of the test split, in the order they are asked, until there were enough JPEGs."""
    images: int = 0
    """JPEGs among them, which were timed."""
    width: int = 0
    height: int = 0
    """Pixels of the middle one of those, by area."""
    scales: list[DecodedAt] = []
    """Ascending, the contract's own first."""
    conditions: list[str] = []
    """What disturbed the timing, one sentence each."""


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


class NoiseFloor(msgspec.Struct, frozen=True, kw_only=True):
    """How far apart one candidate ends up that is measured as if it were two (an A/A run)."""

    value: float
    """95 % quantile of |ln ratio|, of P95 latency or of throughput, whichever is larger (`rounds.noise_floor`)."""
    runs: int
    """Pairs of launches it was computed from."""
    measured_at: str
    fingerprint: str
    """Of the machine and the software it holds for."""
    benchmark_id: str


BodySource = Literal["test split", "drawn images", "drawn tensors"]


class LoadFailures(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of one loop that were not answered with a prediction, all for the same reason."""

    code: str
    """Of our problem documents (`queue_full`), `http 502` for another answer, or `no answer`."""
    status: int | None
    """Of HTTP; None without an answer. 429, the platform's refusal to queue more, is counted apart."""
    example: str
    """What the first of them was told."""
    count: int
    first_ns: int
    last_ns: int
    """When they were to be sent, from the loop's start."""


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What answered, in the words of the answers."""

    engine: str
    precision: str
    batch_size: int
    answers: int


class Loop(msgspec.Struct, frozen=True, kw_only=True):
    """One way to drive the service, over HTTP connections that stay open. Lists are in the order of `scheduled_ns`.

    Closed: each of `users` sends when it has its answer; a request is due when it is sent. Open: requests are due by a
    Poisson process of `rate` drawn beforehand, and latency counts from then, so that what a stalled service makes
    others wait is in it (no coordinated omission).
    """

    kind: Literal["closed", "open"]
    users: int
    """Clients of the closed loop; of the open one, connections it starts with."""
    rate: float | None
    """Open loop: requests a second, on average."""
    elapsed_ns: int
    """From the start to the last answer or failure: time without answers counts."""
    sent: int
    answered: int
    served: list[Served] = []
    failures: list[LoadFailures] = []
    every: int = 1
    """Of the answered requests each so many-th is in the lists, by when it was due."""
    scheduled_ns: list[int] = []
    """When a request was due, from the loop's start."""
    latencies_ns: list[int] = []
    """From then to the last byte of the answer."""
    late_ns: list[int] = []
    """Of the latency: until the request was written, because the generator or a free connection was late."""
    queue_us: list[int] = []
    decode_us: list[int] = []
    inference_us: list[int] = []
    """Of the latency, as the answer says."""
    cpu_s: float
    """Processor time of the load generator itself."""


class MeasuredService(msgspec.Struct, frozen=True, kw_only=True):
    """The platform's HTTP service under load, with the model as it was served then; no part of the decision."""

    reason: str | None = None
    """Why there are no loops, or not both."""
    source: BodySource | None = None
    """What was sent."""
    inputs: int = 0
    """Different ones, each sent in turn."""
    input_bytes: int = 0
    """Of the middle one, by size."""
    tls: bool = False
    closed: Loop | None = None
    open: Loop | None = None
    requests: int = 0
    """All that were sent, those of the warm-up included."""
    conditions: list[str] = []
    """What disturbed the two loops, one sentence each."""


class MeasurementSet(msgspec.Struct, frozen=True, kw_only=True):
    """A finished benchmark: everything the decision and the report are computed from, and nothing else is."""

    schema: Literal["cvp.measurements/1", "cvp.measurements/2"] = "cvp.measurements/2"
    id: str
    created_at: str
    model: MeasuredModel
    config: BenchmarkSpec
    system: SystemInfo
    conditions: list[str]
    """What disturbed or qualifies the run, one sentence each; empty for a clean one."""
    dirty: bool = False
    """Whether one of the conditions is a disturbance: something else was at work while this was measured."""
    series: list[Series]
    files: list[PreparedFile] = []
    """In the precisions beside FP32, which is the model's own file."""
    noise_floor: NoiseFloor | None = None
    """Of this machine, measured in this run or remembered from an earlier one."""
    incumbent: Candidate | None = None
    """What was activated for this model before; None while nobody activated anything."""
    dataset: MeasuredDataset | None = None
    reference: Accuracy | None = None
    """Of ONNX Runtime on the CPU in FP32, on the test split."""
    gates: list[GateResult] = []
    service: MeasuredService | None = None
    """Where the order has `service_load`."""
    decoding: MeasuredDecoding | UnsetType = UNSET
    """Where the order has `jpeg_scales` beyond the contract's own; others are without, as they were before."""


# --- jobs -----------------------------------------------------------------------------------------------------------

JobKind = Literal["convert", "dataset", "activate", "train", "search", "trial", "measure", "benchmark", "report"]
JobStatus = Literal["queued", "running", "completed", "failed", "cancelled"]
Lane = Literal["accelerator", "cpu", "report", "search"]

LANE_OF: dict[JobKind, Lane] = {
    "convert": "cpu",
    "dataset": "cpu",
    "activate": "cpu",
    "train": "accelerator",
    "search": "search",
    "trial": "accelerator",
    "measure": "accelerator",
    "benchmark": "accelerator",
    "report": "report",
}


class TrialSpec(TrainingSpec, frozen=True, kw_only=True):
    """Train with hyper-parameters that a search asks about; there are figures of it, and no model."""

    until_epoch: int
    continues: str | None = None
    """The trial's job whose checkpoint this one takes over, if it is still there."""

    @property
    def training(self) -> TrainingSpec:
        """What is trained, however far: of it a checkpoint is."""
        return TrainingSpec(**{name: getattr(self, name) for name in TrainingSpec.__struct_fields__})


class MeasureSpec(Spec, frozen=True, kw_only=True):
    """Measure how long the network of a search takes for one image, at every size that the search may choose."""

    search_id: str
    training: TrainingSpec
    """What the search was ordered with."""
    image_sizes: tuple[int, ...]
    engine: EngineName


class ConvertSpec(Spec, frozen=True, kw_only=True):
    """Check and describe an uploaded model."""

    model_id: str
    input_shape: tuple[int, ...] | None = None
    """What its owner says the first input takes, batch included; settles axes the graph leaves open."""


class ActivateSpec(Spec, frozen=True, kw_only=True):
    """Try a deployment, and let it serve its model."""

    model_id: str
    deployment_id: str


class ReportSpec(Spec, frozen=True, kw_only=True, omit_defaults=True):
    """Write a report: decide over what a benchmark measured, or tell what a training reached; one of the two."""

    benchmark_id: str | None = None
    training_id: str | None = None
