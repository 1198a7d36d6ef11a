"""What a job shows its user: the lines its processes wrote, also in the log under its id, and what it waits for."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from shared import clock, errors
from shared.db import accounts, connection, jobs
from shared.specs import ConvertSpec
from shared.worker import LOG_LINES, _Log
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


def test_lines_of_a_child_carry_the_job_in_the_log(job: jobs.Claimed, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "shared.worker")
    _Log(job).line("100 % of 5 %s")
    [record] = caplog.records
    assert record.getMessage() == "100 % of 5 %s"
    assert vars(record) | {"job_id": job.id, "attempt": 1} == vars(record)


def test_each_attempt_keeps_its_last_lines(gateway: Gateway, job: jobs.Claimed) -> None:
    log = _Log(job)
    for number in range(LOG_LINES + 5):
        log.line(f"line {number}")
    log.keep()
    jobs.put_back(job)
    told = gateway.get(f"/jobs/{job.id}/log").json()
    [attempt] = told["attempts"]
    assert attempt["attempt"] == 1
    assert (attempt["lines"][0], attempt["lines"][-1]) == ("line 5", f"line {LOG_LINES + 4}")
    assert [event["event"] for event in told["events"]] == ["queued", "started", "put back"]
    assert told["events"] == gateway.get(f"/jobs/{job.id}").json()["events"], "lines are no events"


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
    log = _Log(job)
    log.line("something")
    log.keep()
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
