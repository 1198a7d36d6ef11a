"""A process dies at every point where it could do harm; after a restart everything that must hold holds."""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.invariants import orphans, stories, violations
from benchmarks.models import free_port
from shared import apikeys, clock, config, failpoints
from shared.artifacts import ArtifactStore
from shared.db import accounts, benchmarks, connection, datasets, deployments, jobs, registry, tables, trainings
from shared.db.accounts import Account
from shared.specs import BenchmarkSpec, ConvertSpec, TrainingSpec
from shared.trace import Origin
from tests import search_kit
from tests.process.platform import DIGITS, ROOT, family, wait_for
from tests.process.preparer_that import DESCRIPTION
from tests.process.trainer_that import FILES
from tests.training_kit import reached
from tests.unit.gateway_kit import of_digits

pytestmark = pytest.mark.process

MODELS = 3
HITS = (1, 2, 3)

Kill = tuple[str, int]
"""A point, and the how many-th time a process dies at it."""


named = "{0[0]}:{0[1]}".format


def commits(*names: str, hits: tuple[int, ...] = HITS) -> list[Kill]:
    return [(f"{name}.{side}_commit", hit) for name in names for side in ("before", "after") for hit in hits]


PUBLISHING = [(f"artifact.{side}_rename", hit) for side in ("before", "after") for hit in (2, 3)]
"""In the worker; the first hit would be its child's, which starts with the same environment."""

WORKING = [*commits("claim", "finish"), *(("child.after_result", hit) for hit in HITS), *PUBLISHING]
FAILING, RETRYING, RECOVERING = commits("fail"), commits("retry"), commits("recover")
STOPPING = commits("put_back", hits=(1,))
CHILD = [("artifact.before_rename", 1), ("artifact.after_rename", 1), ("child.before_result", 1)]
UPLOADING = [*commits("accept"), *((f"artifact.{side}_rename", hit) for side in ("before", "after") for hit in HITS)]
ORDERING = commits("accept", hits=(2,))
CANCELLING, DELETING, OFFERING = commits("cancel"), commits("delete"), commits("preset")
SAVING = [("backup.before_rename", 1), ("backup.after_rename", 1)]
BRINGING_BACK = [*(("restore.before_move", hit) for hit in range(1, 10)), ("restore.after_moves", 1)]
REVERTING, MARKING = commits("revert"), commits("stale")
SEARCHING = commits("search")
DEPLOYING = commits("accept", hits=(2,))
ACTIVATING = commits("claim", "finish", hits=(1,))
LEARNING = [
    *commits("finish", hits=(1,)),
    *((f"artifact.{side}_rename", 2) for side in ("before", "after")),
]
"""The first rename puts the trained model's ONNX file in its place, the second its weights, within the transaction."""
QUANTISING = [*commits("finish", hits=(1,)), *((f"artifact.{side}_rename", 2) for side in ("before", "after"))]
"""The first rename puts the measurements in their place, the second the file, within the transaction."""
KILLS = [
    *(*WORKING, *FAILING, *RETRYING, *RECOVERING, *STOPPING, *CHILD),
    *(
        *UPLOADING,
        *CANCELLING,
        *DELETING,
        *LEARNING,
        *QUANTISING,
        *REVERTING,
        *MARKING,
        *OFFERING,
        *SAVING,
        *BRINGING_BACK,
        *SEARCHING,
    ),
]
"""Every kill of the tests below; `test_there_is_no_point_without_its_kills` holds it against all points there are."""

ONCE = {"put_back.before_commit", "put_back.after_commit", "child.before_result"} | {
    *("backup.before_rename", "backup.after_rename", "restore.after_moves")
}
"""Points that a process passes once in its life."""

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

    def start(*module: str, failpoint: Kill | None = None, presets: bool = False) -> subprocess.Popen[bytes]:
        env = os.environ | {"DATA_DIR": settings.data_dir, "DB_PATH": settings.db_path, "PORT": str(settings.port)}
        env["PRESETS"] = str(presets).lower()
        env[failpoints.VARIABLE] = f"{failpoint[0]}:{failpoint[1]}" if failpoint else ""
        with (settings.logs / f"{module[0]}.log").open("a") as log:
            started.append(subprocess.Popen([sys.executable, "-m", *module], env=env, cwd=ROOT, stderr=log))
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


