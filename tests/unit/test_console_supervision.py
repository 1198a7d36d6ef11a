"""The supervisord file as supervisord reads it, and what it is started with."""

from __future__ import annotations

import io
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from supervisor.options import ServerOptions

from console import lifecycle, overview
from console.screen import Screen
from console.supervision import CONFIGURATION, Program, Supervisor, differences, environment, wait_until_free
from shared import config, process

EVERY_PROGRAM = [
    "benchmarker-0",
    "benchmarker-1",
    "broker",
    "coordinator",
    "gateway",
    "inferencer-0",
    "inferencer-1",
    "inferencer-2",
    "preparer-0",
    "preparer-1",
    "preparer-2",
    "reporter",
    "trainer-0",
    "trainer-1",
]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> config.Settings:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("INFERENCE_PROCESSES", "3")
    settings = config.load()
    settings.make_folders()
    return settings


@pytest.fixture
def programs(settings: config.Settings, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    options = ServerOptions()
    options.realize(["--configuration", str(CONFIGURATION)])
    return {each.name: each for group in options.process_group_configs for each in group.process_configs}


def test_every_process_is_supervised_under_its_own_name(programs: dict[str, Any]):
    assert sorted(programs) == EVERY_PROGRAM
    assert programs["inferencer-2"].command == "python -m inferencer 2"
    assert programs["gateway"].command == "python -m gateway"


def test_all_programs_live_and_die_by_the_same_rules(programs: dict[str, Any]):
    for each in programs.values():
        assert each.stopsignal == signal.SIGTERM
        assert each.stopwaitsecs > 30, "longer than a drain may take"
        assert each.stopasgroup
        assert each.killasgroup
        assert each.exitcodes == [process.EXIT_BAD_CONFIG, process.EXIT_LOCKED]
        assert each.redirect_stderr


def test_logs_are_where_cvp_logs_looks_for_them(programs: dict[str, Any], settings: config.Settings):
    for name, each in programs.items():
        assert each.stdout_logfile == str(settings.logs / f"{name}.log")
        assert each.stdout_logfile_maxbytes > 0


def test_the_broker_starts_first_and_the_gateway_stops_first(programs: dict[str, Any]):
    priorities = {name: each.priority for name, each in programs.items()}
    assert min(priorities, key=priorities.__getitem__) == "broker"
    assert max(priorities, key=priorities.__getitem__) == "gateway"


def test_every_program_is_stopped_in_some_stage(programs: dict[str, Any]):
    stages = [kind for stage in lifecycle.STAGES for kind in stage]
    assert sorted(stages) == sorted({name.partition("-")[0] for name in programs})


def test_supervisord_gets_absolute_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", "here")
    monkeypatch.setenv("TLS_CERT", "cert.pem")
    given = environment(config.load())
    for name in ("DATA_DIR", "RUN_DIR", "DB_PATH", "MODEL_PATH", "DATASET_PATH", "REPORT_PATH", "TLS_CERT"):
        assert given[name].startswith(str(tmp_path)), name


def test_what_is_only_passed_on_is_not_taken_for_a_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in config.names():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("INFERENCE_WORKERS", "3")
    monkeypatch.setenv("PORT", "")
    chosen = {"DATA_DIR", "INFERENCE_WORKERS"}
    passed_on = environment(config.load())
    assert {"RUN_DIR", "DB_PATH", "INFERENCE_PROCESSES", "MAX_GPU_WORKERS", "PREPARERS"} <= set(passed_on)
    for environ in (None, passed_on):
        origins = {name: origin for name, _, origin, _ in config.in_force(environ)}
        assert {name for name, origin in origins.items() if origin == "environment"} == chosen
        assert set(origins.values()) == {"environment", "default"}


def test_the_same_settings_do_not_differ_from_themselves(settings: config.Settings):
    running = config.load(environment(settings))
    assert differences(settings, running) == []


def test_other_settings_are_named(settings: config.Settings):
    running = config.load(environment(settings) | {"PORT": "9000"})
    assert differences(settings, running) == ["PORT=9000 (this shell: 8080)"]


def test_a_secret_that_differs_is_not_told(settings: config.Settings):
    running = config.load(environment(settings) | {"SMTP_URL": "smtp://me:secret@mail", "METRICS_TOKEN": "secret"})
    assert differences(settings, running) == ["another METRICS_TOKEN", "another SMTP_URL"]


def test_a_lock_that_is_held_is_waited_for_within_bounds(settings: config.Settings):
    lock = process.FileLock(settings.run / "broker.lock").acquire()
    assert wait_until_free(settings.run, (), 0.0) == ["broker"]
    assert wait_until_free(settings.run, ("broker",), 0.0) == []
    lock.release()
    assert wait_until_free(settings.run, (), 0.0) == []


class Staged(Supervisor):
    """A supervisor whose programs are what a test says."""

    def __init__(self, settings: config.Settings, *programs: Program) -> None:
        super().__init__(settings)
        self._programs = list(programs)

    def answers(self) -> bool:
        return True

    def programs(self) -> list[Program]:
        return self._programs


def program(name: str, state: str, *, given_up: bool = False) -> Program:
    return Program(name=name, group=name.partition("-")[0], state=state, pid=1, uptime_s=1, why="", given_up=given_up)


@pytest.fixture
def broker_lock(settings: config.Settings) -> Iterator[None]:
    lock = process.FileLock(settings.run / "broker.lock").acquire()
    yield
    lock.release()


@pytest.mark.usefixtures("broker_lock")
def test_a_start_waits_for_programs_that_have_not_taken_their_lock(settings: config.Settings):
    staged = Staged(settings, program("broker", "STARTING"), program("preparer", "STARTING"))
    said: list[str] = []
    with pytest.raises(lifecycle.click.ClickException, match="waiting for preparer"):
        lifecycle.wait_until_ready(staged, said.append, bound_s=0.3)
    assert set(said) == {"waiting for preparer"}


def test_a_program_that_was_given_up_ends_the_wait_with_its_last_words(settings: config.Settings):
    (settings.logs / "preparer.log").write_text("\n".join(["old"] * 50 + ["ImportError: no libfoo.so"]))
    staged = Staged(settings, program("preparer", "FATAL", given_up=True))
    with pytest.raises(lifecycle.click.ClickException) as caught:
        lifecycle.wait_until_ready(staged, lambda _: None)
    assert "preparer does not stay up" in caught.value.message
    assert caught.value.message.endswith("ImportError: no libfoo.so")
    assert caught.value.message.count("old") == 11


def test_a_program_that_dies_five_times_says_why_once(settings: config.Settings):
    once = ['{"level":"info","message":"started","pid":1}', '{"level":"fatal","message":"no libfoo.so"}']
    (settings.logs / "preparer.log").write_text("\n".join(once * 5))
    staged = Staged(settings, program("preparer", "FATAL", given_up=True))
    with pytest.raises(lifecycle.click.ClickException) as caught:
        lifecycle.wait_until_ready(staged, lambda _: None)
    assert caught.value.message.splitlines()[1:] == once


def test_status_is_not_content_while_a_program_is_given_up(settings: config.Settings, monkeypatch: pytest.MonkeyPatch):
    staged = Staged(settings, program("broker", "RUNNING"), program("preparer", "FATAL", given_up=True))
    staged.lives = lambda: True
    monkeypatch.setattr(overview, "Supervisor", lambda _: staged)
    monkeypatch.setattr(overview, "settings_in_force", lambda _: settings)
    monkeypatch.setattr(overview.Client, "not_ready", lambda _: "")
    told = io.StringIO()
    assert overview.show_status(settings, Screen(Console(file=told, width=200))) == 1
    assert "Only in part ready" in told.getvalue() and "`cvp restart preparer`" in told.getvalue()
    staged._programs.pop()
    assert overview.show_status(settings, Screen(Console(file=told))) == 0


def test_a_restart_does_not_wait_for_a_program_of_another_name(
    settings: config.Settings, monkeypatch: pytest.MonkeyPatch
):
    staged = Staged(settings, program("broker", "RUNNING"), program("preparer", "FATAL", given_up=True))
    monkeypatch.setattr(lifecycle.Client, "not_ready", lambda _: "")
    lock = process.FileLock(settings.run / "broker.lock").acquire()
    lifecycle.wait_until_ready(staged, lambda _: None, bound_s=5, only=("broker",))
    lock.release()


def test_a_program_that_was_given_up_has_advice_and_no_other_has():
    assert "`cvp restart preparer`" in program("preparer", "FATAL", given_up=True).advice()
    assert program("preparer", "BACKOFF").advice() == ""


def test_names_mean_one_program_or_all_of_a_kind(settings: config.Settings):
    staged = Staged(settings, program("inferencer-0", "RUNNING"), program("inferencer-1", "RUNNING"))
    staged.lives = lambda: True
    assert [each.name for each in lifecycle.named(staged, "inferencer")] == ["inferencer-0", "inferencer-1"]
    assert [each.name for each in lifecycle.named(staged, "inferencer-1")] == ["inferencer-1"]
    with pytest.raises(lifecycle.click.ClickException, match="there are: inferencer-0, inferencer-1"):
        lifecycle.named(staged, "inferencers")
