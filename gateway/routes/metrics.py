"""The figures of the platform: one page for Prometheus, one JSON object for people and consoles."""

from __future__ import annotations

from collections.abc import Mapping

from litestar import Response, Router, get

from gateway import page, schemas
from gateway.context import Context
from gateway.monitor import Latency, ModelMinute, View
from gateway.routes.common import Injected, problems
from gateway.routes.inference import inference_health
from gateway.routes.system import VERSION
from gateway.tally import ModelTally, Stage

PROMETHEUS = "/metrics"
MB = 2**20


@get(PROMETHEUS, responses=problems(), media_type="text/plain", tags=["system"], operation_id="system_prometheus")
async def prometheus(context: Injected) -> Response[bytes]:
    """Every figure in Prometheus' text format. METRICS_TOKEN, where it is set, is a credential for this path."""
    now = page.Page(
        version=VERSION,
        settings=context.settings,
        tally=context.tally,
        status=context.broker.status()[0],
        view=await context.monitor.view(),
        names=_names(context),
    )
    return Response(await context.store.file(now.render), headers={"Content-Type": page.CONTENT_TYPE})


@get("/metrics", responses=problems())
async def metrics(context: Injected) -> schemas.Metrics:
    """The platform's figures now. Rates and latencies are those of the last minute."""
    view, last = await context.monitor.view(), context.monitor.minute()
    return schemas.Metrics(
        jobs=_jobs(view),
        inference=_inference(context),
        gpu=view.gpus,
        cpu=schemas.Cpu(
            cores=view.host.cores,
            util_pct=view.host.cpu_pct,
            services={name: service.cpu_pct for name, service in view.host.services.items()},
        ),
        memory=schemas.Memory(
            total_mb=_mb(view.host.memory_bytes),
            available_mb=_mb(view.host.memory_available_bytes),
            services={name: _mb(service.memory_bytes) for name, service in view.host.services.items()},
        ),
        disk={
            name: schemas.DiskSpace(free_mb=_mb(disk.free_bytes), size_mb=_mb(disk.size_bytes))
            for name, disk in view.host.disks.items()
        },
        http=schemas.HttpFigures(rate=last.http_per_s, error_rate=last.http_error_rate),
    )


def _names(context: Context) -> dict[str, str]:
    """Of the models that have figures and are still there, by id."""
    status, models = context.broker.status()[0], context.caches.models
    loaded = {model.model_id for worker in (status.workers if status else ()) for model in worker.models}
    there = loaded | {*context.tally.models, *(status.waiting if status else ())}
    return {model_id: models[model_id].name for model_id in there if model_id in models}


def _jobs(view: View) -> schemas.JobFigures | None:
    if view.jobs is None:
        return None
    queued = {row.kind: row.jobs for row in view.jobs if row.status == "queued"}
    return schemas.JobFigures(active=sum(row.jobs for row in view.jobs if row.status == "running"), queued=queued)


def _inference(context: Context) -> schemas.InferenceFigures:
    last, tally = context.monitor.minute(), context.tally
    return schemas.InferenceFigures(
        requests=tally.predictions,
        errors={code: count for code, count in tally.prediction_errors.items() if count},
        rate=last.predictions_per_s,
        latency_ms=_latencies(last.latency),
        queue=inference_health(context.broker.status()[0], len(context.settings.inference_farm)).queue,
        models=[
            _model(model_id, name, tally.models[model_id], last.models[model_id])
            for model_id, name in _names(context).items()
            if model_id in tally.models
        ],
    )


def _model(model_id: str, name: str, counted: ModelTally, last: ModelMinute) -> schemas.ModelFigures:
    images = counted.batch_images
    batches = schemas.Batches(
        count=sum(images.counts),
        mean_images=round(images.total / sum(images.counts), 2) if sum(images.counts) else None,
        cut=dict(counted.batches),
    )
    return schemas.ModelFigures(
        id=model_id,
        name=name,
        requests=counted.requests,
        errors=dict(counted.errors),
        rate=last.per_s,
        latency_ms=_latencies(last.latency),
        batches=batches,
    )


def _latencies(last: Mapping[Stage, Latency]) -> schemas.StageLatencies:
    return {stage: schemas.StageLatency(p50=latency.p50_ms, p95=latency.p95_ms) for stage, latency in last.items()}


def _mb(size_bytes: int) -> float:
    return round(size_bytes / MB, 1)


router = Router("/", route_handlers=[metrics], tags=["system"])
