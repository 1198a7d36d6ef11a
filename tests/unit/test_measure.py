"""Measuring: launches interleave, one at a time, and what goes wrong in a candidate stays that candidate's."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarker import Examined, ExamineOrder, Launched, LaunchOrder, MeasureOrder, measure
from benchmarker.candidate import peak_memory_mb
from shared import child, errors
from shared.specs import (
    BenchmarkSpec,
    Block,
    Candidate,
    MeasuredModel,
    MeasurementSet,
    ModelDescription,
    NoiseFloor,
    TensorInfo,
)
from shared.verdict.report import build
from tests.conftest import eventually
from tests.unit import candidate_that

STUB = "tests.unit.candidate_that"
DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits" / "digits.onnx"
INPUTS = [TensorInfo(name="image", dtype="float32", shape=["batch", 1, 8, 8])]

DESCRIPTION = ModelDescription(
    inputs=INPUTS,
    outputs=[TensorInfo(name="logits", dtype="float32", shape=["batch", 10])],
    opset=18,
    ir_version=10,
    parameters=10_026,
    dynamic_batch=True,
    preprocessing=None,
    labels=None,
)


def order(artifact: Path = DIGITS, **config: Any) -> MeasureOrder:
    spec = {"model_id": "mdl_1", "engines": ("onnxruntime", "openvino"), "batch_sizes": (1, 8), "threads": (1,)}
    model = MeasuredModel(
        id="mdl_1",
        name="digits",
        task_type="classification",
        sha256="0" * 64,
        file_size=1,
        parameters=10_026,
        inputs=INPUTS,
        preprocessing_hash=None,
    )
    return MeasureOrder(
        id="bench_1",
        artifact=str(artifact),
        store=str(artifact.parent),
        models=str(artifact.parent),
        model=model,
        description=DESCRIPTION,
        config=BenchmarkSpec(**spec | config),
        rounds=6,
    )


def one_launch(artifact: Path, seed: int) -> LaunchOrder:
    candidate = Candidate(engine="onnxruntime", precision="fp32", batch_size=1, threads=1)
    return LaunchOrder(
        candidate=candidate,
        round=1,
        artifact=str(artifact),
        inputs=INPUTS,
        seed=seed,
        calls=5,
        warmup_least=1,
        max_seconds=1.0,
    )


class Laboratory:
    """Stands for the processes: notes every launch, fails those it is told to."""

    def __init__(self, failing: dict[str, set[int]] | None = None) -> None:
        self.orders: list[LaunchOrder] = []
        self.limits: list[float] = []
        self.failing = failing or {}

    def __call__(self, order: LaunchOrder, limit_s: float) -> Launched:
        self.orders.append(order)
        self.limits.append(limit_s)
        if order.round in self.failing.get(order.candidate.key, ()):
            raise measure.LaunchFailed(f"round {order.round} failed")
        block = Block(
            round=order.round,
            load_ms=1.0,
            warmup_calls=order.warmup_least,
            steady=True,
            latencies_ns=[3_000_000, 2_000_000, 9_000_000],
            elapsed_ns=14_000_000,
            cpu_util_pct=100.0,
            memory_mb=50.0,
        )
        return Launched(block=block, provider="Stub", device="CPU")

    def rounds(self) -> list[list[str]]:
        last = max(order.round for order in self.orders)
        return [[each.candidate.key for each in self.orders if each.round == at] for at in range(1, last + 1)]


def ignore(body: dict[str, Any]) -> None:
    """Progress nobody looks at."""


def sound(order: ExamineOrder, limit_s: float, fds: Sequence[int], progress: child.Report) -> Examined:
    """Finds nothing wrong; `test_gate.py` is about the gate."""
    return Examined(
        provider="Stub",
        finite=True,
        problems=[],
        notes=[],
        parity=[],
        flips=None,
        checked=0,
        accuracy=None,
    )


def run(order: MeasureOrder, progress: child.Report, launch: measure.Launch) -> MeasurementSet:
    """Measure what no gate keeps out."""
    return measure.run(order, progress, launch, sound)


# --- the order of things --------------------------------------------------------------------------------------------


def test_launches_interleave_and_share_the_iterations() -> None:
    laboratory = Laboratory()
    result = run(order(num_iterations=702, max_seconds=30, num_warmup=7), ignore, laboratory)
    assert [each.round for each in laboratory.orders] == [at for at in range(1, 7) for _ in range(4)]
    assert all(len(set(keys)) == 4 for keys in laboratory.rounds())
    assert len({tuple(keys) for keys in laboratory.rounds()}) > 1, "every round has the same order"
    assert {(each.warmup_least, each.max_seconds) for each in laboratory.orders} == {(7, 5.0)}
    calls = Counter[str]()
    for each in laboratory.orders:
        calls[each.candidate.key] += each.calls
    assert set(calls.values()) == {702}
    assert all(limit > 2 * 5.0 for limit in laboratory.limits)
    assert [series.status for series in result.series] == ["measured"] * 4
    assert [[block.round for block in series.blocks] for series in result.series] == [[1, 2, 3, 4, 5, 6]] * 4


def test_the_same_seed_gives_the_same_schedule_and_another_one_another() -> None:
    def launched(seed: int) -> list[list[str]]:
        laboratory = Laboratory()
        run(order(seed=seed), ignore, laboratory)
        return laboratory.rounds()

    assert launched(7) == launched(7)
    assert launched(7) != launched(8)


@given(total=st.integers(1, 10_000), rounds=st.integers(1, 50))
def test_shares_add_up_and_are_even(total: int, rounds: int) -> None:
    shares = [measure.share(total, rounds, at) for at in range(rounds)]
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1


def test_progress_is_told_after_each_launch() -> None:
    told: list[dict[str, Any]] = []
    run(order(engines=("onnxruntime",)), told.append, Laboratory({"onnxruntime/fp32/b8/t1/i1": {2}}))
    checked = measure.BARE_PHASES[1]
    assert told[:2] == [
        {"checking": "the reference", "fraction": 0.0},
        {"checking": "onnxruntime/fp32", "fraction": checked / 2},
    ]
    del told[:2]
    assert [body["fraction"] for body in told] == pytest.approx(
        [checked + (1 - checked) * n / 12 for n in range(1, 13)], abs=1e-4
    )
    assert {(body["candidate"], body["round"]) for body in told if "failure" in body} == {
        ("onnxruntime/fp32/b8/t1/i1", 2)
    }
    assert {body["p50_ms"] for body in told if "p50_ms" in body} == {3.0}
    assert all(body["rounds"] == 6 for body in told)


def test_the_noise_floor_is_measured_with_a_twin_of_the_first_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "disturbances", lambda before, after: [])
    laboratory = Laboratory()
    result = run(order(noise_floor=True), ignore, laboratory)
    first = "onnxruntime/fp32/b1/t1/i1"
    assert all(keys.count(first) == 2 and len(keys) == 5 for keys in laboratory.rounds())
    assert [series.candidate.key for series in result.series].count(first) == 1
    assert all(len(series.blocks) == 6 for series in result.series)
    noise = result.noise_floor
    assert noise is not None
    assert (noise.runs, noise.benchmark_id, noise.fingerprint) == (6, "bench_1", result.system.fingerprint)
    assert noise.measured_at == result.created_at
    assert 0 <= noise.value < 1


def test_a_remembered_noise_floor_counts_on_its_own_machine_only() -> None:
    here = run(order(), ignore, Laboratory()).system.fingerprint
    for fingerprint, kept in ((here, True), ("another", False)):
        noise = NoiseFloor(
            value=0.03, runs=10, measured_at="2026-01-01T00:00:00.000Z", fingerprint=fingerprint, benchmark_id="bench_0"
        )
        given = msgspec.structs.replace(order(), noise_floor=noise)
        assert run(given, ignore, Laboratory()).noise_floor == (noise if kept else None)


def test_a_noise_floor_of_a_disturbed_run_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a neighbour makes everything equally fast: twice the noise of a busy machine is more than any difference."""
    monkeypatch.setattr(measure, "disturbances", lambda before, after: ["Other processes used 1.20 of 2 cores."])
    result = run(order(noise_floor=True), ignore, Laboratory())
    before = NoiseFloor(
        value=0.03,
        runs=12,
        measured_at="2026-01-01T00:00:00.000Z",
        fingerprint=result.system.fingerprint,
        benchmark_id="bench_0",
    )
    assert (result.dirty, result.noise_floor, result.conditions[-1]) == (True, None, measure.DISTURBED_FLOOR)
    given = msgspec.structs.replace(order(noise_floor=True), noise_floor=before)
    assert run(given, ignore, Laboratory()).noise_floor == before
    monkeypatch.setattr(measure, "disturbances", lambda before, after: [])
    result = run(given, ignore, Laboratory())
    assert not result.dirty
    assert result.noise_floor is not None
    assert result.noise_floor.benchmark_id == "bench_1"
    assert measure.DISTURBED_FLOOR not in result.conditions