@pytest.mark.parametrize("kill", WORKING, ids=named)
def test_a_worker_that_dies_loses_nothing_and_does_nothing_twice(
    kill: Kill, settings: config.Settings, owner: Account, start: Start
):
    models = add_models(settings, owner)
    assert died(start("tests.process.preparer_that", "serve", failpoint=kill))
    start("tests.process.preparer_that", "serve")
    wait_for(settled, 30, "the end of all jobs")
    assert violations(settings, models) == []
    assert {model.status for model in tables.Model.select()} == {"ready"}
    repeated = 0 if kill[0] in ("claim.before_commit", "finish.after_commit") else 1
    assert sum(attempt for _, attempt in statuses()) == MODELS + repeated


@pytest.mark.parametrize("kill", FAILING, ids=named)
def test_a_worker_that_dies_while_it_fails_a_job_leaves_the_reason(
    kill: Kill, settings: config.Settings, owner: Account, start: Start
):
    models = add_models(settings, owner)
    assert died(start("tests.process.preparer_that", "refuse", failpoint=kill))
    start("tests.process.preparer_that", "refuse")
    wait_for(settled, 30, "the end of all jobs")
    assert violations(settings, models) == []
    assert {(model.status, model.error) for model in tables.Model.select()} == {("failed", "It is no good.")}
    repeated = 1 if kill[0] == "fail.before_commit" else 0
    assert sum(attempt for _, attempt in statuses()) == MODELS + repeated


@pytest.mark.parametrize("kill", RETRYING, ids=named)
def test_a_worker_that_dies_while_it_puts_a_job_off_tries_no_more_often_for_it(
    kill: Kill, settings: config.Settings, owner: Account, start: Start
):
    (settings.reports / "staging").write_text("a file where the folder should be")
    models = add_models(settings, owner, 1)
    assert died(start("tests.process.preparer_that", "serve", failpoint=kill))
    start("tests.process.preparer_that", "serve")
    wait_for(settled, 30, "the end of all jobs")
    (settings.reports / "staging").unlink()
    assert violations(settings, models) == []
    assert statuses() == [("failed", 3)]
    reason = "Its worker died" if kill == ("retry.before_commit", 3) else "cannot be stored"
    assert reason in tables.Model.get().error


@pytest.mark.parametrize("kill", commits("fail", hits=(1,)), ids=named)
def test_a_running_job_stays_cancelled_whoever_dies_of_it(
    kill: Kill, settings: config.Settings, owner: Account, start: Start
):
    models = add_models(settings, owner, 1)
    worker = start("tests.process.preparer_that", "slowly", failpoint=kill)
    wait_for(lambda: statuses() == [("running", 1)], 30, "the start")
    with connection.write():
        jobs.request_cancel(tables.Job.get().id)
    assert died(worker)
    start("tests.process.preparer_that", "serve")
    wait_for(settled, 30, "the end of all jobs")
    assert violations(settings, models) == []
    assert statuses() == [("cancelled", 1)]


@pytest.mark.parametrize("kill", CHILD, ids=named)
def test_a_child_that_is_killed_every_time_fails_its_job_with_the_reason(
    kill: Kill, settings: config.Settings, owner: Account, start: Start
):
    models = add_models(settings, owner, 1)
    worker = start("tests.process.preparer_that", "serve", failpoint=kill)
    wait_for(settled, 30, "the end of all jobs")
    assert worker.poll() is None, "the worker itself goes on"
    assert violations(settings, models) == []
    (model,) = tables.Model.select()
    assert (model.status, statuses()) == ("failed", [("failed", 3)])
    assert "SIGKILL" in model.error


