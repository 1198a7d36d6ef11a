"""The reporter process: decides over finished measurements, writes the reports in a child each, and keeps house."""

from __future__ import annotations

import msgspec

from reporter import WriteOrder, Written
from reporter.housekeeping import Housekeeping
from shared import child, clock, config, errors, process
from shared.artifacts import ArtifactStore, Outputs
from shared.db import connection, jobs, registry
from shared.db.tables import Benchmark, Report
from shared.specs import JobKind, ReportSpec
from shared.worker import Commit, Duty, JobWorker

MEMORY_MB = 4096
MOST_EARLIER = 39
"""Reports that the page over time shows beside the new one."""


class WriteReport:
    """Turns a measurement set into a report record and its renderings."""

    module = "reporter.write"
    result_type = Written

    def __init__(self, settings: config.Settings) -> None:
        self._store = ArtifactStore(settings.reports)

    def order(self, job: jobs.Claimed, outputs: Outputs) -> tuple[msgspec.Struct, child.Limits]:
        """Where the measurements are and where the files go."""
        benchmark = _benchmark(job)
        report_id = f"rep_{benchmark.id.partition('_')[2]}"
        order = WriteOrder(
            report_id=report_id,
            measurements=str(self._store.path(str(benchmark.measurements_sha256))),
            earlier=[str(self._store.path(sha256)) for sha256 in _earlier(benchmark.model_id, report_id)],
            store=str(self._store.root),
        )
        return order, child.Limits(wall_s=job.max_runtime_s, memory_mb=MEMORY_MB, cpu_s=int(job.max_runtime_s))

    def finish(self, job: jobs.Claimed, result: Written, outputs: Outputs) -> Commit:
        """The report exists from now on; a repeated job finds it written already."""
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

    def give_up(self, job: jobs.Claimed, reason: str) -> None:
        """The benchmark stands without a report; the job's error says why."""


def _benchmark(job: jobs.Claimed) -> Benchmark:
    benchmark_id = msgspec.json.decode(job.spec, type=ReportSpec).benchmark_id
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
