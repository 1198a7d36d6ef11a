"""A backup of a platform that predicts and measures, restored elsewhere: the same models, reports and answers."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared import failpoints
from tests.process.platform import DIGITS, Platform, running, settled, upload_digits, wait_for

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]

MEASURE = {"engines": ["onnxruntime"], "batch_sizes": [1], "num_iterations": 50, "max_seconds": 2}
DIGIT = sorted((DIGITS / "held-out").glob("*.png"))[0].read_bytes()


def predict(client: httpx.Client, model_id: str) -> httpx.Response:
    headers = {"Content-Type": "image/png"}
    return client.post("/inference/predict", params={"model_id": model_id}, content=DIGIT, headers=headers)


def measure(client: httpx.Client, model_id: str, **changes: object) -> str:
    answer = client.post("/benchmark", json={"model_id": model_id, **MEASURE, **changes})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


@contextmanager
def load(platform: Platform, model_id: str) -> Iterator[Counter[int]]:
    """Predictions, and uploads with their deletion, as long as the block lasts."""
    answers: Counter[int] = Counter()
    over = threading.Event()

    def predictions() -> None:
        with platform.login() as client:
            while not over.is_set():
                answers[predict(client, model_id).status_code] += 1

    def uploads() -> None:
        with platform.login() as client:
            while not over.wait(0.2):
                answer = client.post(
                    "/models",
                    data={"name": "passing", "task_type": "classification"},
                    files={"file": ("m.onnx", b"\x08\x07" + os.urandom(20_000))},
                )
                answers[answer.status_code] += 1
                if answer.status_code == 202:
                    client.delete(f"/models/{answer.json()['id']}")

    threads = [threading.Thread(target=work) for work in (predictions, uploads)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        over.set()
        for thread in threads:
            thread.join()


def items(client: httpx.Client, path: str) -> list[dict[str, Any]]:
    return list(client.get(path, params={"limit": 200}).raise_for_status().json()["items"])


def exported(client: httpx.Client, report_id: str) -> bytes:
    return client.get(f"/reports/{report_id}/export", params={"format": "json"}).raise_for_status().content


def test_a_backup_under_load_is_a_platform_again(tmp_path: Path):
    saved = tmp_path / "saved.tar"
    with running() as first, first.login() as client:
        digits = upload_digits(client)
        done = measure(client, digits)
        assert settled(client, f"/benchmark/{done}")["status"] == "completed"
        wait_for(lambda: client.get(f"/benchmark/{done}").json().get("report_id"), 60, "the report")
        (report,) = items(client, "/reports")
        record, before = exported(client, report["id"]), predict(client, digits).json()["predictions"]
        under_way = measure(client, digits, num_iterations=1_000_000, max_seconds=600)
        wait_for(lambda: client.get(f"/benchmark/{under_way}").json()["status"] == "running", 60, "the benchmark")
        with load(first, digits) as answers:
            wait_for(lambda: answers[200] > 5 and answers[202] > 1, 30, "the load")
            told = first.cvp("backup", str(saved)).stdout
        assert answers.keys() <= {200, 202}, "somebody noticed the backup"
        assert "read again: whole" in told
        refused = first.cvp("restore", str(saved), "--replace", check=False)
        assert refused.returncode == 1
        assert "cvp down" in refused.stderr
        old_token = client.headers["Authorization"]

    with elsewhere(tmp_path) as second:
        assert "1 job that ran then will run again" in second.cvp("restore", str(saved)).stdout
        second.cvp("up")
        old = httpx.get(f"{second.url}/api/v1/models", headers={"Authorization": old_token}, timeout=30)
        assert old.status_code == 401
        with second.login() as client:
            assert digits in [model["id"] for model in items(client, "/models")]
            assert [each["id"] for each in items(client, "/reports")] == [report["id"]]
            assert exported(client, report["id"]) == record
            again = predict(client, digits)
            assert again.status_code == 200
            assert again.json()["predictions"] == before
            path = f"/benchmark/{under_way}"
            wait_for(lambda: client.get(path).json()["status"] == "running", 60, "the benchmark, once more")
            client.post(f"{path}/cancel").raise_for_status()
            assert settled(client, path, 30)["status"] == "cancelled"


def test_a_platform_starts_from_its_former_data_after_a_restore_that_was_killed(tmp_path: Path):
    with elsewhere(tmp_path) as platform:
        platform.cvp("up")
        with platform.login() as client:
            digits = upload_digits(client)
        platform.cvp("backup", str(tmp_path / "saved.tar"))
        platform.cvp("down")
        platform.env[failpoints.VARIABLE] = "restore.before_move:3"
        assert platform.cvp("restore", str(tmp_path / "saved.tar"), "--replace", check=False).returncode == -9
        del platform.env[failpoints.VARIABLE]
        refused = platform.cvp("migrate", check=False)
        assert (refused.returncode, "cvp up" in refused.stderr) == (1, True)
        platform.cvp("up")
        with platform.login() as client:
            assert predict(client, digits).status_code == 200


@contextmanager
def elsewhere(tmp_path: Path) -> Iterator[Platform]:
    """A platform in another folder that was never started."""
    platform = Platform(tmp_path / "p")
    try:
        yield platform
    finally:
        platform.cvp("down", check=False)
