"""Datasets: upload, list, details, contact sheet, delete."""

from __future__ import annotations

import functools
from typing import Any, Literal

import msgspec
from litestar import Response, Router, delete, get, post
from litestar.params import FromPath, FromQuery
from litestar.response import File

from gateway import schemas, uploads
from gateway.context import Context
from gateway.docs import DatasetUploadOperation
from gateway.routes.common import (
    V1,
    Cursor,
    Http,
    IdempotencyKey,
    Injected,
    Limit,
    accepted,
    account_of,
    encoded,
    key_of,
    origin_of,
    problems,
    ready,
    remove_files,
    respond,
)
from gateway.upload_kinds import DATASET
from shared import clock, errors
from shared.artifacts import Staging
from shared.db import connection, datasets, idempotency, registry
from shared.specs import SPLITS, DatasetSummary, Stored, Task


@post(
    "/",
    status_code=202,
    request_max_body_size=None,  # counted while it streams: bodies.chunks
    operation_class=DatasetUploadOperation,
    responses=problems(404, 408, 409, 413, 415, 429),
    operation_id="UploadDataset",
)
async def upload(request: Http, context: Injected, idempotency_key: IdempotencyKey = None) -> Response[bytes]:
    """Upload a dataset. The fields come before the file; it is checked in the background: poll until `ready`."""
    key = key_of(request, idempotency_key)
    accept = functools.partial(_accept, context, request=request, key=key)
    answer = await uploads.take(request, context, DATASET, context.datasets, key, accept=accept, allowed=_check_archive)
    context.broker.doorbell("cpu")
    return respond(answer)


@get("/", responses=problems())
async def list_datasets(
    *,
    context: Injected,
    limit: Limit = 50,
    cursor: Cursor = None,
    name: FromQuery[str | None] = None,
    task_type: FromQuery[Task | None] = None,
    status: FromQuery[Literal["preprocessing", "ready", "failed"] | None] = None,
) -> Response[bytes]:
    """Datasets, newest first."""
    wanted = {"name": name, "task_type": task_type, "status": status}
    return ready(await context.store.read(_listed, wanted, limit, cursor))


@get("/{dataset_id:str}", responses=problems(404))
async def get_dataset(dataset_id: FromPath[str], context: Injected) -> schemas.Dataset:
    """A dataset and, once it is ready, what its check found: classes, statistics, warnings, near-duplicates."""
    row = await context.store.read(datasets.stored, dataset_id)
    return _dataset(row) if row.summary is None else _detailed(_dataset(row), SUMMARY.decode(row.summary))


@get("/{dataset_id:str}/contact-sheet", media_type="image/jpeg", responses=problems(404, 409))
async def contact_sheet(dataset_id: FromPath[str], context: Injected) -> File:
    """A picture of the dataset: some images of each class."""
    row = await context.store.read(datasets.find, dataset_id)
    if row.sheet_sha256 is None:
        why = f"its check failed. {row.error}" if row.status == "failed" else "its check is not done; wait for `ready`."
        raise errors.Conflict(f"Dataset {row.id} has no contact sheet: {why}")
    path = context.datasets.path(row.sheet_sha256)
    if not path.is_file():
        raise errors.NotFound("The contact sheet is gone from the disk; upload the dataset again.")
    return File(path, filename=f"{row.id}.jpg", media_type="image/jpeg", content_disposition_type="inline")


@delete("/{dataset_id:str}", responses=problems(404, 409))
async def delete_dataset(request: Http, dataset_id: FromPath[str], context: Injected) -> None:
    """Delete a dataset and the files nobody else uses; a check of it that is under way ends."""
    await context.store.write(_delete, context, dataset_id, request)


def _check_archive(form: schemas.DatasetForm) -> None:
    if form.archive_id is not None:
        datasets.archive(form.archive_id)


def _accept(
    context: Context,
    staging: Staging,
    form: schemas.DatasetForm,
    *,
    stored: Stored,
    request: Http,
    key: idempotency.Key | None,
) -> idempotency.Answer:
    """File, rows, job and remembered answer in one transaction: all of it or nothing."""
    body_sha256 = uploads.fingerprint(form, stored)
    with connection.write(durable=True, name="accept"):
        if key is not None and (before := idempotency.recall(key, body_sha256)):
            return before
        registry.keep_artifact(stored, "datasets")
        dataset_id = datasets.add(
            stored,
            account_of(request).id,
            limit=context.settings.max_queued_jobs,
            origin=origin_of(request),
            **msgspec.structs.asdict(form) | {"split": form.parts},
        )
        answer = accepted(_dataset(datasets.stored(dataset_id)), f"{V1}/datasets/{dataset_id}")
        if key is not None:
            idempotency.remember(key, body_sha256, answer)
        staging.publish()
    return answer


def _delete(context: Context, dataset_id: str, request: Http) -> None:
    with connection.write(durable=True, name="delete"):
        unused = datasets.delete(dataset_id, origin_of(request).request_id)
    remove_files(context.datasets, unused)


def _listed(wanted: dict[str, Any], limit: int, cursor: str | None) -> bytes:
    return encoded(datasets.listing(**wanted, limit=limit, cursor=cursor), _dataset)


def _dataset(row: Any) -> schemas.Dataset:
    """As the API shows it, from a stored row."""
    parts = None if row.split is None else msgspec.json.decode(row.split)
    splits = None if row.splits is None else msgspec.json.decode(row.splits)
    return schemas.Dataset(
        id=row.id,
        name=row.name,
        description=row.description,
        task_type=row.task_type,
        status=row.status,
        error=row.error,
        file_size=row.file_size,
        sha256=row.file_sha256,
        prepared_size=row.prepared_size,
        num_samples=row.num_samples,
        num_classes=row.num_classes,
        num_warnings=row.num_warnings,
        splits=splits and {name: splits[name] for name in SPLITS},
        split=parts and "/".join(map(str, parts)),
        seed=row.seed,
        frames_per_second=row.frames_per_second,
        archive_id=row.archive_id,
        job_id=row.job_id,
        created_by=row.created_by,
        created_at=clock.iso(row.created_at_ms),
    )


def _detailed(dataset: schemas.Dataset, summary: DatasetSummary) -> schemas.Dataset:
    figures = {name: getattr(summary, name) for name in schemas.DatasetStatistics.__struct_fields__}
    return msgspec.structs.replace(
        dataset,
        classes=[count.name for count in summary.classes],
        statistics=schemas.DatasetStatistics(**figures),
        warnings=summary.warnings,
        near_duplicates=summary.near_duplicates,
        num_near_duplicates=summary.num_near_duplicates,
    )


SUMMARY = msgspec.json.Decoder(DatasetSummary)

router = Router(
    "/datasets",
    route_handlers=[upload, list_datasets, get_dataset, contact_sheet, delete_dataset],
    tags=["datasets"],
)
