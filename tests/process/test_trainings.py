"""Trainings through the public API, from two uploads to a served model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest

from shared.specs import TrainingResult
from tests.conftest import needs
from tests.process.platform import Platform, running, settled
from tests.training_kit import CONTRACT, LABELS, SIDE, coloured, colours, weights_file

needs("torch")

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

TRAINED_S = 120.0
PER_CLASS = 64
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
    answer = client.post("/training", json=ids | {"max_epochs": 6, "hyperparams": {"batch_size": 16}} | more)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/api/v1/training/{answer.json()['id']}"
    return dict(answer.json())


def trained(client: httpx.Client, training_id: str) -> Made:
    found = settled(client, f"/training/{training_id}", TRAINED_S)
    assert found["status"] == "completed", found["error"]
    return found


def test_a_network_and_images_become_a_served_model(client: httpx.Client, ids: Made, platform: Platform) -> None:
    found = trained(client, order(client, ids, name="colours told apart", seed=3)["id"])
    assert [each["epoch"] for each in found["epochs"]] == list(range(1, len(found["epochs"]) + 1))
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
    answers = {}
    for label in LABELS:
        headers = {"Content-Type": "image/png"}
        said = client.post(
            "/inference/predict",
            params={"model_id": made["id"]},
            content=coloured(label, 7000),
            headers=headers,
        )
        answers[label] = said.json()["predictions"][0][0]["label"]
    assert answers == {label: label for label in LABELS}
    assert list((platform.data_dir / "training").iterdir()) == [], "its checkpoint is gone"
