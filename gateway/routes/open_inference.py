"""The Open Inference Protocol, version 2, over HTTP: what NVIDIA's tritonclient speaks.

A model has the one version `1`. Inference goes the way of `predict`; only the tensors come and go as they are.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence

import msgspec
from litestar import Response, Router, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath
from litestar.types import HTTPScope, Receive
from msgspec import UNSET

from gateway import bodies, schemas
from gateway.bodies import Share
from gateway.context import Context
from gateway.docs import InferOperation
from gateway.errors import OPEN_INFERENCE, Refusal
from gateway.routes import predict, system
from gateway.routes.common import Http, Injected
from shared import errors, wording
from shared.db.registry import CatalogEntry
from shared.specs import EngineName, TensorInfo
from shared.wire import open_inference
from shared.wire.messages import Submit
from shared.wire.open_inference import InferRequest

VERSION = "1"
"""Of every model: another file is another model, and what serves it is a deployment."""

PLATFORMS: dict[EngineName, str] = {
    "onnxruntime": "onnxruntime_onnx",
    "openvino": "openvino_onnx",
    "tensorrt": "tensorrt_plan",
    "pytorch": "pytorch_safetensors",
}
HEAD_LENGTH = b"inference-header-content-length"
STALE = "Is that of an earlier call? tritonclient writes into the dict of headers it is given: give each call its own."
"""What a client's author may not know, where a length does not fit its body."""

MEANINGS = {
    400: "What is wrong with the request, or with its tensors for this model.",
    401: "No credential, or a bad one.",
    403: "The role may not do this.",
    404: "No model has this id or name, or it has no such version.",
    408: "The body arrives too slowly.",
    409: "The model is not ready, or several have this name.",
    413: "The body is over 64 MiB, or the outputs are.",
    415: "Compressed otherwise than with gzip or deflate.",
    429: "Too much waits; see Retry-After.",
    503: "Not available right now; see Retry-After.",
    504: "It took too long.",
}


def refusals(*statuses: int) -> dict[int, ResponseSpec]:
    """The refusals of a call, for its documentation."""
    return {status: ResponseSpec(Refusal, description=MEANINGS[status], generate_examples=False) for status in statuses}


SIGNED_IN = refusals(401, 403, 503)
OF_A_MODEL = SIGNED_IN | refusals(404, 409)


@get("/", responses=SIGNED_IN)
async def server() -> schemas.OpenServer:
    """Name, version and extensions of this server."""
    return schemas.OpenServer(name="cv-platform", version=system.VERSION, extensions=["binary_tensor_data"])


@get("/health/live")
async def live() -> schemas.OpenLive:
    """The process runs."""
    return schemas.OpenLive(live=True)


@get("/health/ready", responses=refusals(503))
async def ready(context: Injected) -> schemas.OpenReady:
    """Requests may be sent here; as `GET /api/v1/health/ready`."""
    _check_ready(context)
    return schemas.OpenReady(ready=True)


@get(["/models/{model:str}", "/models/{model:str}/versions/{version:str}"], responses=OF_A_MODEL)
async def metadata(context: Injected, model: FromPath[str], version: FromPath[str] = VERSION) -> schemas.OpenModel:
    """Inputs and outputs of a model, by its id or by a name that only it has."""
    entry = await _model(context, model, version)
    return schemas.OpenModel(
        name=model,
        versions=[VERSION],
        platform=PLATFORMS[entry.serves.engine],
        inputs=_tensors(entry.inputs),
        outputs=_tensors(entry.outputs),
    )


@get(["/models/{model:str}/ready", "/models/{model:str}/versions/{version:str}/ready"], responses=OF_A_MODEL)
async def takes(context: Injected, model: FromPath[str], version: FromPath[str] = VERSION) -> schemas.OpenModelReady:
    """Whether a model takes predictions now: 200 if it does."""
    await _model(context, model, version)
    _check_ready(context)
    return schemas.OpenModelReady(name=model, ready=True)


@post(
    ["/models/{model:str}/infer", "/models/{model:str}/versions/{version:str}/infer"],
    status_code=200,
    request_max_body_size=None,  # counted while it streams: bodies.chunks
    operation_class=InferOperation,
    responses=OF_A_MODEL | refusals(400, 408, 413, 415, 429, 504),
)
async def infer(
    request: Http, context: Injected, model: FromPath[str], version: FromPath[str] = VERSION
) -> Response[bytes]:
    """Infer on tensors. NVIDIA's `tritonclient` speaks this.

    Values are in `data`, or binary behind the JSON, with `binary_data_size` in the `parameters` of their tensor;
    `binary_data` of an output and `binary_data_output` of the request ask for binary ones. BYTES are image files, for a
    model that takes images. The body may be compressed (gzip, deflate). Shared memory, sequences, classification and
    priorities are refused; `timeout` (microseconds) bounds the wait for a turn.
    """
    with context.budget.share(request.scope["state"]["identity"].caller) as share:
        reply = await answered(context, request.scope, request.receive, share, model=model, version=version)
    headers = {name.decode(): value.decode() for name, value in reply.headers}
    return Response(reply.body, media_type=reply.media_type.decode(), headers=headers)


async def answered(
    context: Context, scope: HTTPScope, receive: Receive, share: Share, *, model: str, version: str = VERSION
) -> predict.Reply:
    """The answer to one inference request, counted; `share` is held until it has left."""
    return await predict.counted(context, scope, _answer(context, scope, receive, share, model=model, version=version))


