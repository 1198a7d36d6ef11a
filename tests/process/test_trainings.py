"""Trainings through the public API, from two uploads to a served model."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import psutil
import pytest

from shared.specs import TrainingResult
from tests.conftest import needs
from tests.process.platform import Platform, running, settled, wait_for
from tests.training_kit import CONTRACT, LABELS, SIDE, coloured, colours, weights_file

needs("torch")

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

TRAINED_S = 240.0
SOON_S = 120.0
"""Bounds of waits that take seconds where nothing else is at work."""
PER_CLASS = 64
EPOCHS = 60
Made = dict[str, Any]


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with running(EXCLUSIVE_WAIT_S="1") as platform:
        yield platform


@pytest.fixture(scope="module")
def client(platform: Platform) -> Iterator[httpx.Client]:
    with platform.login() as client:
        yield client


@pytest.fixture(scope="module")
def ids(client: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A network with seeded weights and a dataset of two colours, both ready."""
    folder = tmp_path_factory.mktemp("uploads")
    fields = {"name": "small network", "task_type": "classification", "architecture": "cnn32"}
    told = {"labels": json.dumps(LABELS), "preprocessing": msgspec.json.encode(CONTRACT).decode()}
    told["input_shape"] = json.dumps([1, 3, SIDE, SIDE])
    weights = weights_file(folder).read_bytes()
    model = client.post("/models", data=fields | told, files={"file": ("net.safetensors", weights)}).json()
    pictures = colours(folder, PER_CLASS).read_bytes()
    about = {"name": "colours", "task_type": "classification"}
    data = client.post("/datasets", data=about, files={"file": ("colours.zip", pictures)}).json()
    ready = settled(client, f"/models/{model['id']}", TRAINED_S)
    assert (ready["status"], ready["trainable"]) == ("ready", True), ready
    assert settled(client, f"/datasets/{data['id']}", TRAINED_S)["status"] == "ready"
    return {"model_id": model["id"], "dataset_id": data["id"]}


def order(client: httpx.Client, ids: Made, **more: Any) -> Made:
    spec = {"max_epochs": EPOCHS, "seed": 3, "hyperparams": {"batch_size": 16, "patience": 1000}}
    answer = client.post("/training", json=ids | spec | more)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/api/v1/training/{answer.json()['id']}"
    return dict(answer.json())


def trained(client: httpx.Client, training_id: str) -> Made:
    found = settled(client, f"/training/{training_id}", TRAINED_S)
    assert found["status"] == "completed", found["error"]
    return found


@pytest.fixture(scope="module")
def undisturbed(client: httpx.Client, ids: Made) -> Made:
    """A training that nothing came in the way of."""
    return trained(client, order(client, ids, name="colours told apart")["id"])


def test_a_network_and_images_become_a_served_model(
    client: httpx.Client, ids: Made, undisturbed: Made, platform: Platform
) -> None:
    found = undisturbed
    assert [each["epoch"] for each in found["epochs"]] == list(range(1, EPOCHS + 1))
    assert found["final_accuracy"] == found["epochs"][found["best_epoch"] - 1]["val_accuracy"] > 0.7
    assert found["hyperparams"]["learning_rate"] == 0.001, "what was left open is told"
    assert found["progress"]["accuracy"] == found["epochs"][-1]["val_accuracy"]
    result = msgspec.convert(found["result"], TrainingResult)
    assert (result.seed, result.num_train, result.classes) == (3, 2 * PER_CLASS, LABELS)
    made = client.get(f"/models/{found['result_model_id']}").json()
    assert (made["name"], made["status"], made["trainable"]) == ("colours told apart", "ready", True)
    assert (made["parent_id"], made["job_id"], made["labels"]) == (ids["model_id"], found["id"], LABELS)
    lineage = made["lineage"]
    assert (lineage["training_id"], lineage["dataset_id"], lineage["seed"]) == (found["id"], ids["dataset_id"], 3)
    assert lineage["versions"] == result.versions
    headers, wanted = {"Content-Type": "image/png"}, {"model_id": made["id"]}
    answers = [
        client.post("/inference/predict", params=wanted, content=coloured(label, 7000), headers=headers).json()
        for label in LABELS
    ]
    assert [each["predictions"][0][0]["label"] for each in answers] == LABELS
    wait_for(lambda: folders(platform) == [], SOON_S, "the end of its checkpoint")
    path = f"/training/{found['id']}/report"
    page = wait_for(lambda: (answer := client.get(path)).status_code == 200 and answer, 60, "its report")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert page.text.count("data:image/png;base64,") == len(result.worst), "a picture of each of the worst"
    assert client.get(path, params={"format": "json"}).json()["result"] == found["result"]
    assert client.post(path).status_code == 409


