"""A model upload as it streams in: fields checked before the file travels, the file straight to the disk."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator

import msgspec

from gateway import bodies, forms
from gateway.schemas import ModelForm
from shared import errors
from shared.artifacts import Staging
from shared.specs import Stored, canonical_json

MODEL_BYTES = 2**30
FORM_BYTES = 8 * 2**20
"""Room for the fields and the multipart frame around the file."""

MAX_PARTS = 16
JSON_FIELDS = ("input_shape", "preprocessing", "labels")
FORMATS = "This version takes ONNX models as one .onnx file; export the model to ONNX first"

_FIRST_BYTES = frozenset((0x08, 0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72, 0xA2, 0xCA, 0xD2))
"""The tags a protobuf `ModelProto` can begin with; anything else is another format."""


async def receive_model(content_type: str, body: AsyncIterator[bytes], staging: Staging) -> ModelForm:
    """Read the form; the file goes to `staging`.

    Raises:
        errors.InvalidInput: A field is wrong, missing, repeated or after the file, or the file is empty.
        errors.UnsupportedMedia: No multipart form, or a file that cannot be ONNX.
        errors.TooLarge: The file is over `MODEL_BYTES`.
    """
    fields: dict[str, str] = {}
    form: ModelForm | None = None
    async with contextlib.aclosing(forms.parts(content_type, body, MAX_PARTS)) as parts:
        async for part in parts:
            if isinstance(part, bytes):
                _append(staging, part)
            elif isinstance(part, forms.Field):
                _collect(fields, part, file_seen=form is not None)
            elif isinstance(part, forms.FileStart):
                _check_file(part, another=form is not None)
                form = _check_fields(fields, file_seen=True)
    if form is None:
        _check_fields(fields, file_seen=False)
        raise _wrong("file", "required")
    if staging.size_bytes == 0:
        raise _wrong("file", "the file is empty")
    return form


def fingerprint(form: ModelForm, stored: Stored) -> str:
    """SHA-256 over what was sent, however it was framed: tells a repeated upload from another one."""
    return hashlib.sha256(canonical_json(form) + stored.sha256.encode()).hexdigest()


def _collect(fields: dict[str, str], field: forms.Field, *, file_seen: bool) -> None:
    if file_seen:
        raise _wrong(field.name, "fields come before the file")
    if field.name in fields:
        raise _wrong(field.name, "given twice")
    if field.name == "file":
        raise _wrong("file", "must be sent as a file, with a file name")
    fields[field.name] = field.value


def _check_file(file: forms.FileStart, *, another: bool) -> None:
    if another or file.name != "file":
        if file.name in ModelForm.__struct_fields__:
            raise _wrong(file.name, f"send {file.name} as a field: curl -F '{file.name}=<FILE' (with <, not @)")
        raise _wrong(file.name, "there is one file, in the field `file`, and it comes last")
    if not file.filename.lower().endswith(".onnx"):
        raise errors.UnsupportedMedia(f"{FORMATS} (got {file.filename[-100:]!r}).")


def _check_fields(fields: dict[str, str], *, file_seen: bool) -> ModelForm:
    if fields.get("framework", "onnx") != "onnx":
        raise _wrong("framework", FORMATS)
    try:
        return bodies.decode_fields({name: _as_json(name, value) for name, value in fields.items()}, ModelForm)
    except errors.InvalidInput as error:
        if not file_seen:
            raise
        late = {"message": "required, and before the file: fields that come after it are too late"}
        found = [item | late if item["message"] == bodies.REQUIRED else item for item in error.errors or []]
        raise errors.InvalidInput(error.message, errors=found) from None


def _as_json(name: str, value: str) -> msgspec.Raw:
    if name not in JSON_FIELDS:
        return msgspec.Raw(msgspec.json.encode(value))
    try:
        msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _wrong(name, f"not valid JSON: {error}") from None
    return msgspec.Raw(value.encode())


def _append(staging: Staging, chunk: bytes) -> None:
    if staging.size_bytes == 0 and chunk[0] not in _FIRST_BYTES:
        raise errors.UnsupportedMedia(f"The file is no ONNX model. {FORMATS}.")
    if staging.size_bytes + len(chunk) > MODEL_BYTES:
        raise bodies.too_large(MODEL_BYTES)
    staging.write(chunk)


def _wrong(field: str, message: str) -> errors.InvalidInput:
    return errors.InvalidInput("The upload does not fit; see `errors`.", errors=[{"field": field, "message": message}])
