"""What the API takes and gives, as JSON: public shapes, apart from rows and from the wire."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from gateway.passwords import MAX_LENGTH, MIN_LENGTH
from shared.genes import Genes
from shared.gpu import Gpu
from shared.specs import (
    Candidate,
    ClassCount,
    ConversionFacts,
    DatasetLayout,
    DatasetWarning,
    EngineName,
    EpochFigures,
    Framework,
    ImageSizes,
    JobKind,
    JobStatus,
    JpegScale,
    Lane,
    Lineage,
    MetricName,
    NearDuplicate,
    NoiseFloor,
    Precision,
    Preprocessing,
    Spec,
    Split,
    Task,
    TensorInfo,
    TrainingResult,
)
from shared.trials import Latencies, Outcome
from shared.wire.open_inference import Datatype

Role = Literal["admin", "engineer", "viewer"]

_UNSEEN = r"\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
"""Characters that nobody sees and that change how the text around them is shown: controls, and changes of direction."""

ON_ONE_LINE = rf"^[^\x00-\x1f{_UNSEEN}]*$(?!\n)"
"""In Python `$` alone lets a last newline pass, and JSON has no `\\Z`."""

Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        pattern=ON_ONE_LINE,
        extra={"rule": "text of 1 to 200 characters, on one line and without control characters"},
    ),
]
Text = Annotated[
    str,
    Meta(
        max_length=10_000,
        pattern=rf"^[^\x00-\x08\x0b\x0c\x0e-\x1f{_UNSEEN}]*$",
        extra={"rule": "text of at most 10000 characters, without control characters but tabs and new lines"},
    ),
]
Username = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$(?!\n)",
        description="1 to 64 letters, digits or `._@-`, the first a letter or digit.",
    ),
]
Password = Annotated[str, Meta(min_length=MIN_LENGTH, max_length=MAX_LENGTH)]
Item = TypeVar("Item")


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what the API answers."""


class Listing(View, Generic[Item], frozen=True, kw_only=True):
    """One page of a list, newest first; `next_cursor` goes into `?cursor=` for the next, null on the last."""

    items: list[Item]
    next_cursor: str | None


# --- sign-in and users ------------------------------------------------------------------------------------------------


class Login(Spec, frozen=True, kw_only=True):
    """Name and password."""

    username: Annotated[str, Meta(max_length=64)]
    password: Annotated[str, Meta(max_length=MAX_LENGTH)]


class UserRef(View, frozen=True, kw_only=True):
    """A user, short."""

    id: str
    username: str
    role: Role


class SignedIn(View, frozen=True, kw_only=True):
    """A fresh sign-in."""

    access_token: str
    token_type: Literal["bearer"] = "bearer"
    expires_in: int
    user: UserRef


class PageSession(View, frozen=True, kw_only=True):
    """A fresh sign-in of a web page; the credential itself is in a cookie that scripts cannot read."""

    csrf_token: Annotated[str, Meta(description="Goes into the header `X-CSRF-Token` of calls that change something.")]
    expires_in: int
    user: UserRef


class Ticket(View, frozen=True, kw_only=True):
    """What opens one WebSocket, once: `/api/v1/events/ws?ticket=...`."""

    ticket: str
    expires_in: int


class Verified(View, frozen=True, kw_only=True):
    """Whose credential this is, and until when; null means it does not expire."""

    user: UserRef
    expires_at: str | None
    csrf_token: Annotated[str, Meta(description="With a session cookie: its CSRF token. Else null.")] | None


class NewKey(Spec, frozen=True, kw_only=True):
    """An API key to make."""

    name: Annotated[Name, Meta(description="What the key is for.")]
    expires_in_days: Annotated[int, Meta(ge=1, le=3650, description="Default: it does not expire.")] | None = None


class ApiKey(View, frozen=True, kw_only=True):
    """An API key without its secret; `hint` is how it begins."""

    id: str
    name: str
    hint: str
    created_at: str
    expires_at: str | None