def test_one_that_makes_room_and_whose_processes_are_killed_ends_with_the_same_weights(
    client: httpx.Client, ids: Made, undisturbed: Made, platform: Platform
) -> None:
    training_id = order(client, ids)["id"]
    learns_on(client, training_id, 1)
    quick = {"model_id": ids["model_id"], "engines": ["onnxruntime"], "num_iterations": 5, "max_seconds": 1}
    benchmark = client.post("/benchmark", json=quick | {"batch_sizes": [1]}).json()["id"]
    wait_for(lambda: "put back" in events(client, training_id), SOON_S, "room for the measurement")
    assert settled(client, f"/benchmark/{benchmark}", SOON_S)["status"] == "completed"
    learns_on(client, training_id, learned(client, training_id))  # goes on: its child is there to be killed
    platform.kill("trainer.enclosed")
    wait_for(lambda: "put off" in events(client, training_id), SOON_S, "the news of it")
    learns_on(client, training_id, learned(client, training_id))
    worker = next(each["detail"] for each in reversed(story(client, training_id)) if each["event"] == "started")
    victim = next(pid for pid in platform.pids("trainer") if psutil.Process(pid).cmdline()[-1] == worker[-1])
    os.kill(victim, signal.SIGKILL)
    found = trained(client, training_id)
    assert events(client, training_id).count("started") == 4
    assert [each["val_loss"] for each in found["epochs"]] == [each["val_loss"] for each in undisturbed["epochs"]]
    one, other = (client.get(f"/models/{each['result_model_id']}").json() for each in (found, undisturbed))
    assert (one["sha256"], one["name"]) == (other["sha256"], "small network trained on colours")
    compared = client.get("/training/compare", params={"a": found["id"], "b": undisturbed["id"]}).json()
    assert compared["order"] == [], "nothing that counts was different"


def test_a_training_is_cancelled_within_seconds(client: httpx.Client, ids: Made, platform: Platform) -> None:
    running, waiting = (order(client, ids, max_epochs=1000)["id"] for _ in range(2))
    learns_on(client, running, 1)
    assert running in folders(platform)
    for each in (waiting, running):
        assert client.post(f"/training/{each}/cancel").status_code == 202
    wait_for(lambda: client.get(f"/training/{running}").json()["status"] == "cancelled", 10, "its end")
    found = client.get(f"/training/{running}").json()
    assert found["epochs"] and found["result_model_id"] is None, "its curves are kept"
    wait_for(
        lambda: not platform.pids("trainer.enclosed") and folders(platform) == [], SOON_S, "the end of what it left"
    )


def folders(platform: Platform) -> list[str]:
    root = platform.data_dir / "training"
    return [path.name for path in root.iterdir()] if root.is_dir() else []


def story(client: httpx.Client, job_id: str) -> list[Made]:
    return list(client.get(f"/jobs/{job_id}").json()["events"])


def events(client: httpx.Client, job_id: str) -> list[str]:
    return [each["event"] for each in story(client, job_id)]


def learns_on(client: httpx.Client, training_id: str, beyond: int) -> None:
    """Wait until more epochs than these have figures."""
    wait_for(lambda: learned(client, training_id) > beyond, SOON_S, "the next epoch")


def learned(client: httpx.Client, training_id: str) -> int:
    """Epochs of an open training that have figures."""
    found = client.get(f"/training/{training_id}").json()
    assert found["status"] in ("queued", "running"), found["error"]
    return len(found["epochs"])


