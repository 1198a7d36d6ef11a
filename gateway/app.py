"""The application: calls, access, errors and the parts behind them, put together."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from litestar import Litestar, Router
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException

from gateway import docs, errors
from gateway.answers import Answer
from gateway.bodies import StrictJson
from gateway.context import Context
from gateway.exchange import Exchanges
from gateway.routes import (
    alerts,
    audit,
    auth,
    benchmark,
    datasets,
    deployments,
    inference,
    jobs,
    metrics,
    models,
    open_inference,
    reports,
    system,
    training,
    users,
)
from gateway.routes.common import V1, known_parameters_only
from gateway.shortcut import Shortcut
from shared import config

JSON_BYTES = 2**20
"""Largest JSON body of a call; uploads and predictions have their own limits."""

EXPOSED = ["X-Request-ID", "Location", "Retry-After", "Inference-Header-Content-Length"]
"""Headers that pages of other origins may read."""


def create_app(context: Context) -> Litestar:
    """The gateway as an ASGI application around its parts; it opens and closes them with its lifespan."""
    api = Router(
        V1,
        before_request=known_parameters_only,
        route_handlers=[
            *(
                module.router
                for module in (
                    *(auth, users, models, deployments, datasets, training, jobs, benchmark),
                    *(reports, inference, system, metrics, alerts, audit),
                )
            ),
            training.of_models,
        ],
    )
    app = Litestar(
        [api, open_inference.router, metrics.prometheus, system.root],
        middleware=[context.gate.around],
        dependencies={"context": Provide(lambda: context, sync_to_thread=False)},
        state=State({"context": context}),
        lifespan=[functools.partial(_running, context)],
        exception_handlers={HTTPException: errors.answer, Exception: errors.answer},
        response_class=Answer,
        dto=StrictJson,
        return_dto=None,
        request_max_body_size=JSON_BYTES,
        openapi_config=docs.config(system.VERSION),
        cors_config=_cors(context.settings),
        logging_config=None,
    )
    docs.complete(app.openapi_schema)
    app.asgi_handler = Exchanges(Shortcut(app.asgi_handler, context), context.tally, context.trail)
    return app


@asynccontextmanager
async def _running(context: Context, _: Litestar) -> AsyncIterator[None]:
    async with context.running():
        yield


def _cors(settings: config.Settings) -> CORSConfig | None:
    if not settings.origins:
        return None
    return CORSConfig(allow_origins=settings.origins, expose_headers=EXPOSED)
