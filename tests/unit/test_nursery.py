"""Children from a nursery answer, fail, are bounded and end as others do; one that fails is the last of its kind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from shared import child, errors, process
from shared.nursery import Nursery
from tests.conftest import eventually
from tests.unit.test_child import LIMITS, MODULE, Order

NURSERY = "tests.unit.nursery_that"


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    made = Nursery(NURSERY)
    yield made
    made.close()


def run(nursery: Nursery, act: str, argument: str = "", **more: object) -> object:
    return child.run(MODULE, Order(act, argument), dict, nursery=nursery, **({"limits": LIMITS} | more))


def prepared_by(nursery: Nursery) -> str | None:
    """The pid of the nursery that the next child comes from."""
    return run(nursery, "shows its environment").get("PREPARED_BY")


def test_children_come_from_one_process_that_prepared_once(nursery: Nursery) -> None:
    first = prepared_by(nursery)
    assert first is not None and first != str(os.getpid())
    assert run(nursery, "answers", "x" * 500_000) == {"answer": "x" * 500_000}
    seen: list[dict[str, int]] = []
    run(nursery, "counts", "5", on_progress=seen.append)
    assert seen == [{"n": n} for n in range(5)]
    assert prepared_by(nursery) == first


def test_a_refusal_leaves_the_nursery_as_it_is(nursery: Nursery) -> None:
    first = prepared_by(nursery)
    with pytest.raises(errors.BadModel, match="no weights"):
        run(nursery, "refuses", "no weights")
    assert prepared_by(nursery) == first


@pytest.mark.parametrize(
    ("act", "argument", "limits", "said"),
    [
        ("crashes", "", LIMITS, "exit code 1: ZeroDivisionError"),
        ("segfaults", "", LIMITS, "SIGSEGV"),
        ("is_ended", str(int(signal.SIGKILL)), LIMITS, "SIGKILL"),
        ("spins", "", child.Limits(wall_s=20, cpu_s=1), "SIGXCPU"),
    ],
)
def test_one_that_dies_says_how_and_takes_its_nursery_with_it(
    nursery: Nursery, act: str, argument: str, limits: child.Limits, said: str
) -> None:
    first = prepared_by(nursery)
    with pytest.raises(child.ChildDied, match=said):
        run(nursery, act, argument, limits=limits)
    assert prepared_by(nursery) not in (first, None)


def test_memory_and_time_are_bounded(nursery: Nursery) -> None:
    with pytest.raises(errors.TooLarge):
        run(nursery, "hogs", limits=child.Limits(wall_s=20, memory_mb=1024))
    with pytest.raises(errors.DeadlineExceeded):
        run(nursery, "sleeps", limits=child.Limits(wall_s=0.5))


def test_an_interrupted_child_is_gone_with_its_own_children(nursery: Nursery, tmp_path: Path) -> None:
    told = tmp_path / "pids"
    with pytest.raises(child.Interrupted, match="enough"):
        run(nursery, "forks", str(told), interrupted=lambda: "enough" if told.exists() else None)
    for pid in map(int, told.read_text().split()):
        eventually(lambda pid=pid: not psutil.pid_exists(pid))


def test_a_slot_is_held_by_the_child_and_free_after_it(nursery: Nursery, tmp_path: Path) -> None:
    path, told = tmp_path / "slot.lock", tmp_path / "pids"
    lock = process.FileLock(path).acquire()
    held: list[bool] = []

    def interrupted() -> str | None:
        if not told.exists():
            return None
        lock.release()
        held.append(not process.is_free(path))
        return "enough"

    with pytest.raises(child.Interrupted):
        run(nursery, "forks", str(told), interrupted=interrupted, pass_fds=[lock.fd])
    assert held == [True]
    eventually(lambda: process.is_free(path))


def test_where_no_child_comes_it_is_started_as_always(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NURSERY_FAILS", "1")
    assert "PREPARED_BY" not in run(nursery, "shows its environment")
    monkeypatch.delenv("NURSERY_FAILS")
    assert prepared_by(nursery) is not None


def test_it_rests_when_it_was_long_without_an_order() -> None:
    nursery = Nursery(NURSERY, idle_s=0.0)
    first = int(prepared_by(nursery) or 0)
    nursery.rest()
    assert not psutil.pid_exists(first)
    patient = Nursery(NURSERY, idle_s=1000.0)
    second = prepared_by(patient)
    patient.rest()
    assert prepared_by(patient) == second
    patient.close()


def test_nursery_and_child_die_with_their_parent(tmp_path: Path) -> None:
    told = tmp_path / "pids"
    script = f"from tests.unit.test_nursery import Nursery, NURSERY, run; run(Nursery(NURSERY), 'forks', {str(told)!r})"
    parent = subprocess.Popen([sys.executable, "-c", script])
    eventually(told.exists, 30)
    born = int(told.read_text().split()[0])
    nursery = psutil.Process(born).ppid()
    parent.kill()
    parent.wait()
    eventually(lambda: not psutil.pid_exists(born) and not psutil.pid_exists(nursery))
