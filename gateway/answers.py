"""Answers as they leave: JSON ends with a newline, so that a terminal's prompt does not stick to it."""

from __future__ import annotations

from typing import Any, TypeVar

from litestar import Response
from litestar.serialization import default_serializer
from litestar.types import Serializer

Content = TypeVar("Content")


class Answer(Response[Content]):
    """A response whose JSON is a line of text; everything else is left as it is."""

    def render(self, content: Any, media_type: str, enc_hook: Serializer = default_serializer) -> bytes:
        """The body."""
        body = super().render(content, media_type, enc_hook)
        return body + b"\n" if content is not None and media_type.endswith("json") else body
