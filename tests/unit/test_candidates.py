"""Candidates: every combination once, in the order's own order, and a reason for each that cannot run."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarker.candidates import Planned, candidates, engines
from shared.specs import ENGINES, BenchmarkSpec, Candidate, EngineName, Precision, TensorInfo


def image(*shape: int | str) -> list[TensorInfo]:
    return [TensorInfo(name="image", dtype="float32", shape=list(shape))]


def everywhere(engine: EngineName, precision: Precision) -> str | None:
    return None


def cpu_only(engine: EngineName, precision: Precision) -> str | None:
    if engine in ("tensorrt", "pytorch"):
        return f"the {engine} package is not installed"
    return None if precision == "fp32" else f"no {precision.upper()} artifact"


def plan(spec: BenchmarkSpec, *, dynamic: bool = True, axis: int | str = "batch", cores: int = 2) -> list[Planned]:
    return candidates(spec, image(axis, 1, 8, 8), dynamic_batch=dynamic, cores=cores, unavailable=cpu_only)


def keys(planned: list[Planned]) -> dict[str, str | None]:
    return {each.candidate.key: each.unavailable for each in planned}


def test_the_default_order_on_a_cpu() -> None:
    assert keys(plan(BenchmarkSpec(model_id="m"))) == {
        "onnxruntime/fp32/b1/t2/i1": None,
        "onnxruntime/fp32/b8/t2/i1": None,
        "openvino/fp32/b1/t2/i1": None,
        "openvino/fp32/b8/t2/i1": None,
        "tensorrt/fp32/b1/t2/i1": "the tensorrt package is not installed",
        "tensorrt/fp32/b8/t2/i1": "the tensorrt package is not installed",
    }


def test_pytorch_is_tried_where_it_is_named_or_a_gpu_is_there() -> None:
    assert engines(BenchmarkSpec(model_id="m"), gpu=True) == list(ENGINES)
    assert "pytorch" not in engines(BenchmarkSpec(model_id="m"), gpu=False)
    assert engines(BenchmarkSpec(model_id="m", engines=("pytorch",)), gpu=False) == ["pytorch"]


def incumbent(engine: EngineName, precision: Precision = "fp32", batch: int = 4) -> Candidate:
    return Candidate(engine=engine, precision=precision, batch_size=batch, threads=1, instances=2)


@pytest.mark.parametrize(
    ("active", "spec", "added"),
    [
        (incumbent("openvino"), {}, "openvino/fp32/b1/t1/i2"),
        (incumbent("openvino"), {"objective": "throughput"}, "openvino/fp32/b4/t1/i2"),
        (incumbent("openvino"), {"batch_sizes": (2, 8)}, "openvino/fp32/b2/t1/i2"),
        (incumbent("openvino", batch=1), {"batch_sizes": (2, 8)}, "openvino/fp32/b1/t1/i2"),
        (incumbent("openvino"), {"threads": (1,), "instances": (2,)}, None),  # it is one of them
        (incumbent("openvino"), {"engines": ("onnxruntime",)}, None),
        (incumbent("openvino", "int8"), {"precisions": ("fp32",)}, None),
    ],
)
def test_what_was_activated_is_measured_too(active: Candidate, spec: dict[str, Any], added: str | None) -> None:
    asked = BenchmarkSpec(model_id="m", **spec)
    facts: dict[str, Any] = {"dynamic_batch": True, "cores": 2, "unavailable": cpu_only}
    plain = candidates(asked, image("batch", 1, 8, 8), **facts)
    found = candidates(asked, image("batch", 1, 8, 8), **facts, incumbent=active)
    assert [each.candidate.key for each in found[len(plain) :]] == ([added] if added else [])
    assert found[: len(plain)] == plain


def test_what_was_activated_and_cannot_run_any_more_is_listed_with_the_reason() -> None:
    facts: dict[str, Any] = {"dynamic_batch": True, "cores": 2, "unavailable": cpu_only}
    asked, shape = BenchmarkSpec(model_id="m"), image("batch", 1, 8, 8)
    assert candidates(asked, shape, **facts, incumbent=incumbent("pytorch"))[-1].unavailable is not None
    four = msgspec.structs.replace(incumbent("openvino"), instances=4)
    assert candidates(asked, shape, **facts, incumbent=four)[-1].unavailable is not None


def test_a_precision_without_artifact_is_listed_with_its_reason() -> None:
    spec = BenchmarkSpec(model_id="m", engines=("onnxruntime",), precisions=("int8", "fp32"), batch_sizes=(1,))
    assert keys(plan(spec)) == {"onnxruntime/int8/b1/t2/i1": "no INT8 artifact", "onnxruntime/fp32/b1/t2/i1": None}


def test_a_plan_of_tensorrt_takes_no_larger_batch_than_it_is_built_for() -> None:
    spec = BenchmarkSpec(model_id="m", engines=("tensorrt", "onnxruntime"), batch_sizes=(32, 33))
    planned = candidates(spec, image("batch", 3), dynamic_batch=True, cores=2, unavailable=everywhere)
    told = {(each.candidate.engine, each.candidate.batch_size): each.unavailable for each in planned}
    assert told["tensorrt", 32] is None and "up to 32" in (told["tensorrt", 33] or "")
    assert told["onnxruntime", 33] is None


def test_a_fixed_batch_allows_only_itself() -> None:
    spec = BenchmarkSpec(model_id="m", engines=("onnxruntime",), batch_sizes=(1, 4))
    one, four = keys(plan(spec, dynamic=False, axis=4)).values()
    assert four is None
    assert one is not None
    assert "batch_sizes [4]" in one


def test_a_batch_axis_that_is_open_in_name_only_counts_as_one() -> None:
    spec = BenchmarkSpec(model_id="m", engines=("onnxruntime",), batch_sizes=(1, 4))
    one, four = keys(plan(spec, dynamic=False, axis="batch")).values()
    assert one is None
    assert four is not None


def test_more_threads_than_cores_are_not_measured() -> None:
    spec = BenchmarkSpec(model_id="m", engines=("openvino",), batch_sizes=(1,), threads=(1, 2, 3))
    assert keys(plan(spec)) == {
        "openvino/fp32/b1/t1/i1": None,
        "openvino/fp32/b1/t2/i1": None,
        "openvino/fp32/b1/t3/i1": "only 2 cores are there; order at most 2 threads",
    }


def test_sessions_share_the_cores_and_are_no_more_than_those() -> None:
    spec = BenchmarkSpec(model_id="m", engines=("openvino",), batch_sizes=(1,), instances=(1, 2, 3))
    assert keys(plan(spec, cores=4)) == {
        "openvino/fp32/b1/t4/i1": None,
        "openvino/fp32/b1/t2/i2": None,
        "openvino/fp32/b1/t1/i3": None,
    }
    spec = BenchmarkSpec(model_id="m", engines=("openvino",), batch_sizes=(1,), threads=(1, 2), instances=(2, 4))
    assert keys(plan(spec)) == {
        "openvino/fp32/b1/t1/i2": None,
        "openvino/fp32/b1/t2/i2": "only 2 cores are there; 2 threads x 2 instances are more",
        "openvino/fp32/b1/t1/i4": "only 2 cores are there; 1 threads x 4 instances are more",
        "openvino/fp32/b1/t2/i4": "only 2 cores are there; 2 threads x 4 instances are more",
    }


def test_an_order_without_batches_takes_the_fixed_one() -> None:
    spec = BenchmarkSpec(model_id="m", engines=("onnxruntime",))
    assert keys(plan(spec, dynamic=False, axis=4)) == {"onnxruntime/fp32/b4/t2/i1": None}


@given(
    engines=st.lists(st.sampled_from(ENGINES), min_size=1, max_size=8),
    batches=st.lists(st.integers(1, 256), min_size=1, max_size=16),
    threads=st.lists(st.integers(1, 8), min_size=1, max_size=8),
)
def test_each_combination_comes_once_in_the_order_given(
    engines: list[EngineName], batches: list[int], threads: list[int]
) -> None:
    spec = BenchmarkSpec(model_id="m", engines=tuple(engines), batch_sizes=tuple(batches), threads=tuple(threads))
    planned = candidates(spec, image("n", 3, 4, 4), dynamic_batch=True, cores=8, unavailable=everywhere)
    got = [(each.candidate.engine, each.candidate.batch_size, each.candidate.threads) for each in planned]
    assert len(set(got)) == len(got)
    assert set(got) == {(e, b, t) for e in engines for b in batches for t in threads}
    assert got == sorted(got, key=lambda c: (engines.index(c[0]), batches.index(c[1]), threads.index(c[2])))
