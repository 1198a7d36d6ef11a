"""The pipe between a job's parent and its child: answers, refusals, deaths, limits, and nobody left behind."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from shared import child, config, errors
from shared.artifacts import ArtifactStore, Outputs
from tests.conftest import eventually

MODULE = "tests.unit.child_that"
LIMITS = child.Limits(wall_s=20)


class Order(msgspec.Struct):
    act: str
    argument: str = ""


def run(act: str, argument: str = "", **more: object) -> object:
    return child.run(MODULE, Order(act, argument), dict, **({"limits": LIMITS} | more))


def test_a_result_comes_back_and_library_chatter_does_not_spoil_it():
    assert run("answers", "42") == {"answer": "42"}


def test_progress_arrives_in_order():
    seen: list[dict[str, int]] = []
    run("counts", "5", on_progress=seen.append)
    assert seen == [{"n": n} for n in range(5)]


def test_progress_may_be_thinned_out_and_a_phase_tells_of_the_whole():
    seen: list[dict[str, object]] = []
    times = iter([10.0, 10.4, 10.5, 11.1])
    say = child.now_and_then(child.phase(seen.append, 0.2, 0.6), lambda: next(times))
    for n in range(4):
        say({"n": n, "fraction": n / 3} if n else {"n": 0})
    assert seen == [{"n": 0, "fraction": 0.2}, {"n": 2, "fraction": 0.4667}, {"n": 3, "fraction": 0.6}]


def test_a_large_result_passes():
    assert len(run("answers", "x" * 50_000)["answer"]) == 50_000


def test_a_child_learns_no_secret(monkeypatch: pytest.MonkeyPatch):
    for name in config.SECRETS:
        monkeypatch.setenv(name, "smtp://me:hush@example.org")
    monkeypatch.setenv("LOG_LEVEL", "debug")
    seen = run("shows its environment")
    assert not config.SECRETS & set(seen) and seen["LOG_LEVEL"] == "debug"


def test_a_result_without_end_is_no_answer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(child, "ANSWER_BYTES", 10_000)
    with pytest.raises(child.ChildDied, match="cannot be read"):
        run("answers", "x" * 500_000)


def test_a_line_without_end_comes_in_parts():
    lines: list[str] = []
    run("never ends a line", str(4 * 2**20), on_log=lambda _, text: lines.append(text), limits=child.Limits(wall_s=60))
    assert "".join(lines) == "x" * (4 * 2**20)
    assert max(len(line) for line in lines) < 2**17


@pytest.mark.timeout(15)  # copying all of it for each part takes two minutes
def test_a_long_line_costs_no_more_than_it_is_long():
    lines, buffer = [], bytearray()
    for _ in range(1000):
        lines += child._split(buffer, b"x" * 65_536, 2**40)
    assert not lines
    assert child._split(buffer, b"y\nz", 2**40) == [b"x" * 65_536_000 + b"y"]
    assert child._split(buffer, b"", 2**40) == [b"z"]


def test_a_refusal_is_shown_in_part_where_it_is_enormous():
    with pytest.raises(errors.BadModel) as refused:
        run("refuses", "no good " * 1_000_000)
    assert len(str(refused.value)) == child.REFUSAL_CHARACTERS


def test_a_refusal_is_raised_as_what_it_was():
    with pytest.raises(errors.BadModel, match="no good"):
        run("refuses", "no good")


def test_an_exception_is_a_death_with_its_last_words():
    with pytest.raises(child.ChildDied, match=r"exit code 1.*ZeroDivisionError"):
        run("crashes")


def test_its_log_is_handed_over_line_by_line():
    lines: list[tuple[str, str]] = []

    def on_log(level: str, text: str) -> None:
        lines.append((level, text))

    with pytest.raises(child.ChildDied):
        run("crashes", on_log=on_log)
    assert lines[0] == ("error", "Traceback (most recent call last):")
    assert lines[-1] == ("error", "ZeroDivisionError: division by zero")
    run("answers", "42", on_log=on_log)
    assert lines[-1] == ("info", "a library prints this")


def test_a_signal_is_named():
    with pytest.raises(child.ChildDied, match="SIGSEGV") as crash:
        run("segfaults")
    assert not isinstance(crash.value, child.ChildKilled), "it would only come again"


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_who_is_ended_from_outside_may_be_tried_again(signum: signal.Signals):
    with pytest.raises(child.ChildKilled, match=signum.name):
        run("is_ended", str(int(signum)))


def test_processor_time_is_bounded_and_no_reason_to_try_again():
    with pytest.raises(child.ChildDied, match=r"SIGXCPU \(too much processor time") as ended:
        run("spins", limits=child.Limits(wall_s=20, cpu_s=1))
    assert not isinstance(ended.value, child.ChildKilled)


def test_garbage_on_the_pipe_is_a_death():
    with pytest.raises(child.ChildDied, match="cannot be read"):
        run("babbles")


def test_time_is_bounded():
    started = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded, match="longer than"):
        run("sleeps", limits=child.Limits(wall_s=0.5))
    assert time.monotonic() - started < 10


def test_memory_is_bounded():
    with pytest.raises(errors.TooLarge, match="memory"):
        run("hogs", limits=child.Limits(wall_s=20, memory_mb=512))


def test_file_size_is_bounded(tmp_path: Path):
    with pytest.raises(child.ChildDied):
        run("writes", str(tmp_path / "big"), limits=child.Limits(wall_s=20, file_mb=1))
    assert (tmp_path / "big").stat().st_size <= 1024 * 1024


def test_an_interruption_ends_child_and_grandchild(tmp_path: Path):
    pids = tmp_path / "pids"
    with pytest.raises(child.Interrupted, match="enough"):
        run("forks", str(pids), interrupted=lambda: "enough" if pids.exists() else None)
    for pid in map(int, pids.read_text().split()):
        eventually(lambda pid=pid: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")


def test_a_child_may_inherit_a_descriptor(tmp_path: Path):
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert run("has_fd", str(fd), pass_fds=[fd]) == {"open": True}
        assert run("has_fd", str(fd)) == {"open": False}
    finally:
        os.close(fd)


def test_a_child_writes_files_that_it_did_not_open(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    with Outputs("tests") as outputs:
        fd = outputs.stage("greeting", store)
        outputs.stage("never wanted", store)
        run("fills", str(fd), pass_fds=outputs.fds)
        stored = outputs.publish("greeting")
        assert outputs.publish("greeting") == stored, "the database did not answer, and all is done again"
    assert (stored.sha256, stored.size_bytes) == (hashlib.sha256(b"hello world").hexdigest(), 11)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [store.path(stored.sha256)]
    assert store.path(stored.sha256).read_bytes() == b"hello world"


def test_of_a_child_that_fails_no_file_stays(tmp_path: Path):
    with Outputs("tests") as outputs, pytest.raises(errors.BadModel):
        fd = outputs.stage("greeting", ArtifactStore(tmp_path))
        run("fills and refuses", str(fd), pass_fds=outputs.fds)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