class FreshApiKey(ApiKey, frozen=True, kw_only=True):
    """An API key at its making, the only time `key` is shown."""

    key: str


class NewUser(Spec, frozen=True, kw_only=True):
    """A user to make."""

    username: Username
    password: Password
    role: Annotated[Role, Meta(description="What they may do.")]


class UserChange(Spec, frozen=True, kw_only=True):
    """What to change of a user; a new password ends the user's sign-ins."""

    role: Annotated[Role | None, Meta(description="What they may do from now on.")] = None
    password: Annotated[Password | None, Meta(description="Ends the user's sign-ins.")] = None


class User(View, frozen=True, kw_only=True):
    """A user."""

    id: str
    username: str
    role: Role
    created_at: str


# --- models -----------------------------------------------------------------------------------------------------------

Label = Annotated[
    str,
    Meta(
        max_length=200,
        pattern=ON_ONE_LINE,
        extra={"rule": "text of at most 200 characters, on one line and without control characters"},
    ),
]
Labels = Annotated[list[Label], Meta(min_length=1, max_length=100_000)]
Shape = Annotated[list[Annotated[int, Meta(ge=1, le=65_536)]], Meta(min_length=1, max_length=8)]


class ModelForm(Spec, frozen=True, kw_only=True):
    """The fields that come before the file of a model upload."""

    name: Annotated[Name, Meta(description="What people call it; need not be unique.")]
    task_type: Annotated[Task, Meta(description="What the model answers.")]
    description: Annotated[Text, Meta(description="Anything worth knowing.")] = ""
    framework: Annotated[
        Framework | None, Meta(description="What the file was made for; default: what its content says.")
    ] = None
    architecture: Annotated[
        Annotated[str, Meta(min_length=1, max_length=100, pattern=ON_ONE_LINE)] | None,
        Meta(description="The network of PyTorch weights: cnn32, yolov8n, resnet18 (torchvision), timm/resnet18."),
    ] = None
    input_shape: Annotated[
        Shape | None,
        Meta(description="What the first input takes, batch included; settles axes the graph leaves open."),
    ] = None
    preprocessing: Annotated[
        Preprocessing | None,
        Meta(description="How an image becomes the input; default: the architecture's, or a guess from the input."),
    ] = None
    labels: Annotated[Labels | None, Meta(description="Names of the classes, in the order of the output.")] = None


class PresetFacts(View, frozen=True, kw_only=True):
    """What is known of a preset before it is prepared, and how that went."""

    name: str
    num_classes: int
    parameters: Annotated[int, Meta(description="Weights of the network, as it is trained.")]
    weights: Annotated[str, Meta(description="Which it has, or will have, and why.")]
    pretrained: Annotated[bool | None, Meta(description="Whether they have learned anything; null until it is ready.")]
    source: Annotated[str | None, Meta(description="Where pretrained weights come from; null where there are none.")]


DecodedAt = Annotated[
    JpegScale | None, Meta(description="JPEGs are decoded at 1/n of their size; null: as the model's contract says.")
]


class Serves(View, frozen=True, kw_only=True):
    """How a model is to be served now."""

    engine: EngineName
    precision: Precision
    batch_size: int
    threads: int
    instances: Annotated[int | None, Meta(description="Sessions in all; null: one in each inference process.")]
    source: Literal["default", "report", "manual"]
    status: Annotated[
        Literal["active", "stale"],
        Meta(description="`stale`: the machine, an engine or the file changed since; it serves on."),
    ]
    since: Annotated[str | None, Meta(description="When it was activated; null for the default.")]
    file_sha256: Annotated[str | None, Meta(description="Null: the model's own file.")]
    jpeg_scale: DecodedAt


