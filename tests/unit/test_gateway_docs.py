"""The description is enough to build a request from: every parameter, field and answer is told, on one page."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.access import IN_WORDS, TABLE
from tests.unit.gateway_kit import Gateway, fresh_gateway_at

Document = dict[str, Any]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with fresh_gateway_at(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture(scope="module")
def document(gateway: Gateway) -> Document:
    described: Document = gateway.get("/schema/openapi.json", role=None).json()
    return described


@pytest.fixture(scope="module")
def page(gateway: Gateway) -> str:
    return gateway.get("/schema", role=None).text


def operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def plain(part: str) -> str:
    """HTML as a reader sees it, on one line."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", part)))


def told(page: str, method: str, path: str) -> str:
    """What the page says about a call."""
    [part] = re.findall(
        rf"<b class={method.lower()}>{method}</b> <code>{re.escape(path)}</code>.*?(?=<b class=|$)", page, re.S
    )
    return plain(part)


def test_every_parameter_has_a_meaning(document: Document) -> None:
    for method, path, operation in operations(document):
        for parameter in operation.get("parameters", []):
            assert parameter.get("description"), (method, path, parameter["name"])


def test_every_field_of_a_body_has_a_meaning_or_says_itself(document: Document) -> None:
    for name in ("BenchmarkSpec", "Constraint", "Preprocessing", "Resize"):
        for field, schema in document["components"]["schemas"][name]["properties"].items():
            assert schema.get("description"), (name, field)
    form = document["paths"]["/api/v1/models"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert all(field["description"] for field in form["properties"].values())


def test_answers_say_what_they_are(document: Document) -> None:
    boilerplate = ("Request fulfilled", "Document created", "Request accepted", "File Download", "Stream Response")
    for method, path, operation in operations(document):
        for status, answer in operation["responses"].items():
            assert len(answer["description"]) > 3, (method, path, status)
            assert not answer["description"].startswith(boilerplate), (method, path, status)


def test_the_page_says_who_may_call_what(page: str, document: Document) -> None:
    for method, path, operation in operations(document):
        assert f"{operation['summary']} {IN_WORDS[TABLE[method, path]]}".replace("`", "") in told(page, method, path)


def test_a_benchmark_can_be_ordered_from_the_page(page: str) -> None:
    said = told(page, "POST", "/api/v1/benchmark")
    assert "engineer and up" in said
    for wanted in (
        "model_id text, required The model to measure",
        "engines list (1 to 8 values) of onnxruntime | openvino | pytorch | tensorrt Engines to measure; default: all",
        "num_iterations whole number (5 to 1000000), default 700",
        "max_seconds number (above 0, at most 3600), default 60.0",
        'objective latency | throughput , default "latency"',
        "op < | <= | > | >= , required How it compares",
        "Idempotency-Key header, text",
        "202 Accepted",
        '"batch_sizes": [ 1, 8 ]',
    ):
        assert wanted in said, wanted


def test_a_model_can_be_uploaded_from_the_page(page: str) -> None:
    said = told(page, "POST", "/api/v1/models")
    for wanted in (
        "task_type classification | detection , required",
        "labels JSON: list (1 to 100000 values) of text (at most 200 characters)",
        "height whole number (1 to 8192), required Pixels.",
        'mode letterbox | shorter_side | stretch , default "stretch"',
        "file file, required",
        "-F 'file=@resnet18.onnx'",
    ):
        assert wanted in said, wanted


def test_parameters_are_told_with_place_default_and_meaning(page: str) -> None:
    said = told(page, "GET", "/api/v1/models")
    assert "limit in the query, whole number (1 to 200), default 50 Items in the page." in said
    assert "status in the query, converting | ready | failed Only those" in said
    assert "model_id in the path, text, required The id of a model." in told(page, "GET", "/api/v1/models/{model_id}")


def test_the_page_is_written_for_people(page: str) -> None:
    assert "`" not in page and "Request fulfilled" not in page
    assert "<script" not in page and "://" not in page
