"""The tables as peewee sees them: columns only, no behaviour. The schema itself is in `migrations/`."""

from __future__ import annotations

from typing import Any

import msgspec
import peewee

from shared.db.connection import database
from shared.specs import (
    ConversionFacts,
    DatasetSummary,
    Lineage,
    ModelDescription,
    Preset,
    TrainingResult,
    canonical_json,
)


class Json(peewee.TextField):
    """A value kept as canonical JSON text.

    Args:
        shape: The type it is read back as; without one, builtins that callers convert.
    """

    def __init__(self, *args: Any, shape: Any = Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._decoder = msgspec.json.Decoder(shape)

    def db_value(self, value: Any) -> str | None:
        """Value to text."""
        return None if value is None else canonical_json(value).decode()

    def python_value(self, value: str | None) -> Any:
        """Text to the value."""
        return None if value is None else self._decoder.decode(value)


class Table(peewee.Model):
    """Base: every table lives in the one database."""

    class Meta:
        """Binding to the database of the process."""

        database = database
        legacy_table_names = False


class User(Table):
    """Somebody who may sign in; kept after deletion for the history that names them."""

    id = peewee.TextField(primary_key=True)
    username = peewee.TextField()
    password_hash = peewee.TextField()
    role = peewee.TextField()
    created_at_ms = peewee.IntegerField()
    deleted_at_ms = peewee.IntegerField(null=True)

    class Meta:
        """Name."""

        table_name = "users"


class Session(Table):
    """A sign-in; its id is the `jti` of the token, so a token lives only as long as its row."""

    id = peewee.TextField(primary_key=True)
    user_id = peewee.TextField()
    created_at_ms = peewee.IntegerField()
    expires_at_ms = peewee.IntegerField()
    revoked_at_ms = peewee.IntegerField(null=True)

    class Meta:
        """Name."""

        table_name = "sessions"


class ApiKey(Table):
    """A key for programs, kept as its SHA-256."""

    id = peewee.TextField(primary_key=True)
    user_id = peewee.TextField()
    name = peewee.TextField()
    key_sha256 = peewee.TextField()
    hint = peewee.TextField()
    created_at_ms = peewee.IntegerField()
    expires_at_ms = peewee.IntegerField(null=True)
    revoked_at_ms = peewee.IntegerField(null=True)
    job_id = peewee.TextField(null=True)

    class Meta:
        """Name."""

        table_name = "api_keys"


class Idempotency(Table):
    """An `Idempotency-Key` and the answer it got; no status means the first request is still under way."""

    user_id = peewee.TextField()
    route = peewee.TextField()
    key = peewee.TextField()
    body_sha256 = peewee.TextField()
    status = peewee.IntegerField(null=True)
    response = Json(null=True)
    location = peewee.TextField(null=True)
    created_at_ms = peewee.IntegerField()

    class Meta:
        """Name and key."""

        table_name = "idempotency"
        primary_key = peewee.CompositeKey("user_id", "route", "key")


class Artifact(Table):
    """A content-addressed file; several rows elsewhere may point to it."""

    sha256 = peewee.TextField(primary_key=True)
    store = peewee.TextField()
    size_bytes = peewee.IntegerField()
    created_at_ms = peewee.IntegerField()

    class Meta:
        """Name."""

        table_name = "artifacts"


class Model(Table):
    """A model somebody uploaded, or one of ours."""

    id = peewee.TextField(primary_key=True)
    name = peewee.TextField()
    description = peewee.TextField()
    model_type = peewee.TextField()
    framework = peewee.TextField()
    task_type = peewee.TextField()
    status = peewee.TextField()
    error = peewee.TextField(null=True)
    file_sha256 = peewee.TextField()
    file_size = peewee.IntegerField()
    onnx_sha256 = peewee.TextField(null=True)
    onnx_size = peewee.IntegerField(null=True)
    preprocessing = Json(null=True)
    labels = Json(null=True)
    description_json = Json(null=True, shape=ModelDescription)
    architecture = peewee.TextField(null=True)
    weights_sha256 = peewee.TextField(null=True)
    conversion = Json(null=True, shape=ConversionFacts)
    preset = Json(null=True, shape=Preset)
    lineage = Json(null=True, shape=Lineage)
    parent_id = peewee.TextField(null=True)
    job_id = peewee.TextField(null=True)
    created_by = peewee.TextField()
    created_at_ms = peewee.IntegerField()
    deleted_at_ms = peewee.IntegerField(null=True)

    class Meta:
        """Name."""

        table_name = "models"


class EngineFile(Table):
    """A model's file in another precision, made by a benchmark; a row goes with its model."""

    model_id = peewee.TextField()
    precision = peewee.TextField()
    sha256 = peewee.TextField()
    size_bytes = peewee.IntegerField()
    recipe = Json()
    notes = Json()
    created_at_ms = peewee.IntegerField()

    class Meta:
        """Name and key."""

        table_name = "engine_files"
        primary_key = peewee.CompositeKey("model_id", "sha256")


class Dataset(Table):
    """A dataset somebody uploaded. Counts and files are there once it is ready."""

    id = peewee.TextField(primary_key=True)
    name = peewee.TextField()
    description = peewee.TextField()
    task_type = peewee.TextField()
    status = peewee.TextField()
    error = peewee.TextField(null=True)
    file_sha256 = peewee.TextField()
    file_size = peewee.IntegerField()
    archive_id = peewee.TextField(null=True)
    split = Json(null=True)
    seed = peewee.IntegerField()
    frames_per_second = peewee.FloatField()
    index_sha256 = peewee.TextField(null=True)
    pack_sha256 = peewee.TextField(null=True)
    sheet_sha256 = peewee.TextField(null=True)
    prepared_size = peewee.IntegerField(null=True)
    num_samples = peewee.IntegerField(null=True)
    num_classes = peewee.IntegerField(null=True)
    num_warnings = peewee.IntegerField(null=True)
    splits = Json(null=True)
    summary = Json(null=True, shape=DatasetSummary)
    job_id = peewee.TextField()
    created_by = peewee.TextField()
    created_at_ms = peewee.IntegerField()
    deleted_at_ms = peewee.IntegerField(null=True)

    class Meta:
        """Name."""

        table_name = "datasets"


class Job(Table):
    """Work that is done once; the one truth about its state."""

    id = peewee.TextField(primary_key=True)
    kind = peewee.TextField()
    lane = peewee.TextField()
    isolation = peewee.TextField()
    heavy = peewee.BooleanField(default=False)
    spec = Json()
    spec_version = peewee.IntegerField(default=1)
    status = peewee.TextField()
    priority = peewee.IntegerField()
    attempt = peewee.IntegerField(default=0)
    max_attempts = peewee.IntegerField(default=3)
    max_runtime_s = peewee.FloatField()
    not_before_ms = peewee.IntegerField(default=0)
    ordered_at_ms = peewee.IntegerField()
    progress = Json(default=dict)
    error = peewee.TextField(null=True)
    cancel_requested = peewee.BooleanField(default=False)
    worker = peewee.TextField(null=True)
    parent_id = peewee.TextField(null=True)
    request_id = peewee.TextField(null=True)
    traceparent = peewee.TextField(null=True)
    created_by = peewee.TextField()
    created_at_ms = peewee.IntegerField()
    started_at_ms = peewee.IntegerField(null=True)
    finished_at_ms = peewee.IntegerField(null=True)

    class Meta:
        """Name."""

        table_name = "jobs"


class JobEvent(Table):
    """What happened to a job, in order; rows are only ever added."""

    id = peewee.AutoField()
    job_id = peewee.TextField()
    at_ms = peewee.IntegerField()
    attempt = peewee.IntegerField()
    event = peewee.TextField()
    detail = peewee.TextField(default="")
    request_id = peewee.TextField(null=True)

    class Meta:
        """Name."""

        table_name = "job_events"


class Training(Table):
    """Details of a training job; shares its id with the job. `hyperparams` are those used, once there is a result."""

    id = peewee.TextField(primary_key=True)
    model_id = peewee.TextField()
    dataset_id = peewee.TextField()
    user_id = peewee.TextField()
    search_id = peewee.TextField(null=True)
    hyperparams = Json()
    ga_config = Json(null=True)
    max_epochs = peewee.IntegerField()
    validation_split = peewee.FloatField(null=True)
    final_accuracy = peewee.FloatField(null=True)
    final_loss = peewee.FloatField(null=True)
    best_epoch = peewee.IntegerField(null=True)
    duration_s = peewee.FloatField(null=True)
    latency_ms = peewee.FloatField(null=True)
    result = Json(null=True, shape=TrainingResult)
    result_model_id = peewee.TextField(null=True)
    created_at_ms = peewee.IntegerField()

    class Meta:
        """Name."""

        table_name = "training_jobs"


class TrainingEpoch(Table):
    """A point of a training's learning curves (`specs.EpochFigures`)."""

    training_id = peewee.TextField()
    epoch = peewee.IntegerField()
    figures = Json()

    class Meta:
        """Name and key."""

        table_name = "training_epochs"
        primary_key = peewee.CompositeKey("training_id", "epoch")


class Search(Table):
    """Details of a search beside its `Training`; shares its id with the job."""

    id = peewee.TextField(primary_key=True)
    opening = Json()
    outcome = Json(null=True)
    final_id = peewee.TextField(null=True)
    measurement_id = peewee.TextField(null=True)
    latencies = Json(null=True)

    class Meta:
        """Name."""

        table_name = "searches"


class SearchTrial(Table):
    """A trial that a search asked for, the job that trains it, and what came of it."""

    search_id = peewee.TextField()
    number = peewee.IntegerField()
    job_id = peewee.TextField()
    trial = Json()
    result = Json(null=True)

    class Meta:
        """Name and key."""

        table_name = "search_trials"
        primary_key = peewee.CompositeKey("search_id", "number")


class Benchmark(Table):
    """Details of a benchmark job; shares its id with the job."""

    id = peewee.TextField(primary_key=True)
    model_id = peewee.TextField()
    user_id = peewee.TextField()
    measurements_sha256 = peewee.TextField(null=True)
    created_at_ms = peewee.IntegerField()

    class Meta:
        """Name."""

        table_name = "benchmark_jobs"


class BenchmarkResult(Table):
    """The figures of one candidate, for history and comparison; the raw samples are in the measurement set."""

    id = peewee.AutoField()
    benchmark_id = peewee.TextField()
    engine = peewee.TextField()
    precision = peewee.TextField()
    batch_size = peewee.IntegerField()
    threads = peewee.IntegerField()
    instances = peewee.IntegerField()
    status = peewee.TextField()
    reason = peewee.TextField(null=True)
    latency_mean_ms = peewee.FloatField(null=True)
    latency_p50_ms = peewee.FloatField(null=True)
    latency_p95_ms = peewee.FloatField(null=True)
    latency_p99_ms = peewee.FloatField(null=True)
    throughput_fps = peewee.FloatField(null=True)
    cpu_util_pct = peewee.FloatField(null=True)
    gpu_util_pct = peewee.FloatField(null=True)
    memory_mb = peewee.FloatField(null=True)
    vram_usage_mb = peewee.FloatField(null=True)
    power_draw_w = peewee.FloatField(null=True)
    load_ms = peewee.FloatField(null=True)
    artifact_mb = peewee.FloatField(null=True)
    accuracy = peewee.FloatField(null=True)
    accuracy_drop = peewee.FloatField(null=True)
    golden_sha256 = peewee.TextField(null=True)

    class Meta:
        """Name."""

        table_name = "benchmark_results"


class NoiseFloorRow(Table):
    """How far apart equal candidates end up on a machine (`specs.NoiseFloor`), the last time it was measured."""

    fingerprint = peewee.TextField(primary_key=True)
    value = peewee.FloatField()
    runs = peewee.IntegerField()
    measured_at = peewee.TextField()
    benchmark_id = peewee.TextField()

    class Meta:
        """Name."""

        table_name = "noise_floors"


class Report(Table):
    """A written report: its record and renderings are artifacts, named in `files`."""

    id = peewee.TextField(primary_key=True)
    benchmark_id = peewee.TextField()
    model_id = peewee.TextField()
    selected_engine = peewee.TextField(null=True)
    content_sha256 = peewee.TextField()
    files = Json()
    created_at_ms = peewee.IntegerField()

    class Meta:
        """Name."""

        table_name = "reports"


class TrainingReport(Table):
    """A written report of a training: files by name, as in `Report`."""

    training_id = peewee.TextField(primary_key=True)
    content_sha256 = peewee.TextField()
    files = Json()
    created_at_ms = peewee.IntegerField()

    class Meta:
        """Name."""

        table_name = "training_reports"


class Deployment(Table):
    """What somebody ordered to serve a model (`shared.db.deployments`); without one ONNX Runtime FP32 serves."""

    id = peewee.TextField(primary_key=True)
    model_id = peewee.TextField()
    engine = peewee.TextField()
    precision = peewee.TextField()
    batch_size = peewee.IntegerField()
    threads = peewee.IntegerField()
    source = peewee.TextField()
    status = peewee.TextField()
    report_id = peewee.TextField(null=True)
    fingerprint = peewee.TextField()
    created_by = peewee.TextField()
    created_at_ms = peewee.IntegerField()
    instances = peewee.IntegerField(default=1)
    file_sha256 = peewee.TextField(null=True)
    golden_sha256 = peewee.TextField(null=True)
    job_id = peewee.TextField(null=True)
    error = peewee.TextField(null=True)
    provider = peewee.TextField(null=True)
    notes = Json(default=[], shape=list[str])
    activated_at_ms = peewee.IntegerField(null=True)
    retired_at_ms = peewee.IntegerField(null=True)
    jpeg_scale = peewee.IntegerField(null=True)

    class Meta:
        """Name."""

        table_name = "deployments"


class Alert(Table):
    """Something wrong with the platform, from when to when; one row an occasion."""

    id = peewee.AutoField()
    name = peewee.TextField()
    message = peewee.TextField()
    raised_at_ms = peewee.IntegerField()
    cleared_at_ms = peewee.IntegerField(null=True)

    class Meta:
        """Name."""

        table_name = "alerts"


class AuditEntry(Table):
    """An action, done or refused."""

    id = peewee.AutoField()
    at_ms = peewee.IntegerField()
    request_id = peewee.TextField()
    user_id = peewee.TextField(null=True)
    action = peewee.TextField()
    resource = peewee.TextField()
    result = peewee.TextField()

    class Meta:
        """Name."""

        table_name = "audit_log"


class Revision(Table):
    """Counters that tell caches to read again; bumped in the transaction that changed something."""

    name = peewee.TextField(primary_key=True)
    value = peewee.IntegerField()

    class Meta:
        """Name."""

        table_name = "revisions"
