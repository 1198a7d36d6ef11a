"""Predictions over HTTP: what comes in, what goes over the wire, what comes back; and everything that is refused."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import random
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.bodies import Budget
from gateway.errors import ClientGone
from gateway.exchange import LINES_PER_S, Sampling
from gateway.protocol import PRESENCE, Presence
from gateway.routes import predict
from gateway.routes.predict import submitted
from shared import apikeys, errors, farm
from shared.db import connection, registry
from shared.db.tables import Model
from shared.wire.client import Cancelled
from shared.wire.messages import LoadedModel, ModelHealth, Submit, WorkerStatus
from tests.unit.gateway_kit import (
    ONNX,
    Conversation,
    FakeBroker,
    Gateway,
    context_at,
    converse,
    fields_of,
    problem,
    ready_model,
)

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
JPEG = b"\xff\xd8\xff\xe0" + bytes(20)
WEBP = b"RIFF\x10\x00\x00\x00WEBP" + bytes(8)


@pytest.fixture
def model_id(gateway: Gateway) -> str:
    made = ready_model(gateway)
    gateway.refresh()
    return made


def ask(gateway: Gateway, query: str = "", **options: Any) -> Any:
    return gateway.post(f"/inference/predict{query}", "viewer", **options)


@pytest.mark.parametrize("image", [PNG, JPEG, WEBP])
@pytest.mark.parametrize(
    "content_type",
    ["image/png", "IMAGE/JPEG; x=y", "application/octet-stream", "application/x-www-form-urlencoded", ""],
)
def test_an_image(gateway: Gateway, model_id: str, image: bytes, content_type: str) -> None:
    headers = {"X-Request-ID": "mine-1", "content-type": content_type}
    response = ask(gateway, f"?model_id={model_id}&top_k=3", content=image, headers=headers)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["latency_ms"].pop("total") > 0
    assert answer == {
        "request_id": "mine-1",
        "model_id": model_id,
        "engine": "onnxruntime",
        "precision": "fp32",
        "batch_size": 2,
        "predictions": gateway.broker.results["predictions"],
        "latency_ms": {"queue": 1.0, "decode": 2.0, "inference": 3.0},
    }
    [(submit, blobs)] = gateway.broker.submitted
    assert (submit.model_id, submit.form, submit.top_k, submit.raw_outputs) == (model_id, "images", 3, False)
    assert response.text.endswith("}\n")
    assert (submit.queue_ttl_ms, submit.inference_ttl_ms) == (30_000, 30_000)
    assert blobs == [image]


@pytest.mark.parametrize("role", ["viewer", None])
@pytest.mark.parametrize("body", [JPEG, b"", b"GIF89a"])
@pytest.mark.parametrize("call", ["predict", "infer", "infer of a version"])
@pytest.mark.parametrize("model", ["digits", "nobody"])
def test_the_short_way_and_the_long_one_answer_alike(
    gateway: Gateway, model_id: str, role: str | None, body: bytes, call: str, model: str
) -> None:
    """A path with a slash at its end goes the long way."""
    paths = {
        "predict": f"/inference/predict{{slash}}?model_id={model_id if model == 'digits' else model}",
        "infer": f"/v2/models/{model}/infer{{slash}}",
        "infer of a version": f"/v2/models/{model}/versions/1/infer{{slash}}",
    }
    tensor = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]}'
    content = tensor if body == JPEG and call != "predict" else body
    headers = {"X-Request-ID": "same", "content-type": "application/octet-stream"}
    answers = []
    for slash in ("", "/"):
        reply = gateway.post(paths[call].format(slash=slash), role, content=content, headers=headers)
        said = reply.json()
        said.pop("latency_ms", None)
        about = {name: value for name, value in reply.headers.items() if name != "content-length"}
        answers.append((reply.status_code, about, said))
    assert answers[0] == answers[1]
    assert (answers[0][0] == 200) == (role == "viewer" and body == JPEG and model == "digits")
    assert len(gateway.broker.submitted) == (2 if answers[0][0] == 200 else 0)


def test_of_many_predictions_some_have_a_line_and_every_failure_has(
    gateway: Gateway, model_id: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "gateway.access")
    now_s = [0.5]
    exchanges: Any = gateway.client.app.asgi_handler
    monkeypatch.setattr(exchanges, "_sampling", Sampling(lambda: now_s[0]))
    for _ in range(LINES_PER_S + 3):
        assert ask(gateway, f"?model_id={model_id}", content=JPEG).status_code == 200
    assert ask(gateway, f"?model_id={model_id}", content=b"GIF89a").status_code == 422
    now_s[0] = 1.5
    assert ask(gateway, f"?model_id={model_id}", content=JPEG).status_code == 200
    lines = [vars(record) for record in caplog.records if record.name == "gateway.access"]
    assert [line["status"] for line in lines] == [200] * LINES_PER_S + [422, 200]
    assert [line.get("predictions_without_a_line") for line in lines] == [None] * (LINES_PER_S + 1) + [3]


class Withholds(FakeBroker):
    """Answers nothing; who cancels hears so."""

    def __init__(self) -> None:
        super().__init__()
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def submit(self, request: Submit, blobs: Sequence[bytes]) -> Any:
        return await self.answer

    def cancel(self, request_id: str) -> None:
        super().cancel(request_id)
        self.answer.set_exception(Cancelled())


WAITS = Submit(request_id="r", model_id="m", form="images", queue_ttl_ms=1, inference_ttl_ms=1)


def test_a_prediction_whose_client_leaves_is_cancelled() -> None:
    async def leaves(presence: Presence, *, before: bool) -> list[str]:
        broker, scope = Withholds(), {"state": {PRESENCE: presence}}
        if before:
            presence.end()
        else:
            asyncio.get_running_loop().call_soon(presence.end)
        with pytest.raises(ClientGone):
            await submitted(SimpleNamespace(broker=broker), scope, WAITS, [])
        presence.end()
        return broker.cancelled

    assert asyncio.run(leaves(Presence(), before=False)) == ["r"]
    assert asyncio.run(leaves(Presence(), before=True)) == []


def test_a_client_that_leaves_after_its_answer_cancels_nothing() -> None:
    async def answered() -> list[str]:
        broker, presence = Withholds(), Presence()
        broker.answer.set_result("an answer")
        given = await submitted(SimpleNamespace(broker=broker), {"state": {PRESENCE: presence}}, WAITS, [])
        presence.end()
        assert given == "an answer"
        return broker.cancelled

    assert asyncio.run(answered()) == []


@pytest.mark.parametrize("video", [b"\0\0\0\x20ftypisom", b"\x1aE\xdf\xa3....", b"RIFF\x10\x00\x00\x00AVI LIST"])
@pytest.mark.parametrize("content_type", ["video/mp4", "application/octet-stream"])
def test_a_video(gateway: Gateway, model_id: str, video: bytes, content_type: str) -> None:
    gateway.broker.results["times_s"] = [0.0, 0.5]
    response = ask(
        gateway,
        f"?model_id={model_id}&frames_per_second=2",
        content=video,
        headers={"content-type": content_type},
    )
    assert response.status_code == 200, response.text
    assert response.json()["times_s"] == [0.0, 0.5]
    [(submit, blobs)] = gateway.broker.submitted
    assert (submit.form, submit.frames_per_second, blobs) == ("video", 2.0, [video])


@pytest.mark.parametrize("rate", ["0", "0.05", "61", "nan", "fast"])
def test_a_rate_that_cannot_be(gateway: Gateway, model_id: str, rate: str) -> None:
    assert fields_of(ask(gateway, f"?model_id={model_id}&frames_per_second={rate}", content=PNG)) == {
        "frames_per_second"
    }


def test_no_sql_on_the_way(gateway: Gateway, model_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(gateway, f"?model_id={model_id}", content=PNG).status_code == 200
    here: list[str] = []
    monkeypatch.setattr(registry, "model", lambda *_: here.append("model"))
    monkeypatch.setattr("gateway.auth.Credentials._look_up", lambda *_: here.append("credential"))
    assert ask(gateway, f"?model_id={model_id}", content=PNG).status_code == 200
    assert here == []


def test_a_gateway_started_later_names_no_request_as_the_one_before_it() -> None:
    found = importlib.util.find_spec("gateway.routes.predict")
    assert found is not None and found.loader is not None
    successor = importlib.util.module_from_spec(found)
    found.loader.exec_module(successor)
    scope: Any = {"state": {"request_id": "same"}}
    before = [predict.wire_id(scope) for _ in range(3)]
    assert not {successor.wire_id(scope) for _ in range(3)} & set(before)


def test_a_request_id_used_twice_is_two_requests_on_the_wire(gateway: Gateway, model_id: str) -> None:
    for _ in range(2):
        response = ask(gateway, f"?model_id={model_id}", content=PNG, headers={"X-Request-ID": "same"})
        assert response.json()["request_id"] == response.headers["x-request-id"] == "same"
    first, second = (submit.request_id for submit, _ in gateway.broker.submitted)
    assert first != second and first.startswith("same.") and second.startswith("same.")


def test_the_trace_goes_along(gateway: Gateway, model_id: str) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for given in (trace, "not one"):
        ask(gateway, f"?model_id={model_id}", content=PNG, headers={"traceparent": given})
    assert [submit.traceparent for submit, _ in gateway.broker.submitted] == [trace, ""]


def test_several_images_in_a_form(gateway: Gateway, model_id: str) -> None:
    gateway.broker.results = {"predictions": [[], []], "outputs": {"y": [[1.0], [2.0]]}}
    files = [("image", ("a.png", PNG)), ("image", ("b.jpg", JPEG))]
    response = ask(gateway, data={"model_id": model_id, "outputs": "true", "top_k": "1"}, files=files)
    assert response.json()["outputs"] == {"y": [[1.0], [2.0]]}
    [(submit, blobs)] = gateway.broker.submitted
    assert (submit.form, submit.raw_outputs, submit.top_k) == ("images", True, 1)
    assert blobs == [PNG, JPEG]


@pytest.mark.parametrize("inputs", ["[[1, 2.5]]", '{"x" : [[1e3]]}', '"anything"', "[" * 500 + "]" * 500])
def test_tensors_pass_unopened(gateway: Gateway, model_id: str, inputs: str) -> None:
    body = f'{{"model_id": "{model_id}", "inputs": {inputs}, "outputs": true}}'
    response = ask(gateway, content=body, headers={"content-type": "application/json; charset=utf-8"})
    assert response.status_code == 200, response.text
    [(submit, blobs)] = gateway.broker.submitted
    assert (submit.form, submit.raw_outputs) == ("tensors", True)
    assert blobs == [inputs.encode()]


def test_outputs_alone(gateway: Gateway, model_id: str) -> None:
    gateway.broker.results = {"outputs": {"y": [[1.0]]}}
    answer = ask(gateway, f"?model_id={model_id}", json={"inputs": [[1]]}).json()
    assert answer["outputs"] == {"y": [[1.0]]} and "predictions" not in answer


def test_the_model_must_be_named_known_and_ready(gateway: Gateway, model_id: str) -> None:
    assert fields_of(ask(gateway, content=PNG)) == {"model_id"}
    problem(ask(gateway, "?model_id=mdl_1", content=PNG), 404, "not_found")
    problem(ask(gateway, json={"model_id": "a" * 10_000, "inputs": [1]}), 404, "not_found")
    name = Model.get_by_id(model_id).name
    said = problem(ask(gateway, f"?model_id={name}", content=PNG), 404, "not_found")["detail"]
    assert said == f"`model_id` is an id, and {name!r} the name of {model_id}; say the id."
    with connection.write():
        waiting = registry.add_model(
            gateway.context.models.put(ONNX + b"x"),
            str(Model.get_by_id(model_id).created_by),
            name="b",
            framework="onnx",
            task_type="detection",
        )
    assert "converting" in problem(ask(gateway, f"?model_id={waiting}", content=PNG), 409, "conflict")["detail"]
    gateway.delete(f"/models/{model_id}")
    problem(ask(gateway, f"?model_id={model_id}", content=PNG), 404, "not_found")
    assert gateway.broker.submitted == []


def test_a_model_that_became_ready_this_instant_is_served(gateway: Gateway) -> None:
    assert ask(gateway, f"?model_id={ready_model(gateway)}", content=PNG).status_code == 200


@pytest.mark.parametrize("options", ["top_k=0", "top_k=1001", "top_k=x", "outputs=maybe", "topk=1"])
def test_bad_options(gateway: Gateway, model_id: str, options: str) -> None:
    problem(ask(gateway, f"?model_id={model_id}&{options}", content=PNG), 422, "invalid")
    form_field = dict([options.split("=")])
    problem(ask(gateway, f"?model_id={model_id}", data=form_field, files={"image": PNG}), 422, "invalid")


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, {"inputs"}),
        ({"inputs": [1], "top_k": 0, "outputs": 1}, {"top_k", "outputs"}),
        ({"inputs": [1], "input": [1]}, {"input"}),
    ],
)
def test_bad_tensor_requests(gateway: Gateway, model_id: str, body: dict[str, Any], wrong: set[str]) -> None:
    assert fields_of(ask(gateway, f"?model_id={model_id}", json=body)) == wrong


@pytest.mark.parametrize(
    ("content", "content_type", "status", "code"),
    [
        (b"", "image/png", 422, "bad_image"),
        (b"GIF89a", "image/png", 422, "bad_image"),
        (b"GIF89a", "image/gif", 415, "unsupported_media"),
        (b"hello", "text/plain", 415, "unsupported_media"),
        (b"hello", "", 422, "bad_image"),
        (b"{", "application/json", 422, "invalid"),
        (b"[1]", "application/json", 422, "invalid"),
        (b'{"inputs": [1}', "application/json", 422, "invalid"),
        (b'{"inputs": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "application/json", 422, "invalid"),
        (b"abc", "multipart/form-data", 415, "unsupported_media"),
        (b"abc", "multipart/form-data; boundary=x", 422, "invalid"),
    ],
)
def test_bad_bodies(gateway: Gateway, model_id: str, content: bytes, content_type: str, status: int, code: str) -> None:
    response = ask(gateway, f"?model_id={model_id}", content=content, headers={"content-type": content_type})
    problem(response, status, code)
    assert gateway.broker.submitted == []


def test_bad_forms(gateway: Gateway, model_id: str) -> None:
    query = f"?model_id={model_id}"
    assert fields_of(ask(gateway, query, data={"top_k": "1"}, files={"picture": ("a", PNG)})) == {"picture"}
    no_image = {"content-type": "multipart/form-data; boundary=x"}
    field = b'--x\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n1\r\n--x--\r\n'
    assert fields_of(ask(gateway, query, content=field, headers=no_image)) == {"image"}
    problem(ask(gateway, query, files=[("image", ("a", PNG))] * (predict.MAX_IMAGES + 1)), 413, "too_large")
    for content, why in (
        (b"no", "is no JPEG, PNG or WebP."),
        (b"", "is empty."),
        (b"\0\0\0\x18ftypheic", "is HEIC or AVIF, as phones take them. Convert it to JPEG, PNG or WebP."),
        (b"\0\0\0\x18ftypisom", "is a video. Send it alone, as the body, with its Content-Type (video/mp4)."),
    ):
        refused = problem(
            ask(gateway, query, files=[("image", ("a", PNG)), ("image", ("b.png", content))]), 422, "bad_image"
        )
        assert refused["detail"] == f"Image 2 of 2 ('b.png') {why}"
    assert ask(gateway, query, files=[("image", ("a", PNG))] * predict.MAX_IMAGES).status_code == 200


def test_a_body_over_the_limit(gateway: Gateway, model_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "BODY_BYTES", 2**20)
    query = f"?model_id={model_id}"
    problem(ask(gateway, query, content=PNG + bytes(2**20)), 413, "too_large")
    problem(ask(gateway, query, files={"image": PNG + bytes(2**20)}), 413, "too_large")
    assert gateway.context.budget._left == 2 * 256 * 2**20, "what a refused request took is given back"


def test_the_bytes_under_way_are_bounded(gateway: Gateway, model_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.context, "budget", Budget(100))
    response = ask(gateway, f"?model_id={model_id}", content=PNG + bytes(100))
    problem(response, 429, "queue_full")
    assert response.headers["retry-after"] == "1"
    assert ask(gateway, f"?model_id={model_id}", content=PNG).status_code == 200


def test_one_caller_leaves_bytes_for_others(gateway: Gateway, model_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget(100)
    monkeypatch.setattr(gateway.context, "budget", budget)
    with budget.share("loud"):
        budget.take("loud", 75)
        with pytest.raises(errors.QueueFull):
            budget.take("loud", 1)
        with budget.share("quiet"):
            budget.take("quiet", 18)
            with pytest.raises(errors.QueueFull):
                budget.take("quiet", 4)


class Unread(Conversation):
    """A client that reads nothing of its answer for a while."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.reads = asyncio.Event()

    async def send(self, message: dict[str, Any]) -> None:
        if self.body:
            await self.reads.wait()
        await super().send(message)


