"""The inferencer's end of the wire: takes assignments, gives answers, and shows the broker that it lives."""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from shared.errors import AppError, TooLarge
from shared.ids import new_id
from shared.process import Stop
from shared.wire import codec, sockets
from shared.wire.codec import BadFrames, Part
from shared.wire.messages import (
    HEARTBEAT_S,
    Assign,
    Bye,
    Done,
    Failed,
    Heartbeat,
    LoadedModel,
    Memory,
    Message,
    Ready,
    ToWorker,
    WhoAreYou,
)
from shared.wire.sockets import Socket

REACH_EVERY_S = 0.1
"""How often an unreachable broker is tried again."""
DRAIN_S = 30.0
CROSSING_S = 0.1
"""After `Bye`, how long an assignment that was already on its way may take to arrive."""
BURST = 64

logger = logging.getLogger(__name__)


class WorkerLink:
    """Connects one inference process to the broker. `run` is the IO loop; `deliver` may be called from any thread.

    An answer is sent by the thread that has it, while the loop waits: another thread would take its time to wake up.
    The loop therefore waits for descriptors and not in the socket, which belongs to whoever holds the lock.

    It survives restarts of the broker: it introduces itself again, and answers to requests that the new broker does not
    know are dropped there.

    Args:
        endpoint: The broker's ROUTER.
        worker_id: The name the broker answers to; one live process each.
        credit: Requests to be given at once.
        on_assign: Takes an assignment and its blobs; called on the IO loop, so it only puts them somewhere. An error it
            raises is the answer to the request.
        loaded: The models in memory now, for the heartbeat; called on the IO loop, so it must be quick.
        memory: What they take, likewise.
    """

    def __init__(
        self,
        endpoint: str,
        worker_id: str,
        credit: int,
        on_assign: Callable[[Assign, Sequence[bytes]], None],
        loaded: Callable[[], list[LoadedModel]],
        *,
        memory: Callable[[], Memory] = Memory,
    ) -> None:
        self._endpoint = endpoint
        self._worker_id = worker_id
        self._credit = credit
        self._on_assign = on_assign
        self._loaded, self._memory = loaded, memory
        self._boot_id = new_id("boot")
        self._lock = threading.Lock()
        self._socket: Socket | None = None
        self._held: set[str] = set()
        self._outbox: deque[tuple[str, Sequence[Part]]] = deque()
        # Never closed: a thread that answers late must not write into a descriptor that is something else by then.
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._introduced = False
        self._leaving = False
        self._next_beat_s = 0.0
        self._changed = False

    def deliver(self, answers: Sequence[tuple[Done | Failed, Sequence[bytes]]]) -> None:
        """Hand over answers to assignments; thread-safe, never waits. One that is too large becomes a `Failed`."""
        for message, blobs in answers:
            try:
                frames = codec.encode(message, blobs)
            except BadFrames as bad:
                frames = codec.encode(_failed(message.request_id, TooLarge(f"The answer cannot be sent: {bad}.")))
            self._outbox.append((message.request_id, frames))
        if answers and not self._sent_here():
            os.eventfd_write(self._wake_fd, 1)

    def _sent_here(self) -> bool:
        """Send what there is to send from this thread; false where that is left to the loop, which has to be woken."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if self._socket is None:
                return False
            self._flush(self._socket)
            return not self._outbox and not sockets.readable(self._socket)  # sending may have swallowed an arrival
        finally:
            self._lock.release()

    def tell(self) -> None:
        """Have a heartbeat sent now: what is loaded has changed. Thread-safe, never waits."""
        self._changed = True
        os.eventfd_write(self._wake_fd, 1)

    def run(self, stop: Stop) -> None:
        """Serve until a stop is wished; then take nothing new, and return when all is answered or 30 s have passed."""
        socket = self._socket = sockets.dealer(self._endpoint, self._worker_id.encode())
        try:
            self._serve(socket, until=lambda: bool(stop), also_fd=stop.read_fd)
            self._leaving = True
            with self._lock:
                self._send(socket, Bye(boot_id=self._boot_id))
            now_s = time.monotonic()
            self._serve(socket, until=lambda: self._drained(time.monotonic() - now_s))
        finally:
            with self._lock:
                self._socket = None
                sockets.close(socket)

    def _drained(self, since_bye_s: float) -> bool:
        return since_bye_s >= DRAIN_S or (not self._held and since_bye_s >= CROSSING_S)

    def _serve(self, socket: Socket, until: Callable[[], bool], also_fd: int | None = None) -> None:
        poller = select.poll()
        for descriptor in (sockets.fd(socket), self._wake_fd, also_fd):
            if descriptor is not None:
                poller.register(descriptor, select.POLLIN)
        more = True
        while not until():
            left_s = min(self._next_beat_s - time.monotonic(), REACH_EVERY_S if self._leaving else HEARTBEAT_S)
            if self._wake_fd in dict(poller.poll(0 if more else max(0, int(left_s * 1000) + 1))):
                os.eventfd_read(self._wake_fd)  # before the outbox is looked at, so that no wake-up is lost
            with self._lock:
                self._read(socket)
                self._flush(socket)
                self._beat(socket)
                more = sockets.readable(socket)

    def _read(self, socket: Socket) -> None:
        for _ in range(BURST):
            frames = sockets.receive(socket)
            if frames is None:
                return
            try:
                message, blobs = codec.to_worker(frames)
            except BadFrames as bad:
                logger.warning("the broker sent a bad message: %s", bad)
                continue
            self._received(message, blobs)

    def _received(self, message: ToWorker, blobs: Sequence[bytes]) -> None:
        match message:
            case WhoAreYou():
                self._introduced = False
                self._next_beat_s = 0.0
            case Assign(request_id=request_id) if request_id not in self._held:
                self._held.add(request_id)
                logger.debug(
                    "request taken",
                    extra={"request_id": request_id, "traceparent": message.traceparent, "model_id": message.model_id},
                )
                self._take(message, blobs)
            case Assign():
                pass  # the broker had given us up and gives us again what we are at: the one answer serves both

    def _take(self, assign: Assign, blobs: Sequence[bytes]) -> None:
        try:
            self._on_assign(assign, blobs)
        except AppError as error:
            self.deliver([(_failed(assign.request_id, error), ())])
        except Exception:
            logger.exception("a request could not be taken", extra={"request_id": assign.request_id})
            failed = _failed(assign.request_id, AppError("The inference worker failed. See its log."))
            self.deliver([(failed, ())])

    def _flush(self, socket: Socket) -> None:
        while self._outbox:
            request_id, frames = self._outbox[0]
            if not sockets.send(socket, frames):
                self._introduced = False
                return
            self._outbox.popleft()
            self._held.discard(request_id)

    def _beat(self, socket: Socket) -> None:
        now_s = time.monotonic()
        if now_s < self._next_beat_s and not (self._changed and self._introduced):
            return
        self._changed = False  # before the models are looked at, so that no change is missed
        if self._introduced or self._leaving:
            beat = Heartbeat(boot_id=self._boot_id, models=self._loaded(), memory=self._memory())
            self._introduced = self._send(socket, beat)
            self._next_beat_s = now_s + (HEARTBEAT_S if self._introduced else REACH_EVERY_S)
        else:
            self._introduced = self._introduce(socket)
            self._next_beat_s = now_s if self._introduced else now_s + REACH_EVERY_S

    def _introduce(self, socket: Socket) -> bool:
        held = sorted(self._held)
        return self._send(
            socket,
            Ready(
                worker_id=self._worker_id,
                boot_id=self._boot_id,
                credit=self._credit,
                inflight=held,
                models=self._loaded(),
            ),
        )

    def _send(self, socket: Socket, message: Message) -> bool:
        return sockets.send(socket, codec.encode(message))


def _failed(request_id: str, error: AppError) -> Failed:
    retry_after_ms = None if error.retry_after_s is None else error.retry_after_s * 1000
    return Failed(request_id=request_id, code=error.code, message=error.message, retry_after_ms=retry_after_ms)