def test_a_job_whose_child_is_killed_once_is_done_all_the_same(settings: config.Settings, owner: Account, start: Start):
    models = add_models(settings, owner, 1)
    worker = start("tests.process.preparer_that", "slowly")
    wait_for(lambda: family(worker.pid), 30, "the child")
    family(worker.pid)[0].kill()
    wait_for(lambda: {"put off"} & {event.event for event in tables.JobEvent.select()}, 30, "its end")
    worker.terminate()
    assert worker.wait(30) == 0
    start("tests.process.preparer_that", "serve")
    wait_for(settled, 30, "the end of all jobs")
    assert violations(settings, models) == []
    assert statuses() == [("completed", 2)]


@pytest.mark.parametrize("point", ["claim.after_commit", "finish.before_commit"])
def test_a_job_that_kills_its_worker_every_time_is_given_up(
    point: str, settings: config.Settings, owner: Account, start: Start
):
    models = add_models(settings, owner, 1)
    for _ in range(3):
        assert died(start("tests.process.preparer_that", "serve", failpoint=(point, 1)))
    start("tests.process.preparer_that", "serve", failpoint=(point, 1))
    wait_for(settled, 30, "the end of all jobs")
    assert violations(settings, models) == []
    (model,) = tables.Model.select()
    assert (model.status, "3 times" in model.error) == ("failed", True)


@pytest.mark.parametrize("kill", SEARCHING, ids=named)
def test_a_search_whose_coordinator_dies_asks_for_the_same_trials_and_ends(kill: Kill, owner: Account, start: Start):
    few = {"population_size": 2, "generations": 2, "finalists": 1}
    search_id = search_kit.order(owner.id, seed=5, **few)
    processes = [start("tests.process.coordinator_that", failpoint=kill)]

    def carried_on() -> str | None:
        for trial in search_kit.waiting(search_id):
            search_kit.end_trial(search_id, trial)
        if processes[-1].poll() is not None:
            assert died(processes[-1])
            processes.append(start("tests.process.coordinator_that"))
        return search_kit.last_training(search_id)

    last = wait_for(carried_on, 30, "the end of the trials")
    search_kit.end(last, 0.75)
    wait_for(lambda: search_kit.status(search_id)[0] != "running", 30, "the end of the search")
    assert len(processes) == 2
    assert [job.kind for job in tables.Job.select().where(tables.Job.status.in_(jobs.OPEN))] == ["report"]
    assert search_kit.status(search_id) == ("completed", None)
    assert search_kit.trials(search_id) == search_kit.straight(5, **few)[0]


@pytest.mark.parametrize("kill", RECOVERING, ids=named)
def test_who_takes_jobs_back_may_die_as_well(kill: Kill, settings: config.Settings, owner: Account, start: Start):
    """Three workers of other names were lost at once, each with a job."""
    models = add_models(settings, owner)
    for number in range(MODELS):
        ticket = jobs.peek("cpu", clock.now_ms())
        assert ticket is not None and jobs.claim("cpu", f"preparer-{number}", clock.now_ms(), ticket.id)
    assert died(start("tests.process.preparer_that", "serve", failpoint=kill))
    start("tests.process.preparer_that", "serve")
    wait_for(settled, 30, "the end of all jobs")
    assert violations(settings, models) == []
    assert statuses() == [("completed", 2)] * MODELS


@pytest.mark.parametrize("kill", STOPPING, ids=named)
def test_a_worker_may_die_while_it_stops(kill: Kill, settings: config.Settings, owner: Account, start: Start):
    models = add_models(settings, owner, 1)
    worker = start("tests.process.preparer_that", "slowly", failpoint=kill)
    wait_for(lambda: statuses() == [("running", 1)], 30, "the start")
    worker.terminate()
    assert died(worker)
    start("tests.process.preparer_that", "serve")
    wait_for(settled, 30, "the end of all jobs")
    assert violations(settings, models) == []
    assert statuses() == [("completed", 2 if kill[0] == "put_back.before_commit" else 1)]


