"""The reporter process: decides over finished measurements, writes the reports in a child each, and keeps house."""

from __future__ import annotations

from typing import cast

import msgspec

from reporter import ReportOrder, SearchRecord, TrainingOrder, TrainingRecord, WriteOrder, Written
from reporter.housekeeping import Housekeeping
from shared import child, clock, config, errors, process
from shared.artifacts import ArtifactStore, Outputs
from shared.db import connection, jobs, registry, searches
from shared.db.tables import Benchmark, Dataset, Job, Model, Report, Training, TrainingReport
from shared.genes import TrainingOrder as OrderedTraining
from shared.specs import JobKind, ReportSpec, Task, TrialSpec
from shared.trials import Order, Outcome
from shared.worker import Commit, Duty, JobWorker

MEMORY_MB = 4096
TRAINING_FILES = ("report.html", "report.json")
MOST_EARLIER = 39
"""Reports that the page over time shows beside the new one."""


class WriteReport:
    """Turns a measurement set, or the result of a training, into a report record and its renderings."""

    module = "reporter.write"
    result_type = Written

    def __init__(self, settings: config.Settings) -> None:
        self._store = ArtifactStore(settings.reports)
        self._datasets = ArtifactStore(settings.datasets)

    def order(self, job: jobs.Claimed, outputs: Outputs) -> tuple[msgspec.Struct, child.Limits]:
        """What is to be told, and where the files go."""
        training_id = _spec(job).training_id
        order = (
            ReportOrder(benchmark=self._of_benchmark(job))
            if training_id is None
            else ReportOrder(training=self._of_training(training_id, outputs))
        )
        return order, child.Limits(wall_s=job.max_runtime_s, memory_mb=MEMORY_MB, cpu_s=int(job.max_runtime_s))

    def _of_benchmark(self, job: jobs.Claimed) -> WriteOrder:
        benchmark = _benchmark(job)
        report_id = f"rep_{benchmark.id.partition('_')[2]}"
        return WriteOrder(
            report_id=report_id,
            measurements=str(self._store.path(str(benchmark.measurements_sha256))),
            earlier=[str(self._store.path(sha256)) for sha256 in _earlier(benchmark.model_id, report_id)],
            store=str(self._store.root),
        )

    def _of_training(self, training_id: str, outputs: Outputs) -> TrainingOrder:
        record, dataset = _told(training_id)
        index, pack = (
            None if dataset is None or not sha256 else str(self._datasets.path(sha256))
            for sha256 in ((dataset.index_sha256, dataset.pack_sha256) if dataset else (None, None))
        )
        lent = {name: outputs.stage(name, self._store) for name in TRAINING_FILES}
        return TrainingOrder(record=record, index=index, pack=pack, outputs=lent)

    def finish(self, job: jobs.Claimed, result: Written, outputs: Outputs) -> Commit:
        """The report exists from now on; a repeated job finds it written already."""
        if _spec(job).training_id is not None:
            return self._finish_training(result, outputs)
        benchmark = _benchmark(job)

        def commit() -> None:
            for stored in result.files.values():
                registry.keep_artifact(stored, "reports")
            Report.insert(
                id=result.report_id,
                benchmark_id=benchmark.id,
                model_id=benchmark.model_id,
                selected_engine=result.selected_engine,
                content_sha256=result.content_sha256,
                files={name: stored.sha256 for name, stored in result.files.items()},
                created_at_ms=clock.now_ms(),
            ).on_conflict_ignore().execute()

        return commit

    def _finish_training(self, result: Written, outputs: Outputs) -> Commit:
        sealed = {name: outputs.seal(name) for name in TRAINING_FILES}

        def commit() -> None:
            for name, stored in sealed.items():
                registry.keep_artifact(stored, "reports")
                outputs.publish(name)
            TrainingReport.insert(
                training_id=result.report_id,
                content_sha256=result.content_sha256,
                files={name: stored.sha256 for name, stored in sealed.items()},
                created_at_ms=clock.now_ms(),
            ).on_conflict_ignore().execute()

        return commit

    def give_up(self, job: jobs.Claimed, reason: str) -> None:
        """Benchmark or training stand without a report; the job's error says why."""


