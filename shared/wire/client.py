"""The clients of the broker: `BrokerClient` for an asyncio process, `Publisher` for threads that only announce."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from shared.errors import AppError, Conflict, DeadlineExceeded, TooLarge, Unavailable, from_code
from shared.specs import Lane
from shared.wire import codec, sockets
from shared.wire.codec import BadFrames, Part
from shared.wire.door import Door
from shared.wire.messages import (
    DOORBELL,
    AskStatus,
    Cancel,
    Done,
    Failed,
    Message,
    Publish,
    Status,
    Submit,
    ToClient,
)

ASK_EVERY_S = 1.0
ASK_FIRST_EVERY_S = 0.1
LOOK_EVERY_S = 0.2
"""How often it is looked whether the broker is still connected."""
SILENT_S = 3.0
SILENT_ASKS = 3
"""Both must pass before silence counts: an event loop that was blocked itself has not asked."""
GRACE_S = 2.0
LOOK_S = 0.02
"""How often a thread that asked once looks for the answer."""
BURST = 256
"""Messages read before the event loop gets its turn again."""

logger = logging.getLogger(__name__)

Answer = tuple[Done, Sequence[bytes]]


class Cancelled(Exception):
    """Nobody waits for the answer any more: `cancel` was called."""


@dataclass(slots=True)
class _Pending:
    answer: asyncio.Future[Answer]
    overdue_s: float
    caller: str


class BrokerClient:
    """Submits predictions and awaits their answers. Lives on one event loop; `async with` opens and closes it.

    It asks the broker for its status all the time, so it knows whether one is there: when it goes away or restarts,
    everything pending fails at once instead of waiting for its deadline.

    Args:
        endpoint: The broker's ROUTER.
        client_id: The name the broker answers to; one live process each.
    """

    def __init__(self, endpoint: str, client_id: str) -> None:
        self._endpoint = endpoint
        self._identity = client_id.encode()
        self._pending: dict[str, _Pending] = {}
        self._status: Status | None = None
        self._status_s = 0.0
        self._asks_unanswered = 0
        self._door = Door(time.monotonic)
        self._unsent: list[tuple[_Pending, Sequence[Part]]] = []

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._socket = sockets.dealer(self._endpoint, self._identity)
        self._fd = sockets.fd(self._socket)
        self._loop.add_reader(self._fd, self._read)
        self._ticker = asyncio.create_task(self._tick())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ticker.cancel()
        await asyncio.gather(self._ticker, return_exceptions=True)
        self._loop.remove_reader(self._fd)
        self._lost("The service is stopping. Try again in a moment.")
        sockets.close(self._socket)

    @property
    def alive(self) -> bool:
        """Whether a broker answers."""
        return self._status is not None

    def status(self) -> tuple[Status | None, float]:
        """The broker's last word and its age in seconds; None while there is no broker that answers."""
        return self._status, self._loop.time() - self._status_s

    def entering(self, caller: str) -> contextlib.AbstractContextManager[None]:
        """Around reading a request that will be submitted.

        Raises:
            QueueFull: When entered: the broker would refuse it.
        """
        return self._door.entering(caller)

    async def submit(self, request: Submit, blobs: Sequence[bytes] = ()) -> Answer:
        """Send one prediction request and wait for its answer, at most for both its time limits and a small grace.

        Raises:
            AppError: As the broker or the worker failed it; `Unavailable` if there is no broker or it went away.
            Cancelled: `cancel` was called meanwhile.
        """
        if not self.alive:
            raise _no_broker()
        if request.request_id in self._pending:
            raise Conflict(f"A request with the id {request.request_id!r} is still being worked on. Use a new id.")
        answer: asyncio.Future[Answer] = self._loop.create_future()
        limit_s = (request.queue_ttl_ms + request.inference_ttl_ms) / 1000 + GRACE_S
        pending = _Pending(answer, self._loop.time() + limit_s, request.caller)
        self._pending[request.request_id] = pending
        self._door.sent(request.caller)
        try:
            self._send_soon(pending, codec.encode(request, blobs))
            return await answer
        except BadFrames as bad:
            raise TooLarge(f"The request cannot be sent: {bad}.") from bad
        finally:
            del self._pending[request.request_id]

    def cancel(self, request_id: str) -> None:
        """Have the `submit` of this request end now, and the request leave the lane if it waits there.

        Harmless where it was answered; what a worker has, it finishes.
        """
        pending = self._pending.get(request_id)
        if pending is None or pending.answer.done():
            return
        self._settle(request_id, Cancelled())
        self._door.left(pending.caller)
        self._send(Cancel(request_id=request_id))

    def publish(self, topic: str, body: dict[str, Any] | None = None) -> None:
        """Announce an event; it is dropped when no broker is there."""
        _publish(self._send, topic, body)

    def doorbell(self, lane: Lane) -> None:
        """Tell the idle workers of a lane that a job was queued."""
        self.publish(DOORBELL + lane)

    def _send_soon(self, pending: _Pending, frames: Sequence[Part]) -> None:
        """Send with all others of this turn of the loop: one call wakes the thread of ZeroMQ, and not each."""
        if not self._unsent:
            self._loop.call_soon(self._send_unsent)
        self._unsent.append((pending, frames))

    def _send_unsent(self) -> None:
        unsent, self._unsent = self._unsent, []
        for pending, frames in unsent:
            if pending.answer.done():
                continue  # cancelled in the same turn: what was to end it has gone ahead of it
            if self._socket.closed or not sockets.send(self._socket, frames):
                pending.answer.set_exception(_no_broker())
        self._read_swallowed()

    def _send(self, message: Message) -> bool:
        sent = sockets.send(self._socket, codec.encode(message))
        self._read_swallowed()
        return sent

    def _read_swallowed(self) -> None:
        """Sending may have swallowed the edge of an arrival."""
        if not self._socket.closed and sockets.readable(self._socket):
            self._read()

    def _read(self) -> None:
        for _ in range(BURST):
            frames = sockets.receive(self._socket)
            if frames is None:
                return
            try:
                message, blobs = codec.to_client(frames)
            except BadFrames as bad:
                logger.warning("the broker sent a bad message: %s", bad)
                continue
            self._received(message, blobs)
        self._loop.call_soon(self._read_more)

    def _read_more(self) -> None:
        if not self._socket.closed:
            self._read()

    def _received(self, message: ToClient, blobs: Sequence[bytes]) -> None:
        match message:
            case Done():
                self._hear(message)
                self._settle(message.request_id, (message, blobs))
            case Failed(request_id=request_id, code=code, message=text, retry_after_ms=retry_after_ms):
                self._hear(message)
                retry_after_s = None if retry_after_ms is None else retry_after_ms / 1000
                self._settle(request_id, from_code(code, text, retry_after_s=retry_after_s))
            case Status():
                if self._status is not None and self._status.boot_id != message.boot_id:
                    self._lost("The broker restarted while the request was under way. Try again.")
                if self._status is None:
                    self._send(Cancel())  # of an earlier process with our name, or given up when the broker was silent
                self._status, self._status_s, self._asks_unanswered = message, self._loop.time(), 0

    def _hear(self, message: Done | Failed) -> None:
        if (pending := self._pending.get(message.request_id)) is not None:
            self._door.told(pending.caller, message.crowd)

    def _settle(self, request_id: str, result: Answer | AppError | Cancelled) -> None:
        pending = self._pending.get(request_id)
        if pending is None or pending.answer.done():
            return
        if isinstance(result, Exception):
            pending.answer.set_exception(result)
        else:
            pending.answer.set_result(result)

    def _lost(self, text: str) -> None:
        self._status = None
        self._door.forget()
        for request_id in self._pending:
            self._settle(request_id, Unavailable(text, retry_after_s=ASK_EVERY_S))

    async def _tick(self) -> None:
        next_ask_s = 0.0
        while True:
            now_s = self._loop.time()
            if now_s >= next_ask_s or not self.alive:
                next_ask_s = now_s + ASK_EVERY_S
                self._ask()
            elif not sockets.writable(self._socket):
                self._lost("The broker went away while the request was under way. Try again.")
            self._read()  # last: looking swallows the edge of an arrival
            for request_id, pending in self._pending.items():
                if now_s >= pending.overdue_s:
                    self._settle(request_id, DeadlineExceeded("The request was not answered in time. Try again."))
            await asyncio.sleep(LOOK_EVERY_S if self.alive else ASK_FIRST_EVERY_S)

    def _ask(self) -> None:
        silent = self._asks_unanswered >= SILENT_ASKS and self._loop.time() - self._status_s > SILENT_S
        self._asks_unanswered += 1
        if (not self._send(AskStatus()) or silent) and self.alive:
            self._lost("The broker went away while the request was under way. Try again.")


