"""The API description as one page of plain HTML, so that it can be read without a network."""

from __future__ import annotations

import html
import itertools
import json
import re
from collections.abc import Iterable
from typing import Any

from litestar import Request
from litestar.openapi.plugins import OpenAPIRenderPlugin

from gateway.access import IN_WORDS, TABLE

Document = dict[str, Any]

TYPES = {"integer": "whole number", "string": "text", "boolean": "true or false", "object": "object", "null": "null"}
PLACES = {"path": "in the path", "query": "in the query", "header": "header"}


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
    who = IN_WORDS[TABLE[method.upper(), path]]
    told = operation.get("description", "").removesuffix(f"Who may: {who}.").strip()
    lists = (
        ("Parameters", _items(_parameter(document, item) for item in operation.get("parameters", []))),
        ("Body", _items(_body(document, *item) for item in _bodies(operation))),
        ("Answers", _items(_answer(status, item) for status, item in sorted(operation.get("responses", {}).items()))),
    )
    return (
        f"<details><summary><b class={method}>{method.upper()}</b> <code>{_text(path)}</code> "
        f"{_text(operation.get('summary') or '')} &nbsp;<i>{who}</i></summary><p>{_text(told)}</p>"
        + "".join(f"<h4>{name}</h4>{items}" for name, items in lists if items)
        + "</details>"
    )


def _items(lines: Iterable[str]) -> str:
    joined = "".join(f"<li>{line}</li>" for line in lines)
    return f"<ul>{joined}</ul>" if joined else ""


def _parameter(document: Document, item: Document) -> str:
    return _field(document, item["name"], item["schema"], item, PLACES[item["in"]])


def _bodies(operation: Document) -> list[tuple[str, Document]]:
    """The bodies a call takes; media types that are described alike stand together."""
    contents = operation.get("requestBody", {}).get("content", {}).items()
    groups = itertools.groupby(contents, key=lambda item: item[1])
    return [(" or ".join(media_type for media_type, _ in group), content) for content, group in groups]


def _body(document: Document, media_types: str, content: Document) -> str:
    return f"{_text(media_types)}{_fields(document, content.get('schema', {}))}{_examples(media_types, content)}"


def _answer(status: str, answer: Document) -> str:
    examples = "".join(_examples(*item) for item in answer.get("content", {}).items())
    return f"<b>{status}</b> {_text(answer.get('description', ''))}{examples}"


def _fields(document: Document, schema: Document) -> str:
    """The fields of an object, and those of the objects in them."""
    schema = _resolve(document, schema)
    required = schema.get("required", [])
    return _items(
        _field(document, name, field, {"required": name in required})
        for name, field in schema.get("properties", {}).items()
    )


def _field(document: Document, name: str, schema: Document, item: Document, place: str = "") -> str:
    facts = [place, _kind(document, schema)]
    if item.get("required"):
        facts.append("<b>required</b>")
    elif schema.get("default") not in (None, [], ""):
        facts.append(f"default {_text(json.dumps(schema['default']))}")
    about = item.get("description") or schema.get("description") or ""
    inner = next((found for part in _parts(document, schema) if (found := _fields(document, part))), "")
    return f"<code>{_text(name)}</code> <small>{', '.join(filter(None, facts))}</small> {_text(about)}{inner}"


def _parts(document: Document, schema: Document) -> Iterable[Document]:
    """A schema and what it is made of: alternatives, the items of a list, what a text holds."""
    schema = _resolve(document, schema)
    yield schema
    inside = (*_options(schema), schema.get("items"), schema.get("contentSchema"))
    for part in inside:
        if part:
            yield from _parts(document, part)


def _options(schema: Document) -> list[Document]:
    return [*schema.get("oneOf", ()), *schema.get("anyOf", ())]


def _kind(document: Document, schema: Document) -> str:
    """The type of a value in a few words, with what bounds it; HTML."""
    schema = _resolve(document, schema)
    if "contentSchema" in schema:
        return f"JSON: {_kind(document, schema['contentSchema'])}"
    if "enum" in schema:
        return " | ".join(f"<code>{_text(str(value))}</code>" for value in schema["enum"] if value is not None)
    if options := _options(schema):
        kinds = [_kind(document, option) for option in options if option.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    kind = schema.get("type") or ""
    if kind == "array":
        items = _kind(document, schema.get("items", {}))
        return f"list{_range(schema.get('minItems'), schema.get('maxItems'), ' values')} of {items or 'values'}"
    if schema.get("format") == "binary":
        return "file"
    low, high = schema.get("minimum"), schema.get("maximum")
    if (above := schema.get("exclusiveMinimum")) is not None:
        return f"{TYPES.get(kind, kind)} (above {above:g}{'' if high is None else f', at most {high:.12g}'})"
    length = _range(schema.get("minLength"), schema.get("maxLength"), " characters")
    return f"{TYPES.get(kind, kind)}{_range(low, high)}{length}"


def _range(low: float | None, high: float | None, things: str = "") -> str:
    if low is None and high is None:
        return ""
    if low is None or high is None:
        return f" (at most {high:.12g}{things})" if low is None else f" (at least {low:.12g}{things})"
    return f" ({low:.12g} to {high:.12g}{things})"


def _resolve(document: Document, schema: Document) -> Document:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def _examples(media_type: str, content: Document) -> str:
    examples = content.get("examples") or {}
    values = [item["value"] for item in examples.values()] if isinstance(examples, dict) else []
    write = _form if media_type.startswith("multipart/") else _json
    return "".join(
        f"<details><summary>Example</summary><pre>{html.escape(write(value))}</pre></details>" for value in values
    )


def _form(fields: Document) -> str:
    """A form as arguments of curl."""
    return "curl " + " \\\n     ".join(f"-F '{name}={value}'" for name, value in fields.items()) + " ..."


def _json(value: Any) -> str:
    """Indented, lists of plain values on one line."""
    text = json.dumps(value, indent=2)
    return re.sub(r"\[[^\[\]{}]*\]", lambda found: re.sub(r"\s+", " ", found[0]), text)


def _text(text: str) -> str:
    """Escaped, with `code` as code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text)).replace("`", "")


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title} API</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }}
details {{ border: 1px solid #ddd; border-radius: 6px; margin: .4rem 0; padding: .4rem .8rem }}
summary {{ cursor: pointer }} summary b {{ display: inline-block; width: 4.5rem }} h2 {{ text-transform: capitalize }}
.get {{ color: #085 }} .post {{ color: #06c }} .delete {{ color: #b22 }} .patch {{ color: #960 }}
pre {{ background: #f6f6f6; padding: .6rem; overflow: auto }} h4 {{ margin: .6rem 0 .2rem }} ul {{ margin: 0 }}
p {{ white-space: pre-line }} small {{ color: #555 }} summary i {{ color: #666; font-size: 13px }}
li details {{ border: 0; margin: 0; padding: 0 }} li summary {{ color: #555 }}
li {{ margin: .2rem 0 }} small code {{ color: #333 }}
</style>
<h1>{title} <small>{version}</small></h1><p>{description}</p>
<p>For tools: <a href="/schema/openapi.json">openapi.json</a>, <a href="/schema/openapi.yaml">openapi.yaml</a>.</p>
{areas}</html>
"""
