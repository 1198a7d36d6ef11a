"""Models and what serves them: rows for the gateway and the preparer, a catalogue for the inferencers."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any, Literal, cast

import msgspec
import peewee

from shared import clock, errors, ids
from shared.db import connection, jobs, pages
from shared.db.tables import Artifact, Benchmark, BenchmarkResult, Dataset, Deployment, EngineFile, Job, Model, Revision
from shared.specs import (
    Candidate,
    EngineName,
    JpegScale,
    ModelDescription,
    Precision,
    PreparedFile,
    Preprocessing,
    Preset,
    Scores,
    Stored,
    Task,
    TensorInfo,
)

PLATFORM = "usr_platform"
"""Owner of what comes with the platform: a user nobody can be."""

DEFAULT_BATCH = 4
"""Largest batch the default deployment forms from waiting requests, for models with a dynamic batch."""

_seen = threading.local()
"""The revisions as this thread read them last, and the version of the database that they belong to."""

FINISHED_GRAPH = "{} is a finished graph; training needs a network by name: PyTorch weights with `architecture`."
SOURCES: dict[str, str] = {
    "onnx": "An ONNX file",
    "tensorflow": "A TensorFlow or Keras model",
    "pytorch": "A TorchScript archive",
}

FILES: dict[type[Any], tuple[peewee.Field, ...]] = {
    Model: (Model.file_sha256, Model.onnx_sha256, Model.weights_sha256),
    Dataset: (Dataset.file_sha256, Dataset.index_sha256, Dataset.pack_sha256, Dataset.sheet_sha256),
}
"""The columns that name files of rows which users delete; those of engine files go with their model."""


class Serves(msgspec.Struct, frozen=True, kw_only=True):
    """How a model is served now: an active deployment, or the default (ONNX Runtime FP32, one thread)."""

    engine: EngineName
    precision: Precision
    batch_size: int
    threads: int
    instances: int | None = None
    """Sessions in all; None: one in each inference process."""
    source: Literal["default", "report", "manual"]
    status: Literal["active", "stale"] = "active"
    deployment_id: str = ""
    file_sha256: str | None = None
    """None: the model's own."""
    golden_sha256: str | None = None
    activated_at_ms: int | None = None
    """None for the default, which was never activated."""
    jpeg_scale: JpegScale | None = None
    """None: as the model's contract says."""


_SERVES = tuple(name for name in Serves.__struct_fields__ if name != "deployment_id")
"""Its fields that are columns of a deployment by the same name."""


class CatalogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A ready model as the serving side needs it."""

    model_id: str
    name: str
    task_type: Task
    onnx_sha256: str
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    dynamic_batch: bool
    preprocessing: Preprocessing | None
    labels: list[str] | None
    scores: Scores
    """What the model gives where `preprocessing` does not say it."""
    notes: list[str]
    serves: Serves


def revisions() -> dict[str, int]:
    """The counters `access` and `models`; a cache whose counter moved reads again."""
    with connection.read():
        version = connection.version()
        if version is None or version != getattr(_seen, "version", None):
            _seen.revisions = {row.name: row.value for row in Revision.select()}
            _seen.version = version
        return dict(_seen.revisions)


def bump(name: Literal["access", "models"]) -> None:
    """Announce a change, inside the `write()` that makes it."""
    Revision.update(value=Revision.value + 1).where(Revision.name == name).execute()


def keep_artifact(stored: Stored, store: Literal["models", "datasets", "reports"]) -> None:
    """Record a published file, inside the caller's `write()`.

    Raises:
        errors.Conflict: The same bytes are in another store; a row names one place.
    """
    before = Artifact.get_or_none(Artifact.sha256 == stored.sha256)
    if before is not None and before.store != store:
        raise errors.Conflict(f"The same file is here already, among the {before.store}; it cannot be both.")
    Artifact.insert(
        sha256=stored.sha256, store=store, size_bytes=stored.size_bytes, created_at_ms=clock.now_ms()
    ).on_conflict_ignore().execute()


def named(sha256s: Iterable[str]) -> set[str]:
    """Those of the files that have a row."""
    with connection.read():
        return {row.sha256 for row in Artifact.select(Artifact.sha256).where(Artifact.sha256.in_(list(sha256s)))}


def add_model(stored: Stored, user_id: str, **fields: Any) -> str:
    """Insert an uploaded model that waits for its check, inside the caller's `write()`; returns its id."""
    return _add(stored, user_id, model_type="custom", **fields)