@pytest.mark.parametrize(
    "path", ["/api/v1/inference/predict", "/v2/models/{model}/infer", "/v2//models/{model}/versions/1/infer/"]
)
def test_an_answer_counts_with_the_bytes_under_way_until_it_is_read(gateway: Gateway, model_id: str, path: str) -> None:
    broker, size = FakeBroker(), predict.UNREAD_BYTES
    broker.results, broker.binary = {"predictions": ["x" * size]}, bytes(size)
    context = context_at(gateway.folder, broker)
    talk = Unread("POST", path.format(model=model_id), gateway.keys["viewer"])
    talk.scope["query_string"] = f"model_id={model_id}".encode()
    body = b'{"inputs": [{"name": "image", "shape": [1], "datatype": "FP32", "data": [1]}]}'
    talk.say(body if "/v2" in path else PNG, more=False)
    whole = context.budget._left

    async def nobody_reads() -> None:
        while not talk.body:
            await asyncio.sleep(0)
        assert context.budget._left < whole - size
        talk.reads.set()

    converse(context, talk, nobody_reads)
    assert talk.status == 200 and len(talk.body) > size
    assert context.budget._left == whole


def test_answers_that_nobody_reads_are_bounded(
    gateway: Gateway, model_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.context, "budget", Budget(4 * predict.UNREAD_BYTES))
    gateway.broker.results = {"predictions": ["x" * 4 * predict.UNREAD_BYTES]}
    response = ask(gateway, f"?model_id={model_id}", content=PNG)
    problem(response, 429, "queue_full")
    gateway.broker.results = {"predictions": ["x" * 2 * predict.UNREAD_BYTES]}
    assert ask(gateway, f"?model_id={model_id}", content=PNG).status_code == 200


