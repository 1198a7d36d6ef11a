"""What people read: logs, the results of the main job, the findings of the doctor, a port that is taken."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import msgspec
import pytest
from rich.console import Console

from console import demo, doctor, groundwork, job, logs, overview, printout
from console.jobs import progress
from console.screen import Pace, Screen, duration
from shared import config
from shared.db import benchmarks, connection
from shared.machine import system_info
from shared.specs import Constraint, NoiseFloor, Preprocessing
from shared.verdict.report import build, canonical
from tests.unit import trainings
from tests.unit.measurements import CONSTRAINTS, measurement_set

LINE = '{"time":"2026-01-31T08:15:30.250Z","level":"warn","service":"gateway","message":"slow","ms":12}\n'


def screen(*, terminal: bool = False, width: int = 80) -> tuple[Screen, io.StringIO]:
    told = io.StringIO()
    return Screen(Console(file=told, force_terminal=terminal, width=width, highlight=False)), told


# --- logs -------------------------------------------------------------------------------------------------------------


def test_a_log_line_is_made_readable():
    assert click.unstyle(logs.readable(LINE)) == "08:15:30.250 warn  slow  ms=12\n"


def test_a_trace_stands_below_its_line():
    line = json.dumps(json.loads(LINE) | {"trace": "Traceback\n  ValueError"})
    assert click.unstyle(logs.readable(line)).endswith("ms=12\nTraceback\n  ValueError\n")


@pytest.mark.parametrize("line", ["plain text\n", '{"other": "json"}\n', "[1]\n", "\n"])
def test_what_is_no_log_line_stays_as_it_is(line: str):
    assert logs.readable(line) == line


def test_only_the_last_lines_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "broker.log").write_text("".join(f"{number}\n" for number in range(100)))
    logs.show(tmp_path, "broker", lines=3, follow=False, pretty=False)
    assert capsys.readouterr().out == "97\n98\n99\n"


def test_an_unknown_log_lists_those_there_are(tmp_path: Path):
    (tmp_path / "broker.log").touch()
    with pytest.raises(click.ClickException, match="there are: broker"):
        logs.show(tmp_path, "../secrets", lines=3, follow=False, pretty=False)


def test_following_gives_whole_lines_and_survives_rotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "gateway.log"
    path.write_text("before\n")

    def append(text: str) -> None:
        with path.open("a") as log:
            log.write(text)

    happenings: Iterator[Callable[[], object]] = iter(
        [
            lambda: append("half a "),
            lambda: append("line\n"),
            lambda: path.rename(tmp_path / "gateway.log.1"),
            lambda: path.write_text("after\n"),
        ]
    )
    monkeypatch.setattr(logs.time, "sleep", lambda _: next(happenings)())
    with path.open() as log:
        log.read()
        with contextlib.closing(logs.added(path, log)) as grown:
            assert [next(grown), next(grown)] == ["half a line\n", "after\n"]


# --- results ----------------------------------------------------------------------------------------------------------


def test_the_table_marks_the_choice_and_fits_eighty_columns():
    to, told = screen()
    report = build(measurement_set(constraints=CONSTRAINTS[:1]), "rep_1")
    printout.candidates(report, to)
    printout.decision(report, to)
    lines = told.getvalue().splitlines()
    assert lines[1].split()[:5] == ["→", "ONNX", "Runtime", "FP32", "1"]
    assert lines[1].split()[-1] == "chosen"
    assert [line.split()[-1] for line in lines[2:5]] == ["fails", "passes", "fails"]
    assert any(line.startswith("  TensorRT: unavailable, TensorRT needs an NVIDIA GPU") for line in lines)
    assert any(line.startswith("Chosen: ONNX Runtime FP32, batch 1") for line in lines)
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in told.getvalue()


def test_no_choice_is_said_with_what_would_change_it():
    to, told = screen()
    limit = Constraint(metric="latency_p95_ms", op="<=", value=1)
    report = build(measurement_set(constraints=(limit,)), "rep_1")
    printout.candidates(report, to)
    printout.decision(report, to)
    assert "→" not in told.getvalue()
    assert "No choice" in told.getvalue()
    assert "would pass" in told.getvalue()


@pytest.mark.parametrize(
    ("values", "drawn"), [([0.5], "▁"), ([0.0, 1.0, 0.5], "▁█▅"), ([0.0] * 200 + [1.0] * 200, "▁" * 20 + "█" * 20)]
)
def test_a_curve_is_as_wide_as_it_may_be(values: list[float], drawn: str):
    assert printout.sparkline(values) == drawn


def test_a_detector_is_told_by_its_map_and_a_classifier_by_its_accuracy():
    curve = [
        msgspec.structs.replace(each, val_accuracy=share)
        for each, share in zip(trainings.epochs(3), (0.25, 0.5, 0.75), strict=True)
    ]
    result = trainings.result(curve=curve)
    for map50, expected in (
        (None, "accuracy  75.0% of 360 validation images"),
        (0.9, "mAP       0.750 (mAP50 0.900) on"),
    ):
        to, told = screen()
        printout.training(msgspec.structs.replace(result, final_map50=map50), to)
        assert told.getvalue().startswith(f"  {expected}")
        assert "(epoch 3 of 3)" in told.getvalue()
        assert "▁▅█" in told.getvalue()


def test_a_search_tells_its_way_beside_chance_and_what_it_chose():
    found = trainings.search(generations=2).outcome
    to, told = screen(width=120)
    printout.search(found, to)
    lines = told.getvalue().splitlines()
    assert re.fullmatch(r"  search    24 genomes tried, 4 failures; best by generation: 0\.\d{3} → 0\.\d{3}", lines[0])
    assert lines[1].startswith("  chance    0.")
    assert "optimizer " in lines[2] and lines[2].startswith("  chosen    learning_rate 0.")


def test_a_search_for_latency_as_well_tells_its_front():
    to, told = screen(width=200)
    printout.search(trainings.search(("accuracy", "latency_ms"), generations=2).outcome, to)
    assert re.search(r"^  front     0\.\d{3} at 0\.4 ms · 0\.\d{3} at 0\.6 ms", told.getvalue(), re.MULTILINE)


def answer(label: str, predicted: str) -> printout.Answer:
    split = {"queue": 0.1, "decode": 0.2, "inference": 0.3, "total": 0.7}
    return printout.Answer(label=label, predicted=predicted, confidence=0.61, client_ms=3.0, split_ms=split)


def test_wrong_predictions_are_named_also_without_colour():
    to, told = screen()
    printout.predictions([answer("4", "4"), answer("7", "1")], to)
    assert "wrong: a 7 was taken for a 1 (61% sure)" in told.getvalue()
    assert "median 3.0 ms" in told.getvalue()


@pytest.mark.parametrize(
    ("state", "part", "what"),
    [
        ({"status": "queued", "progress": {}}, 0.0, "waiting for its turn"),
        ({"status": "running", "progress": {}}, 0.0, "starting"),
        ({"status": "completed", "progress": {}}, 1.0, "writing the report"),
        (
            {
                "status": "running",
                "progress": {"fraction": 0.4, "round": 2, "rounds": 5, "candidate": "openvino/fp32/b8", "p50_ms": 0.25},
            },
            0.4,
            "round 2/5  openvino/fp32/b8  0.250 ms",
        ),
        (
            {
                "status": "running",
                "progress": {"step": "INT8: calibrating by minmax", "done": 3, "total": 27, "fraction": 0.01},
            },
            0.01,
            "INT8: calibrating by minmax  3/27",
        ),
        ({"status": "running", "progress": {"checking": "openvino/int8"}}, 0.0, "checking openvino/int8"),
        (
            {
                "status": "running",
                "progress": {"checking": "openvino/int8", "done": 96, "total": 2500, "fraction": 0.2},
            },
            0.2,
            "checking openvino/int8  96/2,500",
        ),
        (
            {"status": "running", "progress": {"stage": "training", "epoch": 3, "max_epochs": 20, "fraction": 0.1}},
            0.1,
            "epoch 3/20",
        ),
        (
            {
                "status": "running",
                "progress": {"stage": "training", "epoch": 2, "max_epochs": 4, "fraction": 0.3}
                | {"accuracy": 0.25, "map50": 0.5},
            },
            0.3,
            "epoch 2/4  mAP 0.250",
        ),
        (
            {"status": "running", "progress": {"stage": "validating", "epoch": 3, "max_epochs": 20, "fraction": 0.15}},
            0.15,
            "epoch 3/20  validating",
        ),
        (
            {
                "status": "running",
                "progress": {"stage": "judging the best epoch", "epoch": 3, "max_epochs": 20, "fraction": 0.99},
            },
            0.99,
            "judging the best epoch",
        ),
        (
            {
                "status": "running",
                "progress": {
                    "stage": "searching",
                    "generation": 2,
                    "generations": 3,
                    "evaluations": 14,
                    "max_evaluations": 36,
                    "best": {"accuracy": 0.9812},
                    "fraction": 0.3,
                },
            },
            0.3,
            "searching  generation 2/3  14/36 tried  best accuracy 0.981",
        ),
        (
            {
                "status": "running",
                "progress": {"stage": "training the finalists again, with other seeds", "done": 4, "total": 9}
                | {"generation": 3, "generations": 3, "evaluations": 36, "max_evaluations": 36, "best": None}
                | {"fraction": 0.9},
            },
            0.9,
            "training the finalists again, with other seeds  4/9  generation 3/3  36/36 tried",
        ),
        ({"status": "queued", "progress": {}, "waiting_for": "job_1"}, 0.0, "waiting for job_1"),
        ({"status": "completed", "kind": "dataset", "progress": {}}, 1.0, ""),
        (
            {"status": "running", "progress": {"step": "images", "done": 1200, "total": 4800, "fraction": 0.25}},
            0.25,
            "images  1,200/4,800",
        ),
    ],
)
def test_progress_in_words(state: dict[str, object], part: float, what: str):
    assert progress(state) == (part, what)


def test_a_bar_without_a_terminal_is_an_occasional_plain_line(monkeypatch: pytest.MonkeyPatch):
    to, told = screen()
    now = [0.0]
    monkeypatch.setattr("console.screen.time.monotonic", lambda: now[0])
    with to.bar("benchmark") as advance:
        for tenth in range(10):
            now[0] += 3
            advance(tenth / 10, "round 1/2")
    assert told.getvalue().splitlines() == [
        "  benchmark:  30%  round 1/2  about 21 s left",
        "  benchmark:  70%  round 1/2  about 9 s left",
    ]


def test_the_rest_is_told_by_what_was_watched_and_counts_down(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr("console.screen.time.monotonic", lambda: now[0])
    pace = Pace()
    assert pace.rest(0.5) == ""  # under way before anybody watched
    now[0] += 30
    assert pace.rest(0.6) == "about 2 min left"
    now[0] += 30
    assert pace.rest(0.6) == "about 1 min 30 s left"
    now[0] += 91
    assert pace.rest(0.6) == ""  # it is not there at the time that was told
    now[0] += 49
    assert pace.rest(0.9) == "about 50 s left"
    assert pace.rest(1.0) == ""
    assert pace.rest(0.1) == ""  # another attempt, from the start


def test_a_wait_for_its_turn_is_no_slowness(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr("console.screen.time.monotonic", lambda: now[0])
    pace = Pace()
    told = []
    for part, seconds in ((0.0, 600), (0.0, 5), (0.1, 10), (0.2, 0)):
        told.append(pace.rest(part))
        now[0] += seconds
    assert told == ["", "", "", "about 1 min 20 s left"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.6, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations_in_words(seconds: float, words: str):
    assert duration(seconds) == words


def row(name: str) -> dict[str, str]:
    return {"model": "mdl_01a20021a1eec2766a742b", "name": name, "status": "ready", "added": "2026-01-31 08:15"}


def test_a_list_keeps_ids_whole_and_leaves_out_what_a_narrow_window_cannot_hold():
    to, told = screen(terminal=True, width=50)
    to.rows([row("a name that is much too long for this")], wide="name")
    title, line = (click.unstyle(line).split() for line in told.getvalue().splitlines())
    assert title == ["model", "name", "status"]
    assert line[0] == "mdl_01a20021a1eec2766a742b"
    assert line[-1] == "ready" and "…" in line[-2]


def test_a_list_that_goes_to_a_file_has_everything():
    to, told = screen(width=20)
    to.rows([row("n" * 200)], wide="name")
    assert told.getvalue().splitlines()[1].split() == " ".join(row("n" * 200).values()).split()


def test_brackets_in_a_message_are_no_markup():
    to, told = screen(terminal=True)
    to.step("check", "image float32[batch, 1, 8, 8] [red]")
    assert "[batch, 1, 8, 8] [red]" in told.getvalue()


# --- findings ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> config.Settings:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PORT", str(probe.getsockname()[1]))
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    return config.load()


@pytest.mark.parametrize(
    ("by_us", "keep", "open_now", "ending"),
    [(True, False, False, "stops now"), (True, True, True, "Ctrl-C stops"), (False, False, True, "goes on")],
)
def test_the_end_of_the_demo_names_no_address_that_falls_silent(
    settings: config.Settings, by_us: bool, keep: bool, open_now: bool, ending: str
):
    to, told = screen()
    demo.where_next(settings, to, by_us=by_us, keep=keep)
    assert ("/schema" in told.getvalue()) is open_now
    assert ("starts it again" in told.getvalue()) is not open_now
    assert ending in told.getvalue()


def test_a_taken_port_names_who_has_it_and_another(settings: config.Settings):
    with socket.create_server(("127.0.0.1", settings.port)), pytest.raises(click.ClickException) as caught:
        groundwork.require_free_port(settings)
    assert f"(process {os.getpid()})" in caught.value.message
    assert f"PORT={settings.port + 1}" in caught.value.message
    groundwork.require_free_port(settings)


def test_a_host_that_is_none_is_called_that():
    with pytest.raises(click.ClickException, match=r"HOST='no\.such\.invalid'"):
        groundwork.require_free_port(config.load({"HOST": "no.such.invalid"}))


def test_a_healthy_machine_has_nothing_wrong(settings: config.Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "DISK_MB", 1)
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    findings = list(doctor.examine())
    assert [finding.text for finding in findings if finding.wrong] == []
    subjects = {finding.subject for finding in findings}
    assert {"SQLite", "folders", "disk", "port", "onnxruntime", "openvino", "tensorrt", "pytorch", "GPU"} <= subjects


def test_what_is_wrong_says_what_to_do_and_counts(
    settings: config.Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(doctor, "DISK_MB", 1)
    (tmp_path / "data").write_text("a file where the folder should be")
    to, told = screen()
    assert doctor.show(to) == 1
    assert "set DATA_DIR" in told.getvalue()
    assert re.search(r"^1 of \d+ need attention\.$", told.getvalue(), re.MULTILINE)
    assert re.findall(r"(?:ok|wrong) +(folders|disk|port|sandbox|onnxruntime|GPU)", told.getvalue()) == [
        "folders",
        "disk",
        "port",
        "sandbox",
        "onnxruntime",
        "GPU",
    ]


def test_a_bad_setting_is_a_finding_among_others(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PORT", "0")
    found = list(doctor.examine())
    assert [finding.text[:8] for finding in found if finding.wrong] == ["PORT='0'"]
    assert {"settings", "sandbox", "onnxruntime", "GPU"} <= {finding.subject for finding in found}


def test_the_noise_of_the_machine_is_a_finding_that_is_never_wrong(settings: config.Settings):
    assert doctor.noise_floor(settings).text.startswith("not measured with these engines and drivers")
    settings.make_folders()
    settings.db_file.write_bytes(b"")
    unknown = doctor.noise_floor(settings)
    assert unknown.text.startswith("unknown: ") and not unknown.wrong
    settings.db_file.unlink()
    connection.migrate(settings.db_file)
    connection.open_db(settings.db_file)
    fingerprint = system_info().fingerprint
    noise = NoiseFloor(value=0.031, runs=9, measured_at="2026-01-31T12:00Z", fingerprint=fingerprint, benchmark_id="j")
    with connection.write():
        benchmarks.remember_noise_floor(noise)
    connection.database.close()
    told = doctor.noise_floor(settings).text
    assert told == "3.1 %, measured 2026-01-31 by j; candidates of a benchmark tie within ±6.2 %"


def test_a_full_disk_is_a_finding(settings: config.Settings, monkeypatch: pytest.MonkeyPatch):
    settings.make_folders()
    monkeypatch.setattr(doctor, "DISK_MB", 10**12)
    assert doctor.disk(settings).wrong


def test_engines_that_cannot_be_loaded_are_a_finding(monkeypatch: pytest.MonkeyPatch):
    crash = subprocess.CompletedProcess([], -11, b"", b"Fatal: libcuda\n")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: crash)
    (finding,) = doctor.engines()
    assert finding.wrong
    assert "libcuda" in finding.text


def test_a_machine_without_any_engine_is_not_well(monkeypatch: pytest.MonkeyPatch):
    table = json.dumps([["onnxruntime", "fp32", "not installed"]]).encode()
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, table, b""))
    assert [finding.wrong for finding in doctor.engines()] == [False, True]


# --- settings ---------------------------------------------------------------------------------------------------------


def test_secrets_are_hidden_and_only_secrets():
    assert config.shown("METRICS_TOKEN", "abc") == "(hidden)"
    assert config.shown("SMTP_URL", "smtp://me:secret@mail") == "(hidden)"
    assert config.shown("METRICS_TOKEN", "") == ""
    assert config.shown("PORT", 8080) == "8080"
    assert config.shown("TLS_ENABLED", False) == "false"


def test_the_settings_shown_are_those_in_force(settings: config.Settings):
    to, told = screen(width=300)
    overview.show_config(to)
    database = next(line for line in told.getvalue().splitlines() if line.startswith("DB_PATH"))
    assert database.split()[1:3] == [str(settings.db_file), "default"]


# --- the main job -----------------------------------------------------------------------------------------------------


def uploaded(**changes: object) -> dict[str, object]:
    contract = msgspec.json.decode((job.EXAMPLE / "preprocessing.json").read_bytes(), type=Preprocessing)
    content = (job.EXAMPLE / "digits.onnx").read_bytes()
    return {
        "name": job.MODEL_NAME,
        "status": "ready",
        "sha256": hashlib.sha256(content).hexdigest(),
        "preprocessing": {"hash": contract.hash},
        "labels": [str(digit) for digit in range(10)],
    } | changes


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"name": "digits"}, False),
        ({"status": "failed"}, False),
        ({"sha256": "0" * 64}, False),
        ({"preprocessing": {"hash": "other"}}, False),
        ({"preprocessing": None}, False),
        ({"labels": ["zero"]}, False),
    ],
)
def test_a_model_is_used_again_only_if_nothing_about_it_differs(changes: dict[str, object], same: bool):
    contract = msgspec.json.decode((job.EXAMPLE / "preprocessing.json").read_bytes(), type=Preprocessing)
    labels = msgspec.json.decode((job.EXAMPLE / "labels.json").read_bytes(), type=list[str])
    assert job._same(uploaded(**changes), job.EXAMPLE / "digits.onnx", contract, labels) is same


class Reports:
    """As much of a client as looking for an earlier report takes."""

    def __init__(self, *found: bytes) -> None:
        self.found = {f"rep_{number}": content for number, content in enumerate(found)}

    def reports(self) -> list[dict[str, object]]:
        return [{"id": report_id, "model_id": "mdl_1"} for report_id in self.found]

    def export(self, report_id: str, _form: str) -> bytes:
        return self.found[report_id]


@pytest.mark.parametrize(
    ("fingerprint", "seed", "reused"),
    [("5d41402abc4b2a76", 0, True), ("other", 0, False), ("5d41402abc4b2a76", 1, False)],
)
def test_a_report_is_used_again_on_the_same_machine_for_the_same_order(
    monkeypatch: pytest.MonkeyPatch, fingerprint: str, seed: int, reused: bool
):
    order = msgspec.structs.replace(job.order("mdl_1"), seed=seed)
    measurements = msgspec.structs.replace(measurement_set(), config=order)
    here = msgspec.structs.replace(measurements.system, fingerprint=fingerprint)
    monkeypatch.setattr(job, "system_info", lambda: here)
    client = Reports(canonical(build(measurements, "rep_0")))
    assert (job._reused(client, job.order("mdl_1")) is not None) is reused
    assert job._reused(client, job.order("mdl_2")) is None


def test_a_report_of_an_earlier_version_is_not_used_again():
    assert job._reused(Reports(b'{"schema": "cvp.report/0"}'), job.order("mdl_1")) is None
