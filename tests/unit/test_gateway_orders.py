"""Benchmark orders that are refused at once, and those that are not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from gateway import orders
from shared import config, errors
from shared.db.tables import Job
from shared.specs import BenchmarkSpec
from tests.unit.gateway_kit import Gateway, fields_of, fresh_gateway_at, ready_model

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
        ({"engines": ["openvino"] * 2}, {"engines[1]": "openvino stands here twice; each value is measured once"}),
        ({"precisions": ["fp32"] * 2, "threads": [2, 2]},
         {"precisions[1]": "fp32 stands here twice; each value is measured once",
          "threads[1]": "2 stands here twice; each value is measured once"}),
        ({"batch_sizes": list(range(1, 17)), "threads": [1, 2]},
         {"body": "4 engines x 1 precisions x 16 batch_sizes x 2 threads x 1 instances are 128 candidates; at most 64 in "
          "one order, split it"}),
    ],
)  # fmt: skip
def test_orders_that_are_refused(fields: dict[str, Any], wrong: dict[str, str]) -> None:
    assert refusals(**fields) == wrong


def limits(*texts: str) -> list[dict[str, Any]]:
    return [dict(zip(("metric", "op", "value"), (m, op, float(v)), strict=True)) for m, op, v in map(str.split, texts)]


@pytest.mark.parametrize(
    "texts",
    [
        ("latency_p95_ms <= 2", "latency_p95_ms >= 1"),
        ("latency_p95_ms <= 2", "latency_p95_ms >= 2"),
        ("latency_p95_ms <= 1", "latency_p99_ms >= 2"),
        ("latency_p95_ms <= 1", "latency_p95_ms <= 2"),
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
    ],
)  # fmt: skip
def test_constraints_that_contradict_each_other(texts: tuple[str, ...], field: str, message: str) -> None:
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
