"""Health, settings, events, the API description, and what every answer has in common."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from litestar.testing import TestClient

from gateway import passwords
from gateway.app import create_app
from gateway.caches import Caches
from gateway.store import Pool
from shared import config, errors
from shared.db import accounts, connection, registry
from shared.wire.events import Resync
from shared.wire.messages import Event
from tests.conftest import eventually
from tests.unit.gateway_kit import (
    Conversation,
    FakeBroker,
    Feed,
    Gateway,
    context_at,
    converse,
    gateway_at,
    problem,
    settings_at,
)


@pytest.fixture
def gateway(db_file: Path, tmp_path: Path) -> Iterator[Gateway]:
    with gateway_at(tmp_path) as running:
        yield running


def enough_workers(gateway: Gateway) -> None:
    gateway.broker.workers *= len(gateway.context.settings.inference_farm)


def test_health_shows_its_parts_to_those_who_signed_in(gateway: Gateway) -> None:
    enough_workers(gateway)
    assert gateway.get("/health", role=None).json() == {"status": "ok", "version": "0.1.0", "inference": "ok"}
    parts = gateway.get("/health", role="viewer").json()["components"]
    assert {name: part["status"] for name, part in parts.items()} == dict.fromkeys(
        ("api", "database", "broker", "inference", "jobs", "disk"), "ok"
    )
    problem(gateway.get("/health", role=None, headers={"X-API-Key": "wrong"}), 401, "unauthorized")


def test_health_without_a_broker_is_down_and_not_ready(gateway: Gateway) -> None:
    gateway.broker.alive = False
    health = gateway.get("/health", role="viewer")
    assert (health.status_code, health.json()["status"], health.json()["inference"]) == (503, "down", "down")
    ready = gateway.get("/health/ready", role=None)
    assert (ready.status_code, ready.headers["retry-after"]) == (503, "1")
    assert "broker" in ready.json()["detail"]


def test_health_names_who_is_not_there_for_jobs(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.context.monitor, "away", lambda: ["preparer"])
    health = gateway.get("/health", role="viewer")
    assert (health.status_code, health.json()["status"]) == (200, "degraded")
    assert health.json()["components"]["jobs"] == {
        "status": "degraded",
        "detail": "no process is there of: preparer",
    }


def test_health_without_a_database_is_down(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Caches, "current", False)
    assert gateway.get("/health", role=None).status_code == 503
    assert "database" in gateway.get("/health/ready", role=None).json()["detail"]
    assert gateway.get("/health/live", role=None).status_code == 200


def test_ready_needs_an_inference_process_and_ends_with_the_drain(gateway: Gateway) -> None:
    assert gateway.get("/health/ready", role=None).status_code == 200
    gateway.broker.workers = []
    assert gateway.get("/health/ready", role=None).status_code == 503
    enough_workers(gateway)
    gateway.client.blocking_portal.call(gateway.context.drain)
    assert gateway.get("/health/ready", role=None).json()["detail"] == "stopping"
    assert gateway.get("/health/live", role=None).status_code == 200


def test_config_hides_secrets(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLS_KEY", "/etc/secret.pem")
    rows = {row["name"]: row for row in gateway.get("/config").json()}
    assert set(rows) == set(config.names())
    assert rows["TLS_KEY"]["value"] == "(hidden)" and rows["TLS_KEY"]["origin"] == "environment"
    assert rows["PORT"] == rows["PORT"] | {"value": "8080", "origin": "default"}


# --- what every answer has in common ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "taken"),
    [("abc-1.2_X", True), ("a" * 64, True), ("a" * 65, False), ("a b", False), ("é", False), ("", False)],
)
def test_request_ids(gateway: Gateway, offered: str, taken: bool) -> None:
    response = gateway.get("/nothing", headers={"X-Request-ID": offered.encode()})
    assert (response.headers["x-request-id"] == offered) == taken
    assert problem(response, 404, "not_found")["request_id"] == response.headers["x-request-id"]


def test_every_answer_says_nosniff_and_no_store(gateway: Gateway) -> None:
    for response in (gateway.get("/health"), gateway.get("/nothing"), gateway.get("/schema")):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"


def test_json_ends_with_a_newline(gateway: Gateway) -> None:
    for response in (
        gateway.get("/health"),
        gateway.get("/nothing"),
        gateway.get("/benchmark"),
        gateway.get("/models"),
    ):
        assert response.text.endswith("}\n") and int(response.headers["content-length"]) == len(response.content)


def test_a_request_is_one_line_of_log(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gateway.access")
    gateway.get("/jobs?limit=3", headers={"X-Request-ID": "here"})
    [line] = [vars(record) for record in caplog.records if record.name == "gateway.access"]
    expected = {"request_id": "here", "user": "a-engineer", "method": "GET", "path": "/api/v1/jobs", "status": 200}
    expected["action"] = "GET /api/v1/jobs"
    assert line | expected == line and line["duration_ms"] > 0
    assert gateway.keys["engineer"] not in str(line)


def test_an_unforeseen_failure_is_logged_and_told_in_one_sentence(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a detail for us alone")

    monkeypatch.setattr(registry, "models", broken)
    response = gateway.get("/models")
    body = problem(response, 500, "internal")
    assert "detail for us" not in response.text
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info and record.exc_info[0] is ZeroDivisionError
    assert vars(record)["request_id"] == body["request_id"]


def test_a_database_that_is_away_is_said_so(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise errors.Unavailable("The database cannot be used right now.", retry_after_s=2)

    monkeypatch.setattr(registry, "models", away)
    response = gateway.get("/models")
    problem(response, 503, "unavailable")
    assert response.headers["retry-after"] == "2"


def test_every_error_class_has_an_answer(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    for code, kind in errors.BY_CODE.items():
        if code == "method_not_allowed":  # ours, with another signature
            continue

        def failing(*_: Any, kind: type[errors.AppError] = kind, **__: Any) -> None:
            raise kind("what happened, and what to do", errors=[{"field": "a", "message": "b"}])

        monkeypatch.setattr(registry, "models", failing)
        body = problem(gateway.get("/models"), kind.status, code)
        assert body["errors"] == [{"field": "a", "message": "b"}]


def test_a_refused_body_is_read_on_a_little_so_that_the_refusal_arrives(db_file: Path, tmp_path: Path) -> None:
    context = context_at(tmp_path)
    talk = Conversation("POST", "/api/v1/models", "no key", {"content-length": "3000"})
    for _ in range(3):
        talk.say(bytes(1000), more=True)
    talk.say(b"", more=False)
    converse(context, talk)
    assert talk.status == 401 and talk.headers["connection"] == "close"
    assert talk.incoming.qsize() == 1, "everything the client sent was taken off it; its leaving remains"
    assert [message.get("more_body") for message in talk.sent[1:]] == [True, False]
    assert json.loads(talk.body)["code"] == "unauthorized"


def test_a_small_body_in_the_way_does_not_cost_the_connection(db_file: Path, tmp_path: Path) -> None:
    talk = Conversation("POST", "/api/v1/models", "no key", {"content-length": "1000"})
    talk.say(bytes(1000), more=False)
    converse(context_at(tmp_path), talk)
    assert talk.status == 401 and "connection" not in talk.headers


def test_a_body_the_client_holds_back_is_not_asked_for(
    db_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Conversation("POST", "/api/v1/models", "no key", {"content-length": "1000", "expect": "100-continue"})
    taken_at_start = []
    send = talk.send

    async def watched(message: dict[str, Any]) -> None:
        taken_at_start.append(talk.incoming.qsize())
        await send(message)

    monkeypatch.setattr(talk, "send", watched)
    talk.say(bytes(1000), more=False)
    converse(context_at(tmp_path), talk)
    assert talk.status == 401 and talk.headers["connection"] == "close"
    assert taken_at_start[0] == 1, "receiving before the answer starts would send `100 Continue`"


def test_cross_origin_calls_only_from_the_origins_that_are_set(db_file: Path, tmp_path: Path) -> None:
    context = context_at(tmp_path)
    context.settings = msgspec.structs.replace(context.settings, cors_origins="https://a.example, https://b.example")
    with TestClient(create_app(context)) as client:
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        good = client.options("/api/v1/models", headers={"Origin": "https://b.example", **asked})
        assert good.headers["access-control-allow-origin"] == "https://b.example"
        bad = client.options("/api/v1/models", headers={"Origin": "https://evil.example", **asked})
        assert "access-control-allow-origin" not in bad.headers
        answer = client.get("/api/v1/health/live", headers={"Origin": "https://a.example"})
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        assert "X-Request-ID" in answer.headers["access-control-expose-headers"]


# --- the description --------------------------------------------------------------------------------------------------


def test_the_description_covers_every_call(gateway: Gateway) -> None:
    from gateway.access import TABLE

    schema = gateway.get("/schema/openapi.json", role=None).json()
    described = {(method.upper(), path) for path, item in schema["paths"].items() for method in item}
    assert described == {call for call in TABLE if call[1] != "/" and not call[1].startswith("/schema")}
    operations = [operation for item in schema["paths"].values() for operation in item.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for operation in operations:
        assert operation["description"], operation
        assert ("400" in operation["responses"]) == operation["operationId"].startswith("open_inference_infer")
    upload = schema["paths"]["/api/v1/models"]["post"]
    assert "application/problem+json" in upload["responses"]["413"]["content"]
    assert set(upload["requestBody"]["content"]["multipart/form-data"]["schema"]["required"]) == {
        "name",
        "task_type",
        "file",
    }
    assert schema["paths"]["/api/v1/benchmark"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert "image/png" in schema["paths"]["/api/v1/inference/predict"]["post"]["requestBody"]["content"]
    assert schema["paths"]["/api/v1/auth/login"]["post"]["security"] == []
    assert {"bearer": []} in upload["security"]


def test_the_front_door_leads_to_the_description(gateway: Gateway) -> None:
    answer = gateway.client.get("/", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/schema")


def test_the_page_needs_nothing_from_elsewhere(gateway: Gateway) -> None:
    page = gateway.get("/schema", role=None)
    assert page.headers["content-type"].startswith("text/html")
    assert "/api/v1/inference/predict" in page.text and "<script" not in page.text
    assert "http://" not in page.text and "https://" not in page.text
    assert gateway.get("/schema/openapi.yaml", role=None).text.startswith(("components:", "info:", "openapi:"))
    problem(gateway.get("/schema/nothing", role=None), 404, "not_found")


# --- threads and background work --------------------------------------------------------------------------------------


def test_a_full_line_refuses() -> None:
    async def main() -> None:
        pool, hold = Pool("the test", threads=1, waiting=1), threading.Event()
        held = [asyncio.create_task(pool.run(hold.wait, 10)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(errors.Unavailable, match="the test"):
            await pool.run(int)
        hold.set()
        assert await asyncio.gather(*held) == [True, True]
        assert await pool.run(lambda: threading.current_thread().name.startswith("the test"))
        pool.close()

    asyncio.run(main())


def test_at_most_two_passwords_are_hashed_at_once(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, now, most = threading.Lock(), 0, 0

    def slow(*_: object) -> bool:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        threading.Event().wait(0.05)
        with lock:
            now -= 1
        return False

    monkeypatch.setattr(passwords, "matches", slow)
    body = {"username": "eve", "password": "whatever"}
    threads = [
        threading.Thread(target=gateway.post, args=("/auth/login", None), kwargs={"json": body}) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert most == 2


def test_caches_follow_the_counters_by_themselves(gateway: Gateway) -> None:
    owner = accounts.by_name("a-engineer")
    assert owner is not None
    assert gateway.get("/auth/verify").json()["user"]["role"] == "engineer"
    accounts.change_user(owner[0].id, role="viewer")
    eventually(lambda: gateway.get("/auth/verify").json()["user"]["role"] == "viewer", within_s=5)


def test_a_dead_background_task_is_noticed(db_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class BrokenFeed(Feed):
        async def __anext__(self) -> Event | Resync:
            raise ZeroDivisionError

    context = context_at(tmp_path, FakeBroker(), BrokenFeed())

    async def main() -> None:
        async with context.running(), asyncio.timeout(5):
            await context.broken.wait()

    asyncio.run(main())
    assert "must be restarted" in caplog.text


def test_the_gateway_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    code = (
        "import sys, gateway.__main__; print(*{'numpy', 'onnx', 'PIL', 'onnxruntime', 'openvino'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""


def test_settings_reach_the_parts(db_file: Path, tmp_path: Path) -> None:
    context = context_at(tmp_path)
    assert context.models.root == settings_at(tmp_path).models
    assert context.reports.root == settings_at(tmp_path).reports
    connection.database.close()