class Model(View, frozen=True, kw_only=True):
    """A model. Shapes and contract are known once its status is `ready`."""

    id: str
    name: str
    description: str
    model_type: Literal["preset", "custom"]
    framework: Framework
    task_type: Task
    status: Literal["converting", "ready", "failed"]
    error: str | None
    file_size: int
    onnx_size: int | None
    sha256: str
    input_shape: list[int | str] | None
    output_shape: list[int | str] | None
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    preprocessing: Annotated[dict[str, Any], Meta(description="The contract, and its `hash`.")] | None
    labels: list[str] | None
    notes: list[str]
    architecture: Annotated[str | None, Meta(description="The network, by its name, where weights were uploaded.")]
    conversion: Annotated[
        ConversionFacts | None, Meta(description="How the file became ONNX, and how near its source; null for ONNX.")
    ]
    preset: Annotated[PresetFacts | None, Meta(description="Of a model that came with the platform; null for others.")]
    serves: Annotated[Serves | None, Meta(description="What predicts with it now; null until it is ready.")]
    trainable: bool
    why_not: Annotated[str | None, Meta(description="What keeps the model from being trained further.")]
    parent_id: Annotated[str | None, Meta(description="The model that its training began with; null for others.")]
    lineage: Annotated[Lineage | None, Meta(description="What it was trained with; null for others.")]
    job_id: Annotated[str | None, Meta(description="The job that makes it ready: its progress and its story.")]
    created_by: str
    created_at: str


# --- datasets ---------------------------------------------------------------------------------------------------------


class DatasetForm(Spec, frozen=True, kw_only=True):
    """The fields that come before the file of a dataset upload."""

    name: Annotated[Name, Meta(description="What people call it; need not be unique.")]
    task_type: Annotated[Task, Meta(description="What a model shall learn from it.")]
    description: Annotated[Text, Meta(description="Anything worth knowing.")] = ""
    split: Annotated[
        Annotated[
            str,
            Meta(
                pattern=r"^[0-9]{1,3}/[0-9]{1,3}/[0-9]{1,3}$(?!\n)",
                extra={"rule": "per cent for train/val/test that make 100, such as 80/10/10"},
            ),
        ]
        | None,
        Meta(description="Per cent for train/val/test; default: the parts that the upload has, or 80/10/10."),
    ] = None
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1, description="The same seed divides the same way.")] = 0
    archive_id: Annotated[
        str | None,
        Meta(description="For a CSV: the dataset whose ZIP holds the images it names; it may be one that failed."),
    ] = None
    frames_per_second: Annotated[float, Meta(gt=0, le=60, description="How densely videos are sampled.")] = 1.0

    @property
    def parts(self) -> tuple[int, int, int] | None:
        """`split` as numbers."""
        if self.split is None:
            return None
        train, val, test = map(int, self.split.split("/"))
        return train, val, test


class DatasetStatistics(View, frozen=True, kw_only=True):
    """What its images are like. `classes` count images by part; `mean` and `std` are those of the training part."""

    layout: DatasetLayout
    split_source: Annotated[Literal["given", "made"], Meta(description="Whether the parts came with the upload.")]
    classes: list[ClassCount]
    num_skipped: Annotated[int, Meta(description="Images that cannot be used; `warnings` say why.")]
    sizes: ImageSizes
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Dataset(View, frozen=True, kw_only=True):
    """A dataset. Numbers are known once its status is `ready`; what comes after `created_at` where one is asked for."""

    id: str
    name: str
    description: str
    task_type: Task
    status: Literal["preprocessing", "ready", "failed"]
    error: str | None
    file_size: int
    sha256: str
    prepared_size: Annotated[int | None, Meta(description="Bytes of the images as training reads them.")]
    num_samples: int | None
    num_classes: int | None
    num_warnings: Annotated[int | None, Meta(description="Of which `warnings` shows the first.")]
    splits: dict[Split, int] | None
    split: Annotated[str | None, Meta(description="As it was asked for.")]
    seed: int
    frames_per_second: float
    archive_id: str | None
    job_id: Annotated[str, Meta(description="The job that checks it: its progress and its story.")]
    created_by: str
    created_at: str
    classes: list[str] | UnsetType = UNSET
    statistics: DatasetStatistics | UnsetType = UNSET
    warnings: list[DatasetWarning] | UnsetType = UNSET
    near_duplicates: Annotated[
        list[NearDuplicate] | UnsetType, Meta(description="Pairs of different parts that look alike; the first ones.")
    ] = UNSET
    num_near_duplicates: int | UnsetType = UNSET


