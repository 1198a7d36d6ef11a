"""Models: upload, list, details, download, delete."""

from __future__ import annotations

import functools
import re
from typing import Any, Literal

import msgspec
from litestar import Response, Router, delete, get, post
from litestar.params import FromPath, FromQuery
from litestar.response import File

from gateway import presets, schemas, uploads
from gateway.context import Context
from gateway.docs import ModelUploadOperation
from gateway.routes import deployments
from gateway.routes.common import (
    BENCHMARK_FIRST,
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
    raw,
    ready,
    remove_files,
    respond,
)
from gateway.upload_kinds import MODEL
from shared import clock, errors
from shared.artifacts import Staging
from shared.db import connection, idempotency, jobs, registry
from shared.specs import ConversionFacts, ConvertSpec, Precision, Preprocessing, Preset, Stored, Task, TensorInfo

TO_BE_SEEDED = "not prepared yet: a seeded initialisation (seed {0.seed}), nothing learned"
TO_BE_FETCHED = (
    "not prepared yet: {0.pretrained.name}; where they cannot be fetched, a seeded initialisation (seed {0.seed}), "
    "nothing learned"
)


@post(
    "/",
    status_code=202,
    request_max_body_size=None,  # counted while it streams: bodies.chunks
    operation_class=ModelUploadOperation,
    responses=problems(408, 409, 413, 415, 429),
    operation_id="UploadModel",
)
async def upload(request: Http, context: Injected, idempotency_key: IdempotencyKey = None) -> Response[bytes]:
    """Upload a model. The fields come before the file; it is checked in the background: poll until `ready`."""
    key = key_of(request, idempotency_key)
    accept = functools.partial(_accept, context, request=request, key=key)
    answer = await uploads.take(request, context, MODEL, context.models, key, accept=accept)
    context.broker.doorbell("cpu")
    return respond(answer)


@post("/presets/{preset:str}", status_code=202, responses=problems(404, 409))
async def renew_preset(request: Http, preset: FromPath[str], context: Injected) -> Response[bytes]:
    """Bring back a preset that was deleted, or make one anew that failed or lacks its pretrained weights."""
    answer = await context.store.write(_renew, context, preset, request)
    await context.caches.refresh()
    context.broker.doorbell("cpu")
    return respond(answer)


@get("/", responses=problems())
async def list_models(
    *,
    context: Injected,
    limit: Limit = 50,
    cursor: Cursor = None,
    name: FromQuery[str | None] = None,
    model_type: FromQuery[Literal["preset", "custom"] | None] = None,
    task_type: FromQuery[Task | None] = None,
    status: FromQuery[Literal["converting", "ready", "failed"] | None] = None,
) -> Response[bytes]:
    """Models, newest first."""
    wanted = {"name": name, "model_type": model_type, "task_type": task_type, "status": status}
    return ready(await context.store.read(_listed, wanted, limit, cursor))


@get("/{model_id:str}", responses=problems(404))
async def get_model(model_id: FromPath[str], context: Injected) -> schemas.Model:
    """A model and, once it is ready, what its check found out."""
    return _model(await context.store.read(registry.stored_model, model_id))


@delete("/{model_id:str}", responses=problems(404, 409))
async def delete_model(request: Http, model_id: FromPath[str], context: Injected) -> None:
    """Delete a model and the files nobody else uses; reports about it stay."""
    await context.store.write(_delete, context, model_id, request)
    await context.caches.refresh()
    context.broker.publish("models", {"id": model_id, "status": "deleted"})


@get("/{model_id:str}/onnx", responses=problems(404, 409))
async def download(model_id: FromPath[str], context: Injected, precision: FromQuery[Precision] = "fp32") -> File:
    """The model as an ONNX file: in FP32, or as the last benchmark that made one in another precision left it."""
    name, sha256 = await context.store.read(_onnx, model_id, precision)
    path = context.models.path(sha256)
    if not path.is_file():
        raise errors.NotFound("The file of this model is gone from the disk; upload it again.")
    return File(path, filename=f"{_file_name(name)}.onnx", media_type="application/octet-stream")


def _onnx(model_id: str, precision: Precision) -> tuple[str, str]:
    """Name of the model and SHA-256 of the file.

    Raises:
        errors.Conflict: The model is not ready, or no benchmark made such a file.
    """
    row = registry.model(model_id)
    registry.described(row)
    sha256 = registry.file_of(model_id, "onnxruntime", precision)
    if sha256 is None:
        raise errors.Conflict(BENCHMARK_FIRST.format(precision.upper()))
    return row.name if precision == "fp32" else f"{row.name}-{precision}", sha256


