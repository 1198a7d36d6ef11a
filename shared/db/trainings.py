"""Trainings: rows for the gateway, what their epochs bring, and the model that comes of one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, cast

import msgspec
import peewee

from shared import clock, errors, ids
from shared.db import connection, datasets, jobs, pages, registry
from shared.db.tables import Dataset, Job, Model, Training, TrainingEpoch, TrainingReport
from shared.genes import SearchSpec
from shared.specs import (
    Architecture,
    ConversionFacts,
    EpochFigures,
    JobStatus,
    Lineage,
    ModelDescription,
    ReportSpec,
    Stored,
    Task,
    TrainingResult,
    TrainingSpec,
)
from shared.trace import Origin

MAX_NAME = 200
NUMBER_ROOM = 10
"""Characters of a name that are left for ` (2)`."""
LEAST_TRAIN = 2
DETECTOR_STEP = 32
"""The side of a detector's images is a multiple of it: the coarsest stride of YOLOv8, which imports PyTorch."""

_COLUMNS = (
    *jobs.LISTED,
    Job.spec,
    Training.model_id,
    Model.name.alias("model_name"),
    Model.task_type,
    Training.dataset_id,
    Dataset.name.alias("dataset_name"),
    Training.search_id,
    Training.hyperparams,
    Training.ga_config,
    Training.final_accuracy,
    Training.final_loss,
    Training.best_epoch,
    Training.duration_s,
    Training.latency_ms,
    Training.result_model_id,
)
_ROWS = (
    Job.select(*_COLUMNS)
    .join(Training, on=(Training.id == Job.id))
    .join(Model, on=(Model.id == Training.model_id))
    .join(Dataset, on=(Dataset.id == Training.dataset_id))
)
_FILTERS = {"model_id": Training.model_id, "dataset_id": Training.dataset_id, "status": Job.status}
_TRAININGS = pages.List(_ROWS.where(Training.search_id.is_null()), Job.id, "job", **_FILTERS)
_OF_SEARCH = pages.List(_ROWS, Job.id, "job", search_id=Training.search_id, **_FILTERS)


def order(spec: TrainingSpec, user_id: str, limit: int, origin: Origin | None = None) -> str:
    """Insert the training and its job inside the caller's `write()`; returns their id.

    Raises:
        errors.NotFound: No such model, or no such dataset.
        errors.Conflict: The model cannot be trained, the dataset is not ready, or they do not fit each other.
        errors.InvalidInput: The dataset has too little to learn from, or nothing to validate with; or no such network
            takes images of the size, or has so many stages.
        errors.QueueFull: `limit` jobs are waiting already.
    """
    check(spec)
    training_id = jobs.insert(
        "train",
        spec,
        user_id=user_id,
        job_id=ids.new_id("job"),
        priority=spec.priority,
        origin=origin,
        limit=limit,
    )
    add(training_id, spec, user_id)
    return training_id


def add(
    job_id: str,
    spec: TrainingSpec,
    user_id: str,
    *,
    search_id: str | None = None,
    ga: SearchSpec | None = None,
    latency_ms: float | None = None,
) -> None:
    """Insert the details of a job that trains, or searches, inside the `write()` that inserts it."""
    Training.insert(
        id=job_id,
        model_id=spec.model_id,
        dataset_id=spec.dataset_id,
        user_id=user_id,
        search_id=search_id,
        hyperparams=spec.hyperparams,
        ga_config=ga,
        max_epochs=spec.max_epochs,
        validation_split=spec.validation_split,
        latency_ms=latency_ms,
        created_at_ms=clock.now_ms(),
    ).execute()


def check(spec: TrainingSpec) -> tuple[Model, Dataset]:
    """The model and the dataset of an order, as far as rows can tell that it can be carried out.

    Raises:
        errors.NotFound: No such model, or no such dataset.
        errors.Conflict: The model cannot be trained, the dataset is not ready, or they do not fit each other.
        errors.InvalidInput: The dataset has too little to learn from, or nothing to validate with; or no such network
            takes images of the size, or has so many stages.
    """
    model = registry.model(spec.model_id)
    registry.described(model)
    if why_not := registry.why_not_trainable(model):
        raise errors.Conflict(f"Model {model.id} cannot be trained: {why_not}")
    dataset = datasets.ready(spec.dataset_id, cast(Task, model.task_type))
    if problem := _too_little(dataset, spec.validation_split):
        raise errors.InvalidInput(problem)
    check_sizes(model, [spec.hyperparams.image_size])
    check_stages(model, spec.hyperparams.frozen_stages)
    return model, dataset


