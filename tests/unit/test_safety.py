"""What answers tell a browser: types, copies, frames, scripts, other origins."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar.testing import TestClient

from gateway.app import create_app
from gateway.safety import DATA_POLICY, PAGE_POLICY, headers_of_every_answer
from tests.unit.gateway_kit import Gateway, context_at, gateway_at

PATHS = ("/health", "/health/live", "/nothing", "/models", "/users", "/auth/login", "/schema", "/schema/openapi.json")


@pytest.fixture
def gateway(db_file: Path, tmp_path: Path) -> Iterator[Gateway]:
    with gateway_at(tmp_path) as running:
        yield running


def test_every_answer_has_them_refusals_and_failures_too(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [gateway.get(path, role) for path in PATHS for role in (None, "viewer")]
    monkeypatch.setattr(gateway.context.caches, "_seen_s", None)  # an unexpected failure
    failed = gateway.get("/health")
    assert failed.status_code == 500
    for answer in (*answers, failed):
        headers = answer.headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "strict-transport-security" not in headers, "only over TLS"


def test_a_page_may_bring_its_style_and_nothing_else(gateway: Gateway) -> None:
    page = gateway.get("/schema", role=None)
    assert page.headers["content-security-policy"].encode() == PAGE_POLICY
    assert gateway.get("/health").headers["content-security-policy"].encode() == DATA_POLICY
    assert not re.search(r"<script|<iframe|\son\w+=", page.text)


def test_over_tls_a_browser_is_told_to_stay(db_file: Path, tmp_path: Path) -> None:
    with TestClient(create_app(context_at(tmp_path)), base_url="https://gateway.test") as client:
        assert client.get("/api/v1/health/live").headers["strict-transport-security"] == "max-age=31536000"


@given(st.booleans(), st.sampled_from([b"text/html; charset=utf-8", b"application/json", b"image/png"]))
def test_a_rule_for_caching_that_is_given_stays(encrypted: bool, kind: bytes) -> None:
    given_headers = [(b"Content-Type", kind), (b"Cache-Control", b"max-age=9")]
    added = dict(headers_of_every_answer(given_headers, encrypted=encrypted))
    assert b"cache-control" not in added
    assert (b"strict-transport-security" in added) == encrypted
    assert added[b"content-security-policy"] == (PAGE_POLICY if b"html" in kind else DATA_POLICY)


# --- other origins ----------------------------------------------------------------------------------------------------


@pytest.fixture
def client(db_file: Path, tmp_path: Path) -> Iterator[TestClient[Any]]:
    context = context_at(tmp_path)
    context.settings = msgspec.structs.replace(context.settings, cors_origins="https://a.example, https://b.example")
    with TestClient(create_app(context)) as client:
        yield client


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://a.example",
        "https://a.example.evil",
        "https://xa.example",
        "https://a.example:1",
        "null",
    ],
)
def test_only_exact_origins_are_let_in(client: TestClient[Any], origin: str) -> None:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    for answer in (client.options("/api/v1/models", headers=asked), client.get("/api/v1/health/live", headers=asked)):
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
def test_a_browser_may_ask_first(client: TestClient[Any], method: str) -> None:
    asked = {
        "Origin": "https://a.example",
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization, x-api-key, idempotency-key, content-type",
    }
    answer = client.options("/api/v1/models", headers=asked)
    assert answer.status_code in (200, 204)
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    assert method in answer.headers["access-control-allow-methods"]
    allowed = answer.headers["access-control-allow-headers"].lower()
    assert {"authorization", "x-api-key", "idempotency-key"} <= {name.strip() for name in allowed.split(",")}
    assert "access-control-allow-credentials" not in answer.headers, (
        "no cookies for others: credentials travel in headers"
    )


@pytest.mark.parametrize("call", ["/api/v1/inference/predict", "/v2/models/digits/infer"])
def test_what_a_prediction_says_can_be_read_from_another_origin(client: TestClient[Any], call: str) -> None:
    for asked, told in (({"Origin": "https://a.example"}, "https://a.example"), ({}, None)):
        answer = client.post(call, headers=asked)
        assert (answer.status_code, answer.headers.get("access-control-allow-origin")) == (401, told)


def test_a_refusal_can_be_read_from_another_origin(client: TestClient[Any]) -> None:
    answer = client.get("/api/v1/models", headers={"Origin": "https://a.example"})
    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
