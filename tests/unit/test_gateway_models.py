"""Models over HTTP: uploads good, bad and interrupted; lists, details, download, deletion."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway import exchange, upload_kinds
from shared import config, errors, ids, nets
from shared.artifacts import Staging
from shared.db import jobs, registry
from shared.db.tables import Artifact, Idempotency, Job, Model
from shared.nets import kinds
from tests.unit.gateway_kit import (
    ONNX,
    Conversation,
    Gateway,
    context_at,
    converse,
    fields_of,
    form,
    problem,
    ready_model,
)

GOOD = {"name": "digits", "task_type": "classification"}
PREPROCESSING = {"resize": {"height": 8, "width": 8}, "color": "L"}


def nothing_is_left(gateway: Gateway) -> None:
    assert gateway.files() == []
    assert (Model.select().count(), Job.select().count(), Artifact.select().count()) == (0, 0, 0)


def test_an_upload_becomes_a_model_a_job_and_a_file(gateway: Gateway) -> None:
    extra = {
        "description": "Ünïcode",
        "preprocessing": PREPROCESSING,
        "labels": ["zero", "one"],
        "input_shape": [1, 1, 8, 8],
    }
    response = gateway.post("/models", **form(GOOD | extra))
    assert response.status_code == 202, response.text
    model = response.json()
    assert response.headers["location"] == f"/api/v1/models/{model['id']}"
    assert (model["status"], model["file_size"], model["description"]) == ("converting", len(ONNX), "Ünïcode")
    assert model["labels"] == ["zero", "one"] and len(model["preprocessing"]["hash"]) == 16
    assert gateway.get(f"/models/{model['id']}").json() == model
    assert gateway.context.models.path(model["sha256"]).read_bytes() == ONNX
    assert gateway.staged() == []
    job = jobs.find(model["job_id"])
    assert (job.kind, job.status) == ("convert", "queued")
    assert msgspec.json.decode(job.spec) == {"model_id": model["id"], "input_shape": [1, 1, 8, 8]}
    assert gateway.broker.rung == ["cpu"]


def test_the_same_bytes_twice_are_one_file(gateway: Gateway) -> None:
    first, second = (gateway.post("/models", **form(GOOD)).json() for _ in range(2))
    assert first["id"] != second["id"] and len(gateway.files()) == 1
    gateway.delete(f"/models/{first['id']}")
    assert len(gateway.files()) == 1
    gateway.delete(f"/models/{second['id']}")
    assert gateway.files() == []


BAD_FIELDS: list[tuple[dict[str, Any], set[str]]] = [
    ({"task_type": "classification"}, {"name"}),
    ({"name": "", "task_type": "poetry"}, {"name", "task_type"}),
    (GOOD | {"architecture": "resnet18"}, {"architecture"}),
    (GOOD | {"framework": "pytorch"}, {"framework"}),
    (GOOD | {"framework": "caffe"}, {"framework"}),
    (GOOD | {"labels": "[1"}, {"labels"}),
    (GOOD | {"labels": [1]}, {"labels[0]"}),
    (GOOD | {"labels": "[" * 100_000}, {"labels"}),
    (GOOD | {"labels": '["a"], "name": "smuggled"'}, {"labels"}),
    (GOOD | {"input_shape": [1, 0]}, {"input_shape[1]"}),
    (GOOD | {"preprocessing": {"resize": {"height": 0, "width": 8}}}, {"preprocessing.resize.height"}),
    (GOOD | {"preprocessing": PREPROCESSING | {"colour": "L"}}, {"preprocessing.colour"}),
    ({"name": "a" * 201, "labels": [1], "input_shape": []}, {"name", "labels[0]", "input_shape", "task_type"}),
]


@pytest.mark.parametrize(("fields", "wrong"), BAD_FIELDS)
def test_wrong_fields(gateway: Gateway, fields: dict[str, Any], wrong: set[str]) -> None:
    refused = gateway.post("/models", **form(fields))
    assert fields_of(refused) == wrong
    assert "null" not in refused.text, "which no field of a form can be"
    nothing_is_left(gateway)


@pytest.mark.parametrize(
    ("content", "filename", "status", "code"),
    [
        (b"", "a.onnx", 422, "invalid"),
        (b"\x89PNG\r\n", "a.onnx", 415, "unsupported_media"),
        (b"ftrt" + bytes(200), "a.onnx", 415, "unsupported_media"),
        (b"\x80\x04}.", "a.pt", 415, "unsupported_media"),
    ],
)
def test_wrong_files(gateway: Gateway, content: bytes, filename: str, status: int, code: str) -> None:
    problem(gateway.post("/models", **form(GOOD, content, filename)), status, code)
    nothing_is_left(gateway)


ARCHIVE = b"PK\x03\x04" + bytes(26)
FILES: list[tuple[bytes, str]] = [
    (ONNX, "onnx"),
    (ONNX[:1] + bytes(300), "onnx"),
    (ARCHIVE + b"archive/data.pkl" + bytes(300), "pytorch"),
    (ARCHIVE + b"resnet18/byteorder", "pytorch"),
    (kinds.LEGACY + bytes(300), "pytorch"),
    (bytes(8) + b'{"__metadata__":{}}', "pytorch"),
    (ARCHIVE + b"metadata.json" + bytes(300), "tensorflow"),
    (kinds.HDF5 + bytes(300), "tensorflow"),
    (b"\x0a\x10" + bytes(300), "tensorflow"),
]


@pytest.fixture
def everything_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nets, "missing", lambda: None)
    monkeypatch.setattr(config, "tensorflow_python", lambda: Path(sys.executable))


@pytest.mark.usefixtures("everything_is_installed")
@pytest.mark.parametrize(("content", "framework"), FILES)
def test_the_content_says_whose_file_it_is(gateway: Gateway, content: bytes, framework: str) -> None:
    for named in ({}, {"framework": framework}):
        answer = gateway.post("/models", **form(GOOD | named, content, "called.something"))
        assert answer.status_code == 202, answer.text
        assert answer.json()["framework"] == framework
    named = {"framework": "pytorch" if framework == "onnx" else "onnx"}
    assert fields_of(gateway.post("/models", **form(GOOD | named, content))) == {"framework"}


@pytest.mark.usefixtures("everything_is_installed")
@pytest.mark.parametrize(("content", "framework"), FILES)
def test_an_architecture_is_for_weights(gateway: Gateway, content: bytes, framework: str) -> None:
    answer = gateway.post("/models", **form(GOOD | {"architecture": "resnet18"}, content))
    if framework == "pytorch":
        assert answer.json()["architecture"] == "resnet18"
        assert (answer.json()["trainable"], answer.json()["why_not"]) == (False, "It is being converted.")
    else:
        assert fields_of(answer) == {"architecture"}
        nothing_is_left(gateway)


@pytest.mark.parametrize(
    ("content", "said"), [(ARCHIVE + b"a/data.pkl", "setup-train"), (kinds.HDF5 + bytes(300), "setup-tensorflow")]
)
def test_what_is_not_installed_is_said_at_once(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, content: bytes, said: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(config, "TENSORFLOW", Path("/nowhere"))
    problem_ = problem(gateway.post("/models", **form(GOOD, content)), 415, "unsupported_media")
    assert said in problem_["detail"]
    nothing_is_left(gateway)


def multipart(*parts: tuple[str, str | None, bytes]) -> dict[str, Any]:
    body = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
        % (name.encode(), f'; filename="{filename}"'.encode() if filename else b"", content)
        for name, filename, content in parts
    )
    return {"content": body + b"--x--\r\n", "headers": {"content-type": "multipart/form-data; boundary=x"}}


FIELDS: list[tuple[str, str | None, bytes]] = [("name", None, b"a"), ("task_type", None, b"detection")]
FILE: tuple[str, str | None, bytes] = ("file", "a.onnx", ONNX)


@pytest.mark.parametrize(
    ("parts", "wrong"),
    [
        ([*FIELDS, FILE, ("description", None, b"late")], "description"),
        ([FIELDS[0], FILE, FIELDS[1]], "task_type"),
        ([*FIELDS, FIELDS[0], FILE], "name"),
        (FIELDS, "file"),
        ([*FIELDS, ("file", None, b"no file name")], "file"),
        ([*FIELDS, ("model", "a.onnx", ONNX)], "model"),
        ([*FIELDS, FILE, FILE], "file"),
        ([*FIELDS, ("description", None, b"\xff"), FILE], "description"),
    ],
)
def test_wrong_order_and_wrong_parts(gateway: Gateway, parts: list[tuple[str, str | None, bytes]], wrong: str) -> None:
    assert fields_of(gateway.post("/models", **multipart(*parts))) == {wrong}
    nothing_is_left(gateway)


def test_what_comes_after_the_file_is_told_apart_from_what_never_came(gateway: Gateway) -> None:
    late = gateway.post("/models", **multipart(FIELDS[0], FILE, FIELDS[1]))
    [error] = problem(late, 422, "invalid")["errors"]
    assert error["field"] == "task_type" and "before the file" in error["message"]
    never = gateway.post("/models", **multipart(FIELDS[0]))
    assert problem(never, 422, "invalid")["errors"] == [{"field": "task_type", "message": "required"}]


def test_a_field_sent_as_a_file_is_told_how_to_send_it(gateway: Gateway) -> None:
    refused = gateway.post("/models", **multipart(*FIELDS, ("labels", "labels.json", b'["a"]'), FILE))
    [error] = problem(refused, 422, "invalid")["errors"]
    assert (error["field"], error["message"]) == (
        "labels",
        "send labels as a field: curl -F 'labels=<FILE' (with <, not @)",
    )


def test_parts_have_limits(gateway: Gateway) -> None:
    many = [("name", None, b"a")] + [(f"field{number}", None, b"") for number in range(20)]
    problem(gateway.post("/models", **multipart(*many)), 413, "too_large")
    long = ("description", None, b"a" * (2**20 + 1))
    problem(gateway.post("/models", **multipart(*FIELDS, long, FILE)), 413, "too_large")
    nothing_is_left(gateway)


@pytest.mark.parametrize(
    ("content_type", "content", "status"),
    [
        ("application/json", b"{}", 415),
        ("", b"abc", 415),
        ("multipart/form-data", b"abc", 415),
        ("multipart/form-data; boundary=x", b"abc", 422),
        ("multipart/form-data; boundary=x", b"", 422),
        ("multipart/form-data; boundary=x", multipart(*FIELDS, FILE)["content"][:-8], 422),
    ],
)
def test_bodies_that_are_no_form(gateway: Gateway, content_type: str, content: bytes, status: int) -> None:
    response = gateway.post("/models", content=content, headers={"content-type": content_type})
    problem(response, status, "unsupported_media" if status == 415 else "invalid")
    nothing_is_left(gateway)


def test_a_file_over_the_limit(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_kinds.MODEL, "file_bytes", 2**20)
    assert gateway.post("/models", **form(GOOD, b"\x08" * 2**20)).status_code == 202
    problem(gateway.post("/models", **form(GOOD, b"\x08" * (2**20 + 1))), 413, "too_large")
    assert gateway.staged() == [] and len(gateway.files()) == 1


def test_a_body_that_announces_too_much_is_refused_unread(gateway: Gateway) -> None:
    context, key = context_at(gateway.folder), gateway.keys["engineer"]
    talk = Conversation("POST", "/api/v1/models", key, {"content-length": str(2**40)})
    for _ in range(3):
        talk.say(b"more", more=True)
    talk.leave()
    converse(context, talk)
    assert talk.status == 413
    assert talk.headers["connection"] == "close"
    assert json.loads(talk.body)["code"] == "too_large"


def upload_until(talk: Conversation, written: int) -> bytes:
    """Say the beginning of an upload; returns the rest."""
    body = multipart(*FIELDS, ("file", "a.onnx", b"\x08" * 100_000))["content"]
    talk.say(body[:written], more=True)
    return body[written:]


def test_an_interrupted_upload_leaves_nothing(gateway: Gateway) -> None:
    context, key = context_at(gateway.folder), gateway.keys["engineer"]
    talk = Conversation(
        "POST",
        "/api/v1/models",
        key,
        {"content-type": "multipart/form-data; boundary=x", "content-length": "100500", "idempotency-key": "k"},
    )
    upload_until(talk, 50_000)
    talk.leave()
    converse(context, talk)
    nothing_is_left(gateway)
    assert Idempotency.select().count() == 0, "the key may be used for another try"


def test_an_upload_that_falls_silent_is_ended(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "BODY_PATIENCE_S", 0.05)
    monkeypatch.setattr(exchange, "LINGER_S", 0.05)
    context, key = context_at(gateway.folder), gateway.keys["engineer"]
    headers = {"content-type": "multipart/form-data; boundary=x", "content-length": "100500"}
    talk = Conversation("POST", "/api/v1/models", key, headers)
    upload_until(talk, 50_000)
    converse(context, talk)
    assert talk.status == 408
    assert json.loads(talk.body)["code"] == "body_too_slow"
    assert talk.headers["connection"] == "close"
    assert list(context.models.root.glob("staging/*")) == []


def test_what_a_dead_predecessor_left_is_swept(gateway: Gateway) -> None:
    (gateway.context.models.root / "staging").mkdir(exist_ok=True)
    (gateway.context.models.root / "staging" / "up_1").write_bytes(b"half")
    talk = Conversation("GET", "/api/v1/health/live", "")
    talk.say(b"", more=False)
    converse(context_at(gateway.folder), talk)
    assert gateway.staged() == []


def test_a_full_disk_is_said(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise errors.Unavailable("The upload cannot be stored (No space left on device).", retry_after_s=60)

    monkeypatch.setattr(Staging, "write", full)
    response = gateway.post("/models", **form(GOOD))
    problem(response, 503, "unavailable")
    assert response.headers["retry-after"] == "60"
    nothing_is_left(gateway)


def test_a_full_job_queue_takes_nothing(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    insert = jobs.insert
    monkeypatch.setattr(jobs, "insert", lambda *args, **options: insert(*args, **options | {"limit": 0}))
    problem(gateway.post("/models", **form(GOOD)), 429, "queue_full")
    nothing_is_left(gateway)


def test_idempotency(gateway: Gateway) -> None:
    key = {"Idempotency-Key": "first"}
    first = gateway.post("/models", headers=key, **form(GOOD))
    again = gateway.post("/models", headers=key, **form(GOOD))
    assert (again.status_code, again.json(), again.headers["location"]) == (
        202,
        first.json(),
        first.headers["location"],
    )
    assert Model.select().count() == 1
    problem(gateway.post("/models", headers=key, **form(GOOD | {"name": "other"})), 409, "conflict")
    problem(gateway.post("/models", headers=key, **form(GOOD, ONNX + b"x")), 409, "conflict")
    assert gateway.post("/models", "admin", headers=key, **form(GOOD)).json()["id"] != first.json()["id"]
    assert gateway.staged() == []


def test_a_refused_upload_frees_its_key(gateway: Gateway) -> None:
    key = {"Idempotency-Key": "first"}
    assert gateway.post("/models", headers=key, **form(GOOD, b"")).status_code == 422
    assert gateway.post("/models", headers=key, **form(GOOD)).status_code == 202


def test_a_key_in_work_is_refused(gateway: Gateway) -> None:
    Idempotency.insert(
        user_id=gateway.get("/auth/verify").json()["user"]["id"],
        route="POST /api/v1/models",
        key="busy",
        body_sha256="",
        created_at_ms=2**50,
    ).execute()
    problem(gateway.post("/models", headers={"Idempotency-Key": "busy"}, **form(GOOD)), 409, "conflict")
    assert Idempotency.select().count() == 1


def test_lists_in_pages(gateway: Gateway) -> None:
    ids = [gateway.post("/models", **form(GOOD | {"name": f"m{number}"})).json()["id"] for number in range(5)]
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = gateway.get("/models", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert seen == sorted(ids, reverse=True)
    assert [item["name"] for item in gateway.get("/models?name=m3").json()["items"]] == ["m3"]
    assert gateway.get("/models?status=ready").json() == {"items": [], "next_cursor": None}
    assert gateway.get("/models?task_type=detection").json()["items"] == []


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=201",
        "limit=x",
        "status=good",
        "task_type=x",
        "cursor=%27--",
        "cursor=zzz",
        f"cursor={ids.new_id('job')}",
        "cursor=",
    ],
)
def test_bad_queries(gateway: Gateway, query: str) -> None:
    assert fields_of(gateway.get(f"/models?{query}")) == {query.partition("=")[0]}


def test_a_ready_model(gateway: Gateway) -> None:
    model_id = ready_model(gateway, name='we"ird/../näme\r\n')
    model = gateway.get(f"/models/{model_id}").json()
    assert (model["status"], model["input_shape"], model["output_shape"]) == (
        "ready",
        ["batch", 1, 8, 8],
        ["batch", 10],
    )
    assert model["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 1, 8, 8]}]
    assert model["trainable"] is False and model["why_not"]
    file = gateway.get(f"/models/{model_id}/onnx")
    assert file.content == ONNX
    assert file.headers["content-disposition"] == 'attachment; filename="we_ird_.._n_me.onnx"'
    deployment = gateway.get(f"/models/{model_id}/deployment").json()
    default = {"engine": "onnxruntime", "precision": "fp32", "batch_size": registry.DEFAULT_BATCH, "threads": 1}
    assert default.items() <= deployment.items()
    assert (deployment["source"], deployment["status"], deployment["job_id"]) == ("default", "active", None)
    assert default.items() <= deployment["serves"].items()
    assert deployment["processes"] == []
    assert gateway.get("/models").json()["items"] == [model]


def test_a_model_that_is_not_ready(gateway: Gateway) -> None:
    model_id = gateway.post("/models", **form(GOOD)).json()["id"]
    for call in ("onnx", "deployment"):
        problem(gateway.get(f"/models/{model_id}/{call}"), 409, "conflict")
    Model.update(status="failed", error="No graph.").where(Model.id == model_id).execute()
    assert gateway.get(f"/models/{model_id}").json()["error"] == "No graph."
    detail = problem(gateway.get(f"/models/{model_id}/onnx"), 409, "conflict")["detail"]
    assert detail == f"Model {model_id} cannot be used: its check failed. No graph."


def test_deleting(gateway: Gateway) -> None:
    model_id = ready_model(gateway)
    assert gateway.delete(f"/models/{model_id}").status_code == 204
    assert gateway.files() == []
    assert gateway.broker.published == [("models", {"id": model_id, "status": "deleted"})]
    calls: list[Callable[[], Any]] = [
        lambda: gateway.get(f"/models/{model_id}"),
        lambda: gateway.get(f"/models/{model_id}/onnx"),
        lambda: gateway.delete(f"/models/{model_id}"),
        lambda: gateway.post(f"/inference/predict?model_id={model_id}"),
    ]
    for call in calls:
        problem(call(), 404, "not_found")


def test_a_full_queue_refuses_before_the_file_travels(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    context, key = context_at(gateway.folder), gateway.keys["engineer"]
    monkeypatch.setattr(context, "settings", msgspec.structs.replace(context.settings, max_queued_jobs=0))
    headers = {"content-type": "multipart/form-data; boundary=x", "content-length": "100500"}
    talk = Conversation("POST", "/api/v1/models", key, headers)
    upload_until(talk, 10)
    talk.leave()
    converse(context, talk)
    assert (talk.status, json.loads(talk.body)["code"]) == (429, "queue_full")
