"""The whole mission on real input, printed as it goes: from images to a trained model, measured, chosen, serving."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import click
import msgspec

from console import printout
from console.client import Client, Json, ended_badly
from console.job import EXAMPLE, decided, predict, save, sign_in, taken_back, typed
from console.jobs import progress
from console.screen import Screen
from shared import config, errors, nets
from shared.genes import SearchSpec, TrainingOrder
from shared.specs import BenchmarkSpec, Constraint, DeploymentOrder, HyperParameters, TrainingResult
from shared.trials import Outcome
from shared.verdict.figures import plural
from shared.verdict.report import Report

PRESET = "cnn32"
DATASET_NAME = "digits (demo)"
MODEL_NAME = "digits, learned here (demo)"
WRITING_BOUND_S = 60.0
CHECK_BOUND_S = 600.0
"""Of the dataset and of the preset; conversions of others may be ahead, and PyTorch is slow to load."""

TRAINING_BOUND_S = 1800.0
ACTIVATION_BOUND_S = 300.0
TAKE_OVER_S = 30.0


def whole_mission(settings: config.Settings, screen: Screen, fresh: bool) -> None:
    """Sign in, upload the data, train, measure with INT8, choose, activate, predict."""
    screen.line()
    screen.line(
        "The whole mission on real input: from images of digits to the fastest model that still knows them", "bold"
    )
    with Client(settings, sign_in(settings, screen)) as client:
        dataset = _dataset(client, settings, screen)
        spec = training_order(_preset(client, screen)["id"], dataset["id"])
        model_id, training_id = _trained(client, spec, screen, fresh)
        _save_training_report(client, training_id, settings, screen)
        report = decided(client, order(model_id, dataset["id"]), screen, fresh)
        _activate(client, model_id, report, screen)
        save(client, report, settings, screen)
        predict(client, model_id, screen)


def require_pytorch() -> None:
    """Raises click.ClickException where nothing could be trained here, with what to do."""
    if lacks := nets.missing("try again"):
        raise click.ClickException(f"{lacks} It takes some 5 GB; `make run` shows what there is without it.")


def training_order(model_id: str, dataset_id: str) -> TrainingOrder:
    """What is trained: at 16 x 16, twice the digits' own size and a quarter of the preset's work; a search of eight."""
    return TrainingOrder(
        model_id=model_id,
        dataset_id=dataset_id,
        max_epochs=4,
        name=MODEL_NAME,
        hyperparams=HyperParameters(image_size=16),
        ga=SearchSpec(population_size=4, generations=2, finalists=0),
    )


def order(model_id: str, dataset_id: str) -> BenchmarkSpec:
    """What is measured: FP32 and INT8, judged on the part test, with a limit that a digit classifier should keep."""
    return BenchmarkSpec(
        model_id=model_id,
        dataset_id=dataset_id,
        batch_sizes=(1,),
        num_iterations=10_000,
        max_seconds=10,
        constraints=(Constraint(metric="latency_p95_ms", op="<=", value=5),),
    )


def _dataset(client: Client, settings: config.Settings, screen: Screen) -> Json:
    """The digits as a ready dataset: the one uploaded earlier, if it is the same file."""
    folder = settings.root / "demo"
    folder.mkdir(exist_ok=True)
    path = _written(folder / "digits.zip")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    for dataset in client.items("datasets", name=DATASET_NAME, status="ready"):
        if dataset["sha256"] == sha256:
            screen.step("dataset", f"not needed: {path.name} is {dataset['id']} already")
            return dataset
    fields = {"name": DATASET_NAME, "task_type": "classification", "description": "Uploaded by `cvp demo --train`."}
    size = path.stat().st_size
    with screen.bar("dataset") as advance:
        dataset = client.upload("datasets", path, fields, lambda sent: advance(sent / size, "upload"))
        client.wait_for_job(dataset["job_id"], CHECK_BOUND_S, lambda state: advance(*progress(state)))
    dataset = client.item("datasets", dataset["id"])
    if dataset["status"] != "ready":
        raise errors.BadDataset(f"The digits were refused: {dataset['error']}")
    parts = ", ".join(f"{dataset['splits'][part]:,} {part}" for part in ("train", "val", "test"))
    screen.step("dataset", f"{typed(path)}, {size / 1000:.0f} kB, checked and divided: {parts}")
    return dataset


def _written(path: Path) -> Path:
    """The digits as a ZIP, by the example's own script: scikit-learn, which has them, is none of ours."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "dataset.py"), str(path)],
        capture_output=True,
        text=True,
        timeout=WRITING_BOUND_S,
        check=False,
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise click.ClickException(f"The digits cannot be written ({reason}): run `make setup-train` and try again.")
    return path


