"""The service under load in a benchmark, through real processes: what is reported, what a death or an end leaves."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from tests.process.platform import Platform, running, settled, wait_for

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]

ORDER = {"engines": ["onnxruntime"], "precisions": ["fp32"], "batch_sizes": [1], "num_iterations": 10, "max_seconds": 1}
DRIVING_WITHIN_S = 90.0
"""The candidate is measured first."""


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with running(PREPARERS="1") as up:
        yield up


def order(admin: httpx.Client, model_id: str, **load: Any) -> str:
    """Order a benchmark that drives the service so; returns its path."""
    answer = admin.post("/benchmark", json={"model_id": model_id, **ORDER, "service_load": load})
    assert answer.status_code == 202, answer.text
    return f"/benchmark/{answer.json()['id']}"


def section(admin: httpx.Client, path: str) -> dict[str, Any]:
    """What the report says of the service."""
    assert settled(admin, path)["status"] == "completed"
    report_id = wait_for(lambda: admin.get(path).json().get("report_id"), 60, "the report")
    return dict(admin.get(f"/reports/{report_id}").raise_for_status().json()["service"])


def keys(platform: Platform) -> set[str]:
    """The keys of jobs that are in the database."""
    database = sqlite3.connect(f"file:{platform.data_dir}/db/cv-platform.db?mode=ro", uri=True, timeout=10)
    try:
        return {key for (key,) in database.execute("SELECT id FROM api_keys WHERE job_id IS NOT NULL")}
    finally:
        database.close()


def driven(platform: Platform) -> set[str]:
    """Wait for the load; the key it uses."""
    wait_for(lambda: platform.pids("benchmarker.driving"), DRIVING_WITHIN_S, "the load generator")
    found = keys(platform)
    assert len(found) == 1
    return found


def test_a_load_that_the_platform_carries_is_answered_whole(platform: Platform, admin: httpx.Client, digits: str):
    found = section(admin, order(admin, digits, users=3, arrival_rate=30.0, seconds=2))
    assert found["reason"] is None
    for loop in (found["closed"], found["open"]):
        assert loop["answered"] == loop["sent"] > 0
        assert loop["failures"] == []
        assert [each["engine"] for each in loop["served"]] == ["onnxruntime"] * len(loop["served"])
        assert loop["latency"]["n"] == loop["answered"]
    assert (found["source"], found["tls"]) == ("drawn images", False)
    assert not [said for said in found["conditions"] if "predictions" in said], "its own are told from those of others"
    wait_for(lambda: not keys(platform), 10, "the end of its key")


def test_a_gateway_that_dies_under_load_is_in_the_result(platform: Platform, admin: httpx.Client, digits: str):
    path = order(admin, digits, users=4, arrival_rate=30.0, seconds=5)
    wait_for(lambda: admin.get(path).json()["progress"].get("service") == "closed loop", DRIVING_WITHIN_S, "the load")
    for pid in platform.pids("gateway"):
        os.kill(pid, signal.SIGKILL)
    wait_for(platform.ready, 30, "a new gateway")
    found = section(admin, path)
    assert "no answer" in {failure["code"] for failure in found["closed"]["failures"]}
    assert found["closed"]["answered"] + found["open"]["answered"] > 0
    assert found["closed"]["sent"] == found["closed"]["answered"] + found["closed"]["failed"]


def test_a_cancelled_benchmark_takes_its_load_and_its_key_along(platform: Platform, admin: httpx.Client, digits: str):
    path = order(admin, digits, users=2, seconds=300)
    driven(platform)
    assert admin.post(f"{path}/cancel").status_code == 202
    assert settled(admin, path, 10)["status"] == "cancelled"
    wait_for(lambda: not platform.pids("benchmarker.driving"), 5, "the end of the load")
    wait_for(lambda: not keys(platform), 10, "the end of its key")


def test_no_key_outlives_a_killed_child_or_worker(platform: Platform, admin: httpx.Client, digits: str):
    path = order(admin, digits, users=2, seconds=300)
    first = driven(platform)
    platform.kill("benchmarker.child")
    wait_for(lambda: not platform.pids("benchmarker.driving"), 5, "the end of the load")
    wait_for(lambda: not first & keys(platform), 10, "the end of the first key")
    second = wait_for(lambda: keys(platform), 30, "the next attempt")
    child = wait_for(lambda: platform.pids("benchmarker.child"), 30, "its child")[0]
    psutil.Process(child).parent().kill()  # of the workers, the one that has the job
    wait_for(lambda: child not in platform.pids("benchmarker.child"), 10, "the end of the child")
    wait_for(lambda: not second & keys(platform), 30, "the end of the second key")
    admin.post(f"{path}/cancel")
    assert settled(admin, path, 30)["status"] in ("cancelled", "failed")
    wait_for(lambda: not keys(platform), 10, "the end of every key")
