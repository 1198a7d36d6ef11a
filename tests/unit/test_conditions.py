"""Conditions: a quiet machine gives no sentence, each disturbance its own."""

from pathlib import Path

import pytest

from benchmarker.conditions import Reading, circumstances, disturbances, read, service_disturbances
from shared import config, machine
from shared.gpu import Use

QUIET = Reading(
    at_s=100.0,
    cores=4,
    busy_s=1000.0,
    steal_s=5.0,
    own_s=10.0,
    quota_cores=None,
    stopped_s=None,
    heat_events=None,
    governors=frozenset(),
)
LATER = QUIET._replace(at_s=120.0, busy_s=1030.0, own_s=40.0)
"""20 s later; all 30 s of work on the four cores were ours."""


def test_a_quiet_run_says_nothing() -> None:
    assert disturbances(QUIET, LATER) == circumstances(QUIET, LATER) == []
    almost = LATER._replace(
        busy_s=LATER.busy_s + 3.9, steal_s=5.7, stopped_s=0.1, heat_events=0, governors=frozenset({"performance"})
    )
    assert disturbances(QUIET, almost) == []


@pytest.mark.parametrize(
    ("after", "says"),
    [
        (LATER._replace(busy_s=1070.0), "Other processes used 2.00 of 4 cores"),
        (LATER._replace(steal_s=9.0), "The hypervisor withheld 5.0% of"),
        (LATER._replace(stopped_s=2.0), "stopped this container for 2.0 s of 20.0 s"),
        (LATER._replace(heat_events=3), "slowed down 3 times"),
        (LATER._replace(gpu=Use(processes=2, slowed_by=[])), "Other processes were at work on the GPU (2 at the most"),
        (LATER._replace(gpu=Use(processes=0, slowed_by=["heat"])), "The GPU was slowed down by heat"),
    ],
)
def test_each_disturbance_has_its_sentence(after: Reading, says: str) -> None:
    (sentence,) = disturbances(QUIET, after)
    assert says in sentence
    assert sentence.endswith(".")
    assert circumstances(QUIET, after) == []


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (("a", 7), ("a", 8), "1 prediction was answered"),
        (("a", 7), ("a", 1007), "1,000 predictions were answered"),
        (("a", 7), ("b", 3), "3 predictions were answered"),  # a broker that restarted counts from nothing
    ],
)
def test_predictions_disturb(before: tuple[str, int], after: tuple[str, int], says: str) -> None:
    (sentence,) = disturbances(QUIET._replace(predictions=before), LATER._replace(predictions=after))
    assert sentence.startswith(says)


def test_predictions_before_the_run_or_unknown_ones_do_not() -> None:
    assert disturbances(QUIET._replace(predictions=("a", 7)), LATER._replace(predictions=("a", 7))) == []
    assert disturbances(QUIET._replace(predictions=("a", 7)), LATER) == []


def test_what_drives_the_service_does_not_disturb_it_and_others_do() -> None:
    before = QUIET._replace(predictions=("a", 7))
    assert service_disturbances(before, LATER._replace(predictions=("a", 1007)), own=1000) == []
    assert service_disturbances(before, LATER._replace(predictions=("a", 907)), own=1000) == [], "some got nowhere"
    (sentence,) = service_disturbances(before, LATER._replace(predictions=("a", 1010)), own=1000)
    assert sentence.startswith("3 predictions were answered")
    busy = LATER._replace(predictions=("a", 7), busy_s=10_000.0)
    assert disturbances(before, busy)
    assert service_disturbances(before, busy, own=0) == [], "the load is the service itself"


@pytest.mark.parametrize(
    ("after", "says"),
    [
        (LATER._replace(quota_cores=1.5), "the time of 1.5 of 4 cores"),
        (LATER._replace(governors=frozenset({"powersave"})), "governor powersave"),
        (LATER._replace(clock_share=0.6), "held at 60% of the highest"),
        (LATER._replace(busy_s=None), "could not be read"),
    ],
)
def test_what_is_no_disturbance_is_told_apart(after: Reading, says: str) -> None:
    (sentence,) = circumstances(QUIET, after)
    assert says in sentence
    assert disturbances(QUIET, after) == []


def test_reading_a_machine_that_tells_everything(tmp_path: Path) -> None:
    for path, text in {
        "proc/stat": "cpu  1000 100 400 90000 50 30 20 70 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\ncpu1 1 1 1 1 1 1 1 1 0 0\n",
        "sys/fs/cgroup/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/cpu.stat": "usage_usec 1\nnr_throttled 3\nthrottled_usec 2500000\n",
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "2\n",
        "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "3\n",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "powersave\n",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_max_freq": "2000000\n",
        "sys/devices/system/cpu/cpu1/cpufreq/cpuinfo_max_freq": "2500000\n",
    }.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    reading = read(tmp_path)
    assert (reading.cores, reading.busy_s, reading.steal_s) == (2, 15.5, pytest.approx(0.7))
    assert (reading.quota_cores, reading.stopped_s, reading.heat_events) == (1.5, 2.5, 5)
    assert reading.governors == {"powersave"}
    assert reading.clock_share == 0.8
    assert reading.predictions is None


@pytest.mark.parametrize("stat", ["", "cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\n"])
def test_reading_a_machine_that_tells_nothing(tmp_path: Path, stat: str) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "stat").write_text(stat)
    (sentence,) = circumstances(read(tmp_path), read(tmp_path))
    assert "could not be read" in sentence


def test_this_machine() -> None:
    info = machine.system_info()
    assert info.cores == config.cores()
    assert info.memory_mb > 100
    assert {"numpy", "onnx", "openvino"} <= set(info.versions)
    assert info.cpu
    assert machine.system_info() == info, "the same machine must give the same fingerprint"


def test_the_fingerprint_follows_the_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    before = machine.system_info().fingerprint
    monkeypatch.setattr(machine.importlib.metadata, "version", lambda package: "99.0")
    assert machine.system_info().fingerprint != before


def test_the_fingerprint_ignores_other_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    before = machine.system_info()
    real = machine.importlib.metadata.version
    monkeypatch.setattr(
        machine.importlib.metadata, "version", lambda package: "99.0" if package == "numpy" else real(package)
    )
    after = machine.system_info()
    assert (after.versions["numpy"], after.fingerprint) == ("99.0", before.fingerprint)