class ServingProcess(View, frozen=True, kw_only=True):
    """An inference process that holds the model in memory."""

    process: str
    engine: str
    precision: str
    batch_size: int
    threads: int
    sessions: int
    current: Annotated[bool, Meta(description="Whether this is what is to serve; false until it has taken over.")]
    problem: Annotated[str | None, Meta(description="Why it serves this instead of what was activated.")]


class Deployment(View, frozen=True, kw_only=True):
    """The last order of what serves a model, or the default; `serves` is what does serve."""

    model_id: str
    engine: EngineName
    precision: Precision
    batch_size: int
    threads: Annotated[int, Meta(description="Engine threads of a session.")]
    instances: Annotated[int, Meta(description="Sessions side by side.")]
    source: Literal["default", "report", "manual"]
    status: Annotated[
        Literal["activating", "active", "stale", "failed"],
        Meta(
            description="`activating`: it is being tried; `failed`: what served before goes on; `stale`: the machine "
            "or the file changed since, it serves on and is tried anew."
        ),
    ]
    error: Annotated[str | None, Meta(description="Why it failed, or is stale.")] = None
    report_id: str | None = None
    file_sha256: str | None = None
    golden_sha256: Annotated[str | None, Meta(description="Samples that are replayed before it serves.")] = None
    fingerprint: Annotated[str | None, Meta(description="Of the machine and engines it is for.")] = None
    jpeg_scale: DecodedAt = None
    provider: Annotated[str | None, Meta(description="What runs it, as the engine itself says.")] = None
    notes: Annotated[list[str], Meta(description="How it was checked, and how its sessions are spread.")] = []
    job_id: Annotated[str | None, Meta(description="The job that tries it.")] = None
    created_by: str | None = None
    created_at: str | None = None
    activated_at: str | None = None
    serves: Serves
    processes: list[ServingProcess]


# --- jobs, benchmarks, reports ----------------------------------------------------------------------------------------


RequestId = Annotated[
    str | None, Meta(description="`X-Request-ID` of the request behind it; null for what is older than this field.")
]


class JobEvent(View, frozen=True, kw_only=True):
    """Something that happened to a job."""

    time: str
    attempt: int
    event: str
    detail: str
    request_id: RequestId = None


class Job(View, frozen=True, kw_only=True):
    """A unit of work; `events` tell its story where one job is asked for."""

    id: str
    kind: JobKind
    lane: Lane
    status: JobStatus
    priority: int
    attempt: int
    max_attempts: int
    progress: dict[str, Any]
    error: str | None
    cancel_requested: bool
    waiting_for: Annotated[str | None, Meta(description="The job that keeps this queued one from starting.")] = None
    parent_id: str | None
    request_id: RequestId = None
    created_by: str
    created_at: str
    started_at: str | None
    finished_at: str | None
    events: list[JobEvent] | UnsetType = UNSET


class ReportState(View, frozen=True, kw_only=True, omit_defaults=True):
    """How a report is coming along; `error` says why there will be none."""

    status: JobStatus
    error: str | None = None


class AttemptLog(View, frozen=True, kw_only=True):
    """The last lines that the process of one attempt wrote."""

    time: str
    attempt: int
    lines: list[str]


