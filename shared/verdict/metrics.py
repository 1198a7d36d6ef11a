"""What the raw blocks of one candidate amount to: every metric with its interval, or why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

import msgspec
import numpy as np

from shared.specs import UNFIT, Accuracy, Block, GateResult, MetricName, Series
from shared.verdict import accuracy
from shared.verdict.figures import figure, plural, round_significant
from shared.verdict.intervals import Interval, NotEnoughSamples, mean_of_blocks, percentile_of_blocks, rate_of_blocks

ALIKE = 0.2
"""Lag-1 autocorrelation from which a reader is told."""
HELD_UP = 1.25
"""Times the median launch's P95: a launch above it was held up."""
ONE_BLOCK = "one block gives no interval"
IDENTICAL = "every image is answered as by the reference"
NO_DATASET = "this benchmark had no dataset"

PERCENTILES: dict[MetricName, float] = {"latency_p50_ms": 0.50, "latency_p95_ms": 0.95, "latency_p99_ms": 0.99}
FROM_DATASET: tuple[MetricName, ...] = ("accuracy", "accuracy_drop")


class Metric(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One figure of one candidate, to six significant digits.

    `n` counts what the figure rests on: calls for percentiles, images for accuracy, blocks (launches) for everything
    else, 0 when not measured.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int
    note: str | None = None
    exact: bool = False
    """Judged by the value, whatever the interval: no answer differs, so there is nothing to be unsure of."""


def usable(series: Series) -> list[Block]:
    """The blocks that hold at least one timed call, by round."""
    return sorted((b for b in series.blocks if b.latencies_ns and b.elapsed_ns > 0), key=lambda b: b.round)


def by_launch(blocks: Iterable[Block]) -> list[list[Block]]:
    """The blocks, those of one round together: they are one launch."""
    return [list(found) for _, found in groupby(blocks, key=lambda block: block.round)]


def latencies_ms(blocks: Iterable[Block]) -> np.ndarray:
    """Every call of the blocks, in milliseconds."""
    return np.concatenate([np.asarray(block.latencies_ns, dtype=np.float64) for block in blocks]) / 1e6


def launch_p95_ms(calls: np.ndarray) -> float:
    """The smallest call that at least 95 % of a launch's calls do not exceed."""
    return float(np.quantile(calls, 0.95, method="inverted_cdf"))


def summarise(
    series: Series, gate: GateResult | None = None, reference: Accuracy | None = None
) -> dict[MetricName, Metric]:
    """Every metric of a measured candidate, in a fixed order; of one that was rejected, its accuracy; else nothing.

    Percentiles are over all calls with order-statistic intervals, wider where calls of a launch are alike; mean
    latency, CPU use and load time are means over blocks with Student intervals; throughput is all images over the wall
    time of all blocks; memory, of a GPU as well, is the highest peak of the blocks.
    """
    blocks = usable(series)
    right = from_dataset(gate, reference)
    if series.status == "rejected" and right["accuracy"].n:
        return right
    if series.status != "measured" or not blocks:
        return {}
    found: dict[MetricName, Metric] = {"latency_mean_ms": _mean(float(latencies_ms([b]).mean()) for b in blocks)}
    calls = [latencies_ms(launch) for launch in by_launch(blocks)]
    found |= {name: _percentile(calls, p) for name, p in PERCENTILES.items()}
    found["throughput_fps"] = _throughput(blocks, series.candidate.batch_size)
    found["cpu_util_pct"] = _mean(b.cpu_util_pct for b in blocks)
    found["memory_mb"] = _peak([b.memory_mb for b in blocks])
    found["load_ms"] = _mean(b.load_ms for b in blocks)
    found["artifact_mb"] = _exact(series.artifact_bytes / 2**20)
    return found | _on_gpu(series, blocks) | right


def from_dataset(gate: GateResult | None, reference: Accuracy | None) -> dict[MetricName, Metric]:
    """Accuracy and its drop of an engine and precision, or why there is none."""
    if gate is None or gate.accuracy is None or reference is None:
        why = NO_DATASET if reference is None else "it was not found out on the test split"
        told = (note for note in (gate.notes if gate else ()) if note.startswith(UNFIT))
        why = next((note.removeprefix(UNFIT).rstrip(".") for note in told), why)
        return {name: Metric(n=0, note=f"not measured: {why}") for name in FROM_DATASET}
    return {"accuracy": accuracy_metric(gate.accuracy), "accuracy_drop": drop_metric(gate, reference)}


def accuracy_metric(found: Accuracy) -> Metric:
    """Share of right answers, or mAP, on the test split."""
    if found.metric == "top1":
        note = f"the best class is right; among the best five it is for {found.top5:.4g}" if found.top5 else None
    else:
        note = f"COCO mAP, IoU 0.50 to 0.95; at 0.50 it is {found.map50:.4g}" if found.map50 is not None else None
    return _metric(accuracy.accuracy(found), found.n, note)


def drop_metric(gate: GateResult, reference: Accuracy) -> Metric:
    """How much less accurate than the reference; exact where every image is answered alike.

    Raises:
        InvalidInput: The answers do not fit their number.
    """
    if gate.accuracy is None:
        return Metric(n=0, note="not measured: it was not found out on the test split")
    found = accuracy.drop(reference, gate.accuracy)
    same = gate.flips == 0 and not found.interval.value and not found.disagree
    metric = _metric(found.interval, found.n, IDENTICAL if same else None)
    return msgspec.structs.replace(metric, exact=True) if same else metric


def remarks(series: Series) -> list[str]:
    """What qualifies a candidate's figures: failed launches, empty blocks, blocks that had not settled."""
    blocks = usable(series)
    found = [f"launch failed: {failure}" for failure in series.failures]
    if empty := len(series.blocks) - len(blocks):
        found.append(f"{plural(empty, 'block')} without a timed call left out")
    if unsteady := sum(not block.steady for block in blocks):
        found.append(f"{unsteady} of {plural(len(blocks), 'block')} had not settled within 10 % after warm-up")
    found += _slow_launches(blocks)
    if blocks and (likeness := autocorrelation([latencies_ms(launch) for launch in by_launch(blocks)])) > ALIKE:
        found.append(
            f"a call resembles the one before (lag-1 autocorrelation {likeness:.2f}): {plural(_calls(blocks), 'call')} "
            "say less than so many independent ones; intervals of percentiles allow for it as far as launches differ"
        )
    return found


def _slow_launches(blocks: Sequence[Block]) -> list[str]:
    """Launches that something held up: figures over all calls have them in, comparisons by the median round hardly."""
    launches = [launch_p95_ms(latencies_ms(launch)) for launch in by_launch(blocks)]
    if not launches:
        return []
    typical = float(np.median(launches))
    slow = [p95 for p95 in launches if p95 > HELD_UP * typical]
    if not slow:
        return []
    return [
        f"{len(slow)} of {len(launches)} launches had a P95 more than 25 % above that of the median "
        f"launch (up to {figure(max(slow))} against {figure(typical)} ms): it is in the figures over all calls, and "
        "hardly in comparisons, which go by the median round"
    ]


def autocorrelation(launches: Sequence[np.ndarray]) -> float:
    """Lag-1 autocorrelation of the calls' ranks, each call with the next one of its launch; 0 with fewer than 3 calls.

    Ranks are those among all calls, ties by order, so that neither an outlier nor the unit matters, and launches that
    differ count as likeness of their calls.
    """
    calls = np.concatenate(launches)
    if len(calls) < 3:
        return 0.0
    ranks = np.argsort(np.argsort(calls, kind="stable"), kind="stable") - (len(calls) - 1) / 2
    parts = np.split(ranks, np.cumsum([len(launch) for launch in launches])[:-1])
    pairs = sum(len(part) - 1 for part in parts)
    return float(sum((part[:-1] * part[1:]).sum() for part in parts) / max(1, pairs) / np.mean(ranks**2))


def _calls(blocks: Sequence[Block]) -> int:
    return sum(len(block.latencies_ns) for block in blocks)


def _metric(interval: Interval, n: int, note: str | None = None) -> Metric:
    value, low, high = (None if bound is None else round_significant(bound) for bound in interval)
    return Metric(value=value, low=low, high=high, n=n, note=note)


def _throughput(blocks: Sequence[Block], batch_size: int) -> Metric:
    images = [len(block.latencies_ns) * batch_size for block in blocks]
    rate = rate_of_blocks(images, [block.elapsed_ns / 1e9 for block in blocks])
    return _metric(rate, len(blocks), ONE_BLOCK if len(blocks) == 1 else None)


def _mean(block_values: Iterable[float]) -> Metric:
    values = list(block_values)
    return _metric(mean_of_blocks(values), len(values), ONE_BLOCK if len(values) == 1 else None)


def _percentile(calls: Sequence[np.ndarray], p: float) -> Metric:
    try:
        return _metric(percentile_of_blocks(calls, p), sum(map(len, calls)))
    except NotEnoughSamples as error:
        return Metric(n=error.n, note=str(error))


def _peak(peaks: list[float]) -> Metric:
    return _metric(Interval(max(peaks), None, None), len(peaks), "highest peak of the blocks, as observed")


def _on_gpu(series: Series, blocks: Sequence[Block]) -> dict[MetricName, Metric]:
    """Of the blocks in which the device told; a launch on the CPU has nothing of the kind."""
    util, vram, power = (
        [value for block in blocks if (value := getattr(block, field)) is not None]
        for field in ("gpu_util_pct", "vram_mb", "power_w")
    )
    nothing = Metric(n=0, note=f"not measured: {_no_gpu(series)}")
    return {
        "gpu_util_pct": _mean(util) if util else nothing,
        "vram_usage_mb": _peak(vram) if vram else nothing,
        "power_draw_w": _mean(power) if power else nothing,
    }


def _exact(value: float) -> Metric:
    return (
        _metric(Interval(value, None, None), 1, "size of the file, exact")
        if value
        else Metric(n=0, note="not measured: no file")
    )


def _no_gpu(series: Series) -> str:
    ran_on = f"{series.device or ''} {series.provider or ''}".lower()
    if any(word in ran_on for word in ("gpu", "cuda", "tensorrt")):
        return "the GPU does not tell it"
    return "the candidate ran on the CPU"


def better(metric: MetricName, a: float, b: float) -> bool:
    """Whether `a` is the better figure: more images per second and accuracy, less of everything else."""
    return a > b if metric in ("throughput_fps", "accuracy") else a < b
