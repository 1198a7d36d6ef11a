"""From a benchmark to what serves: a report's choice takes over under load, and what cannot serve changes nothing."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import onnxruntime
import pytest
from PIL import Image

from examples.digits import dataset
from shared.artifacts import ArtifactStore
from shared.specs import Preprocessing
from shared.vision.preprocess import preprocess, read
from tests.conftest import needs
from tests.process.platform import DIGITS, Platform, running, settled, upload_digits, wait_for
from tests.unit.test_decoding import photographed

pytestmark = [pytest.mark.process, pytest.mark.timeout(500)]

ORDER = {"engines": ["openvino"], "batch_sizes": [1], "threads": [1], "num_iterations": 100, "max_seconds": 5}
DIGIT = next(iter(sorted((DIGITS / "held-out").glob("*.png"))))
IMAGE = DIGIT.read_bytes()


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with running(PRESETS="false", PREPARERS="1") as up:
        yield up


@pytest.fixture(scope="module")
def report(admin: httpx.Client, digits: str) -> str:
    """A report that can only choose OpenVINO."""
    return measured(admin, model_id=digits, **ORDER)


def measured(admin: httpx.Client, **order: Any) -> str:
    """Order a benchmark; the id of its report."""
    benchmark = admin.post("/benchmark", json=order)
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
        with Load(admin, digits) as load:
            wait_for(lambda: load.answers, 60, "answers")
            found = deploy(admin, digits, report_id=report)
    finally:
        golden.write_bytes(good)
    assert found["status"] == "failed"
    assert "answers to the golden samples differ" in found["error"]
    assert found["serves"]["engine"] == "onnxruntime"
    assert set(load.answers) == {(200, "onnxruntime")}, "nobody was answered by it, and nobody refused"


def test_a_file_that_was_changed_in_the_store_is_neither_activated_nor_measured(
    platform: Platform, admin: httpx.Client, digits: str
):
    """It would serve and be measured under the hash of another; golden samples alone do not tell every change."""
    whole = deploy(admin, digits, engine="onnxruntime", precision="fp32")
    path = ArtifactStore(platform.data_dir / "models").path(whole["file_sha256"])
    good = path.read_bytes()
    try:
        path.write_bytes(good + b"\x0a\x00")
        found = deploy(admin, digits, engine="onnxruntime", precision="fp32")
        order = admin.post("/benchmark", json={"model_id": digits, **ORDER}).json()
        benchmark = settled(admin, f"/benchmark/{order['id']}", 60)
    finally:
        path.write_bytes(good)
    assert (found["status"], found["serves"]["file_sha256"]) == ("failed", whole["file_sha256"]), "what serves goes on"
    assert "changed on the disk" in found["error"]
    assert (benchmark["status"], "or damaged" in benchmark["error"]) == ("failed", True), benchmark
    assert admin.delete(f"/models/{digits}/deployment").status_code == 204


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


# --- INT8 -------------------------------------------------------------------------------------------------------------

QUICK = {
    "engines": ["onnxruntime"],
    "batch_sizes": [1],
    "threads": [1],
    "num_iterations": 5,
    "objective": "throughput",  # P95 latency takes more calls
}


def stored(platform: Platform) -> set[str]:
    """Every file in the store of models."""
    return {path.name for path in (platform.data_dir / "models").rglob("*") if path.is_file()}


def add_dataset(admin: httpx.Client, path: Path) -> str:
    """Upload the digits that the model was made with, and wait until they are ready."""
    with dataset.write(path).open("rb") as file:
        fields = {"name": "digits", "task_type": "classification"}
        images = str(admin.post("/datasets", data=fields, files={"file": (path.name, file)}).json()["id"])
    assert settled(admin, f"/datasets/{images}")["status"] == "ready"
    return images


def confidences(onnx: bytes) -> list[float]:
    """What an ONNX file makes of the digit, the best first, without the platform."""
    contract = msgspec.json.decode((DIGITS / "preprocessing.json").read_bytes(), type=Preprocessing)
    pixels = np.asarray(Image.open(DIGIT), np.float32)[None, None]
    image = ((pixels * contract.scale - contract.mean[0]) / contract.std[0]).astype(np.float32)
    (logits,) = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"]).run(None, {"image": image})
    return ordered(logits)


def ordered(logits: np.ndarray) -> list[float]:
    """Confidences, the best first."""
    shares = np.exp(logits[0] - logits.max())
    return sorted((shares / shares.sum()).tolist(), reverse=True)


def predicted(admin: httpx.Client, model_id: str) -> tuple[str, list[float]]:
    """In which precision the platform answers the digit, and its confidences."""
    asked = {"model_id": model_id, "top_k": 10}
    answer = admin.post("/inference/predict", params=asked, content=IMAGE, headers={"Content-Type": "image/png"}).json()
    return answer["precision"], [each["confidence"] for each in answer["predictions"][0]]


def test_an_int8_file_is_measured_activated_and_served_and_goes_with_its_model(
    platform: Platform, admin: httpx.Client, tmp_path: Path
):
    needs("sklearn")
    before = stored(platform)
    model_id = upload_digits(admin, "quantised")
    order = {"model_id": model_id, "dataset_id": add_dataset(admin, tmp_path / "digits.zip"), **QUICK}

    first = admin.get(f"/reports/{measured(admin, **order)}").json()
    made = first["metadata"]["files"]["int8"]
    assert (made["recipe"]["calibration_images"], made["recipe"]["deciding_images"]) == (64, 64)
    assert [each["precision"] for each in first["candidates"]] == ["fp32", "int8"], "INT8 comes with the dataset"
    drop = first["candidates"][1]["metrics"]["accuracy_drop"]
    assert (drop["n"], abs(drop["value"]) < 0.05) == (180, True)
    onnx = admin.get(f"/models/{model_id}/onnx", params={"precision": "int8"}).content
    own = admin.get(f"/models/{model_id}/onnx").content
    assert hashlib.sha256(onnx).hexdigest() == made["sha256"]
    assert len(onnx) < len(own) / 2

    def serves_int8(source: str, **chosen: str) -> None:
        found = deploy(admin, model_id, **chosen)
        assert (found["status"], found["source"], found["file_sha256"]) == ("active", source, made["sha256"]), found
        assert found["notes"][0] == "It answers 8 golden samples (test split) as it did when the benchmark checked it."
        predicted(admin, model_id)
        wait_for(lambda: taken_over(admin, model_id), 60, "the takeover")
        precision, shares = predicted(admin, model_id)
        assert precision == "int8"
        assert shares == pytest.approx(confidences(onnx), abs=1e-4)
        assert shares != pytest.approx(confidences(own), abs=1e-4)
        (loaded,) = [one for one in admin.get("/inference/models").json() if one["id"] == model_id]
        assert loaded["precision"] == "int8"

    serves_int8("manual", engine="onnxruntime", precision="int8")
    second = admin.get(f"/reports/{measured(admin, precisions=['int8'], **order)}").json()
    assert second["metadata"]["files"]["int8"] == made, "the file of the first benchmark is measured again"
    assert second["metadata"]["incumbent"]["precision"] == "int8"
    serves_int8("report", report_id=second["id"])

    assert admin.delete(f"/models/{model_id}").status_code == 204
    assert stored(platform) == before


# --- scaled decoding --------------------------------------------------------------------------------------------------


def test_the_scale_that_a_report_chose_is_the_one_predictions_are_decoded_at(admin: httpx.Client, tmp_path: Path):
    model_id = upload_digits(admin, "photographed")
    archive = photographed(tmp_path)
    with archive.open("rb") as file:
        fields = {"name": "photographs", "task_type": "classification"}
        images = str(admin.post("/datasets", data=fields, files={"file": (archive.name, file)}).json()["id"])
    assert settled(admin, f"/datasets/{images}")["status"] == "ready"
    order = {"model_id": model_id, "dataset_id": images, "precisions": ["fp32"], "jpeg_scales": [1, 2, 4], **QUICK}

    report_id = measured(admin, **order)
    record = admin.get(f"/reports/{report_id}").json()["decoding"]
    assert [each["scale"] for each in record["scales"]] == [1, 2, 4]
    assert record["selected"] > 1, record
    assert "their size saves" in admin.get(f"/reports/{report_id}/view?level=simple").text

    found = deploy(admin, model_id, report_id=report_id)
    assert (found["status"], found["serves"]["jpeg_scale"]) == ("active", record["selected"]), found
    with zipfile.ZipFile(archive) as images_of:
        image = images_of.read(images_of.namelist()[-1])

    def shares() -> list[float]:
        asked = {"model_id": model_id, "top_k": 10}
        answer = admin.post("/inference/predict", params=asked, content=image, headers={"Content-Type": "image/jpeg"})
        return [each["confidence"] for each in answer.raise_for_status().json()["predictions"][0]]

    shares()
    wait_for(lambda: taken_over(admin, model_id), 60, "the takeover")
    onnx = admin.get(f"/models/{model_id}/onnx").content
    contract = msgspec.json.decode((DIGITS / "preprocessing.json").read_bytes(), type=Preprocessing)
    assert shares() == pytest.approx(answered(onnx, image, contract.reduced(record["selected"])), abs=1e-4)
    assert shares() != pytest.approx(answered(onnx, image, contract), abs=1e-4)
    assert admin.delete(f"/models/{model_id}/deployment").status_code == 204
    wait_for(lambda: taken_over(admin, model_id), 60, "the way back")
    assert shares() == pytest.approx(answered(onnx, image, contract), abs=1e-4)


def answered(onnx: bytes, image: bytes, contract: Preprocessing) -> list[float]:
    """What an ONNX file makes of an image, the best first, without the platform."""
    fed = preprocess(read(image, contract), contract)[None]
    (logits,) = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"]).run(None, {"image": fed})
    return ordered(logits)