class JobLog(View, frozen=True, kw_only=True):
    """A job's story, and what its processes wrote."""

    id: str
    request_id: RequestId = None
    events: list[JobEvent]
    attempts: list[AttemptLog]


class SearchState(View, frozen=True, kw_only=True):
    """A search for hyper-parameters: what it varies, and what it has found."""

    genes: Annotated[Genes, Meta(description="All that it varies.")]
    outcome: Annotated[
        Outcome | None, Meta(description="After the last trial that ended; values in the order of `ga.objectives`.")
    ]
    latencies: Annotated[
        Latencies | None,
        Meta(description="With the objective `latency_ms`: at each image size, once it is measured."),
    ]
    last_training_id: Annotated[
        str | None, Meta(description="The training with the best hyper-parameters; its model is the search's.")
    ]


class TrainingJob(View, frozen=True, kw_only=True):
    """A training as ordered and as it stands; what it reached once it is completed. `epochs`, `result`, `search` and
    `report` where one is asked for.
    """

    id: str
    status: JobStatus
    progress: Annotated[
        dict[str, Any], Meta(description="`epoch`, `max_epochs`, `loss`, `accuracy` (of the part val), `eta_s`.")
    ]
    task_type: Annotated[Task, Meta(description="Accuracies and losses of different tasks are different measures.")]
    model_id: str
    model_name: str
    dataset_id: str
    dataset_name: str
    config: Annotated[dict[str, Any], Meta(description="As it was ordered.")]
    hyperparams: Annotated[dict[str, Any], Meta(description="As ordered; as they were used once it is completed.")]
    ga: Annotated[dict[str, Any] | None, Meta(description="What a search was ordered with; null for others.")]
    search_id: Annotated[str | None, Meta(description="The search that this is part of; null for others.")]
    final_accuracy: Annotated[
        float | None,
        Meta(
            description="Of the best epoch, on the part val: the share of images a classifier recognises, or a "
            "detector's mean average precision over IoU 0.50 to 0.95."
        ),
    ]
    final_loss: float | None
    best_epoch: Annotated[int | None, Meta(description="Whose weights the new model has.")]
    duration_s: Annotated[float | None, Meta(description="Of all epochs, whatever happened between them.")]
    latency_ms: Annotated[
        float | None,
        Meta(description="Of its network for one image, as its search measured it; null where that was no objective."),
    ]
    result_model_id: Annotated[str | None, Meta(description="The model that was made; it is ready.")]
    error: str | None
    cancel_requested: bool
    request_id: RequestId = None
    created_by: str
    created_at: str
    started_at: str | None
    finished_at: str | None
    epochs: Annotated[list[EpochFigures] | UnsetType, Meta(description="The learning curves so far.")] = UNSET
    result: TrainingResult | UnsetType | None = UNSET
    search: Annotated[
        SearchState | UnsetType | None, Meta(description="Of a training with `ga`: its trials have `search_id`.")
    ] = UNSET
    report: Annotated[
        ReportState | UnsetType | None,
        Meta(description="How its report is coming along; null before the end."),
    ] = UNSET


class TrainingDifference(View, frozen=True, kw_only=True):
    """Something that two trainings do not have in common; `delta` is b less a, of numbers."""

    name: str
    a: Any
    b: Any
    delta: float | None = None


class TrainingComparison(View, frozen=True, kw_only=True):
    """Two trainings side by side."""

    a: TrainingJob
    b: TrainingJob
    order: Annotated[
        list[TrainingDifference],
        Meta(description="What they began with and does not agree: model, data, seed, hyper-parameters, versions."),
    ]
    outcome: Annotated[list[TrainingDifference], Meta(description="What they reached; null where one did not end.")]
    note: Annotated[
        str | None, Meta(description="Of trainings of different tasks: which figures are different measures.")
    ] = None


