"""A disk that takes no more: a plain refusal, nothing half written, and everything goes on once there is room."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.invariants import violations
from shared import config, errors
from shared.artifacts import ArtifactStore
from shared.db import connection, jobs, tables
from shared.db.accounts import Account
from shared.specs import ConvertSpec
from tests.process.platform import wait_for
from tests.process.test_failpoints import Caller, Start, add_models, caller, settings, settled, start

__all__ = ["caller", "settings", "start"]

pytestmark = pytest.mark.process

BIG = bytes(200_000)


@contextmanager
def full_disk(pid: int = 0) -> Iterator[None]:
    """No file of the process may grow beyond 4 KB: what a full disk is to a writer, without one."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_file_that_does_not_fit_leaves_nothing_behind(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    with full_disk(), pytest.raises(errors.Unavailable, match="cannot be stored"):
        store.put(BIG)
    assert files(tmp_path) == []
    assert store.path(store.put(BIG).sha256).read_bytes() == BIG


def test_a_folder_that_cannot_be_made_is_told_plainly(tmp_path: Path):
    (tmp_path / "store").write_text("a file where the folder should be")
    with pytest.raises(errors.Unavailable, match="cannot be stored"):
        ArtifactStore(tmp_path / "store").put(b"x")


def test_an_upload_is_refused_while_the_disk_is_full(settings: config.Settings, caller: Caller, start: Start):
    gateway = start("gateway")
    wait_for(caller.up, 30, "the gateway")
    with full_disk(gateway.pid):
        refused = caller.upload("digits")
    assert refused.status_code == 503
    assert refused.headers["Retry-After"]
    assert refused.headers["Content-Type"].startswith("application/problem+json")
    assert files(settings.models) == []
    assert tables.Job.select().count() == 0
    taken = caller.upload("digits")
    assert taken.status_code == 202, "the key of the refused upload is free again"
    start("tests.process.preparer_that", "serve")
    wait_for(settled, 30, "the end of all jobs")
    assert violations(settings, [taken.json()["id"]]) == []


def test_a_result_that_does_not_fit_fails_the_job_with_the_reason(
    settings: config.Settings, admin: Account, start: Start
):
    (settings.reports / "staging").write_text("a file where the folder should be")
    models = add_models(settings, admin, 1)
    start("tests.process.preparer_that", "serve")
    wait_for(settled, 30, "the end of all jobs")
    (job,) = tables.Job.select()
    assert (job.status, job.attempt) == ("failed", 3), "it was tried again: room may be made"
    assert "cannot be stored" in job.error
    (settings.reports / "staging").unlink()
    assert violations(settings, models) == []


def test_a_database_that_cannot_grow_refuses_and_goes_on_later(admin: Account):
    def order() -> str:
        with connection.write(durable=True):
            return jobs.insert("convert", ConvertSpec(model_id="m" * 10_000), user_id=admin.id)

    with full_disk(), pytest.raises(errors.Unavailable, match="database"):
        order()
    assert tables.Job.select().count() == 0
    assert jobs.find(order()).status == "queued"
    assert connection.database.execute_sql("PRAGMA integrity_check").fetchall() == [("ok",)]