def test_a_crowd_is_refused_before_the_body_is_read(gateway: Gateway) -> None:
    broker = FakeBroker()
    broker.crowded = True
    key = gateway.keys["viewer"]
    talk = Conversation("POST", "/api/v1/inference/predict", key, {"content-length": "1000000"})

    async def nothing_comes() -> None:
        while not talk.body:
            await asyncio.sleep(0)
        talk.say(b"", more=False)

    converse(context_at(gateway.folder, broker), talk, nothing_comes)
    assert (talk.status, talk.headers["retry-after"]) == (429, "2")
    assert broker.submitted == []


def test_each_key_is_a_caller_and_all_sign_ins_of_a_user_are_one(gateway: Gateway, model_id: str) -> None:
    for role in ("viewer", "engineer", "viewer"):
        assert gateway.post(f"/inference/predict?model_id={model_id}", role, content=PNG).status_code == 200
    first, other, again = (request.caller for request, _ in gateway.broker.submitted)
    assert first == again != other
    assert apikeys.fingerprint(gateway.keys["viewer"]).startswith(first)


@pytest.mark.parametrize(
    ("failure", "status", "retry_after"),
    [
        (errors.QueueFull("full", retry_after_s=2.3), 429, "3"),
        (errors.Unavailable("no worker"), 503, "1"),
        (errors.DeadlineExceeded("late"), 504, None),
        (errors.BadTensor("shape"), 422, None),
        (errors.BadImage("broken"), 422, None),
        (errors.PoisonRequest("killed"), 422, None),
        (errors.EngineFailed("raised"), 422, None),
    ],
)
def test_failures_from_behind(
    gateway: Gateway, model_id: str, failure: errors.AppError, status: int, retry_after: str | None
) -> None:
    gateway.broker.failure = failure
    response = ask(gateway, f"?model_id={model_id}", content=PNG)
    assert problem(response, status, failure.code)["detail"] == failure.message
    assert response.headers.get("retry-after") == retry_after


