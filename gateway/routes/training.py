"""Trainings: order, follow, cancel, compare, and their history as a table."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from litestar import Response, Router, get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from litestar.response import File

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
    table,
)
from gateway.routes.reports import download, why_none
from shared import clock, errors
from shared.db import connection, idempotency, registry, searches, trainings
from shared.genes import TrainingOrder
from shared.specs import HyperParameters, JobStatus
from shared.trace import Origin
from shared.trials import Order, Outcome

HEADING = (
    *("training_id", "created_at", "status", "task_type", "model_id", "model_name", "dataset_id", "dataset_name"),
    "search_id",
    *("max_epochs", "validation_split", "seed", *HyperParameters.__struct_fields__),
    *("final_accuracy", "final_loss", "best_epoch", "duration_s", "latency_ms", "result_model_id"),
    "error",
)
MEASURES: tuple[str, ...] = ("final_accuracy", "final_loss")
"""What means something else from task to task."""
OTHER_TASKS = (
    "One is for {}, the other for {}: their accuracies and losses are different measures (a share of images that are "
    "recognised, a mean average precision), so there are no differences of them."
)
OUTCOME = ("status", "final_accuracy", "final_loss", "best_epoch", "duration_s", "latency_ms", "result_model_id")

CHECKPOINTS = 10
"""Times the model that a training takes of the disk, at most: a checkpoint and the one that replaces it, each with the
last weights, the best and two moments of them, and in the end the new model's files."""

First = Annotated[str, QueryParameter(description="The id of a training.")]
Second = Annotated[str, QueryParameter(description="The id of another.")]

Format = Literal["html", "json"]


@post("/", status_code=202, responses=problems(404, 409, 415, 429))
async def order(
    request: Http, data: JSONBody[TrainingOrder], context: Injected, idempotency_key: IdempotencyKey = None
) -> Response[bytes]:
    """Train a model on a dataset; what comes of it is another model, with the weights of the best epoch. With `ga` an
    administrator orders a search first, for the best hyper-parameters.
    """
    if data.ga is not None and account_of(request).role != "admin":
        raise errors.Forbidden("A search takes the machine for long; an administrator may order it. Leave out `ga`.")
    orders.check_training(data)
    body_sha256 = hashlib.sha256(await request.body()).hexdigest()
    key = key_of(request, idempotency_key)
    answer = await context.store.write(_order, context, data, request, key, body_sha256)
    context.broker.doorbell("accelerator" if data.ga is None else "search")
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
    format: FromQuery[Literal["json", "csv"]] = "json",
) -> Response[Any]:
    """Trainings, newest first, `?format=csv` as a table; those that a search consists of where `search_id` asks for
    them.
    """
    wanted = {"model_id": model_id, "dataset_id": dataset_id, "search_id": search_id, "status": status}
    if format == "json":
        return ready(await context.store.read(_listed, wanted, limit, cursor))
    return await context.store.read(_table, wanted, limit, cursor)


@get("/compare", responses=problems(404))
async def compare(a: First, b: Second, context: Injected) -> schemas.TrainingComparison:
    """Two trainings side by side: what was ordered otherwise, their curves, and what each reached."""
    return await context.store.read(_compared, a, b)


@get("/{training_id:str}", responses=problems(404))
async def get_training(training_id: FromPath[str], context: Injected) -> schemas.TrainingJob:
    """A training as it stands: how far it is, its learning curves, and what it reached once it is completed."""
    return await context.store.read(_shown, training_id)


@get("/{training_id:str}/report", responses=problems(404))
async def get_report(training_id: FromPath[str], context: Injected, format: FromQuery[Format] = "html") -> File:
    """What a training reached, for reading; `json` is all that the page is made from."""
    files = await context.store.read(_report, training_id)
    path = context.reports.path(files[f"report.{format}"])
    if not path.is_file():
        raise errors.NotFound(f"The report of training {training_id} is gone from the disk.")
    return download(path, f"{training_id}-report.{format}", "inline")


@post("/{training_id:str}/report", status_code=202, responses=problems(404, 409, 429))
async def write_report(request: Http, training_id: FromPath[str], context: Injected) -> schemas.TrainingJob:
    """Have a report written that is not there, of what the training reached; nothing is trained again."""
    shown = await context.store.write(_write_report, context, training_id, request)
    context.broker.doorbell("report")
    return shown


@post("/{training_id:str}/cancel", status_code=202, responses=problems(404, 409))
async def cancel(request: Http, training_id: FromPath[str], context: Injected) -> schemas.TrainingJob:
    """Cancel a training: at once while it waits, within seconds while it runs. Engineers cancel their own."""
    return _training(await cancelled(request, context, training_id, trainings.find, "training"))


def _order(
    context: Context, spec: TrainingOrder, request: Http, key: idempotency.Key | None, body_sha256: str
) -> idempotency.Answer:
    """Job, training and remembered answer in one transaction."""
    context.models.check_room(CHECKPOINTS * (registry.model(spec.model_id).onnx_size or 0))

    def place() -> tuple[schemas.TrainingJob, str]:
        limit = context.settings.max_queued_jobs
        training_id = _ordered(spec, account_of(request).id, limit, origin_of(request))
        return _shown(training_id), f"{V1}/training/{training_id}"

    return once(key, body_sha256, place)


def _ordered(spec: TrainingOrder, user_id: str, limit: int, origin: Origin) -> str:
    if spec.ga is None:
        return trainings.order(spec.without_search(), user_id, limit, origin)
    searches.check(spec, spec.ga)
    return searches.order(spec, spec.ga, user_id, limit, origin)


