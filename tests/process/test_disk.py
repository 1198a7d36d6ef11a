"""A disk that takes no more, or turns read-only: a plain refusal, nothing half written, and it goes on by itself.

Folders of artifacts are really read-only: a file system of their own is remounted, or, for a user who may not mount,
the permission bits that bind him. Under an open database no mount can be made read-only by request; what a failing
disk does there (every write is refused, reads go on) is done with a limit on the process: SQLite meets the same error.
"""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
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
from tests.process.test_failpoints import (
    Caller,
    Start,
    add_models,
    add_ready_model,
    caller,
    cvp,
    settings,
    settled,
    start,
)

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


@contextmanager
def own_disk(folder: Path) -> Iterator[Callable[[str], None]]:
    """Puts a file system of its own at a folder; what it gives makes that `ro` or `rw`."""
    if os.geteuid() != 0:
        yield lambda mode: folder.chmod(0o500 if mode == "ro" else 0o700)
        folder.chmod(0o700)
        return
    if subprocess.run(["mount", "-t", "tmpfs", "cvp-test", str(folder)], check=False).returncode != 0:
        pytest.skip("root without the right to mount: nothing can be made read-only")
    try:
        yield lambda mode: subprocess.run(["mount", "-o", f"remount,{mode}", str(folder)], check=True) and None
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


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
    settings: config.Settings, owner: Account, start: Start
):
    (settings.reports / "staging").write_text("a file where the folder should be")
    models = add_models(settings, owner, 1)
    start("tests.process.preparer_that", "serve")
    wait_for(settled, 30, "the end of all jobs")
    (job,) = tables.Job.select()
    assert (job.status, job.attempt) == ("failed", 3), "it was tried again: room may be made"
    assert "cannot be stored" in job.error
    (settings.reports / "staging").unlink()
    assert violations(settings, models) == []


def test_a_database_that_cannot_grow_refuses_and_goes_on_later(owner: Account):
    def order() -> str:
        with connection.write(durable=True):
            return jobs.insert("convert", ConvertSpec(model_id="m" * 10_000), user_id=owner.id)

    with full_disk(), pytest.raises(errors.Unavailable, match="database"):
        order()
    assert tables.Job.select().count() == 0
    assert jobs.find(order()).status == "queued"
    assert connection.database.execute_sql("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_models_on_a_disk_that_turns_read_only_are_refused_until_it_is_writable_again(
    settings: config.Settings, caller: Caller, start: Start
):
    with own_disk(settings.models) as turn:
        start("gateway")
        start("tests.process.preparer_that", "serve")
        wait_for(caller.up, 30, "the gateway")
        first = caller.upload("before", "first").json()["id"]
        wait_for(settled, 30, "its check")
        before = files(settings.models)
        turn("ro")
        refused = caller.upload("digits")
        assert (refused.status_code, bool(refused.headers["Retry-After"])) == (503, True)
        assert "cannot be stored" in refused.json()["detail"]
        assert caller.part("disk") == "down"
        wait_for(lambda: "DiskReadOnly" in caller.alerts(), 20, "the alert")
        assert files(settings.models) == before
        turn("rw")
        assert caller.part("disk") != "down"
        taken = caller.upload("digits")
        assert taken.status_code == 202
        wait_for(settled, 30, "the end of all jobs")
        assert violations(settings, [first, taken.json()["id"]]) == []


def test_a_database_that_cannot_be_written_is_read_and_goes_on_later(
    settings: config.Settings, owner: Account, caller: Caller, start: Start
):
    model_id = add_ready_model(settings, owner)
    gateway, worker = start("gateway"), start("tests.process.preparer_that", "serve")
    wait_for(caller.up, 30, "the gateway")
    wait_for(settled, 30, "an idle worker")
    with full_disk(gateway.pid), full_disk(worker.pid):
        refused = caller.benchmark(model_id)
        assert (refused.status_code, bool(refused.headers["Retry-After"])) == (503, True)
        assert "database" in refused.json()["detail"]
        assert caller.models().status_code == 200
        assert caller.part("database") == "degraded"
        with connection.write():
            waits = jobs.insert("convert", ConvertSpec(model_id=model_id), user_id=owner.id)
        log = settings.logs / "tests.process.preparer_that.log"
        wait_for(lambda: "the database cannot be used" in log.read_text(), 30, "a claim that is refused")
        assert (jobs.find(waits).status, jobs.find(waits).attempt) == ("queued", 0)
    taken = caller.benchmark(model_id)
    assert taken.status_code == 202
    assert caller.cancel(taken.json()["id"]).status_code == 202
    wait_for(settled, 30, "the end of all jobs")
    assert (jobs.find(waits).status, jobs.find(waits).attempt) == ("completed", 1)
    assert violations(settings, [taken.json()["id"]]) == []


def test_nothing_starts_on_a_read_only_disk_and_the_folder_is_named(tmp_path: Path):
    with own_disk(tmp_path) as turn:
        made = config.load({"DATA_DIR": str(tmp_path), "DB_PATH": str(tmp_path / "db" / "cvp.db")})
        assert cvp("migrate", settings=made).returncode == 0
        turn("ro")
        for command in ("up", "migrate", "backup"):
            done = cvp(command, *(["/tmp"] if command == "backup" else []), settings=made)
            assert done.returncode == 1
            assert "should not" not in done.stderr
            assert "ead-only" in done.stderr or "ermission" in done.stderr or "database" in done.stderr