def test_without_a_broker(gateway: Gateway, model_id: str) -> None:
    gateway.broker.alive = False
    response = ask(gateway, f"?model_id={model_id}", content=PNG)
    problem(response, 503, "unavailable")
    assert response.headers["retry-after"] == "1"


def test_an_answer_we_cannot_read_is_our_fault(gateway: Gateway, model_id: str) -> None:
    gateway.broker.results = ["surprise"]
    problem(ask(gateway, f"?model_id={model_id}", content=PNG), 500, "internal")


def test_the_models_that_are_served(gateway: Gateway, model_id: str) -> None:
    [served] = gateway.get("/inference/models", "viewer").json()
    assert (served["id"], served["name"], served["engine"], served["batch_size"]) == (
        model_id,
        "digits",
        "onnxruntime",
        4,
    )
    assert served["inputs"][0]["shape"] == ["batch", 1, 8, 8]
    assert "sha256" not in json.dumps(served) and served["labels"][6] == "6"


def test_the_lane(gateway: Gateway) -> None:
    expected = len(gateway.context.settings.inference_farm)
    health = gateway.get("/inference/health").json()
    assert health["queue"] == {"depth": 3, "limit": 1000, "mb": 1.0}
    assert health["number_found_by"] == farm.SET
    assert health["workers"] == {"total": expected, "busy": 1, "idle": 0, "lost": expected - 1}
    gateway.broker.workers = []
    assert gateway.get("/inference/health").json()["status"] == "down"
    gateway.broker.alive = False
    assert gateway.get("/inference/health").json()["queue"]["limit"] == 0


