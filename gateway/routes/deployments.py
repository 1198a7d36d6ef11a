"""Deployments: what serves a model, ordering something else, and going back to the default."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypeVar

import msgspec
from litestar import Response, Router, delete, get, put
from litestar.params import FromPath, JSONBody

from gateway import orders, schemas
from gateway.context import Context
from gateway.routes.common import (
    BENCHMARK_FIRST,
    V1,
    Http,
    IdempotencyKey,
    Injected,
    account_of,
    iso,
    key_of,
    once,
    origin_of,
    problems,
    respond,
)
from shared import config, errors
from shared.db import benchmarks, connection, deployments, idempotency, registry
from shared.db.tables import Deployment, Model
from shared.machine import system_info
from shared.specs import Candidate, DeploymentOrder, JpegScale, ModelDescription, Precision, PreparedFile
from shared.verdict.figures import plural
from shared.wire.messages import Status

NO_WEIGHTS = "PyTorch runs models that were uploaded as weights of a network it knows by name; this one was not."

RECORD_GONE = "The record of this benchmark is gone from the disk, or was changed there; benchmark again."

Shape = TypeVar("Shape")


class _Machine(msgspec.Struct, frozen=True):
    fingerprint: str


class _File(msgspec.Struct, frozen=True):
    sha256: str


class _Measured(msgspec.Struct, frozen=True):
    """What is read here of a measurement set; the rest of its JSON, the samples, is skipped."""

    model: _File
    system: _Machine
    files: list[PreparedFile] = []

    def sha256(self, precision: Precision) -> str | None:
        """The file that was measured in a precision."""
        made = next((file.sha256 for file in self.files if file.precision == precision), None)
        return self.model.sha256 if precision == "fp32" else made


class _Decision(msgspec.Struct, frozen=True):
    selected: Candidate | None = None
    reasons: list[str] = []


class _Decoding(msgspec.Struct, frozen=True):
    selected: JpegScale


class _Record(msgspec.Struct, frozen=True):
    """What is read here of a report."""

    decision: _Decision
    decoding: _Decoding | None = None


@get("/", responses=problems(404, 409))
async def deployment(model_id: FromPath[str], context: Injected) -> schemas.Deployment:
    """The last order of what serves the model and how it went; in `serves` what does now, and in which processes."""
    return await context.store.read(_shown, context, model_id)


@put("/", status_code=202, responses=problems(404, 409, 415, 429))
async def activate(
    request: Http,
    model_id: FromPath[str],
    data: JSONBody[DeploymentOrder],
    context: Injected,
    idempotency_key: IdempotencyKey = None,
) -> Response[bytes]:
    """Order what serves the model: what a report chose, or an engine by name. It is tried first, in the background.

    Until it passed, and if it does not, what serves now goes on. Of several orders the last one counts.
    """
    body_sha256 = hashlib.sha256(await request.body() + model_id.encode()).hexdigest()
    key = key_of(request, idempotency_key)
    choice = await context.store.read(_choice, context, model_id, data)
    answer = await context.store.write(_order, context, choice, request, key, body_sha256)
    context.broker.doorbell("cpu")
    return respond(answer)


@delete("/", responses=problems(404))
async def revert(request: Http, model_id: FromPath[str], context: Injected) -> None:
    """Let the default serve the model again (ONNX Runtime in FP32); an order that is being tried is given up."""
    await context.store.write(_revert, model_id, request)
    await context.caches.refresh()


def _order(
    context: Context,
    choice: deployments.Choice,
    request: Http,
    key: idempotency.Key | None,
    body_sha256: str,
) -> idempotency.Answer:
    """Deployment, job and remembered answer in one transaction."""

    def place() -> tuple[schemas.Deployment, str]:
        limit, origin = context.settings.max_queued_jobs, origin_of(request)
        deployments.order(choice, account_of(request).id, limit=limit, origin=origin)
        return _shown(context, choice.model_id), f"{V1}/models/{choice.model_id}/deployment"

    return once(key, body_sha256, place)


def _revert(model_id: str, request: Http) -> None:
    with connection.write(durable=True, name="revert"):
        deployments.revert(model_id, origin_of(request))


# --- what an order means ----------------------------------------------------------------------------------------------


def _choice(context: Context, model_id: str, order: DeploymentOrder) -> deployments.Choice:
    """The order in full.

    Raises:
        errors.NotFound: No such model or report.
        errors.Conflict: The model is not ready; the report is of another model, file or machine, or chose nothing; or a
            file is not there.
        errors.InvalidInput: The order contradicts itself, the model or the machine.
    """
    row = registry.model(model_id)
    described = registry.described(row)
    orders.check_deployment(order, described, config.cores())
    fingerprint = system_info().fingerprint
    if order.report_id is not None:
        return _reported(context, row, order.report_id, fingerprint)
    assert order.engine is not None and order.precision is not None  # checked above
    file_sha256 = registry.file_of(model_id, order.engine, order.precision)
    if file_sha256 is None:
        if order.engine == "pytorch":
            raise errors.Conflict(NO_WEIGHTS)
        raise errors.Conflict(BENCHMARK_FIRST.format(order.precision.upper()))
    _check_there(context, file_sha256)
    default = registry.default(dynamic_batch=described.dynamic_batch)
    fixed = described.inputs[0].shape[:1]
    return deployments.Choice(
        model_id=model_id,
        engine=order.engine,
        precision=order.precision,
        batch_size=order.batch_size
        or (default.batch_size if described.dynamic_batch else next((n for n in fixed if isinstance(n, int)), 1)),
        threads=order.threads or default.threads,
        instances=order.instances or len(context.settings.inference_farm),
        file_sha256=file_sha256,
        golden_sha256=_golden(context, row, order, file_sha256, fingerprint),
        fingerprint=fingerprint,
        source="manual",
        jpeg_scale=order.jpeg_scale,
    )


def _reported(context: Context, row: Model, report_id: str, fingerprint: str) -> deployments.Choice:
    """What a report chose, as it was measured."""
    report = benchmarks.report(report_id)
    if report.model_id != row.id:
        raise errors.Conflict(f"Report {report_id} is about model {report.model_id}, not about {row.id}.")
    record = _read(context.reports.path(str(report.files.get("report.json"))), _Record)
    chosen = record.decision
    if chosen.selected is None:
        why = " ".join(chosen.reasons) or "No candidate kept every constraint."
        raise errors.Conflict(
            f"Report {report_id} chose nothing. {why} Name an `engine` and a `precision` instead, or benchmark again."
        )
    measured = _measured(context, report.benchmark_id)
    if measured.system.fingerprint != fingerprint:
        raise errors.Conflict(
            f"Report {report_id} was measured on another machine, or with other engines or drivers (fingerprint "
            f"{measured.system.fingerprint}, here it is {fingerprint}). Benchmark again, or name an `engine` and a "
            "`precision`."
        )
    candidate = chosen.selected
    file_sha256 = row.weights_sha256 if candidate.engine == "pytorch" else measured.sha256(candidate.precision)
    if measured.model.sha256 != row.onnx_sha256 or file_sha256 is None or not registry.has_file(row.id, file_sha256):
        raise errors.Conflict(f"Report {report_id} measured another file than this model has now. Benchmark again.")
    _check_there(context, file_sha256)
    golden = deployments.golden(row.id, candidate.engine, candidate.precision, report.benchmark_id)
    return deployments.Choice(
        model_id=row.id,
        file_sha256=file_sha256,
        golden_sha256=golden[1] if golden else None,
        fingerprint=fingerprint,
        source="report",
        report_id=report_id,
        jpeg_scale=record.decoding.selected if record.decoding else None,
        **msgspec.structs.asdict(candidate),
    )


def _golden(context: Context, row: Model, order: DeploymentOrder, file_sha256: str, fingerprint: str) -> str | None:
    """Samples the last benchmark took of this engine, if it was with this very file on a machine like this."""
    assert order.engine is not None and order.precision is not None
    found = deployments.golden(row.id, order.engine, order.precision)
    if found is None:
        return None
    try:
        measured = _measured(context, found[0])
    except errors.NotFound:
        return None  # the engine is tried without them, and the deployment says so
    same = measured.system.fingerprint == fingerprint and (
        order.engine == "pytorch" or measured.sha256(order.precision) == file_sha256  # its weights never change
    )
    return found[1] if same else None


def _measured(context: Context, benchmark_id: str) -> _Measured:
    return _read(context.reports.path(str(benchmarks.measurements_of(benchmark_id))), _Measured)


def _read(path: Path, shape: type[Shape]) -> Shape:
    """A stored JSON file.

    Raises:
        errors.NotFound: It is gone from the disk, or damaged.
    """
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() == path.name:
            return msgspec.json.decode(content, type=shape)
    except (OSError, msgspec.MsgspecError) as error:
        raise errors.NotFound(RECORD_GONE) from error
    raise errors.NotFound(RECORD_GONE)


def _check_there(context: Context, sha256: str) -> None:
    if not context.models.path(sha256).is_file():
        raise errors.Conflict("The file that would serve is gone from the disk. Upload the model again.")


# --- what is shown ----------------------------------------------------------------------------------------------------


def _shown(context: Context, model_id: str) -> schemas.Deployment:
    described = registry.described(registry.model(model_id))
    serves = registry.serves(model_id, described)
    last = deployments.latest(model_id)
    told = {
        "model_id": model_id,
        "serves": serving(serves),
        "processes": _processes(context.broker.status()[0], model_id, serves),
    }
    if last is None:
        shown = {name: getattr(serves, name) for name in ("engine", "precision", "batch_size", "threads", "source")}
        instances = len(context.settings.inference_farm)
        return msgspec.convert(told | shown | {"instances": instances, "status": "active"}, schemas.Deployment)
    shown = {name: getattr(last, name) for name in schemas.Deployment.__struct_fields__ if hasattr(last, name)}
    times = {"created_at": iso(last.created_at_ms), "activated_at": iso(last.activated_at_ms)}
    notes = [*last.notes, *_untried(last, described), *_mapping(context.settings, last)]
    return msgspec.convert(told | shown | times | {"notes": notes}, schemas.Deployment)


def serving(serves: registry.Serves) -> schemas.Serves:
    """What serves a model, as the API shows it."""
    fields = {name: getattr(serves, name) for name in schemas.Serves.__struct_fields__ if hasattr(serves, name)}
    return schemas.Serves(**fields, since=iso(serves.activated_at_ms))


def _processes(status: Status | None, model_id: str, serves: registry.Serves) -> list[schemas.ServingProcess]:
    """Who holds the model in memory, and whether that is what should serve."""
    return [
        schemas.ServingProcess(
            process=worker.worker_id,
            engine=model.engine,
            precision=model.precision,
            batch_size=model.batch_size,
            threads=model.threads,
            sessions=model.sessions,
            current=model.deployment_id == serves.deployment_id,
            problem=model.problem or None,
        )
        for worker in (status.workers if status else [])
        for model in worker.models
        if model.model_id == model_id
    ]


def _untried(row: Deployment, described: ModelDescription) -> list[str]:
    """That nobody has measured what a scale costs, where it was ordered by hand."""
    own = described.preprocessing.reduction if described.preprocessing else 1
    if row.source == "report" or (row.jpeg_scale or 1) <= own:
        return []
    return [
        f"JPEGs are decoded at 1/{row.jpeg_scale} of their size, as ordered; what that costs in accuracy was not "
        "measured. A benchmark with `jpeg_scales` and a dataset does, and its report deploys what keeps the limits."
    ]


def _mapping(settings: config.Settings, row: Deployment) -> list[str]:
    """How far the sessions of the inference processes are those that were ordered, where they are not."""
    processes, each = len(settings.inference_farm), settings.sessions(row.instances)
    found = []
    if processes * each != row.instances:
        said = "measured" if row.source == "report" else "ordered"
        found.append(
            f"It was {said} with {plural(row.instances, 'session')}; {processes} inference processes serve it "
            f"with {each} each. INFERENCE_PROCESSES={row.instances} would serve it as {said}."
        )
    if processes * each * row.threads > config.cores():
        found.append(
            f"{plural(processes * each, 'session')} of {plural(row.threads, 'thread')} share {config.cores()} cores: "
            "under load they take turns."
        )
    return found


router = Router("/models/{model_id:str}/deployment", route_handlers=[deployment, activate, revert], tags=["models"])