def add_preset(preset: Preset, stored: Stored) -> str:
    """The same for a model that comes with the platform; `stored` is its descriptor."""
    return _add(
        stored,
        PLATFORM,
        model_type="preset",
        preset=preset,
        name=preset.name,
        description=preset.description,
        framework="pytorch",
        task_type=preset.architecture.task,
        architecture=preset.architecture.name,
        preprocessing=preset.architecture.preprocessing,
    )


def set_job(model_id: str, job_id: str) -> None:
    """Note the job that makes a model ready; inside the `write()` that inserts it."""
    Model.update(job_id=job_id).where(Model.id == model_id).execute()


def presets() -> list[Model]:
    """The presets there are and those that were deleted, oldest first."""
    with connection.read():
        return list(Model.select().where(Model.model_type == "preset").order_by(Model.id))


def set_failed(model_id: str, reason: str) -> None:
    """A model cannot be made ready; inside the caller's `write()`."""
    Model.update(status="failed", error=reason).where(Model.id == model_id).execute()
    bump("models")


def set_converting(model_id: str) -> None:
    """One that had failed is tried again; inside the caller's `write()`."""
    Model.update(status="converting", error=None).where(Model.id == model_id).execute()
    bump("models")


def add_trained(
    weights: Stored, onnx: Stored, described: ModelDescription, *, parent: Any, user_id: str, **fields: Any
) -> str:
    """Insert a model that a training made, ready, and the rows of its files; inside the caller's `write()`."""
    for stored in (weights, onnx):
        keep_artifact(stored, "models")
    return _add(
        weights,
        user_id,
        status="ready",
        model_type="custom",
        framework="pytorch",
        task_type=parent.task_type,
        parent_id=parent.id,
        weights_sha256=weights.sha256,
        onnx_sha256=onnx.sha256,
        onnx_size=onnx.size_bytes,
        labels=described.labels,
        preprocessing=described.preprocessing,
        description_json=described,
        **fields,
    )


def why_not_trainable(row: Any) -> str | None:
    """What keeps a model from being trained further; None where nothing does."""
    if row.framework == "pytorch" and row.status != "ready":
        return "It was not converted." if row.status == "failed" else "It is being converted."
    return None if row.weights_sha256 else FINISHED_GRAPH.format(SOURCES[row.framework])


def _add(stored: Stored, user_id: str, *, status: str = "converting", **fields: Any) -> str:
    model_id = ids.new_id("mdl")
    Model.insert(
        id=model_id,
        status=status,
        file_sha256=stored.sha256,
        file_size=stored.size_bytes,
        created_by=user_id,
        created_at_ms=clock.now_ms(),
        **fields,
    ).execute()
    bump("models")
    return model_id


WORK_WITH: dict[str, str] = {"benchmark": "benchmarks", "train": "trains", "search": "searches with"}
"""Jobs that a model is needed for until they end, and what they do with it."""

SERVING = ("active", "stale")
"""What a deployment is while it serves its model; it has one of them at most."""


def _with_serving() -> Any:
    """Models that are not deleted, each with what was activated for it: `serves_engine` and so on, null without."""
    columns = [getattr(Deployment, name).alias(f"serves_{name}") for name in _SERVES]
    active = (Deployment.model_id == Model.id) & Deployment.status.in_(SERVING)
    query = Model.select(Model, Deployment.id.alias("serves_deployment_id"), *columns)
    return query.join(Deployment, peewee.JOIN.LEFT_OUTER, on=active).where(Model.deleted_at_ms.is_null())


_MODELS = pages.List(
    _with_serving(),
    Model.id,
    "mdl",
    name=Model.name,
    model_type=Model.model_type,
    task_type=Model.task_type,
    status=Model.status,
)


def models(
    *,
    name: str | None = None,
    model_type: str | None = None,
    task_type: Task | None = None,
    status: str | None = None,
    limit: int,
    cursor: str | None,
) -> pages.Page[Any]:
    """Models that are not deleted, as `pages.stored`, newest first, with what serves them (`activated`); None
    filters nothing.
    """
    return _MODELS.page(limit, cursor, name=name, model_type=model_type, task_type=task_type, status=status)


def model(model_id: str) -> Model:
    """The row of a model that is not deleted.

    Raises:
        errors.NotFound: No such model.
    """
    with connection.read():
        row = _present(model_id).first()
    if row is None:
        raise _no_such(model_id)
    return cast(Model, row)


