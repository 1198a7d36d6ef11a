"""The running application against its own OpenAPI description: input it promises to take, and input it must refuse."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import hypothesis
import msgspec
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from gateway import docs_examples
from gateway.access import TABLE
from shared import nets
from shared.db import accounts
from tests.unit import gateway_kit as kit

CONFORMS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]
EXAMPLES = 12
ENDLESS = {("GET", "/api/v1/events")}
CALLS = sorted(call for call in TABLE if call not in ENDLESS and call[1] != "/" and not call[1].startswith("/schema"))
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kit.Gateway]:
    with kit.fresh_gateway_at(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture(scope="module")
def description(gateway: kit.Gateway) -> Any:
    return schemathesis.openapi.from_dict(gateway.get("/schema/openapi.json", role=None).json())


@pytest.fixture
def real(gateway: kit.Gateway, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Ids of what is there: a ready model, its queued benchmark and training, a dataset that fits, a user, a key of the
    caller.
    """
    monkeypatch.setattr(nets, "missing", lambda then="": None)
    gateway.reset()
    model_id = kit.trainable_model(gateway)
    benchmark_id = gateway.post("/benchmark", json={"model_id": model_id}).json()["id"]
    user = accounts.add_user(f"somebody-{next(NUMBERS)}", "unusable", "viewer")
    key = gateway.post("/auth/api-keys", role="admin", json={"name": "another"}).json()
    fields = {"name": "d", "task_type": "classification"}
    dataset = gateway.post("/datasets", **kit.form(fields, kit.ZIP, "d.zip")).json()
    kit.make_ready(gateway, dataset["id"], summary=kit.of_digits())
    order = {"model_id": model_id, "dataset_id": dataset["id"], "max_epochs": 1}
    training_id = gateway.post("/training", json=order).json()["id"]
    return {
        "model_id": model_id,
        "model": model_id,
        "version": "1",
        "dataset_id": dataset["id"],
        "benchmark_id": benchmark_id,
        "training_id": training_id,
        "a": training_id,
        "b": training_id,
        "job_id": benchmark_id,
        "user_id": user.id,
        "key_id": key["id"],
    }


def aim(case: Case, real: dict[str, str]) -> None:
    """Let the case speak of things that are there."""
    for part in (case.path_parameters, case.query, case.body):
        if isinstance(part, dict):
            part.update({name: real[name] for name in part if name in real})


def send(gateway: kit.Gateway, case: Case) -> Any:
    """The case over our client, signed in as an administrator."""
    wanted = requests.Request(**case.as_transport_kwargs(base_url="http://testserver.local")).prepare()
    headers = dict(wanted.headers) | {"X-API-Key": gateway.keys["admin"]}
    headers.pop("Authorization", None)
    return gateway.client.request(wanted.method or "", wanted.url or "", headers=headers, content=wanted.body)


OPAQUE = {
    ("GET", "/api/v1/benchmark/{benchmark_id}/report"),
    ("GET", "/api/v1/training/{training_id}/report"),
    ("GET", "/api/v1/reports/{report_id}"),
    ("GET", "/api/v1/reports/{report_id}/view"),
    ("GET", "/api/v1/reports/{report_id}/export"),
    ("GET", "/api/v1/metrics"),
}
"""Calls whose answer is described elsewhere: by the report itself, and by docs/METRICS.md."""


@pytest.mark.parametrize("body", docs_examples.BODIES, ids=lambda body: type(body).__name__)
def test_examples_keep_the_bounds_of_their_fields(body: msgspec.Struct) -> None:
    written = msgspec.json.encode(body)
    assert msgspec.json.encode(msgspec.json.decode(written, type=type(body))) == written


def test_every_json_body_has_an_example(gateway: kit.Gateway) -> None:
    paths = gateway.get("/schema/openapi.json", role=None).json()["paths"]
    for method, path in set(CALLS) - OPAQUE:
        operation = paths[path][method.lower()]
        answers = [answer for status, answer in operation["responses"].items() if status.startswith("2")]
        for told in [operation.get("requestBody", {}), *answers]:
            assert told.get("content", {}).get("application/json", {"examples": 1}).get("examples"), (method, path)


def test_examples_are_taken_by_the_calls_they_belong_to(gateway: kit.Gateway, real: dict[str, str]) -> None:
    paths = gateway.get("/schema/openapi.json", role=None).json()["paths"]
    for path, operations in paths.items():
        for method, operation in operations.items():
            json_body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            for example in (json_body or {}).get("examples", {}).values():
                body = example["value"] | {name: real[name] for name in example["value"] if name in real}
                where = path.format(**real)
                response = gateway.call("admin", method.upper(), where.removeprefix("/api/v1"), json=body)
                assert response.status_code in (200, 201, 202, 401), (path, response.text)  # 401: a made-up password


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), CALLS, ids=lambda part: part)
def test_answers_are_as_described(
    gateway: kit.Gateway, description: Any, real: dict[str, str], method: str, path: str, mode: GenerationMode
) -> None:
    operation = description[path][method]
    if mode is GenerationMode.NEGATIVE and not (operation.query or operation.path_parameters or operation.body):
        pytest.skip("nothing can be wrong about this call")

    @hypothesis.settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode), aimed=st.booleans())
    def conforms(case: Case, aimed: bool) -> None:
        if aimed:
            aim(case, real)
        case.validate_response(send(gateway, case), checks=CONFORMS)

    conforms()
