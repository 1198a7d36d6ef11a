"""The API description as one page of plain HTML, so that it can be read without a network."""

from __future__ import annotations

import html
import json
from typing import Any

from litestar import Request
from litestar.openapi.plugins import OpenAPIRenderPlugin


class Page(OpenAPIRenderPlugin):
    """The description as one HTML page without scripts, so that it needs nothing from elsewhere."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The page."""
        calls = "".join(
            _call(method, path, operation)
            for path, methods in sorted(openapi_schema["paths"].items())
            for method, operation in methods.items()
        )
        info = openapi_schema["info"]
        return _PAGE.format(
            title=html.escape(info["title"]),
            version=html.escape(info["version"]),
            description=html.escape(info["description"]),
            calls=calls,
        ).encode()


def _call(method: str, path: str, operation: dict[str, Any]) -> str:
    parameters = "".join(
        f"<li><code>{html.escape(item['name'])}</code> ({item['in']}) {html.escape(item.get('description', ''))}</li>"
        for item in operation.get("parameters", [])
    )
    bodies = "".join(
        f"<li>{html.escape(media_type)}{_examples(content)}</li>"
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items()
    )
    answers = "".join(
        f"<li><b>{status}</b> {html.escape(answer.get('description', ''))}{_answer_examples(answer)}</li>"
        for status, answer in sorted(operation.get("responses", {}).items())
    )
    lists = (("Parameters", parameters), ("Body", bodies), ("Answers", answers))
    return (
        f"<details><summary><b class={method}>{method.upper()}</b> <code>{html.escape(path)}</code> "
        f"{html.escape(operation.get('summary') or '')}</summary>"
        f"<p>{html.escape(operation.get('description') or '')}</p>"
        + "".join(f"<h4>{name}</h4><ul>{items}</ul>" for name, items in lists if items)
        + "</details>"
    )


def _answer_examples(answer: dict[str, Any]) -> str:
    return "".join(_examples(content) for content in answer.get("content", {}).values())


def _examples(content: dict[str, Any]) -> str:
    examples = content.get("examples", {}).values()
    return "".join(f"<pre>{html.escape(json.dumps(item['value'], indent=1))}</pre>" for item in examples)


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title} API</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }}
details {{ border: 1px solid #ddd; border-radius: 6px; margin: .4rem 0; padding: .4rem .8rem }}
summary {{ cursor: pointer }} summary b {{ display: inline-block; width: 4.5rem }}
.get {{ color: #0b6 }} .post {{ color: #06c }} .delete {{ color: #c22 }} .patch {{ color: #b70 }}
pre {{ background: #f6f6f6; padding: .6rem; overflow: auto }} h4 {{ margin: .6rem 0 .2rem }}
p {{ white-space: pre-line }}
</style>
<h1>{title} <small>{version}</small></h1><p>{description}</p>
<p>For tools: <a href="/schema/openapi.json">openapi.json</a>, <a href="/schema/openapi.yaml">openapi.yaml</a>.</p>
{calls}</html>
"""
