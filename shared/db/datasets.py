"""Datasets: rows for the gateway, and what the preparer makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import peewee

from shared import clock, errors, ids
from shared.db import connection, jobs, pages, registry
from shared.db.tables import Dataset, Job
from shared.specs import DatasetSpec, DatasetSummary, ModelDescription, Stored, Task
from shared.trace import Origin

BRIEF = [field for name, field in Dataset._meta.fields.items() if name != "summary"]
"""What a list shows; a summary may name ten thousand classes."""


def add(stored: Stored, user_id: str, *, limit: int, origin: Origin, archive_id: str | None, **fields: Any) -> str:
    """Insert an uploaded dataset and the job that checks it, inside the caller's `write()`; returns its id.

    Raises:
        errors.NotFound: There is no dataset `archive_id`.
        errors.Conflict: That one is no ZIP.
        errors.QueueFull: `limit` jobs are waiting already.
    """
    images = archive(archive_id).file_size if archive_id is not None else 0
    dataset_id, job_id = ids.new_id("dst"), ids.new_id("job")
    Dataset.insert(
        id=dataset_id,
        status="preprocessing",
        file_sha256=stored.sha256,
        file_size=stored.size_bytes,
        archive_id=archive_id,
        job_id=job_id,
        created_by=user_id,
        created_at_ms=clock.now_ms(),
        **fields,
    ).execute()
    spec = DatasetSpec(dataset_id=dataset_id)
    heavy = stored.size_bytes + images > jobs.HEAVY_BYTES
    jobs.insert("dataset", spec, user_id=user_id, job_id=job_id, heavy=heavy, origin=origin, limit=limit)
    return dataset_id


_DATASETS = pages.List(
    Dataset.select(*BRIEF).where(Dataset.deleted_at_ms.is_null()),
    Dataset.id,
    "dst",
    name=Dataset.name,
    task_type=Dataset.task_type,
    status=Dataset.status,
)


def listing(
    *, name: str | None = None, task_type: Task | None = None, status: str | None = None, limit: int, cursor: str | None
) -> pages.Page[Any]:
    """Datasets that are not deleted, as `pages.stored` without their summaries, newest first; None filters nothing."""
    return _DATASETS.page(limit, cursor, name=name, task_type=task_type, status=status)


def find(dataset_id: str) -> Dataset:
    """The row of a dataset that is not deleted.

    Raises:
        errors.NotFound: No such dataset.
    """
    with connection.read():
        row: Dataset = _only(list(_present(dataset_id)), dataset_id)
    return row


def stored(dataset_id: str) -> Any:
    """The same, as `pages.stored`.

    Raises:
        errors.NotFound: No such dataset.
    """
    return _only(pages.stored(_present(dataset_id)), dataset_id)


def _present(dataset_id: str) -> Any:
    return Dataset.select().where((Dataset.id == dataset_id) & Dataset.deleted_at_ms.is_null())


def _only(rows: list[Any], dataset_id: str) -> Any:
    if not rows:
        raise errors.NotFound(f"There is no dataset {dataset_id[:80]!r}; GET /api/v1/datasets lists them.")
    return rows[0]


def archive(dataset_id: str) -> Dataset:
    """The dataset whose ZIP a table of labels refers to. It may have failed: a ZIP without labels does.

    Raises:
        errors.NotFound: No such dataset.
        errors.Conflict: It was a table of labels itself.
    """
    row = find(dataset_id)
    if row.archive_id is not None:
        raise errors.Conflict(
            f"Dataset {dataset_id} is a CSV; archive_id takes the one with the ZIP: {row.archive_id}."
        )
    return row


def for_model(dataset_id: str, task: Task, description: ModelDescription) -> Dataset:
    """A dataset that a model can be calibrated with and judged by.

    Raises:
        errors.NotFound: No such dataset.
        errors.Conflict: It is not ready, for another task, or has classes that the model does not tell apart.
    """
    row = ready(dataset_id, task)
    class_ids([count.name for count in row.summary.classes], description)
    return row


def ready(dataset_id: str, task: Task) -> Dataset:
    """A dataset that can be used for a task.

    Raises:
        errors.NotFound: No such dataset.
        errors.Conflict: It is not ready, or for another task.
    """
    row = find(dataset_id)
    if row.status != "ready":
        why = f"its check failed. {row.error}" if row.status == "failed" else "its check is not done; wait for `ready`."
        raise errors.Conflict(f"Dataset {row.id} cannot be used: {why}")
    if row.task_type != task:
        raise errors.Conflict(
            f"Dataset {row.id} is for {row.task_type}, the model for {task}; choose one of the same task."
        )
    return row


def class_ids(classes: Sequence[str], description: ModelDescription) -> list[int]:
    """Which output of the model each class is: by its name where the model has labels, else by its place.

    Raises:
        errors.Conflict: The model does not tell these classes apart.
    """
    if description.labels is None:
        count = _num_classes(description)
        if count is not None and count != len(classes):
            raise errors.Conflict(
                f"The model tells {count} classes apart and the dataset has {len(classes)}. Choose the dataset it was "
                "trained for, or upload the model with `labels`, so that classes are found by name."
            )
        return list(range(len(classes)))
    places = {_plain(label): index for index, label in reversed(list(enumerate(description.labels)))}
    unknown = [name for name in classes if _plain(name) not in places]
    if unknown:
        raise errors.Conflict(
            f"The dataset's {_some(unknown)} {'is' if len(unknown) == 1 else 'are'} not among the model's labels "
            f"({_some(description.labels)}). Upload one of them again with the names of the other."
        )
    return [places[_plain(name)] for name in classes]


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").split())


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:40]) for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _num_classes(description: ModelDescription) -> int | None:
    """As the shape of the first output says; None where it does not."""
    contract, shape = description.preprocessing, description.outputs[0].shape
    rules = contract.detection if contract else None
    if rules is None:
        size, others = (shape[1], 0) if len(shape) == 2 else (None, 0)
    elif rules.format == "corners" or len(shape) != 3:
        size, others = None, 0
    else:
        size, others = shape[1 if rules.format == "yolo" else 2], 5 if rules.format == "yolo_objectness" else 4
    return size - others if isinstance(size, int) else None


def finish(dataset_id: str, summary: DatasetSummary, files: Mapping[str, Stored]) -> bool:
    """A dataset is ready, inside the caller's `write()`; one that was deleted meanwhile stays so, without these files.

    Args:
        dataset_id: Whose check it was.
        summary: What the check found.
        files: `index`, `pack` and `sheet`, to be published in the same `write()`.

    Returns:
        Whether there still is such a dataset.
    """
    changed = (
        Dataset.update(
            status="ready",
            prepared_size=files["pack"].size_bytes,
            num_samples=summary.num_samples,
            num_classes=len(summary.classes),
            num_warnings=summary.num_warnings,
            splits=summary.splits,
            summary=summary,
            **{f"{name}_sha256": stored.sha256 for name, stored in files.items()},
        )
        .where((Dataset.id == dataset_id) & Dataset.deleted_at_ms.is_null())
        .execute()
    )
    if changed:
        for stored in files.values():
            registry.keep_artifact(stored, "datasets")
    return bool(changed)


def fail(dataset_id: str, reason: str) -> None:
    """A dataset cannot be used, inside the caller's `write()`; what was uploaded is kept."""
    Dataset.update(status="failed", error=reason).where(Dataset.id == dataset_id).execute()


