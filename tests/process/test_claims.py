"""Claims under contention: real processes, one database, every job started exactly once per attempt."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shared import config
from shared.db import connection, jobs, tables
from shared.db.accounts import Account
from shared.specs import ConvertSpec
from shared.worker import Slots, release

WORKERS, JOBS = 4, 60

CLAIMER = """
import sys
from pathlib import Path
from shared import clock
from shared.db import connection, jobs
connection.open_db(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
while ticket := jobs.peek("cpu", clock.now_ms()):
    if job := jobs.claim("cpu", sys.argv[2], clock.now_ms(), ticket.id):
        jobs.report_progress(job, {"by": sys.argv[2]})
        jobs.finish(job, lambda: None)
        print(job.id, flush=True)
"""


@pytest.mark.process
def test_every_job_is_claimed_by_exactly_one_of_many(db_file: Path, owner: Account):
    with connection.write():
        made = {jobs.insert("convert", ConvertSpec(model_id="m"), user_id=owner.id) for _ in range(JOBS)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMER, str(db_file), f"w{index}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(WORKERS)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    claimed = [line for worker in workers for line in worker.communicate("go\n", timeout=60)[0].split()]
    assert [worker.returncode for worker in workers] == [0] * WORKERS
    assert sorted(claimed) == sorted(made)
    assert {(job.status, job.attempt) for job in tables.Job.select()} == {("completed", 1)}
    assert tables.JobEvent.select().where(tables.JobEvent.event == "started").count() == JOBS


def test_there_are_never_more_slots_than_allowed(tmp_path: Path):
    settings = config.load({"DATA_DIR": str(tmp_path)})
    settings.make_folders()
    slots = Slots(settings)
    first, second = slots.take(exclusive=False), slots.take(exclusive=False)
    assert first
    assert second
    assert slots.take(exclusive=False) is None
    assert slots.take(exclusive=True) is None
    release(first)
    assert slots.take(exclusive=True) is None, "an exclusive job needs every slot"
    release(second)
    everything = slots.take(exclusive=True)
    assert everything is not None
    assert len(everything) == settings.max_gpu_workers
    assert slots.take(exclusive=False) is None
    release(everything)
