"""Every message between processes, and nothing else: the whole vocabulary of `cvp/1`.

Frames: `[identity] [b"cvp/1"] [header] [blob...]`; the header is one of these structs as a MessagePack map, blobs are
opaque bytes (image files, a JSON document). Unknown fields are ignored, an unknown tag or a wrong type is refused.
Times travel as *remaining* milliseconds: monotonic clocks do not cross processes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

PROTOCOL = b"cvp/1"

HEARTBEAT_S = 1.0
DEAD_AFTER_S = 15.0
SILENT_MS = 3000 * HEARTBEAT_S
"""After which a worker is no longer taken to do well."""

Name = Annotated[str, Meta(max_length=256)]
"""Ids, topics and the like. Bounded, so that a header the broker writes anew stays as small as the one it read."""


Form = Literal["images", "tensors", "video", "raw"]
"""What the blobs of a prediction are."""


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag=True, omit_defaults=True):
    """Base of all messages; the tag is the class name."""


# --- client (gateway, job workers, console) -> broker ---------------------------------------------------------------


class Submit(Message, frozen=True, kw_only=True):
    """One prediction request.

    Blobs: the images (`form="images"`), one JSON document of inputs (`"tensors"`), one video (`"video"`), or a head of
    the Open Inference Protocol and the bytes that follow it (`"raw"`).
    """

    request_id: Name
    model_id: Name
    form: Form
    queue_ttl_ms: float
    inference_ttl_ms: float
    top_k: int = 5
    frames_per_second: float = 1.0
    """Of a video: how many of its frames are looked at."""
    raw_outputs: bool = False
    rows: int = 1
    """Of raw tensors: the length of their batch, as their head says it."""
    caller: Name = ""
    """Whose share of the lane it uses: all callers have equal ones."""
    traceparent: Name = ""


class Cancel(Message, frozen=True, kw_only=True):
    """Nobody waits for the answer to a `Submit` any more: while no worker has it, it leaves the lane unanswered."""

    request_id: Name = ""
    """Empty: none of this client's. It has just come, or found the broker again, and waits for nothing of before."""


class Publish(Message, frozen=True, kw_only=True):
    """Ask the broker to send an event to every subscriber; also the doorbell of the jobs (`doorbell.<lane>`)."""

    topic: Name
    body: dict[str, Any] = {}


DOORBELL = "doorbell."
"""`doorbell.<lane>` is the topic that tells the idle workers of a job lane to look into the database."""


WORKERS = "workers"
"""Topic of the broker's own events: a worker is `ready`, has `left` or is `lost`."""


class AskStatus(Message, frozen=True, kw_only=True):
    """Ask for a `Status`; sent every second by the gateway, so silence means a broker that is gone."""


# --- broker -> client -----------------------------------------------------------------------------------------------


class ModelHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How a model does in one inferencer, told by what came of its work there."""

    success_age_ms: float = 0.0
    """Since it last answered a request, passed a probe, or was loaded."""
    probes: int = 0
    """How often it had to answer what it was checked with, no request having shown that it can."""
    failed_probes: int = 0
    failure: Name = ""
    """What it failed at since its last success."""


class LoadedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model an inferencer holds in memory."""

    model_id: Name
    engine: str
    precision: str
    batch_size: int
    memory_mb: float
    gpu_memory_mb: float = 0.0
    threads: int = 1
    """Of each session."""
    sessions: int = 1
    deployment_id: Name = ""
    """The order that serves; empty for the default."""
    problem: Name = ""
    """Why it serves instead of what was activated."""
    health: ModelHealth = ModelHealth()


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What the models of an inferencer take, and how they came and went since it started."""

    limit_mb: float = 0.0
    used_mb: float = 0.0
    gpu_limit_mb: float = 0.0
    """0 without a GPU."""
    gpu_used_mb: float = 0.0
    loads: int = 0
    load_s: float = 0.0
    """All loads together."""
    unloads: int = 0
    """Of models that made room for another."""


WorkerState = Literal["idle", "busy", "failing", "silent"]


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One live inferencer as the broker sees it."""

    worker_id: Name
    busy: int
    credit: int
    silent_ms: float
    answered: int = 0
    failing: bool = False
    """It is there, and the last requests it had were failed or not answered in time."""
    success_age_ms: float | None = None
    """Since it last answered a request; None if it never did."""
    models: list[LoadedModel] = []
    memory: Memory = Memory()

    @property
    def state(self) -> WorkerState:
        """How it does, told by what came of its work: one with much to do is busy."""
        if self.failing:
            return "failing"
        return "silent" if self.silent_ms > SILENT_MS else "busy" if self.busy else "idle"


