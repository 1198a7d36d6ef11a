"""`make bench-referee`: whether a benchmark's verdict can be trusted, each claim beside its goal.

`python -m benchmarks.referee NAME ...` makes some of the checks, without names all of them; `--times N` makes N runs
or simulations instead of the usual number. A missed goal makes the command fail.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarker import ROUNDS, Launched, LaunchOrder, MeasureOrder, measure
from benchmarks import checks, slowed
from benchmarks.checks import Found, console
from benchmarks.faults import faults
from benchmarks.models import digits_facts, free_port
from benchmarks.quantised import int8
from benchmarks.run import DIGITS, Platform
from shared.engines import yardstick
from shared.engines.onnxrt import OnnxRuntime
from shared.engines.timing import measure as timed
from shared.engines.timing import synthetic_feeds
from shared.specs import (
    BenchmarkSpec,
    Block,
    Candidate,
    MeasuredModel,
    MeasurementSet,
    MetricName,
    ModelDescription,
    Series,
    TensorInfo,
    canonical_json,
)
from shared.verdict.metrics import ALIKE, autocorrelation, latencies_ms, summarise
from shared.verdict.report import build, canonical
from shared.verdict.rounds import Compared, Rounds

INPUTS = [TensorInfo(name="image", dtype="float32", shape=["batch", 3, 32, 32])]
DESCRIPTION = ModelDescription(
    inputs=INPUTS,
    outputs=[TensorInfo(name="scores", dtype="float32", shape=["batch", 32])],
    opset=18,
    ir_version=10,
    parameters=0,
    dynamic_batch=True,
    preprocessing=None,
    labels=None,
)

REPLAYS, CHANGES = 1000, 200
RUNS, RUNS_GOAL = 20, 0.95
LONGER = 0.15
TIE_CALLS = 3000
"""Of each candidate: a launch is then some tenths of a second of calls, about what starting it takes."""
FULL_RUNS = 10
SIMULATIONS, COVERAGE = 3000, 0.94
LOOP_CALLS, LOOP_TURNS, LOOP_APART = 200, 30, 0.02


# --- replays --------------------------------------------------------------------------------------------------------


def replays(folder: Path, times: int | None) -> Found:
    """Stored measurements, decided in shuffled order, give one report; any other measurement another."""
    stored = canonical_json(measure.run(_order(folder, num_iterations=150, rounds=6), _ignore))
    times = times or REPLAYS
    draw = random.Random(1)
    hashes = set()
    for _ in range(times):
        read = msgspec.json.decode(stored, type=MeasurementSet)
        hashes.add(_hash(msgspec.structs.replace(read, series=draw.sample(read.series, len(read.series)))))
    yield f"{times:,} replays in shuffled order: {len(hashes)} hash (goal 1)", len(hashes) == 1
    changes = min(times, CHANGES)
    original = msgspec.json.decode(stored, type=MeasurementSet)
    others = {_hash(_changed(original, draw)) for _ in range(changes)} - hashes
    # Two draws may change the same measurement: as many hashes as there are different sets.
    yield f"{changes} sets with one measurement changed: {len(others)} other hashes", len(others) >= 0.9 * changes


def _hash(measurements: MeasurementSet) -> str:
    report = build(measurements, "rep_1")
    assert canonical(report)
    return report.content_sha256


def _changed(measurements: MeasurementSet, draw: random.Random) -> MeasurementSet:
    """The set with one figure of one block changed by the least that can be."""
    series = list(measurements.series)
    at = draw.choice([index for index, item in enumerate(series) if item.blocks])
    blocks = list(series[at].blocks)
    which = draw.randrange(len(blocks))
    blocks[which] = _other(blocks[which], draw)
    series[at] = msgspec.structs.replace(series[at], blocks=blocks)
    return msgspec.structs.replace(measurements, series=series)


def _other(block: Block, draw: random.Random) -> Block:
    name = draw.choice(["latencies_ns"] * 5 + ["elapsed_ns", "load_ms", "memory_mb", "cpu_util_pct", "warmup_calls"])
    if name == "latencies_ns":
        latencies = list(block.latencies_ns)
        latencies[draw.randrange(len(latencies))] += draw.randint(1, 1000)
        return msgspec.structs.replace(block, latencies_ns=latencies)
    value = getattr(block, name)
    more = draw.randint(1, 1000) if isinstance(value, int) else draw.random()
    return msgspec.structs.replace(block, **{name: value + more})


# --- ties and slower copies -----------------------------------------------------------------------------------------


def ties(folder: Path, times: int | None) -> Found:
    """The same engine entered twice ties, and copies slowed by 15 % lose by speed, in one benchmark."""
    times = times or RUNS
    tied = settled = slower = clearly = 0
    for run in range(times):
        order = _order(folder, threads=(1, 2), seed=run, num_iterations=TIE_CALLS, noise_floor=True)
        report = build(measure.run(order, _ignore, _disguised), "rep_1")
        decision = report.decision
        pair = {item.key for item in decision.tied} | {decision.selected.key if decision.selected else ""}
        why = {item.candidate.key: item.why for item in decision.rejected}
        tied += pair == {_key("onnxruntime", 1), _key("openvino", 1)}
        slower += all("slower" in why.get(_key(engine, 2), "") for engine in ("onnxruntime", "openvino"))
        clearly += all(why.get(_key(engine, 2), "").startswith("slower:") for engine in ("onnxruntime", "openvino"))
        settled += not decision.fragile
        console.print(f"  {run + 1:2} {'; '.join(decision.reasons[2:6])}", style="dim", soft_wrap=True)
    goal = f"(goal {RUNS_GOAL:.0%})"
    yield f"the same engine twice ties in {tied} of {times} {goal}", tied >= RUNS_GOAL * times
    yield f"copies {LONGER:.0%} slower lose by speed in {slower} of {times} {goal}", slower >= RUNS_GOAL * times
    yield f"without any doubt: slower in {clearly}, every comparison settled in {settled}", True


def _key(engine: str, threads: int) -> str:
    return f"{engine}/fp32/b1/t{threads}/i1"


def _disguised(order: LaunchOrder, limit_s: float) -> Launched:
    """ONNX Runtime with one thread, whatever the candidate is called; those with two threads are slowed instead."""
    truth = Candidate(engine="onnxruntime", precision="fp32", batch_size=1, threads=1)
    module = "benchmarker.candidate" if order.candidate.threads == 1 else "benchmarks.slowed"
    os.environ[slowed.LONGER] = str(LONGER)
    return measure.launch(msgspec.structs.replace(order, candidate=truth), limit_s, module)


# --- the same selection ---------------------------------------------------------------------------------------------


def same(folder: Path, times: int | None) -> Found:
    """Two real engines with a real difference: the same selection in every full run through the platform."""
    times = times or FULL_RUNS
    platform = Platform(folder, free_port())
    try:
        model_id = platform.ready(platform.upload(DIGITS / "digits.onnx", **digits_facts()))
        chosen = [_selected(platform, model_id, run) for run in range(times)]
    finally:
        platform.down()
    counts = {key: chosen.count(key) for key in dict.fromkeys(chosen)}
    told = ", ".join(f"{key} {count} times" for key, count in counts.items())
    yield f"selected in {times} full runs: {told} (goal one alone)", len(counts) == 1


def _selected(platform: Platform, model_id: str, run: int) -> str:
    order = {
        "model_id": model_id,
        "engines": ["onnxruntime", "openvino"],
        "batch_sizes": [1],
        "threads": [1],
        "seed": run,
    }
    answer = platform.http.post("/benchmark", json=order)
    answer.raise_for_status()
    job = platform.wait(f"/benchmark/{answer.json()['id']}", lambda body: body["report_id"])
    decision = platform.http.get(f"/reports/{job['report_id']}").json()["decision"]
    console.print(f"  {run + 1:2} {'; '.join(decision['reasons'][2:4])}", style="dim", soft_wrap=True)
    return str(decision["selected"]["engine"]) if decision.get("selected") else "nothing"


# --- coverage -------------------------------------------------------------------------------------------------------

Draw = Callable[[np.random.Generator, int, int], np.ndarray]
"""Latencies in ms as `[launches, calls]`, whose median scale is 1."""

LAUNCHES, CALLS = 12, 58
SLOWER = 1.2
FIGURES: tuple[MetricName, ...] = ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms", "throughput_fps")
RATIOS: dict[str, tuple[Compared, float]] = {
    "P95 ratio": ("latency_p95_ms", SLOWER),
    "throughput ratio": ("throughput_fps", 1 / SLOWER),
}


def _lognormal(generator: np.random.Generator, launches: int, calls: int) -> np.ndarray:
    return np.exp(0.2 * generator.standard_normal((launches, calls)))


def _bimodal(generator: np.random.Generator, launches: int, calls: int) -> np.ndarray:
    mode = np.where(generator.random((launches, calls)) < 0.2, 1.4, 1.0)
    return mode * np.exp(0.05 * generator.standard_normal((launches, calls)))


def _autocorrelated(generator: np.random.Generator, launches: int, calls: int) -> np.ndarray:
    """Each call resembles the one before (0.6), and launches differ by 3 %."""
    noise = generator.standard_normal((launches, calls))
    walk = np.empty_like(noise)
    walk[:, 0] = noise[:, 0]
    for at in range(1, calls):
        walk[:, at] = 0.6 * walk[:, at - 1] + 0.8 * noise[:, at]
    return np.exp(0.2 * walk + 0.03 * generator.standard_normal((launches, 1)))


SHAPES: dict[str, Draw] = {"lognormal": _lognormal, "bimodal": _bimodal, "autocorrelated": _autocorrelated}


def coverage(folder: Path, times: int | None) -> Found:
    """How often 95 % intervals hold the truth, by simulation."""
    times = times or SIMULATIONS
    for shape, draw in SHAPES.items():
        truth = _truth(draw)
        held = dict.fromkeys([*FIGURES, *RATIOS], 0)
        warned = 0
        for seed in range(times):
            generator = np.random.default_rng([seed, *shape.encode()])
            first = _series("onnxruntime", draw(generator, LAUNCHES, CALLS))
            second = _series("openvino", SLOWER * draw(generator, LAUNCHES, CALLS))
            warned += autocorrelation([latencies_ms([block]) for block in first.blocks]) > ALIKE
            for name, ok in _held(first, second, truth):
                held[name] += ok
        console.print(f"  {shape}: told that calls are alike in {warned / times:.0%}", style="dim")
        for name, count in held.items():
            yield f"{shape}, {name}: {count / times:.1%} (goal {COVERAGE:.0%})", count >= COVERAGE * times


def _truth(draw: Draw) -> dict[MetricName, float]:
    calls = draw(np.random.default_rng(0), 40_000, CALLS)
    quantiles = np.quantile(calls, [0.5, 0.95, 0.99])
    return dict(zip(FIGURES, [*map(float, quantiles), 1000 / float(calls.mean())], strict=True))


def _held(first: Series, second: Series, truth: dict[MetricName, float]) -> Iterator[tuple[str, bool]]:
    metrics, pair = summarise(first), Rounds([first, second])
    for figure, value in truth.items():
        found = metrics[figure]
        yield figure, found.low is not None and found.high is not None and found.low <= value <= found.high
    for name, (metric, ratio) in RATIOS.items():
        _, low, high = pair.ratio(metric, second.candidate.key, first.candidate.key)
        yield name, low is not None and high is not None and low <= ratio <= high


def _series(engine: Any, latencies_ms: np.ndarray) -> Series:
    blocks = []
    for number, launch in enumerate(latencies_ms, start=1):
        latencies_ns = [int(value * 1e6) for value in launch]
        blocks.append(
            Block(
                round=number,
                load_ms=1.0,
                warmup_calls=30,
                steady=True,
                latencies_ns=latencies_ns,
                elapsed_ns=sum(latencies_ns),
                cpu_util_pct=100.0,
                memory_mb=50.0,
            )
        )
    candidate = Candidate(engine=engine, precision="fp32", batch_size=1, threads=1)
    return Series(candidate=candidate, status="measured", provider="CPU", device="CPU", blocks=blocks)


# --- the bare engine ------------------------------------------------------------------------------------------------


def bare(folder: Path, times: int | None) -> Found:
    """The median of the timing loop beside that of a hand-written loop over the same session, turn by turn."""
    order = _order(folder)
    feeds = synthetic_feeds(INPUTS, 1, 0)
    with OnnxRuntime(Path(order.artifact), threads=1) as engine:
        ours: list[int] = []
        hand: list[int] = []
        for turn in range(times or LOOP_TURNS):
            for side in (0, 1) if turn % 2 else (1, 0):
                if side:
                    found = timed(engine, feeds, warmup_least=3, calls=LOOP_CALLS, max_seconds=60)
                    ours += found.latencies_ns
                else:
                    hand += _by_hand(engine._session, feeds)
    ratio = statistics.median(ours) / statistics.median(hand)
    told = f"{statistics.median(ours) / 1e6:.4f} ms against {statistics.median(hand) / 1e6:.4f} ms by hand"
    yield f"{told}: {ratio - 1:+.2%} (goal within {LOOP_APART:.0%})", abs(ratio - 1) <= LOOP_APART


def _by_hand(session: Any, feeds: Any) -> list[int]:
    for _ in range(30):
        session.run(None, feeds)
    found = []
    for _ in range(LOOP_CALLS):
        begin = time.perf_counter_ns()
        session.run(None, feeds)
        found.append(time.perf_counter_ns() - begin)
    return found


# --- what they share ------------------------------------------------------------------------------------------------


def _order(folder: Path, rounds: int = ROUNDS, **config: Any) -> MeasureOrder:
    """A benchmark of a small network of convolutions, some milliseconds a call with one thread."""
    path = folder / "convolutions.onnx"
    if not path.exists():
        path.write_bytes(yardstick.network())
    fields = {"engines": ("onnxruntime", "openvino"), "batch_sizes": (1,), "threads": (1,)}
    return MeasureOrder(
        id="job_referee",
        artifact=str(path),
        store=str(folder),
        models=str(folder),
        model=MeasuredModel(
            id="mdl_referee",
            name="convolutions",
            task_type="classification",
            sha256="0" * 64,
            file_size=path.stat().st_size,
            parameters=0,
            inputs=INPUTS,
            preprocessing_hash=None,
        ),
        description=DESCRIPTION,
        config=msgspec.convert(fields | {"model_id": "mdl_referee"} | config, BenchmarkSpec),
        rounds=rounds,
    )


def _ignore(body: dict[str, Any]) -> None:
    """Progress nobody looks at."""


CHECKS: dict[str, checks.Check] = {
    "replays": replays,
    "coverage": coverage,
    "ties": ties,
    "same": same,
    "bare": bare,
    "faults": faults,
    "int8": int8,
}


if __name__ == "__main__":
    checks.main("benchmarks.referee", __doc__, CHECKS)