class Publisher:
    """Announces events from a process that submits nothing. Any thread may call it, and it never waits.

    Args:
        endpoint: The broker's ROUTER.
    """

    def __init__(self, endpoint: str) -> None:
        self._socket = sockets.dealer(endpoint)
        self._lock = threading.Lock()

    def publish(self, topic: str, body: dict[str, Any] | None = None) -> None:
        """Announce an event; it is dropped when no broker is there."""
        _publish(self._send, topic, body)

    def doorbell(self, lane: Lane) -> None:
        """Tell the idle workers of a lane that a job was queued."""
        self.publish(DOORBELL + lane)

    def close(self) -> None:
        """Close the socket, once what was announced is on its way."""
        with self._lock:
            sockets.close(self._socket)

    def _send(self, message: Message) -> bool:
        with self._lock:
            return sockets.send(self._socket, codec.encode(message))


def ask_status(endpoint: str, wait_s: float = 2.0) -> Status | None:
    """The broker's status, for a thread that asks once; None when none answers within `wait_s`.

    Args:
        endpoint: The broker's ROUTER.
        wait_s: Bounds the call.
    """
    socket = sockets.dealer(endpoint, f"asks-{os.getpid()}".encode())
    asked, end_s = False, time.monotonic() + wait_s
    try:
        while time.monotonic() < end_s:
            asked = asked or sockets.send(socket, codec.encode(AskStatus()))  # refused until it is connected
            while (frames := sockets.receive(socket)) is not None:
                with contextlib.suppress(BadFrames):
                    message, _ = codec.to_client(frames)
                    if isinstance(message, Status):
                        return message
            time.sleep(LOOK_S)
        return None
    finally:
        sockets.close(socket)


def _publish(send: Callable[[Message], bool], topic: str, body: dict[str, Any] | None) -> None:
    try:
        send(Publish(topic=topic, body=body or {}))
    except BadFrames as bad:
        logger.warning("event %s was not sent: %s", topic, bad)


def _no_broker() -> Unavailable:
    return Unavailable("The broker is not running. Try again in a moment.", retry_after_s=ASK_EVERY_S)
