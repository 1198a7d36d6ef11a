"""Two reports side by side: a real change is told from noise."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from shared.specs import NoiseFloor
from shared.verdict.comparison import MARGIN, Comparison, apart, compare, ratio
from shared.verdict.intervals import Interval
from shared.verdict.report import Report, build
from tests.unit.measurements import candidate, measured, measurement_set, unavailable

FAST, OTHER = candidate("onnxruntime"), candidate("openvino")


def report(fast_ms: float, other_ms: float, seed: int = 7, **order: object) -> Report:
    found = [measured(FAST, fast_ms, seed=seed), measured(OTHER, other_ms, seed=seed)]
    return build(measurement_set(found, (), **order), "rep_1")


def standings(found: Comparison, key: str) -> dict[str, str]:
    [item] = [item for item in found.candidates if item.candidate == key]
    return {shift.metric: shift.standing for shift in item.shifts}


def test_a_report_against_itself_differs_in_nothing() -> None:
    found = compare(report(1.0, 1.5), report(1.0, 1.5))
    assert (found.conditions, found.comparable, found.margin) == ([], True, MARGIN)
    assert found.selected_before == found.selected_after == FAST.key
    assert standings(found, FAST.key)["latency_p95_ms"] == standings(found, FAST.key)["throughput_fps"] == "alike"
    assert "changed" not in standings(found, FAST.key).values()


def test_another_run_of_the_same_is_noise_and_a_slower_engine_is_not() -> None:
    found = compare(report(1.0, 1.5), report(1.0, 1.8, seed=8))
    assert standings(found, FAST.key)["throughput_fps"] != "changed"
    assert standings(found, OTHER.key)["latency_p50_ms"] == standings(found, OTHER.key)["throughput_fps"] == "changed"
    [slower] = [item for item in found.candidates if item.candidate == OTHER.key]
    median = next(shift for shift in slower.shifts if shift.metric == "latency_p50_ms")
    assert median.by == pytest.approx(1.2, rel=0.03)
    assert median.low is not None and median.high is not None and median.low < median.by < median.high


def test_a_noisy_machine_calls_less_a_change() -> None:
    before, after = report(1.0, 1.5), report(1.0, 1.7)
    assert standings(compare(before, after), OTHER.key)["throughput_fps"] == "changed"
    noise = NoiseFloor(value=0.2, runs=6, measured_at=before.metadata.created_at, fingerprint="f", benchmark_id="job_1")
    noisy = msgspec.structs.replace(before, metadata=msgspec.structs.replace(before.metadata, noise_floor=noise))
    found = compare(noisy, after)
    assert found.margin == pytest.approx(0.4)
    assert standings(found, OTHER.key)["throughput_fps"] == "alike"


def test_a_changed_choice_and_changed_conditions_are_told_by_name() -> None:
    before = report(1.0, 1.5)
    after = report(2.0, 1.5, num_warmup=20)
    system = msgspec.structs.replace(after.metadata.system, versions=after.metadata.system.versions | {"onnx": "9"})
    after = msgspec.structs.replace(after, metadata=msgspec.structs.replace(after.metadata, system=system))
    found = compare(before, after)
    assert (found.selected_before, found.selected_after) == (FAST.key, OTHER.key)
    told = {condition.what: (condition.before, condition.after) for condition in found.conditions}
    assert told["system.versions.onnx"] == ("1.23.2", "9")
    assert told["config.num_warmup"] == (10, 20)
    assert found.comparable, "the fingerprint says whether a machine is another one"
    moved = msgspec.structs.replace(after, metadata=msgspec.structs.replace(after.metadata, fingerprint="other"))
    assert not compare(before, moved).comparable


def test_candidates_that_are_in_one_report_only_are_listed_with_their_state() -> None:
    before = report(1.0, 1.5)
    after = build(measurement_set([measured(FAST, 1.0), unavailable(candidate("tensorrt"), "no GPU")], ()), "rep_2")
    found = {item.candidate: (item.before, item.after, item.reason) for item in compare(before, after).candidates}
    assert found[OTHER.key] == ("measured", "absent", None)
    assert found["tensorrt/fp32/b1/t2/i1"] == ("absent", "unavailable", "no GPU")


def test_bounds_of_a_ratio_hold_the_truth() -> None:
    generator, inside = np.random.default_rng(3), 0
    for _ in range(2_000):
        first, second = (generator.normal(mean, 0.5) for mean in (10.0, 12.0))
        found = ratio(*(Interval(value, value - 0.98, value + 0.98) for value in (first, second)))
        assert found.low is not None and found.high is not None
        inside += found.low <= 1.2 <= found.high
    assert inside / 2_000 >= 0.94


def test_figures_without_an_interval_settle_nothing() -> None:
    assert apart(Interval(1.0, None, None), Interval(2.0, 1.9, 2.1)) == (1.0, None, None)
    assert ratio(Interval(1.0, 0.0, 2.0), Interval(2.0, 1.0, 3.0)) == (pytest.approx(2.0), None, None)
    lone = [measured(FAST, 1.0, rounds=1)]
    found = compare(build(measurement_set(lone, ()), "a"), build(measurement_set(lone, ()), "b"))
    assert standings(found, FAST.key)["throughput_fps"] == "unclear"
    assert math.isclose(found.candidates[0].shifts[0].by, 1.0)