def delete(dataset_id: str, request_id: str | None = None) -> list[str]:
    """Hide a dataset and drop the artifact rows nobody else uses; returns their SHA-256 for the store to remove.

    The row stays for the jobs that name it. Call inside `write()`, and remove the files after it has committed, those
    that still are not `registry.is_kept()`. Its own check is cancelled.

    Raises:
        errors.NotFound: No such dataset.
        errors.Conflict: A job uses it, or a CSV refers to its images.
    """
    row = find(dataset_id)
    user = Dataset.get_or_none((Dataset.archive_id == dataset_id) & Dataset.deleted_at_ms.is_null())
    if user is not None:
        raise errors.Conflict(f"Dataset {user.id} takes its images from this one; delete that one first.")
    about_it = peewee.fn.json_extract(Job.spec, "$.dataset_id") == dataset_id
    for job in list(Job.select(Job.id, Job.kind).where(Job.status.in_(jobs.OPEN) & about_it)):
        if job.kind != "dataset":
            raise errors.Conflict(f"Job {job.id} ({job.kind}) uses this dataset; cancel it, or wait until it is done.")
        jobs.request_cancel(job.id, request_id)  # its check: nobody waits for that any more
    Dataset.update(deleted_at_ms=clock.now_ms()).where(Dataset.id == dataset_id).execute()
    return registry.drop_unused({row.file_sha256, row.index_sha256, row.pack_sha256, row.sheet_sha256})
