"""Multipart bodies, read as they arrive: small fields are collected, files are handed on in chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import msgspec
import multipart

from shared import errors

FIELD_BYTES = 1 << 20
"""Longest field that is no file (a label list of a thousand classes has some ten kB)."""


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """A field that is no file, complete."""

    name: str
    value: str


class FileStart(msgspec.Struct, frozen=True, kw_only=True):
    """A file begins; its chunks follow as `bytes`, then `FileEnd`."""

    name: str
    filename: str


class FileEnd(msgspec.Struct, frozen=True):
    """The file that began last is complete."""


Part = Field | FileStart | bytes | FileEnd


async def parts(content_type: str, body: AsyncIterator[bytes], max_parts: int) -> AsyncGenerator[Part, None]:
    """The parts of a multipart body, in order.

    Args:
        content_type: The request's header.
        body: Its chunks.
        max_parts: Fields and files together.

    Raises:
        errors.UnsupportedMedia: The body is no multipart form.
        errors.InvalidInput: It is a broken one.
        errors.TooLarge: A field over `FIELD_BYTES`, or too many parts.
    """
    reader = _Reader()
    try:
        with multipart.PushMultipartParser(_boundary(content_type), max_segment_count=max_parts) as parser:
            async for chunk in body:
                for event in parser.parse(chunk):
                    for part in reader.take(event):
                        yield part
    except multipart.ParserLimitReached as error:
        raise errors.TooLarge(f"The form is too large: {error}.") from None
    except multipart.MultipartError as error:
        raise errors.InvalidInput(f"The multipart form is broken or incomplete: {error}.") from None


class _Reader:
    """Parser events to parts."""

    def __init__(self) -> None:
        self._field: str | None = None
        self._value = bytearray()

    def take(self, event: multipart.MultipartSegment | bytes | None) -> list[Part]:
        if isinstance(event, multipart.MultipartSegment):
            return self._start(event)
        if self._field is None:
            return [FileEnd() if event is None else bytes(event)]
        if event is None:
            return [Field(name=self._field, value=_text(self._field, bytes(self._value)))]
        self._value += event
        if len(self._value) > FIELD_BYTES:
            raise errors.TooLarge(f"The field {self._field!r} is longer than {FIELD_BYTES // 1024} KiB.")
        return []

    def _start(self, segment: multipart.MultipartSegment) -> list[Part]:
        name = (segment.name or "")[:200]
        if segment.filename is None:
            self._field, self._value = name, bytearray()
            return []
        self._field = None
        return [FileStart(name=name, filename=segment.filename[:1000])]


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise errors.InvalidInput(
            "A field is not UTF-8 text.", errors=[{"field": name, "message": "not UTF-8 text"}]
        ) from None


def _boundary(content_type: str) -> str:
    media_type, options = multipart.parse_options_header(content_type)
    if media_type != "multipart/form-data":
        raise errors.UnsupportedMedia(
            f"This call takes multipart/form-data, not {media_type[:80] or 'a body without Content-Type'}."
        )
    if not options.get("boundary"):
        raise errors.UnsupportedMedia("The Content-Type names no multipart boundary.")
    return str(options["boundary"])
