"""The API description as one page of plain HTML, so that it can be read without a network."""

from __future__ import annotations

import html
import itertools
import json
import re
from typing import Any

from litestar import Request
from litestar.openapi.plugins import OpenAPIRenderPlugin

Document = dict[str, Any]


class Page(OpenAPIRenderPlugin):
    """The calls by area, each with its role, parameters, body fields, examples and answers."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: Document) -> bytes:
        """The page."""
        info = openapi_schema["info"]
        calls = [
            (operation["tags"][0], method, path, operation)
            for path, methods in openapi_schema["paths"].items()
            for method, operation in methods.items()
        ]
        order = list(dict.fromkeys(call[0] for call in calls))
        calls.sort(key=lambda call: order.index(call[0]))
        areas = "".join(
            f"<h2>{_text(area)}</h2>" + "".join(_call(openapi_schema, *call[1:]) for call in group)
            for area, group in itertools.groupby(calls, key=lambda call: call[0])
        )
        title, version = _text(info["title"]), _text(info["version"])
        return _PAGE.format(title=title, version=version, description=_text(info["description"]), areas=areas).encode()


def _call(document: Document, method: str, path: str, operation: Document) -> str:
    bodies = "".join(
        f"<li>{_text(media_type)}{_fields(document, content.get('schema', {}))}{_examples(content)}</li>"
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items()
    )
    answers = "".join(
        f"<li><b>{status}</b> {_text(answer.get('description', ''))}"
        + "".join(_examples(content) for content in answer.get("content", {}).values())
        + "</li>"
        for status, answer in sorted(operation.get("responses", {}).items())
    )
    parameters = "".join(_field(document, item["name"], item) for item in operation.get("parameters", []))
    lists = (("Parameters", parameters), ("Body", bodies), ("Answers", answers))
    return (
        f"<details><summary><b class={method}>{method.upper()}</b> <code>{_text(path)}</code> "
        f"{_text(operation.get('summary') or '')}</summary><p>{_text(operation.get('description') or '')}</p>"
        + "".join(f"<h4>{name}</h4><ul>{items}</ul>" for name, items in lists if items)
        + "</details>"
    )


def _fields(document: Document, schema: Document) -> str:
    schema = _resolve(document, schema)
    required = schema.get("required", [])
    fields = [
        _field(document, name, {"schema": field, "required": name in required})
        for name, field in schema.get("properties", {}).items()
    ]
    return f"<ul>{''.join(fields)}</ul>" if fields else ""


def _field(document: Document, name: str, item: Document) -> str:
    schema = item.get("schema", {})
    facts = [_kind(document, schema)]
    if item.get("required"):
        facts.append("required")
    elif schema.get("default") is not None:
        facts.append(f"default {json.dumps(schema['default'])}")
    about = item.get("description") or schema.get("description") or ""
    return f"<li><code>{_text(name)}</code> <small>{_text(', '.join(filter(None, facts)))}</small> {_text(about)}</li>"


def _kind(document: Document, schema: Document) -> str:
    """The type of a value in a few words."""
    schema = _resolve(document, schema)
    if "enum" in schema:
        return " | ".join("null" if value is None else str(value) for value in schema["enum"])
    if options := schema.get("oneOf") or schema.get("anyOf"):
        return " or ".join(_kind(document, option) for option in options)
    if schema.get("type") == "array":
        return f"list of {_kind(document, schema.get('items', {})) or 'values'}"
    return str(schema.get("format") or schema.get("type") or "")


def _resolve(document: Document, schema: Document) -> Document:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def _examples(content: Document) -> str:
    examples = content.get("examples") or {}
    values = [item["value"] for item in examples.values()] if isinstance(examples, dict) else []
    return "".join(f"<pre>{html.escape(json.dumps(value, indent=1))}</pre>" for value in values)


def _text(text: str) -> str:
    """Escaped, with `code` as code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text))


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title} API</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }}
details {{ border: 1px solid #ddd; border-radius: 6px; margin: .4rem 0; padding: .4rem .8rem }}
summary {{ cursor: pointer }} summary b {{ display: inline-block; width: 4.5rem }} h2 {{ text-transform: capitalize }}
.get {{ color: #085 }} .post {{ color: #06c }} .delete {{ color: #b22 }} .patch {{ color: #960 }}
pre {{ background: #f6f6f6; padding: .6rem; overflow: auto }} h4 {{ margin: .6rem 0 .2rem }} ul {{ margin: 0 }}
p {{ white-space: pre-line }} small {{ color: #666 }}
</style>
<h1>{title} <small>{version}</small></h1><p>{description}</p>
<p>For tools: <a href="/schema/openapi.json">openapi.json</a>, <a href="/schema/openapi.yaml">openapi.yaml</a>.</p>
{areas}</html>
"""