async def _answer(
    context: Context, scope: HTTPScope, receive: Receive, share: Share, *, model: str, version: str
) -> predict.Reply:
    started_s = time.perf_counter()
    predict.check_broker(context)
    entry = await _model(context, model, version)  # before the body is read
    scope["state"]["model_id"] = entry.model_id
    with context.broker.entering(scope["state"]["identity"].caller):
        body = b"".join([chunk async for chunk in share.metered(_body(scope, receive))])
    head, binary = _parted(body, predict.header(scope, HEAD_LENGTH))
    del body
    asked = _asked(head, len(binary))
    request = _submit(context, scope, entry, asked)
    done, blobs = await predict.submitted(context, scope, request, [head, binary])
    predict.hold(share, blobs)
    total_ms = (time.perf_counter() - started_s) * 1000
    context.tally.predicted(entry.model_id, done, total_ms)
    answer = schemas.OpenAnswer(
        model_name=model,
        model_version=VERSION,
        id=UNSET if asked.id is None else asked.id,
        outputs=msgspec.json.decode(blobs[0], type=list[schemas.OpenOutput]),
    )
    return _reply(msgspec.json.encode(answer), blobs[1])


def _reply(head: bytes, binary: bytes) -> predict.Reply:
    if not binary:
        return predict.Reply(head + b"\n")
    return predict.Reply(head + binary, b"application/octet-stream", [(HEAD_LENGTH, b"%d" % len(head))])


def _body(scope: HTTPScope, receive: Receive) -> AsyncIterator[bytes]:
    body = bodies.chunks(receive, predict.BODY_BYTES)
    encoding = predict.header(scope, b"content-encoding").decode("latin-1").strip().lower()
    return bodies.inflated(body, encoding, predict.BODY_BYTES) if encoding not in ("", "identity") else body


def _parted(body: bytes, head_length: bytes) -> tuple[bytes, bytes]:
    """The head, and what follows it.

    Raises:
        errors.InvalidInput: The length of the head is no number, or longer than the body.
    """
    if not head_length:
        return body, b""
    length = int(head_length) if head_length.isdigit() and len(head_length) < 10 else -1
    if not 0 <= length <= len(body):
        raise errors.InvalidInput(
            "`Inference-Header-Content-Length` must be the length of the JSON at the start of the body, which has "
            f"{len(body)} bytes. {STALE}"
        )
    return body[:length], body[length:]


def _asked(head: bytes, binary_bytes: int) -> InferRequest:
    """The request that a head makes, which agrees with what follows it.

    Raises:
        errors.InvalidInput: The head is no such JSON, or the length it was told to have cuts it.
        errors.BadTensor: It asks for what there is not.
    """
    try:
        asked = open_inference.decode(head)
    except errors.InvalidInput as error:
        if not binary_bytes or head.rstrip().endswith(b"}"):  # it was not cut at a wrong place
            raise
        raise errors.InvalidInput(
            f"{error.message} `Inference-Header-Content-Length` says that it has {len(head)} bytes. {STALE}"
        ) from None
    open_inference.check(asked, binary_bytes)
    return asked


def _submit(context: Context, scope: HTTPScope, entry: CatalogEntry, asked: InferRequest) -> Submit:
    queue_ms = context.settings.queue_timeout_s * 1000
    return Submit(
        request_id=predict.wire_id(scope),
        model_id=entry.model_id,
        form="raw",
        queue_ttl_ms=min(queue_ms, asked.queue_ms or queue_ms),
        inference_ttl_ms=context.settings.inference_timeout_s * 1000,
        rows=asked.rows,
        caller=scope["state"]["identity"].caller,
        traceparent=scope["state"]["traceparent"] or "",
    )


async def _model(context: Context, name: str, version: str) -> CatalogEntry:
    """A ready model by its id, or by a name that no other has.

    Raises:
        errors.NotFound: There is none, or it has no such version.
        errors.Conflict: It is not ready, or several have the name.
        errors.Unavailable: It is not served yet.
    """
    if version != VERSION:
        raise errors.NotFound(f"Models have the one version {VERSION} here, and no {version[: wording.SHOWN]!r}.")
    if name in context.caches.models:
        return context.caches.models[name]
    if name not in context.caches.named:
        await context.caches.refresh()  # it became ready this instant
    alike = context.caches.named.get(name, [])
    if not alike:
        return await predict.served(context, name)
    if len(alike) > 1:
        ids = ", ".join(entry.model_id for entry in alike[:5])
        raise errors.Conflict(f"{len(alike)} models are called {name[: wording.SHOWN]!r}; use an id instead: {ids}.")
    return alike[0]


def _check_ready(context: Context) -> None:
    """Refuse while requests cannot be answered.

    Raises:
        errors.Unavailable: And why.
    """
    if why := system.why_not_ready(context):
        raise errors.Unavailable(f"Not ready: {why}.", retry_after_s=1)


def _tensors(infos: Sequence[TensorInfo]) -> list[schemas.OpenTensor]:
    return [
        schemas.OpenTensor(
            name=info.name, datatype=open_inference.datatype(info), shape=open_inference.tensor_shape(info)
        )
        for info in infos
    ]


router = Router(
    OPEN_INFERENCE,
    route_handlers=[server, live, ready, metadata, takes, infer],
    tags=["open_inference"],
)
