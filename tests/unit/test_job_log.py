"""What a job shows its user: the lines its processes wrote, also in the log under its id, and what it waits for."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from shared import clock, errors, log
from shared.db import accounts, connection, jobs
from shared.log import JsonLines
from shared.specs import ConvertSpec
from shared.worker import LOG_LINES, LOGGED_BYTES, _Log
from tests.unit.gateway_kit import Gateway, fresh_gateway_at, new_key, problem


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with fresh_gateway_at(tmp_path_factory.mktemp("gateway")) as gateway:
        gateway.keys["other engineer"] = new_key("another", "engineer")
        yield gateway


@pytest.fixture
def gateway(running: Gateway) -> Gateway:
    running.reset()
    return running


@pytest.fixture
def job(gateway: Gateway) -> jobs.Claimed:
    """A running job of `a-engineer`."""
    owner = accounts.by_name("a-engineer")
    assert owner is not None
    with connection.write():
        job_id = jobs.insert("convert", ConvertSpec(model_id="mdl_1"), user_id=owner[0].id)
    claimed = jobs.claim("cpu", "preparer", clock.now_ms(), job_id)
    assert claimed is not None
    return claimed


def test_what_is_bound_stands_in_every_line_of_the_block(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    write = JsonLines("w").format
    with log.bound(job_id="job_1", request_id="abc", traceparent=None):
        logging.getLogger("some.library").info("100 %% of 5 %s", "x")
        with log.bound(attempt=1):
            inner = json.loads(write(caplog.records[0]))
        outer = json.loads(write(caplog.records[0]))
    assert inner == outer | {"attempt": 1}
    assert outer["message"] == "100 % of 5 x"
    assert (outer["job_id"], outer["request_id"]) == ("job_1", "abc") and "traceparent" not in outer
    assert "job_id" not in json.loads(write(caplog.records[0]))


def test_each_attempt_keeps_its_last_lines(gateway: Gateway, job: jobs.Claimed) -> None:
    said = _Log(job)
    for number in range(LOG_LINES + 5):
        said.line("info", f"line {number}")
    said.keep()
    jobs.put_back(job, "the worker was stopped")
    told = gateway.get(f"/jobs/{job.id}/log").json()
    [attempt] = told["attempts"]
    assert attempt["attempt"] == 1
    assert (attempt["lines"][0], attempt["lines"][-1]) == ("line 5", f"line {LOG_LINES + 4}")
    assert [event["event"] for event in told["events"]] == ["queued", "started", "put back"]
    assert told["events"] == gateway.get(f"/jobs/{job.id}").json()["events"], "lines are no events"


def test_a_child_that_prints_without_end_fills_no_log(job: jobs.Claimed, caplog: pytest.LogCaptureFixture) -> None:
    said = _Log(job)
    for number in range(3000):
        said.line("error", f"{number}: {'x' * 1000}")
    assert sum(len(record.message) for record in caplog.records) < LOGGED_BYTES
    assert "the rest is left out" in caplog.records[-1].message
    said.keep()
    assert "\n2999: x" in jobs.logs(job.id)[-1].detail, "its user still sees the end"


def test_a_long_log_is_cut_at_its_beginning(job: jobs.Claimed) -> None:
    jobs.keep_log(job, "x" * jobs.LOG_CHARACTERS + "the end")
    [kept] = jobs.logs(job.id)
    assert len(kept.detail) == jobs.LOG_CHARACTERS and kept.detail.endswith("the end")


def test_a_silent_child_leaves_no_row(job: jobs.Claimed) -> None:
    _Log(job).keep()
    assert jobs.logs(job.id) == []


def test_a_log_that_cannot_be_stored_costs_nothing_else(
    job: jobs.Claimed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def locked(*_: object) -> None:
        raise errors.Unavailable("The database is locked.")

    monkeypatch.setattr(jobs, "keep_log", locked)
    said = _Log(job)
    said.line("info", "something")
    said.keep()
    assert "was not stored" in caplog.text


def test_a_log_is_for_its_owner_and_for_administrators(gateway: Gateway, job: jobs.Claimed) -> None:
    assert gateway.get(f"/jobs/{job.id}/log", role="engineer").status_code == 200
    assert gateway.get(f"/jobs/{job.id}/log", role="admin").status_code == 200
    problem(gateway.get(f"/jobs/{job.id}/log", role="other engineer"), 403, "forbidden")
    problem(gateway.get("/jobs/job_1/log"), 404, "not_found")


def test_a_queued_job_says_which_job_it_waits_for(gateway: Gateway, job: jobs.Claimed) -> None:
    with connection.write():
        second = jobs.insert("convert", ConvertSpec(model_id="mdl_2"), user_id=job.created_by)
    gateway.context.caches._waits_s = float("-inf")
    assert gateway.get(f"/jobs/{second}").json()["waiting_for"] == job.id
    listed = {item["id"]: item["waiting_for"] for item in gateway.get("/jobs").json()["items"]}
    assert listed == {second: job.id, job.id: None}