def test_a_search_ends_with_a_model(client: httpx.Client, ids: Made, platform: Platform) -> None:
    fixed = {
        "optimizer": {"type": "choice", "choices": ["adamw"]},
        "batch_size": {"type": "int", "low": 16, "high": 16},
    }
    rates = {"learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}}
    wanted = {"population_size": 3, "generations": 1, "finalists": 0, "halving": True, "search_space": fixed | rates}
    search = order(client, ids, ga=wanted, max_epochs=3, name="the best of three")
    found = trained(client, search["id"])
    trials = client.get("/training", params={"search_id": search["id"]}).json()["items"]
    assert [each["status"] for each in trials] == ["completed"] * len(trials)
    last, *rest = trials
    assert last["id"] == found["search"]["last_training_id"]
    assert {each["config"]["until_epoch"] for each in rest} == {1, 3}
    longer = [client.get(f"/training/{each['id']}").json() for each in rest if each["config"]["continues"]]
    assert longer
    for each in longer:
        before = client.get(f"/training/{each['config']['continues']}").json()
        assert each["epochs"][:1] == before["epochs"], "it went on from the checkpoint"
    best = found["search"]["outcome"]["best"]
    assert {name: last["hyperparams"][name] for name in best} == best
    assert found["result_model_id"] == last["result_model_id"]
    made = client.get(f"/models/{found['result_model_id']}").json()
    assert (made["status"], made["name"], made["lineage"]["search_id"]) == ("ready", "the best of three", search["id"])
    assert list((platform.data_dir / "training").iterdir()) == [], "no checkpoint is left"
    path, wanted = f"/training/{search['id']}/report", {"format": "json"}
    wait_for(lambda: client.get(path, params=wanted).status_code == 200, TRAINED_S, "the report")
    record = client.get(path, params=wanted).json()["search"]
    assert [each["trial"]["epochs"] for each in record["told"]] == [
        each["config"]["until_epoch"] for each in rest[::-1]
    ]
    assert record["outcome"] == found["search"]["outcome"]


def test_a_search_for_accuracy_and_latency_measures_first_and_ends_with_a_choice(
    client: httpx.Client, ids: Made, platform: Platform
) -> None:
    sizes = {"image_size": {"type": "choice", "choices": [16, 8]}}
    batches = {"batch_size": {"type": "int", "low": 16, "high": 16}}
    wanted = {"population_size": 4, "generations": 1, "finalists": 1, "search_space": sizes | batches}
    wanted["objectives"] = ["accuracy", "latency_ms"]
    search = order(client, ids, ga=wanted, max_epochs=2)
    measurement = measuring(client, platform, search["id"])
    platform.kill("trainer.latency")
    wait_for(lambda: "put off" in events(client, measurement), SOON_S, "the news of it")
    found = trained(client, search["id"])
    measured = found["search"]["latencies"]
    assert measured["engine"] == "onnxruntime"
    latencies = {each["image_size"]: each["latency_ms"] for each in measured["sizes"]}
    assert list(latencies) == [8, 16] and min(latencies.values()) > 0
    last, *trials = client.get("/training", params={"search_id": search["id"]}).json()["items"]
    for each in trials:
        assert each["latency_ms"] == latencies[each["config"]["hyperparams"]["image_size"]]
    assert len(trials) == 4 + 3, "one finalist with three seeds"
    assert found["latency_ms"] == last["latency_ms"] == latencies[last["hyperparams"]["image_size"]]
    assert [client.get(f"/jobs/{measurement}").json()[name] for name in ("status", "attempt")] == ["completed", 2]
    path = f"/training/{search['id']}/report"
    page = wait_for(lambda: (answer := client.get(path)).status_code == 200 and answer.text, TRAINED_S, "the report")
    assert "Latency by image size" in page


def test_a_search_is_cancelled_within_seconds_while_it_measures(
    client: httpx.Client, ids: Made, platform: Platform
) -> None:
    sizes = {"image_size": {"type": "choice", "choices": list(range(8, 20))}}
    wanted = {"population_size": 4, "objectives": ["accuracy", "latency_ms"], "search_space": sizes}
    search = order(client, ids, ga=wanted, max_epochs=2)
    measurement = measuring(client, platform, search["id"])
    assert client.post(f"/training/{search['id']}/cancel").status_code == 202
    for each in (search["id"], measurement):
        wait_for(lambda each=each: client.get(f"/jobs/{each}").json()["status"] == "cancelled", 10, "its end")
    wait_for(lambda: not platform.pids("trainer.latency") and folders(platform) == [], SOON_S, "the end of its files")


def measuring(client: httpx.Client, platform: Platform, search_id: str) -> str:
    """The job that measures for a search, once it is at it."""

    def found() -> str | None:
        jobs = client.get("/jobs", params={"kind": "measure", "status": "running"}).json()["items"]
        return next((str(job["id"]) for job in jobs if "exporting for" in job["progress"].get("stage", "")), None)

    assert client.get(f"/training/{search_id}").json()["search"]["latencies"] is None
    return str(wait_for(found, SOON_S, "the measurement"))
