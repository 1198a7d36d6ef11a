"""The main job, from end to end, through real processes; then the same with its processes killed one by one."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.process.platform import DIGITS, Platform, settled, upload_digits, wait_for

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]

SMALL = {
    "engines": ["onnxruntime", "openvino", "tensorrt"],
    "batch_sizes": [1],
    "num_iterations": 200,
    "max_seconds": 5,
}


def held_out() -> list[tuple[Path, str]]:
    return [(path, path.stem[-1]) for path in sorted((DIGITS / "held-out").glob("*.png"))]


def predict(client: httpx.Client, model_id: str, image: bytes, **query: object) -> httpx.Response:
    return client.post(
        "/inference/predict",
        params={"model_id": model_id, **query},
        content=image,
        headers={"Content-Type": "image/png"},
    )


def order(client: httpx.Client, model_id: str, **changes: object) -> str:
    answer = client.post("/benchmark", json={"model_id": model_id, **SMALL, **changes})
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"].endswith(answer.json()["id"])
    return str(answer.json()["id"])


def reported(client: httpx.Client, benchmark_id: str) -> str:
    body = settled(client, f"/benchmark/{benchmark_id}")
    assert body["status"] == "completed", body
    path = f"/benchmark/{benchmark_id}"
    return str(wait_for(lambda: client.get(path).json().get("report_id"), 60, "the report"))


def test_the_held_out_digits_are_recognised(admin: httpx.Client, digits: str):
    right = 0
    for path, label in held_out():
        answer = predict(admin, digits, path.read_bytes(), top_k=3)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert (body["engine"], body["precision"]) == ("onnxruntime", "fp32")
        assert {"queue", "decode", "inference", "total"} <= body["latency_ms"].keys()
        assert body["latency_ms"]["total"] > 0
        (best, *_rest) = body["predictions"][0]
        right += best["label"] == label
    assert right >= 19


def test_the_same_digit_as_json_and_as_multipart(admin: httpx.Client, digits: str):
    path, _ = held_out()[0]
    contract = admin.get(f"/models/{digits}").json()["preprocessing"]
    pixels = np.asarray(Image.open(path).convert("L"), dtype=np.float64) * contract["scale"]
    tensor = ((pixels - contract["mean"][0]) / contract["std"][0])[None, None]
    alone = predict(admin, digits, path.read_bytes()).json()["predictions"][0]
    as_json = admin.post("/inference/predict", json={"model_id": digits, "inputs": tensor.tolist()}).json()
    assert as_json["predictions"][0][0]["label"] == alone[0]["label"]
    assert as_json["predictions"][0][0]["confidence"] == pytest.approx(alone[0]["confidence"], abs=1e-4)
    files = [("image", (name.name, name.read_bytes(), "image/png")) for name, _ in held_out()[:3]]
    several = admin.post("/inference/predict", data={"model_id": digits}, files=files).json()
    assert len(several["predictions"]) == 3
    assert several["predictions"][0][0]["label"] == alone[0]["label"]


def test_a_benchmark_becomes_a_report_in_every_form(admin: httpx.Client, digits: str):
    limits = [
        {"metric": "latency_p95_ms", "op": "<=", "value": 1000},
        {"metric": "accuracy", "op": ">=", "value": 0.9},
    ]
    lenient = order(admin, digits, constraints=limits[:1])
    report_id = reported(admin, lenient)
    record = admin.get(f"/reports/{report_id}/export", params={"format": "json"}).json()
    measured = {c["engine"] for c in record["candidates"] if c["status"] == "measured"}
    assert measured == {"onnxruntime", "openvino"}
    tensorrt = next(c for c in record["candidates"] if c["engine"] == "tensorrt")
    assert tensorrt["status"] == "unavailable"
    assert tensorrt["reason"]
    assert record["decision"]["selected"]["engine"] in measured
    starts = {"pdf": b"%PDF-", "html": b"<!doctype html>", "csv": b"", "json": b"{"}
    for form, start in starts.items():
        answer = admin.get(f"/reports/{report_id}/export", params={"format": form})
        assert answer.status_code == 200
        assert answer.content.lower().lstrip().startswith(start.lower())
        assert len(answer.content) > 200
    for level in ("technical", "simple"):
        assert admin.get(f"/reports/{report_id}/view", params={"level": level}).json()
    strict = reported(admin, order(admin, digits, constraints=limits))
    over_time = admin.get(f"/reports/{strict}/view?level=history").text
    assert report_id in over_time and strict in over_time
    decision = admin.get(f"/reports/{strict}").json()["decision"]
    assert decision.get("selected") is None, "an accuracy nobody measured does not pass"


def test_two_benchmarks_are_measured_one_after_the_other(admin: httpx.Client, digits: str):
    first, second = order(admin, digits), order(admin, digits)
    for benchmark_id in (first, second):
        assert settled(admin, f"/benchmark/{benchmark_id}")["status"] == "completed"
    times = [admin.get(f"/benchmark/{benchmark_id}").json() for benchmark_id in (first, second)]
    assert times[0]["finished_at"] <= times[1]["started_at"]


def test_a_running_benchmark_can_be_cancelled(admin: httpx.Client, platform: Platform, digits: str):
    benchmark_id = order(admin, digits, num_iterations=1_000_000, max_seconds=600)
    path = f"/benchmark/{benchmark_id}"
    wait_for(lambda: admin.get(path).json()["status"] == "running", 30, "the start")
    wait_for(lambda: platform.pids("benchmarker.candidate"), 30, "a candidate")
    assert admin.post(f"{path}/cancel").status_code in (200, 202)
    assert settled(admin, path, 20)["status"] == "cancelled"
    wait_for(lambda: not platform.pids("benchmarker.child") + platform.pids("benchmarker.candidate"), 10, "the end")


def picture() -> bytes:
    png = io.BytesIO()
    Image.new("L", (8, 8), 128).save(png, "PNG")
    return png.getvalue()


BAD_PREDICTIONS = {
    "no image at all": (b"hello", {}, 422),
    "a truncated PNG": (picture()[:40], {}, 422),
    "an empty body": (b"", {}, 422),
    "an unknown model": (picture(), {"model_id": "mdl_none"}, 404),
    "top_k of zero": (picture(), {"top_k": 0}, 422),
}


@pytest.mark.parametrize("case", BAD_PREDICTIONS)
def test_a_bad_prediction_is_refused_plainly(admin: httpx.Client, digits: str, case: str):
    body, query, status = BAD_PREDICTIONS[case]
    answer = predict(admin, **({"model_id": digits} | query), image=body)
    assert answer.status_code == status, answer.text
    problem = answer.json()
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert problem["code"]
    assert problem["detail"]
    assert problem["request_id"] == answer.headers["X-Request-ID"]


BAD_TENSORS = {
    "a wrong shape": [[[[0.0] * 7] * 8]],
    "a wrong channel count": [[[[0.0] * 8] * 8] * 3],
    "text for numbers": [[[["a"] * 8] * 8]],
    "ragged rows": [[[[0.0] * 8] * 7 + [[0.0]]]],
    "a scalar": 5,
    "an unknown input name": {"pixels": [[[[0.0] * 8] * 8]]},
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_a_bad_tensor_is_refused_plainly(admin: httpx.Client, digits: str, case: str):
    answer = admin.post("/inference/predict", json={"model_id": digits, "inputs": BAD_TENSORS[case]})
    assert answer.status_code == 422, answer.text


def test_a_bad_image_does_not_spoil_its_batch_mates(platform: Platform, admin: httpx.Client, digits: str):
    good = held_out()[0][0].read_bytes()
    answers: list[tuple[bool, int]] = []

    def send(image: bytes) -> None:
        with platform.login() as client:
            answers.extend((image == good, predict(client, digits, image).status_code) for _ in range(15))

    threads = [threading.Thread(target=send, args=(image,)) for image in (good, good, good, b"\x89PNG\r\n\x1a\nbroken")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(answers) == {(True, 200): 45, (False, 422): 15}


@pytest.mark.parametrize("content", [b"no model", (DIGITS / "digits.onnx").read_bytes()[:20_000]])
def test_a_broken_upload_ends_as_a_failed_model_with_a_reason(admin: httpx.Client, content: bytes):
    answer = admin.post(
        "/models",
        data={"name": "broken", "task_type": "classification"},
        files={"file": ("broken.onnx", content)},
    )
    assert answer.status_code in (202, 415, 422), answer.text
    if answer.status_code == 202:
        model = settled(admin, f"/models/{answer.json()['id']}")
        assert model["status"] == "failed"
        assert model["error"]
        assert predict(admin, model["id"], picture()).status_code == 409


def test_who_may_do_what(platform: Platform, admin: httpx.Client, digits: str):
    for role in ("viewer", "engineer"):
        user = {"username": role, "password": f"a long {role} password", "role": role}
        assert admin.post("/users", json=user).status_code == 201
    with platform.login("viewer", "a long viewer password") as viewer:
        assert predict(viewer, digits, picture()).status_code == 200
        assert viewer.get("/models").status_code == 403
        assert viewer.post("/benchmark", json={"model_id": digits}).status_code == 403
    with platform.login("engineer", "a long engineer password") as engineer:
        assert engineer.get("/models").status_code == 200
        assert engineer.delete(f"/models/{digits}").status_code == 403
        assert engineer.get("/users").status_code == 403
    assert httpx.get(f"{platform.url}/api/v1/models").status_code == 401
    assert httpx.get(f"{platform.url}/api/v1/health").status_code == 200


def test_a_deleted_model_stops_serving(admin: httpx.Client):
    model_id = upload_digits(admin, "short-lived")
    assert predict(admin, model_id, picture()).status_code == 200
    assert admin.delete(f"/models/{model_id}").status_code in (200, 204)
    wait_for(lambda: predict(admin, model_id, picture()).status_code == 404, 5, "its end")
    assert admin.get(f"/models/{model_id}").status_code == 404


@pytest.mark.parametrize(
    "module", ["inferencer", "broker", "gateway", "preparer", "reporter", "trainer", "benchmarker"]
)
def test_a_killed_process_is_back_within_seconds(platform: Platform, admin: httpx.Client, digits: str, module: str):
    before = len(platform.pids(module))
    killed = platform.kill(module)

    def whole_again() -> bool:
        now = platform.pids(module)
        return len(now) == before and killed not in now and platform.ready()

    wait_for(whole_again, 20, f"a new {module}")

    def predicts() -> bool:
        try:
            return predict(admin, digits, picture()).status_code == 200
        except httpx.TransportError:
            return False

    wait_for(predicts, 20, "a prediction")


def test_requests_survive_the_death_of_their_inferencer(platform: Platform, digits: str):
    statuses: Counter[int] = Counter()
    stop = threading.Event()

    def load() -> None:
        with platform.login() as client:
            while not stop.is_set():
                statuses[predict(client, digits, picture()).status_code] += 1

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_for(lambda: statuses[200] > 100, 30, "load")
    killed = platform.kill("inferencer")
    wait_for(lambda: len(platform.pids("inferencer")) == 2 and killed not in platform.pids("inferencer"), 20)
    after = statuses[200]
    wait_for(lambda: statuses[200] > after + 100, 30, "more load")
    stop.set()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200}, statuses


def test_a_benchmark_survives_the_death_of_its_benchmarker(platform: Platform, admin: httpx.Client, digits: str):
    benchmark_id = order(admin, digits)
    wait_for(lambda: platform.pids("benchmarker.child"), 30, "the child")
    (child,) = platform.pids("benchmarker.child")
    owner = int(Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[1])
    os.kill(owner, signal.SIGKILL)
    wait_for(lambda: child not in platform.pids("benchmarker.child"), 10, "the child's end")
    assert settled(admin, f"/benchmark/{benchmark_id}", 120)["status"] == "completed"
    (job,) = [job for job in admin.get("/jobs", params={"limit": 50}).json()["items"] if job["id"] == benchmark_id]
    assert job["attempt"] == 2


def test_the_platform_comes_back_after_its_supervisor_was_killed(platform: Platform, admin: httpx.Client, digits: str):
    pid = int((platform.data_dir / "run" / "supervisord.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not platform.pids("gateway"), 40, "the services' end")
    platform.cvp("up")
    assert wait_for(lambda: predict(admin, digits, picture()).status_code == 200, 20)


def test_up_twice_and_status(platform: Platform):
    assert "Already running" in platform.cvp("up").stdout
    said = platform.cvp("status").stdout
    for name in ("gateway", "broker", "inferencer", "trainer", "benchmarker", "preparer", "reporter"):
        assert name in said


def test_nothing_half_written_is_left(platform: Platform):
    for store in ("models", "reports"):
        assert list((platform.data_dir / store / "staging").glob("*")) == []
