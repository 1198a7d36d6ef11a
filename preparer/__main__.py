"""A preparer process: models made ready, datasets checked, deployments tried, in children that shut themselves in."""

from __future__ import annotations

import logging
import sys
from typing import get_args

import msgspec

from preparer import Converted, ConvertOrder, DatasetFile, DatasetOrder
from preparer.activation import Activate, Lookout
from shared import child, config, process, sandbox
from shared.artifacts import ArtifactStore, Outputs
from shared.db import datasets, jobs, registry
from shared.db.tables import Model
from shared.specs import ConvertSpec, DatasetSpec, DatasetSummary, JobKind, Stored
from shared.worker import Commit, Duty, JobWorker

MB = 1024 * 1024
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
    """Makes an uploaded model ready: ONNX whatever it was, with contract and labels inside, and described."""

    module = "preparer.conversion"
    result_type = Converted

    def __init__(self, settings: config.Settings) -> None:
        self._store = ArtifactStore(settings.models)
        self._pretrained = str(settings.pretrained) if settings.preset_weights else None

    def order(self, job: jobs.Claimed, outputs: Outputs) -> tuple[ConvertOrder, child.Limits]:
        """Where the file is, and what its owner said about it."""
        spec = msgspec.json.decode(job.spec, type=ConvertSpec)
        row = registry.model(spec.model_id)
        names = ["onnx"] if row.framework == "onnx" else ["onnx", "converted", "weights"]
        lent = {name: outputs.stage(name, self._store) for name in names}
        facts = {
            "path": str(self._store.path(row.file_sha256)),
            "preset": row.preset,
            "pretrained": self._pretrained,
            "framework": row.framework,
            "task_type": row.task_type,
            "architecture": row.architecture,
            "preprocessing": row.preprocessing,
            "labels": row.labels,
            "input_shape": spec.input_shape,
            "outputs": lent,
            "converted": str(outputs.path("converted")) if "converted" in lent else "",
            "max_runtime_s": job.max_runtime_s,
        }
        return msgspec.convert(facts, ConvertOrder), child.Limits(wall_s=job.max_runtime_s)

    def finish(self, job: jobs.Claimed, result: Converted, outputs: Outputs) -> Commit:
        """The model becomes ready; its upload stays as it came."""
        model_id = msgspec.json.decode(job.spec, type=ConvertSpec).model_id
        conversion = result.conversion
        architecture = conversion.architecture if conversion else None
        trainable = architecture is not None
        sealed = {name: outputs.seal(name) for name in (["onnx", "weights"] if trainable else ["onnx"])}

        def commit() -> None:
            changed = (
                Model.update(
                    status="ready",
                    onnx_sha256=sealed["onnx"].sha256,
                    onnx_size=sealed["onnx"].size_bytes,
                    weights_sha256=sealed["weights"].sha256 if trainable else None,
                    labels=result.description.labels,
                    conversion=conversion.facts if conversion else None,
                    architecture=architecture.name if architecture else Model.architecture,
                    description_json=result.description,
                )
                .where((Model.id == model_id) & Model.deleted_at_ms.is_null())
                .execute()
            )
            if changed:  # one that was deleted meanwhile needs no files
                for name, stored in sealed.items():
                    registry.keep_artifact(stored, "models")
                    outputs.publish(name)
            registry.bump("models")

        return commit

    def give_up(self, job: jobs.Claimed, reason: str) -> None:
        """The model failed, with the reason; the upload itself is kept."""
        model_id = msgspec.json.decode(job.spec, type=ConvertSpec).model_id
        registry.set_failed(model_id, reason)


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
        files: dict[str, Stored] = {name: outputs.seal(name) for name in DATASET_FILES}

        def commit() -> None:
            if datasets.finish(_dataset_of(job), result, files):
                for name in files:
                    outputs.publish(name)

        return commit

    def give_up(self, job: jobs.Claimed, reason: str) -> None:
        """The dataset failed, with the reason; the upload itself is kept."""
        datasets.fail(_dataset_of(job), reason)


def _dataset_of(job: jobs.Claimed) -> str:
    return msgspec.json.decode(job.spec, type=DatasetSpec).dataset_id


def main(settings: config.Settings, stop: process.Stop) -> None:
    """Serve the CPU lane until asked to stop; the index comes from the command line."""
    name = f"preparer-{sys.argv[1]}"
    if lacks := sandbox.missing():
        logger.warning("uploads are checked without the whole sandbox: %s", "; ".join(lacks))
    if leftovers := sum(ArtifactStore(root).clear_staging(name) for root in (settings.models, settings.datasets)):
        logger.info("removed what an interrupted check left behind", extra={"files": leftovers})
    duties: dict[JobKind, Duty] = {
        "convert": Convert(settings),
        "dataset": CheckDataset(settings),
        "activate": Activate(settings),
    }
    JobWorker(settings, name, "cpu", duties, between=Lookout().look).run(stop)


if __name__ == "__main__":
    process.service(f"preparer-{sys.argv[1]}", main)
