"""How many inference processes pay: what is tried, what is chosen, what is remembered, and what if it fails."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from console import tryout
from console.supervision import environment
from inferencer.__main__ import batches_at_once
from shared import config, farm, machine
from shared.engines import yardstick

READY = 'import sys\nprint("ready", flush=True)\n'
STEADY = READY + (
    "import json\n"
    "plan = json.loads(sys.stdin.readline())\n"
    "print([10.0 * mine for mine in plan['mine']])\n"
)  # fmt: skip
CROWDED = READY + "import json\nprint([0.0 for _ in json.loads(sys.stdin.readline())['mine']])\n"
GONE_THEN = READY + "sys.stdin.readline()\nsys.exit('no memory')\n"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> config.Settings:
    for name in config.names():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    monkeypatch.setattr(config, "CPU_MAX", tmp_path / "cpu.max")
    return config.load()


def found(pace: dict[int, float], **changes: object) -> farm.Measured:
    measured = farm.Measured(fingerprint=machine.system_info().fingerprint, most=4, pace=pace, measured_on="2026-11-22")
    return msgspec.structs.replace(measured, **changes)


@pytest.mark.parametrize(
    ("most", "physical", "tried"),
    [
        (1, 1, [1]),
        (2, 1, [1, 2]),
        (4, 2, [1, 2, 3, 4]),
        (8, 4, [1, 4, 8]),
        (10, 8, [1, 5, 8, 10]),
        (10, 64, [1, 5, 10]),
        (6, None, [1, 3, 6]),
    ],
)
def test_on_many_cores_only_some_numbers_are_tried(most: int, physical: int | None, tried: list[int]) -> None:
    assert farm.counts(most, physical) == tried


@pytest.mark.parametrize(
    ("pace", "chosen"),
    [
        ({1: 100, 2: 193}, 2),
        ({1: 100, 2: 101}, 1),
        ({1: 100, 2: 80}, 1),
        ({1: 100, 2: 190, 3: 240, 4: 245}, 3),
        ({1: 100, 2: 190, 3: 230, 4: 245}, 4),
    ],
)
def test_the_fewest_that_are_as_good_as_the_best(pace: dict[int, float], chosen: int) -> None:
    assert found(pace).processes == chosen


class TestChoice:
    def test_what_somebody_set_stands(self, settings: config.Settings) -> None:
        farm.remember(settings, found({1: 100, 2: 190}))
        assert farm.choice(msgspec.structs.replace(settings, inference_processes=3)) == (3, farm.SET)

    def test_without_a_measurement_the_cores_are_counted(self, settings: config.Settings) -> None:
        assert farm.choice(settings) == (4, farm.COUNTED)

    def test_what_was_measured_is_remembered_and_told(self, settings: config.Settings) -> None:
        farm.remember(settings, found({1: 100.0, 2: 193.4, 4: 194}))
        assert farm.choice(settings) == (2, "measured on 2026-11-22: 1.93 times the pace of one")
        farm.remember(settings, found({1: 100.0, 4: 99}))
        assert farm.choice(settings) == (1, "measured on 2026-11-22: more are no faster")
        assert environment(settings)["INFERENCE_PROCESSES"] == "1"
        assert environment(settings)[farm.FOUND_BY].endswith("no faster")

    def test_it_holds_for_this_machine_and_these_settings(self, settings: config.Settings) -> None:
        for other in ({"fingerprint": "another"}, {"most": 10}):
            farm.remember(settings, found({1: 100, 2: 190}, **other))
            assert farm.remembered(settings) is None

    @pytest.mark.parametrize(
        "text", [b"", b"{", b"[]", b"\xff", b"{}", b'"most": 4', "no pace", "no one", "no process", "standing still"]
    )
    def test_what_is_damaged_is_measured_again(self, settings: config.Settings, text: bytes | str) -> None:
        wrong = {"no pace": {}, "no one": {2: 1.0}, "no process": {0: 1.0, 1: 2.0}, "standing still": {1: 0.0}}
        content = text if isinstance(text, bytes) else msgspec.json.encode(found(wrong[text]))
        (settings.root / "inference-farm.json").write_bytes(content)
        assert farm.choice(settings) == (4, farm.COUNTED)

    def test_what_cannot_be_kept_leaves_nothing_behind(self, settings: config.Settings) -> None:
        (settings.root / "inference-farm.json").mkdir()
        with pytest.raises(OSError, match="directory"):
            farm.remember(settings, found({1: 1.0}))
        assert [path.name for path in settings.root.iterdir()] == ["inference-farm.json"]

    def test_what_was_measured_runs_one_batch_in_each(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(config, "cores", lambda: 8)
        assert batches_at_once(5, 2, chosen=False) == 1
        assert batches_at_once(5, 2, chosen=True) == 4
        assert batches_at_once(2, 1, chosen=True) == 2
        assert batches_at_once(5, 16, chosen=True) == 1


class TestTryout:
    @pytest.fixture
    def says(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The file of a module `stand_in` that runs in place of the yardstick."""
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return tmp_path / "stand_in.py"

    def test_it_is_the_pace_of_all_together(self, says: Path) -> None:
        says.write_text(STEADY)
        assert tryout.measure([1, 2, 3], 30, "stand_in") == {1: 10, 2: 20, 3: 30}

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("raise SystemExit('out of luck')", "ended before it had run: out of luck"),
            ("print('hello', flush=True)\ninput()", "said b'hello\\\\n' and not that it is ready"),
            (GONE_THEN, "ended before it had run: no memory"),
            (CROWDED, "did not get to run"),
        ],
    )
    def test_a_process_that_fails_is_told(self, says: Path, text: str, why: str) -> None:
        says.write_text(text)
        with pytest.raises(tryout.Unmeasured, match=why):
            tryout.measure([1, 2], 30, "stand_in")

    def test_it_has_an_end(self, says: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        says.write_text("input()")
        with pytest.raises(tryout.Unmeasured, match="took too long"):
            tryout.measure([1, 2], 0.5, "stand_in")
        says.write_text(STEADY)
        monkeypatch.setattr(tryout, "RUN_S", 40)
        with pytest.raises(tryout.Unmeasured, match="longer than 30 s"):
            tryout.measure([1, 2], 30, "stand_in")

    def test_it_is_done_once_and_not_where_there_is_nothing_to_choose(
        self, settings: config.Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tried: list[list[int]] = []

        def measure(counts: list[int]) -> dict[int, float]:
            tried.append(counts)
            return {count: 100.0 * min(count, 2) for count in counts}

        monkeypatch.setattr(tryout, "measure", measure)
        said: list[str] = []
        for chosen in ({"inference_processes": 2}, {"inference_workers": 1}, {}, {}):
            assert tryout.first(msgspec.structs.replace(settings, **chosen), said.append) == ""
        assert tried == [[1, 2, 3, 4]]
        assert len(said) == 1
        assert farm.choice(settings).processes == 2

    def test_a_failure_leaves_the_count_and_the_next_start_tries_again(
        self, settings: config.Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def measure(_: list[int]) -> dict[int, float]:
            raise tryout.Unmeasured("it rained")

        monkeypatch.setattr(tryout, "measure", measure)
        assert [tryout.first(settings, lambda _: None) for _ in range(2)] == ["it rained", "it rained"]
        assert farm.choice(settings) == (4, farm.COUNTED)


def test_the_yardstick_runs_in_its_slices_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, ran = [10.0], list[float]()

    def advance(seconds: float) -> None:
        now_s[0] += seconds

    def call() -> None:
        ran.append(now_s[0])
        advance(0.25)

    clock = SimpleNamespace(monotonic=lambda: now_s[0], sleep=advance, process_time=lambda: now_s[0] / 2)
    monkeypatch.setattr(yardstick, "time", clock)
    plan = farm.Plan(begins_s=11.0, every_s=2.0, slice_s=1.0, mine=[True, False, True])
    assert yardstick.paces(call, plan) == [8, 0, 8], "it was given half of a core"
    assert ran == [11, 11.25, 11.5, 11.75, 15, 15.25, 15.5, 15.75]
    now_s[0] = 13.5
    assert yardstick.paces(call, plan) == [0, 0, 8], "the first was over"
