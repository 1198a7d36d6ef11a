"""Ordering benchmarks, following and cancelling them, and reading their reports."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from shared import clock
from shared.db import benchmarks, connection, jobs, registry
from shared.db.tables import Benchmark, BenchmarkResult, Idempotency, Job, NoiseFloorRow, Report
from shared.machine import system_info
from shared.specs import NoiseFloor, ReportSpec
from shared.verdict.report import build, canonical
from tests.unit.gateway_kit import Gateway, fields_of, problem, ready_model
from tests.unit.measurements import measurement_set

RECORD = b'{"schema":"cvp.report/1"}'


@pytest.fixture
def model_id(gateway: Gateway) -> str:
    return ready_model(gateway)


def order(gateway: Gateway, model_id: str, role: str = "engineer", **spec: Any) -> dict[str, Any]:
    response = gateway.post("/benchmark", role, json={"model_id": model_id} | spec)
    assert response.status_code == 202, response.text
    return response.json()


def test_an_order_becomes_a_queued_job(gateway: Gateway, model_id: str) -> None:
    constraint = {"metric": "latency_p95_ms", "op": "<=", "value": 5}
    response = gateway.post("/benchmark", json={"model_id": model_id, "constraints": [constraint]})
    made = response.json()
    assert response.headers["location"] == f"/api/v1/benchmark/{made['id']}"
    assert (made["status"], made["model_id"], made["report_id"]) == ("queued", model_id, None)
    assert made["config"]["constraints"] == [constraint | {"value": 5.0}]
    assert made["config"]["num_iterations"] == 700
    assert gateway.get(f"/benchmark/{made['id']}").json() == made
    assert gateway.broker.rung == ["accelerator"]
    job = gateway.get(f"/jobs/{made['id']}").json()
    assert (job["kind"], job["lane"], [event["event"] for event in job["events"]]) == (
        "benchmark",
        "accelerator",
        ["queued"],
    )
    assert jobs.find(made["id"]).isolation == "exclusive"
    assert Benchmark.get_by_id(made["id"]).model_id == model_id


def test_the_more_urgent_order_goes_first(gateway: Gateway, model_id: str) -> None:
    asked = {"model_id": model_id, "isolation": "shared"}
    made = {rank: gateway.post("/benchmark", json=asked | {"priority": rank}).json()["id"] for rank in (-1, 0, 1)}
    assert gateway.get(f"/jobs/{made[1]}").json()["priority"] == 1
    ticket = jobs.peek("accelerator", clock.now_ms())
    assert ticket is not None and ticket.id == made[1]
    assert fields_of(gateway.post("/benchmark", json=asked | {"priority": 101})) == {"priority"}


def test_a_full_job_queue_takes_no_order(gateway: Gateway, model_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = Job.select().count()
    insert = jobs.insert
    monkeypatch.setattr(jobs, "insert", lambda *args, **options: insert(*args, **options | {"limit": 0}))
    refused = gateway.post("/benchmark", json={"model_id": model_id})
    problem(refused, 429, "queue_full")
    assert refused.headers["retry-after"] == "30"
    assert Job.select().count() == waiting


@pytest.mark.parametrize(
    ("spec", "wrong"),
    [
        ({"batch_sizes": [1, 0]}, {"batch_sizes[1]"}),
        ({"batch_sizes": ["8"]}, {"batch_sizes[0]"}),
        ({"batch_sizes": [True]}, {"batch_sizes[0]"}),
        ({"batch_sizes": []}, {"batch_sizes"}),
        ({"constraints": [{"metric": "speed", "op": "<=", "value": 1}]}, {"constraints[0].metric"}),
        ({"constraints": [{"metric": "accuracy", "op": "=", "value": 1}]}, {"constraints[0].op"}),
        ({"constraints": [{"metric": "accuracy", "op": "<"}]}, {"constraints[0].value"}),
        ({"engines": ["triton"], "objective": "fame", "seed": -1}, {"engines[0]", "objective", "seed"}),
        ({"num_iteration": 5, "owner": "me"}, {"num_iteration", "owner"}),
        ({"model_id": 7}, {"model_id"}),
        ({"max_seconds": 1e400}, {"max_seconds"}),
    ],
)
def test_what_is_wrong_is_said_field_by_field(gateway: Gateway, spec: dict[str, Any], wrong: set[str]) -> None:
    body = json.dumps({"model_id": "mdl_1"} | spec).replace("Infinity", "1e400")
    response = gateway.post("/benchmark", content=body, headers={"content-type": "application/json"})
    assert fields_of(response) == wrong
    assert Job.select().count() == 0


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"{", "application/json", 422, "invalid"),
        (b"", "application/json", 422, "invalid"),
        (b"[]", "application/json", 422, "invalid"),
        (b"null", "application/json", 422, "invalid"),
        (b'"\xff"', "application/json", 422, "invalid"),
        (b'{"model_id": ' + b"[" * 200_000, "application/json", 422, "invalid"),
        (b'{"x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "application/json", 422, "invalid"),
        (b"{}", "text/plain", 415, "unsupported_media"),
        (b"model_id=1", "application/x-www-form-urlencoded", 415, "unsupported_media"),
        (b" " * (2**20 + 1), "application/json", 413, "too_large"),
    ],
)
def test_bodies_that_are_no_order(gateway: Gateway, body: bytes, content_type: str, status: int, code: str) -> None:
    problem(gateway.post("/benchmark", content=body, headers={"content-type": content_type}), status, code)


def test_the_model_must_be_there_and_ready(gateway: Gateway, model_id: str) -> None:
    problem(gateway.post("/benchmark", json={"model_id": "mdl_unknown"}), 404, "not_found")
    with connection.write():
        waiting = registry.add_model(
            gateway.context.models.put(b"\x08"),
            gateway.get("/auth/verify").json()["user"]["id"],
            name="a",
            framework="onnx",
            task_type="detection",
        )
    problem(gateway.post("/benchmark", json={"model_id": waiting}), 409, "conflict")
    assert Job.select().count() == 0


def test_idempotency(gateway: Gateway, model_id: str) -> None:
    key = {"Idempotency-Key": "first"}
    first, again = (gateway.post("/benchmark", headers=key, json={"model_id": model_id}) for _ in range(2))
    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["location"] == first.headers["location"]
    assert Job.select().count() == 1
    problem(gateway.post("/benchmark", headers=key, json={"model_id": model_id, "seed": 1}), 409, "conflict")
    Idempotency.update(created_at_ms=0).execute()
    assert gateway.post("/benchmark", headers=key, json={"model_id": model_id}).json()["id"] != first.json()["id"]
    for bad in ("", "a" * 201, "a\tb"):
        refused = gateway.post("/benchmark", headers={"Idempotency-Key": bad}, json={"model_id": model_id})
        assert refused.status_code == 422


def test_an_order_says_what_counts_as_noise_on_this_machine(gateway: Gateway) -> None:
    model_id = ready_model(gateway)
    ordered = order(gateway, model_id)
    assert ordered["noise_floor"] is None
    here, elsewhere = system_info().fingerprint, "other"
    for fingerprint, value in ((here, 0.031), (elsewhere, 0.2)):
        noise = NoiseFloor(
            value=value, runs=10, measured_at="2026-01-31T12:00:00Z", fingerprint=fingerprint, benchmark_id="job_1"
        )
        with connection.write():
            benchmarks.remember_noise_floor(noise)
    path = f"/benchmark/{ordered['id']}"
    assert gateway.get(path).json()["noise_floor"] == {
        "value": 0.031,
        "runs": 10,
        "measured_at": "2026-01-31T12:00:00Z",
        "fingerprint": here,
        "benchmark_id": "job_1",
    }
    assert "noise_floor" not in gateway.get("/benchmark").json()["items"][0]
    assert "noise_floor" not in gateway.post(f"{path}/cancel").json(), "its report says what it went by"
    with connection.write():
        NoiseFloorRow.delete().execute()


def test_a_refused_order_is_not_remembered(gateway: Gateway) -> None:
    key = {"Idempotency-Key": "first"}
    problem(gateway.post("/benchmark", headers=key, json={"model_id": "mdl_1"}), 404, "not_found")
    assert gateway.post("/benchmark", headers=key, json={"model_id": ready_model(gateway)}).status_code == 202


def test_cancelling(gateway: Gateway, model_id: str) -> None:
    mine, running, theirs = (
        order(gateway, model_id)["id"],
        order(gateway, model_id)["id"],
        order(gateway, model_id, "admin")["id"],
    )
    Job.update(status="running", worker="benchmarker-0", attempt=1).where(Job.id == running).execute()
    cancelled = gateway.post(f"/benchmark/{mine}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (202, "cancelled")
    assert gateway.broker.published[-1][0] == f"job.{mine}"
    assert gateway.broker.published[-1][1]["status"] == "cancelled"
    asked = gateway.post(f"/benchmark/{running}/cancel").json()
    assert (asked["status"], asked["cancel_requested"]) == ("running", True)
    again = problem(gateway.post(f"/benchmark/{mine}/cancel"), 409, "conflict")["detail"]
    assert again == f"Job {mine} cannot be cancelled: it is cancelled already."
    problem(gateway.post(f"/benchmark/{theirs}/cancel"), 403, "forbidden")
    problem(gateway.post("/benchmark/job_1/cancel"), 404, "not_found")
    assert gateway.post(f"/benchmark/{theirs}/cancel", "admin").json()["status"] == "cancelled"


def test_lists_and_filters(gateway: Gateway, model_id: str) -> None:
    other = ready_model(gateway, "other", b"\x08other")
    first, second, third = (order(gateway, which)["id"] for which in (model_id, other, model_id))
    assert [item["id"] for item in gateway.get("/benchmark").json()["items"]] == [third, second, first]
    assert [item["id"] for item in gateway.get(f"/benchmark?model_id={other}").json()["items"]] == [second]
    assert gateway.get("/benchmark?status=running").json()["items"] == []
    assert [item["id"] for item in gateway.get("/jobs?kind=benchmark&limit=1").json()["items"]] == [third]
    assert gateway.get("/jobs?kind=convert").json()["items"] == []
    assert fields_of(gateway.get("/benchmark?format=xml")) == {"format"}
    problem(gateway.get("/benchmark/job_1"), 404, "not_found")
    problem(gateway.get("/jobs/job_1"), 404, "not_found")


def test_the_history_as_a_table(gateway: Gateway) -> None:
    model_id = ready_model(gateway, name="=HYPERLINK(1)")
    measured, waiting = order(gateway, model_id)["id"], order(gateway, model_id)["id"]
    for batch_size in (1, 8):
        BenchmarkResult.insert(
            benchmark_id=measured,
            engine="openvino",
            precision="fp32",
            batch_size=batch_size,
            threads=2,
            instances=1,
            status="measured",
            latency_p95_ms=1.5,
        ).execute()
    response = gateway.get("/benchmark?format=csv")
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert [row["benchmark_id"] for row in rows] == [waiting, measured, measured]
    assert [row["batch_size"] for row in rows] == ["", "1", "8"]
    assert rows[1]["latency_p95_ms"] == "1.5" and rows[0]["status"] == "" and rows[0]["benchmark_status"] == "queued"
    assert rows[0]["model_name"] == "'=HYPERLINK(1)", "a spreadsheet must not run it"


@pytest.fixture
def report_id(gateway: Gateway, model_id: str) -> str:
    benchmark_id = order(gateway, model_id)["id"]
    names = (
        "technical.json",
        "technical.html",
        "simple.html",
        "history.html",
        "report.html",
        "report.pdf",
        "report.csv",
    )
    files = {name: gateway.context.reports.put(name.encode()).sha256 for name in names}
    files["report.json"] = gateway.context.reports.put(RECORD).sha256
    Report.insert(
        id="rep_1",
        benchmark_id=benchmark_id,
        model_id=model_id,
        selected_engine="openvino",
        content_sha256="0" * 64,
        files=files,
        created_at_ms=0,
    ).execute()
    return "rep_1"


def test_reports(gateway: Gateway, report_id: str) -> None:
    [listed] = gateway.get("/reports").json()["items"]
    assert (listed["id"], listed["selected_engine"]) == (report_id, "openvino")
    assert listed["formats"] == ["pdf", "html", "json", "csv"]
    assert listed["created_at"] == "1970-01-01T00:00:00.000Z"
    assert gateway.get(f"/reports/{report_id}").content == RECORD
    assert gateway.get(f"/benchmark/{listed['benchmark_id']}/report").content == RECORD
    assert gateway.get(f"/benchmark/{listed['benchmark_id']}").json()["report"] == {"status": "completed"}
    assert gateway.get(f"/benchmark/{listed['benchmark_id']}").json()["report_id"] == report_id
    assert gateway.get("/reports?model_id=none").json()["items"] == []
    assert gateway.get(f"/reports?benchmark_id={listed['benchmark_id']}").json()["items"] == [listed]
    problem(gateway.get("/reports/rep_2"), 404, "not_found")


def test_the_history_of_a_model_has_what_was_chosen_and_how_it_did(gateway: Gateway, report_id: str) -> None:
    model_id = Report.get_by_id(report_id).model_id
    [line] = gateway.get(f"/reports/history?model_id={model_id}").json()["items"]
    assert (line["report_id"], line["selected"], line["figures"]) == (report_id, None, {}), "no such record"
    measurements = measurement_set(conditions=["Other processes used 1.2 cores."])
    kept = gateway.context.reports.put(canonical(build(measurements, report_id)))
    Report.update(files={"report.json": kept.sha256}).execute()
    [line] = gateway.get(f"/reports/history?model_id={model_id}").json()["items"]
    assert line["selected"]["engine"] == "onnxruntime"
    assert (line["objective"], line["fragile"], line["num_measured"]) == ("latency", False, 4)
    assert line["measured_at"] == measurements.created_at
    assert set(line["figures"]) == {"latency_p50_ms", "latency_p95_ms", "throughput_fps", "memory_mb"}
    assert line["figures"]["latency_p95_ms"]["low"] < line["figures"]["latency_p95_ms"]["value"]
    assert gateway.get("/reports/history?model_id=mdl_none").json() == {"items": [], "next_cursor": None}
    assert "model_id" in problem(gateway.get("/reports/history"), 422, "invalid")["detail"]


def test_the_measurements_of_a_report_can_be_fetched(gateway: Gateway, report_id: str) -> None:
    detail = problem(gateway.get(f"/reports/{report_id}/export?format=measurements"), 404, "not_found")["detail"]
    assert "gone" in detail
    stored = gateway.context.reports.put(b'{"schema":"cvp.measurements/2"}')
    with connection.write():
        registry.keep_artifact(stored, "reports")
        Benchmark.update(measurements_sha256=stored.sha256).execute()
    response = gateway.get(f"/reports/{report_id}/export?format=measurements")
    assert response.content == b'{"schema":"cvp.measurements/2"}'
    assert response.headers["content-type"] == "application/json"
    assert 'filename="rep_1-measurements.json"' in response.headers["content-disposition"]


def test_a_benchmark_without_report(gateway: Gateway, model_id: str) -> None:
    detail = problem(gateway.get(f"/benchmark/{order(gateway, model_id)['id']}/report"), 404, "not_found")["detail"]
    assert "queued" in detail
    problem(gateway.post("/benchmark/job_1/report"), 404, "not_found")


def test_what_has_a_report_or_measured_nothing_gets_none_written(
    gateway: Gateway, model_id: str, report_id: str
) -> None:
    written = Report.get_by_id(report_id).benchmark_id
    Job.update(status="completed", finished_at_ms=1).where(Job.id == written).execute()
    assert "is completed" in problem(gateway.post(f"/benchmark/{written}/report"), 409, "conflict")["detail"]
    waiting = order(gateway, model_id)["id"]
    assert "is queued" in problem(gateway.post(f"/benchmark/{waiting}/report"), 409, "conflict")["detail"]


@pytest.mark.parametrize(
    ("status", "error", "told"),
    [
        ("queued", None, {"status": "queued"}),
        ("running", None, {"status": "running"}),
        ("failed", "No font.", {"status": "failed", "error": "No font."}),
        ("cancelled", None, {"status": "cancelled"}),
    ],
)
def test_a_client_never_waits_in_vain_for_a_report(
    gateway: Gateway, model_id: str, status: str, error: str | None, told: dict[str, str]
) -> None:
    measured = order(gateway, model_id)
    assert measured["report"] is None
    with connection.write():
        report_job = jobs.insert("report", ReportSpec(benchmark_id=measured["id"]), user_id=measured["created_by"])
        Job.update(status="completed", finished_at_ms=1).where(Job.id == measured["id"]).execute()
        Job.update(
            status=status,
            error=error,
            parent_id=measured["id"],
            attempt=1,
            worker="reporter" if status == "running" else None,
            finished_at_ms=1 if status in ("failed", "cancelled") else None,
        ).where(Job.id == report_job).execute()
    shown = gateway.get(f"/benchmark/{measured['id']}").json()
    assert (shown["status"], shown["report_id"], shown["report"]) == ("completed", None, told)
    assert gateway.get("/benchmark").json()["items"][0]["report"] == told
    detail = problem(gateway.get(f"/benchmark/{measured['id']}/report"), 404, "not_found")["detail"]
    assert ("No font." if error else status) in detail
    again = gateway.post(f"/benchmark/{measured['id']}/report")
    if status in ("queued", "running"):
        assert f"is {status}" in problem(again, 409, "conflict")["detail"]
        return
    assert (again.status_code, again.json()["report"]) == (202, {"status": "queued"})
    assert gateway.broker.rung[-1] == "report"
    job = Job.select().order_by(Job.created_at_ms.desc(), Job.id.desc()).first()
    assert (job.kind, job.parent_id, job.spec) == ("report", measured["id"], {"benchmark_id": measured["id"]})


@pytest.mark.parametrize(
    ("query", "accept", "content", "media_type"),
    [
        ("", "*/*", b"technical.json", "application/json"),
        ("", "text/html,application/xhtml+xml,*/*;q=0.8", b"technical.html", "text/html; charset=utf-8"),
        ("?level=simple", "text/html", b"simple.html", "text/html; charset=utf-8"),
        ("?level=technical", "application/json", b"technical.json", "application/json"),
        ("?level=technical", "image/gif", b"technical.json", "application/json"),
        ("?level=history", "application/json", b"history.html", "text/html; charset=utf-8"),
    ],
)
def test_views(gateway: Gateway, report_id: str, query: str, accept: str, content: bytes, media_type: str) -> None:
    response = gateway.get(f"/reports/{report_id}/view{query}", headers={"Accept": accept})
    assert (response.content, response.headers["content-type"]) == (content, media_type)
    assert response.headers["content-disposition"].startswith("inline")
    assert "script" not in response.headers["content-security-policy"]
    assert response.headers["content-security-policy"].startswith("default-src 'none'")


@pytest.mark.parametrize("kind", ["pdf", "html", "json", "csv"])
def test_exports(gateway: Gateway, report_id: str, kind: str) -> None:
    response = gateway.get(f"/reports/{report_id}/export?format={kind}")
    assert response.content == (RECORD if kind == "json" else f"report.{kind}".encode())
    assert response.headers["content-disposition"] == f'attachment; filename="{report_id}-report.{kind}"'


def test_what_a_report_does_not_have(gateway: Gateway, report_id: str) -> None:
    assert (
        "technical.json" in problem(gateway.get(f"/reports/{report_id}/view?level=simple"), 404, "not_found")["detail"]
    )
    assert fields_of(gateway.get(f"/reports/{report_id}/view?level=poetic")) == {"level"}
    assert fields_of(gateway.get(f"/reports/{report_id}/export?format=docx")) == {"format"}
