"""The command itself: light to start, one sentence for every failure, exit codes that scripts can use."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from console import cli
from shared import errors

HEAVY = ("rich", "httpx", "psutil", "numpy", "peewee", "supervisor")


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(cli.os, "umask", lambda _mask: 0)
    return CliRunner()


def failing(failure: BaseException) -> click.Group:
    group = cli.PlainSpoken()

    @group.command()
    def fail() -> None:
        raise failure

    return group


def test_help_loads_nothing_heavy():
    asked = f"import sys, console.cli; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[]\n"


def test_every_command_has_a_short_help_that_fits(runner: CliRunner):
    told = runner.invoke(cli.main, ["--help"], terminal_width=80).output
    for name in (
        "up",
        "down",
        "status",
        "restart",
        "logs",
        "migrate",
        "config",
        "doctor",
        "passwd",
        "backup",
        "restore",
        "demo",
        "models",
        "datasets",
        "train",
        "benchmark",
        "deploy",
        "report",
        "jobs",
    ):
        assert f"  {name} " in told
    assert "..." not in told.partition("Commands:")[2]


def test_a_bad_setting_names_itself_and_exits_64(runner: CliRunner):
    done = runner.invoke(cli.main, ["up"], env={"PORT": "99999"})
    assert done.exit_code == 64
    assert "PORT='99999'" in done.stderr
    assert "65535" in done.stderr


def test_nothing_running_is_exit_code_3(runner: CliRunner):
    done = runner.invoke(cli.main, ["status"])
    assert (done.exit_code, done.output.startswith("Not running")) == (3, True)
    assert "cvp up" in done.output


def test_down_without_anything_to_stop_is_fine(runner: CliRunner):
    done = runner.invoke(cli.main, ["down"])
    assert (done.exit_code, done.output.startswith("Nothing runs")) == (0, True)


@pytest.mark.parametrize(
    "command", [["models"], ["datasets", "--json"], ["benchmark", "m"], ["deploy", "m", "--default"]]
)
def test_commands_that_ask_the_platform_say_how_to_start_it(runner: CliRunner, command: list[str]):
    done = runner.invoke(cli.main, command, env={"PORT": "9"})
    assert (done.exit_code, done.stdout) == (1, "")
    assert "cannot be asked" in done.stderr
    assert "cvp up" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["benchmark", "m", "--precision", "fp32,fp33"], "'fp33' is not one of 'fp32', 'fp16', 'int8'"),
        (["benchmark", "m", "--batch", "1,x"], "'x' is not a valid"),
        (["benchmark", "m", "--batch", "1,999"], "batch_sizes[1]: must be a whole number from 1 to 256."),
        (["benchmark", "m", "--constraint", "latency_p95_ms=5"], "write METRIC<=NUMBER"),
        (["benchmark", "m", "--constraint", "latency<=5"], "known are latency_mean_ms, "),
        (["benchmark", "m", "--constraint", "latency_p95_ms<=1.2.3"], "'1.2.3' is not a valid float"),
        (
            ["deploy", "m", "--engine", "onnxruntime", "--batch", "0"],
            "batch_size: must be a whole number from 1 to 256.",
        ),
        (["deploy", "m", "--report", "rep_1", "--default"], "Say what is to serve"),
        (["models", "add", "no-such-file.onnx"], "does not exist"),
        (["models", "add", __file__, "--task", "sorting"], "'sorting' is not one of"),
        (["train", "m", "d", "--set", "patience"], "'patience' is no NAME=VALUE, such as learning_rate=0.001."),
        (["train", "m", "d", "--search", "yes"], "'yes' is no NAME=VALUE, such as population=12."),
        (["train", "m", "d", "--sizes", "16,24"], "--objectives and --sizes are of a search; add --search"),
        (["train", "m", "d", "--set", "batch_size=1.5"], "from 2 to 4096, not a decimal number."),
        (["train", "m", "d", "--search", "population=1000,generations=1000"], "generations 1,000 is 1,000,000.\n"),
        (["datasets", "ad"], "No such command 'ad'"),
    ],
)
def test_arguments_that_make_no_sense_are_exit_code_2_and_ask_nobody(
    runner: CliRunner, arguments: list[str], said: str
):
    done = runner.invoke(cli.main, arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr


@pytest.mark.parametrize("command", [["restart", "gateway"], ["demo"]])
def test_commands_that_need_the_platform_say_how_to_start_it(runner: CliRunner, command: list[str]):
    done = runner.invoke(cli.main, command)
    assert done.exit_code == 1
    assert "does not run" in done.stderr
    assert "cvp up" in done.stderr


def test_without_pytorch_the_mission_says_what_to_install_before_anything_starts(
    runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("shared.nets.missing", lambda then: f"PyTorch is not installed here: {then}.")
    done = runner.invoke(cli.main, ["demo", "--train", "--start"])
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: PyTorch is not installed here: try again. It takes some 5 GB")
    assert not (tmp_path / "data").exists()


def test_expected_failures_are_one_sentence(runner: CliRunner):
    done = runner.invoke(failing(errors.BadModel("No nodes in the graph.")), ["fail"])
    assert (done.exit_code, done.output) == (1, "Error: No nodes in the graph.\n")


def test_unexpected_failures_are_one_sentence_and_their_trace_is_kept(runner: CliRunner, tmp_path: Path):
    (tmp_path / "data" / "logs").mkdir(parents=True)
    done = runner.invoke(failing(ZeroDivisionError("a/b")), ["fail"])
    assert done.exit_code == 1
    assert done.output.count("\n") == 1
    assert "ZeroDivisionError: a/b" in done.output
    assert "Traceback" in (tmp_path / "data" / "logs" / "cvp.log").read_text()


@pytest.mark.parametrize("command", ["up", "migrate", "passwd"])
def test_a_file_where_the_data_should_be_is_one_sentence(runner: CliRunner, tmp_path: Path, command: str):
    (tmp_path / "file").touch()
    done = runner.invoke(cli.main, [command], env={"DATA_DIR": str(tmp_path / "file")})
    assert done.exit_code == 1
    assert re.fullmatch(r"Error: Cannot use .*/file/?.*: .*`cvp doctor` says what to do\.\n", done.output)


def test_ctrl_c_is_exit_code_130(runner: CliRunner):
    assert runner.invoke(failing(KeyboardInterrupt()), ["fail"]).exit_code == 130


def test_migrate_makes_the_database_once(runner: CliRunner):
    assert runner.invoke(cli.main, ["migrate"]).output.startswith("Applied 0001")
    assert runner.invoke(cli.main, ["migrate"]).output == "The database is up to date.\n"


def test_config_shows_value_and_origin_and_no_escape_codes(runner: CliRunner):
    told = runner.invoke(cli.main, ["config"], env={"PORT": "8181"}).output
    port = next(line for line in told.splitlines() if line.startswith("PORT "))
    assert port.split()[1:3] == ["8181", "environment"]
    assert "\x1b" not in told
