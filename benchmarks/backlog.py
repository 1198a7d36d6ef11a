"""How fast the job queue is: from accepted to started, durable inserts, and a start with a long line waiting."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import models
from shared import config
from shared.db import accounts, connection, jobs, tables
from shared.specs import ConvertSpec

ROOT = Path(__file__).parents[1]
INSERTS = 1_000
QUEUED = 10_000
CLAIM_WITHIN_S = 60.0
POLL_S = 0.005


def waits_ms(db_file: Path) -> list[float]:
    """For every check of a model so far, oldest first: from the job's insertion to its start."""
    connection.open_db(db_file)
    with connection.read():
        started = (tables.Job.kind == "convert") & (tables.Job.attempt > 0)
        rows = list(tables.Job.select().where(started).order_by(tables.Job.created_at_ms))
    connection.database.close()
    return [float(row.started_at_ms - row.created_at_ms) for row in rows if row.started_at_ms is not None]


def inserts_s() -> float:
    """Seconds for `INSERTS` jobs, each in a durable transaction of its own."""
    with tempfile.TemporaryDirectory(prefix="cvp-bench-") as folder:
        user_id = _database(_settings(folder))
        began = time.monotonic()
        for _ in range(INSERTS):
            with connection.write(durable=True):
                jobs.insert("convert", ConvertSpec(model_id="none"), user_id=user_id)
        took = time.monotonic() - began
        connection.database.close()
    return took


def first_claim_s() -> tuple[float, float]:
    """With `QUEUED` jobs in line: seconds from a worker's start to its first claim, and of one look at the queue."""
    with tempfile.TemporaryDirectory(prefix="cvp-bench-") as folder:
        settings = _settings(folder)
        _queue(_database(settings))
        looks = [_look_s() for _ in range(5)]
        began = time.monotonic()
        worker = subprocess.Popen(
            [sys.executable, "-m", "preparer", "0"],
            env=os.environ | {"DATA_DIR": folder},
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_for_claim(began)
            return time.monotonic() - began, statistics.median(looks)
        finally:
            worker.kill()
            worker.wait()
            connection.database.close()


def restart_s() -> tuple[float, float]:
    """With `QUEUED` jobs in line: seconds from `cvp up` to the first claim, and until it says that all serves."""
    with tempfile.TemporaryDirectory(prefix="cvp-bench-") as folder:
        env = os.environ | {"DATA_DIR": folder, "PORT": str(models.free_port()), "MAX_QUEUED_JOBS": str(2 * QUEUED)}
        env["PRESETS"] = "false"
        _queue(_database(_settings(folder)))
        began = time.monotonic()
        up = subprocess.Popen([sys.executable, "-m", "console.cli", "up"], env=env, cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            _wait_for_claim(began)
            claimed_s = time.monotonic() - began
            if up.wait(CLAIM_WITHIN_S):
                raise SystemExit(f"`cvp up` failed with {QUEUED:,} jobs in line")
            return claimed_s, time.monotonic() - began
        finally:
            up.wait(CLAIM_WITHIN_S)
            subprocess.run(
                [sys.executable, "-m", "console.cli", "down"], env=env, cwd=ROOT, capture_output=True, check=True
            )
            connection.database.close()


def _queue(user_id: str) -> None:
    with connection.write():
        for _ in range(QUEUED):
            jobs.insert("convert", ConvertSpec(model_id="none"), user_id=user_id)


def _look_s() -> float:
    began = time.monotonic()
    jobs.peek("cpu", int(time.time() * 1000))
    return time.monotonic() - began


def _wait_for_claim(began: float) -> None:
    while time.monotonic() - began < CLAIM_WITHIN_S:
        with connection.read():
            if tables.Job.select().where(tables.Job.attempt > 0).exists():
                return
        time.sleep(POLL_S)
    raise SystemExit(f"no job was claimed within {CLAIM_WITHIN_S:g} s")


def _settings(folder: str) -> config.Settings:
    settings = config.load({"DATA_DIR": folder})
    settings.make_folders()
    return settings


def _database(settings: config.Settings) -> str:
    connection.migrate(settings.db_file)
    connection.open_db(settings.db_file)
    return accounts.add_user("bench", "unusable", "admin").id