def check_sizes(model: Model, sizes: Iterable[int | None]) -> None:
    """Refuse image sizes that no network of the model's task takes.

    Raises:
        errors.InvalidInput: The first of them.
    """
    for size in sizes:
        if model.task_type == "detection" and size is not None and size % DETECTOR_STEP:
            raise errors.InvalidInput(
                f"A detector takes an image_size that is a multiple of {DETECTOR_STEP}, not {size}."
            )


def check_stages(model: Model, frozen: int) -> None:
    """Refuse to freeze more of a network than it has, where that was counted when it was converted.

    Raises:
        errors.InvalidInput: It has fewer stages.
    """
    stages = model.conversion and model.conversion.stages
    if stages is not None and frozen > stages:
        raise errors.InvalidInput(f"{model.name} has {stages} stages; frozen_stages is at most that, not {frozen}.")


def _too_little(dataset: Dataset, validation_split: float | None) -> str | None:
    """What a dataset lacks to learn from, by its numbers."""
    splits, divided = dataset.splits, validation_split is not None
    train = splits["train"] + (splits["val"] if divided else 0)
    if train < LEAST_TRAIN:
        return f"Dataset {dataset.id} has {train} images for training; at least {LEAST_TRAIN} are needed."
    if not divided and not splits["val"]:
        return (
            f"Dataset {dataset.id} has no images in its part val, by which the best epoch is chosen. Order with "
            "validation_split, such as 0.2, or upload more images."
        )
    classes = [each for each in dataset.summary.classes if each.train or (divided and each.val)]
    if dataset.task_type == "classification" and len(classes) < 2:
        return (
            f"Dataset {dataset.id} has images for training of one class only; a classifier needs two or more to tell "
            "apart."
        )
    return None


def find(training_id: str) -> Any:
    """The job row with what its training is about beside it, as `pages.stored`.

    Raises:
        errors.NotFound: No such training.
    """
    rows = pages.stored(_ROWS.where(Job.id == training_id))
    if not rows:
        raise errors.NotFound(f"There is no training {training_id[:80]!r}; GET /api/v1/training lists them.")
    return rows[0]


def listing(
    *,
    model_id: str | None = None,
    dataset_id: str | None = None,
    search_id: str | None = None,
    status: JobStatus | None = None,
    limit: int,
    cursor: str | None,
) -> pages.Page[Any]:
    """Rows like those of `find`, newest first; those of a search only where it is asked for."""
    wanted = {"model_id": model_id, "dataset_id": dataset_id, "status": status}
    if search_id is not None:
        return _OF_SEARCH.page(limit, cursor, search_id=search_id, **wanted)
    return _TRAININGS.page(limit, cursor, **wanted)


def result(training_id: str) -> str | None:
    """What a training reached (`TrainingResult`), as JSON; None before it has ended well."""
    rows = pages.stored(Training.select(Training.result).where(Training.id == training_id))
    return rows[0].result if rows else None


def report(training_id: str) -> TrainingReport | None:
    """The written report of a training; None before there is one."""
    with connection.read():
        return TrainingReport.get_or_none(TrainingReport.training_id == training_id)


def report_state(training_id: str) -> tuple[JobStatus, str | None] | None:
    """Status and error of a training's report; None while nothing follows the training."""
    return ("completed", None) if report(training_id) else jobs.report_of(training_id)


def report_again(row: Any, user_id: str, limit: int, origin: Origin) -> None:
    """Order the report of a training (a row of `find`) once more, inside the caller's `write()`.

    Raises:
        errors.Conflict: There is nothing to report, or the report is there, or on its way.
        errors.QueueFull: `limit` jobs are waiting already.
    """
    spec = ReportSpec(training_id=row.id)
    jobs.report_again(row, report_state(row.id), spec, user_id=user_id, origin=origin, limit=limit)