def stored_model(model_id: str) -> Any:
    """The same as the list has it.

    Raises:
        errors.NotFound: No such model.
    """
    rows = pages.stored(_with_serving().where(Model.id == model_id))
    if not rows:
        raise _no_such(model_id)
    return rows[0]


def _present(model_id: str) -> Any:
    return Model.select().where((Model.id == model_id) & Model.deleted_at_ms.is_null())


def _no_such(model_id: str) -> errors.NotFound:
    return errors.NotFound(
        f"There is no model {model_id[:80]!r}; GET /api/v1/models lists them (GET /api/v1/inference/models those "
        "that predict)."
    )


def described(row: Model) -> ModelDescription:
    """What the check found out about a ready model.

    Raises:
        errors.Conflict: The model is not ready.
    """
    if row.status != "ready":
        if row.status == "failed":
            raise errors.Conflict(f"Model {row.id} cannot be used: its check failed. {row.error}")
        raise errors.Conflict(f"Model {row.id} cannot be used yet: it is {row.status}; wait until its status is ready.")
    description: ModelDescription = row.description_json
    return description


def serves(model_id: str, description: ModelDescription) -> Serves:
    """What serves a model: its active deployment, else the default."""
    with connection.read():
        row = _active().where(Deployment.model_id == model_id).first()
    return default(dynamic_batch=description.dynamic_batch) if row is None else _serves(row)


def default(*, dynamic_batch: bool) -> Serves:
    """What serves a model for which nothing was activated, by whether it takes any batch."""
    batch = DEFAULT_BATCH if dynamic_batch else 1
    return Serves(engine="onnxruntime", precision="fp32", batch_size=batch, threads=1, source="default")


def incumbent(model_id: str) -> Candidate | None:
    """What somebody activated for a model; None while its default serves."""
    with connection.read():
        row = _active().where(Deployment.model_id == model_id).first()
    if row is None:
        return None
    fields = {name: getattr(row, name) for name in Candidate.__struct_fields__}
    return msgspec.convert(fields, Candidate)


def _active() -> Any:
    return Deployment.select().where(Deployment.status.in_(SERVING))


def _serves(row: Deployment) -> Serves:
    fields = {field: getattr(row, field) for field in _SERVES}
    return msgspec.convert(fields | {"deployment_id": row.id}, Serves)


def activated(row: Any) -> Serves | None:
    """What was activated for a model, from a row of the list; None where its default serves."""
    if row.serves_deployment_id is None:
        return None
    return Serves(**{name: getattr(row, f"serves_{name}") for name in Serves.__struct_fields__})


def catalog_entry(model_id: str) -> CatalogEntry | None:
    """The serving facts of a ready model, or None when it is gone or not ready."""
    with connection.read():
        row = Model.get_or_none((Model.id == model_id) & Model.deleted_at_ms.is_null() & (Model.status == "ready"))
        active = _active().where(Deployment.model_id == model_id).first()
        return None if row is None else _entry(row, active)


def catalog() -> list[CatalogEntry]:
    """All ready models, newest first; in two queries, however many there are."""
    columns = (Model.id, Model.name, Model.task_type, Model.status, Model.onnx_sha256, Model.description_json)
    ready = Model.deleted_at_ms.is_null() & (Model.status == "ready")
    with connection.read():
        active = {row.model_id: row for row in _active()}
        rows = list(Model.select(*columns).where(ready).order_by(Model.id.desc()))
    return [_entry(row, active.get(row.id)) for row in rows]


def deployed() -> list[str]:
    """The models that somebody activated a deployment for, the latest first."""
    with connection.read():
        return [row.model_id for row in _active().order_by(Deployment.activated_at_ms.desc())]


def _entry(row: Model, active: Deployment | None) -> CatalogEntry:
    description = described(row)
    return CatalogEntry(
        model_id=row.id,
        name=row.name,
        task_type=cast(Task, row.task_type),
        onnx_sha256=str(row.onnx_sha256),  # a ready model has one: the schema says so
        inputs=description.inputs,
        outputs=description.outputs,
        dynamic_batch=description.dynamic_batch,
        preprocessing=description.preprocessing,
        labels=description.labels,
        scores=description.scores,
        notes=description.notes,
        serves=default(dynamic_batch=description.dynamic_batch) if active is None else _serves(active),
    )