@pytest.mark.parametrize("kill", STOPPING, ids=named)
def test_a_worker_may_die_while_its_job_gives_way(kill: Kill, settings: config.Settings, owner: Account, start: Start):
    (background,) = add_models(settings, owner, 1)
    with connection.write():
        tables.Job.update(priority=jobs.BACKGROUND).execute()
    worker = start("tests.process.preparer_that", "slowly", failpoint=kill)
    wait_for(lambda: statuses() == [("running", 1)], 30, "the start")
    (ordered,) = add_models(settings, owner, 1)
    assert died(worker)
    start("tests.process.preparer_that", "serve")
    wait_for(settled, 30, "the end of all jobs")
    assert violations(settings, [background, ordered]) == []
    assert statuses() == sorted([("completed", 1), ("completed", 2 if kill[0] == "put_back.before_commit" else 1)])


@pytest.mark.parametrize("kill", OFFERING, ids=named)
def test_every_preset_is_added_once_whenever_a_gateway_dies_of_it(
    kill: Kill, settings: config.Settings, caller: Caller, start: Start
):
    assert died(start("gateway", failpoint=kill, presets=True))
    added = [model.id for model in tables.Model.select()]
    assert len(added) == kill[1] - (kill[0] == "preset.before_commit")
    start("gateway", presets=True)
    wait_for(caller.up, 30, "the gateway")
    start("tests.process.preparer_that", "serve")
    wait_for(settled, 30, "the end of all jobs")
    models = list(tables.Model.select())
    assert violations(settings, [model.id for model in models]) == []
    assert sorted(model.name for model in models) == ["cnn32", "efficientnet_b0", "resnet50", "yolov8n", "yolov8s"]
    assert {*added} <= {model.id for model in models}


def test_a_job_that_takes_too_long_is_ended_with_its_bound_as_the_reason(
    settings: config.Settings, owner: Account, start: Start
):
    models = add_models(settings, owner, 1)
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
        key = apikeys.new_key()
        accounts.add_key(user.id, "test", apikeys.fingerprint(key), apikeys.hint(key), None)
        self._http = httpx.Client(
            base_url=f"http://127.0.0.1:{settings.port}/api/v1", headers={"Authorization": f"Bearer {key}"}, timeout=30
        )

    def up(self) -> bool:
        try:
            return self._http.get("/health/live").is_success
        except httpx.TransportError:
            return False

    def upload(self, name: str, key: str = "upload") -> httpx.Response:
        data = {"name": name, "task_type": "classification"}
        files = {"file": ("digits.onnx", (DIGITS / "digits.onnx").read_bytes())}
        return self._http.post("/models", data=data, files=files, headers={"Idempotency-Key": key})

    def benchmark(self, model_id: str, seed: int = 1) -> httpx.Response:
        order = {"model_id": model_id, "num_iterations": 20, "seed": seed}
        return self._http.post("/benchmark", json=order, headers={"Idempotency-Key": "benchmark"})

    def cancel(self, benchmark_id: str) -> httpx.Response:
        return self._http.post(f"/benchmark/{benchmark_id}/cancel")

    def delete(self, model_id: str) -> httpx.Response:
        return self._http.delete(f"/models/{model_id}")

    def part(self, name: str) -> str:
        """Health of one part of the platform."""
        return str(self._http.get("/health").json()["components"][name]["status"])

    def alerts(self) -> set[str]:
        """What stands now."""
        return {alert["name"] for alert in self._http.get("/alerts?active=true").json()["items"]}

    def deploy(self, model_id: str, batch_size: int = 4) -> httpx.Response:
        order = {"engine": "onnxruntime", "precision": "fp32", "batch_size": batch_size}
        return self._http.put(f"/models/{model_id}/deployment", json=order, headers={"Idempotency-Key": "deploy"})

    def deployment(self, model_id: str) -> dict[str, Any]:
        return dict(self._http.get(f"/models/{model_id}/deployment").raise_for_status().json())

    def revert(self, model_id: str) -> httpx.Response:
        return self._http.delete(f"/models/{model_id}/deployment")

    def models(self) -> httpx.Response:
        return self._http.get("/models")

    def close(self) -> None:
        self._http.close()


@pytest.fixture
def caller(settings: config.Settings, owner: Account) -> Iterator[Caller]:
    made = Caller(settings, owner)
    yield made
    made.close()