@get("/", responses=problems(404))
async def list_of_model(
    model_id: FromPath[str], context: Injected, limit: Limit = 50, cursor: Cursor = None
) -> Response[bytes]:
    """The trainings that began with a model, newest first."""
    return ready(await context.store.read(_of_model, model_id, limit, cursor))


def _of_model(model_id: str, limit: int, cursor: str | None) -> bytes:
    registry.model(model_id)
    return _listed({"model_id": model_id}, limit, cursor)


def _report(training_id: str) -> dict[str, str]:
    """Its files."""
    row = trainings.find(training_id)
    found = trainings.report(training_id)
    if found is None:
        raise errors.NotFound(why_none(row, "training", trainings.report_state(training_id)))
    files: dict[str, str] = found.files
    return files


def _write_report(context: Context, training_id: str, request: Http) -> schemas.TrainingJob:
    limit = context.settings.max_queued_jobs
    with connection.write(durable=True, name="accept"):
        trainings.report_again(trainings.find(training_id), account_of(request).id, limit, origin_of(request))
        return _shown(training_id)


def _listed(wanted: dict[str, Any], limit: int, cursor: str | None) -> bytes:
    return encoded(trainings.listing(**wanted, limit=limit, cursor=cursor), _training)


def _shown(training_id: str) -> schemas.TrainingJob:
    shown = _training(trainings.find(training_id))
    epochs, result = trainings.epochs(training_id), trainings.result(training_id)
    state = trainings.report_state(training_id)
    report = None if state is None else schemas.ReportState(status=state[0], error=state[1])
    search = _search(training_id)
    return msgspec.structs.replace(shown, epochs=epochs, result=raw(result), search=search, report=report)


def _search(training_id: str) -> schemas.SearchState | None:
    row = searches.found(training_id)
    if row is None:
        return None
    genes = msgspec.json.decode(row.opening, type=Order).genes
    outcome = msgspec.json.decode(row.outcome, type=Outcome) if row.outcome else None
    latencies = searches.latencies(row)
    return schemas.SearchState(genes=genes, outcome=outcome, latencies=latencies, last_training_id=row.final_id)


def _table(wanted: dict[str, Any], limit: int, cursor: str | None) -> Response[Any]:
    page = trainings.listing(**wanted, limit=limit, cursor=cursor)
    return table("trainings", HEADING, map(_line, page.rows), page.next_cursor)


def _line(row: Any) -> list[Any]:
    """A training under `HEADING`."""
    ordered, used = msgspec.json.decode(row.spec), msgspec.json.decode(row.hyperparams)
    told = {"training_id": row.id, "created_at": clock.iso(row.created_at_ms)}
    values = ordered | row._asdict() | used | told
    return [values.get(name) for name in HEADING]


def _compared(a: str, b: str) -> schemas.TrainingComparison:
    one, other = _shown(a), _shown(b)
    order = _differences(_began_with(a), _began_with(b))
    outcome = _differences(*({name: getattr(each, name) for name in OUTCOME} for each in (one, other)), equal=True)
    note = None
    if one.task_type != other.task_type:
        note = OTHER_TASKS.format(one.task_type, other.task_type)
        outcome = [msgspec.structs.replace(each, delta=None) if each.name in MEASURES else each for each in outcome]
    return schemas.TrainingComparison(a=one, b=other, order=order, outcome=outcome, note=note)


def _began_with(training_id: str) -> dict[str, Any]:
    """All that the outcome of a training follows from, by its name in the order."""
    row, result = trainings.find(training_id), trainings.result(training_id)
    said = msgspec.json.decode(row.spec) | msgspec.json.decode(row.hyperparams)
    reached = {} if result is None else msgspec.json.decode(result)
    said |= {name: reached.get(name) for name in ("num_train", "num_val", "device", "threads")}
    said |= {f"version of {name}": version for name, version in reached.get("versions", {}).items()}
    return {name: value for name, value in said.items() if name not in ("hyperparams", "priority", "name")}


def _differences(
    a: Mapping[str, Any], b: Mapping[str, Any], *, equal: bool = False
) -> list[schemas.TrainingDifference]:
    """What two trainings have under each name, where that differs; with `equal` in any case."""
    pairs = {name: (a.get(name), b.get(name)) for name in [*a, *(name for name in b if name not in a)]}
    return [
        schemas.TrainingDifference(name=name, a=one, b=other, delta=_delta(one, other))
        for name, (one, other) in pairs.items()
        if equal or one != other
    ]


def _delta(one: Any, other: Any) -> float | None:
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in (one, other)):
        return None
    return float(round(other - one, 9))


def _training(row: Any) -> schemas.TrainingJob:
    """As the API shows it, from a stored row."""
    return schemas.TrainingJob(
        id=row.id,
        status=row.status,
        progress=raw(row.progress),
        task_type=row.task_type,
        model_id=row.model_id,
        model_name=row.model_name,
        dataset_id=row.dataset_id,
        dataset_name=row.dataset_name,
        config=raw(row.spec),
        hyperparams=raw(row.hyperparams),
        ga=raw(row.ga_config),
        search_id=row.search_id,
        final_accuracy=row.final_accuracy,
        final_loss=row.final_loss,
        best_epoch=row.best_epoch,
        duration_s=row.duration_s,
        latency_ms=row.latency_ms,
        result_model_id=row.result_model_id,
        error=row.error,
        cancel_requested=bool(row.cancel_requested),
        request_id=row.request_id,
        created_by=row.created_by,
        created_at=clock.iso(row.created_at_ms),
        started_at=iso(row.started_at_ms),
        finished_at=iso(row.finished_at_ms),
    )


router = Router(
    "/training",
    route_handlers=[order, list_trainings, compare, get_training, get_report, write_report, cancel],
    tags=["training"],
)
of_models = Router("/models/{model_id:str}/training", route_handlers=[list_of_model], tags=["models"])
