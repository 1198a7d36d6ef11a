"""The commands of the work on a real platform, as a script uses them: uploads, a benchmark, what serves."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from console import cli
from tests.process.platform import DIGITS, Platform, photograph, running

pytestmark = pytest.mark.process


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.os, "umask", lambda _mask: 0)


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with running(INFERENCE_WORKERS="1", PRESETS="false") as platform:
        yield platform


def cvp(platform: Platform, *arguments: str, exit_code: int = 0) -> Result:
    """The command in this process: an interpreter for each would take longer than the platform."""
    done = CliRunner().invoke(cli.main, arguments, env={name: platform.env[name] for name in ("DATA_DIR", "PORT")})
    assert done.exit_code == exit_code, done.output
    return done


def answer(platform: Platform, *arguments: str) -> Any:
    return json.loads(cvp(platform, *arguments, "--json").stdout)


def test_a_model_goes_from_its_file_to_serving_what_was_measured(platform: Platform):
    contract, labels = str(DIGITS / "preprocessing.json"), str(DIGITS / "labels.json")
    added = cvp(platform, "models", "add", str(DIGITS / "digits.onnx"), "--preprocessing", contract, "--labels", labels)
    assert "digits: ready." in added.stdout
    assert [model["name"] for model in answer(platform, "models")] == ["digits"]
    assert "classes   10: 0, 1, 2" in cvp(platform, "models", "show", "digits").stdout

    order = ["--engine", "onnxruntime", "--batch", "1", "--max-seconds", "0.5", "--constraint"]
    done = answer(platform, "benchmark", "digits", *order, "latency_p50_ms<=1000")
    assert (done["status"], done["report_id"][:4]) == ("completed", "rep_")
    none = cvp(platform, "benchmark", "digits", *order, "latency_p50_ms<=0.000001", exit_code=3)
    assert "No choice" in none.stdout
    again = cvp(platform, "jobs", "follow", done["id"]).stdout
    assert f"`cvp deploy {done['model_id']} --report {done['report_id']}`" in again

    assert "is served by onnxruntime" in cvp(platform, "deploy", "digits", "--report", done["report_id"]).stdout
    ordered = answer(platform, "benchmark", "digits", "--detach")
    assert ordered["status"] == "queued"
    assert "cancelled" in cvp(platform, "jobs", "cancel", ordered["id"]).stdout
    cvp(platform, "jobs", "follow", ordered["id"], exit_code=1)
    assert cvp(platform, "models", "delete", "digits", "--yes").stdout.startswith("Deleted mdl_")
    assert answer(platform, "models") == []


def test_a_dataset_is_checked_shown_and_deleted(platform: Platform, tmp_path: Path):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        for part in ("train", "val", "test"):
            for number, animal in enumerate(("cat", "dog")):
                zipped.writestr(f"{part}/{animal}/1.jpg", photograph(60 + number, 40))
    (tmp_path / "pets.zip").write_bytes(archive.getvalue())
    assert "pets: ready." in cvp(platform, "datasets", "add", str(tmp_path / "pets.zip")).stdout
    shown = cvp(platform, "datasets", "show", "pets").stdout
    assert ["cat", "1", "1", "1"] in [line.split() for line in shown.splitlines()]
    (tmp_path / "broken.zip").write_bytes(archive.getvalue()[:200])
    refused = cvp(platform, "datasets", "add", str(tmp_path / "broken.zip"), exit_code=1)
    assert "check that the upload was not cut off" in refused.stderr
    cvp(platform, "datasets", "delete", "pets", "-y")
    assert [dataset["status"] for dataset in answer(platform, "datasets")] == ["failed"]