def test_without_six_rounds_that_have_both_there_is_no_noise_floor() -> None:
    laboratory = Laboratory({"onnxruntime/fp32/b1/t1/i1": {4}})
    result = run(order(noise_floor=True), ignore, laboratory)
    assert result.noise_floor is None
    assert measure.NO_NOISE_FLOOR in result.conditions


def test_the_active_deployment_goes_into_the_measurements() -> None:
    active = Candidate(engine="openvino", precision="fp32", batch_size=1, threads=1)
    given = msgspec.structs.replace(order(), incumbent=active)
    assert run(given, ignore, Laboratory()).incumbent == active


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_failed_launch_is_kept_apart_and_the_rest_counts() -> None:
    key = "onnxruntime/fp32/b1/t1/i1"
    result = run(order(), ignore, Laboratory({key: {1, 2, 4}}))
    series = {each.candidate.key: each for each in result.series}
    assert series[key].status == "failed", "two failures at the start and no success: not tried again"
    result = run(order(), ignore, Laboratory({key: {2, 4}}))
    series = {each.candidate.key: each for each in result.series}
    assert series[key].status == "measured"
    assert [block.round for block in series[key].blocks] == [1, 3, 5, 6]
    assert series[key].failures == ["round 2 failed", "round 4 failed"]
    assert all(each.failures == [] for name, each in series.items() if name != key)


