"""Every candidate of a measurement set with its metrics and its verdicts: what the decision is made from."""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import InvalidInput
from shared.specs import ENGINES, Accuracy, Block, Candidate, GateResult, MeasurementSet, MetricName, Precision, Series
from shared.verdict.constraints import Judgement, judge_all
from shared.verdict.figures import estimate, figure, quantity
from shared.verdict.gate import accuracy_limit
from shared.verdict.metrics import Metric, summarise

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
BEYOND = 2**53
"""No call takes so many nanoseconds, 104 days, and no other figure is as large; floating point is exact up to here."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """One candidate: its measurements, what they amount to, and whether it keeps the constraints."""

    series: Series
    metrics: dict[MetricName, Metric]
    constraints: list[Judgement]
    gate: GateResult | None = None
    """What was found about its engine and precision before anything was measured."""
    reference: Accuracy | None = None
    """What its accuracy is compared with."""

    @property
    def candidate(self) -> Candidate:
        """The way to serve that was measured."""
        return self.series.candidate

    @property
    def key(self) -> str:
        """The candidate's name in tables and files."""
        return self.candidate.key

    @property
    def measured(self) -> bool:
        """Whether there is at least one timed call."""
        return self.series.status == "measured" and bool(self.metrics)

    @property
    def eligible(self) -> bool:
        """Measured, and every constraint is a clear pass."""
        return self.measured and all(judgement.verdict == "pass" for judgement in self.constraints)

    def value(self, metric: MetricName) -> float | None:
        """The estimate of a metric, if there is one."""
        found = self.metrics.get(metric)
        return found.value if found else None

    def text(self, metric: MetricName) -> str:
        """The metric as people read it, `1.23 (1.20–1.27) ms`, or why there is none."""
        found = self.metrics[metric]
        if found.value is None:
            return found.note or "not measured"
        if found.exact:
            return f"{figure(found.value)} ({found.note})"
        return quantity(metric, estimate(found.value, found.low, found.high))


def fixed_order(candidate: Candidate) -> tuple[int, ...]:
    """The order that settles what nothing else does: engine, precision, batch, threads, instances."""
    return (
        ENGINES.index(candidate.engine),
        PRECISIONS.index(candidate.precision),
        candidate.batch_size,
        candidate.threads,
        candidate.instances,
    )


def assess(measurements: MeasurementSet) -> list[Assessment]:
    """All candidates in fixed order, whatever order they were stored in.

    Raises:
        InvalidInput: A candidate occurs twice, one was measured that its gate had refused, or a figure is not a number
            that can be measured.
    """
    gates = {(gate.engine, gate.precision): gate for gate in measurements.gates}
    implied = accuracy_limit(measurements)
    constraints = (*measurements.config.constraints, *([implied] if implied else []))
    found = []
    for series in sorted(measurements.series, key=lambda item: fixed_order(item.candidate)):
        _check(series)
        gate = gates.get((series.candidate.engine, series.candidate.precision))
        if series.status == "measured" and gate is not None and gate.verdict == "fail":
            raise InvalidInput(f"{series.candidate.key} was measured although its gate refused it; measure again.")
        metrics = summarise(series, gate, measurements.reference)
        found.append(Assessment(series, metrics, judge_all(constraints, metrics), gate, measurements.reference))
    keys = [item.key for item in found]
    if twice := {key for key in keys if keys.count(key) > 1}:
        raise InvalidInput(f"The measurement set holds {min(twice)} more than once; store one series per candidate.")
    return found


def _check(series: Series) -> None:
    for block in series.blocks:
        if not _sound(block):
            raise InvalidInput(
                f"Round {block.round} of {series.candidate.key} holds a figure that cannot be a measurement "
                "(a duration that is not positive, a value that is not a number or beyond all bounds); measure again."
            )


def _sound(block: Block) -> bool:
    on_gpu = (block.gpu_util_pct, block.vram_mb, block.power_w)
    figures = (block.load_ms, block.cpu_util_pct, block.memory_mb, *(value for value in on_gpu if value is not None))
    return (
        min(block.latencies_ns, default=1) > 0
        and (block.elapsed_ns > 0 or not block.latencies_ns)
        and max(block.latencies_ns, default=0) < BEYOND
        and block.elapsed_ns < BEYOND
        and all(0 <= value < BEYOND for value in figures)  # no number compares with NaN
    )