def _preset(client: Client, screen: Screen) -> Json:
    """The network to train, once it is prepared."""
    found = [model for model in client.items("models", name=PRESET) if model["model_type"] == "preset"]
    if not found:
        raise click.ClickException(
            f"The preset {PRESET} is not here: PRESETS=false keeps all of them out, and `POST /api/v1/models/presets/"
            f"{PRESET}` brings back one that was deleted."
        )
    with screen.waiting("network") as say:
        say(f"{PRESET} is being prepared")
        model = client.wait_for_model(found[0]["id"], CHECK_BOUND_S)
    screen.step("network", f"{PRESET}, {model['preset']['parameters']:,} weights: {model['preset']['weights']}")
    return model


def _trained(client: Client, spec: TrainingOrder, screen: Screen, fresh: bool) -> tuple[str, str]:
    """The model that the training makes, or made earlier, and the training."""
    if not fresh and (earlier := _earlier(client, spec)):
        screen.step("training", f"reused: model {earlier[0]}, of the same order (--fresh trains again)")
        return earlier
    job = client.train(spec)
    with taken_back(client, screen, "training", job["id"]), screen.bar("training") as advance:
        job = client.wait_for_job(job["id"], TRAINING_BOUND_S, lambda state: advance(*progress(state)))
    if job["status"] != "completed":
        raise errors.EngineFailed(ended_badly(f"Training {job['id']}", job))
    done = client.training(job["id"])
    result = msgspec.convert(done["result"], TrainingResult)
    epochs = plural(len(result.epochs), "epoch")
    screen.step("training", f"{epochs} over {result.num_train:,} images; a new model: {done['result_model_id']}")
    if done["search"]:
        printout.search(msgspec.convert(done["search"]["outcome"], Outcome), screen)
    printout.training(result, screen)
    return str(done["result_model_id"]), str(done["id"])


def _save_training_report(client: Client, training_id: str, settings: config.Settings, screen: Screen) -> None:
    """The report of the training, beside where that of the benchmark will be."""
    with screen.waiting("report") as say:
        say("of the training, being written")
        done = client.wait_for_training_report(training_id)
    if not done["report"] or done["report"]["status"] != "completed":
        screen.step("report", "none of the training; `cvp logs reporter` tells why")
        return
    path = settings.root / "demo" / "training.html"
    path.write_bytes(client.training_report(training_id, "html"))
    screen.step("report", f"{typed(path)}: what was learned, whether that is enough, what to do next")


def _earlier(client: Client, spec: TrainingOrder) -> tuple[str, str] | None:
    """The latest training with the same order, after its model, if that is still there."""
    for done in client.trainings(model_id=spec.model_id, dataset_id=spec.dataset_id, status="completed"):
        if msgspec.convert(done["config"] | {"ga": done["ga"]}, TrainingOrder) != spec:
            continue
        try:
            return str(client.item("models", done["result_model_id"])["id"]), str(done["id"])
        except errors.NotFound:
            return None
    return None


def _activate(client: Client, model_id: str, report: Report, screen: Screen) -> None:
    """Let the choice serve, if there is one."""
    if report.decision.selected is None:
        screen.step("activation", "nothing was chosen, so ONNX Runtime serves in FP32")
        return
    client.deploy(model_id, DeploymentOrder(report_id=report.id))
    with screen.waiting("activation") as say:
        say("tried in a process of its own, with the benchmark's golden samples")
        found = client.wait_for_deployment(model_id, ACTIVATION_BOUND_S, TAKE_OVER_S)
    if found["status"] == "failed":
        raise errors.EngineFailed(f"The choice cannot serve: {found['error']}")
    screen.step("activation", f"served by {printout.serving(found['serves'])}")
