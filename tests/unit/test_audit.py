"""The audit log: what is written down, how it survives a busy database and strangers, and who may read it."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from gateway import audit, passwords, throttle
from gateway.access import TABLE
from gateway.audit import Trail, worth_an_entry
from gateway.store import Store
from shared import clock, errors
from shared.db import accounts
from shared.db import audit as rows
from shared.db.tables import AuditEntry
from tests.unit.gateway_kit import (
    Gateway,
    context_at,
    fields_of,
    form,
    gateway_at,
    problem,
    ready_model,
)

PASSWORD = "correct horse"
PREDICT = "/api/v1/inference/predict"


@pytest.fixture
def gateway(running: Gateway) -> Gateway:
    running.reset()
    flush(running)
    AuditEntry.delete().execute()
    return running


def flush(gateway: Gateway) -> None:
    gateway.client.blocking_portal.call(gateway.context.trail.flush)


def entries(gateway: Gateway, query: str = "") -> list[dict[str, Any]]:
    """What an administrator reads, oldest first."""
    flush(gateway)
    answer = gateway.get(f"/audit{query}", role="admin")
    assert answer.status_code == 200, answer.text
    return list(reversed(answer.json()["items"]))


def told(gateway: Gateway, query: str = "") -> list[tuple[str | None, str, str, str]]:
    return [(item["username"], item["action"], item["resource"], item["result"]) for item in entries(gateway, query)]


def test_changes_and_reads_of_one_thing_are_written_down_and_lists_are_not(gateway: Gateway) -> None:
    answer = gateway.post("/models", **form({"name": "digits", "task_type": "classification"}))
    made = answer.json()["id"]
    gateway.get("/models")
    gateway.get("/health", role=None)
    gateway.get(f"/models/{made}")
    gateway.delete("/models/mdl_nothing")
    assert told(gateway) == [
        ("a-engineer", "POST /api/v1/models", made, "202"),
        ("a-engineer", "GET /api/v1/models/{model_id}", made, "200"),
        ("a-admin", "DELETE /api/v1/models/{model_id}", "mdl_nothing", "404"),
    ]
    first = entries(gateway)[0]
    assert first["request_id"] == answer.headers["x-request-id"]
    assert abs(clock.now_ms() - rows.listing(limit=1, cursor=None).rows[0].at_ms) < 60_000


def test_every_refusal_for_want_of_rights_is_written_down(gateway: Gateway) -> None:
    problem(gateway.get("/models", role="viewer"), 403, "forbidden")
    problem(gateway.get("/models", role=None), 401, "unauthorized")
    problem(gateway.post("/inference/predict", role=None), 401, "unauthorized")
    problem(gateway.get("/nowhere", role=None), 404, "not_found")
    assert told(gateway) == [
        ("a-viewer", "GET /api/v1/models", "", "403"),
        (None, "GET /api/v1/models", "", "401"),
        (None, f"POST {PREDICT}", "", "401"),
    ]


def test_sign_ins_name_the_user_but_never_what_was_typed(gateway: Gateway) -> None:
    ada = accounts.add_user("ada", passwords.hashed(PASSWORD), "viewer")
    for name, password in (("ada", PASSWORD), ("ada", "wrong"), ("my secret", "x")):
        gateway.post("/auth/login", role=None, json={"username": name, "password": password})
    login = "POST /api/v1/auth/login"
    assert told(gateway) == [("ada", login, "ada", "200"), ("ada", login, "ada", "401"), (None, login, "", "401")]
    assert "my secret" not in str(entries(gateway))
    assert told(gateway, f"?user={ada.id}") == told(gateway)[:2]


def test_sign_ins_that_only_wait_are_those_of_strangers(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "STRANGERS_BURST", 3)
    accounts.add_user("grace", passwords.hashed(PASSWORD), "viewer")
    for _ in range(throttle.FREE + 20):
        gateway.post("/auth/login", role=None, json={"username": "grace", "password": "wrong"})
    login = "POST /api/v1/auth/login"
    tried = [("grace", login, "grace", "401")] * throttle.FREE
    assert told(gateway) == [*tried, *[(None, login, "grace", "429")] * 3]


def test_what_a_call_made_is_named(gateway: Gateway) -> None:
    user = gateway.post("/users", "admin", json={"username": "bob", "password": PASSWORD, "role": "viewer"}).json()
    key = gateway.post("/auth/api-keys", json={"name": "ci"}).json()
    assert [item["resource"] for item in entries(gateway)] == [user["id"], key["id"]]
    assert key["key"] not in str(entries(gateway))


def test_predictions_are_counted_and_not_written_down(gateway: Gateway) -> None:
    model_id = ready_model(gateway)
    gateway.refresh()
    body = {"model_id": model_id, "inputs": [[[[0.0] * 8] * 8]]}
    assert gateway.post("/inference/predict", json=body).status_code == 200
    assert told(gateway) == []


@pytest.mark.parametrize(("method", "path"), sorted(TABLE))
def test_each_call_by_rule(method: str, path: str) -> None:
    expected = (method != "GET" or "{" in path) and path != PREDICT and not path.startswith("/v2")
    assert worth_an_entry(method, path, 200) == expected
    assert worth_an_entry(method, path, 401) and worth_an_entry(method, path, 403)
    assert not worth_an_entry("BREW", path, 405)


def test_the_log_in_pages_by_user_action_and_time(gateway: Gateway) -> None:
    for number in range(5):
        gateway.get(f"/jobs/job_{number}", role=("engineer", "admin")[number % 2])
    first = gateway.get("/audit?limit=2", role="admin")
    flush(gateway)
    first = gateway.get("/audit?limit=2", role="admin").json()
    rest = gateway.get(f"/audit?cursor={first['next_cursor']}", role="admin").json()
    assert [item["resource"] for item in first["items"] + rest["items"]] == [f"job_{n}" for n in (4, 3, 2, 1, 0)]
    assert rest["next_cursor"] is None
    by_action = told(gateway, "?action=GET /api/v1/jobs/{job_id}")
    assert len(by_action) == 5 and told(gateway, "?action=GET /api/v1/jobs") == []
    assert told(gateway, "?since=2999-01-01") == [] and len(told(gateway, "?since=2020-01-01T00:00:00Z")) == 5
    assert fields_of(gateway.get("/audit?since=yesterday", role="admin")) == {"since"}
    assert fields_of(gateway.get("/audit?cursor=usr_1", role="admin")) == {"cursor"}


def test_what_is_gathered_is_written_by_itself_and_at_the_end(db_file: Path, tmp_path: Path) -> None:
    with gateway_at(tmp_path) as running:
        running.delete("/models/mdl_1")
    assert [row.resource for row in rows.listing(limit=9, cursor=None).rows] == ["mdl_1"]


class Stubborn:
    """A store that refuses for a while."""

    def __init__(self) -> None:
        self.refuses, self.written = True, [0]

    async def write(self, _call: Any, some: list[rows.Entry]) -> None:
        if self.refuses:
            raise errors.Unavailable("locked")
        self.written.append(len(some))


def trail_and_store() -> tuple[Trail, Stubborn]:
    store = Stubborn()
    return Trail(cast(Store, store)), store


def test_a_busy_database_loses_nothing_until_the_bound_and_says_what_it_lost(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(audit, "GATHERED", 1200)
    trail, store = trail_and_store()

    async def main() -> None:
        for number in range(1203):
            trail.note("req", "usr_1", "POST /x", str(number), 200)
        await trail.flush()
        store.refuses = False
        await trail.flush()

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert store.written == [0, 500, 500, 200]
    assert [vars(record).get("entries") for record in caplog.records if "missing" in record.message] == [3]


def test_strangers_do_not_fill_the_disk_nor_hide_each_other_or_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "STRANGERS_PER_S", 0.0)
    trail, store = trail_and_store()
    store.refuses = False
    for _ in range(audit.STRANGERS_BURST + 50):
        trail.note("req", None, "GET /a", "", 401)
    trail.note("req", None, "GET /b", "", 401)
    trail.note("req", "usr_1", "GET /a", "", 403)
    assert trail.dropped == 50
    asyncio.run(trail.flush())
    assert store.written == [0, audit.STRANGERS_BURST + 2]


def test_an_open_gateway_writes_without_being_asked(db_file: Path, tmp_path: Path) -> None:
    context = context_at(tmp_path)

    async def main() -> None:
        async with context.running(), asyncio.timeout(10):
            context.trail.note("req", None, "POST /x", "", 200)
            while not await context.store.read(lambda: rows.listing(limit=1, cursor=None).rows):
                await asyncio.sleep(0.02)

    asyncio.run(main())


def test_an_orderly_stop_writes_everything_even_what_it_interrupts(db_file: Path, tmp_path: Path) -> None:
    context = context_at(tmp_path)

    async def main() -> None:
        async with context.running(), asyncio.timeout(20):
            context.trail.note("req", None, "POST /x", "before", 200)
            blocked = threading.Event()
            busy = asyncio.create_task(context.store.write(blocked.wait, 10))
            while context.trail._waiting:  # taken by the writer, which has to wait in line
                await asyncio.sleep(0.01)
            context.trail.note("req", None, "POST /x", "after", 200)
            asyncio.get_running_loop().call_later(0.2, blocked.set)
        await busy

    asyncio.run(main())
    assert [row.resource for row in AuditEntry.select().order_by(AuditEntry.id)] == ["before", "after"]
