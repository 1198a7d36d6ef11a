"""The benchmarker process: measures candidates in a child that holds the accelerator slots, then orders the report."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec

from benchmarker.measure import MeasureOrder
from shared import child, config, errors, ids, process
from shared.artifacts import ArtifactStore
from shared.db import jobs, registry
from shared.db.tables import Benchmark, BenchmarkResult
from shared.specs import BenchmarkSpec, Lane, MeasuredModel, MeasurementSet, ReportSpec, canonical_json
from shared.verdict.metrics import summarise
from shared.worker import Commit, JobWorker


class Measure:
    """Runs a benchmark and keeps every raw sample."""

    module = "benchmarker.child"
    result_type = MeasurementSet

    def __init__(self, settings: config.Settings) -> None:
        self._models = ArtifactStore(settings.models)
        self._reports = ArtifactStore(settings.reports)

    def order(self, job: jobs.Claimed) -> tuple[msgspec.Struct, child.Limits]:
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
            model=model,
            dynamic_batch=description.dynamic_batch,
            config=spec,
        )
        return order, child.Limits(wall_s=job.max_runtime_s)

    def finish(self, job: jobs.Claimed, result: MeasurementSet) -> Commit:
        """Store the measurements; rows for history and a report job follow in the finishing transaction."""
        if not any(series.status == "measured" for series in result.series):
            raise errors.EngineUnavailable(_nothing_measured(result))
        stored = self._reports.put(canonical_json(result))

        def commit() -> None:
            registry.keep_artifact(stored, "reports")
            Benchmark.update(measurements_sha256=stored.sha256).where(Benchmark.id == job.id).execute()
            BenchmarkResult.insert_many(_rows(result)).execute()
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

    def rings(self) -> Sequence[Lane]:
        """A report follows."""
        return ("report",)


def _rows(result: MeasurementSet) -> list[dict[str, object]]:
    columns = BenchmarkResult._meta.fields
    return [
        {
            "benchmark_id": result.id,
            "status": series.status,
            "reason": series.reason,
            **msgspec.structs.asdict(series.candidate),
            **{name: metric.value for name, metric in summarise(series).items() if name in columns},
        }
        for series in result.series
    ]


def _nothing_measured(result: MeasurementSet) -> str:
    reasons = "; ".join(f"{series.candidate.key}: {series.reason}" for series in result.series)
    return f"No candidate could be measured on this machine. {reasons}"


def main(settings: config.Settings, stop: process.Stop) -> None:
    """Serve the accelerator lane until asked to stop; the index comes from the command line."""
    JobWorker(settings, f"benchmarker-{sys.argv[1]}", "accelerator", {"benchmark": Measure(settings)}).run(stop)


if __name__ == "__main__":
    process.service(f"benchmarker-{sys.argv[1]}", main)