class BenchmarkJob(View, frozen=True, kw_only=True):
    """A benchmark as ordered and as it stands. `report` follows the report, null until the measuring is done."""

    id: str
    status: JobStatus
    progress: dict[str, Any]
    model_id: str
    config: dict[str, Any]
    report_id: str | None
    report: ReportState | None = None
    error: str | None
    cancel_requested: bool
    request_id: RequestId = None
    created_by: str
    created_at: str
    started_at: str | None
    finished_at: str | None
    noise_floor: Annotated[
        NoiseFloor | UnsetType | None,
        Meta(
            description="While it waits: how far apart equals end up on this machine, last measured with these "
            "engines and drivers. Candidates within twice that of each other tie, and within 5 % in any case. Null: "
            "nobody measured it."
        ),
    ] = UNSET


class ReportRef(View, frozen=True, kw_only=True):
    """A report in a list; `formats` are those it can be exported in."""

    id: str
    benchmark_id: str
    model_id: str
    selected_engine: str | None
    content_sha256: str
    formats: list[str]
    created_at: str


class PastFigure(View, frozen=True, kw_only=True, omit_defaults=True):
    """A figure with its 95 % bounds, where it has them."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0


class PastChoice(View, frozen=True, kw_only=True):
    """What one benchmark chose, and how it did; figures compare where `fingerprint` and `objective` are the same.

    All from the report's record; null where that file is gone.
    """

    report_id: str
    benchmark_id: str
    model_id: str
    measured_at: str
    objective: str | None
    fingerprint: str | None
    dirty: bool | None
    fragile: bool | None
    num_measured: int
    num_rejected: int
    selected: Candidate | None
    figures: dict[MetricName, PastFigure]


# --- inference --------------------------------------------------------------------------------------------------------


class ServedModel(View, frozen=True, kw_only=True):
    """A model that takes predictions."""

    id: str
    name: str
    task_type: Task
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    labels: list[str] | None
    notes: Annotated[list[str], Meta(description="What whoever reads its answers should know.")]
    engine: EngineName
    precision: Precision
    batch_size: int


class OpenServer(View, frozen=True, kw_only=True):
    """This server, as the Open Inference Protocol introduces one."""

    name: str
    version: str
    extensions: list[str]


class OpenLive(View, frozen=True, kw_only=True):
    """The process runs."""

    live: bool


class OpenReady(View, frozen=True, kw_only=True):
    """Requests may be sent here."""

    ready: bool


class OpenTensor(View, frozen=True, kw_only=True):
    """An input or output of a model."""

    name: str
    datatype: Datatype
    shape: Annotated[list[int], Meta(description="-1 for an axis of any length; the first is the batch.")]


class OpenModel(View, frozen=True, kw_only=True):
    """A model, as the Open Inference Protocol describes one."""

    name: Annotated[str, Meta(description="As it was asked for: the id or the name.")]
    versions: list[str]
    platform: Annotated[str, Meta(description="The engine that serves it, and the form of its file.")]
    inputs: list[OpenTensor]
    outputs: list[OpenTensor]


class OpenBinary(View, frozen=True, kw_only=True):
    """That the values of an output are behind the JSON."""

    binary_data_size: int


class OpenOutput(View, frozen=True, kw_only=True, omit_defaults=True):
    """An output of an inference: `data`, a flat list, or `parameters` with the size of its binary data."""

    name: str
    datatype: Datatype
    shape: list[int]
    parameters: OpenBinary | UnsetType = UNSET
    data: msgspec.Raw | UnsetType = UNSET


class OpenAnswer(View, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to an inference; binary data follow it in the order of its outputs."""

    model_name: str
    model_version: str
    id: Annotated[str | UnsetType, Meta(description="Of the request, where it has one.")] = UNSET
    outputs: list[OpenOutput]


class OpenModelReady(View, frozen=True, kw_only=True):
    """A model that takes predictions."""

    name: str
    ready: bool


