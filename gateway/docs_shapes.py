"""What bodies look like in the OpenAPI description: as msgspec, which reads and writes them, describes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import msgspec
from litestar.openapi.spec import Components, OpenAPI, OpenAPIMediaType, OpenAPIResponse, Operation, Reference, Schema
from litestar.openapi.spec.enums import OpenAPIFormat, OpenAPIType

from gateway import errors, schemas
from shared import specs
from shared.wire import open_inference

REF = "#/components/schemas/{name}"
ANY_OBJECT = Schema(type=OpenAPIType.OBJECT)
TEXT = Schema(type=OpenAPIType.STRING)
BYTES = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)

INFERRED: dict[str, Schema | type[msgspec.Struct]] = {
    "application/json": schemas.OpenAnswer,
    "application/octet-stream": BYTES,
}

ANSWERS: dict[tuple[str, str], dict[str, Schema | type[msgspec.Struct]]] = {
    ("POST", "/api/v1/models"): {"application/json": schemas.Model},
    ("GET", "/api/v1/models"): {"application/json": schemas.Listing[schemas.Model]},
    ("GET", "/api/v1/datasets"): {"application/json": schemas.Listing[schemas.Dataset]},
    ("GET", "/api/v1/jobs"): {"application/json": schemas.Listing[schemas.Job]},
    ("GET", "/api/v1/reports"): {"application/json": schemas.Listing[schemas.ReportRef]},
    ("GET", "/api/v1/reports/history"): {"application/json": schemas.Listing[schemas.PastChoice]},
    ("GET", "/api/v1/models/{model_id}/onnx"): {"application/octet-stream": BYTES},
    ("POST", "/api/v1/datasets"): {"application/json": schemas.Dataset},
    ("GET", "/api/v1/datasets/{dataset_id}/contact-sheet"): {"image/jpeg": BYTES},
    ("POST", "/api/v1/models/presets/{preset}"): {"application/json": schemas.Model},
    ("PUT", "/api/v1/models/{model_id}/deployment"): {"application/json": schemas.Deployment},
    ("POST", "/api/v1/training"): {"application/json": schemas.TrainingJob},
    ("GET", "/api/v1/training"): {"application/json": schemas.Listing[schemas.TrainingJob], "text/csv": TEXT},
    ("GET", "/api/v1/models/{model_id}/training"): {"application/json": schemas.Listing[schemas.TrainingJob]},
    ("GET", "/api/v1/training/{training_id}/report"): {"text/html": TEXT, "application/json": ANY_OBJECT},
    ("POST", "/api/v1/benchmark"): {"application/json": schemas.BenchmarkJob},
    ("GET", "/api/v1/benchmark"): {"application/json": schemas.Listing[schemas.BenchmarkJob], "text/csv": TEXT},
    ("GET", "/api/v1/benchmark/{benchmark_id}/report"): {"application/json": ANY_OBJECT},
    ("GET", "/api/v1/reports/{report_id}"): {"application/json": ANY_OBJECT},
    ("GET", "/api/v1/reports/{report_id}/view"): {"application/json": ANY_OBJECT, "text/html": TEXT},
    ("GET", "/api/v1/reports/{report_id}/export"): {
        "application/pdf": BYTES,
        "text/html": TEXT,
        "application/json": ANY_OBJECT,
        "text/csv": TEXT,
    },
    ("POST", "/v2/models/{model}/infer"): INFERRED,
    ("POST", "/v2/models/{model}/versions/{version}/infer"): INFERRED,
}
"""Successful answers of handlers that return ready bytes or files, whose type says nothing about them."""


@dataclass
class StructSchema(Schema):
    """A schema as msgspec gives it: with the bounds of items in a list, which Litestar leaves out."""

    described: dict[str, Any] = field(default_factory=dict)

    def to_schema(self) -> dict[str, Any]:
        """The schema as plain data."""
        return self.described


def reference(name: str) -> Reference:
    """Where a struct is described."""
    return Reference(ref=REF.format(name=name))


def complete(openapi: OpenAPI) -> None:
    """Describe every struct by msgspec, and the answers that Litestar cannot see."""
    components = openapi.components
    assert isinstance(components, Components)
    _describe(components, [struct for name, struct in _structs().items() if name in components.schemas])
    _describe(components, [specs.Preprocessing])  # in the form of an upload, as JSON text
    _describe(components, [open_inference.InferRequest])
    for (method, path), contents in ANSWERS.items():
        operation: Operation | None = getattr((openapi.paths or {}).get(path), method.lower(), None)
        for response in (operation.responses or {}).items() if operation else ():
            _answer(components, *response, contents)


def _answer(
    components: Components,
    status: str,
    response: OpenAPIResponse | Reference,
    contents: dict[str, Schema | type[msgspec.Struct]],
) -> None:
    if status.startswith("2") and isinstance(response, OpenAPIResponse):
        response.content = {
            media_type: OpenAPIMediaType(schema=shape if isinstance(shape, Schema) else _describe(components, [shape]))
            for media_type, shape in contents.items()
        }
        response.headers = None  # of a file, Litestar would describe Last-Modified as what it is not


def _describe(components: Components, structs: list[Any]) -> Reference:
    """Add the structs and all they are made of; returns a reference to the last."""
    references, described = msgspec.json.schema_components(structs, ref_template=REF)
    components.schemas.update({name: StructSchema(described=schema) for name, schema in described.items()})
    return Reference(ref=list(references)[-1]["$ref"])


def _structs() -> dict[str, type[msgspec.Struct]]:
    """The structs of bodies by their name in the description."""
    modules: tuple[ModuleType, ...] = (specs, errors, schemas)
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, msgspec.Struct)
    }