@pytest.mark.parametrize("kill", UPLOADING, ids=named)
def test_a_gateway_that_dies_while_accepting_is_asked_again_and_accepts_once(
    kill: Kill, settings: config.Settings, caller: Caller, start: Start
):
    """The last of some uploads dies. Asked again with the same key, and again, the answer is one model."""
    gateway = start("gateway", failpoint=kill)
    wait_for(caller.up, 30, "the gateway")
    before = [caller.upload("digits", f"upload {number}").json()["id"] for number in range(1, kill[1])]
    with pytest.raises(httpx.TransportError):
        caller.upload("digits")
    assert died(gateway)
    committed = tables.Model.select().count() - len(before)
    assert committed == (1 if kill[0] == "accept.after_commit" else 0)
    start("gateway")
    wait_for(caller.up, 30, "the gateway")
    first, second, other = caller.upload("digits"), caller.upload("digits"), caller.upload("another")
    assert (first.status_code, second.status_code, other.status_code) == (202, 202, 409)
    assert first.json()["id"] == second.json()["id"]
    start("tests.process.preparer_that", "serve")
    wait_for(settled, 30, "the end of all jobs")
    assert violations(settings, [*before, first.json()["id"]]) == []
    assert tables.Model.select().count() == kill[1]
    assert list((settings.models / "staging").iterdir()) == []


def add_ready_model(settings: config.Settings, user: Account) -> str:
    (model_id,) = add_models(settings, user, 1)
    with connection.write():
        tables.Model.update(
            status="ready",
            onnx_sha256=tables.Model.file_sha256,
            onnx_size=tables.Model.file_size,
            description_json=DESCRIPTION,
        ).execute()
    return model_id


def asked_until_ordered_once(
    kill: Kill, caller: Caller, start: Start, ask: Callable[..., httpx.Response], **other: int
):
    """The gateway dies of an order (the upload before it passes the same point): its repetitions have one effect."""
    gateway = start("gateway", failpoint=kill)
    wait_for(caller.up, 30, "the gateway")
    assert caller.upload("digits").status_code == 202
    with pytest.raises(httpx.TransportError):
        ask()
    assert died(gateway)
    start("gateway")
    wait_for(caller.up, 30, "the gateway")
    first, second, changed = ask(), ask(), ask(**other)
    assert (first.status_code, second.status_code, changed.status_code) == (202, 202, 409)
    assert first.json() == second.json()


@pytest.mark.parametrize("kill", ORDERING, ids=named)
def test_a_benchmark_is_ordered_once_however_often_it_is_asked_for(
    kill: Kill, settings: config.Settings, owner: Account, caller: Caller, start: Start
):
    model_id = add_ready_model(settings, owner)
    asked_until_ordered_once(kill, caller, start, functools.partial(caller.benchmark, model_id), seed=2)
    assert tables.Benchmark.select().count() == 1


@pytest.mark.parametrize("kill", CANCELLING, ids=named)
def test_a_gateway_that_dies_while_cancelling_is_asked_again(
    kill: Kill, settings: config.Settings, owner: Account, caller: Caller, start: Start
):
    spec = BenchmarkSpec(model_id=add_ready_model(settings, owner))
    with connection.write():
        ordered = [benchmarks.order(spec, owner.id, 100) for _ in range(kill[1])]
    gateway = start("gateway", failpoint=kill)
    wait_for(caller.up, 30, "the gateway")
    for one in ordered[:-1]:
        assert caller.cancel(one).status_code == 202
    with pytest.raises(httpx.TransportError):
        caller.cancel(ordered[-1])
    assert died(gateway)
    assert (jobs.find(ordered[-1]).status == "cancelled") == (kill[0] == "cancel.after_commit")
    start("gateway")
    wait_for(caller.up, 30, "the gateway")
    assert caller.cancel(ordered[-1]).status_code == (409 if kill[0] == "cancel.after_commit" else 202)
    start("tests.process.preparer_that", "serve")
    wait_for(settled, 30, "the end of all jobs")
    assert violations(settings, ordered) == []
    assert {jobs.find(one).status for one in ordered} == {"cancelled"}


