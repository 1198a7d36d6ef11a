"""Housekeeping: expired rows, the database's log, files nobody names, files that are gone, a damaged database."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import reporter.__main__
from reporter.housekeeping import FILES_EVERY_S, FIRST_CHECK_S, ORPHAN_S, ROWS_EVERY_S, STAGED_S, Housekeeping
from shared import clock, config, errors, process
from shared.artifacts import ArtifactStore
from shared.db import connection, housekeeping, jobs, registry
from shared.db.accounts import Account
from shared.specs import ReportSpec, Stored

DAY_MS = 24 * 3600 * 1000


class Time:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class House:
    """Housekeeping over a database and stores of its own."""

    def __init__(self, settings: config.Settings) -> None:
        self.time = Time()
        self.keeper = Housekeeping(settings, self.time)
        self.models, self.reports = ArtifactStore(settings.models), ArtifactStore(settings.reports)

    def after(self, seconds: float) -> None:
        """Let time pass, with steps on the way as in life."""
        end = self.time.now_s + seconds
        while self.time.now_s < end:
            self.time.now_s = min(end, self.time.now_s + ROWS_EVERY_S)
            self.keeper.step()


@pytest.fixture
def house(db_file: Path, tmp_path: Path) -> House:
    settings = config.load({"DATA_DIR": str(tmp_path), "DB_PATH": str(db_file), "RUN_DIR": "/tmp/cvp-none"})
    return House(settings)


def execute(sql: str, *values: object) -> list[tuple[object, ...]]:
    with connection.read():
        return list(connection.database.execute_sql(sql, values).fetchall())


def count(table: str) -> int:
    ((rows,),) = execute(f"SELECT count(*) FROM {table}")
    return int(str(rows))


def add_sessions(admin: Account, number: int, expires_at_ms: int) -> None:
    with connection.write():
        connection.database.connection().executemany(
            "INSERT INTO sessions VALUES (?, ?, 0, ?, NULL)",
            [(f"ses_{expires_at_ms}_{index}", admin.id, expires_at_ms) for index in range(number)],
        )


@contextmanager
def somebody(db_file: Path, begin: str) -> Iterator[None]:
    """Another connection in the middle of a transaction."""
    other = connection.Database(db_file)
    with other.connection_context():
        other.execute_sql(begin)
        other.execute_sql("SELECT count(*) FROM users").fetchall()
        yield
        other.execute_sql("ROLLBACK")


def test_expired_rows_leave_in_bites_and_the_others_stay(admin: Account):
    now = 100 * DAY_MS
    add_sessions(admin, 450, now - 1)
    add_sessions(admin, 3, now)
    with connection.write():
        for age, key in ((DAY_MS + 1, "old"), (DAY_MS, "young")):
            connection.database.execute_sql(
                "INSERT INTO idempotency (user_id, route, key, body_sha256, created_at_ms) VALUES (?, 'r', ?, '', ?)",
                (admin.id, key, now - age),
            )
        for at_ms in (10 * DAY_MS - 1, 10 * DAY_MS):
            connection.database.execute_sql(
                "INSERT INTO audit_log (at_ms, request_id, action, resource, result) VALUES (?, '', '', '', '')",
                (at_ms,),
            )
    assert [housekeeping.expire(now) for _ in range(4)] == [202, 200, 50, 0]
    assert (count("sessions"), count("idempotency"), count("audit_log")) == (3, 1, 1)
    assert execute("SELECT key FROM idempotency") == [("young",)]


def test_a_clock_that_jumps_ahead_deletes_nothing_for_a_day(
    house: House, admin: Account, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    staged = house.models.root / "staging" / "up_1"
    staged.parent.mkdir(parents=True)
    staged.touch()
    now_ms, start_s = clock.now_ms(), house.time()
    add_sessions(admin, 5, now_ms + DAY_MS)
    monkeypatch.setattr(clock, "now_ms", lambda: now_ms + 100 * DAY_MS + int(1000 * (house.time() - start_s)))
    house.after(DAY_MS / 1000 - 60)
    assert (count("sessions"), staged.exists()) == (5, True)
    assert "the clock jumped ahead" in caplog.text
    house.after(FILES_EVERY_S + 3 * ROWS_EVERY_S)
    assert (count("sessions"), staged.exists()) == (0, False), "it was right after all"


def test_nothing_expired_takes_no_write_lock(admin: Account, db_file: Path):
    with somebody(db_file, "BEGIN IMMEDIATE"):
        started = time.monotonic()
        assert housekeeping.expire(clock.now_ms()) == 0
        assert time.monotonic() - started < connection.BUSY_TIMEOUT_S / 2


def log_bytes(db_file: Path) -> int:
    return db_file.with_name(db_file.name + "-wal").stat().st_size


def test_the_log_is_cut_when_nobody_works(admin: Account, db_file: Path):
    add_sessions(admin, 50, 1)
    assert log_bytes(db_file) > 0
    assert housekeeping.truncate_log()
    assert log_bytes(db_file) == 0


def test_the_log_is_left_alone_while_a_job_is_open(admin: Account, db_file: Path):
    with connection.write():
        jobs.insert("report", ReportSpec(benchmark_id="job_0"), user_id=admin.id)
    assert not housekeeping.truncate_log()
    housekeeping.checkpoint()
    assert log_bytes(db_file) > 0


def test_a_reader_is_not_waited_for(admin: Account, db_file: Path):
    with somebody(db_file, "BEGIN"):
        add_sessions(admin, 50, 1)
        started = time.monotonic()
        assert not housekeeping.truncate_log()
        housekeeping.checkpoint()
        assert time.monotonic() - started < connection.BUSY_TIMEOUT_S / 2
    assert execute("PRAGMA busy_timeout") == [(5000,)]


def test_a_damaged_file_is_noticed(admin: Account, db_file: Path):
    assert housekeeping.damage() == []
    add_sessions(admin, 2000, 1)
    assert housekeeping.truncate_log()
    connection.database.close()
    with db_file.open("r+b") as file:
        file.seek(db_file.stat().st_size // 2)
        file.write(b"\xff" * 8192)
    assert housekeeping.damage()


def row(stored: Stored, store: str) -> None:
    with connection.write():
        registry.keep_artifact(stored, store)


def test_a_file_without_a_row_goes_after_an_hour_and_not_before(house: House):
    orphan, kept = house.models.put(b"nobody's"), house.reports.put(b"somebody's")
    row(kept, "reports")
    house.after(ORPHAN_S - 2 * FILES_EVERY_S)
    assert house.models.path(orphan.sha256).exists()
    house.after(4 * FILES_EVERY_S)
    assert not house.models.path(orphan.sha256).exists()
    assert house.reports.path(kept.sha256).read_bytes() == b"somebody's"


def test_a_file_that_gets_its_row_late_stays(house: House):
    late = house.reports.put(b"measured")
    house.after(ORPHAN_S - FILES_EVERY_S)
    row(late, "reports")
    house.after(2 * ORPHAN_S)
    assert house.reports.path(late.sha256).exists()


def test_a_file_that_gets_its_row_in_the_last_instant_stays(house: House, monkeypatch: pytest.MonkeyPatch):
    late = house.reports.put(b"measured")
    house.after(ORPHAN_S - FILES_EVERY_S)
    named = registry.named

    def named_then_recorded(sha256s: Iterable[str]) -> set[str]:
        found = named(sha256s)
        row(late, "reports")
        return found

    monkeypatch.setattr(registry, "named", named_then_recorded)
    house.time.now_s += ORPHAN_S
    house.keeper.step()
    assert house.reports.path(late.sha256).exists()


def test_the_same_bytes_published_again_begin_a_new_hour(house: House):
    orphan = house.models.put(b"again")
    house.after(ORPHAN_S - FILES_EVERY_S)
    assert house.models.put(b"again") == orphan
    house.after(ORPHAN_S - FILES_EVERY_S)
    assert house.models.path(orphan.sha256).exists()
    house.after(3 * FILES_EVERY_S)
    assert not house.models.path(orphan.sha256).exists()


def test_a_file_published_in_the_place_of_another_is_not_discarded(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    sha256 = store.put(b"x").sha256
    (files,) = store.published()
    store.put(b"x")
    assert not store.discard(sha256, files[sha256])
    assert store.path(sha256).read_bytes() == b"x"
    (files,) = store.published()
    assert store.discard(sha256, files[sha256])
    assert not store.path(sha256).exists()
    assert not store.discard(sha256, files[sha256])
    assert list(tmp_path.glob("staging/*")) == []


def test_what_was_staged_is_kept_for_a_day(house: House):
    folder = house.models.root / "staging"
    (folder / "pin_1").mkdir(parents=True)
    names = ("up_old", "up_new", "pin_1/file")
    for name in names:
        (folder / name).touch()
    long_ago = clock.now_ms() / 1000 - STAGED_S - 1
    for name in ("up_old", "pin_1"):
        os.utime(folder / name, (long_ago, long_ago))
    house.after(2 * ROWS_EVERY_S)
    assert [path.name for path in folder.iterdir()] == ["up_new"]


def test_a_file_that_is_gone_is_said_loudly(house: House, caplog: pytest.LogCaptureFixture):
    stored = house.models.put(b"soon gone")
    row(stored, "models")
    house.after(2 * ROWS_EVERY_S)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    house.models.remove(stored.sha256)
    house.after(FILES_EVERY_S)
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert vars(record)["files"] == [f"models/{stored.sha256}"]


def test_the_database_is_checked_once_a_day(
    house: House, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    caplog.set_level(logging.INFO)
    house.after(FIRST_CHECK_S)
    assert [record.getMessage() for record in caplog.records] == ["the database file is sound"]
    monkeypatch.setattr(housekeeping, "damage", lambda: ["page 7 is no page"])
    house.after(3600)
    assert len(caplog.records) == 1
    house.time.now_s += 24 * 3600
    house.keeper.step()
    assert "cvp restore" in caplog.records[-1].getMessage()
    assert vars(caplog.records[-1])["found"] == ["page 7 is no page"]


def test_a_failure_is_logged_and_the_chore_comes_round_again(
    house: House, admin: Account, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    add_sessions(admin, 3, 1)
    with monkeypatch.context() as broken:

        def locked(_now_ms: int) -> int:
            raise errors.Unavailable("locked")

        broken.setattr(housekeeping, "expire", locked)
        house.after(2 * ROWS_EVERY_S)
    assert count("sessions") == 3
    assert "could not go on" in caplog.text
    house.after(2 * ROWS_EVERY_S)
    assert count("sessions") == 0


@pytest.mark.timeout(30)
def test_the_reporter_keeps_house_while_it_waits_for_jobs(
    db_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It ends by what housekeeping does here, or not at all."""
    settings = config.load({"DATA_DIR": str(tmp_path), "DB_PATH": str(db_file)})
    settings.make_folders()
    stop = process.Stop()
    monkeypatch.setattr(Housekeeping, "step", lambda _self: stop.set())
    reporter.__main__.main(settings, stop)
    assert stop


def test_a_step_ends_although_there_is_more_to_do(house: House, admin: Account):
    add_sessions(admin, 2000, 1)
    house.time.now_s += ROWS_EVERY_S
    ticking = house.time

    def tick() -> float:
        ticking.now_s += 0.003
        return ticking.now_s

    house.keeper._monotonic = tick
    house.keeper.step()
    assert 0 < count("sessions") < 2000
