"""The preparer process: checks of models and of datasets, each in a locked-down child."""

from __future__ import annotations

import logging
from typing import get_args

import msgspec

from preparer import DatasetFile, DatasetOrder, DescribeOrder
from shared import child, config, process, sandbox
from shared.artifacts import ArtifactStore, Outputs
from shared.db import datasets, jobs, registry
from shared.db.tables import Model
from shared.specs import ConvertSpec, DatasetSpec, DatasetSummary, ModelDescription, Stored
from shared.worker import Commit, JobWorker

MB = 1024 * 1024
BASE_S = 60
SECONDS_PER_MB = 0.5
"""A gigabyte takes some 15 s here; a small file that takes a minute is up to no good, and others wait behind it."""

BASE_MEMORY_MB = 4096
MEMORY_PER_MB = 6
"""A model is held several times over: file bytes, parsed graph, checked copy, engine weights and their packed form."""

DATASET_BASE_S = 300
DATASET_SECONDS_PER_MB = 2.0
"""A gigabyte of photographs takes a few minutes on two cores; films take the longer the better they are compressed."""

DATASET_MEMORY_MB = 6144
"""Address space, most of it never touched: four images of the most pixels at once, and a million samples."""

DATASET_FILE_MB = 10_240
"""Prepared copies take no more than the largest upload."""

DATASET_CORES = 4
DATASET_FILES: tuple[DatasetFile, ...] = get_args(DatasetFile)

logger = logging.getLogger(__name__)


class Convert:
    """Checks an uploaded model and describes it."""

    module = "preparer.enclosed"
    result_type = ModelDescription

    def __init__(self, settings: config.Settings) -> None:
        self._store = ArtifactStore(settings.models)

    def order(self, job: jobs.Claimed, outputs: Outputs) -> tuple[msgspec.Struct, child.Limits]:
        """Where the file is, and what its owner said about it."""
        spec = msgspec.json.decode(job.spec, type=ConvertSpec)
        row = registry.model(spec.model_id)
        facts = {
            "task_type": row.task_type,
            "preprocessing": row.preprocessing,
            "labels": row.labels,
            "input_shape": spec.input_shape,
        }
        order = msgspec.convert(facts | {"path": str(self._store.path(row.file_sha256))}, DescribeOrder)
        size_mb = row.file_size // MB
        seconds = min(job.max_runtime_s, BASE_S + SECONDS_PER_MB * size_mb)
        memory_mb = BASE_MEMORY_MB + MEMORY_PER_MB * size_mb
        return order, child.Limits(wall_s=seconds, memory_mb=memory_mb, cpu_s=int(seconds), file_mb=1)

    def finish(self, job: jobs.Claimed, result: ModelDescription, outputs: Outputs) -> Commit:
        """The model becomes ready; an ONNX upload is its own ONNX."""
        model_id = msgspec.json.decode(job.spec, type=ConvertSpec).model_id

        def commit() -> None:
            Model.update(
                status="ready",
                onnx_sha256=Model.file_sha256,
                onnx_size=Model.file_size,
                description_json=result,
            ).where(Model.id == model_id).execute()
            registry.bump("models")

        return commit

    def give_up(self, job: jobs.Claimed, reason: str) -> None:
        """The model failed, with the reason; the upload itself is kept."""
        model_id = msgspec.json.decode(job.spec, type=ConvertSpec).model_id
        Model.update(status="failed", error=reason).where(Model.id == model_id).execute()
        registry.bump("models")


class CheckDataset:
    """Checks an uploaded dataset and prepares its images."""

    module = "preparer.enclosed_dataset"
    result_type = DatasetSummary

    def __init__(self, settings: config.Settings) -> None:
        self._store = ArtifactStore(settings.datasets)

    def order(self, job: jobs.Claimed, outputs: Outputs) -> tuple[msgspec.Struct, child.Limits]:
        """Where the upload is and what was asked for; limits by its size, that of a referred archive with it."""
        row = datasets.find(_dataset_of(job))
        archive = datasets.archive(row.archive_id) if row.archive_id else None
        facts = {
            "path": str(self._store.path(row.file_sha256)),
            "images_path": str(self._store.path(archive.file_sha256)) if archive else None,
            "name": row.name,
            "task_type": row.task_type,
            "split": row.split,
            "seed": row.seed,
            "frames_per_second": row.frames_per_second,
            "outputs": {name: outputs.stage(name, self._store) for name in DATASET_FILES},
        }
        size_mb = (row.file_size + (archive.file_size if archive else 0)) // MB
        seconds = min(job.max_runtime_s, DATASET_BASE_S + DATASET_SECONDS_PER_MB * size_mb)
        limits = child.Limits(
            wall_s=seconds,
            memory_mb=DATASET_MEMORY_MB,
            cpu_s=int(seconds * DATASET_CORES),
            file_mb=DATASET_FILE_MB,
        )
        return msgspec.convert(facts, DatasetOrder), limits

    def finish(self, job: jobs.Claimed, result: DatasetSummary, outputs: Outputs) -> Commit:
        """The dataset becomes ready, with index, pack and contact sheet."""
        files: dict[str, Stored] = {name: outputs.publish(name) for name in DATASET_FILES}
        return lambda: datasets.finish(_dataset_of(job), result, files)

    def give_up(self, job: jobs.Claimed, reason: str) -> None:
        """The dataset failed, with the reason; the upload itself is kept."""
        datasets.fail(_dataset_of(job), reason)


def _dataset_of(job: jobs.Claimed) -> str:
    return msgspec.json.decode(job.spec, type=DatasetSpec).dataset_id


def main(settings: config.Settings, stop: process.Stop) -> None:
    """Serve the CPU lane until asked to stop."""
    if lacks := sandbox.missing():
        logger.warning("uploads are checked without the whole sandbox: %s", "; ".join(lacks))
    if leftovers := ArtifactStore(settings.datasets).clear_staging("out"):
        logger.info("removed what an interrupted check left behind", extra={"files": leftovers})
    JobWorker(settings, "preparer", "cpu", {"convert": Convert(settings), "dataset": CheckDataset(settings)}).run(stop)


if __name__ == "__main__":
    process.service("preparer", main)