def test_a_candidate_that_fails_more_often_than_not_is_given_up_and_cannot_be_chosen() -> None:
    key = "onnxruntime/fp32/b1/t1/i1"
    laboratory = Laboratory({key: {2, 3, 4, 5, 6}})
    result = run(order(), ignore, laboratory)
    series = next(each for each in result.series if each.candidate.key == key)
    assert (series.status, series.reason) == ("failed", "2 of 3 launches failed. round 3 failed")
    assert [block.round for block in series.blocks] == [1], "what was measured is kept"
    assert sum(each.candidate.key == key for each in laboratory.orders) == 3
    decision = build(result, "rep_1").decision
    assert key in {each.candidate.key for each in decision.rejected}


def test_a_candidate_that_never_works_is_given_up_and_says_why() -> None:
    key = "openvino/fp32/b8/t1/i1"
    laboratory = Laboratory({key: {1, 2, 3, 4, 5, 6}})
    result = run(order(), ignore, laboratory)
    series = next(each for each in result.series if each.candidate.key == key)
    assert (series.status, series.reason, series.blocks) == ("failed", "round 2 failed", [])
    assert len(series.failures) == measure.GIVE_UP_AFTER
    assert sum(each.candidate.key == key for each in laboratory.orders) == measure.GIVE_UP_AFTER


def test_unavailable_candidates_are_listed_and_never_launched() -> None:
    laboratory = Laboratory()
    result = run(order(engines=("tensorrt", "onnxruntime"), precisions=("fp32", "int8")), ignore, laboratory)
    assert {each.candidate.key for each in laboratory.orders} == {
        "onnxruntime/fp32/b1/t1/i1",
        "onnxruntime/fp32/b8/t1/i1",
    }
    assert Counter(series.status for series in result.series) == {"measured": 2, "unavailable": 6}
    assert all(series.reason for series in result.series if series.status == "unavailable")


