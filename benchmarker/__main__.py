"""The benchmarker process: measures candidates in a child that holds the accelerator slots, then orders the report."""

from __future__ import annotations

import sys

import msgspec

from benchmarker import DatasetFiles, Measured, MeasureOrder
from shared import child, config, errors, ids, process
from shared.artifacts import ArtifactStore, Outputs
from shared.db import datasets, jobs, registry
from shared.db.tables import Benchmark, BenchmarkResult
from shared.specs import BenchmarkSpec, MeasuredModel, ModelDescription, ReportSpec, Stored
from shared.worker import Commit, JobWorker


class Measure:
    """Runs a benchmark and keeps every raw sample."""

    module = "benchmarker.child"
    result_type = Measured

    def __init__(self, settings: config.Settings) -> None:
        self._models = ArtifactStore(settings.models)
        self._datasets = ArtifactStore(settings.datasets)
        self._reports = ArtifactStore(settings.reports)

    def order(self, job: jobs.Claimed, outputs: Outputs) -> tuple[msgspec.Struct, child.Limits]:
        """The model as it is now, and the benchmark as it was ordered."""
        spec = msgspec.json.decode(job.spec, type=BenchmarkSpec)
        row = registry.model(spec.model_id)
        description = registry.described(row)
        contract = description.preprocessing
        model = msgspec.convert(
            {
                "id": row.id,
                "name": row.name,
                "task_type": row.task_type,
                "sha256": row.onnx_sha256,
                "file_size": row.onnx_size,
                "parameters": description.parameters,
                "inputs": description.inputs,
                "preprocessing_hash": contract.hash if contract else None,
            },
            MeasuredModel,
        )
        order = MeasureOrder(
            id=job.id,
            artifact=str(self._models.path(model.sha256)),
            store=str(self._reports.root),
            models=str(self._models.root),
            model=model,
            description=description,
            config=spec,
            dataset=self._dataset(spec.dataset_id, description) if spec.dataset_id else None,
        )
        return order, child.Limits(wall_s=job.max_runtime_s)

    def _dataset(self, dataset_id: str, description: ModelDescription) -> DatasetFiles:
        row = datasets.find(dataset_id)
        archive = datasets.archive(row.archive_id) if row.archive_id else row
        classes = [count.name for count in row.summary.classes]
        return DatasetFiles(
            id=row.id,
            name=row.name,
            index=str(self._datasets.path(str(row.index_sha256))),  # a ready dataset has one
            index_sha256=str(row.index_sha256),
            pack=str(self._datasets.path(str(row.pack_sha256))),
            archive=str(self._datasets.path(archive.file_sha256)),
            num_test=row.splits["test"],
            classes=classes,
            class_ids=datasets.class_ids(classes, description),
        )

    def finish(self, job: jobs.Claimed, result: Measured, outputs: Outputs) -> Commit:
        """Keep the measurements; rows for history and a report job follow in the finishing transaction."""

        def commit() -> None:
            registry.keep_artifact(result.measurements, "reports")
            for samples in result.golden:
                self._keep_golden(samples)
            Benchmark.update(measurements_sha256=result.measurements.sha256).where(Benchmark.id == job.id).execute()
            columns = BenchmarkResult._meta.fields
            for row in result.rows:
                known = {name: value for name, value in row.items() if name in columns}
                BenchmarkResult.insert(benchmark_id=job.id, **known).execute()
            jobs.insert(
                "report",
                ReportSpec(benchmark_id=job.id),
                user_id=job.created_by,
                job_id=ids.new_id("job"),
                parent=job,
            )

        return commit

    def _keep_golden(self, samples: Stored) -> None:
        """Record golden samples that are in the store.

        Raises:
            errors.Unavailable: Another model with equal ones was deleted since, and its files with it.
        """
        registry.keep_artifact(samples, "models")
        if not self._models.path(samples.sha256).is_file():
            raise errors.Unavailable("The golden samples were removed with another model; benchmark once more.")

    def give_up(self, job: jobs.Claimed, reason: str) -> None:
        """A benchmark without measurements leaves no rows behind."""


def main(settings: config.Settings, stop: process.Stop) -> None:
    """Serve the accelerator lane until asked to stop; the index comes from the command line."""
    JobWorker(settings, f"benchmarker-{sys.argv[1]}", "accelerator", {"benchmark": Measure(settings)}).run(stop)


if __name__ == "__main__":
    process.service(f"benchmarker-{sys.argv[1]}", main)
