"""The OpenAPI description: what Litestar cannot know by itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, YamlRenderPlugin
from litestar.openapi.spec import (
    Components,
    Example,
    OpenAPI,
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    Parameter,
    PathItem,
    RequestBody,
    Schema,
    SecurityScheme,
)
from litestar.openapi.spec.enums import OpenAPIFormat, OpenAPIType
from litestar.types.internal_types import PathParameterDefinition

from gateway import docs_examples, docs_shapes, docs_words
from gateway.access import IN_WORDS, TABLE, Minimum
from gateway.browsers import CHANGES_NOTHING, CSRF_HEADER, cookie_name
from gateway.docs_page import Page
from gateway.errors import PROBLEM_JSON
from gateway.upload_kinds import DATASET, MODEL
from gateway.uploads import Kind

PREDICT = "/api/v1/inference/predict"
SOCKET = "/api/v1/events/ws"
SIGNED_IN: list[dict[str, list[str]]] = [{"bearer": []}, {"apiKey": []}, {"cookie": []}]

DESCRIPTION = (
    "Upload a model, benchmark it on the engines of this machine, read the decision, and predict. "
    "Sign in with `POST /api/v1/auth/login`, or send an API key. Every failure is `application/problem+json`; below "
    '`/v2`, which is the Open Inference Protocol, it is `{"error": ...}`.'
)
TENSORS = {"model_id": docs_examples.MODEL, "inputs": [[0.25, 0.5, 0.75]], "top_k": 1}
UPLOAD = {
    "name": "cats and dogs",
    "task_type": "classification",
    "labels": '["cat", "dog"]',
    "preprocessing": msgspec.json.encode(docs_examples.CONTRACT).decode(),
    "file": "@resnet18.onnx",
}
DATASET_UPLOAD = {"name": "cats and dogs", "task_type": "classification", "split": "80/10/10", "file": "@pets.zip"}
PREDICTION = {
    "request_id": "req_0193a5b2c7e04f1c9a2b7d",
    "model_id": docs_examples.MODEL,
    "engine": "onnxruntime",
    "precision": "fp32",
    "batch_size": 1,
    "predictions": [[{"class_id": 6, "label": "6", "confidence": 0.998}]],
    "latency_ms": {"queue": 0.2, "decode": 0.3, "inference": 0.4, "total": 1.6},
}


MODEL_FILE = (
    "One file of ONNX (.onnx), PyTorch (.pt, .pth, .pt2, .safetensors) or TensorFlow (.keras, .h5, frozen .pb), at "
    "most 1 GiB; comes last."
)


@dataclass
class ModelUploadOperation(Operation):
    """The model upload: a multipart body that the handler reads itself."""

    def __post_init__(self) -> None:
        """Describe the form."""
        self.request_body = _upload(MODEL, MODEL_FILE, UPLOAD)


@dataclass
class DatasetUploadOperation(Operation):
    """The dataset upload, likewise."""

    def __post_init__(self) -> None:
        """Describe the form."""
        about = "One .zip of images or videos, at most 10 GiB, or one .csv of labels with `archive_id`; comes last."
        self.request_body = _upload(DATASET, about, DATASET_UPLOAD)


@dataclass
class InferOperation(Operation):
    """Inference by the Open Inference Protocol: JSON, or JSON with binary data behind it."""

    def __post_init__(self) -> None:
        """Describe what the handler reads itself."""
        length = Parameter(
            name="Inference-Header-Content-Length",
            param_in="header",
            schema=Schema(type=OpenAPIType.INTEGER, minimum=0),
            description="Bytes of the JSON at the start of the body, where binary data follow it.",
        )
        self.parameters = [*(self.parameters or []), length]
        head = OpenAPIMediaType(schema=docs_shapes.reference("InferRequest"))
        binary = OpenAPIMediaType(schema=docs_shapes.BYTES)
        self.request_body = RequestBody(
            required=True, content={"application/json": head, "application/octet-stream": binary}
        )


def _upload(kind: Kind[Any], about: str, example: dict[str, Any]) -> RequestBody:
    """A form: the fields of its struct, some of them as JSON text, and the file."""
    name = kind.form.__name__
    form: dict[str, Any] = msgspec.json.schema_components([kind.form], ref_template=docs_shapes.REF)[1][name]
    fields = {field: _in_form(kind, field, shape) for field, shape in form["properties"].items()}
    fields["file"] = {"type": "string", "format": "binary", "description": about}
    described = form | {"properties": fields, "required": [*form["required"], "file"]}
    schema = docs_shapes.StructSchema(described=described)
    media = OpenAPIMediaType(schema=schema, examples={"upload": Example(value=example)})
    return RequestBody(required=True, content={"multipart/form-data": media})


def _in_form(kind: Kind[Any], name: str, shape: dict[str, Any]) -> dict[str, Any]:
    if name not in kind.json_fields:
        return shape
    told = {"description": shape.get("description", "")}
    return {"type": "string", "contentMediaType": "application/json", "contentSchema": shape, **told}


def config(version: str) -> OpenAPIConfig:
    """Where the description is served: a page at /schema, and openapi.json and openapi.yaml below it."""
    schemes = {
        "bearer": SecurityScheme(type="http", scheme="bearer", description="A sign-in token or an API key."),
        "apiKey": SecurityScheme(type="apiKey", name="X-API-Key", security_scheme_in="header"),
        "cookie": SecurityScheme(
            type="apiKey",
            name=cookie_name("http"),
            security_scheme_in="cookie",
            description=f"Of `POST /api/v1/auth/session`; over HTTPS its name is `{cookie_name('https')}`.",
        ),
        "csrf": SecurityScheme(type="apiKey", name=CSRF_HEADER, security_scheme_in="header"),
    }
    return OpenAPIConfig(
        title="cv-platform",
        version=version,
        description=DESCRIPTION,
        path="/schema",
        use_handler_docstrings=True,
        operation_id_creator=_operation_id,
        components=Components(security_schemes=schemes),  # type: ignore[arg-type]  # schemes or references
        render_plugins=[Page(path="/"), JsonRenderPlugin(path="/openapi.json"), YamlRenderPlugin(path="/openapi.yaml")],
    )


def _operation_id(handler: HTTPRouteHandler, _method: Any, path: list[str | PathParameterDefinition]) -> str:
    """By tag and function; a call that also takes the version in its path is two."""
    versioned = any(not isinstance(part, str) and part.name == "version" for part in path)
    return f"{sorted(handler.resolve_tags())[0]}_{handler.handler_name}{'_of_version' if versioned else ''}"


def complete(openapi: OpenAPI) -> None:
    """Add the predict call and who may call what; drop the 400s, which we answer as 422, and what 204 would carry."""
    paths = openapi.paths or {}
    paths[PREDICT] = PathItem(post=_predict())
    paths[SOCKET] = PathItem(get=_socket())
    for (method, path), role in TABLE.items():
        operation: Operation | None = getattr(paths.get(path), method.lower(), None)
        if operation is None:
            continue
        operation.security = [] if role == "nobody" else SIGNED_IN
        if operation.security and method not in CHANGES_NOTHING:
            operation.security = [*SIGNED_IN[:-1], SIGNED_IN[-1] | {"csrf": []}]
        told = operation.description or ""
        operation.summary = re.split(r"[.:;](?:\s|$)", told, maxsplit=1)[0]
        operation.description = f"{told}\n{_who(role)}"
        if not isinstance(operation, InferOperation):
            (operation.responses or {}).pop("400", None)
        if isinstance(empty := (operation.responses or {}).get("204"), OpenAPIResponse):
            empty.content = None
    docs_shapes.complete(openapi)
    docs_examples.complete(openapi)
    docs_words.complete(openapi)


def _who(role: Minimum) -> str:
    return f"Who may: {IN_WORDS[role]}."


def _predict() -> Operation:
    return Operation(
        operation_id="inference_predict",
        tags=["inference"],
        description="Predict from an image or a video as the body, several images in a form, or tensors as JSON.",
        parameters=[
            Parameter(name=name, param_in="query", schema=schema, description=schema.description)
            for name, schema in _PREDICT_OPTIONS.items()
        ],
        request_body=_predict_body(),
        responses={"200": _predict_answer(), **_refusals(_PREDICT_REFUSALS)},
    )


def _socket() -> Operation:
    """The handshake; what follows it is beyond OpenAPI, so the text says it."""
    ticket = Schema(type=OpenAPIType.STRING)
    return Operation(
        operation_id="system_events_socket",
        tags=["system"],
        description=(
            "The same events over a WebSocket: messages `{seq, topic, time, body}`, and `resync` after which to read "
            "the lists again.\nA browser signs in with its session cookie, or from another origin (one that "
            "`CORS_ORIGINS` lists) with a ticket; other clients may send the usual headers. What a client says is "
            "dropped, and has at most 4 KiB; pings want an answer. Closed with 4401 when the credential ends, 4403 "
            "when the role does not do any more, 4408 when nothing is read for 10 s, 1001 when the gateway stops."
        ),
        parameters=[
            Parameter(name="ticket", param_in="query", schema=ticket, description="Of `POST /api/v1/auth/ticket`.")
        ],
        responses={
            "101": OpenAPIResponse(description="A WebSocket from here on."),
            **_refusals({401: "No credential, or a bad one.", 403: "The role or the origin may not do this."}),
            **_refusals({426: "No handshake of RFC 6455.", 503: "Too many listen already; see Retry-After."}),
        },
    )


IMAGES = ("image/jpeg", "image/png", "image/webp")
VIDEOS = ("video/mp4", "video/webm", "video/quicktime", "video/x-matroska", "video/x-msvideo")

_PREDICT_OPTIONS = {
    "model_id": Schema(type=OpenAPIType.STRING, description="In the query or in the body."),
    "top_k": Schema(type=OpenAPIType.INTEGER, minimum=1, maximum=1000, default=5, description="Of classes."),
    "outputs": Schema(type=OpenAPIType.BOOLEAN, default=False, description="Add the raw outputs."),
    "frames_per_second": Schema(
        type=OpenAPIType.NUMBER, minimum=0.1, maximum=60, default=1, description="Of a video; 64 frames at most."
    ),
}

_PREDICT_ANSWER = Schema(
    type=OpenAPIType.OBJECT,
    properties={
        **{name: Schema(type=OpenAPIType.STRING) for name in ("request_id", "model_id", "engine", "precision")},
        "batch_size": Schema(type=OpenAPIType.INTEGER, minimum=1, description="The batch it was computed in."),
        "predictions": Schema(
            type=OpenAPIType.ARRAY,
            items=Schema(type=OpenAPIType.ARRAY, items=Schema(type=OpenAPIType.OBJECT)),
            description=(
                "A list an image or frame: classes {class_id, label, confidence}, or objects with their box "
                "[x1, y1, x2, y2] in pixels of the original; the likeliest first. Absent where the outputs have no "
                "decoder."
            ),
        ),
        "times_s": Schema(
            type=OpenAPIType.ARRAY,
            items=Schema(type=OpenAPIType.NUMBER, minimum=0),
            description="Of the frames of a video, from its start.",
        ),
        "outputs": Schema(type=OpenAPIType.OBJECT, description="The raw outputs by name, on demand."),
        "latency_ms": Schema(
            type=OpenAPIType.OBJECT,
            properties={
                name: Schema(type=OpenAPIType.NUMBER, minimum=0) for name in ("queue", "decode", "inference", "total")
            },
            required=["queue", "decode", "inference", "total"],
        ),
    },
    required=["request_id", "model_id", "engine", "precision", "batch_size", "latency_ms"],
)

_PREDICT_REFUSALS = {
    401: "No credential, or a bad one.",
    404: "There is no such model.",
    408: "The body arrives too slowly.",
    409: "The model is not ready.",
    413: "The body is over 64 MiB, or there are over 64 images.",
    415: "No image, video, form or JSON.",
    422: "A broken image, or a tensor that does not fit.",
    429: "Too much waits; see Retry-After.",
    503: "No broker or no inference process; see Retry-After.",
    504: "It took too long.",
}


def _predict_body() -> RequestBody:
    image = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)
    inputs = Schema(description="Nested list, or {input name: nested list}; the leading axis is the batch.")
    images = Schema(type=OpenAPIType.ARRAY, items=image, description="One to 64 files.")
    options = {name: schema for name, schema in _PREDICT_OPTIONS.items() if name != "frames_per_second"}
    tensors = Schema(type=OpenAPIType.OBJECT, properties={**options, "inputs": inputs}, required=["inputs"])
    form = Schema(type=OpenAPIType.OBJECT, properties={**options, "image": images}, required=["image"])
    content = dict.fromkeys((*IMAGES, *VIDEOS), OpenAPIMediaType(schema=image))
    content["multipart/form-data"] = OpenAPIMediaType(schema=form)
    content["application/json"] = OpenAPIMediaType(schema=tensors, examples={"rows": Example(value=TENSORS)})
    return RequestBody(required=True, content=content)


def _predict_answer() -> OpenAPIResponse:
    answer = OpenAPIMediaType(schema=_PREDICT_ANSWER, examples={"digit": Example(value=PREDICTION)})
    return OpenAPIResponse(description="One list of predictions an image.", content={"application/json": answer})


def _refusals(meanings: dict[int, str]) -> dict[str, OpenAPIResponse]:
    problem = {PROBLEM_JSON: OpenAPIMediaType(schema=docs_shapes.reference("Problem"))}
    return {
        str(status): OpenAPIResponse(description=description, content=dict(problem))
        for status, description in meanings.items()
    }
