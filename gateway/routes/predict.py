"""One prediction over HTTP: credentials and models from memory, no SQL, tensors and images passed on unopened.

A plain ASGI handler: Litestar's argument binding and response building would cost more than all the rest of this call.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl

import msgspec
from litestar import asgi
from litestar.types import HTTPScope, Receive, Scope, Send
from msgspec import UNSET, Meta, UnsetType

from gateway import bodies, forms
from gateway.bodies import Share
from gateway.context import Context
from gateway.errors import ClientGone
from gateway.protocol import PRESENCE, Presence
from gateway.schemas import View
from shared import errors
from shared.db import registry
from shared.specs import Spec
from shared.verdict.figures import some
from shared.wire.client import Answer, Cancelled
from shared.wire.messages import Done, Form, Submit

BODY_BYTES = 64 * 2**20
MAX_IMAGES = 64
UNREAD_BYTES = 64 * 1024
"""Of an answer, which may be left to a connection without waiting for its client."""

TopK = Annotated[int, Meta(ge=1, le=1000)]
FrameRate = Annotated[float, Meta(ge=0.1, le=60)]
IMAGE_TYPES = ("image/jpeg", "image/jpg", "image/png", "image/webp")
VIDEO_TYPES = ("video/mp4", "video/quicktime", "video/webm", "video/x-matroska", "video/x-msvideo", "video/avi")
UNTYPED = ("", "application/octet-stream", "application/x-www-form-urlencoded")
"""What clients send that do not say what they send (curl --data-binary among them): then the first bytes decide."""
HEIF = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")
"""What follows `ftyp` where a file in the container of MP4 is a picture."""

T = TypeVar("T")

_counter = itertools.count(time.time_ns() // 1000)
"""Begins higher than where an earlier gateway ended, whose requests a worker may still be at."""


class Options(Spec, frozen=True, kw_only=True):
    """What may stand in the query, or in the fields of a form."""

    model_id: str = ""
    top_k: TopK = 5
    outputs: bool = False
    frames_per_second: FrameRate = 1.0


class TensorBody(Spec, frozen=True, kw_only=True):
    """The JSON body; `inputs` stays closed here, the inference process reads it."""

    inputs: msgspec.Raw
    model_id: str | UnsetType = UNSET
    top_k: TopK | UnsetType = UNSET
    outputs: bool | UnsetType = UNSET


class Results(msgspec.Struct, frozen=True):
    """The JSON an inference process answers, passed on as it is."""

    predictions: msgspec.Raw | UnsetType = UNSET
    outputs: msgspec.Raw | UnsetType = UNSET
    times_s: msgspec.Raw | UnsetType = UNSET


class Latency(View, frozen=True, kw_only=True):
    """Where the time went, milliseconds."""

    queue: float
    decode: float
    inference: float
    total: float


class Prediction(View, frozen=True, kw_only=True):
    """The answer."""

    request_id: str
    model_id: str
    engine: str
    precision: str
    batch_size: int
    predictions: msgspec.Raw | UnsetType
    outputs: msgspec.Raw | UnsetType
    times_s: msgspec.Raw | UnsetType
    latency_ms: Latency


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A request as read: options and blobs."""

    options: Options
    form: Form
    blobs: list[bytes]


class Reply(NamedTuple):
    """The answer to a prediction as it leaves."""

    body: bytes
    media_type: bytes = b"application/json"
    headers: Sequence[tuple[bytes, bytes]] = ()
    """Besides type and length."""
    status: int = 200

    async def leave(self, send: Send) -> None:
        """Send it; returns once nearly all of it has been taken."""
        about = [(b"content-type", self.media_type), (b"content-length", b"%d" % len(self.body)), *self.headers]
        await send({"type": "http.response.start", "status": self.status, "headers": about})
        large = len(self.body) > UNREAD_BYTES
        await send({"type": "http.response.body", "body": self.body, "more_body": large})
        if large:
            await send({"type": "http.response.body", "body": b"", "more_body": False})  # waits for the client


@asgi("/predict", copy_scope=False)
async def predict(scope: Scope, receive: Receive, send: Send) -> None:
    """Predict; documented in `gateway.docs`."""
    http: HTTPScope = scope  # type: ignore[assignment]  # this path is not routed for WebSockets
    context: Context = http["litestar_app"].state["context"]
    with context.budget.share(http["state"]["identity"].caller) as share:
        reply = await answered(context, http, receive, share)
        await reply.leave(send)


async def answered(context: Context, scope: HTTPScope, receive: Receive, share: Share) -> Reply:
    """The answer to one prediction by this call, counted; `share` is held until it has left."""
    return Reply(await counted(context, scope, _answer(context, scope, receive, share)))


