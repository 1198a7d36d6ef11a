"""Where a piece of work comes from, and its place in a trace (W3C Trace Context); spans for OpenTelemetry when wished.

Nothing of OpenTelemetry is imported before `export` is called, which happens where OTEL_EXPORTER_OTLP_ENDPOINT is set.
The queue of finished spans is bounded, its exporter is a thread of its own, and what it cannot deliver is dropped.
"""

from __future__ import annotations

import contextvars
import importlib.util
import re
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan

CLOSE_S = 3.0
"""How long the end of a process waits for its last spans to be delivered."""

EXTRA = "opentelemetry.exporter.otlp.proto.http"
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")

Kind = Literal["server", "consumer", "internal"]
Value = str | int | float | None
"""Of an attribute; None is left out."""

_current: contextvars.ContextVar[str | None] = contextvars.ContextVar("traceparent", default=None)
_provider: TracerProvider | None = None


class Origin(msgspec.Struct, frozen=True):
    """What a request hands on to the work it starts."""

    request_id: str | None = None
    traceparent: str | None = None


def traceparent(offered: bytes) -> str | None:
    """The value of a `traceparent` header if it is a valid one (version 00), else None."""
    text = offered.decode("latin-1")
    return text if _TRACEPARENT.fullmatch(text) else None


def installed() -> bool:
    """Whether the extra `otel` is there."""
    try:
        return importlib.util.find_spec(EXTRA) is not None
    except ModuleNotFoundError:
        return False


def export(service: str) -> None:
    """From now on spans are recorded and sent, as the OTEL_ variables say; needs the extra `otel`."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    global _provider  # noqa: PLW0603  # one a process, like its log
    about = {"service.name": service.partition("-")[0], "service.namespace": "cv-platform"}
    _provider = TracerProvider(
        resource=Resource.create(about | {"service.instance.id": service}), shutdown_on_exit=False
    )
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))


def exporting() -> bool:
    """Whether spans are recorded here."""
    return _provider is not None


def close() -> None:
    """Send what is left, for `CLOSE_S` at most."""
    global _provider
    provider, _provider = _provider, None
    if provider is not None:
        ending = threading.Thread(target=provider.shutdown, name="last-spans", daemon=True)
        ending.start()
        ending.join(CLOSE_S)


class Span:
    """A piece of work under way. Nothing but its parent's place while spans are not exported."""

    def __init__(self, name: str, parent: str | None, kind: Kind = "internal", at_ns: int | None = None) -> None:
        """It begins now, or at a moment of the wall clock.

        Args:
            name: Few different ones: what is done, not to whom.
            parent: Trace parent of the work this is a part of; None begins a trace.
            kind: As OpenTelemetry means it.
            at_ns: Unix time.
        """
        self.traceparent = parent
        """For the work this leads to, here or elsewhere."""
        self._span: OtelSpan | None = None
        if _provider is not None:
            self._begin(_provider, name, kind, at_ns)

    def _begin(self, provider: TracerProvider, name: str, kind: Kind, at_ns: int | None) -> None:
        from opentelemetry import trace as otel

        context = None
        if self.traceparent and (found := _TRACEPARENT.fullmatch(self.traceparent)):
            trace_id, span_id, flags = (int(part, 16) for part in found.groups())
            remote = otel.SpanContext(trace_id, span_id, is_remote=True, trace_flags=otel.TraceFlags(flags))
            context = otel.set_span_in_context(otel.NonRecordingSpan(remote))
        self._span = provider.get_tracer("cv-platform").start_span(
            name, context=context, kind=otel.SpanKind[kind.upper()], start_time=at_ns
        )
        mine = self._span.get_span_context()
        self.traceparent = f"00-{mine.trace_id:032x}-{mine.span_id:016x}-{mine.trace_flags:02x}"

    def note(
        self,
        attributes: Mapping[str, Value],
        *,
        name: str | None = None,
        failed: str | None = None,
    ) -> None:
        """Add what is known by now, a better name too; `failed` says why it is a failure."""
        if self._span is None:
            return
        if name is not None:
            self._span.update_name(name)
        self._span.set_attributes({key: value for key, value in attributes.items() if value is not None})
        if failed is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_status(Status(StatusCode.ERROR, failed))

    def end(self, at_ns: int | None = None) -> None:
        """It ends now, or at a moment of the wall clock."""
        if self._span is not None:
            self._span.end(at_ns)

    def __enter__(self) -> Span:
        self._token = _current.set(self.traceparent)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        _current.reset(self._token)
        if error is not None:
            self.note({}, failed=str(error) or type(error).__name__)
        self.end()


def current() -> str | None:
    """Trace parent of the innermost span whose `with` block this is."""
    return _current.get()
