"""The short way of predictions: from the connection to what answers them, without routing and binding.

These cost as much as everything else that is done here for a prediction. The long way leads to the same functions and
is still taken by what pages of other origins send, and by other methods.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, cast

from litestar import Request
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from gateway import errors
from gateway.context import Context
from gateway.errors import OPEN_INFERENCE
from gateway.routes import open_inference, predict
from gateway.routes.common import V1
from shared.errors import AppError

PREDICT = f"{V1}/inference/predict"
MODELS = f"{OPEN_INFERENCE}/models/"
INFER = "/infer"


class Route(NamedTuple):
    """What a path stands for."""

    template: str
    parameters: dict[str, str]
    answer: Callable[..., Awaitable[predict.Reply]]
    """Takes the parts of the gateway, the request, what it holds of the bytes under way, and its parameters."""


class Shortcut:
    """ASGI layer before the application.

    Args:
        app: The long way.
        context: The gateway's parts.
    """

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self._app, self._context = app, context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        route = self._route(scope)
        if route is None:
            await self._app(scope, receive, send)
            return
        http = cast(HTTPScope, scope)
        http["path_template"], http["path_params"] = route.template, dict(route.parameters)
        try:
            await self._context.gate.check(http)
        except Exception as error:
            await _refuse(http, receive, send, error)
            return
        with self._context.budget.share(http["state"]["identity"].caller) as share:
            try:
                reply = await route.answer(self._context, http, receive, share, **route.parameters)
            except Exception as error:
                await _refuse(http, receive, send, error)
            else:
                await reply.leave(send)

    def _route(self, scope: Scope) -> Route | None:
        """What a request is for; None if it takes the long way."""
        if scope.get("method") != "POST" or self._is_of_a_page(scope):
            return None
        path = _plain(scope["path"])
        if path == PREDICT:
            return Route(PREDICT, {}, predict.answered)
        return _infer(path) if path.startswith(MODELS) and path.endswith(INFER) else None

    def _is_of_a_page(self, scope: Scope) -> bool:
        """Whether a page of another origin may be told about the answer, which the long way does."""
        return bool(self._context.settings.origins) and predict.header(scope, b"origin") != b""


def _plain(path: str) -> str:
    """A path without the slashes too many that routing passes over as well."""
    return "/" + "/".join(filter(None, path.split("/"))) if path.endswith("/") or "//" in path else path


def _infer(path: str) -> Route | None:
    match path.removeprefix(MODELS).split("/"):
        case [model, "infer"] if model:
            return Route(f"{MODELS}{{model}}{INFER}", {"model": model}, open_inference.answered)
        case [model, "versions", version, "infer"] if model and version:
            named = {"model": model, "version": version}
            return Route(f"{MODELS}{{model}}/versions/{{version}}{INFER}", named, open_inference.answered)
    return None


async def _refuse(scope: HTTPScope, receive: Receive, send: Send, error: Exception) -> None:
    if isinstance(error, AppError):  # where too much waits there are as many of these as answers
        told = errors.refusal(error, scope["path"], scope["state"]["request_id"])
        headers = [(name.lower().encode(), value.encode()) for name, value in errors.headers_of(error).items()]
        await predict.Reply(told.body + b"\n", told.media_type.encode(), headers, told.status).leave(send)
        return
    request: Request[Any, Any, Any] = Request(scope, receive, send)
    response = errors.answer(request, error).to_asgi_response(app=None, request=request)
    await response(scope, receive, send)
