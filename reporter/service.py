"""The section on the platform's own HTTP service under load: each loop by itself, in sentences of figures."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from shared.verdict.figures import estimate, figure, listing, plural
from shared.verdict.metrics import Metric
from shared.verdict.service import LoopRecord, ServiceRecord

NO_PART = (
    "The loops say what users of this platform see: HTTP, sign-in, queue and decoding included, with what served then. "
    "The limits of the order and the choice are about candidates and do not look here."
)
ASSUMES = (
    "Latency of the open loop counts from the moment a request was due, so that it holds what a stall made others "
    "wait; that of the closed loop counts from sending, and a stall holds its clients back. Percentiles are over "
    "answered requests alone."
)


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """A label with its text."""

    label: str
    text: str


def service_facts(record: ServiceRecord) -> list[Fact]:
    """The section, line by line."""
    return list(_facts(record))


def _facts(record: ServiceRecord) -> Iterator[Fact]:
    if record.reason:
        yield Fact(label="Not measured", text=record.reason)
    for label, loop in (("Closed loop", record.closed), ("Open loop", record.open)):
        if loop is not None:
            yield from _loop(label, loop)
    if record.source:
        over = "HTTPS" if record.tls else "HTTP"
        what = f"{record.source}, the middle one {record.input_bytes:,} bytes"
        text = f"{plural(record.inputs, 'input')} in turn ({what}), over {over} on this machine"
        yield Fact(label="Sent", text=text)
    yield from (Fact(label="Disturbed", text=condition) for condition in record.conditions)
    if record.closed or record.open:
        yield Fact(label="What it says", text=f"{NO_PART} {ASSUMES}")


def _loop(label: str, loop: LoopRecord) -> Iterator[Fact]:
    if loop.offered_per_s is None:
        how = f"{plural(loop.users, 'client')}, each with one request at a time"
    else:
        how = f"{figure(loop.offered_per_s)} requests a second on average, by a Poisson schedule"
    latencies = ", ".join(
        f"{name} {_value(metric)}"
        for name, metric in (("P50", loop.latency_p50_ms), ("P95", loop.latency_p95_ms), ("P99", loop.latency_p99_ms))
    )
    yield Fact(label=label, text=f"{how}: {_value(loop.throughput_per_s)} answers a second; latency {latencies} ms")
    parts = ", ".join(
        f"{name} {_value(metric)}"
        for name, metric in (
            ("queue", loop.queue_p50_ms),
            ("decoding", loop.decode_p50_ms),
            ("inference", loop.inference_p50_ms),
        )
    )
    yield Fact(label=f"{label}, parts", text=f"medians by what the answers say: {parts} ms")
    failed = f"{loop.refused:,} refused because the queue was full (429), {loop.failed:,} failed"
    seen = "; ".join(f"{each.count:,} x {each.code}: {each.example}" for each in loop.failures)
    yield Fact(label=f"{label}, requests", text=f"{loop.sent:,} sent, {loop.answered:,} answered, {failed}")
    if seen:
        yield Fact(label=f"{label}, failures", text=seen)
    yield Fact(label=f"{label}, served by", text=_served(loop))
    late = "" if loop.late_p99_ms is None else f"; P99 until a request was written {figure(loop.late_p99_ms)} ms"
    kept = f"; percentiles are over {loop.kept}" if loop.kept else ""
    yield Fact(
        label=f"{label}, generator", text=f"{figure(loop.generator_cores)} processor cores, of this machine{late}{kept}"
    )


def _served(loop: LoopRecord) -> str:
    """Engines and precisions, and how many requests they answered together."""
    answers: dict[str, int] = {}
    for each in loop.served:
        name = f"{each.engine} {each.precision.upper()}"
        answers[name] = answers.get(name, 0) + each.answers
    most = max((each.batch_size for each in loop.served), default=0)
    by = listing([f"{name} ({count:,} answers)" for name, count in sorted(answers.items())])
    return f"{by}, up to {most} requests a call" if by else "nothing"


def _value(metric: Metric) -> str:
    if metric.value is None:
        return metric.note or "not measured"
    return estimate(metric.value, metric.low, metric.high)