def engine_files(model_id: str) -> list[PreparedFile]:
    """The model's files in other precisions, newest first."""
    columns = (EngineFile.precision, EngineFile.sha256, EngineFile.size_bytes, EngineFile.recipe, EngineFile.notes)
    with connection.read():
        query = EngineFile.select(*columns).where(EngineFile.model_id == model_id)
        return msgspec.convert(list(query.order_by(EngineFile.created_at_ms.desc()).dicts()), list[PreparedFile])


def keep_engine_file(model_id: str, file: PreparedFile) -> None:
    """Record a published file of a model in another precision, inside the caller's `write()`."""
    keep_artifact(Stored(sha256=file.sha256, size_bytes=file.size_bytes), "models")
    EngineFile.insert(
        model_id=model_id,
        precision=file.precision,
        sha256=file.sha256,
        size_bytes=file.size_bytes,
        recipe=file.recipe,
        notes=file.notes,
        created_at_ms=clock.now_ms(),
    ).on_conflict_ignore().execute()


def file_of(model_id: str, engine: EngineName, precision: Precision) -> str | None:
    """What an engine runs in a precision, the newest file; None where there is none."""
    if engine == "pytorch":
        return model(model_id).weights_sha256
    if precision == "fp32":
        return model(model_id).onnx_sha256
    return next((file.sha256 for file in engine_files(model_id) if file.precision == precision), None)


def has_file(model_id: str, sha256: str) -> bool:
    """Whether a file is a model's, in whatever precision."""
    row = model(model_id)
    return sha256 in {row.onnx_sha256, row.weights_sha256, *(file.sha256 for file in engine_files(model_id))}


def delete_model(model_id: str, request_id: str | None = None) -> list[str]:
    """Hide a model and drop the artifact rows nobody else uses; returns their SHA-256 for the store to remove.

    The row stays for the reports that name it. Call inside `write()`, and remove the files after it has committed (a
    model must never be without its file), those that still are not `is_kept()`.

    Raises:
        errors.NotFound: No such model.
        errors.Conflict: It is being benchmarked or trained, or about to be.
    """
    row = model(model_id)
    about_it = peewee.fn.json_extract(Job.spec, "$.model_id") == model_id
    for job in list(Job.select(Job.id, Job.kind).where(Job.status.in_(jobs.OPEN) & about_it)):
        if (verb := WORK_WITH.get(job.kind)) is not None:
            raise errors.Conflict(f"Job {job.id} {verb} this model; cancel it, or wait until it is done.")
        jobs.request_cancel(job.id, request_id)  # its check: nobody waits for that any more
    Model.update(deleted_at_ms=clock.now_ms()).where(Model.id == model_id).execute()
    Deployment.update(status="retired", retired_at_ms=clock.now_ms()).where(
        (Deployment.model_id == model_id) & (Deployment.status != "retired")
    ).execute()
    bump("models")
    golden = {result.golden_sha256 for result in _golden().where(Benchmark.model_id == model_id)}
    made = {file.sha256 for file in engine_files(model_id)}
    EngineFile.delete().where(EngineFile.model_id == model_id).execute()
    return drop_unused({row.file_sha256, row.onnx_sha256, row.weights_sha256, *golden, *made})


def drop_unused(sha256s: Iterable[str | None]) -> list[str]:
    """Delete the artifact rows that no live model or dataset needs, inside the caller's `write()`; returns which."""
    unused = [sha256 for sha256 in sha256s if sha256 and not _in_use(sha256)]
    Artifact.delete().where(Artifact.sha256.in_(unused)).execute()
    return unused


def is_kept(sha256: str) -> bool:
    """Whether a stored file has its row: somebody refers to it. Inside `write()`, to act on the answer."""
    return bool(Artifact.select().where(Artifact.sha256 == sha256).exists())


def _golden() -> Any:
    """Candidates with golden samples, and whose they are: these live as long as the model."""
    found = BenchmarkResult.select(BenchmarkResult.golden_sha256).where(BenchmarkResult.golden_sha256.is_null(False))
    return found.join(Benchmark, on=(Benchmark.id == BenchmarkResult.benchmark_id))


def _in_use(sha256: str) -> bool:
    golden = _golden().join(Model, on=(Model.id == Benchmark.model_id)).where(Model.deleted_at_ms.is_null())
    return (
        golden.where(BenchmarkResult.golden_sha256 == sha256).exists()
        or any(
            table.select().where(table.deleted_at_ms.is_null() & (column == sha256)).exists()
            for table, columns in FILES.items()
            for column in columns
        )
        or bool(EngineFile.select().where(EngineFile.sha256 == sha256).exists())
    )
