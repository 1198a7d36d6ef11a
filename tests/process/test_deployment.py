"""From a benchmark to what serves: a report's choice takes over under load, and what cannot serve changes nothing."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from shared.artifacts import ArtifactStore
from tests.process.platform import DIGITS, Platform, running, settled, upload_digits, wait_for

pytestmark = [pytest.mark.process, pytest.mark.timeout(500)]

ORDER = {"engines": ["openvino"], "batch_sizes": [1], "threads": [1], "num_iterations": 100, "max_seconds": 5}
IMAGE = next(iter(sorted((DIGITS / "held-out").glob("*.png")))).read_bytes()


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with running(PRESETS="false", PREPARERS="1") as up:
        yield up


@pytest.fixture(scope="module")
def admin(platform: Platform) -> Iterator[httpx.Client]:
    with platform.login() as client:
        yield client


@pytest.fixture(scope="module")
def digits(admin: httpx.Client) -> str:
    return upload_digits(admin)


@pytest.fixture(scope="module")
def report(admin: httpx.Client, digits: str) -> str:
    """A report that can only choose OpenVINO."""
    benchmark = admin.post("/benchmark", json={"model_id": digits, **ORDER})
    assert benchmark.status_code == 202, benchmark.text
    path = f"/benchmark/{benchmark.json()['id']}"
    assert settled(admin, path, 180)["status"] == "completed"
    return str(wait_for(lambda: admin.get(path).json()["report_id"], 120, "the report"))


class Load:
    """Clients that ask without a pause; counts the answers by status and engine."""

    def __init__(self, admin: httpx.Client, model_id: str) -> None:
        self.answers: Counter[tuple[int, str]] = Counter()
        self._stop = threading.Event()
        self._ask = lambda: admin.post(
            "/inference/predict", params={"model_id": model_id}, content=IMAGE, headers={"Content-Type": "image/png"}
        )
        self._threads = [threading.Thread(target=self._run) for _ in range(4)]

    def _run(self) -> None:
        while not self._stop.is_set():
            answer = self._ask()
            self.answers[answer.status_code, str(answer.json().get("engine"))] += 1

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def deploy(admin: httpx.Client, model_id: str, **order: Any) -> dict[str, Any]:
    """Order, and wait until it has been tried."""
    path = f"/models/{model_id}/deployment"
    answer = admin.put(path, json=order)
    assert answer.status_code == 202, answer.text

    def tried() -> dict[str, Any] | None:
        found: dict[str, Any] = admin.get(path).raise_for_status().json()
        return found if found["status"] != "activating" else None

    return dict(wait_for(tried, 120, "the activation"))


def taken_over(admin: httpx.Client, model_id: str) -> bool:
    """Whether every process that holds the model serves what it should."""
    processes = admin.get(f"/models/{model_id}/deployment").json()["processes"]
    return bool(processes) and all(one["current"] for one in processes)


def test_a_reports_choice_takes_over_and_goes_again_without_a_failed_request(
    admin: httpx.Client, digits: str, report: str
):
    with Load(admin, digits) as load:
        wait_for(lambda: load.answers[200, "onnxruntime"] > 20, 60, "answers of the default")
        found = deploy(admin, digits, report_id=report)
        assert found["status"] == "active", found["error"]
        assert found["serves"]["engine"] == "openvino"
        assert found["notes"][0].endswith("as it did when the benchmark checked it.")
        wait_for(lambda: taken_over(admin, digits), 60, "the takeover")
        before = load.answers[200, "onnxruntime"]
        asked = load.answers[200, "openvino"]
        wait_for(lambda: load.answers[200, "openvino"] > asked + 20, 60, "answers of the new")
        assert load.answers[200, "onnxruntime"] - before <= 4, "at most those that were under way"
        assert admin.delete(f"/models/{digits}/deployment").status_code == 204
        wait_for(lambda: taken_over(admin, digits), 60, "the way back")
    assert {status for status, _ in load.answers} == {200}, load.answers


def test_answers_unlike_those_at_the_benchmark_are_not_served(
    platform: Platform, admin: httpx.Client, digits: str, report: str
):
    ordered = deploy(admin, digits, report_id=report)
    golden = ArtifactStore(platform.data_dir / "models").path(ordered["golden_sha256"])
    assert admin.delete(f"/models/{digits}/deployment").status_code == 204
    good = golden.read_bytes()
    try:
        golden.unlink()
        golden.write_bytes(good[:-40] + bytes(20) + good[-20:])  # some of the answers are noughts
        found = deploy(admin, digits, report_id=report)
    finally:
        golden.write_bytes(good)
    assert found["status"] == "failed"
    assert "answers to the golden samples differ" in found["error"]
    assert found["serves"]["engine"] == "onnxruntime"


def test_the_command_and_a_preparer_that_is_killed_meanwhile(
    platform: Platform, admin: httpx.Client, digits: str, report: str
):
    path = f"/models/{digits}/deployment"
    assert admin.put(path, json={"report_id": report}).status_code == 202
    platform.kill("preparer")
    wait_for(lambda: admin.get(path).json()["status"] == "active", 90, "the activation by its successor")
    assert admin.get(path).json()["serves"]["engine"] == "openvino"
    done = platform.cvp("deploy", digits, "--default")
    assert "is served by onnxruntime in FP32" in done.stdout
    done = platform.cvp("deploy", digits, "--engine", "tensorrt", "--precision", "fp32", check=False)
    assert (done.returncode, "tensorrt in fp32 cannot run here" in done.stderr) == (1, True), done.stderr
