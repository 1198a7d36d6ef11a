"""The benchmarker process: measures candidates in a child that holds the accelerator slots, then orders the report."""

from __future__ import annotations

import sys

import msgspec

from benchmarker import Measured, MeasureOrder
from shared import child, config, ids, process
from shared.artifacts import ArtifactStore, Outputs
from shared.db import jobs, registry
from shared.db.tables import Benchmark, BenchmarkResult
from shared.specs import BenchmarkSpec, MeasuredModel, ReportSpec
from shared.worker import Commit, JobWorker


class Measure:
    """Runs a benchmark and keeps every raw sample."""

    module = "benchmarker.child"
    result_type = Measured

    def __init__(self, settings: config.Settings) -> None:
        self._models = ArtifactStore(settings.models)
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
            model=model,
            dynamic_batch=description.dynamic_batch,
            config=spec,
        )
        return order, child.Limits(wall_s=job.max_runtime_s)

    def finish(self, job: jobs.Claimed, result: Measured, outputs: Outputs) -> Commit:
        """Keep the measurements; rows for history and a report job follow in the finishing transaction."""

        def commit() -> None:
            registry.keep_artifact(result.measurements, "reports")
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

    def give_up(self, job: jobs.Claimed, reason: str) -> None:
        """A benchmark without measurements leaves no rows behind."""


def main(settings: config.Settings, stop: process.Stop) -> None:
    """Serve the accelerator lane until asked to stop; the index comes from the command line."""
    JobWorker(settings, f"benchmarker-{sys.argv[1]}", "accelerator", {"benchmark": Measure(settings)}).run(stop)


if __name__ == "__main__":
    process.service(f"benchmarker-{sys.argv[1]}", main)
