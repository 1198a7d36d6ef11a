"""Who may call what: every route of the application against expectations written by hand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from litestar.routes import ASGIRoute, HTTPRoute

from gateway.access import TABLE
from gateway.app import create_app
from tests.unit.gateway_kit import Gateway, context_at, gateway_at, problem

ANYBODY = """
POST /api/v1/auth/login
POST /api/v1/auth/session
GET /api/v1/health
GET /api/v1/health/live
GET /api/v1/health/ready
GET /
GET /schema
GET /schema/openapi.json
GET /schema/openapi.yaml
GET /v2/health/live
GET /v2/health/ready
"""
VIEWER = """
POST /api/v1/auth/logout
GET /api/v1/auth/verify
POST /api/v1/auth/ticket
GET /api/v1/auth/api-keys
POST /api/v1/auth/api-keys
DELETE /api/v1/auth/api-keys/{key_id}
POST /api/v1/inference/predict
GET /api/v1/inference/models
GET /v2
GET /v2/models/{model}
GET /v2/models/{model}/versions/{version}
GET /v2/models/{model}/ready
GET /v2/models/{model}/versions/{version}/ready
POST /v2/models/{model}/infer
POST /v2/models/{model}/versions/{version}/infer
"""
ENGINEER = """
POST /api/v1/models
GET /api/v1/models
GET /api/v1/models/{model_id}
GET /api/v1/models/{model_id}/onnx
GET /api/v1/models/{model_id}/training
GET /api/v1/models/{model_id}/deployment
PUT /api/v1/models/{model_id}/deployment
DELETE /api/v1/models/{model_id}/deployment
POST /api/v1/datasets
GET /api/v1/datasets
GET /api/v1/datasets/{dataset_id}
GET /api/v1/datasets/{dataset_id}/contact-sheet
POST /api/v1/training
GET /api/v1/training
GET /api/v1/training/compare
GET /api/v1/training/{training_id}
GET /api/v1/training/{training_id}/report
POST /api/v1/training/{training_id}/report
POST /api/v1/training/{training_id}/cancel
POST /api/v1/benchmark
GET /api/v1/benchmark
GET /api/v1/benchmark/{benchmark_id}
GET /api/v1/benchmark/{benchmark_id}/report
POST /api/v1/benchmark/{benchmark_id}/report
POST /api/v1/benchmark/{benchmark_id}/cancel
GET /api/v1/jobs
GET /api/v1/jobs/{job_id}
GET /api/v1/jobs/{job_id}/log
GET /api/v1/reports
GET /api/v1/reports/history
GET /api/v1/reports/{report_id}
GET /api/v1/reports/{report_id}/view
GET /api/v1/reports/{report_id}/export
GET /api/v1/inference/health
GET /api/v1/config
GET /api/v1/events
GET /api/v1/events/ws
GET /api/v1/metrics
GET /metrics
"""
ADMIN = """
GET /api/v1/alerts
GET /api/v1/audit
GET /api/v1/users
POST /api/v1/users
PATCH /api/v1/users/{user_id}
DELETE /api/v1/users/{user_id}
DELETE /api/v1/models/{model_id}
POST /api/v1/models/presets/{preset}
DELETE /api/v1/datasets/{dataset_id}
"""
PLAIN = {"/api/v1/inference/predict": "POST", "/api/v1/events/ws": "GET"}
"""Handlers that Litestar knows no method of."""
RANKS = {None: 0, "viewer": 1, "engineer": 2, "admin": 3}
EXPECTED = {
    (method, path): rank
    for rank, lines in enumerate((ANYBODY, VIEWER, ENGINEER, ADMIN))
    for method, path in (line.split() for line in lines.split("\n") if line)
}
CASES = [
    (role, method, path)
    for role, rank in RANKS.items()
    for (method, path), needed in sorted(EXPECTED.items())
    if (path, rank >= needed) != ("/api/v1/events", True)  # a stream that lasts: test_gateway_events listens to it
]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    from shared.db import connection

    folder: Path = tmp_path_factory.mktemp("gateway")
    connection.migrate(folder / "db" / "cv-platform.db")
    connection.open_db(folder / "db" / "cv-platform.db")
    with gateway_at(folder) as running:
        yield running
    connection.database.close()


def registered(folder: Path) -> set[tuple[str, str]]:
    found = set()
    for route in create_app(context_at(folder)).routes:
        if isinstance(route, ASGIRoute):
            found.add((PLAIN[route.path], route.path))
        elif isinstance(route, HTTPRoute):
            found |= {(method, route.path_format) for method in route.methods if method != "OPTIONS"}
    return found - {("GET", "/schema/{path}")}  # Litestar's own "not found"; ours answers before it


def test_every_route_has_a_row_and_every_row_a_route(db_file: Path, tmp_path: Path) -> None:
    routes = registered(tmp_path)
    assert routes == set(TABLE)
    assert routes == set(EXPECTED)


@pytest.mark.parametrize(("role", "method", "path"), CASES)
def test_route_by_role(gateway: Gateway, method: str, path: str, role: str | None) -> None:
    url = re.sub(r"\{\w+\}", "nothing", path)
    response = gateway.client.request(method, url, headers={} if role is None else {"X-API-Key": gateway.keys[role]})
    needed = EXPECTED[method, path]
    if RANKS[role] >= needed:
        assert response.status_code not in (403, 405), response.text
        assert response.status_code != 401 or path.endswith(("/login", "/session")), response.text
    elif path.startswith("/v2"):
        assert (response.status_code, list(response.json())) == (401, ["error"])
    elif role is None:
        problem(response, 401, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"
    else:
        problem(response, 403, "forbidden")


def test_what_is_not_in_the_table_exists_for_nobody(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    without = {row: role for row, role in TABLE.items() if row != ("GET", "/api/v1/config")}
    monkeypatch.setattr("gateway.access.TABLE", without)  # a row taken out and put back would change the order
    for role in RANKS:
        problem(gateway.get("/config", role=role), 404, "not_found")


def test_the_role_is_checked_before_the_body_is_read(gateway: Gateway) -> None:
    refused = gateway.post("/models", role="viewer", content=b"never looked at", headers={"content-type": "a/b"})
    problem(refused, 403, "forbidden")


def test_other_methods_are_refused_with_the_list_of_those_there_are(gateway: Gateway) -> None:
    for method in ("OPTIONS", "PUT"):
        response = gateway.call("admin", method, "/models")
        assert "takes GET, POST;" in problem(response, 405, "method_not_allowed")["detail"]
        assert response.headers.get_list("allow") == ["GET, POST"]
    head = gateway.call("admin", "HEAD", "/models/mdl_1/onnx")
    assert (head.status_code, head.headers.get_list("allow")) == (405, ["GET"])
    predict = gateway.get("/inference/predict")
    problem(predict, 405, "method_not_allowed")
    assert predict.headers["allow"] == "POST"
