"""What a trainer does with a claimed job: the child's order, the epochs it tells of, and the model in the end."""

from __future__ import annotations

import contextlib
import logging
import shutil
from pathlib import Path
from typing import Any

import msgspec
import psutil

from shared import child, config, errors, nets
from shared.artifacts import ArtifactStore, Outputs
from shared.db import jobs, registry, searches, trainings
from shared.specs import EpochFigures, MeasureSpec, ReportSpec, TrainingSpec, TrialSpec
from shared.trials import Latencies
from shared.worker import Commit
from trainer import LatencyOrder, Trained, TrainOrder, enclosed

LIBRARIES_MB = 3072
"""Addresses that PyTorch maps and never uses: with its threads 3.5 GB, of which 0.7 are in memory."""

logger = logging.getLogger(__name__)


class Orders:
    """What every order of a trainer is made from."""

    def __init__(self, settings: config.Settings) -> None:
        self._models = ArtifactStore(settings.models)
        self._datasets = ArtifactStore(settings.datasets)
        self._folders = settings.training
        self._gpu_memory_mb = settings.gpu_memory_mb or None
        self._memory_mb = _share_of_memory(settings.max_gpu_workers)

    def _limits(self, job: jobs.Claimed) -> child.Limits:
        return child.Limits(wall_s=job.max_runtime_s, memory_mb=self._memory_mb)

    def _order(self, spec: TrainingSpec, folder: Path) -> TrainOrder:
        """The order without outputs. Rows may have changed since it was accepted, so they are checked again."""
        if lacks := nets.missing("order again"):
            raise errors.Conflict(lacks)
        model, dataset = trainings.check(spec)
        description = registry.described(model)
        return TrainOrder(
            spec=spec,
            weights=str(self._models.path(str(model.weights_sha256))),  # a model that can be trained has them
            labels=description.labels,
            preprocessing=description.preprocessing,
            index=str(self._datasets.path(str(dataset.index_sha256))),
            pack=str(self._datasets.path(str(dataset.pack_sha256))),
            folder=str(folder),
            gpu_memory_mb=self._gpu_memory_mb,
        )


class Train(Orders):
    """Trains a model on a dataset; what comes of it is another model."""

    module = "trainer.enclosed"
    result_type = Trained

    def order(self, job: jobs.Claimed, outputs: Outputs) -> tuple[msgspec.Struct, child.Limits]:
        """The files of model and dataset, and the folder in which an earlier attempt left its checkpoint."""
        spec = msgspec.json.decode(job.spec, type=TrainingSpec)
        order = self._order(spec, _made(self._folders / job.id))
        lent = {"onnx": outputs.stage("onnx", self._models), "weights": outputs.stage("weights", self._models)}
        return msgspec.structs.replace(order, outputs=lent), self._limits(job)

    def finish(self, job: jobs.Claimed, result: Trained, outputs: Outputs) -> Commit:
        """The new model is ready, and the training names it."""
        spec = msgspec.json.decode(job.spec, type=TrainingSpec)
        sealed = {name: outputs.seal(name) for name in ("onnx", "weights")}
        description = result.description
        assert description is not None  # it had outputs

        def commit() -> None:
            model_id = trainings.add_model(
                job.id,
                spec,
                result.result,
                weights=sealed["weights"],
                onnx=sealed["onnx"],
                description=description,
                architecture=result.architecture,
                conversion=result.facts,
            )
            trainings.finish(job.id, result.result, model_id)
            jobs.insert("report", ReportSpec(training_id=job.id), user_id=job.created_by, parent=job)
            for name in sealed:
                outputs.publish(name)

        return commit

    def give_up(self, job: jobs.Claimed, reason: str) -> None:
        """A training that did not end well leaves its curves, and no model."""


class Try(Train):
    """Trains for a search: for as long as it asks for, from where an earlier trial ended, and only for the figures."""

    def order(self, job: jobs.Claimed, outputs: Outputs) -> tuple[msgspec.Struct, child.Limits]:
        """The same, without files to be made."""
        trial = msgspec.json.decode(job.spec, type=TrialSpec)
        order = self._order(trial.training, self._folder(job.id, trial.continues))
        order = msgspec.structs.replace(order, until_epoch=trial.until_epoch)
        return order, self._limits(job)

    def _folder(self, job_id: str, continues: str | None) -> Path:
        """Its own, or that of the trial it continues, which becomes its own. Where that is gone it begins anew."""
        folder = self._folders / job_id
        if continues is not None and not folder.exists():
            with contextlib.suppress(FileNotFoundError):
                (self._folders / continues).rename(folder)
        return _made(folder)

    def finish(self, job: jobs.Claimed, result: Trained, outputs: Outputs) -> Commit:
        """What it reached; the search is told of it by the coordinator."""
        return lambda: trainings.finish(job.id, result.result)


class Measure(Orders):
    """Measures for a search what its network takes at each image size, before anything is trained."""

    module = "trainer.latency"
    result_type = Latencies

    def order(self, job: jobs.Claimed, outputs: Outputs) -> tuple[msgspec.Struct, child.Limits]:
        """The network as a training would begin with it."""
        spec = msgspec.json.decode(job.spec, type=MeasureSpec)
        order = self._order(spec.training, _made(self._folders / job.id))
        wanted = LatencyOrder(training=order, image_sizes=spec.image_sizes, engine=spec.engine)
        return wanted, self._limits(job)

    def finish(self, job: jobs.Claimed, result: Latencies, outputs: Outputs) -> Commit:
        """The search goes on with them."""
        spec = msgspec.json.decode(job.spec, type=MeasureSpec)
        return lambda: searches.keep_latencies(spec.search_id, result)

    def give_up(self, job: jobs.Claimed, reason: str) -> None:
        """The coordinator sees it, and ends the search."""


def _share_of_memory(slots: int) -> int | None:
    """Addresses in MB that a training may take, so that one that asks for more than its slot's part of the machine's
    memory is told so and halves its batches. None where there is a GPU, whose driver maps as many as it likes.
    """
    return None if enclosed.with_gpu() else psutil.virtual_memory().total // 2**20 // slots + LIBRARIES_MB


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise errors.Unavailable(
            f"No folder for checkpoints can be made ({error.strerror}); see `cvp doctor`."
        ) from error
    return folder


def keep_epoch(job: jobs.Claimed, body: dict[str, Any]) -> None:
    """Store what a training tells after an epoch. What the database does not take is stored at the end.

    Raises:
        jobs.Fenced: The job is no longer ours.
    """
    if "figures" not in body:
        return
    try:
        trainings.keep_epoch(job, msgspec.convert(body["figures"], EpochFigures))
    except errors.Unavailable as error:
        logger.warning("the figures of an epoch were not stored", extra={"error": error.message})


def sweep(folders: Path) -> None:
    """Remove the checkpoints of trainings that have ended, however they did."""
    try:
        found = {path.name: path for path in folders.iterdir()} if folders.is_dir() else {}
        for name in found.keys() - trainings.open_among(found):
            shutil.rmtree(found[name], ignore_errors=True)  # another trainer may be at it as well
    except errors.Unavailable as error:
        logger.warning("checkpoints of ended trainings were not looked for", extra={"error": error.message})
