"""Slots under random schedules: workers claim, finish, die and come back over a real database and real locks."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from benchmarks.invariants import stories
from shared import clock, config, process, trace, worker
from shared.db import accounts, connection, jobs, tables
from shared.specs import BenchmarkSpec, ConvertSpec, JobKind, Lane, ReportSpec, TrainingSpec

LANES: dict[str, Lane] = {
    "benchmarker-0": "accelerator",
    "benchmarker-1": "accelerator",
    "benchmarker-2": "accelerator",  # one more than there are slots
    "trainer-0": "accelerator",
    "trainer-1": "accelerator",
    "preparer-0": "cpu",
    "preparer-1": "cpu",
    "reporter": "report",
}
KINDS: dict[str, JobKind] = {
    "benchmarker": "benchmark",
    "trainer": "train",
    "preparer": "convert",
    "reporter": "report",
}
SPECS: dict[JobKind, Any] = {
    "benchmark": BenchmarkSpec(model_id="m"),
    "train": TrainingSpec(model_id="m", dataset_id="d", max_epochs=1),
    "convert": ConvertSpec(model_id="m"),
    "report": ReportSpec(benchmark_id="b"),
}
ANY = st.integers(0, len(LANES) - 1)
HOUR_MS = 3_600_000
START_MS = 1_800_000_000_000


class NoDuty:
    """Nothing hangs on these jobs."""

    def give_up(self, job: jobs.Claimed, reason: str) -> None:
        pass


class Worker(worker.JobWorker):
    """The real worker up to the moment it would start a child; the child is a copy of the slots' descriptors."""

    def __init__(self, settings: config.Settings, name: str) -> None:
        self.name, self.lane = name, LANES[name]
        self.duties: dict[Any, Any] = {KINDS[name.partition("-")[0]]: NoDuty()}
        self._run_dir = settings.run
        self._slots = worker.Slots(settings) if self.lane == "accelerator" else None
        self.lock = process.FileLock(settings.run / f"{name}.lock").acquire()
        self.alive = True
        self.job: jobs.Claimed | None = None
        self.child: list[int] = []

    def _execute(
        self, job: jobs.Claimed, held: Sequence[process.FileLock], stop: process.Stop, span: trace.Span
    ) -> None:
        self.job, self.child = job, [os.dup(lock.fd) for lock in held]

    def end_child(self) -> None:
        for fd in self.child:
            os.close(fd)
        self.child = []

    def die(self) -> None:
        self.lock.release()
        self.alive = False


@functools.cache
def _template() -> Path:
    """A migrated database with one user, made once."""
    path = Path(tempfile.mkdtemp(prefix="cvp-slots-")) / "template.db"
    atexit.register(shutil.rmtree, path.parent)
    connection.migrate(path)
    accounts.add_user("root", "unusable", "admin")
    connection.database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.database.close()
    return path


