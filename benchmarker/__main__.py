"""The benchmarker process: measures candidates in a child that holds the accelerator slots, then orders the report."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import msgspec

from benchmarker import DatasetFiles, Measured, MeasureOrder, ServiceAccess
from benchmarker.candidates import precisions
from shared import apikeys, child, clock, config, errors, gpu, ids, process
from shared.artifacts import ArtifactStore, Outputs
from shared.db import accounts, benchmarks, datasets, jobs, registry
from shared.db.tables import Benchmark, BenchmarkResult
from shared.machine import system_info
from shared.specs import BenchmarkSpec, MeasuredModel, ModelDescription, PreparedFile, ReportSpec, Stored
from shared.worker import Commit, JobWorker

logger = logging.getLogger(__name__)


class Measure:
    """Runs a benchmark and keeps every raw sample."""

    module = "benchmarker.child"
    result_type = Measured

    def __init__(self, settings: config.Settings) -> None:
        self._models = ArtifactStore(settings.models)
        self._datasets = ArtifactStore(settings.datasets)
        self._reports = ArtifactStore(settings.reports)
        self._settings = settings

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
        made = [each for each in precisions(spec, gpu=gpu.described() is not None) if each != "fp32"]
        order = MeasureOrder(
            id=job.id,
            artifact=str(self._models.path(model.sha256)),
            weights=str(self._models.path(row.weights_sha256)) if row.weights_sha256 else None,
            store=str(self._reports.root),
            model=model,
            description=description,
            config=spec,
            dataset=self._dataset(spec.dataset_id, description) if spec.dataset_id else None,
            models=str(self._models.root),
            known=registry.engine_files(row.id),
            outputs={precision: outputs.stage(precision, self._models) for precision in made},
            staged={precision: str(outputs.path(precision)) for precision in made},
            incumbent=registry.incumbent(row.id),
            jpeg_scale=registry.serves(row.id, description).jpeg_scale,
            noise_floor=benchmarks.noise_floor(system_info().fingerprint),
            broker=self._settings.broker_endpoint,
            service=self._access(job) if spec.service_load else None,
        )
        return order, child.Limits(wall_s=job.max_runtime_s)

    def _access(self, job: jobs.Claimed) -> ServiceAccess | None:
        """Where the service listens, and a key for it that is made for this attempt and ends with it."""
        if job.created_by is None:
            return None
        key = apikeys.new_key()
        expires_at_ms = clock.now_ms() + int(1000 * job.max_runtime_s)
        accounts.add_job_key(job.id, job.created_by, apikeys.fingerprint(key), expires_at_ms)
        settings = self._settings
        return ServiceAccess(
            host=settings.local_host,
            port=settings.port,
            certificate=str(Path(settings.tls_cert).absolute()) if settings.tls_enabled else None,
            key=key,
        )

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
        """Keep the measurements and the files that were made; rows for history and a report job follow."""
        model_id = msgspec.json.decode(job.spec, type=BenchmarkSpec).model_id
        new = [file for file in result.files if not file.reused]
        for file in new:
            _check(outputs.seal(file.precision), file)

        def commit() -> None:
            registry.keep_artifact(result.measurements, "reports")
            for samples in result.golden:
                self._keep_golden(samples)
            for file in new:
                registry.keep_engine_file(model_id, file)
                outputs.publish(file.precision)
            Benchmark.update(measurements_sha256=result.measurements.sha256).where(Benchmark.id == job.id).execute()
            columns = BenchmarkResult._meta.fields
            for row in result.rows:
                known = {name: value for name, value in row.items() if name in columns}
                BenchmarkResult.insert(benchmark_id=job.id, **known).execute()
            if result.noise_floor:
                benchmarks.remember_noise_floor(result.noise_floor)
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


def _check(sealed: Stored, file: PreparedFile) -> None:
    """What is served must be what was measured.

    Raises:
        errors.Unavailable: The file changed after it was measured.
    """
    if sealed.sha256 != file.sha256:
        raise errors.Unavailable(f"The {file.precision.upper()} file changed while it was measured.")


def between() -> None:
    """Take back the keys of attempts that are over: ended, cancelled, stopped, or lost with their worker."""
    try:
        accounts.drop_job_keys()
    except errors.Unavailable as error:
        logger.warning("the keys of ended jobs were not looked for", extra={"error": error.message})


def main(settings: config.Settings, stop: process.Stop) -> None:
    """Serve the accelerator lane until asked to stop; the index comes from the command line."""
    name = f"benchmarker-{sys.argv[1]}"
    if leftovers := ArtifactStore(settings.models).clear_staging(name):
        logger.info("removed what an interrupted benchmark left behind", extra={"files": leftovers})
    JobWorker(settings, name, "accelerator", {"benchmark": Measure(settings)}, between).run(stop)


if __name__ == "__main__":
    process.service(f"benchmarker-{sys.argv[1]}", main)
