"""Predictions, what takes them, and how the inference lane is doing."""

from __future__ import annotations

import os
from typing import cast

import msgspec
from litestar import Router, get

from gateway import schemas
from gateway.routes.common import Injected, problems
from gateway.routes.predict import predict
from shared import farm
from shared.db.registry import CatalogEntry
from shared.specs import EngineName, Precision
from shared.wire.messages import LoadedModel, ModelHealth, Status, WorkerState, WorkerStatus

MB = 2**20
WELL: tuple[WorkerState, ...] = ("idle", "busy")


@get("/models", responses=problems())
async def list_served(context: Injected) -> list[schemas.ServedModel]:
    """The models that take predictions now, and what they take."""
    status, _ = context.broker.status()
    loaded = {model.model_id: model for worker in (status.workers if status else []) for model in worker.models}
    return [_served(entry, loaded.get(entry.model_id)) for entry in context.caches.models.values()]


@get("/health", responses=problems())
async def health(context: Injected) -> schemas.InferenceHealth:
    """Workers, queue, and which models are in memory where."""
    status, _ = context.broker.status()
    expected = len(context.settings.inference_farm)
    return inference_health(status, expected)


def inference_health(status: Status | None, expected: int) -> schemas.InferenceHealth:
    """The lane as the broker described it last; `expected` inference processes should be there."""
    live = [_process(worker) for worker in (status.workers if status else [])]
    busy = sum(worker.busy > 0 for worker in (status.workers if status else []))
    workers = schemas.Workers(total=expected, busy=busy, idle=len(live) - busy, lost=max(0, expected - len(live)))
    well = [process for process in live if process.state in WELL]
    state: schemas.State = "down" if not well else "degraded" if workers.lost or len(well) < len(live) else "ok"
    queue = schemas.Queue(
        depth=status.depth if status else 0,
        limit=status.depth_limit if status else 0,
        mb=round(status.queued_bytes / MB, 3) if status else 0.0,
    )
    waiting = schemas.Waiting(
        models=status.waiting if status else {},
        callers=status.callers if status else 0,
        images_per_s=round(status.images_per_s, 1) if status and status.images_per_s is not None else None,
    )
    return schemas.InferenceHealth(
        status=state,
        workers=workers,
        number_found_by=os.environ.get(farm.FOUND_BY, farm.SET),
        processes=live,
        queue=queue,
        waiting=waiting,
        memory=_memory(status),
        models=_loaded(status),
    )


def _process(worker: WorkerStatus) -> schemas.InferenceProcess:
    age_ms = worker.success_age_ms
    return schemas.InferenceProcess(
        id=worker.worker_id,
        state=worker.state,
        answered=worker.answered,
        last_answer_s=None if age_ms is None else round(age_ms / 1000, 1),
        last_sign_s=round(worker.silent_ms / 1000, 1),
    )


def _memory(status: Status | None) -> schemas.ModelMemory:
    told = [worker.memory for worker in status.workers] if status else []
    return schemas.ModelMemory(
        limit_mb=round(sum(one.limit_mb for one in told), 1),
        used_mb=round(sum(one.used_mb for one in told), 1),
        gpu_limit_mb=round(sum(one.gpu_limit_mb for one in told), 1),
        gpu_used_mb=round(sum(one.gpu_used_mb for one in told), 1),
        loads=sum(one.loads for one in told),
        load_s=round(sum(one.load_s for one in told), 3),
        unloads=sum(one.unloads for one in told),
        cold_requests=status.cold if status else 0,
    )


def _loaded(status: Status | None) -> list[schemas.LoadedModel]:
    held: dict[LoadedModel, list[tuple[str, LoadedModel]]] = {}
    for worker in status.workers if status else []:
        for model in worker.models:
            alike = msgspec.structs.replace(model, memory_mb=0, gpu_memory_mb=0, health=ModelHealth())
            held.setdefault(alike, []).append((worker.worker_id, model))
    return [
        schemas.LoadedModel(
            id=model.model_id,
            engine=model.engine,
            precision=model.precision,
            batch_size=model.batch_size,
            threads=model.threads,
            sessions=model.sessions,
            loaded_in=[worker_id for worker_id, _ in places],
            memory_mb=round(sum(there.memory_mb for _, there in places), 1),
            gpu_memory_mb=round(sum(there.gpu_memory_mb for _, there in places), 1),
            problem=model.problem or None,
            health=[_health(worker_id, there.health) for worker_id, there in places],
        )
        for model, places in held.items()
    ]


def _health(worker_id: str, health: ModelHealth) -> schemas.ModelHealth:
    return schemas.ModelHealth(
        process=worker_id,
        last_success_s=round(health.success_age_ms / 1000, 1),
        probes=health.probes,
        failed_probes=health.failed_probes,
        failure=health.failure or None,
    )


def _served(entry: CatalogEntry, loaded: LoadedModel | None) -> schemas.ServedModel:
    """What a process has loaded is what answers; before the first request it is what will be loaded."""
    serves = loaded or entry.serves
    return schemas.ServedModel(
        id=entry.model_id,
        name=entry.name,
        task_type=entry.task_type,
        inputs=entry.inputs,
        outputs=entry.outputs,
        labels=entry.labels,
        notes=entry.notes,
        engine=cast(EngineName, serves.engine),
        precision=cast(Precision, serves.precision),
        batch_size=serves.batch_size,
    )


router = Router("/inference", route_handlers=[predict, list_served, health], tags=["inference"])