def test_a_model_without_a_batch_axis_says_what_is_counted() -> None:
    def conditions(dynamic: bool, answers: int | str) -> list[str]:
        outputs = [TensorInfo(name="scores", dtype="float32", shape=[answers, 10])]
        described = msgspec.structs.replace(order().description, outputs=outputs, dynamic_batch=dynamic)
        inputs = [TensorInfo(name="image", dtype="float32", shape=["batch" if dynamic else 3, 8, 8])]
        given = msgspec.structs.replace(
            order(batch_sizes=None),
            description=described,
            model=msgspec.structs.replace(order().model, inputs=inputs),
        )
        return [said for said in run(given, ignore, Laboratory()).conditions if "no batch axis" in said]

    assert conditions(True, "batch") == conditions(False, 3) == []
    (said,) = conditions(False, 10)
    assert "its first input, 3, is counted as the batch" in said


def test_a_shared_measurement_says_so() -> None:
    result = run(order(isolation="shared"), ignore, Laboratory())
    assert measure.SHARED in result.conditions
    assert result.dirty
    assert measure.SHARED not in run(order(), ignore, Laboratory()).conditions


def test_a_model_file_that_is_gone_fails_the_job(tmp_path: Path) -> None:
    with pytest.raises(errors.BadModel, match="is gone"):
        run(order(tmp_path / "gone"), ignore, Laboratory())


@pytest.mark.parametrize(
    ("seed", "reason"),
    [
        (candidate_that.CRASHES, "exit code 1: ValueError: the kernel is broken"),
        (candidate_that.SEGFAULTS, "SIGSEGV"),
        (candidate_that.IS_KILLED, r"SIGKILL \(out of memory\?\)"),
        (candidate_that.RUNS_OUT_OF_MEMORY, "more memory"),
        (candidate_that.SAYS_NOTHING, "exit code 0"),
    ],
)
def test_what_ends_a_launch_becomes_its_reason(tmp_path: Path, seed: int, reason: str) -> None:
    with pytest.raises(measure.LaunchFailed, match=reason):
        measure.launch(one_launch(tmp_path / "note", seed), 30.0, STUB)


def test_a_launch_that_hangs_is_stopped_and_nothing_of_it_stays(tmp_path: Path) -> None:
    note = tmp_path / "note"
    with pytest.raises(measure.LaunchFailed, match="longer than 3 s"):
        measure.launch(one_launch(note, candidate_that.HANGS), 3.0, STUB)
    eventually(lambda: not Path(f"/proc/{note.read_text()}").exists())


def test_never_two_candidates_are_alive(tmp_path: Path) -> None:
    artifact = tmp_path / "model"
    artifact.touch()

    def launch(order: LaunchOrder, limit_s: float) -> Launched:
        return measure.launch(order, limit_s, STUB)

    result = run(order(artifact, batch_sizes=(1,), num_iterations=5), ignore, launch)
    assert [len(series.blocks) for series in result.series] == [5, 5], [series.failures for series in result.series]


# --- the real thing -------------------------------------------------------------------------------------------------


@pytest.mark.process
def test_a_real_candidate_in_a_process_of_its_own() -> None:
    launched = measure.launch(one_launch(DIGITS, seed=0), 60.0)
    block = launched.block
    assert (launched.provider, launched.device) == ("CPUExecutionProvider", "CPU")
    assert len(block.latencies_ns) == 5
    assert 0 < min(block.latencies_ns) <= sum(block.latencies_ns) <= block.elapsed_ns
    assert block.warmup_calls >= 1
    assert 0 < block.load_ms < 30_000
    assert 10 < block.cpu_util_pct < 400
    assert 20 < block.memory_mb < 2000


@pytest.mark.process
def test_a_file_that_is_no_model_fails_with_the_engines_words(tmp_path: Path) -> None:
    broken = tmp_path / "model"
    broken.write_bytes(DIGITS.read_bytes()[:1000])
    with pytest.raises(measure.LaunchFailed, match="onnxruntime cannot load the model"):
        measure.launch(one_launch(broken, seed=0), 60.0)


def test_peak_memory_is_read_from_the_kernels_table() -> None:
    assert peak_memory_mb("Name:\tpython\nVmPeak:\t 9999999 kB\nVmHWM:\t  204800 kB\nVmRSS:\t 1 kB\n") == 200.0