@pytest.mark.parametrize("kill", DELETING, ids=named)
def test_a_model_is_never_without_its_file(
    kill: Kill, settings: config.Settings, caller: Caller, start: Start, owner: Account
):
    models = add_models(settings, owner)
    start("tests.process.preparer_that", "serve")
    wait_for(settled, 30, "the end of all jobs")
    gateway = start("gateway", failpoint=kill)
    wait_for(caller.up, 30, "the gateway")
    for model_id in models[: kill[1] - 1]:
        assert caller.delete(model_id).is_success
    with pytest.raises(httpx.TransportError):
        caller.delete(models[kill[1] - 1])
    assert died(gateway)
    assert violations(settings, models) == []
    deleted = tables.Model.get_by_id(models[kill[1] - 1]).deleted_at_ms is not None
    assert deleted == (kill[0] == "delete.after_commit")


def add_deployments(settings: config.Settings, user: Account) -> list[str]:
    """Ready models, each with a deployment that serves it; returns the models' ids."""
    models = add_models(settings, user)
    with connection.write():
        tables.Job.update(status="completed", finished_at_ms=1).execute()
        tables.Model.update(
            status="ready",
            onnx_sha256=tables.Model.file_sha256,
            onnx_size=tables.Model.file_size,
            description_json=DESCRIPTION,
        ).execute()
        for model_id in models:
            choice = deployments.Choice(
                model_id=model_id,
                engine="onnxruntime",
                precision="fp32",
                batch_size=4,
                threads=1,
                instances=1,
                file_sha256=str(registry.file_of(model_id, "onnxruntime", "fp32")),
                golden_sha256=None,
                fingerprint="here",
                source="manual",
            )
            deployments.activated(deployments.order(choice, user.id), "here", "CPU", [])
        tables.Job.update(status="completed", finished_at_ms=1).execute()
    return models


@pytest.mark.parametrize("kill", REVERTING, ids=named)
def test_a_gateway_that_dies_on_the_way_back_to_the_default_is_asked_again(
    kill: Kill, settings: config.Settings, owner: Account, caller: Caller, start: Start
):
    models = add_deployments(settings, owner)
    gateway = start("gateway", failpoint=kill)
    wait_for(caller.up, 30, "the gateway")
    for model_id in models[: kill[1] - 1]:
        assert caller.revert(model_id).status_code == 204
    last = models[kill[1] - 1]
    with pytest.raises(httpx.TransportError):
        caller.revert(last)
    assert died(gateway)
    (row,) = tables.Deployment.select().where(tables.Deployment.model_id == last)
    assert row.status == ("retired" if kill[0] == "revert.after_commit" else "active")
    start("gateway")
    wait_for(caller.up, 30, "the gateway")
    assert caller.revert(last).status_code == 204
    assert caller.deployment(last)["source"] == "default"


@pytest.mark.parametrize("kill", MARKING, ids=named)
def test_who_marks_a_deployment_as_stale_may_die_and_it_is_ordered_anew_once(
    kill: Kill, settings: config.Settings, owner: Account, start: Start
):
    models = add_deployments(settings, owner)
    assert died(start("tests.process.preparer_that", "marks", failpoint=kill))
    stale = tables.Deployment.select().where(tables.Deployment.status == "stale").count()
    assert stale == kill[1] - (1 if kill[0] == "stale.before_commit" else 0)
    assert start("tests.process.preparer_that", "marks").wait(30) == 0
    rows = sorted((row.model_id, row.status) for row in tables.Deployment.select())
    assert rows == sorted((model_id, status) for model_id in models for status in ("activating", "stale"))
    assert tables.Job.select().where(tables.Job.status == "queued").count() == MODELS


@pytest.mark.parametrize("kill", DEPLOYING, ids=named)
def test_a_deployment_is_ordered_once_however_often_it_is_asked_for(
    kill: Kill, settings: config.Settings, owner: Account, caller: Caller, start: Start
):
    model_id = add_ready_model(settings, owner)
    asked_until_ordered_once(kill, caller, start, functools.partial(caller.deploy, model_id), batch_size=2)
    assert tables.Deployment.select().count() == 1


