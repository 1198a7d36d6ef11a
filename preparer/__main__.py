"""The preparer process: model conversion, in a locked-down child a model."""

from __future__ import annotations

import logging

import msgspec

from preparer import DescribeOrder
from shared import child, config, process, sandbox
from shared.artifacts import ArtifactStore, Outputs
from shared.db import jobs, registry
from shared.db.tables import Model
from shared.specs import ConvertSpec, ModelDescription
from shared.worker import Commit, JobWorker

MB = 1024 * 1024
BASE_S = 60
SECONDS_PER_MB = 0.5
"""A gigabyte takes some 15 s here; a small file that takes a minute is up to no good, and others wait behind it."""

BASE_MEMORY_MB = 4096
MEMORY_PER_MB = 6
"""A model is held several times over: file bytes, parsed graph, checked copy, engine weights and their packed form."""

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


def main(settings: config.Settings, stop: process.Stop) -> None:
    """Serve the CPU lane until asked to stop."""
    if lacks := sandbox.missing():
        logger.warning("uploads are checked without the whole sandbox: %s", "; ".join(lacks))
    JobWorker(settings, "preparer", "cpu", {"convert": Convert(settings)}).run(stop)


if __name__ == "__main__":
    process.service("preparer", main)
