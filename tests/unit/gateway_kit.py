"""A whole gateway for tests: the real application and database, a broker and an event feed that are made up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
from litestar.testing import TestClient

from gateway.app import create_app
from gateway.context import Context
from shared import apikeys, config, errors
from shared.db import accounts, connection, datasets, registry
from shared.db.tables import (
    Artifact,
    Benchmark,
    BenchmarkResult,
    Dataset,
    Deployment,
    EngineFile,
    Idempotency,
    Job,
    JobEvent,
    Model,
    Report,
    Search,
    SearchTrial,
    Training,
    TrainingEpoch,
    TrainingReport,
)
from shared.specs import (
    ClassCount,
    DatasetSummary,
    DatasetWarning,
    ImageSizes,
    ModelDescription,
    NearDuplicate,
    Preprocessing,
    Resize,
    TensorInfo,
)
from shared.wire.client import Answer
from shared.wire.events import Resync
from shared.wire.messages import Cut, Done, Event, Status, Submit, WorkerStatus

ONNX = b"\x08\x07" + bytes(500)
"""Bytes that could begin an ONNX file; the gateway looks no deeper."""

ZIP = b"PK\x03\x04" + bytes(500)
"""Bytes that could begin a ZIP."""

ROLES = ("viewer", "engineer", "admin")


ABOUT_MODELS = (
    Idempotency,
    Deployment,
    EngineFile,
    Report,
    BenchmarkResult,
    Benchmark,
    TrainingReport,
    TrainingEpoch,
    SearchTrial,
    Search,
    Training,
)
"""Tables whose rows go before those they name."""


class FakeBroker:
    """Answers every prediction at once with `results`, or raises `failure`."""

    def __init__(self) -> None:
        self.alive = True
        self.crowded = False
        self.failure: errors.AppError | None = None
        self.results: dict[str, Any] = {"predictions": [[{"class_id": 6, "label": "six", "confidence": 0.5}]]}
        self.outputs: list[dict[str, Any]] = [{"name": "y", "datatype": "FP32", "shape": [1, 1], "data": [0.5]}]
        self.binary = b""
        self.submitted: list[tuple[Submit, list[bytes]]] = []
        self.published: list[tuple[str, dict[str, Any]]] = []
        self.alerts: list[dict[str, Any]] = []  # apart: they depend on the machine the tests run on
        self.rung: list[str] = []
        self.workers = [
            WorkerStatus(worker_id="inferencer-0", busy=1, credit=1, silent_ms=3.0, answered=5, success_age_ms=20.0)
        ]
        self.waiting: dict[str, int] = {}
        self.cut: Cut | None = None
        self.cancelled: list[str] = []

    def status(self) -> tuple[Status | None, float]:
        if not self.alive:
            return None, 60.0
        return (
            Status(
                boot_id="b",
                depth=3,
                depth_limit=1000,
                queued_bytes=2**20,
                queued_bytes_limit=2**28,
                in_flight=1,
                draining=False,
                completed=5,
                failed=0,
                workers=self.workers,
                waiting=self.waiting,
                callers=1,
                images_per_s=87.5,
            ),
            0.1,
        )

    @contextmanager
    def entering(self, caller: str) -> Iterator[None]:
        if self.crowded:
            raise errors.QueueFull("Requests wait.", retry_after_s=2.0)
        yield

    async def submit(self, request: Submit, blobs: Sequence[bytes]) -> Answer:
        self.submitted.append((request, list(blobs)))
        if self.failure is not None:
            raise self.failure
        done = Done(
            request_id=request.request_id,
            engine="onnxruntime",
            precision="fp32",
            batch_size=2,
            queue_ms=1.0,
            decode_ms=2.0,
            inference_ms=3.0,
            cut=self.cut,
        )
        if request.form == "raw":
            return done, [msgspec.json.encode(self.outputs), self.binary]
        return done, [msgspec.json.encode(self.results)]

    def cancel(self, request_id: str) -> None:
        self.cancelled.append(request_id)

    def publish(self, topic: str, body: dict[str, Any]) -> None:
        if topic == "alerts":
            self.alerts.append(body)
        else:
            self.published.append((topic, body))

    def doorbell(self, lane: str) -> None:
        self.rung.append(lane)


class Feed:
    """Events put in by the test, from any thread."""

    def __init__(self) -> None:
        self._items: asyncio.Queue[Event | Resync] = asyncio.Queue()

    def __aiter__(self) -> AsyncIterator[Event | Resync]:
        return self

    async def __anext__(self) -> Event | Resync:
        return await self._items.get()

    def put(self, item: Event | Resync) -> None:
        self._items.put_nowait(item)


class Gateway:
    """A running gateway; calls are relative to `/api/v1`."""

    def __init__(self, client: TestClient[Any], context: Context, broker: FakeBroker) -> None:
        self.client, self.context, self.broker = client, context, broker
        self.folder = context.settings.root
        self.keys = {role: new_key(f"a-{role}", role) for role in ROLES}

    def call(self, role: str | None, method: str, path: str, **options: Any) -> httpx.Response:
        headers = dict(options.pop("headers", {}))
        if role is not None:
            headers["X-API-Key"] = self.keys[role]
        url = path if path.startswith(("/schema", "/v2")) else f"/api/v1{path}"
        return self.client.request(method, url, headers=headers, **options)

    def get(self, path: str, role: str | None = "engineer", **options: Any) -> httpx.Response:
        return self.call(role, "GET", path, **options)

    def post(self, path: str, role: str | None = "engineer", **options: Any) -> httpx.Response:
        return self.call(role, "POST", path, **options)

    def delete(self, path: str, role: str | None = "admin", **options: Any) -> httpx.Response:
        return self.call(role, "DELETE", path, **options)

    def reset(self) -> None:
        """Forget everything but the users, for the next test."""
        with connection.write():
            for table in (*ABOUT_MODELS, JobEvent, Job, Model, Dataset, Artifact):
                table.delete().execute()
            registry.bump("models")
        for path in self.files():
            path.unlink()
        self.broker.__init__()
        self.refresh()

    def files(self) -> list[Path]:
        """Every stored file."""
        roots = (self.context.models.root, self.context.datasets.root, self.context.reports.root)
        return [path for root in roots for path in root.rglob("*") if path.is_file()]

    def refresh(self) -> None:
        """Let the caches look now."""
        self.client.blocking_portal.call(self.context.caches.refresh)

    def staged(self) -> list[Path]:
        """Files of uploads that are under way."""
        stores = (self.context.models, self.context.datasets)
        return [path for store in stores for path in store.root.glob("staging/*")]


def settings_at(folder: Path) -> config.Settings:
    settings = config.load({"DATA_DIR": str(folder), "PRESETS": "false"})
    settings.make_folders()
    return settings


def context_at(folder: Path, broker: FakeBroker | None = None, feed: Feed | None = None) -> Context:
    return Context(settings_at(folder), broker or FakeBroker(), feed or Feed())


@contextmanager
def gateway_at(folder: Path) -> Iterator[Gateway]:
    broker = FakeBroker()
    context = context_at(folder, broker)
    with TestClient(create_app(context), raise_server_exceptions=False) as client:
        yield Gateway(client, context, broker)


@contextmanager
def fresh_gateway_at(folder: Path) -> Iterator[Gateway]:
    """The same with a database of its own, for several tests; between them call `reset()`."""
    connection.migrate(folder / "db" / "cv-platform.db")
    connection.open_db(folder / "db" / "cv-platform.db")
    with gateway_at(folder) as running:
        yield running
    connection.database.close()


def new_key(username: str, role: str) -> str:
    """A user with that role, and an API key of theirs."""
    account = accounts.add_user(username, "unusable", role)
    key = apikeys.new_key()
    accounts.add_key(account.id, "test", apikeys.fingerprint(key), apikeys.hint(key), None)
    return key


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check that the answer is a problem as documented."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert (body["status"], body["code"]) == (status, code), body
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["title"] and body["detail"] and body["type"].endswith(code)
    return body


def fields_of(response: httpx.Response) -> set[str]:
    """The fields a 422 complains about."""
    return {item["field"] for item in problem(response, 422, "invalid")["errors"]}


def ready_model(gateway: Gateway, name: str = "digits", content: bytes = ONNX) -> str:
    """A model as the preparer leaves it."""
    owner = accounts.by_name("a-engineer")
    assert owner is not None
    with connection.write():
        stored = gateway.context.models.put(content)
        model_id = registry.add_model(stored, owner[0].id, name=name, framework="onnx", task_type="classification")
        registry.keep_artifact(stored, "models")
        description = ModelDescription(
            inputs=[TensorInfo(name="x", dtype="float32", shape=["batch", 1, 8, 8])],
            outputs=[TensorInfo(name="y", dtype="float32", shape=["batch", 10])],
            opset=18,
            ir_version=10,
            parameters=10,
            dynamic_batch=True,
            preprocessing=Preprocessing(resize=Resize(height=8, width=8), color="L"),
            labels=[str(digit) for digit in range(10)],
        )
        Model.update(
            status="ready",
            onnx_sha256=stored.sha256,
            onnx_size=stored.size_bytes,
            description_json=description,
        ).where(Model.id == model_id).execute()
        registry.bump("models")
    return model_id


def trainable_model(gateway: Gateway, name: str = "a network") -> str:
    """The same where weights of a network were kept."""
    model_id = ready_model(gateway, name)
    with connection.write():
        Model.update(framework="pytorch", weights_sha256=Model.file_sha256).where(Model.id == model_id).execute()
    return model_id


class Conversation:
    """One request spoken in raw ASGI, for what an HTTP client cannot do: stop half-way, listen, fall silent."""

    def __init__(self, method: str, path: str, key: str, headers: dict[str, str] | None = None) -> None:
        given = {"host": "test", "x-api-key": key, **(headers or {})}
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "client": ("test", 1),
            "server": ("test", 80),
            "extensions": {},
        }
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []

    def say(self, body: bytes, *, more: bool) -> None:
        self.incoming.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def leave(self) -> None:
        self.incoming.put_nowait({"type": "http.disconnect"})

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.leave()  # as a server does once the answer is complete

    @property
    def status(self) -> int:
        return next((message["status"] for message in self.sent if message["type"] == "http.response.start"), 0)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def headers(self) -> dict[str, str]:
        start = next(message for message in self.sent if message["type"] == "http.response.start")
        return {name.decode(): value.decode() for name, value in start["headers"]}


class SocketTalk(Conversation):
    """A handshake, and what follows it, in raw ASGI."""

    def __init__(self, key: str = "", headers: dict[str, str] | None = None, query: str = "") -> None:
        super().__init__("GET", "/api/v1/events/ws", key, headers)
        del self.scope["method"]
        self.scope |= {"type": "websocket", "scheme": "ws", "subprotocols": [], "query_string": query.encode()}
        if not key:
            self.scope["headers"] = [pair for pair in self.scope["headers"] if pair[0] != b"x-api-key"]
        self.scope["extensions"] = {"websocket.http.response": {}}
        self.incoming.put_nowait({"type": "websocket.connect"})

    def say(self, body: bytes, *, more: bool = False) -> None:
        self.incoming.put_nowait({"type": "websocket.receive", "bytes": body, "text": None})

    def leave(self) -> None:
        self.incoming.put_nowait({"type": "websocket.disconnect", "code": 1001})

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    @property
    def open(self) -> bool:
        return bool(self.sent) and self.sent[0]["type"] == "websocket.accept"

    @property
    def status(self) -> int:
        return 101 if self.open else int(self.sent[0]["status"])

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(message["text"]) for message in self.sent if message["type"] == "websocket.send"]

    @property
    def farewell(self) -> tuple[int, str]:
        """Code and reason of our closing."""
        assert self.sent[-1]["type"] == "websocket.close", self.sent[-1]
        return self.sent[-1]["code"], self.sent[-1]["reason"]


def converse(context: Context, talk: Conversation, meanwhile: Callable[[], Any] | None = None) -> None:
    """Serve one raw conversation; `meanwhile` runs beside it (a coroutine function)."""
    app: Any = create_app(context)

    async def main() -> None:
        async with context.running(), asyncio.timeout(20):
            serving = asyncio.create_task(app(talk.scope, talk.incoming.get, talk.send))
            if meanwhile is not None:
                await meanwhile()
            await serving

    asyncio.run(main())


def form(fields: dict[str, Any], content: bytes = ONNX, filename: str = "digits.onnx") -> dict[str, Any]:
    """Options of an upload for `Gateway.post`."""
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
    return {"data": texts, "files": {"file": (filename, content)}}


SUMMARY = DatasetSummary(
    layout="folders",
    split_source="made",
    classes=[ClassCount(name="cat", train=8, val=1, test=1), ClassCount(name="dog", train=8, val=1, test=1)],
    splits={"train": 16, "val": 2, "test": 2},
    num_samples=20,
    num_skipped=1,
    sizes=ImageSizes(smallest=(8, 8), median=(16, 16), largest=(32, 32)),
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
    warnings=[DatasetWarning(where="cat/7.jpg", what="is not used: it is empty")],
    num_warnings=1,
    near_duplicates=[
        NearDuplicate(first="cat/1.jpg", first_split="train", second="cat/2.jpg", second_split="test", distance=1)
    ],
    num_near_duplicates=1,
    images_per_s=99.0,
)


def of_digits() -> DatasetSummary:
    """The same of a dataset whose classes are those of `ready_model`."""
    classes = [ClassCount(name=str(digit), train=8, val=1, test=1) for digit in range(10)]
    return msgspec.structs.replace(SUMMARY, classes=classes)


def make_ready(gateway: Gateway, dataset_id: str, about: str = "", summary: DatasetSummary = SUMMARY) -> None:
    """The dataset as the preparer leaves it; `about` makes its files unlike those of others."""
    contents = {name: f"{name} {about}".encode() for name in ("index", "pack", "sheet")}
    with connection.write():
        files = {name: gateway.context.datasets.put(content) for name, content in contents.items()}
        datasets.finish(dataset_id, summary, files)
        Job.update(status="completed", finished_at_ms=1).where(Job.kind == "dataset").execute()
