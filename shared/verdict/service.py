"""What the two loops that drove the service amount to: figures with intervals, pure and recomputable.

They judge nothing: the constraints of an order hold for candidates, and the choice does not look here.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from shared.specs import BodySource, LoadFailures, Loop, MeasuredService, Served
from shared.verdict.distribution import Distribution, counted
from shared.verdict.figures import round_significant
from shared.verdict.intervals import Interval, NotEnoughSamples, percentile_of_blocks, rate_of_blocks
from shared.verdict.metrics import Metric

SLICES = 10
"""Equal parts of a loop's time. Requests of one moment resemble each other, so intervals follow from how far the parts
differ, as they do for launches of a candidate."""
REFUSED = 429
TOO_SHORT = "too few requests for an interval"
NO_ANSWER = "not measured: no request was answered"
BEHIND_SHARE = 0.05
"""Of an open loop's time: how long its last requests take, at least, where the service fell behind."""
GROWTH = 1.25
"""From third to third of such a loop, at least."""
SATURATED_CORES = 0.9
"""Of the one core that the load generator can use."""


class LoopRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One loop. Percentiles are over answered requests alone; failures are beside them."""

    users: int
    offered_per_s: float | None
    """Open loop: the rate of its schedule."""
    sent: int
    answered: int
    refused: int
    """Answered 429: the platform takes no more for the moment."""
    failed: int
    """Without a prediction for any other reason."""
    failures: list[LoadFailures]
    served: list[Served]
    throughput_per_s: Metric
    latency_p50_ms: Metric
    latency_p95_ms: Metric
    latency_p99_ms: Metric
    queue_p50_ms: Metric
    decode_p50_ms: Metric
    inference_p50_ms: Metric
    rest_p50_ms: Metric | None = None
    """What no answer speaks of: HTTP, sign-in, the ways between processes, and in an open loop the wait to be sent."""
    latency: Distribution | None = None
    """Of the answered requests, in bins."""
    behind: bool = False
    """Open loop: more arrived than was answered, so that the wait grew for as long as it lasted."""
    saturated: bool = False
    """The load generator had no processor time left: it may be what was slow."""
    late_p99_ms: float | None
    """Until a request was written: the generator's own part in the latency."""
    generator_cores: float
    """Processor time of the load generator over the loop's time."""
    kept: str | None = None
    """What the percentiles leave out of the answers; None: nothing."""


class ServiceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The service under load, for the report."""

    reason: str | None
    source: BodySource | None
    inputs: int
    input_bytes: int
    tls: bool
    closed: LoopRecord | None
    open: LoopRecord | None
    conditions: list[str]


def service_record(measured: MeasuredService) -> ServiceRecord:
    """The figures of what was measured."""
    return ServiceRecord(
        reason=measured.reason,
        source=measured.source,
        inputs=measured.inputs,
        input_bytes=measured.input_bytes,
        tls=measured.tls,
        closed=loop_record(measured.closed) if measured.closed else None,
        open=loop_record(measured.open) if measured.open else None,
        conditions=measured.conditions,
    )


def loop_record(loop: Loop) -> LoopRecord:
    """The figures of one loop."""
    refused = sum(each.count for each in loop.failures if each.status == REFUSED)
    parts = _slices(loop)
    cores = loop.cpu_s / (loop.elapsed_ns / 1e9) if loop.elapsed_ns else 0.0
    return LoopRecord(
        users=loop.users,
        offered_per_s=None if loop.rate is None else round_significant(loop.rate),
        sent=loop.sent,
        answered=loop.answered,
        refused=refused,
        failed=loop.sent - loop.answered - refused,
        failures=loop.failures,
        served=loop.served,
        throughput_per_s=_throughput(loop, parts),
        latency_p50_ms=_percentile(loop.latencies_ns, 1e6, parts, 0.50),
        latency_p95_ms=_percentile(loop.latencies_ns, 1e6, parts, 0.95),
        latency_p99_ms=_percentile(loop.latencies_ns, 1e6, parts, 0.99),
        queue_p50_ms=_percentile(loop.queue_us, 1e3, parts, 0.50),
        decode_p50_ms=_percentile(loop.decode_us, 1e3, parts, 0.50),
        inference_p50_ms=_percentile(loop.inference_us, 1e3, parts, 0.50),
        rest_p50_ms=_percentile(_rest_us(loop), 1e3, parts, 0.50),
        latency=counted(loop.latencies_ns),
        behind=loop.kind == "open" and _fell_behind(loop, parts),
        saturated=cores >= SATURATED_CORES,
        late_p99_ms=_percentile(loop.late_ns, 1e6, parts, 0.99).value,
        generator_cores=round_significant(cores),
        kept=None if loop.every == 1 else f"one of {loop.every} answered requests, by when they were due",
    )


def _slices(loop: Loop) -> list[np.ndarray]:
    """Places of the kept requests by the part of the loop's time in which they were due; empty parts are left out."""
    due = np.asarray(loop.scheduled_ns, np.float64)
    width = max(1.0, (float(due.max()) if len(due) else 0.0) / SLICES + 1)
    part = (due // width).astype(np.int64)
    return [found for at in range(SLICES) if len(found := np.flatnonzero(part == at))]


def _rest_us(loop: Loop) -> np.ndarray:
    """Of each kept request: its latency less the parts that its answer tells."""
    told = sum(np.asarray(part, np.float64) for part in (loop.queue_us, loop.decode_us, loop.inference_us))
    return np.maximum(0.0, np.asarray(loop.latencies_ns, np.float64) / 1e3 - told)


def _fell_behind(loop: Loop, parts: Sequence[np.ndarray]) -> bool:
    """Whether latencies grew from third to third of the loop, to more than a stall at its end would explain."""
    if len(parts) < 3:
        return False
    took = np.asarray(loop.latencies_ns, np.float64)
    thirds = np.array_split(np.arange(len(parts)), 3)
    first, middle, last = (float(np.median(took[np.concatenate([parts[at] for at in third])])) for third in thirds)
    return last > BEHIND_SHARE * loop.scheduled_ns[-1] and last > GROWTH * middle > GROWTH**2 * first


def _percentile(values: Sequence[int] | np.ndarray, unit: float, parts: Sequence[np.ndarray], p: float) -> Metric:
    if not parts:
        return Metric(n=0, note=NO_ANSWER)
    scaled = np.asarray(values, np.float64) / unit
    try:
        return _metric(percentile_of_blocks([scaled[part] for part in parts], p), len(scaled))
    except NotEnoughSamples as error:
        return Metric(n=error.n, note=str(error))


def _throughput(loop: Loop, parts: Sequence[np.ndarray]) -> Metric:
    """Answered over the time from the start to the last answer or failure; its interval from the parts' own rates."""
    if not loop.answered or not loop.elapsed_ns:
        return Metric(n=0, note=NO_ANSWER)
    value = loop.answered / (loop.elapsed_ns / 1e9)
    if len(parts) < 2:
        return _metric(Interval(value, None, None), loop.answered, TOO_SHORT)
    rate = rate_of_blocks([float(len(part)) for part in parts], [1.0] * len(parts))
    low, high = (None if bound is None else value * bound / rate.value for bound in rate[1:])
    return _metric(Interval(value, low, high), loop.answered)


def _metric(interval: Interval, n: int, note: str | None = None) -> Metric:
    value, low, high = (None if bound is None else round_significant(bound) for bound in interval)
    return Metric(value=value, low=low, high=high, n=n, note=note)
