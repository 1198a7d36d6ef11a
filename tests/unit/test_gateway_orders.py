"""Benchmark orders that are refused at once, and those that are not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from gateway import orders
from shared import config, errors
from shared.db import benchmarks, connection, datasets, registry
from shared.db.tables import Deployment, Job, Model
from shared.specs import (
    BenchmarkSpec,
    Candidate,
    Detection,
    ModelDescription,
    NoiseFloor,
    Preprocessing,
    Resize,
    TensorInfo,
)
from tests.unit.gateway_kit import (
    SUMMARY,
    ZIP,
    Gateway,
    fields_of,
    form,
    fresh_gateway_at,
    make_ready,
    of_digits,
    problem,
    ready_model,
)

CORES = 4


def refusals(**fields: Any) -> dict[str, str]:
    spec = msgspec.convert({"model_id": "mdl_1"} | fields, BenchmarkSpec)
    try:
        orders.check(spec, CORES)
    except errors.InvalidInput as error:
        return {item["field"]: item["message"] for item in error.errors or []}
    return {}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"threads": [1, CORES]},
        {"engines": ["tensorrt"], "precisions": ["int8"]},  # the benchmark says why not
        {"jpeg_scales": [1]},
        {"jpeg_scales": [1, 2, 4], "dataset_id": "dst_1"},
        {"constraints": [{"metric": "accuracy", "op": ">=", "value": 0.9}]},
        {"batch_sizes": list(range(1, 17)), "threads": None},  # 4 engines x 16 = 64
    ],
)
def test_orders_that_are_taken(fields: dict[str, Any]) -> None:
    assert refusals(**fields) == {}


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"threads": [1, CORES + 1]}, {"threads[1]": "must be at most 4, the cores of this machine"}),
        ({"batch_sizes": [8, 1, 8]}, {"batch_sizes[2]": "8 stands here twice; each value is measured once"}),
        ({"jpeg_scales": [1, 2, 2], "dataset_id": "dst_1"},
         {"jpeg_scales[2]": "2 stands here twice; each value is measured once"}),
        ({"jpeg_scales": [1, 4]}, {"jpeg_scales": "what a scale costs in accuracy is told by a test split; order with "
          "dataset_id, or leave it out"}),
        ({"engines": ["openvino"] * 2}, {"engines[1]": "openvino stands here twice; each value is measured once"}),
        ({"precisions": ["fp32"] * 2, "threads": [2, 2]},
         {"precisions[1]": "fp32 stands here twice; each value is measured once",
          "threads[1]": "2 stands here twice; each value is measured once"}),
        ({"batch_sizes": list(range(1, 17)), "threads": [1, 2]},
         {"body": "4 engines x 16 batch_sizes x 2 threads x 1 instances are 128 candidates; at most 64 in one "
          "order, split it"}),
    ],
)  # fmt: skip
def test_orders_that_are_refused(fields: dict[str, Any], wrong: dict[str, str]) -> None:
    assert refusals(**fields) == wrong


@pytest.mark.parametrize("scales", [[3], [0], ["2"], [], [1, 2, 4, 4], 2])
def test_scales_that_no_jpeg_is_decoded_at(scales: object) -> None:
    with pytest.raises(msgspec.ValidationError, match="jpeg_scales"):
        msgspec.convert({"model_id": "mdl_1", "jpeg_scales": scales}, BenchmarkSpec)


def test_scales_are_of_models_that_take_images(gateway: Gateway) -> None:
    model_id = ready_model(gateway)
    tensors = msgspec.structs.replace(registry.model(model_id).description_json, preprocessing=None)
    Model.update(description_json=tensors).where(Model.id == model_id).execute()
    order = {"model_id": model_id, "jpeg_scales": [1]}
    refused = problem(gateway.call("engineer", "POST", "/benchmark", json=order), 409, "conflict")
    assert "this model takes tensors" in refused["detail"]


def test_noise_is_measured_alone() -> None:
    wrong = {"noise_floor": "is measured with isolation `exclusive`: other jobs would count as noise"}
    assert refusals(noise_floor=True, isolation="shared") == wrong
    assert refusals(noise_floor=True) == {}


def limits(*texts: str) -> list[dict[str, Any]]:
    return [dict(zip(("metric", "op", "value"), (m, op, float(v)), strict=True)) for m, op, v in map(str.split, texts)]


@pytest.mark.parametrize(
    "texts",
    [
        ("latency_p95_ms <= 2", "latency_p95_ms >= 1"),
        ("latency_p95_ms <= 2", "latency_p95_ms >= 2"),
        ("latency_p95_ms <= 1", "latency_p99_ms >= 2"),
        ("latency_p95_ms <= 1", "latency_p95_ms <= 2"),
        ("accuracy >= 1", "accuracy_drop <= -0.01", "memory_mb >= 0"),
    ],
)
def test_constraints_that_something_can_keep(texts: tuple[str, ...]) -> None:
    assert refusals(constraints=limits(*texts)) == {}


@pytest.mark.parametrize(
    ("texts", "field", "message"),
    [
        (("latency_p95_ms <= 1", "latency_p95_ms >= 2"), "constraints[1]",
         "latency_p95_ms >= 2 contradicts constraints[0], latency_p95_ms <= 1: no value keeps both; leave one out"),
        (("memory_mb > 5", "accuracy >= 0.9", "memory_mb <= 5"), "constraints[0]",
         "memory_mb > 5 contradicts constraints[2], memory_mb <= 5: no value keeps both; leave one out"),
        (("latency_p95_ms <= 1", "latency_p50_ms >= 2"), "constraints[1]",
         "latency_p50_ms >= 2 contradicts constraints[0], latency_p95_ms <= 1: no value keeps both; leave one out"),
        (("accuracy >= 95",), "constraints[0]", "accuracy >= 95: accuracy is a share from 0 to 1; 95 % is 0.95"),
        (("accuracy > 1",), "constraints[0]", "accuracy > 1: accuracy is a share from 0 to 1; 1 % is 0.01"),
        (("latency_p95_ms <= -1",), "constraints[0]",
         "latency_p95_ms <= -1: no latency_p95_ms is below 0; write the largest accepted"),
    ],
)  # fmt: skip
def test_constraints_that_nothing_can_keep(texts: tuple[str, ...], field: str, message: str) -> None:
    assert refusals(constraints=limits(*texts)) == {field: message}


@pytest.fixture
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with fresh_gateway_at(tmp_path_factory.mktemp("gateway")) as running:
        yield running


def test_a_refused_order_makes_no_job(gateway: Gateway) -> None:
    order = {"model_id": ready_model(gateway), "threads": [config.cores() + 1]}
    assert fields_of(gateway.post("/benchmark", json=order)) == {"threads[0]"}
    assert Job.select().count() == 0
    assert gateway.post("/benchmark", json=order | {"threads": [config.cores()]}).status_code == 202


def upload(gateway: Gateway, task_type: str = "classification") -> str:
    fields = {"name": "d", "task_type": task_type}
    return str(gateway.post("/datasets", **form(fields, ZIP, "d.zip")).json()["id"])


def test_a_dataset_must_be_there_and_ready_and_fit(gateway: Gateway) -> None:
    model = ready_model(gateway)

    def refused(dataset_id: str, status: int, code: str) -> str:
        answer = gateway.post("/benchmark", json={"model_id": model, "dataset_id": dataset_id})
        return str(problem(answer, status, code)["detail"])

    assert "There is no dataset" in refused("dst_none", 404, "not_found")
    unready, boxes, pets = upload(gateway), upload(gateway, "detection"), upload(gateway)
    assert "its check is not done" in refused(unready, 409, "conflict")
    make_ready(gateway, boxes, "boxes")
    assert f"Dataset {boxes} is for detection, the model for classification" in refused(boxes, 409, "conflict")
    make_ready(gateway, pets, "pets", SUMMARY)
    assert "'cat', 'dog' are not among the model's labels ('0', '1'" in refused(pets, 409, "conflict")
    assert Job.select().where(Job.kind == "benchmark").count() == 0


def test_a_dataset_in_use_is_not_deleted(gateway: Gateway) -> None:
    dataset = upload(gateway)
    make_ready(gateway, dataset, summary=of_digits())
    order = {"model_id": ready_model(gateway), "dataset_id": dataset, "precisions": ["int8"]}
    job = gateway.post("/benchmark", json=order).json()["id"]
    refusal = problem(gateway.delete(f"/datasets/{dataset}", role="admin"), 409, "conflict")
    assert f"Job {job} (benchmark) uses this dataset" in refusal["detail"]
    gateway.post(f"/benchmark/{job}/cancel")
    assert gateway.delete(f"/datasets/{dataset}", role="admin").status_code == 204


def described(shape: list[int | str], labels: list[str] | None, detection: Detection | None = None) -> ModelDescription:
    return ModelDescription(
        inputs=[TensorInfo(name="x", dtype="float32", shape=["batch", 3, 8, 8])],
        outputs=[TensorInfo(name="y", dtype="float32", shape=shape)],
        opset=18,
        ir_version=10,
        parameters=10,
        dynamic_batch=True,
        preprocessing=Preprocessing(resize=Resize(height=8, width=8), detection=detection),
        labels=labels,
    )


@pytest.mark.parametrize(
    ("description", "ids"),
    [
        (described(["batch", 3], None), [0, 1, 2]),
        (described(["batch", "classes"], None), [0, 1, 2]),
        (described(["batch", 5], ["other", "Red Kite", "owl", "red kite", "Jay"]), [4, 2, 1]),
        (described(["batch", 7, 100], None, Detection(format="yolo")), [0, 1, 2]),
        (described(["batch", 100, 8], None, Detection(format="yolo_objectness")), [0, 1, 2]),
        (described(["batch", 100, 6], None, Detection(format="corners")), [0, 1, 2]),
    ],
)
def test_classes_are_found_by_name_else_by_place(description: ModelDescription, ids: list[int]) -> None:
    assert datasets.class_ids(["jay", "owl", "red_kite"], description) == ids


@pytest.mark.parametrize(
    ("description", "why"),
    [
        (described(["batch", 4], None), "tells 4 classes apart and the dataset has 3"),
        (described(["batch", 8, 100], None, Detection(format="yolo")), "tells 4 classes apart"),
        (described(["batch", 3], ["jay", "owl", "tit"]), "'red_kite' is not among the model's labels"),
    ],
)
def test_classes_that_the_model_does_not_have_are_refused(description: ModelDescription, why: str) -> None:
    with pytest.raises(errors.Conflict, match=why):
        datasets.class_ids(["jay", "owl", "red_kite"], description)


# --- what a benchmark is told of earlier ones ------------------------------------------------------------------------


def noise(value: float) -> NoiseFloor:
    return NoiseFloor(
        value=value, runs=10, measured_at="2026-01-01T00:00:00.000Z", fingerprint="this machine", benchmark_id="job_1"
    )


def test_the_last_noise_floor_of_a_machine_is_remembered(gateway: Gateway) -> None:
    for value in (0.02, 0.03):
        with connection.write(durable=True, name="finish"):
            benchmarks.remember_noise_floor(noise(value))
    assert benchmarks.noise_floor("this machine") == noise(0.03)
    assert benchmarks.noise_floor("another") is None


@pytest.mark.parametrize(("status", "stays"), [("active", True), ("stale", True), ("retired", False)])
def test_the_incumbent_is_what_was_activated(gateway: Gateway, status: str, stays: bool) -> None:
    model_id = ready_model(gateway)
    assert registry.incumbent(model_id) is None
    with connection.write(durable=True, name="accept"):
        Deployment.insert(
            id="dep_1",
            model_id=model_id,
            engine="openvino",
            precision="fp32",
            batch_size=8,
            threads=2,
            source="manual",
            status=status,
            fingerprint="f",
            created_by=Model.get_by_id(model_id).created_by,
            created_at_ms=1,
        ).execute()
    active = Candidate(engine="openvino", precision="fp32", batch_size=8, threads=2)
    assert registry.incumbent(model_id) == (active if stays else None)


def test_the_service_is_not_sent_more_than_a_loop_takes() -> None:
    assert refusals(service_load={"users": 100}) == {}
    assert refusals(service_load={"users": 100, "arrival_rate": 3000.0}) == {}
    (message,) = refusals(service_load={"users": 1, "arrival_rate": 5000.0}).values()
    assert "at most 3333.33 for 30 seconds" in message
    assert refusals(service_load={"users": 1, "arrival_rate": 5000.0, "seconds": 10}) == {}


@pytest.mark.parametrize(("rate", "seconds", "least"), [(1e-300, 30, "0.333333"), (0.9, 10, "1"), (5.0, 1, "10")])
def test_a_rate_that_sends_next_to_nothing_is_refused(rate: float, seconds: float, least: str) -> None:
    (message,) = refusals(service_load={"users": 1, "arrival_rate": rate, "seconds": seconds}).values()
    assert f"at least {least} for {seconds} seconds" in message
    assert refusals(service_load={"users": 1, "arrival_rate": float(least) + 1e-6, "seconds": seconds}) == {}


@pytest.mark.parametrize(
    "load", [{}, {"users": 0}, {"users": 201}, {"users": 5, "arrival_rate": 0}, {"users": 5, "seconds": 301}]
)
def test_a_load_out_of_range_is_no_order(load: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError, match="service_load"):
        refusals(service_load=load)
