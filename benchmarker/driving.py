"""Drives the HTTP service in a process of its own: asks once, warms up, then the closed loop, then the open one."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable

import msgspec

from benchmarker import DriveOrder, load
from benchmarker.bodies import Body
from shared import child, config
from shared.specs import MOST_REQUESTS, Loop, MeasuredService

READY_WITHIN_S = 20.0
"""How long the first prediction is asked for again: a gateway or an inference process may just be restarting."""
AGAIN_S = 1.0
"""Between two of those."""
WARM_UP_S, WARM_UP_REQUESTS = 2.0, 5_000
SHARE = 0.5
"""Of what the closed loop reached: the rate of the open loop, where the order names none."""
NO_RATE = (
    "The open loop was not run: its rate follows from the closed loop, which got hardly an answer. "
    "Order `arrival_rate`."
)


def drive(order: DriveOrder, report: child.Report) -> MeasuredService:
    """All of it. Whatever the service does is the result."""
    target, users, seconds = _target(order), order.load.users, order.load.seconds
    tried, why = _first(target)
    if why is not None:
        return MeasuredService(reason=why, requests=tried)
    tried += load.run(load.closed(target, users, min(WARM_UP_S, seconds), WARM_UP_REQUESTS)).sent
    report({"service": "closed loop"})
    closed = load.run(load.closed(target, users, seconds))
    tried += closed.sent
    rate = order.load.arrival_rate or _half(closed, seconds)
    due = load.schedule(rate, seconds, order.seed) if rate else []
    if rate is None or not due:
        return MeasuredService(closed=closed, reason=NO_RATE, requests=tried)
    report({"service": "open loop"})
    opened = load.run(load.open_(target, users, rate, due))
    return MeasuredService(closed=closed, open=opened, requests=tried + opened.sent)


def _half(closed: Loop, seconds: float) -> float | None:
    if not closed.answered:
        return None
    return min(SHARE * closed.answered / (closed.elapsed_ns / 1e9), 0.9 * MOST_REQUESTS / seconds)


def _first(target: load.Target) -> tuple[int, str | None]:
    """Ask until there is a prediction, for `READY_WITHIN_S` and the last answer; returns how often, and why there was
    none.
    """
    end, asked = time.monotonic() + READY_WITHIN_S, 0
    while True:
        first = load.run(load.closed(target, 1, AGAIN_S, 1))
        asked += first.sent
        if first.answered:
            return asked, None
        failure = first.failures[0]
        passing = failure.status is None or failure.status in (429, 503)
        left_s = end - time.monotonic()
        if not passing or left_s <= 0:
            return asked, f"The service answered no prediction ({failure.code}): {failure.example}"
        time.sleep(min(AGAIN_S, left_s))  # this process does nothing else; who cancels, ends it


def _target(order: DriveOrder) -> load.Target:
    with os.fdopen(os.dup(order.bodies), "rb") as file:
        file.seek(0)
        bodies = msgspec.msgpack.decode(file.read(), type=list[Body])
    access = order.access
    tls: ssl.SSLContext | None = config.trusting(access.certificate) if access.certificate else None
    return load.Target(access.host, access.port, tls, [_request(order)(*body) for body in bodies])


def _request(order: DriveOrder) -> Callable[[str, bytes], bytes]:
    """Makes whole requests of bodies."""
    head = (
        f"POST /api/v1/inference/predict?model_id={order.model_id} HTTP/1.1\r\n"
        f"Host: localhost:{order.access.port}\r\n"
        f"Authorization: Bearer {order.access.key}\r\n"
    )
    return lambda kind, content: (
        f"{head}Content-Type: {kind}\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content
    )


if __name__ == "__main__":
    child.main(DriveOrder, drive)
