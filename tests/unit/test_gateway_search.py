"""Searches over the API: who may order one, what of a bad order is told, and what is shown of a good one."""

from __future__ import annotations

import csv
import json
from typing import Any

import msgspec
import pytest

from shared import nets
from shared.db import connection, searches
from shared.db.tables import Dataset, Job, Model, Search, Training
from tests.search_kit import LATENCIES
from tests.unit import gateway_kit as kit
from tests.unit.gateway_kit import Gateway, fields_of, problem


@pytest.fixture
def ids(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A model and a dataset that fit, as an order names them."""
    monkeypatch.setattr(nets, "missing", lambda then="": None)
    fields = {"name": "d", "task_type": "classification"}
    dataset_id = gateway.post("/datasets", **kit.form(fields, kit.ZIP, "d.zip")).json()["id"]
    kit.make_ready(gateway, dataset_id, summary=kit.of_digits())
    return {"model_id": kit.trainable_model(gateway), "dataset_id": dataset_id, "max_epochs": 9}


SIZES = {"image_size": {"type": "choice", "choices": [8, 16]}}
TWO = {"objectives": ["accuracy", "latency_ms"], "search_space": SIZES}


def order(gateway: Gateway, ids: dict[str, Any], ga: object, role: str = "admin") -> Any:
    return gateway.post("/training", role=role, json=ids | {"ga": ga})


def test_an_administrator_orders_a_search(gateway: Gateway, ids: dict[str, Any]) -> None:
    gene = {"type": "int", "low": 0, "high": 3}
    wanted = {"population_size": 8, "generations": 2, "halving": True, "search_space": {"frozen_stages": gene}}
    answer = order(gateway, ids, wanted)
    assert answer.status_code == 202, answer.text
    shown = answer.json()
    assert gateway.broker.rung[-1] == "search"
    assert shown["config"]["ga"]["population_size"] == shown["ga"]["population_size"] == 8
    assert shown["search"]["genes"]["frozen_stages"] == {**gene, "log": False}
    assert {"learning_rate", "batch_size"} < shown["search"]["genes"].keys()
    assert (shown["search"]["outcome"], shown["search"]["last_training_id"]) == (None, None)
    assert gateway.get(f"/jobs/{shown['id']}").json()["kind"] == "search"
    (listed,) = gateway.get("/training").json()["items"]
    assert listed["id"] == shown["id"]
    assert Search.get_by_id(shown["id"]).opening["epochs"] == 9


def test_what_was_measured_and_what_each_training_takes_is_shown(gateway: Gateway, ids: dict[str, Any]) -> None:
    search_id = order(gateway, ids, TWO | {"engine": "openvino"}).json()["id"]
    assert gateway.get(f"/training/{search_id}").json()["search"]["latencies"] is None
    with connection.write():
        searches.keep_latencies(search_id, LATENCIES)
        Training.update(latency_ms=0.5).where(Training.id == search_id).execute()
    shown = gateway.get(f"/training/{search_id}").json()
    assert (shown["latency_ms"], shown["ga"]["engine"]) == (0.5, "openvino")
    assert shown["search"]["latencies"] == msgspec.to_builtins(LATENCIES)
    heading, line = csv.reader(gateway.get("/training", params={"format": "csv"}).text.splitlines())
    assert dict(zip(heading, line, strict=True))["latency_ms"] == "0.5"


@pytest.mark.parametrize(
    ("gene", "told"),
    [
        ({"type": "choice", "choices": [64, 100]}, "a multiple of 32, not 100"),
        ({"type": "int", "low": 64, "high": 128}, "name them as a choice"),
    ],
)
def test_image_sizes_that_no_detector_takes_are_refused(
    gateway: Gateway, ids: dict[str, Any], gene: dict[str, Any], told: str
) -> None:
    with connection.write():
        Model.update(task_type="detection").where(Model.id == ids["model_id"]).execute()
        Dataset.update(task_type="detection").where(Dataset.id == ids["dataset_id"]).execute()
    answer = order(gateway, ids, {"search_space": {"image_size": gene}})
    assert told in problem(answer, 422, "invalid")["detail"]


def test_a_training_that_is_no_search_says_so(gateway: Gateway, ids: dict[str, Any]) -> None:
    shown = order(gateway, ids, None, role="engineer").json()
    assert (shown["search"], shown["ga"]) == (None, None)
    assert Job.get_by_id(shown["id"]).kind == "train"


def test_an_engineer_trains_and_orders_no_search(gateway: Gateway, ids: dict[str, Any]) -> None:
    told = problem(order(gateway, ids, {}, role="engineer"), 403, "forbidden")
    assert "an administrator may order it" in told["detail"]


def test_a_search_that_is_cancelled_rings_for_its_coordinator(gateway: Gateway, ids: dict[str, Any]) -> None:
    search_id = order(gateway, ids, {}).json()["id"]
    gateway.broker.rung.clear()
    assert gateway.post(f"/training/{search_id}/cancel", role="admin").status_code == 202
    assert gateway.broker.rung == ["search"]


@pytest.mark.parametrize(
    ("ga", "field", "said"),
    [
        ({"population_size": 0}, "ga.population_size", "from 2 to 1000"),
        ({"generations": 10**9}, "ga.generations", "from 1 to 1000"),
        ({"population_size": 1000, "generations": 1000}, "ga", "at most 2,000 genomes"),
        ({"search_space": {"learning_rate": {"type": "float", "low": 0.1, "high": 0.01}}}, "ga", "wrong way round"),
        ({"search_space": {"learning_rate": {"type": "float", "low": 0, "high": 1, "log": True}}}, "ga", "above 0"),
        ({"search_space": {"dropout_rate": {"type": "float", "low": 0, "high": 1e308}}}, "ga", "within 1e+12"),
        ({"search_space": {"learning_rate": {"type": "float", "low": 0.1, "high": 99}}}, "ga", "may become 99.0"),
        ({"search_space": {"optimizer": {"type": "choice", "choices": []}}}, "ga", "1 to 64"),
        ({"search_space": {"optimizer": {"type": "choice", "choices": ["lion"]}}}, "ga", "may become 'lion'"),
        ({"search_space": {"optimizer": {"type": "list"}}}, "ga", "must be one of float, int, choice or bool"),
        ({"search_space": {"hidden_units": {"type": "bool"}}}, "ga", "A training has no hidden_units"),
        ({"objectives": ["accuracy", "latency_ms"]}, "ga.search_space", "a gene with 2 to 12 choices"),
        (TWO | {"search_space": {"image_size": {"type": "int", "low": 8, "high": 64}}}, "ga.search_space", "choices"),
        (TWO | {"search_space": {"image_size": {"type": "choice", "choices": [16]}}}, "ga.search_space", "2 to 12"),
        (TWO | {"engine": "cuda"}, "ga.engine", "must be one of"),
        ({"engine": "openvino"}, "ga", "add latency_ms"),
        ({"objectives": []}, "ga.objectives", "1 to 2"),
        ({"objectives": ["latency_ms"]}, "ga", 'Objectives are ["accuracy"]'),
        ({"population": 4}, "ga", "known are population_size"),
        ([], "ga", "an object"),
    ],
)
def test_a_bad_search_is_refused_with_what_to_do(
    gateway: Gateway, ids: dict[str, Any], ga: object, field: str, said: str
) -> None:
    answer = order(gateway, ids, ga)
    told = problem(answer, 422, "invalid")
    (found,) = told["errors"]
    assert found["field"].startswith(field), told
    assert said in found["message"], told
    assert not Job.select().where(Job.kind == "search").exists()


@pytest.mark.parametrize("low", ["NaN", "-Infinity", '"x"', "1e999"])
def test_bounds_that_are_no_numbers_are_refused(gateway: Gateway, ids: dict[str, Any], low: str) -> None:
    space = f'{{"learning_rate": {{"type": "float", "low": {low}, "high": 1}}}}'
    model, dataset = ids["model_id"], ids["dataset_id"]
    body = f'{{"model_id": "{model}", "dataset_id": "{dataset}", "max_epochs": 2, "ga": {{"search_space": {space}}}}}'
    answer = gateway.post("/training", role="admin", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["code"] == "invalid"


def test_a_million_genes_are_refused_by_their_number_or_their_bytes(gateway: Gateway, ids: dict[str, Any]) -> None:
    some = {f"g{number}": {"type": "bool"} for number in range(33)}
    told = problem(order(gateway, ids, {"search_space": some}), 422, "invalid")
    assert "32" in told["errors"][0]["message"]
    many = ",".join(f'"g{number}":{{"type":"bool"}}' for number in range(10**6))
    head = ",".join(f'"{name}":{json.dumps(value)}' for name, value in ids.items())
    body = f'{{{head},"ga":{{"search_space":{{{many}}}}}}}'.encode()
    answer = gateway.post("/training", role="admin", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (413, 422), answer.text[:500]
    assert len(answer.text) < 5000


def test_the_fields_that_are_wrong_are_named(gateway: Gateway, ids: dict[str, Any]) -> None:
    assert fields_of(order(gateway, ids, {"mutation_rate": 2})) == {"ga.mutation_rate"}
