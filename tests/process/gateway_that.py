"""A gateway alone, with little patience for sockets: `python -m tests.process.gateway_that asks|floods|listens`.

One that `asks` pings all the time, one that `floods` has many big events, one that `listens` does neither.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from gateway import __main__ as service
from gateway import protocol, sockets
from shared import process
from shared.wire.messages import Event


class Flood:
    """Stands in for the broker's events."""

    def __init__(self, _endpoint: str) -> None:
        self._seq = 0

    async def __aenter__(self) -> Flood:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def __aiter__(self) -> Flood:
        return self

    async def __anext__(self) -> Event:
        await asyncio.sleep(0.005)
        self._seq += 1
        body = {"id": "job_1", "filling": "x" * 100_000}
        return Event(seq=self._seq, boot_id="b", topic="job.1", time="2026-01-01T00:00:00.000Z", body=body)


def main(habit: str) -> None:
    vars(service)["PING_S"] = 0.5 if habit == "asks" else 60.0
    vars(sockets)["SEND_S"] = 1.0
    vars(protocol)["HEADER_S"] = 0.7  # a socket outlives what bounds the header of a request
    if habit == "floods":
        feed: Any = Flood
        vars(service)["AsyncEventFeed"] = feed
    process.service("gateway", service.main)


if __name__ == "__main__":
    main(*sys.argv[1:])
