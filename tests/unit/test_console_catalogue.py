"""`cvp models`, `datasets` and `jobs` over a small stand-in for the API: names, lists, uploads, what Ctrl-C says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from click.testing import CliRunner

from console import catalogue, cli, deployment, orders, report
from console import client as client_module
from console import jobs as background
from console import trainings as history
from console.client import Client
from shared import config
from shared.genes import BOTH, ChoiceGene, SearchSpec, TrainingOrder
from shared.specs import HyperParameters
from tests.unit import trainings

CREATED = "2026-01-31T08:15:30.250Z"
MODELS = {name: f"mdl_01a20021a1eec2766a74{number:02x}" for number, name in enumerate(("old", "new", "broken", "only"))}
JOB = "job_01a20021a1eec2766a742b"


def model(key: str, name: str, status: str = "ready") -> dict[str, Any]:
    known = {"id": MODELS[key], "name": name, "status": status, "error": None, "created_at": CREATED, "job_id": JOB}
    shape = {"task_type": "classification", "file_size": 41_232, "onnx_size": 41_601, "preset": None, "serves": None}
    return known | shape


class Api:
    """Answers as the gateway does, and writes down what it was asked."""

    def __init__(self) -> None:
        self.models = [model("new", "digits"), model("old", "digits"), model("broken", "cnn", "failed")]
        self.models.append(model("only", "cnn"))
        self.ordered: Any = None
        self.training: list[dict[str, Any]] = []
        self.comparison: dict[str, Any] = {}
        self.asked: list[tuple[str, str]] = []
        self.states = [
            self.job("queued"),
            self.job("running", stage="describing the ONNX model"),
            self.job("completed"),
        ]

    @staticmethod
    def job(status: str, kind: str = "convert", **progress: object) -> dict[str, Any]:
        return {"id": JOB, "kind": kind, "status": status, "progress": progress, "error": None, "created_at": CREATED}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        method, path = request.method, request.url.path.removeprefix("/api/v1/")
        self.asked.append((method, path))
        if (method, path) in (("GET", "models"), ("GET", "datasets")):
            name = request.url.params.get("name")
            found = [item for item in self.models if name in (None, item["name"])]
            return httpx.Response(200, json={"items": found, "next_cursor": None})
        if (method, path) == ("POST", "models"):
            request.read()
            return httpx.Response(202, json=model("only", "fresh", "converting"))
        if method == "GET" and path == f"training/{JOB}":
            return httpx.Response(200, json=self.training.pop(0) if len(self.training) > 1 else self.training[0])
        if path == "training/compare":
            return httpx.Response(200, json=self.comparison)
        if (method, path) == ("GET", "training"):
            return self._trainings(request)
        if path == "reports":
            chosen = {"id": "rep_1", "model_id": MODELS["only"], "selected_engine": None, "created_at": CREATED}
            return httpx.Response(200, json={"items": [chosen], "next_cursor": None})
        if path.startswith("training"):
            self.ordered = request.read() and json.loads(request.read())
            return httpx.Response(200, json={"id": JOB, "status": "queued"})
        if path.endswith("/deployment"):
            serves = {"engine": "openvino", "precision": "int8", "threads": 2, "batch_size": 1, "source": "report"}
            serves["jpeg_scale"] = 2
            told = {"job_id": JOB, "status": "active", "serves": serves, "notes": [], "processes": [], "error": None}
            return httpx.Response(200, json=told)
        if path == f"jobs/{JOB}":
            return httpx.Response(200, json=self.states.pop(0) if len(self.states) > 1 else self.states[0])
        found = [item for item in self.models if path == f"models/{item['id']}"]
        if not found:
            return httpx.Response(404, json={"code": "not_found", "detail": "There is no such model. Look again."})
        return httpx.Response(204) if method == "DELETE" else httpx.Response(200, json=found[0])

    def _trainings(self, request: httpx.Request) -> httpx.Response:
        """Three rows, two a page."""
        page = [["=1+1", "job_2"], ["b", "job_1"]] if "cursor" not in request.url.params else [["c", "job_0"]]
        rows = page[: int(request.url.params["limit"])] if "limit" in request.url.params else page
        if request.url.params.get("format") == "csv":
            text = "".join(f"{','.join(row)}\r\n" for row in [["model_name", "training_id"], *rows])
            more = {"x-next-cursor": "job_1"} if len(rows) == 2 else {}
            return httpx.Response(200, text=text, headers=more)
        items = [training(*row) for row in page]
        return httpx.Response(200, json={"items": items, "next_cursor": "job_1" if len(page) == 2 else None})


def training(model_name: str, training_id: str, task: str = "classification", **changes: Any) -> dict[str, Any]:
    known = {"id": training_id, "status": "completed", "progress": {}, "task_type": task, "error": None}
    known |= {"model_name": model_name, "dataset_name": "digits", "final_accuracy": 0.98765, "created_at": CREATED}
    return known | {"result_model_id": MODELS["new"], "epochs": []} | changes


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    api = Api()

    @contextmanager
    def signed_in(_settings: object) -> Iterator[Client]:
        with Client(config.load({}), "key", transport=httpx.MockTransport(api)) as client:
            yield client

    for module in (catalogue, background, deployment, orders, report, history):
        monkeypatch.setattr(module, "signed_in", signed_in)
    monkeypatch.setattr(client_module, "POLL_S", 0.0)
    return api


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(cli.os, "umask", lambda _mask: 0)
    return CliRunner()


def test_the_list_is_meant_where_nothing_else_is_said(api: Api, runner: CliRunner):
    lines = runner.invoke(cli.main, ["models"]).stdout.splitlines()
    assert lines[0].split()[:3] == ["model", "name", "status"]
    assert [line.split()[0] for line in lines[1:]] == [item["id"] for item in api.models]
    assert runner.invoke(cli.main, ["models", "list"]).stdout.splitlines() == lines
    assert json.loads(runner.invoke(cli.main, ["models", "--json", "-n", "2"]).stdout) == api.models[:2]


def test_an_unclear_name_lists_the_ids_and_nothing_is_deleted(api: Api, runner: CliRunner):
    done = runner.invoke(cli.main, ["models", "delete", "digits", "--yes"])
    assert done.exit_code == 1
    assert "2 models are called 'digits'" in done.stderr
    assert MODELS["old"] in done.stderr and MODELS["new"] in done.stderr
    assert {method for method, _ in api.asked} == {"GET"}


def test_a_name_is_clear_for_use_where_only_one_of_its_owners_is_ready(api: Api):
    with Client(config.load({}), "key", transport=httpx.MockTransport(api)) as client:
        assert catalogue.find(client, "models", "cnn", to_use=True)["id"] == MODELS["only"]


def test_deleting_asks_first(api: Api, runner: CliRunner):
    assert runner.invoke(cli.main, ["models", "delete", MODELS["old"]], input="n\n").exit_code == 1
    assert ("DELETE", f"models/{MODELS['old']}") not in api.asked
    done = runner.invoke(cli.main, ["models", "delete", MODELS["old"]], input="y\n")
    assert done.exit_code == 0
    assert ("DELETE", f"models/{MODELS['old']}") in api.asked


def test_nobody_of_that_name_says_where_to_look(api: Api, runner: CliRunner):
    done = runner.invoke(cli.main, ["models", "show", "resnet"])
    assert (done.exit_code, done.stderr) == (
        1,
        "Error: No model has the id or the name 'resnet'. `cvp models` lists them.\n",
    )


def test_an_upload_is_followed_to_the_end_of_its_check(api: Api, runner: CliRunner, tmp_path: Path):
    (tmp_path / "fresh.onnx").write_bytes(b"ONNX" * 1000)
    done = runner.invoke(cli.main, ["models", "add", str(tmp_path / "fresh.onnx"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["status"] == "ready"
    assert len(api.states) == 1


def test_a_refused_upload_says_why_and_exits_1(api: Api, runner: CliRunner, tmp_path: Path):
    (tmp_path / "fresh.onnx").write_bytes(b"ONNX" * 1000)
    api.models[-1] |= {"status": "failed", "error": "It has no nodes. Export it again."}
    done = runner.invoke(cli.main, ["models", "add", str(tmp_path / "fresh.onnx")])
    assert done.exit_code == 1
    assert done.stderr.endswith("was refused: It has no nodes. Export it again.\n")


def test_ctrl_c_says_that_the_job_goes_on(api: Api, runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "wait_for_job", interrupted)
    (tmp_path / "fresh.onnx").write_bytes(b"ONNX")
    done = runner.invoke(cli.main, ["models", "add", str(tmp_path / "fresh.onnx")])
    assert done.exit_code == 130
    assert f"Job {JOB} goes on: `cvp jobs follow {JOB}` shows it again." in done.stdout


def test_a_job_that_failed_is_exit_code_1_with_its_reason(api: Api, runner: CliRunner):
    api.states = [api.job("failed") | {"error": "It took too long. Try a smaller one."}]
    done = runner.invoke(cli.main, ["jobs", "follow", JOB])
    assert (done.exit_code, done.stderr) == (1, f"Error: Job {JOB} failed: It took too long. Try a smaller one.\n")


def test_a_job_that_was_taken_back_asks_for_no_reason(api: Api, runner: CliRunner):
    api.states = [api.job("cancelled")]
    done = runner.invoke(cli.main, ["jobs", "follow", JOB])
    assert (done.exit_code, done.stderr) == (1, f"Error: Job {JOB} was cancelled.\n")


def test_checks_are_not_cancelled_and_it_is_said_what_ends_them(api: Api, runner: CliRunner):
    done = runner.invoke(cli.main, ["jobs", "cancel", JOB])
    assert done.exit_code == 1
    assert "A check ends when its model or dataset is deleted, a measurement with its search." in done.stderr


def test_a_training_is_ordered_by_names_with_the_hyper_parameters_that_were_set(api: Api, runner: CliRunner):
    values = ["--set", "learning_rate=0.003,optimizer=sgd", "--set", "batch_size=64", "--seed", "7"]
    values += ["--search", "population=12,generations=3,baseline=true"]
    values += ["--objectives", "accuracy,latency", "--sizes", "16,24"]
    done = runner.invoke(cli.main, ["train", "cnn", "cnn", "--epochs", "3", *values, "--detach", "--json"])
    assert (done.exit_code, json.loads(done.stdout)["id"]) == (0, JOB), done.output
    spec = TrainingOrder(
        model_id=MODELS["only"],
        dataset_id=MODELS["only"],
        max_epochs=3,
        seed=7,
        ga=SearchSpec(
            population_size=12,
            generations=3,
            baseline=True,
            objectives=BOTH,
            search_space={"image_size": ChoiceGene(choices=(16, 24))},
        ),
        hyperparams=HyperParameters(learning_rate=0.003, optimizer="sgd", batch_size=64),
    )
    assert msgspec.convert(api.ordered, TrainingOrder) == spec


@pytest.mark.parametrize(
    ("shares", "verdict", "measures"),
    [([0.98] * 10, "benchmark? Yes. The accuracy", True), ([0.1] * 10, "benchmark? No: nothing useful was", False)],
)
def test_what_a_training_came_to_is_said_with_what_to_do_next(
    api: Api, runner: CliRunner, shares: list[float], verdict: str, measures: bool
):
    reached = msgspec.to_builtins(trainings.result(shares, [100] * 10))
    ended = {"id": JOB, "task_type": "classification", "result_model_id": MODELS["only"], "dataset_id": "dst_1"}
    ended |= {"search": None, "result": reached}
    api.training = [ended | {"report": {"status": status}} for status in ("running", "completed")]
    api.states = [api.job("completed", "train")]
    done = runner.invoke(cli.main, ["jobs", "follow", JOB])
    assert done.exit_code == 0, done.output
    assert verdict in done.stdout
    assert f"`cvp report export {JOB}` saves" in done.stdout, "it was waited for"
    assert ("`cvp benchmark mdl_" in done.stdout) is measures
    api.training = [ended | {"report": {"status": "failed", "error": "The disk is full."}}]
    assert "Its report is failed: The disk is full." in runner.invoke(cli.main, ["jobs", "follow", JOB]).stdout


def test_trainings_are_listed_and_saved_as_a_table_page_by_page(
    api: Api, runner: CliRunner, monkeypatch: pytest.MonkeyPatch
):
    lines = [line.split() for line in runner.invoke(cli.main, ["trainings"]).stdout.splitlines()]
    assert lines[0][:5] == ["training", "status", "model", "dataset", "reached"]
    assert [line[0] for line in lines[1:]] == ["job_2", "job_1", "job_0"]
    assert lines[1][4:6] == ["accuracy", "0.988"]
    monkeypatch.setattr(client_module, "PAGE", 2)
    table = runner.invoke(cli.main, ["trainings", "list", "--csv"]).stdout.splitlines()
    assert table == ["model_name,training_id", "=1+1,job_2", "b,job_1", "c,job_0"]
    assert runner.invoke(cli.main, ["trainings", "--csv", "-n", "1"]).stdout.splitlines() == table[:2]
    assert "several" not in runner.invoke(cli.main, ["trainings", "--model", "cnn", "--json"]).stderr
    reports = runner.invoke(cli.main, ["report"]).stdout.splitlines()
    assert reports[1].split()[:3] == ["rep_1", MODELS["only"], "nothing"]


def test_two_trainings_are_told_apart_and_other_measures_not_subtracted(api: Api, runner: CliRunner):
    curve = [{"val_accuracy": share} for share in (0.1, 0.5, 0.98765)]
    api.comparison = {
        "a": training("cnn", JOB, epochs=curve),
        "b": training("yolo", JOB, "detection"),
        "note": "One is for classification, the other for detection.",
        "order": [{"name": "learning_rate", "a": 0.000186846, "b": 0.001, "delta": 0.000813154}],
        "outcome": [{"name": "final_accuracy", "a": 0.98765, "b": None, "delta": None}],
    }
    told = runner.invoke(cli.main, ["trainings", "compare", JOB, JOB]).stdout
    assert "▁▄█  accuracy 0.100 to 0.988" in told
    assert "One is for classification" in told
    rows = [line.split() for line in told.splitlines()]
    assert ["learning_rate", "0.000187", "0.001", "+0.000813"] in rows
    assert ["final_accuracy", "0.988", "-"] in rows
    assert "is no id of a job" in runner.invoke(cli.main, ["trainings", "compare", "a", JOB]).stderr


def test_a_dataset_of_another_task_is_refused_before_anybody_waits(api: Api, runner: CliRunner):
    api.models[-1] |= {"status": "converting"}
    other = model("new", "shapes") | {"task_type": "detection"}
    api.models[0] = other
    done = runner.invoke(cli.main, ["train", MODELS["only"], "shapes"])
    assert (done.exit_code, f"jobs/{JOB}" in str(api.asked)) == (1, False)
    assert "cnn is for classification, shapes for detection" in done.stderr


def test_an_activation_says_what_it_waits_for(api: Api, runner: CliRunner, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("console.screen.QUIET_S", 0.0)
    api.states = [api.job("queued", "activate") | {"waiting_for": "job_9"}, api.job("completed", "activate")]
    done = runner.invoke(cli.main, ["deploy", MODELS["only"], "--report", "rep_1"])
    assert done.exit_code == 0, done.output
    assert "Activating: waiting for job_9; what serves now goes on" in done.output
    assert "is served by openvino in INT8, 2 threads a session, batches up to 1, JPEGs decoded at 1/2" in done.output


@pytest.mark.parametrize("text", ['["a", "b"]', "a\nb\n", "a\r\nb"])
def test_labels_come_from_a_file_or_between_commas(tmp_path: Path, text: str):
    (tmp_path / "labels").write_text(text)
    convert = cli.workbench.Labels().convert
    assert convert(str(tmp_path / "labels"), None, None) == convert("a,b", None, None) == ["a", "b"]