class ModelHealth(View, frozen=True, kw_only=True):
    """How a model does in one inference process; what no request has shown lately is probed."""

    process: str
    last_success_s: Annotated[
        float, Meta(description="Seconds since it last answered a request, passed a probe, or was loaded.")
    ]
    probes: Annotated[
        int,
        Meta(
            description="How often it had to answer its golden samples (zeros, where it has none): 20 s after its last "
            "request, and every 5 minutes without any."
        ),
    ]
    failed_probes: Annotated[int, Meta(description="After one it is loaded again, after the next the process ends.")]
    failure: Annotated[str | None, Meta(description="What it failed at since its last success.")]


class LoadedModel(View, frozen=True, kw_only=True):
    """A model that inference processes hold in memory now."""

    id: str
    engine: str
    precision: str
    batch_size: int
    threads: int
    sessions: Annotated[int, Meta(description="In each of the processes.")]
    loaded_in: list[str]
    memory_mb: float
    gpu_memory_mb: float
    problem: Annotated[str | None, Meta(description="Why it serves instead of what was activated.")]
    health: Annotated[list[ModelHealth], Meta(description="In each of the processes.")]


class Workers(View, frozen=True, kw_only=True):
    """Inference processes; `lost` are those that should be there and are not."""

    total: int
    busy: int
    idle: int
    lost: int


class InferenceProcess(View, frozen=True, kw_only=True):
    """An inference process that is there."""

    id: str
    state: Annotated[
        Literal["idle", "busy", "failing", "silent"],
        Meta(
            description="`failing`: the last three requests it had failed through its own fault, or were not answered "
            "in time. `silent`: no sign of life for three seconds. Much to do is neither."
        ),
    ]
    answered: Annotated[int, Meta(description="Requests since the broker knows it.")]
    last_answer_s: Annotated[
        float | None, Meta(description="Seconds since it last answered one; null if it never did.")
    ]
    last_sign_s: Annotated[float, Meta(description="Seconds since it was last heard of, at work or not.")]


class Queue(View, frozen=True, kw_only=True):
    """Requests that wait for inference."""

    depth: int
    limit: int
    mb: float


class Waiting(View, frozen=True, kw_only=True):
    """Who waits for what."""

    models: Annotated[dict[str, int], Meta(description="Requests that wait, by id of the model.")]
    callers: Annotated[int, Meta(description="API keys and users whose requests they are; each has an equal share.")]
    images_per_s: Annotated[
        float | None, Meta(description="What was answered a second while requests last waited; null until it is known.")
    ]


class ModelMemory(View, frozen=True, kw_only=True):
    """What loaded models take, in all inference processes together; counts are since each of these started."""

    limit_mb: Annotated[float, Meta(description="INFERENCE_MEMORY_MB, divided among the processes.")]
    used_mb: float
    gpu_limit_mb: Annotated[
        float, Meta(description="GPU_MEMORY_MB, or all that the GPU has, divided among the processes; 0 without a GPU.")
    ]
    gpu_used_mb: float
    loads: int
    load_s: Annotated[float, Meta(description="Time that loading took, all loads together.")]
    unloads: Annotated[int, Meta(description="Of models that made room for others.")]
    cold_requests: Annotated[
        int, Meta(description="Requests that had to wait for their model to be loaded, since the broker started.")
    ]


class InferenceHealth(View, frozen=True, kw_only=True):
    """The inference lane now. `down`: nobody is there, or whoever is there only fails; much to do is `ok`."""

    status: Literal["ok", "degraded", "down"]
    workers: Workers
    number_found_by: Annotated[
        str, Meta(description="Why there are so many processes: somebody set it, or what a measurement or count gave.")
    ]
    processes: list[InferenceProcess]
    queue: Queue
    waiting: Waiting
    memory: ModelMemory
    models: list[LoadedModel]


# --- system -----------------------------------------------------------------------------------------------------------

State = Literal["ok", "degraded", "down"]


