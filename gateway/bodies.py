"""Request bodies: read within bounds, decoded strictly, refused field by field."""

from __future__ import annotations

import asyncio
import functools
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from litestar.dto import AbstractDTO
from litestar.types import Receive

from gateway.errors import MISFIT, ClientGone
from shared import errors, wording

if TYPE_CHECKING:
    from litestar._openapi.schema_generation import SchemaCreator
    from litestar.dto.data_structures import DTOFieldDefinition
    from litestar.openapi.spec import Reference, Schema
    from litestar.typing import FieldDefinition

T = TypeVar("T")

INFLATE = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""Content encodings that are undone where a call says so."""

PIECE = 2**20
"""Bytes unpacked at a time, some milliseconds."""

MISFITS = 20
"""Wrong fields that a refusal lists; it must not be many times the size of the request."""

DISSECTED = 10_000
"""Most colons in JSON that is taken apart to list all that is wrong; of more the first thing is told. Millions of
fields take a gigabyte, and seconds in which nobody is answered."""

SHARE = 3
"""So one caller alone may hold three quarters of the bytes under way, and two may hold three sevenths each."""

REQUIRED = "required"
"""What is said about a field that is not there."""


async def chunks(receive: Receive, limit: int) -> AsyncIterator[bytes]:
    """The body as it arrives.

    Raises:
        errors.TooLarge: More than `limit` bytes came.
        ClientGone: The client left before the end.
    """
    total = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone
        body = message["body"]
        total += len(body)
        if total > limit:
            raise too_large(limit)
        if body:
            yield body
        if not message["more_body"]:
            return


async def inflated(body: AsyncIterator[bytes], encoding: str, limit: int) -> AsyncIterator[bytes]:
    """A body as it was before its `Content-Encoding`, in pieces; others get their turn between two of them.

    Raises:
        errors.UnsupportedMedia: Neither gzip nor deflate.
        errors.InvalidInput: It is not what the encoding says, or not all of it.
        errors.TooLarge: More than `limit` bytes came out.
    """
    if encoding not in INFLATE:
        raise errors.UnsupportedMedia("A body may be compressed with gzip or deflate, once.")
    inflate, total = zlib.decompressobj(INFLATE[encoding]), 0
    async for chunk in body:
        left = chunk
        while left and not inflate.eof:
            try:
                piece = inflate.decompress(left, PIECE)
            except zlib.error as error:
                raise errors.InvalidInput(
                    f"The body is not {encoding}: {error}. Send what is not compressed without Content-Encoding."
                ) from None
            left = inflate.unconsumed_tail
            total += len(piece)
            if total > limit:
                raise too_large(limit)
            yield piece
            await asyncio.sleep(0)
        if inflate.unused_data or (inflate.eof and left):
            raise errors.InvalidInput("Something follows the compressed body.")
    if not inflate.eof:
        raise errors.InvalidInput("The compressed body is not complete.")


def too_large(limit: int) -> errors.TooLarge:
    """The refusal of a body over `limit` bytes."""
    return errors.TooLarge(f"The body is larger than the {limit // 2**20} MiB this call takes.")


class Budget:
    """The bytes of the bodies and answers under way in this process, bounded.

    Nobody holds more than `SHARE` times what is left.
    """

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._held: Counter[str] = Counter()

    @contextmanager
    def share(self, caller: str) -> Iterator[Share]:
        """One request's part, and its answer's; returned at the end of the block."""
        share = Share(self, caller)
        try:
            yield share
        finally:
            self._left += share.taken
            self._held[caller] -= share.taken
            if not self._held[caller]:
                del self._held[caller]

    def take(self, caller: str, size: int) -> None:
        """Take `size` bytes.

        Raises:
            errors.QueueFull: They are not left, or this caller would hold too large a part.
        """
        if self._held[caller] + size > SHARE * (self._left - size):
            raise errors.QueueFull("Too many bytes are under way; try again shortly.", retry_after_s=1)
        self._left -= size
        self._held[caller] += size


class Share:
    """What one request holds of a budget."""

    def __init__(self, budget: Budget, caller: str) -> None:
        self._budget, self._caller, self.taken = budget, caller, 0

    def take(self, size: int) -> None:
        """Hold `size` bytes more.

        Raises:
            errors.QueueFull: As `Budget.take`.
        """
        self._budget.take(self._caller, size)
        self.taken += size

    async def metered(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """A body whose bytes are held as they arrive."""
        async for chunk in body:
            self.take(len(chunk))
            yield chunk


def decode(body: bytes, type_: type[T]) -> T:
    """A JSON object as `type_`, a struct.

    Raises:
        errors.InvalidInput: Not JSON, or not as the struct says; `errors` has one entry for each wrong field.
    """
    try:
        try:
            return msgspec.json.decode(body, type=type_)
        except msgspec.ValidationError as error:
            raise _refusal(body, type_, error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise errors.InvalidInput(f"The body is not valid JSON: {error}.") from None
    except RecursionError:
        raise errors.InvalidInput("The JSON is nested too deeply.") from None


def decode_fields(fields: Mapping[str, msgspec.Raw], type_: type[T]) -> T:
    """Like `decode`, from the JSON of each field on its own (the fields of a form)."""
    try:
        return decode(msgspec.json.encode(fields), type_)
    except errors.InvalidInput as error:
        raise errors.InvalidInput(error.message, errors=_of_text(error.errors or [], fields)) from None


def decode_texts(texts: Mapping[str, str], type_: type[T]) -> T:
    """Like `decode`, from plain text (a query, the fields of a form), where a number is a string of digits."""
    try:
        return msgspec.convert(texts, type_, strict=False)
    except msgspec.ValidationError:
        lenient = functools.partial(msgspec.convert, strict=False)
        raise errors.InvalidInput(MISFIT, errors=_of_text(_misfits(texts, type_, lenient), texts)) from None


def _of_text(found: list[dict[str, str]], fields: Mapping[str, Any]) -> list[dict[str, str]]:
    """The fields themselves are texts; what is inside the JSON of one may be null."""
    return [item | {"message": wording.of_text(item["message"])} if item["field"] in fields else item for item in found]


def _refusal(body: bytes, type_: type[T], first: msgspec.ValidationError) -> errors.InvalidInput:
    if body.count(b":") > DISSECTED:
        return errors.InvalidInput(MISFIT, errors=[misfit("", type_, first)])
    try:
        given = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        return errors.InvalidInput("The body must be a JSON object.", errors=[misfit("", type_, first)])
    found = _misfits(given, type_, lambda value, wanted: msgspec.json.decode(value, type=wanted))
    return errors.InvalidInput(MISFIT, errors=found or [misfit("", type_, first)])


def _misfits(given: Mapping[str, Any], type_: type[Any], check: Callable[[Any, Any], Any]) -> list[dict[str, str]]:
    known = {field.encode_name: field for field in msgspec.structs.fields(type_)}
    found: list[dict[str, str]] = []
    for place, (name, value) in enumerate(given.items()):
        if len(found) == MISFITS:
            found.append({"field": "body", "message": f"and {len(given) - place} more, not looked at"})
            break
        if name not in known:
            found.append({"field": name[: wording.SHOWN], "message": wording.unknown("field", known)})
            continue
        try:
            check(value, known[name].type)
        except msgspec.ValidationError as error:
            found.append(misfit(name, known[name].type, error))
    missing = [name for name, field in known.items() if field.required and name not in given]
    return found + [{"field": name, "message": REQUIRED} for name in missing]


def misfit(name: str, type_: Any, error: msgspec.ValidationError) -> dict[str, str]:
    """What is wrong with a field, or with something inside it."""
    path, message = wording.explained(type_, str(error))
    return {"field": (name + path).lstrip(".")[: wording.SHOWN] or "body", "message": message}


class StrictJson(AbstractDTO[Any]):
    """Decodes the JSON body of every handler that takes `data` with `decode`, in place of Litestar's lax conversion."""

    def decode_bytes(self, value: bytes) -> Any:
        """The body as the handler's `data` type."""
        media_type = self.asgi_connection.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json" and not media_type.endswith("+json"):
            raise errors.UnsupportedMedia("This call takes JSON; send `Content-Type: application/json`.")
        return decode(value, self.asgi_connection.route_handler.parsed_data_field.annotation)

    @classmethod
    def create_for_field_definition(cls, *_: Any, **__: Any) -> None:
        """No transfer model: the struct itself is what is decoded."""

    @classmethod
    def create_openapi_schema(
        cls, field_definition: FieldDefinition, handler_id: str, schema_creator: SchemaCreator
    ) -> Reference | Schema:
        """The schema of the struct itself."""
        return schema_creator.for_field_definition(field_definition)

    @classmethod
    def generate_field_definitions(cls, model_type: type[Any]) -> Generator[DTOFieldDefinition, None, None]:
        """No fields are transferred one by one."""
        yield from ()

    @classmethod
    def detect_nested_field(cls, field_definition: FieldDefinition) -> bool:
        """Nothing is nested for the same reason."""
        return False
