"""Which candidate is chosen, and why."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import pytest

from shared.errors import InvalidInput
from shared.specs import Constraint, GateResult, MeasurementSet, NoiseFloor, Series
from shared.verdict.decision import Decision
from shared.verdict.report import build
from tests.unit.measurements import candidate, measured, measurement_set, series, slowed, unavailable

ORT, VINO = candidate("onnxruntime"), candidate("openvino")


def decide(found: Sequence[Series], *constraints: Constraint, **config: object) -> Decision:
    return build(measurement_set(found, constraints, **config), "rep_1").decision


def limit(metric: str, op: str, value: float) -> Constraint:
    return Constraint(metric=metric, op=op, value=value)


def keys(decision: Decision) -> list[str]:
    selected = [decision.selected.key] if decision.selected else []
    return [*selected, *(item.key for item in decision.tied), *(item.candidate.key for item in decision.rejected)]


# --- latency --------------------------------------------------------------------------------------------------------


def test_the_clearly_faster_one_wins_whatever_its_memory() -> None:
    found = decide([measured(ORT, 1.2, memory_mb=900), measured(VINO, 1.6, memory_mb=50)])
    assert found.selected == ORT
    assert (found.tied, found.fragile) == ([], False)
    assert found.rejected[0].why.startswith("slower: 1.3")


def test_equally_fast_ones_are_decided_by_memory() -> None:
    pair = [
        measured(ORT, 1.0, memory_mb=120, calls=7000, artifact_bytes=1_000_000),
        measured(VINO, 1.0, memory_mb=60, calls=7000, artifact_bytes=2_000_000),  # a larger file does not matter
    ]
    found = decide(pair)
    assert found.selected == VINO
    assert found.tied == [ORT]
    assert not found.fragile
    assert any("equally fast within ±5 %" in reason for reason in found.reasons)
    assert found.reasons[-1].endswith("it takes less memory (61.9 MB against 122 MB).")


def test_memory_within_ten_percent_is_alike_and_the_smaller_file_decides() -> None:
    pair = [
        measured(ORT, 1.0, memory_mb=60, calls=7000, artifact_bytes=2_000_000),
        measured(VINO, 1.0, memory_mb=64, calls=7000, artifact_bytes=1_000_000),
    ]
    found = decide(pair)
    assert found.selected == VINO
    assert "its model file is smaller" in found.reasons[-1]


def test_of_several_it_is_told_which_lost_on_what() -> None:
    others = [
        measured(candidate("onnxruntime", batch=1, threads=1), 1.0, memory_mb=60, calls=7000, artifact_bytes=2_000_000),
        measured(VINO, 1.0, memory_mb=100, calls=7000, artifact_bytes=1_000_000),
        measured(candidate("openvino", threads=1), 1.0, memory_mb=60, calls=7000, artifact_bytes=1_000_000),
    ]
    found = decide([measured(ORT, 1.0, memory_mb=62, calls=7000, artifact_bytes=1_000_000), *others])
    assert found.selected == ORT
    assert found.reasons[-1].endswith(
        "; it takes less memory than OpenVINO FP32, batch 1, 2 threads (63.6 MB against 102 MB), its model file is "
        "smaller than that of ONNX Runtime FP32, batch 1, 1 thread (0.954 MB against 1.91 MB) and the fixed order of "
        "candidates puts it before OpenVINO FP32, batch 1, 1 thread."
    )


def test_the_fixed_order_is_last() -> None:
    found = decide([measured(VINO, 1.0, memory_mb=60, calls=7000), measured(ORT, 1.0, memory_mb=62, calls=7000)])
    assert found.selected == ORT
    assert "fixed order" in found.reasons[-1]


def test_an_unsettled_ratio_makes_the_choice_fragile() -> None:
    """Estimates 2 % apart, intervals across the margin: memory decides, and the reader is told."""
    found = decide([measured(ORT, 1.00, drift=0.05), measured(VINO, 1.02, drift=0.05, memory_mb=30)])
    assert found.selected == VINO
    assert found.fragile
    assert any("not settled" in reason for reason in found.reasons)


def test_slower_by_estimate_only_is_not_chosen_for_its_memory_but_makes_fragile() -> None:
    found = decide([measured(ORT, 1.00, drift=0.08), measured(VINO, 1.08, drift=0.08, memory_mb=30)])
    assert found.selected == ORT
    assert found.fragile
    assert found.rejected[0].why.startswith("slower by estimate, not for certain")


@pytest.mark.parametrize("objective", ["latency", "throughput"])
def test_the_fastest_is_so_in_the_rounds_that_both_ran_in(objective: str) -> None:
    """One that failed in the quiet rounds has the slower launches, and is faster all the same."""
    held_up = dict.fromkeys(range(1, 6), 2.0)
    whole, partly = (measured(of, ms, calls=7000, drift=0.001) for of, ms in ((ORT, 1.0), (VINO, 0.8)))
    whole = slowed(whole, held_up)
    partly = slowed(msgspec.structs.replace(partly, blocks=partly.blocks[:7], failures=["It crashed."] * 5), held_up)
    found = decide([whole, partly], objective=objective)
    assert found.selected == VINO
    assert not found.fragile
    assert found.rejected[0].why.startswith("slower: ")


def test_a_batch_that_does_less_is_told_by_what_it_was_compared_by() -> None:
    """Over all calls the chosen batch does less: two of its launches were held up."""
    larger = slowed(measured(candidate("onnxruntime", 16), 15.5, calls=7000, drift=0.001), {3: 2.0, 5: 2.0})
    found = decide(
        [larger, measured(candidate("onnxruntime", 8), 8.0, calls=7000, drift=0.001)], objective="throughput"
    )
    assert found.selected == candidate("onnxruntime", 16)
    assert "at batch 16 this engine does 1.03× (" in found.rejected[0].why


def test_one_round_is_never_settled() -> None:
    found = decide([measured(ORT, 1.0, rounds=1), measured(VINO, 2.0, rounds=1)])
    assert found.selected == ORT
    assert found.fragile
    assert "no interval: fewer than 6 rounds" in found.rejected[0].why


def test_latency_is_compared_at_batch_one_only() -> None:
    found = decide([measured(ORT, 1.0), measured(candidate("openvino", 8), 0.5)])
    assert found.selected == ORT
    assert found.rejected[0].why == "latency is compared at batch 1"


def test_without_batch_one_the_smallest_is_compared_and_said() -> None:
    found = decide([measured(candidate("onnxruntime", 4), 3.0), measured(candidate("openvino", 8), 2.0)])
    assert found.selected == candidate("onnxruntime", 4)
    assert any("at batch 4" in reason and "batch 1 was not measured" in reason for reason in found.reasons)


def test_a_larger_batch_is_compared_when_no_candidate_at_batch_one_passes() -> None:
    found = decide(series(), limit("throughput_fps", ">=", 1000))
    assert found.selected is not None
    assert found.selected.batch_size == 8
    assert any("no candidate at batch 1 keeps every constraint" in reason for reason in found.reasons)


def test_too_few_calls_give_no_choice_by_latency() -> None:
    found = decide([measured(ORT, 1.0, calls=60)])
    assert found.selected is None
    assert found.nearest is None
    assert "at least 72 timed calls" in found.reasons[-1]


# --- throughput -----------------------------------------------------------------------------------------------------


def test_throughput_compares_each_engine_at_its_best_batch() -> None:
    found = decide(series(), objective="throughput")
    assert found.selected == candidate("openvino", 8)
    why = {item.candidate.key: item.why for item in found.rejected}
    assert "at batch 8 this engine does 2.0" in why[VINO.key]
    assert why[candidate("onnxruntime", 8).key].startswith("slower: OpenVINO FP32, batch 8, 2 threads does 1.1")


# --- the noise floor -------------------------------------------------------------------------------------------------


def noise(value: float) -> NoiseFloor:
    return NoiseFloor(
        value=value, runs=10, measured_at="2026-01-28T08:00:00.000Z", fingerprint="f", benchmark_id="job_1"
    )


def decided(found: Sequence[Series], **facts: object) -> Decision:
    return build(msgspec.structs.replace(measurement_set(found, ()), **facts), "rep_1").decision


PAIR = [measured(ORT, 1.0, memory_mb=120, calls=7000), measured(VINO, 1.12, memory_mb=60, calls=7000)]


def test_twice_the_noise_floor_widens_the_margin() -> None:
    assert decided(PAIR).selected == ORT
    assert decided(PAIR, noise_floor=noise(0.02)).selected == ORT
    found = decided(PAIR, noise_floor=noise(0.09))
    assert found.selected == VINO
    assert found.tied == [ORT]
    assert any("equally fast within ±18 %" in reason for reason in found.reasons)
    told = "the noise floor of this machine is 9 %, measured 3 days before (2026-01-28 08:00 UTC, job_1)"
    assert any(told in reason for reason in found.reasons)


def test_the_reader_is_told_when_there_is_no_noise_floor() -> None:
    assert any("was not measured, so it does not widen" in reason for reason in decided(PAIR).reasons)


# --- the active deployment -------------------------------------------------------------------------------------------


def test_the_active_deployment_stays_unless_another_is_clearly_better() -> None:
    found = decided([measured(ORT, 1.0, calls=7000), measured(VINO, 1.07, calls=7000)], incumbent=VINO)
    assert found.selected == VINO
    assert (found.tied, [item.candidate for item in found.rejected]) == ([], [ORT])
    assert found.reasons[-1].startswith("Kept: OpenVINO FP32, batch 1, 2 threads, the active deployment.")
    assert found.rejected[0].why.endswith(") its latency: not clearly better by 10 %")


def test_a_tie_never_replaces_the_active_deployment() -> None:
    tie = [measured(ORT, 1.0, memory_mb=60, calls=7000), measured(VINO, 1.0, memory_mb=120, calls=7000)]
    assert decided(tie).selected == ORT
    found = decided(tie, incumbent=VINO)
    assert (found.selected, found.tied) == (VINO, [ORT])


@pytest.mark.parametrize("objective", ["latency", "throughput"])
def test_a_clearly_better_one_replaces_it(objective: str) -> None:
    slow = measured(VINO, 1.5, calls=7000)
    measurements = measurement_set([measured(ORT, 1.0, calls=7000), slow], (), objective=objective)
    found = build(msgspec.structs.replace(measurements, incumbent=VINO), "r").decision
    assert found.selected == ORT
    assert found.reasons[-1].startswith("It is worth a switch from the active deployment, OpenVINO FP32")
    assert "with a confidence of over 99.9 %" in found.reasons[-1]


def test_of_equals_the_one_that_is_worth_a_switch_is_chosen() -> None:
    """Between the fastest memory would decide, but only one of them is clearly 10 % better than what serves."""
    active = candidate("tensorrt")
    found = decided(
        [
            measured(ORT, 1.0, calls=7000, memory_mb=200, drift=0.001),
            measured(VINO, 1.04, calls=7000, memory_mb=60, drift=0.001),
            measured(active, 1.13, calls=7000, drift=0.001),
        ],
        incumbent=active,
    )
    assert (found.selected, found.tied) == (ORT, [VINO])
    chosen, switch = found.reasons[-2:]
    assert chosen.endswith("of those that count as fastest the only one that is clearly worth a switch.")
    assert switch.startswith("It is worth a switch from the active deployment, TensorRT")


def test_what_is_a_tie_on_a_noisy_machine_is_no_reason_to_switch() -> None:
    """15 % in every round, where the margin is 20 %."""
    pair = [measured(ORT, 1.0, calls=7000, drift=0.001), measured(VINO, 1.15, calls=7000, drift=0.001)]
    assert decided(pair, incumbent=VINO).selected == ORT
    found = decided(pair, incumbent=VINO, noise_floor=noise(0.10))
    assert (found.selected, found.tied) == (VINO, [ORT])
    assert "not for certain the 16.7 % a switch is worth" in found.reasons[-1]


def test_an_active_deployment_that_is_the_choice_needs_no_switch() -> None:
    assert decided(PAIR, incumbent=ORT).reasons[-1] == "That is the active deployment: nothing has to be switched."


def test_an_active_deployment_that_cannot_stay_is_named_with_the_reason() -> None:
    found = decided([measured(ORT, 1.0)], incumbent=VINO)
    assert found.selected == ORT
    assert found.reasons[-1].endswith("is not what the choice was held against: it was not measured in this run.")
    limited = measurement_set([measured(ORT, 1.05, memory_mb=50), measured(VINO, 1.0, memory_mb=90)],
                              (limit("memory_mb", "<=", 80),))  # fmt: skip
    found = build(msgspec.structs.replace(limited, incumbent=VINO), "r").decision
    assert found.selected == ORT
    assert "is not what the choice was held against: fails memory ≤ 80 MB" in found.reasons[-1]


def test_an_active_deployment_at_another_batch_stays_for_throughput() -> None:
    """Each engine is compared at its best batch; the active one stays where that is not clearly better."""
    found = [
        measured(candidate("onnxruntime", 8), 8.0, calls=7000),
        measured(candidate("onnxruntime", 16), 15.5, calls=7000),
    ]
    measurements = measurement_set(found, (), objective="throughput")
    decision = build(msgspec.structs.replace(measurements, incumbent=candidate("onnxruntime", 8)), "r").decision
    assert decision.selected == candidate("onnxruntime", 8)
    assert sorted(keys(decision)) == sorted(item.candidate.key for item in found)


def test_an_active_deployment_of_larger_batches_is_held_against_at_batch_one_for_latency() -> None:
    """An image that waits alone is a call of one, whatever the deployment may take."""
    found = [measured(ORT, 1.0, calls=7000), measured(VINO, 1.07, calls=7000)]
    kept = decided(found, incumbent=msgspec.structs.replace(VINO, batch_size=4))
    assert kept.selected == VINO
    assert kept.reasons[-1].startswith("Kept: OpenVINO FP32, batch 1")
    eight = [measured(candidate("onnxruntime", 8), 5.0)]
    unmeasured = build(msgspec.structs.replace(measurement_set(eight, ()), incumbent=ORT), "r").decision
    assert unmeasured.reasons[-1].endswith("it was not measured in this run.")


def test_a_fixed_batch_is_what_latency_is_compared_at() -> None:
    measurements = measurement_set([measured(candidate("onnxruntime", 4), 3.0)], ())
    inputs = [msgspec.structs.replace(measurements.model.inputs[0], shape=[4, 1, 28, 28])]
    model = msgspec.structs.replace(measurements.model, inputs=inputs)
    found = build(msgspec.structs.replace(measurements, model=model), "r").decision
    assert found.selected == candidate("onnxruntime", 4)
    assert "Compared by P95 latency, round by round, at batch 4, the only one this model takes." in found.reasons


# --- constraints ----------------------------------------------------------------------------------------------------


def test_only_a_pass_passes() -> None:
    """The faster one is inconclusive on a constraint, so the slower one is chosen."""
    slower, faster = measured(VINO, 1.6, memory_mb=60), measured(ORT, 1.2, memory_mb=200)
    found = decide([slower, faster], limit("memory_mb", "<=", 100))
    assert found.selected == VINO
    p95 = build(measurement_set([faster], ()), "r").candidates[0].metrics["latency_p95_ms"]
    found = decide([slower, faster], limit("latency_p95_ms", ">=", p95.value))
    assert found.selected == VINO
    assert found.rejected[0].why.startswith("is inconclusive on P95 latency ≥")


def test_when_nothing_passes_the_relaxation_makes_the_nearest_pass() -> None:
    constraints = (limit("latency_p95_ms", "<", 1.0), limit("throughput_fps", ">", 2000), limit("memory_mb", "<=", 500))
    found = decide(series(), *constraints)
    assert found.selected is None
    assert found.nearest is not None
    assert {item.metric for item in found.relax} <= {"latency_p95_ms", "throughput_fps"}
    moved = {item.metric: item.value for item in found.relax}
    relaxed = tuple(msgspec.structs.replace(c, value=moved.get(c.metric, c.value)) for c in constraints)
    again = decide(series(), *relaxed)
    assert again.selected == found.nearest


def test_the_nearest_is_the_one_whose_limits_move_least() -> None:
    found = decide([measured(ORT, 1.2), measured(VINO, 1.3)], limit("latency_p95_ms", "<=", 1.3))
    assert found.nearest == ORT


def test_a_constraint_on_what_was_not_measured_cannot_pass() -> None:
    found = decide(series(), limit("accuracy", ">=", 0.9))
    assert found.selected is None
    assert found.relax[0].value is None
    assert "cannot be judged (not measured: this benchmark had no dataset)" in found.reasons[1]


def test_nothing_measured() -> None:
    found = decide([unavailable(candidate("tensorrt"), "no GPU")])
    assert (found.selected, found.nearest, found.relax) == (None, None, None)
    assert found.rejected[0].why == "not available on this machine: no GPU"
    assert found.reasons == [
        "No choice: not one candidate could be measured.",
        "TensorRT FP32: not available on this machine: no GPU.",
    ]


def test_failed_candidates_say_why() -> None:
    failed = Series(candidate=VINO, status="failed", reason="It was killed.", failures=["It was killed."])
    found = decide([measured(ORT, 1.0), failed])
    assert found.selected == ORT
    assert found.rejected[0].why == "failed: It was killed."


# --- promises -------------------------------------------------------------------------------------------------------

SMALL = [
    *(measured(of, ms, rounds=3, calls=75) for of, ms in ((ORT, 1.0), (VINO, 1.1), (candidate("openvino", 8), 4.0))),
    unavailable(candidate("tensorrt", 1), "no GPU"),
    unavailable(candidate("tensorrt", 8), "no GPU"),
    unavailable(candidate("pytorch", 1), "not installed"),
]


@pytest.mark.parametrize("objective", ["latency", "throughput"])
@pytest.mark.parametrize("fps", [0, 800, 5000, 1e9])
def test_every_candidate_is_accounted_for_once(objective: str, fps: float) -> None:
    found = decide(SMALL, limit("throughput_fps", ">=", fps), objective=objective)
    assert sorted(keys(found)) == sorted(item.candidate.key for item in SMALL)


def test_the_order_of_the_candidates_does_not_matter() -> None:
    shuffle = random.Random(1)
    hashes = {build(measurement_set(shuffle.sample(SMALL, len(SMALL)), ()), "rep_1").content_sha256 for _ in range(200)}
    assert len(hashes) == 1


def changed(measurements: MeasurementSet) -> list[MeasurementSet]:
    """The set with one single measurement changed, a set for each kind."""
    target = measurements.series[1]
    block = target.blocks[2]
    later = [*block.latencies_ns[:-1], block.latencies_ns[-1] + 1]
    blocks = [
        msgspec.structs.replace(block, **change)
        for change in (
            {"latencies_ns": later},
            {"elapsed_ns": block.elapsed_ns + 1},
            {"memory_mb": block.memory_mb + 1e-9},
            {"load_ms": block.load_ms + 1e-9},
            {"cpu_util_pct": block.cpu_util_pct + 1e-9},
            {"steady": False},
            {"warmup_calls": 31},
        )
    ]
    sets = []
    for other in blocks:
        series_ = msgspec.structs.replace(target, blocks=[*target.blocks[:2], other])
        found = [*measurements.series[:1], series_, *measurements.series[2:]]
        sets.append(msgspec.structs.replace(measurements, series=found))
    return sets


def test_any_other_measurement_gives_another_hash() -> None:
    original = measurement_set(SMALL, ())
    hashes = [build(item, "rep_1").content_sha256 for item in [original, *changed(original)]]
    assert len(set(hashes)) == len(hashes)


def test_a_candidate_twice_is_refused() -> None:
    with pytest.raises(InvalidInput, match="more than once"):
        decide([measured(ORT, 1.0), measured(ORT, 1.1)])


@pytest.mark.parametrize(
    "change",
    [
        {"latencies_ns": [1000, 0]},
        {"latencies_ns": [1000, 2**63]},
        {"elapsed_ns": 0},
        {"elapsed_ns": 10**30},
        {"memory_mb": float("nan")},
        {"cpu_util_pct": 1e308},
        {"load_ms": -1.0},
        {"power_w": float("inf")},
        {"vram_mb": -1.0},
    ],
)
def test_what_cannot_be_a_measurement_is_refused(change: dict[str, object]) -> None:
    good = measured(ORT, 1.0)
    blocks = [msgspec.structs.replace(good.blocks[0], **change), *good.blocks[1:]]
    with pytest.raises(InvalidInput, match="cannot be a measurement"):
        decide([msgspec.structs.replace(good, blocks=blocks)])


def test_what_its_gate_refused_cannot_have_been_measured() -> None:
    refused = GateResult(engine="openvino", precision="fp32", verdict="fail", problems=["It answers NaN."])
    with pytest.raises(InvalidInput, match="although its gate refused it"):
        decided([measured(ORT, 1.0), measured(VINO, 0.5)], gates=[refused])
