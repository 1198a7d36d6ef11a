"""Trainings: order, follow, cancel, and their history."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from litestar import Response, Router, get, post
from litestar.params import FromPath, FromQuery, JSONBody

from gateway import orders, schemas
from gateway.context import Context
from gateway.routes.common import (
    V1,
    Cursor,
    Http,
    IdempotencyKey,
    Injected,
    Limit,
    account_of,
    cancelled,
    encoded,
    iso,
    key_of,
    once,
    origin_of,
    problems,
    raw,
    ready,
    respond,
)
from shared import clock
from shared.db import idempotency, trainings
from shared.specs import JobStatus, TrainingSpec


@post("/", status_code=202, responses=problems(404, 409, 415, 429))
async def order(
    request: Http, data: JSONBody[TrainingSpec], context: Injected, idempotency_key: IdempotencyKey = None
) -> Response[bytes]:
    """Train a model on a dataset; what comes of it is another model, with the weights of the best epoch."""
    orders.check_training(data)
    body_sha256 = hashlib.sha256(await request.body()).hexdigest()
    key = key_of(request, idempotency_key)
    answer = await context.store.write(_order, context, data, request, key, body_sha256)
    context.broker.doorbell("accelerator")
    return respond(answer)


@get("/", responses=problems())
async def list_trainings(
    *,
    context: Injected,
    limit: Limit = 50,
    cursor: Cursor = None,
    model_id: FromQuery[str | None] = None,
    dataset_id: FromQuery[str | None] = None,
    search_id: FromQuery[str | None] = None,
    status: FromQuery[JobStatus | None] = None,
) -> Response[bytes]:
    """Trainings, newest first; those that a search consists of where `search_id` asks for them."""
    wanted = {"model_id": model_id, "dataset_id": dataset_id, "search_id": search_id, "status": status}
    return ready(await context.store.read(_listed, wanted, limit, cursor))


@get("/{training_id:str}", responses=problems(404))
async def get_training(training_id: FromPath[str], context: Injected) -> schemas.TrainingJob:
    """A training as it stands: how far it is, its learning curves, and what it reached once it is completed."""
    return await context.store.read(_shown, training_id)


@post("/{training_id:str}/cancel", status_code=202, responses=problems(404, 409))
async def cancel(request: Http, training_id: FromPath[str], context: Injected) -> schemas.TrainingJob:
    """Cancel a training: at once while it waits, within seconds while it runs. Engineers cancel their own."""
    return _training(await cancelled(request, context, training_id, trainings.find, "training"))


def _order(
    context: Context, spec: TrainingSpec, request: Http, key: idempotency.Key | None, body_sha256: str
) -> idempotency.Answer:
    """Job, training and remembered answer in one transaction."""

    def place() -> tuple[schemas.TrainingJob, str]:
        limit = context.settings.max_queued_jobs
        training_id = trainings.order(spec, account_of(request).id, limit, origin_of(request))
        return _shown(training_id), f"{V1}/training/{training_id}"

    return once(key, body_sha256, place)


def _listed(wanted: dict[str, Any], limit: int, cursor: str | None) -> bytes:
    return encoded(trainings.listing(**wanted, limit=limit, cursor=cursor), _training)


def _shown(training_id: str) -> schemas.TrainingJob:
    shown = _training(trainings.find(training_id))
    epochs, result = trainings.epochs(training_id), trainings.result(training_id)
    return msgspec.structs.replace(shown, epochs=epochs, result=raw(result))


def _training(row: Any) -> schemas.TrainingJob:
    """As the API shows it, from a stored row."""
    return schemas.TrainingJob(
        id=row.id,
        status=row.status,
        progress=raw(row.progress),
        model_id=row.model_id,
        dataset_id=row.dataset_id,
        config=raw(row.spec),
        hyperparams=raw(row.hyperparams),
        ga=raw(row.ga_config),
        search_id=row.search_id,
        final_accuracy=row.final_accuracy,
        final_loss=row.final_loss,
        best_epoch=row.best_epoch,
        duration_s=row.duration_s,
        result_model_id=row.result_model_id,
        error=row.error,
        cancel_requested=bool(row.cancel_requested),
        request_id=row.request_id,
        created_by=row.created_by,
        created_at=clock.iso(row.created_at_ms),
        started_at=iso(row.started_at_ms),
        finished_at=iso(row.finished_at_ms),
    )


router = Router("/training", route_handlers=[order, list_trainings, get_training, cancel], tags=["training"])
