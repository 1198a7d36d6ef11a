"""The broker's decisions, without sockets and clocks: a message and the time go in, messages to send come out.

It promises that every `Submit` gets exactly one `Done` or `Failed` once time passes, unless its client cancels it while
it waits, and that no worker holds more requests than its `Ready` allowed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence, Sized
from typing import NamedTuple

import msgspec

from broker.lane import Lane, Request
from broker.pace import Pace, retry_after_s
from broker.roster import Roster, Worker
from shared import clock
from shared.errors import (
    AppError,
    Conflict,
    DeadlineExceeded,
    InvalidInput,
    PoisonRequest,
    QueueFull,
    TooLarge,
    Unavailable,
)
from shared.wire.messages import (
    DEAD_AFTER_S,
    HEARTBEAT_S,
    WORKERS,
    AskStatus,
    Assign,
    Bye,
    Cancel,
    Crowd,
    Done,
    Event,
    Failed,
    Heartbeat,
    Message,
    Publish,
    Ready,
    Status,
    Submit,
    ToBroker,
    WhoAreYou,
    WorkerStatus,
)

PROBE_AFTER_S = 2.5 * HEARTBEAT_S
MAX_TTL_MS = 86_400_000.0
RESTART_S = 1.0
"""What a restarted process takes to come back, roughly: the advice that goes with `Unavailable`."""
ALWAYS = 128
"""Images that may be ahead of a request however slow the model is, so that a hundred clients that ask again once they
are answered are never refused."""
OURS = frozenset({AppError.code, Unavailable.code})
"""Codes of a worker that speak against the worker and not against the request."""
FEW = 16
"""Clients are told how many more requests the lane would take of a caller when there are fewer than this."""


class Outgoing(NamedTuple):
    """One message to send: to a peer by identity, or, with `to=None`, to every subscriber."""

    to: bytes | None
    message: Message
    blobs: Sequence[Sized] = ()


class Core:
    """The inference lane, its workers, and the relay of events.

    Args:
        boot_id: Names this run of the broker.
        lane: Where requests wait; its bounds are refusals.
        patience_s: Who would wait longer than this, at the measured pace, is refused as well.
        wall: The wall clock as it is written into events.
    """

    def __init__(
        self,
        boot_id: str,
        lane: Lane,
        patience_s: float,
        wall: Callable[[], str] = lambda: clock.iso(clock.now_ms()),
    ) -> None:
        self.boot_id = boot_id
        self._patience_s = patience_s
        self.draining = False
        self.roster = Roster()
        self.lane = lane
        self._wall = wall
        self._pace = Pace()
        self._requests: dict[str, Request] = {}
        self._out: list[Outgoing] = []
        self._seq = 0
        self._completed = 0
        self._failed = 0
        self._cold = 0
        self._lines_turn = False
        """Whether what waits in line comes before what was set aside."""
        self._cancelled = 0

    # --- what happens -----------------------------------------------------------------------------------------------

    def handle(self, now_s: float, sender: bytes, message: ToBroker, blobs: Sequence[Sized] = ()) -> list[Outgoing]:
        """A message arrived."""
        match message:
            case Submit():
                self._submit(now_s, sender, message, blobs)
            case Done() | Failed():
                self._answered(now_s, sender, message, blobs)
            case AskStatus():
                self._send(sender, self._status(now_s))
            case Publish():
                self._publish(message.topic, message.body)
            case Heartbeat():
                self._heartbeat(now_s, sender, message)
            case Ready():
                self._ready(now_s, sender, message)
            case Cancel():
                self._cancel(sender, message.request_id)
            case Bye():
                self._bye(sender, message)
        return self._decided(now_s)

    def tick(self, now_s: float) -> list[Outgoing]:
        """Time passed; call it a few times a second."""
        for request in self.lane.expired(now_s):
            self._refuse(request, _too_late(request))
        for worker in self.roster:
            self._look_after(now_s, worker)
        return self._decided(now_s)

    def undelivered(self, now_s: float, lost: Outgoing) -> list[Outgoing]:
        """A message could not be sent: its receiver is gone, or does not read. Clients that vanished are forgotten."""
        worker = self.roster.get(lost.to) if lost.to is not None else None
        if worker is not None:
            if isinstance(lost.message, Assign) and (request := worker.holds.pop(lost.message.request_id, None)):
                self._lose(worker)
                self.lane.put_back(request)  # it never got there, so it carries no blame
            else:
                self._lose(worker)
        return self._decided(now_s)

    def drain(self) -> None:
        """Take nothing new from now on."""
        self.draining = True

    @property
    def idle(self) -> bool:
        """Whether no client waits for an answer."""
        return all(request.answered for request in self._requests.values())

    def abandon(self) -> list[Outgoing]:
        """The broker ends soon: answer everybody who still waits. What workers still answer is dropped."""
        for request in self.lane.clear():
            self._refuse(request, _restarting())
        for worker in self.roster:
            for request in worker.unanswered:
                self._give_up(request, _restarting())
        return self._flushed()

    # --- requests ---------------------------------------------------------------------------------------------------

    def _submit(self, now_s: float, client: bytes, submit: Submit, blobs: Sequence[Sized]) -> None:
        request = Request(submit, client, blobs, now_s, now_s + submit.queue_ttl_ms / 1000)
        refusal = self._refusal(submit, request.size_bytes)
        if refusal is not None:
            self._fail(client, submit.request_id, refusal)
            return
        if not self._admit(now_s, request):
            self._send_away(now_s, request)
            return
        self._requests[submit.request_id] = request
        self.lane.append(request)

    def _cancel(self, client: bytes, request_id: str) -> None:
        """What a worker has, it finishes."""
        named = [self._requests.get(request_id)] if request_id else list(self._requests.values())
        for request in named:
            if request is not None and request.client == client and self.lane.remove(request):
                del self._requests[request.submit.request_id]
                self._cancelled += 1

    def _refusal(self, submit: Submit, size_bytes: int) -> AppError | None:
        if self.draining:
            return _restarting()
        if not (0 < submit.queue_ttl_ms <= MAX_TTL_MS and 0 < submit.inference_ttl_ms <= MAX_TTL_MS):
            return InvalidInput(f"Time limits must be above 0 and at most {MAX_TTL_MS:.0f} ms.")
        if submit.request_id in self._requests:
            return Conflict(f"A request with the id {submit.request_id!r} is still being worked on. Use a new id.")
        if size_bytes > self.lane.limit_bytes:
            return TooLarge(
                f"The request has {size_bytes} bytes, at most {self.lane.limit_bytes} fit (INFERENCE_QUEUE_MB)."
            )
        if not self.roster.serving:
            return Unavailable("No inference worker is running. Try again in a moment.", retry_after_s=RESTART_S)
        return None

    def _admit(self, now_s: float, request: Request) -> bool:
        """Make sure that a request may wait; who crowds the lane gives way to who does not."""
        if self.lane.images:
            limit = self._ahead_at_most(now_s, request.submit.queue_ttl_ms / 1000)
            if self.lane.images > limit and self.lane.ahead(request.submit.caller) > limit:
                return False
        if not self.lane.admits(request.size_bytes):
            for other in self.lane.give_way(request):
                del self._requests[other.submit.request_id]
                self._send_away(now_s, other)
        return self.lane.admits(request.size_bytes)

    def _ahead_at_most(self, now_s: float, ttl_s: float) -> float:
        """How many images may be ahead of a request."""
        per_s = self._pace.per_s(now_s)
        return math.inf if per_s is None else min(max(ALWAYS, per_s * self._patience_s), per_s * ttl_s)

    def _send_away(self, now_s: float, request: Request) -> None:
        """Too much waits for this request to wait as well."""
        self._failed += 1
        caller, per_s = request.submit.caller, self._pace.per_s(now_s)
        ahead = self.lane.ahead(caller)
        text = f"{len(self.lane)} requests with {self.lane.queued_bytes} bytes wait"
        if not self.lane.admits(request.size_bytes):
            text += ", and there may be no more (INFERENCE_QUEUE, INFERENCE_QUEUE_MB)"
        elif per_s is not None:
            text += f"; yours would wait {ahead / per_s:.1f} s"
        failed = Failed(
            request_id=request.submit.request_id,
            code=QueueFull.code,
            message=f"{text}. Try again later.",
            retry_after_ms=1000 * retry_after_s(ahead, per_s),
        )
        self._send(request.client, self._with_crowd(now_s, caller, failed))

    def _with_crowd(self, now_s: float, caller: str, message: Done | Failed) -> Done | Failed:
        """The answer, which also says how many more requests of its caller there is room for where there are few."""
        room = self._room(now_s, caller)
        if room >= FEW:
            return message
        wait_ms = 1000 * retry_after_s(self.lane.ahead(caller), self._pace.per_s(now_s))
        return msgspec.structs.replace(message, crowd=Crowd(room=room, wait_ms=wait_ms))

    def _room(self, now_s: float, caller: str) -> int:
        """How many more requests of one image each would be taken of a caller, at least; `FEW` stands for any more."""
        lane, limit = self.lane, self._ahead_at_most(now_s, math.inf)
        room = FEW
        if lane.images + FEW * (lane.callers + 1) > limit:
            spare = limit - lane.ahead(caller)
            room = 0 if spare < 0 else min(FEW, int(spare / max(1, lane.callers)) + 1)
        if lane.limit - len(lane) < room and lane.crowds(caller):
            room = lane.limit - len(lane)
        return room

    def _dispatch(self, now_s: float) -> None:
        """Give away what waits until nobody takes any more.

        What was set aside and what waits in line take turns: neither waits until the other is through.
        """
        while len(self.lane) and any(self._dispatch_one(now_s, aside) for aside in self._sources()):
            pass

    def _sources(self) -> Sequence[str | None]:
        """Where the next request may come from: models that some were set aside for, and the line, which is None."""
        aside = self.lane.aside
        return (None, *aside) if self._lines_turn else (*aside, None)

    def _dispatch_one(self, now_s: float, aside: str | None) -> bool:
        """Give away the head of the line, or of what was set aside for a model; false where nobody takes it."""
        request = self.lane.head(aside)
        if request is None:
            return False
        if now_s >= request.deadline_s:
            self._refuse(self.lane.pop(aside), _too_late(request))
        elif (worker := self.roster.pick(request)) is not None:
            self._count_cold(request)
            self._assign(now_s, worker, self.lane.pop(aside))
            self._lines_turn = aside is not None
        elif aside is None and self.roster.waits_for_model(request):
            self._count_cold(request)
            if not self.lane.set_aside():
                self._refuse(self.lane.pop(), _models_load())
        else:
            return False
        return True

    def _count_cold(self, request: Request) -> None:
        """Once each: its turn came, and its model was not in memory."""
        if not request.cold and not self.roster.has(request):
            request.cold = True
            self._cold += 1

    def _assign(self, now_s: float, worker: Worker, request: Request) -> None:
        submit = request.submit
        if request.assigned_s is None:
            request.deadline_s = now_s + submit.inference_ttl_ms / 1000
        request.assigned_s = worker.used_s = now_s
        worker.holds[submit.request_id] = request
        worker.strays.discard(submit.request_id)
        assign = Assign(
            request_id=submit.request_id,
            model_id=submit.model_id,
            form=submit.form,
            ttl_ms=(request.deadline_s - now_s) * 1000,
            waited_ms=(now_s - request.received_s) * 1000,
            alone=request.alone,
            top_k=submit.top_k,
            frames_per_second=submit.frames_per_second,
            raw_outputs=submit.raw_outputs,
            rows=submit.rows,
            traceparent=submit.traceparent,
            wanted=[] if submit.model_id in worker.loaded else sorted(self._waiting()),
        )
        self._send(worker.identity, assign, request.blobs)

    def _answered(self, now_s: float, sender: bytes, message: Done | Failed, blobs: Sequence[Sized]) -> None:
        worker = self._known(now_s, sender)
        if worker is None:
            return
        request = worker.holds.pop(message.request_id, None)
        if request is None:
            worker.strays.discard(message.request_id)
            self._let_go(worker)
            return
        del self._requests[message.request_id]
        if isinstance(message, Done) or message.code in OURS:
            worker.did(now_s, well=isinstance(message, Done))
        self._pace.answered(now_s, request.images)
        if not request.answered:
            self._completed += isinstance(message, Done)
            self._failed += isinstance(message, Failed)
            if len(self.lane):
                self._dispatch(now_s)  # before it is said how much room there is
                message = self._with_crowd(now_s, request.submit.caller, message)
            self._send(request.client, message, blobs)
        self._let_go(worker)

    def _refuse(self, request: Request, error: AppError) -> None:
        """Answer a request that no worker will answer any more."""
        del self._requests[request.submit.request_id]
        self._fail(request.client, request.submit.request_id, error)

    def _give_up(self, request: Request, error: AppError) -> None:
        """Answer a request whose worker is still at it: the credit stays taken until that one answers or dies."""
        request.answered = True
        self._fail(request.client, request.submit.request_id, error)

    def _fail(self, client: bytes, request_id: str, error: AppError) -> None:
        self._failed += 1
        retry_after_ms = None if error.retry_after_s is None else error.retry_after_s * 1000
        failed = Failed(request_id=request_id, code=error.code, message=error.message, retry_after_ms=retry_after_ms)
        self._send(client, failed)

    # --- workers ----------------------------------------------------------------------------------------------------

    def _ready(self, now_s: float, sender: bytes, ready: Ready) -> None:
        worker = self.roster.get(sender)
        if worker is not None and worker.boot_id != ready.boot_id:
            self._lose(worker)
            worker = None
        if worker is None:
            worker = Worker(sender, ready.worker_id, ready.boot_id, 0, now_s, now_s)
            self.roster.add(worker)
            self._publish(WORKERS, {"worker_id": worker.name, "state": "ready"})
        worker.credit = max(0, ready.credit)
        worker.has_now(ready.models)
        self._take_back(worker, set(ready.inflight))
        worker.strays = set(ready.inflight) - worker.holds.keys()
        worker.seen_s = now_s

    def _heartbeat(self, now_s: float, sender: bytes, heartbeat: Heartbeat) -> None:
        worker = self.roster.get(sender)
        if worker is None or worker.boot_id != heartbeat.boot_id:
            self._send(sender, WhoAreYou())
            return
        self._seen(now_s, worker)
        worker.has_now(heartbeat.models)
        worker.memory = heartbeat.memory

    def _bye(self, sender: bytes, bye: Bye) -> None:
        worker = self.roster.get(sender)
        if worker is not None and worker.boot_id == bye.boot_id:
            worker.leaving = True
            self._let_go(worker)

    def _known(self, now_s: float, sender: bytes) -> Worker | None:
        worker = self.roster.get(sender)
        if worker is None:
            self._send(sender, WhoAreYou())
        else:
            self._seen(now_s, worker)
        return worker

    def _seen(self, now_s: float, worker: Worker) -> None:
        """It lives. Where it was silent it is asked what it has: its connection may be another now."""
        was_silent, worker.seen_s = worker.probed_s > worker.seen_s, now_s
        if was_silent:
            self._ask(now_s, worker)

    def _ask(self, now_s: float, worker: Worker) -> None:
        worker.probed_s = now_s
        self._send(worker.identity, WhoAreYou())

    def _take_back(self, worker: Worker, inflight: set[str]) -> None:
        """What a worker was given before it was asked what it has, and does not have, somebody else gets.

        It, or its answer, was lost with a connection; nobody would ever give the credit back.
        """
        for request_id, request in reversed(list(worker.holds.items())):
            if request_id in inflight or request.assigned_s is None or request.assigned_s >= worker.probed_s:
                continue
            del worker.holds[request_id]
            if request.answered:
                del self._requests[request_id]
            else:
                self.lane.put_back(request)

    def _let_go(self, worker: Worker) -> None:
        if worker.leaving and not worker.busy:
            self.roster.remove(worker)
            self._publish(WORKERS, {"worker_id": worker.name, "state": "left"})

    def _look_after(self, now_s: float, worker: Worker) -> None:
        worker.forgive(now_s)
        late = [request for request in worker.unanswered if now_s >= request.deadline_s]
        for request in late:
            worker.did(now_s, well=False)
            self._give_up(request, _too_late(request))
        if now_s - worker.seen_s > DEAD_AFTER_S:
            self._lose(worker)
        elif late or now_s - max(worker.seen_s, worker.probed_s) > PROBE_AFTER_S:
            self._ask(now_s, worker)

    def _lose(self, worker: Worker) -> None:
        self.roster.remove(worker)
        self._publish(WORKERS, {"worker_id": worker.name, "state": "lost"})
        for request in reversed(worker.holds.values()):
            if request.answered:
                del self._requests[request.submit.request_id]
            elif request.alone:
                self._refuse(request, _poison())
            else:
                request.alone = True
                self.lane.put_back(request)

    # --- what goes out ----------------------------------------------------------------------------------------------

    def _status(self, now_s: float) -> Status:
        workers = [
            WorkerStatus(
                worker_id=worker.name,
                busy=worker.busy,
                credit=worker.free,
                silent_ms=(now_s - worker.seen_s) * 1000,
                answered=worker.answered,
                failing=worker.failing,
                success_age_ms=None if worker.success_s is None else (now_s - worker.success_s) * 1000,
                models=worker.models,
                memory=worker.memory,
            )
            for worker in self.roster
        ]
        return Status(
            boot_id=self.boot_id,
            depth=len(self.lane),
            depth_limit=self.lane.limit,
            queued_bytes=self.lane.queued_bytes,
            queued_bytes_limit=self.lane.limit_bytes,
            in_flight=sum(len(worker.unanswered) for worker in self.roster),
            draining=self.draining,
            completed=self._completed,
            failed=self._failed,
            cold=self._cold,
            cancelled=self._cancelled,
            workers=workers,
            waiting=self._waiting(),
            callers=self.lane.callers,
            images_per_s=self._pace.per_s(now_s),
        )

    def _waiting(self) -> Counter[str]:
        """The requests in the lane by model."""
        return Counter(request.submit.model_id for request in self.lane)

    def _publish(self, topic: str, body: dict[str, object]) -> None:
        self._seq += 1
        event = Event(seq=self._seq, boot_id=self.boot_id, topic=topic, time=self._wall(), body=body)
        self._out.append(Outgoing(None, event))

    def _send(self, to: bytes, message: Message, blobs: Sequence[Sized] = ()) -> None:
        self._out.append(Outgoing(to, message, blobs))

    def _decided(self, now_s: float) -> list[Outgoing]:
        self._dispatch(now_s)
        if self.draining and not self.roster.serving:
            for request in self.lane.clear():
                self._refuse(request, _restarting())
        self._pace.waiting(now_s, self.lane.head() is not None)
        return self._flushed()

    def _flushed(self) -> list[Outgoing]:
        out, self._out = self._out, []
        return out


def _too_late(request: Request) -> DeadlineExceeded:
    if request.assigned_s is None:
        return DeadlineExceeded("No worker was free within the time limit. Try again when there is less to do.")
    return DeadlineExceeded("The inference did not finish within its time limit. Try fewer or smaller inputs.")


def _models_load() -> QueueFull:
    text = "Too many requests wait for models that are being loaded. Try again later."
    return QueueFull(text, retry_after_s=RESTART_S)


def _poison() -> PoisonRequest:
    return PoisonRequest("The worker that ran this request by itself stopped. Do not send this input again.")


def _restarting() -> Unavailable:
    return Unavailable("The service is restarting. Try again in a moment.", retry_after_s=RESTART_S)
