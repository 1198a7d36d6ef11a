"""The child that trains: killed at any moment it ends as if nothing had happened; what it makes can be served."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from benchmarks.training import checkpoint_tensors
from preparer import DescribeOrder
from shared import child, errors, metadata
from shared.artifacts import ArtifactStore, Outputs
from shared.specs import EngineName, HyperParameters, ModelDescription
from shared.trials import Latencies
from tests.conftest import needs
from tests.dataset_kit import Checked
from tests.training_kit import CONTRACT, LABELS, LIMITS, SIDE, dataset, here, order, run_until, scenes, weights_file
from trainer import CHECKPOINT, LatencyOrder, Trained, latency
from trainer.duty import LIBRARIES_MB

needs("torch")

pytestmark = pytest.mark.process

EPOCHS = 8
PATIENT = msgspec.structs.replace(LIMITS, wall_s=300)
"""Exports and engines take some seconds each, and on a busy machine minutes."""
PER_CLASS = 96
"""Images that make an epoch long beside what the machine may hold us up with."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Checked:
    return dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights_file(tmp_path_factory.mktemp("weights"))


def after(epoch: int, share: float) -> Callable[[dict[str, Any]], bool]:
    """So much of an epoch after a checkpoint."""

    def kill(body: dict[str, Any]) -> bool:
        if body.get("checkpoint") != epoch:
            return False
        time.sleep(share * body["figures"]["seconds"])  # wherever it is by then
        return True

    return kill


def test_killed_twice_it_ends_with_the_weights_it_would_have_had(weights: Path, tmp_path: Path) -> None:
    data = dataset(tmp_path, PER_CLASS)
    hyperparams = HyperParameters(batch_size=16, patience=EPOCHS)
    whole = here(order(weights, data, tmp_path / "whole", max_epochs=EPOCHS, hyperparams=hyperparams))
    killed = order(weights, data, tmp_path / "killed", max_epochs=EPOCHS, hyperparams=hyperparams)
    moment = random.Random(0)
    assert run_until(killed, after(1, moment.random())) is None
    assert run_until(killed, after(3, moment.random())) is None
    ended = run_until(killed, lambda body: False)
    assert ended
    one, other = checkpoint_tensors(tmp_path / "whole"), checkpoint_tensors(tmp_path / "killed")
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []
    assert (ended.result.confusion, ended.result.worst) == (whole.result.confusion, whole.result.worst)
    assert [each.val_loss for each in ended.result.epochs] == [each.val_loss for each in whole.result.epochs]


def test_a_detector_that_was_killed_ends_with_the_weights_it_would_have_had(tmp_path: Path) -> None:
    shapes, weights = scenes(tmp_path, 16, 4), weights_file(tmp_path, "yolov8n", 3, 640)
    facts: dict[str, Any] = {
        "preprocessing": None,
        "labels": None,
        "max_epochs": 3,
        "hyperparams": HyperParameters(batch_size=8, image_size=64),
    }
    whole = here(order(weights, shapes, tmp_path / "whole", **facts))
    killed = order(weights, shapes, tmp_path / "killed", **facts)
    assert run_until(killed, after(1, 0.5)) is None
    ended = run_until(killed, lambda body: False)
    assert ended
    assert checkpoint_tensors(tmp_path / "whole") == checkpoint_tensors(tmp_path / "killed")
    assert [each.val_accuracy for each in ended.result.epochs] == [each.val_accuracy for each in whole.result.epochs]


def test_one_that_asks_for_too_much_memory_is_told_so(weights: Path, data: Checked, tmp_path: Path) -> None:
    """Half a gigabyte beside the libraries; a step of 32 images of 512 pixels takes some."""
    hyperparams = HyperParameters(batch_size=32, image_size=512)
    asked = order(weights, data, tmp_path / "run", max_epochs=1, hyperparams=hyperparams)
    limits = child.Limits(wall_s=LIMITS.wall_s, memory_mb=LIBRARIES_MB + 512)
    with pytest.raises(errors.TooLarge, match="Order with a smaller batch_size"):
        child.run("trainer.enclosed", asked, Trained, limits=limits)


def test_what_it_makes_is_described_like_an_upload(weights: Path, data: Checked, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    said: list[dict[str, Any]] = []
    with Outputs("tests") as outputs:
        fds = {"onnx": outputs.stage("onnx", store), "weights": outputs.stage("weights", store)}
        asked = order(weights, data, tmp_path / "run", max_epochs=2, outputs=fds)
        made = child.run(
            "trainer.enclosed", asked, Trained, limits=LIMITS, pass_fds=outputs.fds, on_progress=said.append
        )
        onnx, kept = (store.path(outputs.publish(name).sha256) for name in ("onnx", "weights"))
    assert made.facts and [each.batch for each in made.facts.parity] == [1, 2, 8]
    assert metadata.contract_in(metadata.read(onnx)) == CONTRACT == made.preprocessing
    assert metadata.labels_in(metadata.read(onnx)) == LABELS
    assert [body["checkpoint"] for body in said if "checkpoint" in body] == [1, 2]
    assert [file.name for file in (tmp_path / "run").iterdir()] == [CHECKPOINT]
    with Outputs("tests") as outputs:
        describe = DescribeOrder(
            path=str(onnx),
            task_type="classification",
            preprocessing=None,
            labels=None,
            input_shape=None,
            outputs={"onnx": outputs.stage("onnx", store)},
        )
        found = child.run("preparer.enclosed", describe, ModelDescription, limits=LIMITS, pass_fds=outputs.fds)
    assert (found.preprocessing, found.labels, found.dynamic_batch) == (CONTRACT, LABELS, True)
    assert made.description == found

    from shared.nets import weights as files

    net, about = files.kept(kept)
    assert (about.architecture, about.num_classes, about.input_shape) == ("cnn32", 2, (3, 8, 8))
    assert all(np.isfinite(value.numpy()).all() for value in net.module.state_dict().values())


@pytest.mark.parametrize("engine", ["openvino", "pytorch"])
def test_what_a_network_takes_is_measured_at_each_size(
    engine: EngineName, weights: Path, data: Checked, tmp_path: Path
) -> None:
    training = order(weights, data, tmp_path / "run")
    asked = LatencyOrder(training=training, image_sizes=(64, SIDE), engine=engine, threads=1)
    found = child.run("trainer.latency", asked, Latencies, limits=PATIENT)
    assert (found.engine, found.device, found.threads) == (engine, "CPU", 1)
    small, large = found.sizes
    assert (small.image_size, large.image_size, len(small.rounds_ms)) == (SIDE, 64, latency.ROUNDS)
    assert 0 < small.latency_ms == min(small.rounds_ms)
    assert small.latency_ms < large.latency_ms, "sixty-four times the pixels"


def test_what_cannot_be_measured_says_why(data: Checked, tmp_path: Path) -> None:
    fixed = weights_file(tmp_path, "timm/vit_tiny_patch16_224", 2, 224)
    training = order(fixed, data, tmp_path / "run", preprocessing=None)
    asked = LatencyOrder(training=training, image_sizes=(64, 224), engine="tensorrt")
    with pytest.raises(errors.EngineUnavailable, match="tensorrt cannot run here: "):
        child.run("trainer.latency", asked, Latencies, limits=PATIENT)
    with pytest.raises(errors.InvalidInput, match="cannot be trained at image_size 64"):
        child.run("trainer.latency", msgspec.structs.replace(asked, engine="onnxruntime"), Latencies, limits=PATIENT)
