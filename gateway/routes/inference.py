"""Predictions, what takes them, and how the inference lane is doing."""

from __future__ import annotations

from litestar import Router, get

from gateway import schemas
from gateway.routes.common import Injected, problems
from gateway.routes.predict import predict
from shared.db.registry import CatalogEntry
from shared.wire.messages import Status

MB = 2**20


@get("/models", responses=problems())
async def list_served(context: Injected) -> list[schemas.ServedModel]:
    """The models that take predictions now, and what they take."""
    return [_served(entry) for entry in context.caches.models.values()]


@get("/health", responses=problems())
async def health(context: Injected) -> schemas.InferenceHealth:
    """Workers, queue, and which models are in memory where."""
    status, _ = context.broker.status()
    expected = len(context.settings.inference_farm)
    return inference_health(status, expected)


def inference_health(status: Status | None, expected: int) -> schemas.InferenceHealth:
    """The lane as the broker described it last; `expected` inference processes should be there."""
    live = status.workers if status else []
    busy = sum(worker.busy > 0 for worker in live)
    workers = schemas.Workers(total=expected, busy=busy, idle=len(live) - busy, lost=max(0, expected - len(live)))
    queue = schemas.Queue(
        depth=status.depth if status else 0,
        limit=status.depth_limit if status else 0,
        mb=round(status.queued_bytes / MB, 3) if status else 0.0,
    )
    state: schemas.State = "down" if not live else "degraded" if workers.lost else "ok"
    return schemas.InferenceHealth(status=state, workers=workers, queue=queue, models=_loaded(status))


def _loaded(status: Status | None) -> list[schemas.LoadedModel]:
    held: dict[tuple[str, str, str], list[tuple[str, float]]] = {}
    for worker in status.workers if status else []:
        for model in worker.models:
            places = held.setdefault((model.model_id, model.engine, model.precision), [])
            places.append((worker.worker_id, model.memory_mb))
    return [
        schemas.LoadedModel(
            id=model_id,
            engine=engine,
            precision=precision,
            loaded_in=[worker_id for worker_id, _ in places],
            memory_mb=round(sum(memory_mb for _, memory_mb in places), 1),
        )
        for (model_id, engine, precision), places in held.items()
    ]


def _served(entry: CatalogEntry) -> schemas.ServedModel:
    return schemas.ServedModel(
        id=entry.model_id,
        name=entry.name,
        task_type=entry.task_type,
        inputs=entry.inputs,
        outputs=entry.outputs,
        labels=entry.labels,
        notes=entry.notes,
        engine=entry.serves.engine,
        precision=entry.serves.precision,
        batch_size=entry.serves.batch_size,
    )


router = Router("/inference", route_handlers=[predict, list_served, health], tags=["inference"])