def epochs(training_id: str) -> list[EpochFigures]:
    """The learning curves so far."""
    mine = TrainingEpoch.select(TrainingEpoch.figures).where(TrainingEpoch.training_id == training_id)
    with connection.read():
        return msgspec.convert([row.figures for row in mine.order_by(TrainingEpoch.epoch)], list[EpochFigures])


def keep_epoch(job: jobs.Claimed, figures: EpochFigures) -> None:
    """Store the figures of an epoch, from whose checkpoint another attempt would go on.

    An attempt that began anew puts its own in the place of those before.

    Raises:
        jobs.Fenced: The job is no longer ours.
    """
    with connection.write():
        jobs.got_further(job)
        later = (TrainingEpoch.training_id == job.id) & (TrainingEpoch.epoch > figures.epoch)
        TrainingEpoch.delete().where(later).execute()
        _keep(job.id, [figures])


def _keep(training_id: str, figures: Iterable[EpochFigures]) -> None:
    rows = [{"training_id": training_id, "epoch": each.epoch, "figures": each} for each in figures]
    TrainingEpoch.insert_many(rows).on_conflict_replace().execute()


def finish(training_id: str, result: TrainingResult, result_model_id: str | None = None) -> None:
    """Write what a training reached, inside the `write()` that completes its job."""
    _keep(training_id, result.epochs)
    Training.update(
        result=result,
        result_model_id=result_model_id,
        hyperparams=result.hyperparams,
        final_accuracy=result.final_accuracy,
        final_loss=result.final_loss,
        best_epoch=result.best_epoch,
        duration_s=result.duration_s,
    ).where(Training.id == training_id).execute()


def add_model(
    training_id: str,
    spec: TrainingSpec,
    result: TrainingResult,
    *,
    weights: Stored,
    onnx: Stored,
    description: ModelDescription,
    architecture: Architecture,
    conversion: ConversionFacts | None,
) -> str:
    """Insert the model that a training made, ready, inside the `write()` that completes its job; returns its id.

    Model and dataset are there, since neither is deleted while it is trained.
    """
    parent, dataset, row = (
        registry.model(spec.model_id),
        datasets.find(spec.dataset_id),
        Training.get_by_id(training_id),
    )
    lineage = Lineage(
        training_id=training_id,
        search_id=row.search_id,
        dataset_id=dataset.id,
        dataset_name=dataset.name,
        dataset_index_sha256=str(dataset.index_sha256),  # a ready dataset has one
        validation_split=spec.validation_split,
        seed=spec.seed,
        best_epoch=result.best_epoch,
        versions=result.versions,
    )
    return registry.add_trained(
        weights,
        onnx,
        description,
        parent=parent,
        user_id=row.user_id,
        name=spec.name or _free_name(f"{parent.name} trained on {dataset.name}"),
        description="",
        architecture=architecture.name,
        conversion=conversion,
        lineage=lineage,
        job_id=training_id,
    )


def _free_name(wanted: str) -> str:
    """A name that no model has, inside the caller's `write()`: the one that is wanted, or with a number behind it."""
    stem = wanted[: MAX_NAME - NUMBER_ROOM]
    alike = Model.select(Model.name).where(Model.deleted_at_ms.is_null() & Model.name.startswith(stem))
    taken = {row.name for row in alike}
    numbered = (f"{stem} ({number})" for number in itertools.count(2))
    return next(name for name in itertools.chain([wanted[:MAX_NAME]], numbered) if name not in taken)


def open_among(training_ids: Iterable[str]) -> set[str]:
    """Those whose job has not ended, or that a search which has not ended may still go on from."""
    search = Job.alias()
    query = (
        Job.select(Job.id)
        .join(search, peewee.JOIN.LEFT_OUTER, on=(search.id == Job.parent_id))
        .where(Job.id.in_(list(training_ids)))
        .where(Job.status.in_(jobs.OPEN) | ((Job.kind == "trial") & search.status.in_(jobs.OPEN)))
    )
    with connection.read():
        return {row.id for row in query}