class Component(View, frozen=True, kw_only=True):
    """One part of the platform."""

    status: State
    detail: str = ""


class Health(View, frozen=True, kw_only=True):
    """The platform as a whole; `components` for signed-in users only.

    `inference` is `down` while every prediction is refused, and then `status` is too.
    """

    status: State
    version: str
    inference: State
    components: dict[str, Component] | UnsetType = UNSET


class Probe(View, frozen=True, kw_only=True):
    """The answer to a probe, with the reason where it is no."""

    status: Literal["ok", "unavailable"]
    detail: str = ""


class Alert(View, frozen=True, kw_only=True):
    """Something wrong with the platform; null `cleared_at`: it still is."""

    id: str
    name: str
    message: str
    raised_at: str
    cleared_at: str | None


class AuditEntry(View, frozen=True, kw_only=True):
    """One action, done or refused: `action` is the call, `resource` what it was about, `result` the HTTP status.

    Null `user_id`: nobody was signed in; a failed sign-in names its user all the same, if there is one of that name.
    """

    id: str
    at: str
    request_id: str
    user_id: str | None
    username: str | None
    action: str
    resource: str
    result: str


class JobFigures(View, frozen=True, kw_only=True):
    """Jobs that run, and those that wait by kind."""

    active: int
    queued: dict[JobKind, int]


class StageLatency(View, frozen=True, kw_only=True):
    """Milliseconds over the last minute, estimated from buckets; null without a prediction."""

    p50: float | None
    p95: float | None


StageLatencies = dict[Literal["queue", "decode", "inference", "total"], StageLatency]


class Batches(View, frozen=True, kw_only=True):
    """Batches of a model since the gateway started."""

    count: int
    mean_images: float | None
    cut: Annotated[
        dict[Literal["full", "drained", "alone"], int],
        Meta(
            description="Why there were no more requests in them: the next did not fit, none waited, or its request "
            "runs by itself because its last batch died with its process."
        ),
    ]


class ModelFigures(View, frozen=True, kw_only=True):
    """A model: `requests`, `errors` by code and `batches` since the gateway started, the rest over the last minute."""

    id: str
    name: str
    requests: int
    errors: dict[str, int]
    rate: Annotated[float, Meta(description="Requests a second.")]
    latency_ms: StageLatencies
    batches: Batches


class InferenceFigures(View, frozen=True, kw_only=True):
    """Predictions: `requests` and `errors` by code since the gateway started, the rest over the last minute."""

    requests: int
    errors: dict[str, int]
    rate: Annotated[float, Meta(description="Requests a second.")]
    latency_ms: StageLatencies
    queue: Queue
    models: Annotated[list[ModelFigures], Meta(description="The hundred that were asked last.")]


class Cpu(View, frozen=True, kw_only=True):
    """`util_pct` of all cores together; each service in percent of one core."""

    cores: int
    util_pct: float
    services: dict[str, float]


class Memory(View, frozen=True, kw_only=True):
    """Of the machine, and resident by service."""

    total_mb: float
    available_mb: float
    services: dict[str, float]


class DiskSpace(View, frozen=True, kw_only=True):
    """The disk behind one of our folders."""

    free_mb: float
    size_mb: float


class HttpFigures(View, frozen=True, kw_only=True):
    """Requests a second, and the share answered 5xx (0 to 1), over the last minute."""

    rate: float
    error_rate: float


class Metrics(View, frozen=True, kw_only=True):
    """The platform's figures; `jobs` is null while the database does not answer, `gpu` without one."""

    jobs: JobFigures | None
    inference: InferenceFigures
    gpu: list[Gpu] | None
    cpu: Cpu
    memory: Memory
    disk: dict[str, DiskSpace]
    http: HttpFigures


class Setting(View, frozen=True, kw_only=True):
    """A setting in force and where it came from."""

    name: str
    value: str
    origin: str
    meaning: str
