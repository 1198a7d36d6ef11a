"""One search for a request id finds the request, its job, the job's process and the report made from it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.process.platform import Platform, settled, upload_digits, wait_for

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ORDER = {"engines": ["onnxruntime"], "batch_sizes": [1], "num_iterations": 50, "max_seconds": 2}


@pytest.fixture(scope="module")
def engineer(platform: Platform) -> Iterator[httpx.Client]:
    with platform.login() as client:
        yield client


def lines(platform: Platform) -> list[dict[str, Any]]:
    """Every line of every service's log; supervisord's own is no service's."""
    logs = [path for path in (platform.data_dir / "logs").glob("*.log*") if path.name != "supervisord.log"]
    assert len(logs) >= 6
    return [json.loads(line) for path in logs for line in path.read_text().splitlines()]


def test_a_request_is_followed_into_its_job_and_the_report(platform: Platform, engineer: httpx.Client) -> None:
    model_id = upload_digits(engineer)
    headers = {"X-Request-ID": "abc", "traceparent": TRACE}
    ordered = engineer.post("/benchmark", json={"model_id": model_id, **ORDER}, headers=headers)
    assert ordered.headers["x-request-id"] == ordered.json()["request_id"] == "abc"
    job_id = ordered.json()["id"]
    assert settled(engineer, f"/benchmark/{job_id}")["status"] == "completed"
    wait_for(lambda: engineer.get(f"/benchmark/{job_id}").json()["report_id"], 60, "the report")
    follow_ups = engineer.get("/jobs", params={"kind": "report", "status": "completed"}).json()["items"]
    assert [(each["parent_id"], each["request_id"]) for each in follow_ups] == [(job_id, "abc")]

    def found() -> dict[str, set[str]]:
        told: dict[str, set[str]] = {}
        for line in lines(platform):
            if line.get("request_id") == "abc":
                assert line["traceparent"] == TRACE
                told.setdefault(line["service"].partition("-")[0], set()).add(line.get("from", line["message"]))
        return told

    assert wait_for(lambda: len(found()) == 3 and "job ended" in found()["reporter"], what="the end of the report")
    assert found() == {
        "gateway": {"request"},
        "benchmarker": {"job started", "child", "job ended"},
        "reporter": {"job started", "child", "job ended"},
    }
    for each in (job_id, follow_ups[0]["id"]):
        log = engineer.get(f"/jobs/{each}/log").json()
        assert {log["request_id"], *(event["request_id"] for event in log["events"])} == {"abc"}
        assert log["attempts"][0]["lines"]


def test_a_job_nobody_named_has_the_id_its_request_was_given(platform: Platform, engineer: httpx.Client) -> None:
    """`cvp` names none, like most clients."""
    [check] = engineer.get("/jobs", params={"kind": "convert"}).json()["items"]
    assert check["request_id"].startswith("req_")
    [asked] = [line for line in lines(platform) if line.get("request_id") == check["request_id"] and "path" in line]
    assert (asked["action"], asked["user"]) == ("POST /api/v1/models", "admin")


def test_a_cancellation_is_the_event_of_another_request(engineer: httpx.Client) -> None:
    [model] = engineer.get("/models").json()["items"]
    order = {"model_id": model["id"], **ORDER, "num_iterations": 100_000, "max_seconds": 600}
    job_id = engineer.post("/benchmark", json=order, headers={"X-Request-ID": "made"}).json()["id"]
    engineer.post(f"/benchmark/{job_id}/cancel", headers={"X-Request-ID": "unmade"})
    settled(engineer, f"/benchmark/{job_id}")
    events = engineer.get(f"/jobs/{job_id}").json()["events"]
    assert events[0]["request_id"] == "made" and "unmade" in {event["request_id"] for event in events}


def test_every_line_of_every_log_is_json_after_a_crash_too(platform: Platform) -> None:
    crashed = platform.pids("inferencer")[0]
    os.kill(crashed, signal.SIGSEGV)
    wait_for(lambda: any("Segmentation fault" in line["message"] for line in lines(platform)), what="its last words")
    wait_for(lambda: crashed not in platform.pids("inferencer") and platform.ready(), 60, "its successor")
    told = lines(platform)
    assert {line["level"] for line in told if "Fatal Python error" in line["message"]} == {"fatal"}
    assert all({"time", "level", "service", "message"} <= line.keys() for line in told)