def test_a_model_in_several_processes_is_one_line(gateway: Gateway) -> None:
    held = [
        LoadedModel(
            model_id="mdl_1",
            engine="openvino",
            precision="fp32",
            batch_size=1,
            memory_mb=10.54,
            gpu_memory_mb=4,
            health=health,
        )
        for health in (
            ModelHealth(success_age_ms=2_512, probes=3),
            ModelHealth(probes=3, failed_probes=1, failure="No."),
        )
    ]
    gateway.broker.workers = [
        WorkerStatus(worker_id=f"inferencer-{number}", busy=0, credit=2, silent_ms=1, models=[held[number]])
        for number in (0, 1)
    ]
    assert gateway.get("/inference/health").json()["models"] == [
        {
            "id": "mdl_1",
            "engine": "openvino",
            "precision": "fp32",
            "batch_size": 1,
            "threads": 1,
            "sessions": 1,
            "problem": None,
            "loaded_in": ["inferencer-0", "inferencer-1"],
            "memory_mb": 21.1,
            "gpu_memory_mb": 8.0,
            "health": [
                {"process": "inferencer-0", "last_success_s": 2.5, "probes": 3, "failed_probes": 0, "failure": None},
                {"process": "inferencer-1", "last_success_s": 0.0, "probes": 3, "failed_probes": 1, "failure": "No."},
            ],
        }
    ]


def test_hundreds_of_broken_requests_and_still_alive(gateway: Gateway, model_id: str) -> None:
    rng = random.Random(1)
    kinds = ["image/png", "application/json", "multipart/form-data; boundary=x", "multipart/form-data; boundary=", "a"]
    seeds = [PNG, b'{"inputs": [[1, 2]], "top_k": 3}', b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n']
    for _ in range(300):
        body = bytearray(rng.choice(seeds) * rng.randint(1, 3))
        for _ in range(rng.randint(0, 6)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        response = ask(
            gateway, f"?model_id={model_id}", content=bytes(body), headers={"content-type": rng.choice(kinds)}
        )
        assert response.status_code in (200, 413, 415, 422), (response.text, body)
    assert ask(gateway, f"?model_id={model_id}", content=PNG).status_code == 200
    assert threading.active_count() < 30
