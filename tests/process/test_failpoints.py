"""A process dies at every point where it could do harm; after a restart everything that must hold holds."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from benchmarks.invariants import violations
from benchmarks.models import free_port
from gateway import tokens
from shared import config, failpoints
from shared.artifacts import ArtifactStore
from shared.db import accounts, connection, jobs, registry, tables
from shared.db.accounts import Account
from shared.specs import ConvertSpec
from tests.process.platform import DIGITS, ROOT, wait_for
from tests.process.preparer_that import DESCRIPTION

pytestmark = pytest.mark.process

MODELS = 3
WORKER_POINTS = [
    "claim.before_commit",
    "claim.after_commit",
    "child.after_result",
    "finish.before_commit",
    "finish.after_commit",
]
CHILD_POINTS = ["artifact.before_rename", "artifact.after_rename", "child.before_result"]
GATEWAY_POINTS = ["accept.before_commit", "accept.after_commit", "artifact.before_rename", "artifact.after_rename"]

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def settings(tmp_path_factory: pytest.TempPathFactory, db_file: Path) -> config.Settings:
    folder = str(tmp_path_factory.mktemp("cvp"))
    made = config.load({"DATA_DIR": folder, "DB_PATH": str(db_file), "PORT": str(free_port())})
    made.make_folders()
    return made


@pytest.fixture
def start(settings: config.Settings) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def start(*module: str, failpoint: str = "") -> subprocess.Popen[bytes]:
        env = os.environ | {"DATA_DIR": settings.data_dir, "DB_PATH": settings.db_path, "PORT": str(settings.port)}
        env[failpoints.VARIABLE] = failpoint
        started.append(subprocess.Popen([sys.executable, "-m", *module], env=env, cwd=ROOT, stderr=subprocess.DEVNULL))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.wait()


def add_models(settings: config.Settings, user: Account, count: int = MODELS) -> list[str]:
    """Uploaded models whose check is queued, as the gateway leaves them."""
    made = []
    for index in range(count):
        stored = ArtifactStore(settings.models).put(f"model {index}".encode())
        with connection.write(durable=True):
            registry.keep_artifact(stored, "models")
            fields = {"name": f"model {index}", "framework": "onnx", "task_type": "classification"}
            made.append(registry.add_model(stored, user.id, **fields))
            jobs.insert("convert", ConvertSpec(model_id=made[-1]), user_id=user.id)
    return made


def died(process: subprocess.Popen[bytes]) -> bool:
    return process.wait(30) == -signal.SIGKILL


def settled() -> bool:
    return not tables.Job.select().where(tables.Job.status.in_(jobs.OPEN)).exists()


def statuses() -> list[tuple[str, int]]:
    return sorted((job.status, job.attempt) for job in tables.Job.select())


@pytest.mark.parametrize("hits", [1, 2, 3])
@pytest.mark.parametrize("point", WORKER_POINTS)
def test_a_worker_that_dies_loses_nothing_and_does_nothing_twice(
    point: str, hits: int, settings: config.Settings, admin: Account, start: Start
):
    models = add_models(settings, admin)
    assert died(start("tests.process.preparer_that", "serve", failpoint=f"{point}:{hits}"))
    start("tests.process.preparer_that", "serve")
    wait_for(settled, 30, "the end of all jobs")
    assert violations(settings, models) == []
    assert {model.status for model in tables.Model.select()} == {"ready"}
    repeated = 0 if point in ("claim.before_commit", "finish.after_commit") else 1
    assert sum(attempt for _, attempt in statuses()) == MODELS + repeated


@pytest.mark.parametrize("point", CHILD_POINTS)
def test_a_child_that_is_killed_every_time_fails_its_job_with_the_reason(
    point: str, settings: config.Settings, admin: Account, start: Start
):
    models = add_models(settings, admin, 1)
    worker = start("tests.process.preparer_that", "serve", failpoint=point)
    wait_for(settled, 30, "the end of all jobs")
    assert worker.poll() is None, "the worker itself goes on"
    assert violations(settings, models) == []
    (model,) = tables.Model.select()
    assert model.status == "failed"
    assert "SIGKILL" in model.error


@pytest.mark.parametrize("point", ["claim.after_commit", "finish.before_commit"])
def test_a_job_that_kills_its_worker_every_time_is_given_up(
    point: str, settings: config.Settings, admin: Account, start: Start
):
    models = add_models(settings, admin, 1)
    for _ in range(3):
        assert died(start("tests.process.preparer_that", "serve", failpoint=point))
    start("tests.process.preparer_that", "serve", failpoint=point)
    wait_for(settled, 30, "the end of all jobs")
    assert violations(settings, models) == []
    (model,) = tables.Model.select()
    assert (model.status, "3 times" in model.error) == ("failed", True)


@pytest.mark.parametrize("point", ["recover.before_commit", "recover.after_commit"])
def test_who_takes_a_job_back_may_die_as_well(point: str, settings: config.Settings, admin: Account, start: Start):
    models = add_models(settings, admin, 1)
    assert died(start("tests.process.preparer_that", "serve", failpoint="claim.after_commit"))
    assert died(start("tests.process.preparer_that", "serve", failpoint=point))
    start("tests.process.preparer_that", "serve")
    wait_for(settled, 30, "the end of all jobs")
    assert violations(settings, models) == []
    assert statuses() == [("completed", 2)]


@pytest.mark.parametrize("point", ["put_back.before_commit", "put_back.after_commit"])
def test_a_worker_may_die_while_it_stops(point: str, settings: config.Settings, admin: Account, start: Start):
    models = add_models(settings, admin, 1)
    worker = start("tests.process.preparer_that", "slowly", failpoint=point)
    wait_for(lambda: statuses() == [("running", 1)], 30, "the start")
    worker.terminate()
    assert died(worker)
    start("tests.process.preparer_that", "serve")
    wait_for(settled, 30, "the end of all jobs")
    assert violations(settings, models) == []
    assert statuses() == [("completed", 2 if point == "put_back.before_commit" else 1)]


def test_a_job_that_takes_too_long_is_ended_with_its_bound_as_the_reason(
    settings: config.Settings, admin: Account, start: Start
):
    models = add_models(settings, admin, 1)
    with connection.write():
        tables.Job.update(max_runtime_s=0.5).execute()
    start("tests.process.preparer_that", "slowly")
    wait_for(settled, 30, "the end of all jobs")
    assert violations(settings, models) == []
    assert "longer than 0.5 s" in tables.Model.get().error


def test_a_hundred_calls_with_one_key_are_one_order(settings: config.Settings, caller: Caller, start: Start):
    start("gateway")
    wait_for(caller.up, 30, "the gateway")
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: caller.upload("digits"), range(100)))
    assert {answer.status_code for answer in answers} <= {202, 409, 503}
    accepted = {answer.json()["id"] for answer in answers if answer.status_code == 202}
    assert accepted == {model.id for model in tables.Model.select()}
    assert (len(accepted), tables.Job.select().count()) == (1, 1)


class Caller:
    """A client of the gateway that repeats a call with the key of the first until it is answered."""

    def __init__(self, settings: config.Settings, user: Account) -> None:
        key = tokens.new_key()
        accounts.add_key(user.id, "test", tokens.fingerprint(key), tokens.hint(key), None)
        self._http = httpx.Client(
            base_url=f"http://127.0.0.1:{settings.port}/api/v1", headers={"Authorization": f"Bearer {key}"}, timeout=30
        )

    def up(self) -> bool:
        try:
            return self._http.get("/health/live").is_success
        except httpx.TransportError:
            return False

    def upload(self, name: str) -> httpx.Response:
        data = {"name": name, "task_type": "classification"}
        files = {"file": ("digits.onnx", (DIGITS / "digits.onnx").read_bytes())}
        return self._http.post("/models", data=data, files=files, headers={"Idempotency-Key": "upload"})

    def benchmark(self, model_id: str, seed: int = 1) -> httpx.Response:
        order = {"model_id": model_id, "num_iterations": 20, "seed": seed}
        return self._http.post("/benchmark", json=order, headers={"Idempotency-Key": "benchmark"})

    def close(self) -> None:
        self._http.close()


@pytest.fixture
def caller(settings: config.Settings, admin: Account) -> Iterator[Caller]:
    made = Caller(settings, admin)
    yield made
    made.close()


@pytest.mark.parametrize("point", GATEWAY_POINTS)
def test_a_gateway_that_dies_while_accepting_is_asked_again_and_accepts_once(
    point: str, settings: config.Settings, caller: Caller, start: Start
):
    """The first call, an upload, dies. Asked again with the same key, and again, the answer is one model."""
    gateway = start("gateway", failpoint=point)
    wait_for(caller.up, 30, "the gateway")
    with pytest.raises(httpx.TransportError):
        caller.upload("digits")
    assert died(gateway)
    committed = tables.Model.select().count()
    assert committed == (1 if point == "accept.after_commit" else 0)
    start("gateway")
    wait_for(caller.up, 30, "the gateway")
    first, second, other = caller.upload("digits"), caller.upload("digits"), caller.upload("another")
    assert (first.status_code, second.status_code, other.status_code) == (202, 202, 409)
    assert first.json()["id"] == second.json()["id"]
    start("tests.process.preparer_that", "serve")
    wait_for(settled, 30, "the end of all jobs")
    assert violations(settings, [first.json()["id"]]) == []
    assert tables.Model.select().count() == 1
    assert list((settings.models / "staging").iterdir()) == []


@pytest.mark.parametrize("point", ["accept.before_commit:2", "accept.after_commit:2"])
def test_a_benchmark_is_ordered_once_however_often_it_is_asked_for(
    point: str, settings: config.Settings, admin: Account, caller: Caller, start: Start
):
    (model_id,) = add_models(settings, admin, 1)
    with connection.write():
        tables.Model.update(
            status="ready",
            onnx_sha256=tables.Model.file_sha256,
            onnx_size=tables.Model.file_size,
            description_json=DESCRIPTION,
        ).execute()
    gateway = start("gateway", failpoint=point)
    wait_for(caller.up, 30, "the gateway")
    assert caller.upload("digits").status_code == 202
    with pytest.raises(httpx.TransportError):
        caller.benchmark(model_id)
    assert died(gateway)
    start("gateway")
    wait_for(caller.up, 30, "the gateway")
    first, second, other = caller.benchmark(model_id), caller.benchmark(model_id), caller.benchmark(model_id, seed=2)
    assert (first.status_code, second.status_code, other.status_code) == (202, 202, 409)
    assert first.json()["id"] == second.json()["id"]
    assert tables.Benchmark.select().count() == 1


@pytest.mark.parametrize("point", ["delete.before_commit", "delete.after_commit"])
def test_a_model_is_never_without_its_file(
    point: str, settings: config.Settings, caller: Caller, start: Start, admin: Account
):
    (model_id,) = add_models(settings, admin, 1)
    start("tests.process.preparer_that", "serve")
    wait_for(settled, 30, "the end of all jobs")
    gateway = start("gateway", failpoint=point)
    wait_for(caller.up, 30, "the gateway")
    with pytest.raises(httpx.TransportError):
        caller._http.delete(f"/models/{model_id}")
    assert died(gateway)
    assert violations(settings, [model_id]) == []
    deleted = tables.Model.get_by_id(model_id).deleted_at_ms is not None
    assert deleted == (point == "delete.after_commit")


def test_every_point_is_reached_somewhere_and_none_is_misspelt():
    code = "\n".join(path.read_text() for folder in ("shared", "gateway") for path in (ROOT / folder).rglob("*.py"))
    named = re.findall(r'failpoints\.reach\("([a-z_.]+)"\)', code)
    transactions = set(re.findall(r'write\(durable=True, name="([a-z_]+)"\)', code))
    assert transactions == failpoints.TRANSACTIONS
    commits = {f"{name}.{side}_commit" for name in transactions for side in ("before", "after")}
    assert sorted([*named, *commits]) == sorted(failpoints.POINTS)


def test_a_misspelt_point_is_told_at_once():
    done = subprocess.run(
        [sys.executable, "-c", "import shared.failpoints"],
        env=os.environ | {failpoints.VARIABLE: "claim.sometime"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "claim.after_commit" in done.stderr
