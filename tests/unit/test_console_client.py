"""The REST client: what goes out, and what becomes of answers that are no success."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from console import client as client_module
from console.client import Client, address
from shared import config, errors
from shared.specs import Preprocessing, Resize

CONTRACT = Preprocessing(resize=Resize(height=8, width=8), color="L")
Handler = Callable[[httpx.Request], httpx.Response]


def client(handler: Handler) -> Client:
    return Client(config.load({}), "cvp_key", transport=httpx.MockTransport(handler))


def problem(status: int, code: str, detail: str, **more: object) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "detail": detail} | more)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "POLL_S", 0.0)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"HOST": "0.0.0.0", "PORT": "9000"}, "http://127.0.0.1:9000"),
        ({"HOST": "::"}, "http://[::1]:8080"),
        ({"HOST": "fe80::1"}, "http://[fe80::1]:8080"),
        ({"HOST": "box.lan"}, "http://box.lan:8080"),
    ],
)
def test_address_is_one_that_this_machine_can_open(environ: dict[str, str], expected: str):
    assert address(config.load(environ)) == expected


def test_a_problem_becomes_the_error_it_was():
    fields = [{"field": "batch_sizes", "message": "at least 1"}]
    answer = problem(422, "invalid", "The body is invalid.", errors=fields)
    with client(lambda _: answer) as c, pytest.raises(errors.InvalidInput) as caught:
        c.health()
    assert caught.value.message == "The body is invalid. batch_sizes: at least 1"


@pytest.mark.parametrize("answer", [httpx.Response(404, text="<html>nginx"), httpx.Response(200, text="<html>hello")])
def test_another_program_on_our_port_is_called_that(answer: httpx.Response):
    with client(lambda _: answer) as c, pytest.raises(errors.AppError, match="another program"):
        c.health()


def test_nothing_there_says_how_to_start_it():
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Connection refused")

    with client(refuse) as c, pytest.raises(errors.Unavailable, match="cvp up"):
        c.health()
        assert "does not answer" in c.not_ready()


def test_not_ready_is_the_platforms_own_reason():
    answer = httpx.Response(503, json={"status": "unavailable", "detail": "no broker"})
    with client(lambda _: answer) as c:
        assert c.not_ready() == "no broker"


def test_signed_in_only_with_a_good_credential():
    def verify(request: httpx.Request) -> httpx.Response:
        good = request.headers["Authorization"] == "Bearer cvp_key"
        return httpx.Response(200, json={}) if good else problem(401, "unauthorized", "Sign in first.")

    with client(verify) as c:
        assert c.signed_in()
    with Client(config.load({}), "old", transport=httpx.MockTransport(verify)) as c:
        assert not c.signed_in()


def test_an_upload_sends_the_fields_before_the_file_and_counts(tmp_path: Path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"ONNX" * 50_000)
    body = b""

    def take(request: httpx.Request) -> httpx.Response:
        nonlocal body
        body = request.read()
        return httpx.Response(202, json={"id": "mdl_1"})

    sent: list[int] = []
    with client(take) as c:
        fields = {"name": "m", "preprocessing": CONTRACT, "labels": ["a", "b"], "architecture": None}
        c.upload("models", path, fields, sent.append)
    assert body.index(b'name="labels"') < body.index(b'name="file"')
    assert b"architecture" not in body
    assert body.count(b"ONNX") == 50_000
    assert sent == sorted(sent)
    assert sent[-1] == 200_000


def test_a_refused_model_raises_its_reason():
    answer = httpx.Response(200, json={"status": "failed", "error": "external data"})
    with client(lambda _: answer) as c, pytest.raises(errors.BadModel, match="external data"):
        c.wait_for_model("mdl_1", 5)


def test_a_wait_survives_a_restart_of_the_gateway():
    answers = iter([problem(503, "unavailable", "Starting."), httpx.Response(200, json={"status": "ready"})])
    with client(lambda _: next(answers)) as c:
        assert c.wait_for_model("mdl_1", 5)["status"] == "ready"


def test_a_wait_does_not_survive_what_will_not_change():
    with client(lambda _: problem(404, "not_found", "Gone.")) as c, pytest.raises(errors.NotFound):
        c.wait_for_model("mdl_1", 5)


def test_every_wait_has_an_end():
    answer = httpx.Response(200, json={"status": "converting"})
    with client(lambda _: answer) as c, pytest.raises(errors.DeadlineExceeded):
        c.wait_for_model("mdl_1", 0.05)


def benchmark(*states: dict[str, object]) -> Handler:
    """Serves the states of a benchmark one after the other, the last one for ever."""
    left = list(states)

    def serve(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=left.pop(0) if len(left) > 1 else left[0])

    return serve


def test_a_benchmark_is_done_when_its_report_is_there():
    states: list[dict[str, object]] = [
        {"status": "queued", "report_id": None},
        {"status": "running", "report_id": None},
        {"status": "completed", "report_id": None},
        {"status": "completed", "report_id": "rep_1"},
    ]
    heard: list[dict[str, object]] = []
    with client(benchmark(*states)) as c:
        assert c.wait_for_benchmark("job_1", 5, heard.append)["report_id"] == "rep_1"
    assert heard == states


def test_a_report_that_failed_says_why():
    failed = {"status": "failed", "error": "disk full"}
    serve = benchmark({"status": "completed", "report_id": None, "report": failed})
    with client(serve) as c, pytest.raises(errors.EngineFailed, match="disk full"):
        c.wait_for_benchmark("job_1", 5, lambda _: None)


def test_a_report_that_never_comes_is_the_reporters_fault(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client_module, "REPORT_BOUND_S", 0.01)
    serve = benchmark({"status": "completed", "report_id": None})
    with client(serve) as c, pytest.raises(errors.DeadlineExceeded, match="cvp logs reporter"):
        c.wait_for_benchmark("job_1", 5, lambda _: None)


def test_a_failed_benchmark_says_why():
    answer = httpx.Response(200, json={"status": "failed", "error": "out of memory"})
    with client(lambda _: answer) as c, pytest.raises(errors.EngineFailed, match="job_1 failed: out of memory"):
        c.wait_for_benchmark("job_1", 5, lambda _: None)


def test_lists_are_read_to_their_end():
    pages = {None: (["a", "b"], "x"), "x": (["c"], None)}

    def serve(request: httpx.Request) -> httpx.Response:
        assert request.url.params["name"] == "m"
        items, after = pages[request.url.params.get("cursor")]
        return httpx.Response(200, json={"items": [{"id": item} for item in items], "next_cursor": after})

    with client(serve) as c:
        assert [model["id"] for model in c.items("models", name="m")] == ["a", "b", "c"]
        assert len(list(itertools.islice(c.items("models", name="m"), 1))) == 1


def test_a_prediction_sends_the_image_as_it_is():
    def predict(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"model": request.url.params["model_id"], "bytes": len(request.read())})

    with client(predict) as c:
        assert c.predict("mdl_1", b"\x89PNG1234") == {"model": "mdl_1", "bytes": 8}


def test_an_export_is_the_bytes_of_the_file():
    def export(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=json.dumps(dict(request.url.params)).encode())

    with client(export) as c:
        assert c.export("rep_1", "pdf") == b'{"format": "pdf"}'
