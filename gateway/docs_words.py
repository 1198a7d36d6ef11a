"""What parameters and answers mean, where neither the handler nor the struct can say it."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus

from litestar.openapi.spec import OpenAPI, OpenAPIMediaType, OpenAPIResponse, Operation, Parameter, Reference

MEANINGS = {
    "key_id": "The id of an API key.",
    "user_id": "The id of a user.",
    "model_id": "The id of a model.",
    "model": "The id of a model, or a name that only it has.",
    "version": "The version of a model: `1`, the only one there is.",
    "model_type": "Only presets, or only what users uploaded.",
    "preset": "The name of a preset: yolov8n, yolov8s, resnet50, efficientnet_b0 or cnn32.",
    "dataset_id": "The id of a dataset.",
    "job_id": "The id of a job.",
    "training_id": "The id of a training.",
    "benchmark_id": "The id of a benchmark.",
    "report_id": "The id of a report.",
    "name": "Only those of exactly this name.",
    "task_type": "Only those of this task.",
    "status": "Only those in this state.",
    "kind": "Only jobs of this kind.",
    "level": "How much of the report; `history` is a page that draws what was chosen over time.",
    "precision": "The number format; a benchmark makes those beside FP32.",
    "active": "Only those that are still so, or only those that are over.",
    "since": "Only from this time on (ISO 8601; UTC where it names no zone).",
    "top_k": "Classes shown for an image, the likeliest first.",
    "Last-Event-ID": "The `seq` of the last event seen; what came after it is lost, so a `resync` comes first.",
}
FORMATS = "The format of the answer."
FILTERS = {
    "model_id": "Only those about this model.",
    "dataset_id": "Only those with this dataset.",
    "benchmark_id": "Only those of this benchmark.",
    "search_id": "The trials of this search, and the training that follows them.",
}
"""Where an id stands in the query it filters."""

BOILERPLATE = {*(status.description for status in HTTPStatus), "File Download", "Stream Response"}
"""What Litestar says about an answer of which it knows the status only."""

ANSWERS = {
    "201": "Made.",
    "202": "Accepted; the work goes on in the background. `Location` says where to follow it.",
    "204": "Done; the answer is empty.",
}


def complete(openapi: OpenAPI) -> None:
    """Give every parameter and every good answer a meaning."""
    for operation in _operations(openapi):
        for parameter in operation.parameters or []:
            if isinstance(parameter, Parameter) and not parameter.description:
                filters = FILTERS if parameter.param_in == "query" else {}
                about = filters | {"format": FORMATS}
                parameter.description = about.get(parameter.name) or MEANINGS.get(parameter.name)
        for status, response in (operation.responses or {}).items():
            if isinstance(response, OpenAPIResponse) and response.description in BOILERPLATE:
                response.description = ANSWERS.get(status) or _meaning(openapi, operation, response)


def _operations(openapi: OpenAPI) -> Iterator[Operation]:
    for path in (openapi.paths or {}).values():
        for method in ("get", "post", "put", "patch", "delete"):
            operation: Operation | None = getattr(path, method)
            if operation is not None:
                yield operation


def _meaning(openapi: OpenAPI, operation: Operation, response: OpenAPIResponse) -> str:
    for content in (response.content or {}).values():
        if isinstance(content, OpenAPIMediaType) and (told := _told(openapi, content)):
            return told
    kinds = [media_type.partition(";")[0] for media_type in response.content or {}]
    return f"{operation.summary}, as {' or '.join(kinds)}."


def _told(openapi: OpenAPI, content: OpenAPIMediaType) -> str:
    """What the struct of an answer says about itself."""
    schema = content.schema
    if not isinstance(schema, Reference) or openapi.components is None:
        return ""
    described = openapi.components.schemas[schema.ref.rpartition("/")[2]].to_schema()
    return str(described.get("description", ""))