async def counted(context: Context, scope: Scope, answering: Awaitable[T]) -> T:
    """What `answering` a prediction gives; a failure is counted, for the model that stands in the request's state."""
    try:
        return await answering
    except ClientGone:
        raise
    except Exception as error:
        code = error.code if isinstance(error, errors.AppError) else errors.AppError.code
        context.tally.prediction_failed(code, scope["state"].get("model_id"))
        raise


async def _answer(context: Context, http: HTTPScope, receive: Receive, share: Share) -> bytes:
    started_s = time.perf_counter()
    check_broker(context)
    options = _options(http["query_string"])
    if options.model_id:
        entry = await served(context, options.model_id)  # before the body is read
        http["state"]["model_id"] = entry.model_id
    with context.broker.entering(http["state"]["identity"].caller):
        ask = await _read(http, share.metered(bodies.chunks(receive, BODY_BYTES)), options)
        entry = await served(context, ask.options.model_id)
        http["state"]["model_id"] = entry.model_id
    done, blobs = await submitted(context, http, _submit(context, http, ask), ask.blobs)
    hold(share, blobs)
    total_ms = (time.perf_counter() - started_s) * 1000
    context.tally.predicted(entry.model_id, done, total_ms)
    return _prediction(http["state"]["request_id"], entry.model_id, done, blobs, total_ms) + b"\n"


def hold(share: Share, answer: Sequence[bytes]) -> None:
    """Count an answer that a connection does not take at once.

    Raises:
        errors.QueueFull: Too much is under way already.
    """
    size = sum(map(len, answer))
    if size > UNREAD_BYTES:
        share.take(size)


async def submitted(context: Context, scope: Scope, request: Submit, blobs: Sequence[bytes]) -> Answer:
    """What the broker answers to a request; one whose client leaves makes room for others.

    Raises:
        ClientGone: The client left.
        errors.AppError: As the request failed.
    """
    client = scope["state"].get(PRESENCE) or Presence()
    if client.gone:
        raise ClientGone
    client.on_leaving = partial(context.broker.cancel, request.request_id)
    try:
        return await context.broker.submit(request, blobs)
    except Cancelled:
        raise ClientGone from None
    finally:
        client.on_leaving = None


def check_broker(context: Context) -> None:
    """Stands before the body is read.

    Raises:
        errors.Unavailable: There is no broker to send it to.
    """
    if not context.broker.alive:
        raise errors.Unavailable("The broker is not running; try again in a moment.", retry_after_s=1)


@functools.lru_cache(256)  # who asks often asks with the same words
def _options(query: bytes) -> Options:
    if not query:
        return Options()
    return bodies.decode_texts(dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True)), Options)


async def served(context: Context, model_id: str) -> registry.CatalogEntry:
    """The model, from memory; the database is asked only to say why it is not there.

    Raises:
        errors.InvalidInput: None is named.
        errors.NotFound: There is no such model.
        errors.Conflict: It is not ready.
        errors.Unavailable: It is not served yet.
    """
    entry = context.caches.models.get(model_id)
    if entry is not None:
        return entry
    if not model_id:
        raise errors.InvalidInput(
            "Say which model.", errors=[{"field": "model_id", "message": "required, in the query or in the body"}]
        )
    if alike := context.caches.named.get(model_id):
        raise errors.NotFound(
            f"`model_id` is an id, and {model_id!r} the name of {some([each.model_id for each in alike])}; say the id."
        )
    registry.described(await context.store.read(registry.model, model_id))
    await context.caches.refresh()  # it became ready this instant
    if model_id not in context.caches.models:
        raise errors.Unavailable(f"Model {model_id} is not served yet; try again in a moment.", retry_after_s=1)
    return context.caches.models[model_id]


async def _read(scope: HTTPScope, body: AsyncIterator[bytes], options: Options) -> Ask:
    content_type = header(scope, b"content-type").decode("latin-1")
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        return await _form(content_type, body, options)
    if media_type == "application/json":
        return _tensors(b"".join([chunk async for chunk in body]), options)
    if media_type not in (*IMAGE_TYPES, *VIDEO_TYPES, *UNTYPED):
        raise errors.UnsupportedMedia(
            "This call takes a JPEG, PNG or WebP, a video, multipart/form-data or application/json, "
            f"not {media_type[:80]!r}."
        )
    data = b"".join([chunk async for chunk in body])
    if media_type in VIDEO_TYPES or (media_type in UNTYPED and _is_video(data)):
        return Ask(options=options, form="video", blobs=[data])
    return Ask(options=options, form="images", blobs=[_image(data)])