class Platform(RuleBasedStateMachine):
    """Any number of jobs, eight workers, a clock that may jump."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="cvp-slots-"))
        self.settings = config.load({"DATA_DIR": str(self.folder)})
        self.settings.make_folders()
        shutil.copyfile(_template(), self.settings.db_file)
        connection.open_db(self.settings.db_file)
        self.user = accounts.by_name("root")[0].id
        self.real_clock, self.now = clock.now_ms, START_MS
        clock.now_ms = lambda: self.now
        self.stop = process.Stop()
        self.workers = [Worker(self.settings, name) for name in LANES]

    def teardown(self) -> None:
        try:
            self.everything_ends()
        finally:
            clock.now_ms = self.real_clock
            for each in self.workers:
                each.end_child()
                each.lock.release()
            connection.database.close()
            shutil.rmtree(self.folder)

    @initialize()
    def some_work(self) -> None:
        for kind in ("benchmark", "train", "convert"):
            self.order(kind, "shared")

    @rule(
        kind=st.sampled_from(["benchmark", "benchmark", "train", "convert", "report"]),
        isolation=st.sampled_from(["shared", "shared", "exclusive"]),
        heavy=st.booleans(),
        priority=st.integers(-1, 1),
        look=st.booleans(),
    )
    def order(
        self, kind: JobKind, isolation: str, *, heavy: bool = False, priority: int = 0, look: bool = False
    ) -> None:
        self.now += 1  # so that the order of jobs does not hang on their random ids
        with connection.write():
            jobs.insert(
                kind,
                SPECS[kind],
                user_id=self.user,
                priority=priority,
                isolation=isolation if kind == "benchmark" else "shared",
                heavy=heavy and kind == "convert",
            )
        if look:
            self.they_look(list(range(len(LANES))))

    @rule(order=st.permutations(range(len(LANES))))
    def they_look(self, order: list[int]) -> None:
        for at in order:
            self.look(at)

    @rule(intruder=st.sampled_from(sorted(SPECS)))
    def a_measurement_starts_and_somebody_comes(self, intruder: JobKind) -> None:
        for at in range(len(self.workers)):
            self.end(at, "finish")
        self.order("benchmark", "exclusive", priority=1)
        self.now += 20_000
        self.they_look(list(range(len(LANES))))
        self.order(intruder, "shared", look=True)

    def look(self, at: int) -> None:
        each = self.workers[at]
        if each.alive and each.job is None and not each.child:
            each.step(self.stop)
            self.never_more_than_the_slots()

    @precondition(lambda self: any(each.job for each in self.workers))
    @rule(at=ANY, how=st.sampled_from(["finish", "fail", "put_back", "make_room", "cancelled", "retry"]))
    def one_ends(self, at: int, how: str) -> None:
        self.end(self.first(at, lambda each: each.job is not None), how)

    def end(self, at: int, how: str) -> None:
        each = self.workers[at]
        if each.job is None or not each.alive:
            return
        each.end_child()
        job, each.job = each.job, None
        endings = {
            "finish": lambda: jobs.finish(job, lambda: None),
            "fail": lambda: jobs.fail(job, "it could not be done"),
            "put_back": lambda: jobs.put_back(job, "the worker was stopped"),
            "make_room": lambda: jobs.put_back(job, "somebody waits", behind_exclusive=True),
            "cancelled": lambda: jobs.cancelled(job),
            "retry": lambda: jobs.retry(job, "no space", lambda job, reason: None),
        }
        endings[how]()

    @rule(at=ANY, child_lingers=st.booleans())
    def one_dies(self, at: int, child_lingers: bool) -> None:
        each = self.workers[self.first(at, lambda each: each.job is not None)]
        if each.alive:
            each.die()
            if not child_lingers:
                each.end_child()

    @precondition(lambda self: not all(each.alive for each in self.workers))
    @rule(at=ANY)
    def one_comes_back(self, at: int) -> None:
        self.come_back(self.first(at, lambda each: not each.alive))

    def come_back(self, at: int) -> None:
        """supervisord starts it again; an orphaned child of its predecessor is gone or goes later."""
        each = self.workers[at]
        if not each.alive:
            late, child = each.job, each.child
            self.workers[at] = Worker(self.settings, each.name)
            self.workers[at].child = child
            if late is not None and tables.Job.get_by_id(late.id).attempt != late.attempt:
                with pytest.raises(jobs.Fenced):
                    jobs.finish(late, lambda: pytest.fail("a late worker wrote its result"))

    @rule(at=ANY)
    def the_orphan_goes(self, at: int) -> None:
        if self.workers[at].job is None or not self.workers[at].alive:
            self.workers[at].end_child()

    @rule(ms=st.sampled_from([20_000, 20_000, 20_000, 10, HOUR_MS, -HOUR_MS]))
    def time_passes(self, ms: int) -> None:
        self.now += ms

    @rule(at=ANY)
    def a_user_cancels(self, at: int) -> None:
        each = self.workers[self.first(at, lambda each: each.alive and each.job is not None)]
        if each.alive and each.job is not None:
            with connection.write():
                jobs.request_cancel(each.job.id)

    def first(self, at: int, wanted: Callable[[Worker], bool]) -> int:
        """The first worker from `at` on, round in a circle, that is as wanted; else `at` itself."""
        circle = [(at + step) % len(self.workers) for step in range(len(self.workers))]
        return next((index for index in circle if wanted(self.workers[index])), at)

    @invariant()
    def never_more_than_the_slots(self) -> None:
        """Whatever the rows say: a row outlives its worker until somebody looks, work does not."""
        at_work = [each for each in self.workers if each.alive and each.job is not None]
        assert sum(each.lane == "accelerator" for each in at_work) <= self.settings.max_gpu_workers
        rows = [tables.Job.get_by_id(each.job.id) for each in at_work if each.job is not None]
        assert {(row.status, row.worker) for row in rows} == {("running", each.name) for each in at_work}
        if any(row.isolation == "exclusive" for row in rows):
            assert len(at_work) == 1
        assert sum(row.heavy for row in rows) <= 1, "two conversions at once"

    @invariant()
    def whoever_measures_holds_its_slots(self) -> None:
        held = [path for path in self.settings.run.glob("gpu-slot-*") if not process.is_free(path)]
        assert sum(len(each.child) for each in self.workers) == len(held) <= self.settings.max_gpu_workers
        for each in self.workers:
            if each.alive and each.job is not None and each.lane == "accelerator":
                exclusive = tables.Job.get_by_id(each.job.id).isolation == "exclusive"
                assert len(each.child) == (self.settings.max_gpu_workers if exclusive else 1)

    def everything_ends(self) -> None:
        """Nothing waits forever: once the dying stops, every job ends, and by the allowed ways only."""
        for at in range(len(self.workers)):
            self.come_back(at)
            self.the_orphan_goes(at)
        for _ in range(400):
            if not tables.Job.select().where(tables.Job.status.in_(jobs.OPEN)).exists():
                break
            for at in range(len(self.workers)):
                self.look(at)
                self.never_more_than_the_slots()
                self.end(at, "finish")
            self.now += 1_000
        assert list(stories()) == []


TestSlots = Platform.TestCase
TestSlots.settings = hypothesis_settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # shrinking a schedule takes longer than reading it
)
