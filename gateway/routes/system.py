"""The platform itself: health and probes, settings in force, events."""

from __future__ import annotations

import functools
import os
import shutil
from contextlib import aclosing
from importlib import metadata
from typing import Annotated

from litestar import Response, Router, asgi, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter
from litestar.response import Redirect, Stream
from litestar.types import Receive, Scope, Send

from gateway import schemas
from gateway.answers import Answer
from gateway.auth import credential_of
from gateway.browsers import check_origin
from gateway.context import Context
from gateway.errors import UpgradeRequired
from gateway.routes.common import Http, Injected, account_of, problems
from gateway.routes.inference import WELL, inference_health
from gateway.sockets import Socket
from shared import config

VERSION = metadata.version("cv-platform")
LOW_DISK_MB = 2048
FULL_DISK_MB = 256
HIDDEN = frozenset({"TLS_KEY"})
"""Hidden from those who only call, besides `config.SECRETS`: where the key lies."""

SOCKET = "/events/ws"

ANYBODY = {422: problems()[422]}


@get("/", status_code=303, include_in_schema=False)
async def root() -> Redirect:
    """The way to the description."""
    return Redirect("/schema", status_code=303)


@get(
    "/health",
    responses=ANYBODY | {503: ResponseSpec(schemas.Health, description="Down: no storing or no predicting.")},
)
async def health(request: Http, context: Injected) -> Response[schemas.Health]:
    """How the platform is: 200 while it does its work, 503 once it is `down`; signed-in users see its parts."""
    parts = _components(context)
    states = {part.status for part in parts.values()}
    down = any(parts[name].status == "down" for name in ("database", "disk", "broker", "inference"))
    state: schemas.State = "down" if down else "ok" if states == {"ok"} else "degraded"
    lane = parts["inference"].status
    body = schemas.Health(status=state, version=VERSION, inference=lane)
    if credential_of(request.scope) is not None:
        await context.credentials.identify(request.scope)
        body = schemas.Health(status=state, version=VERSION, inference=lane, components=parts)
    return Answer(body, status_code=503 if down else 200)


@get("/health/live", responses=ANYBODY)
async def live() -> schemas.Probe:
    """The process runs."""
    return schemas.Probe(status="ok")


@get("/health/ready", responses=ANYBODY | {503: ResponseSpec(schemas.Probe, description="Not ready, with why.")})
async def ready(context: Injected) -> Response[schemas.Probe]:
    """Requests may be sent here: the database, the broker and an inference process answer, and we are not stopping."""
    if why := why_not_ready(context):
        return Answer(schemas.Probe(status="unavailable", detail=why), status_code=503, headers={"Retry-After": "1"})
    return Answer(schemas.Probe(status="ok"))


@get("/config", responses=problems())
async def settings_in_force() -> list[schemas.Setting]:
    """The settings in force and where each came from; secrets are hidden."""
    return [
        schemas.Setting(
            name=name, value="(hidden)" if name in HIDDEN and value else value, origin=origin, meaning=meaning
        )
        for name, value, origin, meaning in config.in_force()
    ]


@get("/events", responses=problems(), media_type="text/event-stream")
async def events(
    request: Http,
    context: Injected,
    last_event_id: Annotated[str | None, HeaderParameter(name="Last-Event-ID", max_length=64)] = None,
) -> Stream:
    """Server-sent events `{seq, topic, time, body}`; after a `resync` event read the lists again.

    The WebSocket `/api/v1/events/ws` sends the same.
    """
    user_id = account_of(request).id
    context.hub.check_room(user_id)
    still_welcome = functools.partial(context.gate.check, request.scope)
    stream = context.hub.listen(user_id, last_event_id is not None, still_welcome)
    return Stream(stream, media_type="text/event-stream")


@asgi(SOCKET, copy_scope=False)
async def events_socket(scope: Scope, receive: Receive, send: Send) -> None:
    """The same events over a WebSocket; documented in `gateway.docs`."""
    context: Context = scope["litestar_app"].state["context"]
    socket: Socket | None = scope["state"].get("socket")
    if socket is None:
        raise UpgradeRequired("Open a WebSocket here (RFC 6455, version 13); GET /api/v1/events streams without one.")
    check_origin(scope, context.settings.origins)
    still_welcome = functools.partial(context.gate.check, scope)
    async with aclosing(context.hub.follow(scope["state"]["account"].id, still_welcome)) as news:
        await anext(news)  # from here on it misses nothing
        await send({"type": "http.response.start", "status": 101, "headers": []})
        await socket.tell(news)


def _components(context: Context) -> dict[str, schemas.Component]:
    lane = inference_health(context.broker.status()[0], len(context.settings.inference_farm))
    return {
        "api": schemas.Component(status="degraded" if context.draining.is_set() else "ok"),
        "database": _database(context),
        "broker": _state(context.broker.alive, "it does not answer"),
        "inference": schemas.Component(status=lane.status, detail=_amiss(lane)),
        "jobs": _jobs(context),
        "disk": _disk(context.settings),
    }


def _amiss(lane: schemas.InferenceHealth) -> str:
    found = [f"{lane.workers.lost} are missing"] if lane.workers.lost else []
    found += [f"{process.id} is {process.state}" for process in lane.processes if process.state not in WELL]
    return f"of {lane.workers.total} inference processes {', '.join(found)}" if found else ""


def _state(good: bool, otherwise: str) -> schemas.Component:
    return schemas.Component(status="ok") if good else schemas.Component(status="down", detail=otherwise)


def _database(context: Context) -> schemas.Component:
    """Reads may go on where nothing can be written."""
    refused = context.monitor.minute().database_errors
    if context.caches.current and refused:
        return schemas.Component(status="degraded", detail=f"it refused {refused} calls in the last minute")
    return _state(context.caches.current, "it does not answer")


def _jobs(context: Context) -> schemas.Component:
    """Whether somebody is there for each kind of job; who is not keeps nobody from signing in and predicting."""
    if away := context.monitor.away():
        return schemas.Component(status="degraded", detail=f"no process is there of: {', '.join(away)}")
    return schemas.Component(status="ok")


def _disk(settings: config.Settings) -> schemas.Component:
    folders = (settings.db_file.parent, settings.models, settings.datasets, settings.reports)
    if locked := [folder.name for folder in folders if not os.access(folder, os.W_OK)]:
        return schemas.Component(status="down", detail=f"cannot be written: {', '.join(locked)}")
    free_mb = min(shutil.disk_usage(folder).free for folder in folders) // 2**20
    state: schemas.State = "down" if free_mb < FULL_DISK_MB else "degraded" if free_mb < LOW_DISK_MB else "ok"
    return schemas.Component(status=state, detail=f"{free_mb} MB free")


def why_not_ready(context: Context) -> str:
    """What keeps requests from being answered here; empty when nothing does."""
    if context.draining.is_set():
        return "stopping"
    if not context.caches.current:
        return "the database does not answer"
    status, _ = context.broker.status()
    if status is None:
        return "the broker does not answer"
    return "" if status.workers else "no inference process is there yet"


router = Router("/", route_handlers=[health, live, ready, settings_in_force, events, events_socket], tags=["system"])
