"""What is wrong with a request, in words: what would have been right, not the library's own message."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

import msgspec
import pytest
from msgspec import Meta, inspect

from gateway import bodies, schemas
from shared import errors, specs, wording
from tests.unit.gateway_kit import Gateway, form, fresh_gateway_at, problem

RESIZE = {"height": 8, "width": 8}
ENGINES = "must be one of onnxruntime, openvino, pytorch or tensorrt"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with fresh_gateway_at(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.mark.parametrize(
    ("type_", "words"),
    [
        (Literal["a"], "a"),
        (Literal["a", "b"], "a or b"),
        (Literal["a", "b", "c"] | None, "one of a, b or c, or null"),
        (Annotated[int, Meta(ge=1, le=256)], "a whole number from 1 to 256"),
        (Annotated[float, Meta(gt=0, le=3600)], "a number, above 0 and at most 3600"),
        (Annotated[int, Meta(ge=0)], "a whole number, at least 0"),
        (Annotated[str, Meta(min_length=1, max_length=200)], "text of 1 to 200 characters"),
        (Annotated[str, Meta(max_length=64)], "text of at most 64 characters"),
        (schemas.Username, "1 to 64 letters, digits or ._@-, the first a letter or digit"),
        (Annotated[tuple[specs.Side, ...], Meta(min_length=1)], "a list of at least 1 values, each a whole number "
         "from 1 to 8192"),
        (list[specs.Constraint], "a list"),
        (specs.Resize, "an object"),
        (bool, "true or false"),
    ],
)  # fmt: skip
def test_types_in_words(type_: Any, words: str) -> None:
    assert wording.described(inspect.type_info(type_)) == words


@pytest.mark.parametrize(
    ("body", "type_", "expected"),
    [
        ({"engines": ["triton"]}, specs.BenchmarkSpec, {"engines[0]": ENGINES, "model_id": "required"}),
        ({"model_id": "m", "batch_sizes": [0]}, specs.BenchmarkSpec,
         {"batch_sizes[0]": "must be a whole number from 1 to 256"}),
        ({"model_id": "m", "batch_sizes": ["8"]}, specs.BenchmarkSpec,
         {"batch_sizes[0]": "must be a whole number from 1 to 256, not text"}),
        ({"model_id": "m", "constraints": [{"op": "=", "metric": "latency_p95_ms", "value": 1}]}, specs.BenchmarkSpec,
         {"constraints[0].op": "must be one of <, <=, > or >="}),
        ({"model_id": "m", "constraints": [{"op": "<", "metric": "latency_p95_ms"}]}, specs.BenchmarkSpec,
         {"constraints[0].value": "required"}),
        ({"model_id": None}, specs.BenchmarkSpec, {"model_id": "must be text, not null"}),
        ({"resize": RESIZE | {"depth": 3}}, specs.Preprocessing,
         {"resize.depth": "unknown field; known are height, width, mode, interpolation, scale_to, pad"}),
        ({"username": "-a", "password": "short", "role": "boss"}, schemas.NewUser,
         {"username": "must be 1 to 64 letters, digits or ._@-, the first a letter or digit",
          "password": "must be text of 8 to 256 characters",
          "role": "must be one of admin, engineer or viewer"}),
    ],
)  # fmt: skip
def test_each_wrong_field_is_told_what_it_takes(
    body: dict[str, Any], type_: type[Any], expected: dict[str, str]
) -> None:
    with pytest.raises(errors.InvalidInput) as refused:
        bodies.decode(msgspec.json.encode(body), type_)
    assert {item["field"]: item["message"] for item in refused.value.errors or []} == expected


def literals(type_: type[msgspec.Struct]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for field in msgspec.structs.fields(type_):
        found: list[Any] = [field.type]
        while found:
            inner = found.pop()
            if all(isinstance(value, str) for value in get_args(inner)) and get_args(inner):
                yield field.name, get_args(inner)
            found += [part for part in get_args(inner) if not isinstance(part, str | Meta)]


@pytest.mark.parametrize("type_", [specs.BenchmarkSpec, specs.Preprocessing, specs.Resize, schemas.ModelForm,
                                   specs.Constraint, schemas.NewUser])  # fmt: skip
def test_no_choice_is_refused_without_naming_every_alternative(type_: type[msgspec.Struct]) -> None:
    wanted = dict(literals(type_))
    assert wanted
    for name, values in wanted.items():
        for wrong in ("'x'", ["'x'"]):
            with pytest.raises(errors.InvalidInput) as refused:
                bodies.decode(msgspec.json.encode({name: wrong}), type_)
            [message] = [item["message"] for item in refused.value.errors or [] if item["field"].startswith(name)]
            assert all(value in message for value in values), message


def messages(response: Any) -> dict[str, str]:
    return {item["field"]: item["message"] for item in problem(response, 422, "invalid")["errors"]}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/models?status=good", {"status": "must be one of converting, failed or ready"}),
        ("/models?task_type=x", {"task_type": "must be classification or detection"}),
        ("/jobs?limit=0", {"limit": "must be a whole number from 1 to 200"}),
        ("/jobs?limit=x", {"limit": "must be a whole number from 1 to 200, not text"}),
        ("/benchmark?format=xml&limit=999",
         {"format": "must be csv or json", "limit": "must be a whole number from 1 to 200"}),
        ("/jobs?kind=x",
         {"kind": "must be one of activate, benchmark, convert, dataset, measure, report, search, train or trial"}),
    ],
)  # fmt: skip
def test_parameters(gateway: Gateway, path: str, expected: dict[str, str]) -> None:
    assert messages(gateway.get(path)) == expected


def test_parameters_nobody_knows_are_refused(gateway: Gateway) -> None:
    refused = gateway.get("/models?staus=ready&limit=2&page=3")
    known = "unknown parameter; known are limit, cursor, name, model_type, task_type, status"
    assert messages(refused) == {"staus": known, "page": known}
    for path, role in (("/health", None), ("/config", "engineer"), ("/models/mdl_1", "engineer")):
        assert messages(gateway.get(f"{path}?x=", role)) == {"x": "unknown parameter; this call takes none"}
    assert gateway.post("/auth/login?x=1", None, json={}).status_code == 422
    assert gateway.get("/health?", None).status_code == 200


def test_a_parameter_given_twice_is_refused_instead_of_one_of_them_winning(gateway: Gateway) -> None:
    refused = gateway.get("/models?name=a&limit=2&name=b&name=a")
    assert messages(refused) == {"name": "given 3 times; give it once"}
    assert messages(gateway.get("/audit?user=a&user=", "admin")) == {"user": "given 2 times; give it once"}


@pytest.mark.parametrize("path", ["/benchmark", "/auth/login", "/auth/api-keys"])
def test_a_call_without_its_body_says_so(gateway: Gateway, path: str) -> None:
    refused = gateway.post(path, "engineer").json()
    assert (refused["status"], refused["detail"]) == (
        422,
        "The body is empty; it must be a JSON object. /schema shows one.",
    )
    assert "errors" not in refused


def test_headers_forms_and_options_say_the_same(gateway: Gateway) -> None:
    long_key = gateway.post("/benchmark", headers={"Idempotency-Key": "a" * 201}, json={"model_id": "m"})
    assert messages(long_key) == {"Idempotency-Key": "must be text of 1 to 200 characters"}
    upload = gateway.post("/models", **form({"name": "a", "task_type": "poetry"}))
    assert messages(upload) == {"task_type": "must be classification or detection"}
    options = gateway.post("/inference/predict?top_k=0&outputs=maybe&x=1")
    assert messages(options) == {
        "top_k": "must be a whole number from 1 to 1000",
        "outputs": "must be true or false, not text",
        "x": "unknown field; known are model_id, top_k, outputs, frames_per_second",
    }
