"""Figures in everyday words, for readers who decide and do not measure: shorter, longer, about the same, at most."""

from __future__ import annotations

import math
from typing import NamedTuple

from shared.specs import Constraint, MetricName
from shared.verdict.constraints import Judgement
from shared.verdict.figures import figure, hundredths, quantity


class Comparative(NamedTuple):
    """How more and less of something is said: `longer`, `shorter`, `as long`."""

    more: str
    less: str
    times: str


COMPARATIVES: dict[MetricName, Comparative] = {
    "latency_p95_ms": Comparative("longer", "shorter", "as long"),
    "throughput_fps": Comparative("more", "fewer", "as many"),
    "memory_mb": Comparative("more", "less", "as much"),
}

NAMES: dict[MetricName, str] = {
    "latency_mean_ms": "average response time",
    "latency_p50_ms": "typical response time",
    "latency_p95_ms": "response time (19 of 20 calls)",
    "latency_p99_ms": "response time (99 of 100 calls)",
    "throughput_fps": "throughput",
    "cpu_util_pct": "processor use",
    "gpu_util_pct": "GPU use",
    "memory_mb": "memory",
    "vram_usage_mb": "GPU memory",
    "power_draw_w": "power",
    "accuracy": "accuracy",
    "accuracy_drop": "loss of accuracy",
    "load_ms": "time to load",
    "artifact_mb": "model file",
}
OPS = {"<=": "of at most", "<": "below", ">=": "of at least", ">": "above"}
SHARES: tuple[MetricName, ...] = ("accuracy", "accuracy_drop")
ALIKE = 1.25
"""Within this ratio, up or down, an interval around 1 is called about the same."""


def limit(wanted: Judgement | Constraint) -> str:
    """`response time (19 of 20 calls) of at most 5 ms`."""
    if wanted.metric in SHARES:
        value = f"{hundredths(wanted.value)} %" if wanted.metric == "accuracy" else points(wanted.value)
        return f"{NAMES[wanted.metric]} {OPS[wanted.op]} {value}"
    return f"{NAMES[wanted.metric]} {OPS[wanted.op]} {quantity(wanted.metric, f'{wanted.value:,.12g}')}"


def relation(metric: MetricName, ratio: float, low: float | None, high: float | None) -> str:
    """A ratio in words: `23 % shorter (20 to 25 %)`, `2.4 times as long (2.2 to 2.6)`, `about the same (…)`.

    Where the interval holds 1 and much else, nothing is the same: then it is all that is said.
    """
    say = COMPARATIVES[metric]
    if low is None or high is None:
        return f"{_by(ratio, say)}, by estimate" if metric != "memory_mb" else _by(ratio, say)
    if low <= 1 <= high:
        between = f"between {_by(low, say)} and {_by(high, say)}"
        return f"about the same ({between})" if max(1 / low if low else math.inf, high) <= ALIKE else between
    if ratio >= 2:
        return f"{_by(ratio, say)} ({low:.2g} to {high:.2g} times)"
    near, far = sorted((abs(low - 1), abs(high - 1)))
    return f"{_by(ratio, say)} ({_percent(near)} to {_percent(far)} %)"


def difference(by: float, low: float | None, high: float | None) -> str:
    """A difference of accuracies in words: `0.3 points lower (between 0.1 and 0.5)`."""
    if not by:
        return "the same"
    said = f"{points(abs(by))} {'lower' if by < 0 else 'higher'}"
    if low is None or high is None:
        return said
    if low <= 0 <= high:
        return f"{said}, which these images do not settle (between {points(-low)} lower and {points(high)} higher)"
    near, far = sorted((abs(low), abs(high)))
    return f"{said} (between {hundredths(near)} and {hundredths(far)})"


def points(share: float) -> str:
    """A difference of shares: 0.003 is `0.3 points`."""
    return f"{hundredths(share)} point{'' if hundredths(share) == '1' else 's'}"


def _by(ratio: float, say: Comparative) -> str:
    if ratio >= 2:
        return f"{figure(ratio)} times {say.times}"
    if _percent(abs(ratio - 1)) == "0":
        return "the same"
    return f"{_percent(abs(ratio - 1))} % {say.more if ratio > 1 else say.less}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}" if share >= 0.0095 or share < 0.0005 else f"{100 * share:.1f}"
