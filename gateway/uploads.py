"""An upload as it streams in: fields checked before the file travels, the file straight to the disk."""

from __future__ import annotations

import contextlib
import hashlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from litestar import Request

from gateway import bodies, forms
from gateway.context import Context
from gateway.store import Store
from shared import errors
from shared.artifacts import ArtifactStore, Staging
from shared.db import connection, idempotency, jobs
from shared.specs import Spec, Stored, canonical_json

FORM_BYTES = 8 * 2**20
"""Room for the fields and the multipart frame around the file."""

MAX_PARTS = 16
HEAD_BYTES = 128
"""As much of a file as tells its format."""

PIECE_BYTES = 2**20
"""Written at once, away from the event loop: what an upload holds in memory, besides what the connection buffers."""

Form = TypeVar("Form", bound=Spec)


class Kind(ABC, Generic[Form]):
    """What one call takes."""

    form: type[Form]
    json_fields: tuple[str, ...] = ()
    """Fields whose text is JSON."""
    file_bytes: int
    """Of the largest file."""
    spare_bytes: int = 0
    """What must be free on the disk besides the upload."""

    def check_fields(self, form: Form) -> None:
        """What the struct cannot say; also before the file travels.

        Raises:
            errors.InvalidInput: Fields that do not fit each other.
        """

    @abstractmethod
    def check_name(self, form: Form, filename: str) -> None:
        """By the name of the file, before it travels.

        Raises:
            errors.UnsupportedMedia: Nothing of that name is taken.
            errors.InvalidInput: It does not fit the fields.
        """

    @abstractmethod
    def check_head(self, form: Form, filename: str, head: bytes) -> Form:
        """By the first `HEAD_BYTES` of the file (all of it, if it has no more); returns the form, completed by it.

        Raises:
            errors.UnsupportedMedia: It is of another format.
            errors.InvalidInput: It does not fit the fields.
        """

    def most_bytes(self, filename: str) -> int:
        """Of a file of this name."""
        return self.file_bytes


Taken_contra = TypeVar("Taken_contra", contravariant=True)


class Accept(Protocol[Taken_contra]):
    """Writes file, rows, job and remembered answer in one transaction of its own."""

    def __call__(self, staging: Staging, form: Taken_contra, *, stored: Stored) -> idempotency.Answer:
        """All of it or nothing."""
        ...


async def take(
    request: Request[Any, Any, Any],
    context: Context,
    kind: Kind[Form],
    store: ArtifactStore,
    key: idempotency.Key | None,
    *,
    accept: Accept[Form],
    allowed: Callable[[Form], None] | None = None,
) -> idempotency.Answer:
    """The whole walk of an upload, from its headers to its answer. What can be refused early is.

    Args:
        request: Unread.
        context: The gateway's parts.
        kind: What is taken.
        store: Where the file goes.
        key: Under which a repeated request gets the first answer.
        accept: Ends it.
        allowed: Asks the database about the fields, before the file travels.

    Raises:
        errors.AppError: As `receive`; the job queue or the disk is full; the key is in work.
    """
    limit = kind.file_bytes + FORM_BYTES
    if (request.content_length or 0) > limit:
        raise bodies.too_large(kind.file_bytes)
    await context.store.file(store.check_room, (request.content_length or 0) + kind.spare_bytes)
    if key is not None:
        await context.store.write(_reserve, key)
    try:
        if key is None:  # with a key it may be an upload accepted before, and repeated
            await context.store.read(_check_room, context.settings.max_queued_jobs)

        async def check(form: Form) -> None:
            if allowed is not None:
                await context.store.read(allowed, form)

        with store.stage() as staging:
            body = bodies.chunks(request.receive, limit)
            writer = Writer(staging, context.store)
            form = await receive(kind, request.headers.get("content-type", ""), body, writer, check)
            stored = await context.store.file(staging.seal)
            return await context.store.write(accept, staging, form, stored=stored)
    except BaseException:
        if key is not None:
            await context.store.write(_release, key)
        raise