@pytest.mark.parametrize("kill", ACTIVATING, ids=named)
def test_who_activates_a_deployment_may_die_and_it_serves_once(
    kill: Kill, settings: config.Settings, caller: Caller, start: Start
):
    start("gateway")
    wait_for(caller.up, 30, "the gateway")
    model_id = caller.upload("digits").json()["id"]
    preparer = start("preparer", "0")
    wait_for(settled, 60, "the check")
    preparer.terminate()
    assert preparer.wait(30) == 0
    assert caller.deploy(model_id).status_code == 202
    assert died(start("preparer", "0", failpoint=kill))
    now = caller.deployment(model_id)
    assert now["status"] == ("active" if kill[0] == "finish.after_commit" else "activating")
    assert now["serves"]["source"] == ("manual" if kill[0] == "finish.after_commit" else "default")
    start("preparer", "0")
    wait_for(settled, 60, "the activation")
    assert caller.deployment(model_id)["serves"]["source"] == "manual"
    assert violations(settings, [model_id]) == []


@pytest.mark.parametrize("kill", QUANTISING, ids=named)
def test_an_int8_file_has_its_row_and_its_row_the_file_whenever_the_benchmarker_dies(
    kill: Kill, settings: config.Settings, owner: Account, start: Start
):
    (model_id,) = add_models(settings, owner, 1)
    start("tests.process.preparer_that", "serve")
    wait_for(settled, 30, "the check")
    with connection.write():
        order = benchmarks.order(BenchmarkSpec(model_id=model_id, precisions=("fp32", "int8")), owner.id, 100)
    assert died(start("tests.process.benchmarker_that", "0", failpoint=kill))
    assert len(registry.engine_files(model_id)) == (1 if kill[0] == "finish.after_commit" else 0)
    start("tests.process.benchmarker_that", "0")
    start("reporter")
    wait_for(settled, 60, "the end of all jobs")
    assert violations(settings, [model_id, order]) == []
    assert orphans(settings) == 0
    (made,) = registry.engine_files(model_id)
    assert ArtifactStore(settings.models).path(made.sha256).read_bytes() == b"a model in INT8"
    assert list((settings.models / "staging").iterdir()) == []


def add_training(settings: config.Settings, user: Account) -> str:
    """A training whose model and dataset are ready, as it was ordered; returns its id."""
    (model_id,) = add_models(settings, user, 1)
    store = ArtifactStore(settings.datasets)
    upload, *checked = (store.put(name.encode()) for name in ("upload", "index", "pack", "sheet"))
    about = {"name": "d", "description": "", "task_type": "classification", "split": None, "seed": 0}
    with connection.write():
        registry.keep_artifact(upload, "datasets")
        made = {"limit": 9, "origin": Origin(), "archive_id": None, "frames_per_second": 1.0}
        dataset_id = datasets.add(upload, user.id, **made, **about)
        datasets.finish(dataset_id, of_digits(), dict(zip(("index", "pack", "sheet"), checked, strict=True)))
        tables.Model.update(
            status="ready",
            framework="pytorch",
            onnx_sha256=tables.Model.file_sha256,
            onnx_size=tables.Model.file_size,
            weights_sha256=tables.Model.file_sha256,
            description_json=DESCRIPTION,
        ).execute()
        tables.JobEvent.delete().execute()
        tables.Job.delete().execute()  # those that would have checked them
        return trainings.order(TrainingSpec(model_id=model_id, dataset_id=dataset_id, max_epochs=3), user.id, 9)