def _tensors(body: bytes, options: Options) -> Ask:
    given = bodies.decode(body, TensorBody)
    merged = Options(
        model_id=options.model_id if given.model_id is UNSET else given.model_id,
        top_k=options.top_k if given.top_k is UNSET else given.top_k,
        outputs=options.outputs if given.outputs is UNSET else given.outputs,
    )
    return Ask(options=merged, form="tensors", blobs=[bytes(given.inputs)])


async def _form(content_type: str, body: AsyncIterator[bytes], options: Options) -> Ask:
    values: dict[str, str] = {}
    images: list[tuple[str, bytearray]] = []
    async with aclosing(forms.parts(content_type, body, MAX_IMAGES + len(Options.__struct_fields__))) as parts:
        async for part in parts:
            if isinstance(part, bytes):
                images[-1][1].extend(part)
            elif isinstance(part, forms.Field):
                values[part.name] = part.value
            elif isinstance(part, forms.FileStart):
                _check_file(part.name, len(images))
                images.append((part.filename, bytearray()))
    known: dict[str, Any] = msgspec.structs.asdict(options)
    if not images:
        raise errors.InvalidInput("Send an image.", errors=[{"field": "image", "message": "required, as a file"}])
    blobs = [_image(bytes(data), _position(number, images)) for number, (_, data) in enumerate(images, 1)]
    return Ask(options=bodies.decode_texts(known | values, Options), form="images", blobs=blobs)


def _position(number: int, images: Sequence[tuple[str, bytearray]]) -> str:
    """Which of the images this is; the only one needs no number."""
    return f"Image {number} of {len(images)} ({images[number - 1][0][:100]!r})" if len(images) > 1 else "The image"


def _check_file(name: str, before: int) -> None:
    if before >= MAX_IMAGES:
        raise errors.TooLarge(f"One request takes at most {MAX_IMAGES} images; send several.")
    if name != "image":
        raise errors.InvalidInput(
            "The files of this form are called `image`.",
            errors=[{"field": name, "message": "unknown file; each image is a file in the field `image`"}],
        )


def _is_video(data: bytes) -> bool:
    """Whether it begins as MP4 and QuickTime, Matroska and WebM, or AVI files do."""
    return (
        (data[4:8] == b"ftyp" and data[8:12] not in HEIF)
        or data[:4] == b"\x1aE\xdf\xa3"
        or (data[:4], data[8:12]) == (b"RIFF", b"AVI ")
    )


def _image(data: bytes, name: str = "The image") -> bytes:
    if data[:3] == b"\xff\xd8\xff" or data[:8] == b"\x89PNG\r\n\x1a\n" or (data[:4], data[8:12]) == (b"RIFF", b"WEBP"):
        return data
    if data[4:8] == b"ftyp" and data[8:12] in HEIF:
        raise errors.BadImage(f"{name} is HEIC or AVIF, as phones take them. Convert it to JPEG, PNG or WebP.")
    if _is_video(data):
        raise errors.BadImage(f"{name} is a video. Send it alone, as the body, with its Content-Type (video/mp4).")
    raise errors.BadImage(f"{name} is {'no JPEG, PNG or WebP' if data else 'empty'}.")


def wire_id(scope: Scope) -> str:
    """What names the request on the wire: a client may reuse its request id, also after a restart."""
    return f"{scope['state']['request_id']}.{next(_counter)}"


def _submit(context: Context, scope: HTTPScope, ask: Ask) -> Submit:
    return Submit(
        request_id=wire_id(scope),
        model_id=ask.options.model_id,
        form=ask.form,
        queue_ttl_ms=context.settings.queue_timeout_s * 1000,
        inference_ttl_ms=context.settings.inference_timeout_s * 1000,
        top_k=ask.options.top_k,
        frames_per_second=ask.options.frames_per_second,
        raw_outputs=ask.options.outputs,
        caller=scope["state"]["identity"].caller,
        traceparent=scope["state"]["traceparent"] or "",
    )


def _prediction(request_id: str, model_id: str, done: Done, blobs: Sequence[bytes], total_ms: float) -> bytes:
    results = msgspec.json.decode(blobs[0], type=Results)
    latency = Latency(
        queue=round(done.queue_ms, 3),
        decode=round(done.decode_ms, 3),
        inference=round(done.inference_ms, 3),
        total=round(total_ms, 3),
    )
    return msgspec.json.encode(
        Prediction(
            request_id=request_id,
            model_id=model_id,
            engine=done.engine,
            precision=done.precision,
            batch_size=done.batch_size,
            predictions=results.predictions,
            outputs=results.outputs,
            times_s=results.times_s,
            latency_ms=latency,
        )
    )


def header(scope: Scope, wanted: bytes) -> bytes:
    """The value of a header by its name in small letters; empty where it was not sent."""
    for name, value in scope["headers"]:
        if name == wanted:
            return value
    return b""
