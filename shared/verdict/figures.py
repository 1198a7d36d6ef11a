"""How figures and candidates are written: significant digits, intervals, units, names people use."""

from __future__ import annotations

import math
from typing import NamedTuple

from shared.specs import Candidate, Constraint, EngineName, MeasuredModel, MetricName

Value = str | int | float | bool | None

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What makes a spreadsheet take a text cell for a formula (OWASP, CSV Injection)."""


class Quantity(NamedTuple):
    """A metric's name within a sentence, and its unit."""

    label: str
    unit: str


QUANTITIES: dict[MetricName, Quantity] = {
    "latency_mean_ms": Quantity("mean latency", "ms"),
    "latency_p50_ms": Quantity("P50 latency", "ms"),
    "latency_p95_ms": Quantity("P95 latency", "ms"),
    "latency_p99_ms": Quantity("P99 latency", "ms"),
    "throughput_fps": Quantity("throughput", "images/s"),
    "cpu_util_pct": Quantity("CPU use", "%"),
    "gpu_util_pct": Quantity("GPU use", "%"),
    "memory_mb": Quantity("memory", "MB"),
    "vram_usage_mb": Quantity("GPU memory", "MB"),
    "power_draw_w": Quantity("power", "W"),
    "accuracy": Quantity("accuracy", ""),
    "accuracy_drop": Quantity("accuracy drop", ""),
    "load_ms": Quantity("load time", "ms"),
    "artifact_mb": Quantity("model file", "MB"),
}

OP_SIGNS = {"<=": "≤", "<": "<", ">=": "≥", ">": ">"}

ENGINE_TITLES: dict[EngineName, str] = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "tensorrt": "TensorRT",
    "pytorch": "PyTorch",
}


def round_significant(value: float, digits: int = 6) -> float:
    """`value` to so many significant digits; what is stored in a report has six."""
    return float(f"{value:.{digits - 1}e}")


def decimals(value: float, digits: int = 3) -> int:
    """How many decimals show `value` with so many significant digits."""
    rounded = abs(round_significant(value, digits))
    if not rounded:
        return 0
    return max(0, digits - 1 - math.floor(math.log10(rounded)))


def figure(value: float, places: int | None = None) -> str:
    """Three significant digits, all integer digits kept and grouped (`0.0123`, `1.20`, `12,345`).

    With `places`, so many decimals instead.
    """
    return f"{value:,.{decimals(value) if places is None else places}f}"


def terse(value: float) -> str:
    """Three significant digits without zeros at the end, as settings are written (`0.000187`, `0.001`, `20`)."""
    text = figure(value)
    return text.rstrip("0").rstrip(".") if "." in text else text


def hundredths(share: float) -> str:
    """A share in hundredths: 0.9575 is `95.8`."""
    return f"{100 * share:.3g}"


def places_for(value: float, low: float | None, high: float | None) -> int:
    """How many decimals show a value beside its interval; those of the bounds where the value is 0."""
    return decimals(value) if value else decimals(max(abs(low or 0.0), abs(high or 0.0)), 2)


def span(low: float, high: float, places: int) -> str:
    """`1.20–1.27`."""
    return f"{figure(low, places)}–{figure(high, places)}"


def estimate(value: float, low: float | None, high: float | None) -> str:
    """`1.23 (1.20–1.27)`: bounds with as many decimals as the value; without bounds only the value."""
    if low is None or high is None:
        return figure(value)
    places = places_for(value, low, high)
    return f"{figure(value, places)} ({span(low, high, places)})"


def factor(ratio: float) -> str:
    """A ratio of two figures, `1.31×`: never less than two decimals below ten, since 5 % must be visible."""
    return f"{ratio:,.{2 if ratio < 10 else 1 if ratio < 100 else 0}f}×"


def quantity(metric: MetricName, text: str) -> str:
    """A figure with its unit; the percent sign too stands apart."""
    unit = QUANTITIES[metric].unit
    return f"{text} {unit}" if unit else text


def limit(constraint: Constraint) -> str:
    """A constraint as a phrase: `P95 latency ≤ 10 ms`."""
    value = quantity(constraint.metric, f"{constraint.value:,.12g}")
    return f"{QUANTITIES[constraint.metric].label} {OP_SIGNS[constraint.op]} {value}"


def engine_title(candidate: Candidate) -> str:
    """`ONNX Runtime FP32`."""
    return f"{ENGINE_TITLES[candidate.engine]} {candidate.precision.upper()}"


def title(candidate: Candidate) -> str:
    """`ONNX Runtime FP32, batch 8, 2 threads`; instances are named when there is more than one."""
    parts = [engine_title(candidate), f"batch {candidate.batch_size}", plural(candidate.threads, "thread")]
    if candidate.instances > 1:
        parts.append(plural(candidate.instances, "instance"))
    return ", ".join(parts)


def cell(value: Value) -> Value:
    """A field of a CSV file: text that a spreadsheet would run gets an apostrophe in front; numbers stay numbers."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def fed(model: MeasuredModel) -> str:
    """What one row of a batch is: an image where the model has a contract for images."""
    return "image" if model.preprocessing_hash else "row"


def plural(count: int, noun: str) -> str:
    """`1 thread`, `2 threads`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def listing(items: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def some(items: list[str], most: int = 3) -> str:
    """The same with the first few only: `a, b and 30 others`."""
    return listing(items if len(items) <= most + 1 else [*items[:most], f"{len(items) - most} others"])


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]