def _accept(
    context: Context,
    staging: Staging,
    form: schemas.ModelForm,
    *,
    stored: Stored,
    request: Http,
    key: idempotency.Key | None,
) -> idempotency.Answer:
    """File, rows, job and remembered answer in one transaction: all of it or nothing."""
    body_sha256, user_id = uploads.fingerprint(form, stored), account_of(request).id
    with connection.write(durable=True, name="accept"):
        if key is not None and (before := idempotency.recall(key, body_sha256)):
            return before
        fields = msgspec.structs.asdict(form)
        input_shape = fields.pop("input_shape")
        model_id = registry.add_model(stored, user_id, **fields)
        registry.keep_artifact(stored, "models")
        spec = ConvertSpec(model_id=model_id, input_shape=input_shape)
        limit = context.settings.max_queued_jobs
        heavy = form.framework != "onnx" or stored.size_bytes > jobs.HEAVY_BYTES
        job_id = jobs.insert("convert", spec, user_id=user_id, heavy=heavy, origin=origin_of(request), limit=limit)
        registry.set_job(model_id, job_id)
        answer = accepted(_model(registry.stored_model(model_id)), f"{V1}/models/{model_id}")
        if key is not None:
            idempotency.remember(key, body_sha256, answer)
        staging.publish()
    return answer


def _renew(context: Context, name: str, request: Http) -> idempotency.Answer:
    model_id, unused = presets.renew(name, context.settings, context.models, origin_of(request))
    remove_files(context.models, unused)
    return accepted(_model(registry.stored_model(model_id)), f"{V1}/models/{model_id}")


def _delete(context: Context, model_id: str, request: Http) -> None:
    with connection.write(durable=True, name="delete"):
        unused = registry.delete_model(model_id, origin_of(request).request_id)
    remove_files(context.models, unused)


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._")[:100] or "model"


def _listed(wanted: dict[str, Any], limit: int, cursor: str | None) -> bytes:
    return encoded(registry.models(**wanted, limit=limit, cursor=cursor), _model)


def _model(row: Any) -> schemas.Model:
    """As the API shows it, from a stored row; what is only passed on stays the JSON it is."""
    found = None if row.description_json is None else FOUND.decode(row.description_json)
    preset = None if row.preset is None else PRESET.decode(row.preset)
    contract = found.preprocessing if found else msgspec.json.decode(row.preprocessing or "null", type=Contract)
    return schemas.Model(
        id=row.id,
        name=row.name,
        description=row.description,
        model_type=row.model_type,
        framework=row.framework,
        task_type=row.task_type,
        status=row.status,
        error=row.error,
        file_size=row.file_size,
        onnx_size=row.onnx_size,
        sha256=row.file_sha256,
        input_shape=found.inputs[0].shape if found else ["batch", *preset.architecture.input_shape] if preset else None,
        output_shape=found.outputs[0].shape if found else None,
        inputs=found.inputs if found else [],
        outputs=found.outputs if found else [],
        preprocessing=None if contract is None else _contract(contract),
        labels=raw(row.labels),
        notes=found.notes if found else [],
        architecture=row.architecture,
        conversion=raw(row.conversion),
        preset=None if preset is None else _preset(preset, row.conversion),
        serves=_serves(row, found),
        trainable=(why_not := registry.why_not_trainable(row)) is None,
        why_not=why_not,
        parent_id=row.parent_id,
        lineage=raw(row.lineage),
        job_id=row.job_id,
        created_by=row.created_by,
        created_at=clock.iso(row.created_at_ms),
    )


@functools.lru_cache(maxsize=256)
def _contract(contract: Preprocessing) -> Any:
    """Its JSON with its hash. Many models share a contract, and the hash takes longer than the rest of a model."""
    return msgspec.Raw(msgspec.json.encode(msgspec.to_builtins(contract) | {"hash": contract.hash}))


def _serves(row: Any, found: Found | None) -> schemas.Serves | None:
    if found is None:
        return None
    activated = registry.activated(row)
    return DEFAULTS[found.dynamic_batch] if activated is None else deployments.serving(activated)


def _preset(preset: Preset, conversion: str | None) -> schemas.PresetFacts:
    source = None if conversion is None else CONVERSION.decode(conversion).source
    return schemas.PresetFacts(
        name=preset.name,
        num_classes=preset.architecture.num_classes,
        parameters=preset.parameters,
        weights=source or (TO_BE_FETCHED if preset.pretrained else TO_BE_SEEDED).format(preset),
        pretrained=None if source is None else presets.is_pretrained(preset, source),
        source=preset.pretrained.url if preset.pretrained else None,
    )


class Found(msgspec.Struct, frozen=True):
    """What is shown of a `ModelDescription`; the rest of its JSON is skipped (a thousand labels, which the row has)."""

    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    preprocessing: Preprocessing | None
    dynamic_batch: bool
    notes: list[str] = []


Contract = Preprocessing | None
PRESET, CONVERSION = msgspec.json.Decoder(Preset), msgspec.json.Decoder(ConversionFacts)
FOUND = msgspec.json.Decoder(Found)
DEFAULTS = {dynamic: deployments.serving(registry.default(dynamic_batch=dynamic)) for dynamic in (False, True)}
"""What serves a model for which nothing was activated, by whether it takes any batch."""

router = Router(
    "/models",
    route_handlers=[upload, renew_preset, list_models, get_model, delete_model, download],
    tags=["models"],
)
