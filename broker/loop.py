"""The broker's sockets and its clock: frames in, decisions of the core, frames out. One thread, and nothing blocks."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import zmq

from broker.core import Core, Outgoing
from broker.lane import Lane
from shared.config import Settings
from shared.ids import new_id
from shared.process import Stop
from shared.wire import codec, sockets
from shared.wire.codec import BadFrames, Part
from shared.wire.messages import WORKERS, Event
from shared.wire.sockets import Socket

TICK_MS = 100
DRAIN_S = 10.0
SETTLE_S = 0.5
"""How long the broker stays after its last answer: a client loses what it has not read yet when the connection ends."""
BURST = 64
"""Messages handled between two looks at the clock and at the wish to stop."""
REPORT_EVERY_S = 10.0

logger = logging.getLogger(__name__)


def main(settings: Settings, stop: Stop) -> None:
    """Run the broker until it is asked to stop."""
    lane = Lane(settings.inference_queue, settings.inference_queue_mb << 20)
    core = Core(new_id("boot"), lane, settings.inference_queue_s)
    router = sockets.router(settings.broker_endpoint)
    events = sockets.publisher(settings.events_endpoint)
    try:
        Loop(core, router, events).run(stop)
    finally:
        sockets.close(router)
        sockets.close(events)


class Loop:
    """Runs a core over a ROUTER for messages and a PUB for events."""

    def __init__(self, core: Core, router: Socket, events: Socket) -> None:
        self._core = core
        self._router = router
        self._events = events
        self._next_tick_s = 0.0
        self._refused = 0
        self._next_report_s = 0.0

    def run(self, stop: Stop) -> None:
        """Serve until a stop is wished; then refuse what is new, finish what is here, answer whoever still waits."""
        self._serve(until=lambda: bool(stop), wake_fd=stop.read_fd)
        logger.info("draining")
        self._core.drain()
        drained_s = time.monotonic() + DRAIN_S
        self._serve(until=lambda: self._core.idle or time.monotonic() >= drained_s)
        self._send_all(self._core.abandon())
        settled_s = time.monotonic() + SETTLE_S
        self._serve(until=lambda: time.monotonic() >= settled_s)

    def _serve(self, until: Callable[[], bool], wake_fd: int | None = None) -> None:
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        if wake_fd is not None:
            poller.register(wake_fd, zmq.POLLIN)
        while not until():
            poller.poll(TICK_MS)
            self._receive_burst()
            now_s = time.monotonic()
            if now_s >= self._next_tick_s:
                self._next_tick_s = now_s + TICK_MS / 1000
                self._send_all(self._core.tick(now_s))

    def _receive_burst(self) -> None:
        """Handle what is there, then send: a message to a thread of ZeroMQ that is at work costs no waking up."""
        decided: list[Outgoing] = []
        for _ in range(BURST):
            frames = sockets.receive_frames(self._router)
            if frames is None:
                break
            try:
                message, blobs = codec.to_broker(frames[1:])
            except BadFrames as bad:
                self._report(bad)
                continue
            decided += self._core.handle(time.monotonic(), frames[0].bytes, message, blobs)
        self._send_all(decided)

    def _send_all(self, decisions: Iterable[Outgoing]) -> None:
        waiting = deque(decisions)
        while waiting:
            outgoing = waiting.popleft()
            if not self._send(outgoing):
                waiting.extend(self._core.undelivered(time.monotonic(), outgoing))

    def _send(self, outgoing: Outgoing) -> bool:
        to, message, blobs = outgoing
        try:
            frames = codec.encode(message, cast(Sequence[Part], blobs))
        except BadFrames as bad:
            self._report(bad)
            return True
        if to is not None:
            return sockets.send(self._router, [to, *frames])
        if isinstance(message, Event):
            self._send_event(message, frames)
        return True

    def _send_event(self, event: Event, frames: list[Part]) -> None:
        if event.topic == WORKERS:
            logger.info("worker %s: %s", event.body.get("worker_id"), event.body.get("state"))
        sockets.send(self._events, [event.topic.encode(), *frames])

    def _report(self, bad: BadFrames) -> None:
        self._refused += 1
        now_s = time.monotonic()
        if now_s >= self._next_report_s:
            self._next_report_s = now_s + REPORT_EVERY_S
            logger.warning("refused %d bad messages so far; the last: %s", self._refused, bad)