class Status(Message, frozen=True, kw_only=True):
    """The inference lane now. `boot_id` changes when the broker restarted, and with it everything it knew is gone."""

    boot_id: Name
    depth: int
    depth_limit: int
    queued_bytes: int
    queued_bytes_limit: int
    in_flight: int
    draining: bool
    completed: int
    failed: int
    workers: list[WorkerStatus]
    waiting: dict[str, int] = {}
    """The requests in the lane by model."""
    callers: int = 0
    """Whose they are: so many different ones."""
    images_per_s: float | None = None
    """The pace while requests last waited; None before it was known."""
    cold: int = 0
    """Requests whose model no inferencer had in memory when their turn came."""
    cancelled: int = 0
    """Requests that left the lane because their client had gone."""


# --- inferencer -> broker -------------------------------------------------------------------------------------------


class Ready(Message, frozen=True, kw_only=True):
    """An inferencer introduces itself. Only this message sets credit.

    `inflight` are the requests it still works on: they take credit until it answers, also those that a broker which is
    gone now had given it.
    """

    worker_id: Name
    boot_id: Name
    credit: int
    inflight: list[Name] = []
    models: list[LoadedModel] = []
    """As in `Heartbeat`."""


class Heartbeat(Message, frozen=True, kw_only=True):
    """The process lives. It never grants credit.

    `models` are those it answers without loading anything; a change is told at once.
    """

    boot_id: Name
    models: list[LoadedModel] = []
    memory: Memory = Memory()


class Bye(Message, frozen=True, kw_only=True):
    """The inferencer takes nothing new; it answers what it holds and leaves."""

    boot_id: Name


Cut = Literal["full", "drained", "alone"]
"""Why there are no more requests in a batch: the next does not fit, none waited, or its one request runs alone."""


class Crowd(msgspec.Struct, frozen=True, kw_only=True):
    """The broker's remark on an answer, where the lane would take few more requests of its caller, or none."""

    room: int
    wait_ms: float
    """How long one more would wait: when to come back if there is no room."""


class Done(Message, frozen=True, kw_only=True):
    """A finished request, worker to broker and broker to client.

    Blob: the JSON of `predictions` and `outputs`; of raw tensors the list of outputs, and the bytes of the binary ones.
    """

    request_id: Name
    engine: str
    precision: str
    batch_size: int
    queue_ms: float
    decode_ms: float
    inference_ms: float
    cut: Cut | None = None
    """Said once a batch, with the first of its answers."""
    crowd: Crowd | None = None


class Failed(Message, frozen=True, kw_only=True):
    """A request that ended in an error; `code` is one of `shared.errors`.

    The broker sends it too: refusals, deadlines, lost workers.
    """

    request_id: Name
    code: str
    message: str
    retry_after_ms: float | None = None
    crowd: Crowd | None = None


# --- broker -> inferencer -------------------------------------------------------------------------------------------


class Assign(Message, frozen=True, kw_only=True):
    """Work. `ttl_ms` bounds the inference from here on; `waited_ms` is what the request spent in the lane."""

    request_id: Name
    model_id: Name
    form: Form
    ttl_ms: float
    waited_ms: float
    alone: bool = False
    """Run without batch-mates: its last batch died with the worker, and the guilty one must show itself."""
    top_k: int = 5
    frames_per_second: float = 1.0
    """Of a video: how many of its frames are looked at."""
    raw_outputs: bool = False
    rows: int = 1
    """Of raw tensors, as in `Submit`."""
    wanted: list[Name] = []
    """Where its model has to be loaded: the models of the requests that wait in the lane, as the last to make room."""
    traceparent: Name = ""


class WhoAreYou(Message, frozen=True, kw_only=True):
    """Introduce yourself with `Ready`: the broker does not know the sender (it restarted, or gave the worker up).

    It also probes a worker that has been silent for some seconds: to one that is gone it cannot be delivered.
    """


# --- broker -> everyone (PUB) ---------------------------------------------------------------------------------------


class Event(Message, frozen=True, kw_only=True):
    """A hint that something changed; may be lost, the database is the truth. `seq` counts by one within a `boot_id`."""

    seq: int
    boot_id: Name
    topic: Name
    time: str
    body: dict[str, Any] = {}


ToBroker = Submit | Cancel | Publish | AskStatus | Ready | Heartbeat | Bye | Done | Failed
ToClient = Done | Failed | Status
ToWorker = Assign | WhoAreYou