class Writer:
    """Writes a staged file in pieces, in a thread: neither disk nor hash stops the event loop."""

    def __init__(self, staging: Staging, store: Store) -> None:
        self._staging, self._store = staging, store
        self._piece = bytearray()
        self.size_bytes = 0

    async def add(self, chunk: bytes) -> None:
        """Append a chunk.

        Raises:
            errors.Unavailable: The disk is full or cannot be written.
        """
        self._piece += chunk
        self.size_bytes += len(chunk)
        if len(self._piece) >= PIECE_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Write what is still held."""
        piece, self._piece = self._piece, bytearray()
        await self._store.append(self._staging.write, piece)


async def receive(
    kind: Kind[Form],
    content_type: str,
    body: AsyncIterator[bytes],
    writer: Writer,
    check: Callable[[Form], Awaitable[None]],
) -> Form:
    """Read the form; the file goes to `writer`.

    Raises:
        errors.InvalidInput: A field is wrong, missing, repeated or after the file, or the file is empty.
        errors.UnsupportedMedia: No multipart form, or a file of another format.
        errors.TooLarge: The file is over the limit of its kind.
    """
    fields: dict[str, str] = {}
    form: Form | None = None
    filename, head = "", b""
    async with contextlib.aclosing(forms.parts(content_type, body, MAX_PARTS)) as parts:
        async for part in parts:
            if isinstance(part, bytes):
                if writer.size_bytes + len(part) > kind.most_bytes(filename):
                    raise bodies.too_large(kind.most_bytes(filename))
                if form is not None and len(head) < HEAD_BYTES:
                    head += part[: HEAD_BYTES - len(head)]
                    form = kind.check_head(form, filename, head) if len(head) == HEAD_BYTES else form
                await writer.add(part)
            elif isinstance(part, forms.Field):
                _collect(fields, part, file_seen=form is not None)
            elif isinstance(part, forms.FileStart):
                _check_file(kind, part, another=form is not None)
                form, filename = _check_fields(kind, fields, file_seen=True), part.filename
                kind.check_name(form, filename)
                await check(form)
    if form is None:
        _check_fields(kind, fields, file_seen=False)
        raise wrong("file", "required")
    if writer.size_bytes == 0:
        raise wrong("file", "the file is empty")
    if len(head) < HEAD_BYTES:
        form = kind.check_head(form, filename, head)
    await writer.flush()
    return form


def fingerprint(form: Spec, stored: Stored) -> str:
    """SHA-256 over what was sent, however it was framed: tells a repeated upload from another one."""
    return hashlib.sha256(canonical_json(form) + stored.sha256.encode()).hexdigest()


def wrong(field: str, message: str) -> errors.InvalidInput:
    """The refusal of an upload for one of its fields."""
    return errors.InvalidInput("The upload does not fit; see `errors`.", errors=[{"field": field, "message": message}])


def _collect(fields: dict[str, str], field: forms.Field, *, file_seen: bool) -> None:
    if file_seen:
        raise wrong(field.name, "fields come before the file")
    if field.name in fields:
        raise wrong(field.name, "given twice")
    if field.name == "file":
        raise wrong("file", "must be sent as a file, with a file name")
    fields[field.name] = field.value


def _check_file(kind: Kind[Any], file: forms.FileStart, *, another: bool) -> None:
    if another or file.name != "file":
        if file.name in kind.form.__struct_fields__:
            raise wrong(file.name, f"send {file.name} as a field: curl -F '{file.name}=<FILE' (with <, not @)")
        raise wrong(file.name, "there is one file, in the field `file`, and it comes last")


def _check_fields(kind: Kind[Form], fields: Mapping[str, str], *, file_seen: bool) -> Form:
    try:
        form = _decode(kind, fields)
    except errors.InvalidInput as error:
        if not file_seen:
            raise
        late = {"message": "required, and before the file: fields that come after it are too late"}
        found = [item | late if item["message"] == bodies.REQUIRED else item for item in error.errors or []]
        raise errors.InvalidInput(error.message, errors=found) from None
    kind.check_fields(form)
    return form


def _decode(kind: Kind[Form], fields: Mapping[str, str]) -> Form:
    if not kind.json_fields:
        return bodies.decode_texts(fields, kind.form)
    return bodies.decode_fields({name: _as_json(kind, name, value) for name, value in fields.items()}, kind.form)


def _as_json(kind: Kind[Any], name: str, value: str) -> msgspec.Raw:
    if name not in kind.json_fields:
        return msgspec.Raw(msgspec.json.encode(value))
    try:
        msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError) as error:
        raise wrong(name, f"not valid JSON: {error}") from None
    return msgspec.Raw(value.encode())


def _check_room(limit: int) -> None:
    with connection.read():
        jobs.check_room(limit)


def _reserve(key: idempotency.Key) -> None:
    with connection.write():
        idempotency.reserve(key)


def _release(key: idempotency.Key) -> None:
    with connection.write():
        idempotency.release(key)