def _spec(job: jobs.Claimed) -> ReportSpec:
    return msgspec.json.decode(job.spec, type=ReportSpec)


def _told(training_id: str) -> tuple[TrainingRecord, Dataset | None]:
    """All there is to tell of a training, and its dataset unless that was deleted."""
    with connection.read():
        row = Training.get_or_none(Training.id == training_id)
        if row is None or row.result is None:
            raise errors.NotFound(f"Training {training_id} has no result to report on.")
        model = Model.get_by_id(row.model_id)
        dataset = Dataset.get_by_id(row.dataset_id)
        earlier = _earlier_training(row)
    before = None if earlier is None else _recorded(earlier, model, dataset)
    record = msgspec.structs.replace(_recorded(row, model, dataset), before=before)
    return record, None if dataset.deleted_at_ms else dataset


def _earlier_training(row: Training) -> Training | None:
    """The last one of the same model and dataset that reached something, but for trials."""
    alike = (Training.model_id == row.model_id) & (Training.dataset_id == row.dataset_id)
    done = Training.result.is_null(False) & Training.search_id.is_null() & (Training.id < row.id)
    found: Training | None = Training.select().where(alike & done).order_by(Training.id.desc()).first()
    return found


def _recorded(row: Training, model: Model, dataset: Dataset) -> TrainingRecord:
    with connection.read():
        job = Job.get_by_id(row.id)
    is_trial = job.kind == "trial"
    spec = (
        msgspec.convert(job.spec, TrialSpec).training
        if is_trial
        else msgspec.convert(job.spec, OrderedTraining).without_search()
    )
    return TrainingRecord(
        id=row.id,
        created_at=clock.iso(row.created_at_ms),
        task_type=cast(Task, model.task_type),
        model_id=model.id,
        model=model.name,
        dataset_id=dataset.id,
        dataset=dataset.name,
        dataset_sha256=str(dataset.index_sha256),  # it was ready
        result_model_id=row.result_model_id,
        spec=spec,
        result=row.result,
        unlearned=bool(model.conversion and model.conversion.unlearned),
        search=None if is_trial else _search(row.search_id or row.id),
    )


def _search(search_id: str) -> SearchRecord | None:
    """All there is to tell of a search; None for what is none."""
    row = searches.found(search_id)
    if row is None or row.outcome is None:
        return None
    opening, asked = searches.journal(search_id)
    return SearchRecord(
        order=msgspec.json.decode(opening, type=Order),
        told=searches.told(asked),
        outcome=msgspec.json.decode(row.outcome, type=Outcome),
        latencies=searches.latencies(row),
    )


def _benchmark(job: jobs.Claimed) -> Benchmark:
    benchmark_id = _spec(job).benchmark_id
    with connection.read():
        row = Benchmark.get_or_none(Benchmark.id == benchmark_id)
    if row is None or row.measurements_sha256 is None:
        raise errors.NotFound(f"Benchmark {benchmark_id} has no measurements to report on.")
    return row


def _earlier(model_id: str, report_id: str) -> list[str]:
    """The records of the model's newest reports but this one."""
    others = (Report.model_id == model_id) & (Report.id != report_id)
    with connection.read():
        rows = list(Report.select().where(others).order_by(Report.id.desc()).limit(MOST_EARLIER))
    return [row.files["report.json"] for row in rows if "report.json" in row.files]


def main(settings: config.Settings, stop: process.Stop) -> None:
    """Serve the report lane until asked to stop, and tidy up between two reports."""
    duties: dict[JobKind, Duty] = {"report": WriteReport(settings)}
    JobWorker(settings, "reporter", "report", duties, between=Housekeeping(settings).step).run(stop)


if __name__ == "__main__":
    process.service("reporter", main)