@pytest.mark.parametrize("kill", LEARNING, ids=named)
def test_a_trained_model_has_its_files_and_is_there_once_whenever_the_trainer_dies(
    kill: Kill, settings: config.Settings, owner: Account, start: Start
):
    training_id = add_training(settings, owner)
    assert died(start("tests.process.trainer_that", "0", failpoint=kill))
    made = tables.Model.select().where(tables.Model.lineage.is_null(False))
    assert made.count() == (1 if kill[0] == "finish.after_commit" else 0)
    start("tests.process.trainer_that", "0")
    wait_for(lambda: jobs.find(training_id).status == "completed", 30, "the end of the training")
    (model,) = made
    assert trainings.find(training_id).result_model_id == model.id
    assert len(trainings.epochs(training_id)) == len(reached().epochs)
    store = ArtifactStore(settings.models)
    assert store.path(model.onnx_sha256).read_bytes() == FILES["onnx"]
    assert store.path(model.weights_sha256).read_bytes() == FILES["weights"]
    assert [told.partition(" ")[2] for told in stories()] == ["(report) is still queued"], "nobody is there to write it"
    wait_for(lambda: list(settings.training.iterdir()) == [], 10, "the end of its checkpoints")


def cvp(*arguments: str, settings: config.Settings, failpoint: Kill | None = None) -> subprocess.CompletedProcess[str]:
    point = f"{failpoint[0]}:{failpoint[1]}" if failpoint else ""
    return subprocess.run(
        [sys.executable, "-m", "console.cli", *arguments],
        env=os.environ | {"DATA_DIR": settings.data_dir, "DB_PATH": settings.db_path, failpoints.VARIABLE: point},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("kill", SAVING, ids=named)
def test_a_backup_that_is_killed_is_whole_or_not_there(
    kill: Kill, settings: config.Settings, owner: Account, tmp_path: Path
):
    add_models(settings, owner)
    saved = tmp_path / "saved.tar"
    assert cvp("backup", str(saved), settings=settings, failpoint=kill).returncode == -signal.SIGKILL
    assert saved.exists() == (kill[0] == "backup.after_rename")
    if not saved.exists():
        assert cvp("backup", str(saved), settings=settings).returncode == 0
    connection.database.close()
    done = cvp("restore", str(saved), "--replace", settings=settings)
    assert done.returncode == 0, done.stderr
    connection.open_db(settings.db_file)
    assert tables.Model.select().count() == MODELS


def contents(settings: config.Settings) -> dict[Path, bytes]:
    """Every file of the data but the locks."""
    folders = (settings.db_file.parent, settings.models, settings.datasets, settings.reports)
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {path: path.read_bytes() for path in files}


@pytest.mark.parametrize("kill", BRINGING_BACK, ids=named)
def test_a_restore_that_is_killed_leaves_the_former_data_or_the_backups(
    kill: Kill, settings: config.Settings, owner: Account, tmp_path: Path
):
    """Nine moves: the database, two models and the `staging` of each store aside; two models and the database back."""
    add_models(settings, owner, 2)
    saved = tmp_path / "saved.tar"
    assert cvp("backup", str(saved), settings=settings).returncode == 0
    tables.Model.update(name="changed since").execute()
    connection.database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.database.close()
    before = contents(settings)
    assert cvp("restore", str(saved), "--replace", settings=settings, failpoint=kill).returncode == -signal.SIGKILL
    refused = cvp("backup", str(tmp_path / "other.tar"), settings=settings)
    assert (refused.returncode, "interrupted" in refused.stderr) == (1, True)
    again = cvp("restore", str(saved), settings=settings)
    assert (again.returncode, "There is data already" in again.stderr) == (1, True), "what was begun is settled first"
    if kill[0] == "restore.before_move":
        assert contents(settings) == before
    connection.open_db(settings.db_file)
    names = {model.name for model in tables.Model.select()}
    assert names == ({"changed since"} if kill[0] == "restore.before_move" else {"model 0", "model 1"})
    assert list(settings.root.rglob("restore-*")) == []


def test_there_is_no_point_without_its_kills():
    """A new transaction fails here until a test above kills a process at it, as often as one can come by."""
    assert {(point, hit) for point in failpoints.POINTS for hit in ((1,) if point in ONCE else HITS)} <= set(KILLS)


def test_every_point_is_reached_somewhere_and_none_is_misspelt():
    code = "\n".join(
        path.read_text() for folder in ("shared", "gateway", "console") for path in (ROOT / folder).rglob("*.py")
    )
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
