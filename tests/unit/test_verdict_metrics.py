"""From raw blocks to metrics, and from metrics to verdicts."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.specs import UNFIT, Block, Constraint, GateResult, MetricName, Series
from shared.verdict.constraints import Op, Verdict, judge, judge_all, relaxed
from shared.verdict.figures import estimate, factor, figure, limit, listing, round_significant, title
from shared.verdict.metrics import ALIKE, Metric, autocorrelation, latencies_ms, remarks, summarise
from tests.unit.measurements import candidate, measured, unavailable


def block(number: int, latencies_ms: list[float], elapsed_ms: float, **other: object) -> Block:
    fields = {"load_ms": 50.0, "warmup_calls": 30, "steady": True, "cpu_util_pct": 100.0, "memory_mb": 60.0} | other
    return Block(
        round=number,
        latencies_ns=[round(value * 1e6) for value in latencies_ms],
        elapsed_ns=round(elapsed_ms * 1e6),
        **fields,
    )


def series(*blocks: Block, batch: int = 1, **other: object) -> Series:
    fields = {"status": "measured", "device": "CPU", "artifact_bytes": 3 * 2**20} | other
    return Series(candidate=candidate("onnxruntime", batch), blocks=list(blocks), **fields)


def test_figures_by_hand() -> None:
    found = summarise(
        series(
            block(1, [1, 2, 3], 10, load_ms=40.0, memory_mb=60.0, cpu_util_pct=90.0),
            block(2, [3, 4, 5], 5, load_ms=60.0, memory_mb=70.5, cpu_util_pct=110.0),
            batch=8,
        )
    )
    assert (found["latency_mean_ms"].value, found["latency_mean_ms"].n) == (3.0, 2)
    assert found["throughput_fps"].value == pytest.approx(6 * 8 / 0.015, rel=1e-5)
    assert found["load_ms"].value == 50.0
    assert found["cpu_util_pct"].value == 100.0
    assert (found["memory_mb"].value, found["memory_mb"].low, found["memory_mb"].n) == (70.5, None, 2)
    assert found["artifact_mb"].value == 3.0
    assert (found["latency_p50_ms"].value, found["latency_p50_ms"].n) == (3.0, 6)


def test_a_slow_launch_counts_by_the_time_it_took() -> None:
    """Nine launches at 1 ms a call and one at 10 ms: 1.9 ms a call on average is 526 images/s, not 910."""
    quick = [block(at, [1.0] * 100, 100) for at in range(1, 10)]
    found = summarise(series(*quick, block(10, [10.0] * 100, 1000)))
    assert found["latency_mean_ms"].value == pytest.approx(1.9)
    assert found["throughput_fps"].value == pytest.approx(1000 / 1.9, rel=1e-5)
    assert found["throughput_fps"].low < 1000 / 1.9 < found["throughput_fps"].high <= 1000


def test_every_metric_is_there_with_a_value_or_a_reason() -> None:
    found = summarise(measured(candidate("onnxruntime"), 1.2))
    assert set(found) == set(MetricName.__args__)
    for metric in found.values():
        assert (metric.value is None) == (metric.n == 0)
        assert metric.value is not None or metric.note.startswith("not measured: ")
        assert metric.low is None or metric.low <= metric.value <= metric.high


def test_a_small_sample_has_no_percentile() -> None:
    found = summarise(series(block(1, [1.0] * 30, 31), block(2, [1.0] * 30, 31)))
    assert found["latency_p95_ms"] == Metric(n=60, note="not enough samples: n=60, needs >= 72")
    assert found["latency_p50_ms"].value == 1.0


def test_one_block_gives_no_interval_of_a_mean() -> None:
    found = summarise(series(block(1, [1.0] * 100, 100)))
    assert (found["throughput_fps"].value, found["throughput_fps"].low) == (1000.0, None)
    assert found["throughput_fps"].note == "one block gives no interval"


@pytest.mark.parametrize(
    ("device", "provider", "note"),
    [
        ("CPU", "CPUExecutionProvider", "not measured: the candidate ran on the CPU"),
        ("CUDA:0", "CUDAExecutionProvider", "not measured: the GPU does not tell it"),
    ],
)
def test_why_there_are_no_gpu_figures(device: str, provider: str, note: str) -> None:
    found = summarise(series(block(1, [1.0], 1), device=device, provider=provider))
    assert {found[name].note for name in ("gpu_util_pct", "vram_usage_mb", "power_draw_w")} == {note}
    assert found["accuracy"].note == "not measured: this benchmark had no dataset"


def test_why_a_model_that_does_not_fit_its_dataset_has_no_accuracy() -> None:
    notes = ["Something else.", f"{UNFIT}the model takes no images."]
    gate = GateResult(engine="onnxruntime", precision="fp32", verdict="not_checked", notes=notes)
    found = summarise(series(block(1, [1.0], 1)), gate)
    assert found["accuracy_drop"].note == "not measured: the model takes no images"


def test_figures_of_a_gpu_are_those_of_the_launches_that_have_them() -> None:
    told = msgspec.structs.replace(block(1, [1.0], 1), gpu_util_pct=80.0, vram_mb=300.0, power_w=100.0)
    more = msgspec.structs.replace(block(2, [1.0], 1), gpu_util_pct=60.0, vram_mb=500.0)
    found = summarise(series(told, more, block(3, [1.0], 1), device="CUDA:0", provider="CUDAExecutionProvider"))
    util, vram, power = (found[name] for name in ("gpu_util_pct", "vram_usage_mb", "power_draw_w"))
    assert (util.value, util.n) == (70.0, 2) and util.low is not None and util.low < 60
    assert (vram.value, vram.note) == (500.0, "highest peak of the blocks, as observed")
    assert (power.value, power.low, power.note) == (100.0, None, "one block gives no interval")
    assert judge(Constraint(metric="vram_usage_mb", op="<=", value=500), vram) == "pass"


def test_nothing_measured_has_no_metrics() -> None:
    assert summarise(unavailable(candidate("tensorrt"), "no GPU")) == {}
    assert summarise(series(block(1, [], 0))) == {}


def test_what_qualifies_figures_is_said() -> None:
    found = series(block(1, [1.0], 1, steady=False), block(2, [], 0), block(3, [1.0], 1), failures=["It was killed."])
    assert remarks(found) == [
        "launch failed: It was killed.",
        "1 block without a timed call left out",
        "1 of 2 blocks had not settled within 10 % after warm-up",
    ]


# --- verdicts -------------------------------------------------------------------------------------------------------

INTERVAL = Metric(value=10.0, low=9.0, high=11.0, n=700)


@pytest.mark.parametrize(
    ("op", "value", "verdict"),
    [
        ("<=", 11.0, "pass"),
        ("<", 11.0, "inconclusive"),
        ("<", 11.1, "pass"),
        ("<=", 10.0, "inconclusive"),
        ("<=", 9.0, "inconclusive"),
        ("<", 9.0, "fail"),
        ("<=", 8.9, "fail"),
        (">=", 9.0, "pass"),
        (">", 9.0, "inconclusive"),
        (">", 8.9, "pass"),
        (">=", 11.0, "inconclusive"),
        (">", 11.0, "fail"),
        (">=", 11.1, "fail"),
    ],
)
def test_verdict_of_an_interval(op: Op, value: float, verdict: Verdict) -> None:
    assert judge(Constraint(metric="latency_p95_ms", op=op, value=value), INTERVAL) == verdict


def test_verdicts_without_an_interval() -> None:
    wanted = Constraint(metric="latency_p95_ms", op="<=", value=100.0)
    assert judge(wanted, None) == "not_measured"
    assert judge(wanted, Metric(n=0, note="not measured: no dataset")) == "not_measured"
    assert judge(wanted, Metric(n=20, note="not enough samples: n=20, needs >= 72")) == "inconclusive"
    assert judge(wanted, Metric(value=1.0, n=1)) == "inconclusive"


def test_memory_is_judged_as_observed() -> None:
    found = Metric(value=62.0, n=5)
    assert judge(Constraint(metric="memory_mb", op="<=", value=62.0), found) == "pass"
    assert judge(Constraint(metric="memory_mb", op="<", value=62.0), found) == "fail"


@settings(deadline=None)
@example(low=5e-324, width=0.0, op="<", limit=0.0)
@given(
    low=st.floats(0, 1e6), width=st.floats(0, 1e3), op=st.sampled_from(["<=", "<", ">=", ">"]), limit=st.floats(0, 1e6)
)
def test_a_relaxed_constraint_passes_and_is_no_stricter(low: float, width: float, op: Op, limit: float) -> None:
    metric = Metric(value=low + width / 2, low=low, high=low + width, n=700)
    asked = Constraint(metric="latency_p95_ms", op=op, value=limit)
    if judge(asked, metric) == "pass":
        return
    [judgement] = judge_all((asked,), {"latency_p95_ms": metric})
    relaxation = relaxed(judgement, metric)
    assert judge(msgspec.structs.replace(asked, value=relaxation.value), metric) == "pass"
    assert relaxation.value >= limit if op in ("<=", "<") else relaxation.value <= limit
    bound = metric.high if op in ("<=", "<") else metric.low
    assert abs(relaxation.value - bound) <= max(0.0101 * abs(bound), 0.001)


def test_no_limit_helps_what_was_not_measured() -> None:
    [judgement] = judge_all((Constraint(metric="accuracy", op=">=", value=0.9),), {})
    assert relaxed(judgement, None).value is None


# --- calls that are alike -------------------------------------------------------------------------------------------


def test_a_reader_is_told_when_a_call_resembles_the_one_before() -> None:
    quiet = measured(candidate("onnxruntime"), 1.0, calls=2400, drift=0.0)
    assert abs(autocorrelation([latencies_ms([block]) for block in quiet.blocks])) < 0.1
    assert remarks(quiet) == []
    ordered = [msgspec.structs.replace(b, latencies_ns=sorted(b.latencies_ns)) for b in quiet.blocks]
    (remark,) = remarks(msgspec.structs.replace(quiet, blocks=ordered))
    assert remark.startswith("a call resembles the one before (lag-1 autocorrelation 0.99)")
    assert "2,400 calls say less than so many independent ones" in remark


def test_a_reader_is_told_of_launches_that_were_held_up() -> None:
    quiet = measured(candidate("onnxruntime"), 1.0, calls=2400, drift=0.0)
    held = msgspec.structs.replace(quiet.blocks[3], latencies_ns=[3_000_000] * 200)
    remark, *_ = remarks(msgspec.structs.replace(quiet, blocks=[*quiet.blocks[:3], held, *quiet.blocks[4:]]))
    assert remark.startswith("1 of 12 launches had a P95 more than 25 % above that of the median launch (up to 3.00")


def test_launches_that_differ_count_as_likeness_of_their_calls() -> None:
    drifting = measured(candidate("onnxruntime"), 1.0, calls=2000, drift=0.3)
    assert autocorrelation([latencies_ms([block]) for block in drifting.blocks]) > ALIKE


def test_autocorrelation_of_too_few_calls_is_none() -> None:
    assert autocorrelation([np.array([1.0, 2.0])]) == 0.0


# --- how figures are written ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.012345, "0.0123"),
        (1.2, "1.20"),
        (98.74, "98.7"),
        (9.996, "10.0"),
        (123.4, "123"),
        (12345.6, "12,346"),
        (0, "0"),
    ],
)
def test_three_significant_digits(value: float, text: str) -> None:
    assert figure(value) == text


def test_intervals_limits_and_names() -> None:
    assert estimate(1.2345, 1.2, 1.27) == "1.23 (1.20–1.27)"
    assert estimate(1227.07, 1212.45, 1241.69) == "1,227 (1,212–1,242)"
    assert estimate(62.03, None, None) == "62.0"
    assert factor(1.3051) == "1.31×"
    assert limit(Constraint(metric="latency_p95_ms", op="<=", value=5)) == "P95 latency ≤ 5 ms"
    assert title(candidate("openvino", 8, 1)) == "OpenVINO FP32, batch 8, 1 thread"
    assert listing(["a"]) == "a"
    assert listing(["a", "b", "c"]) == "a, b and c"


@settings(deadline=None)
@given(st.floats(-1e12, 1e12, allow_subnormal=False))
def test_rounding_keeps_six_digits(value: float) -> None:
    assert round_significant(value) == pytest.approx(value, rel=5.1e-6)
    assert round_significant(round_significant(value)) == round_significant(value)
