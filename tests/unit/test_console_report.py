"""`cvp report`: verdicts in clear lines with exit codes, offline on two files and with the platform."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from console import cli
from console import report as reports
from shared import errors
from shared.verdict.report import build, canonical
from tests.unit.measurements import measurement_set, series

SET = measurement_set()
ID = "rep_0193a5b2c7e04f1c9a2b7d03"
JOB = "job_0193a5b2c7e04f1c9a2b7d"


class Platform:
    """What the REST client gives."""

    def __init__(self) -> None:
        self.files = {(ID, "json"): canonical(build(SET, ID)), (ID, "measurements"): msgspec.json.encode(SET)}

    def training_report(self, training_id: str, form: str) -> bytes:
        return f"{training_id} {form}".encode()

    def export(self, report_id: str, form: str) -> bytes:
        if (report_id, form) not in self.files:
            raise errors.NotFound(f"There is no report {report_id!r}.")
        return self.files[report_id, form]


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("PORT", "9")
    monkeypatch.setattr(cli.os, "umask", lambda _mask: 0)
    monkeypatch.chdir(tmp_path)
    return CliRunner()


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Platform:
    running = Platform()

    @contextmanager
    def signed_in(_settings: object) -> Iterator[Platform]:
        yield running

    monkeypatch.setattr(reports, "signed_in", signed_in)
    return running


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "report.json").write_bytes(canonical(build(SET, ID)))
    (tmp_path / "measurements.json").write_bytes(msgspec.json.encode(SET))
    return "report.json", "measurements.json"


def test_two_files_are_enough_to_verify_everything(runner: CliRunner, files: tuple[str, str]) -> None:
    done = runner.invoke(cli.main, ["report", "verify", files[0], "--measurements", files[1]])
    assert done.exit_code == 0, done.output
    assert [line.split()[:2] for line in done.output.splitlines()[:4]] == [
        ["hash", "holds"],
        ["source", "holds"],
        ["decision", "holds"],
        ["report", "holds"],
    ]


def test_without_platform_and_measurements_only_the_hash_is_checked(runner: CliRunner, files: tuple[str, str]) -> None:
    done = runner.invoke(cli.main, ["report", "verify", files[0]])
    assert done.exit_code == 3
    assert "hash      holds" in done.output and "report    not checked" in done.output
    assert "--measurements FILE gives them" in done.output and "cvp up" in done.output


@pytest.mark.usefixtures("platform")
def test_the_platform_gives_what_is_missing(runner: CliRunner, files: tuple[str, str]) -> None:
    for source in (files[0], ID):
        done = runner.invoke(cli.main, ["report", "verify", source])
        assert done.exit_code == 0, done.output


def test_a_changed_report_fails(runner: CliRunner, files: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / files[0]
    path.write_bytes(path.read_bytes().replace(b"openvino", b"openvina", 1))
    done = runner.invoke(cli.main, ["report", "verify", files[0], "--measurements", files[1]])
    assert (done.exit_code, "FAILS" in done.output) == (1, True)


@pytest.mark.parametrize("source", ["nowhere.json", "../../users", "rep_../../users", ""])
def test_what_names_no_report_is_refused_before_anybody_is_asked(runner: CliRunner, source: str) -> None:
    for command in (["verify", source], ["export", source], ["diff", source, source]):
        done = runner.invoke(cli.main, ["report", *command])
        assert done.exit_code == 1
        assert "no id of a report" in done.output


@pytest.mark.usefixtures("platform")
def test_an_export_is_a_file_under_its_name(runner: CliRunner, tmp_path: Path) -> None:
    assert runner.invoke(cli.main, ["report", "export", ID, "--format", "measurements"]).exit_code == 0
    assert (tmp_path / f"{ID}-measurements.json").read_bytes() == msgspec.json.encode(SET)
    assert runner.invoke(cli.main, ["report", "export", ID, "--format", "json", "-o", "mine.json"]).exit_code == 0
    assert runner.invoke(cli.main, ["report", "verify", "mine.json"]).exit_code == 0
    nowhere = runner.invoke(cli.main, ["report", "export", ID, "--format", "json", "-o", "no/such/folder.json"])
    assert nowhere.exit_code == 1
    assert "no/such/folder.json cannot be written: No such file or directory. Name another" in nowhere.output
    absent = runner.invoke(cli.main, ["report", "export", "rep_1", "--format", "csv"])
    assert absent.exit_code == 1 and "There is no report" in absent.output
    assert {path.name for path in tmp_path.iterdir()} == {f"{ID}-measurements.json", "mine.json"}


@pytest.mark.usefixtures("platform")
def test_the_report_of_a_training_is_a_page_named_by_the_training(runner: CliRunner, tmp_path: Path) -> None:
    assert runner.invoke(cli.main, ["report", "export", JOB]).exit_code == 0
    assert (tmp_path / f"{JOB}.html").read_text() == f"{JOB} html"
    assert runner.invoke(cli.main, ["report", "export", JOB, "--format", "json"]).exit_code == 0
    assert (tmp_path / f"{JOB}.json").read_text() == f"{JOB} json"
    refused = runner.invoke(cli.main, ["report", "export", JOB, "--format", "pdf"])
    assert (refused.exit_code, "saved as html or json, not as pdf" in refused.output) == (1, True)


def test_a_difference_as_text_and_as_json(runner: CliRunner, files: tuple[str, str], tmp_path: Path) -> None:
    other = build(measurement_set(series()[:3], num_warmup=20), "rep_2")
    (tmp_path / "other.json").write_bytes(canonical(other))
    told = runner.invoke(cli.main, ["report", "diff", files[0], "other.json"]).output
    assert "Both choose onnxruntime/fp32/b1/t2/i1." in told
    assert "config.num_warmup: 10 -> 20" in told
    assert "within noise: " in told
    assert "openvino/fp32/b8/t2/i1: measured -> absent" in told
    record = json.loads(runner.invoke(cli.main, ["report", "diff", files[0], "other.json", "--json"]).output)
    assert (record["before"], record["after"], record["comparable"]) == (ID, "rep_2", True)
    broken = runner.invoke(cli.main, ["report", "diff", files[0], files[1]])
    assert broken.exit_code == 1 and "is no report as JSON" in broken.output
