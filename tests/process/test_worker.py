"""A real job worker and its children, without the rest of the platform: finish, stop, die, cancel."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from shared import clock, config, metadata, process
from shared.artifacts import ArtifactStore
from shared.db import connection, jobs, registry, tables
from shared.db.accounts import Account
from shared.specs import BenchmarkSpec, ConvertSpec
from tests.process.platform import DIGITS, family, wait_for

pytestmark = pytest.mark.process

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def settings(tmp_path_factory: pytest.TempPathFactory, db_file: Path) -> config.Settings:
    made = config.load({"DATA_DIR": str(tmp_path_factory.mktemp("cvp")), "DB_PATH": str(db_file)})
    made.make_folders()
    return made


@pytest.fixture
def start(settings: config.Settings) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def start(*module: str) -> subprocess.Popen[bytes]:
        env = os.environ | {"DATA_DIR": settings.data_dir, "DB_PATH": settings.db_path}
        started.append(subprocess.Popen([sys.executable, "-m", *module], env=env, stderr=subprocess.DEVNULL))
        return started[-1]

    yield start
    for worker in started:
        worker.kill()
        worker.wait()


@pytest.fixture
def model_id(settings: config.Settings, owner: Account) -> str:
    stored = ArtifactStore(settings.models).put((DIGITS / "digits.onnx").read_bytes())
    with connection.write():
        registry.keep_artifact(stored, "models")
        tables.Model.insert(
            id="mdl_1",
            name="digits",
            description="",
            model_type="custom",
            framework="onnx",
            task_type="classification",
            status="converting",
            file_sha256=stored.sha256,
            file_size=stored.size_bytes,
            created_by=owner.id,
            created_at_ms=clock.now_ms(),
        ).execute()
        jobs.insert("convert", ConvertSpec(model_id="mdl_1"), user_id=owner.id, job_id="job_convert")
    return "mdl_1"


@pytest.fixture
def endless(model_id: str, start: Start, owner: Account) -> str:
    """A benchmark that would run for ten minutes, of a model that is ready."""
    preparer = start("preparer", "0")
    wait_for(lambda: registry.model(model_id).status == "ready", 30, "the model")
    preparer.terminate()
    assert preparer.wait(15) == 0
    spec = BenchmarkSpec(model_id=model_id, num_iterations=1_000_000, max_seconds=600)
    with connection.write():
        jobs.insert("benchmark", spec, user_id=owner.id, job_id="job_endless", isolation="exclusive")
        tables.Benchmark.insert(
            id="job_endless", model_id=model_id, user_id=owner.id, created_at_ms=clock.now_ms()
        ).execute()
    return "job_endless"


def job(job_id: str) -> tables.Job:
    return tables.Job.get_by_id(job_id)


def gone(processes: list[psutil.Process]) -> bool:
    return all(not one.is_running() or one.status() == psutil.STATUS_ZOMBIE for one in processes)


def test_a_model_becomes_ready(model_id: str, start: Start, settings: config.Settings):
    start("preparer", "0")
    wait_for(lambda: job("job_convert").status == "completed", 30, "the job")
    row = registry.model(model_id)
    assert (row.status, row.conversion) == ("ready", None)
    pairs = metadata.read(ArtifactStore(settings.models).path(str(row.onnx_sha256)))
    assert metadata.contract_in(pairs) == row.description_json.preprocessing
    assert registry.catalog_entry(model_id) is not None
    assert registry.revisions()["models"] == 1


def test_the_check_of_a_deleted_model_is_taken_back(model_id: str):
    with connection.write():
        registry.delete_model(model_id)
    assert job("job_convert").status == "cancelled"


def test_a_vanished_model_fails_its_job_with_a_reason(model_id: str, start: Start):
    with connection.write():
        tables.Model.update(deleted_at_ms=clock.now_ms()).where(tables.Model.id == model_id).execute()
    start("preparer", "0")
    wait_for(lambda: job("job_convert").status == "failed", 30, "the failure")
    assert "no model" in str(job("job_convert").error)


def test_a_stopped_worker_puts_its_job_back_and_frees_the_slots(endless: str, start: Start, settings: config.Settings):
    worker = start("benchmarker", "0")
    wait_for(lambda: len(family(worker.pid)) >= 2, 30, "a candidate")
    children = family(worker.pid)
    assert not process.is_free(settings.run / "gpu-slot-0.lock")
    assert not process.is_free(settings.run / "gpu-slot-1.lock"), "an exclusive job holds every slot"
    worker.terminate()
    assert worker.wait(20) == 0
    assert (job(endless).status, job(endless).attempt) == ("queued", 0)
    wait_for(lambda: gone(children), 10, "the children's end")
    assert process.is_free(settings.run / "gpu-slot-0.lock")


def test_the_job_of_a_killed_worker_is_taken_over_by_another(endless: str, start: Start, settings: config.Settings):
    worker = start("benchmarker", "0")
    wait_for(lambda: len(family(worker.pid)) >= 2, 30, "a candidate")
    children = family(worker.pid)
    worker.kill()
    worker.wait()
    wait_for(lambda: gone(children), 10, "the children's end")
    start("benchmarker", "1")
    wait_for(lambda: job(endless).worker == "benchmarker-1", 30, "the take-over")
    assert job(endless).attempt == 2


def test_a_cancelled_job_ends_at_once(endless: str, start: Start):
    worker = start("benchmarker", "0")
    wait_for(lambda: len(family(worker.pid)) >= 2, 30, "a candidate")
    children = family(worker.pid)
    with connection.write():
        jobs.request_cancel(endless)
    wait_for(lambda: job(endless).status == "cancelled", 10, "the cancellation")
    wait_for(lambda: gone(children), 10, "the children's end")
    assert worker.poll() is None


def test_a_second_copy_of_a_worker_leaves(start: Start, db_file: Path):
    first = start("preparer", "0")
    second = start("preparer", "0")
    both = (first, second)
    wait_for(lambda: any(one.poll() is not None for one in both), 30, "the second's end")
    assert sorted(str(one.poll()) for one in both) == ["65", "None"]


def test_a_suspended_worker_that_wakes_up_changes_nothing(endless: str, start: Start):
    """Its lock is held, so nobody takes the job; a job taken away all the same is not written by the late one."""
    worker = start("benchmarker", "0")
    wait_for(lambda: len(family(worker.pid)) >= 2, 30, "a candidate")
    worker.send_signal(signal.SIGSTOP)
    assert jobs.recover(lambda name: True, clock.now_ms(), {}) == [(endless, "queued")]
    before = (job(endless).status, job(endless).attempt)
    worker.send_signal(signal.SIGCONT)
    worker.terminate()
    assert worker.wait(20) == 0
    assert (job(endless).status, job(endless).attempt) == before
