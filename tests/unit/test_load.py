"""The load generator: its schedule, what latency counts from, and what it makes of a service that fails."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarker import load
from shared.specs import MOST_REQUESTS, Loop

Reply = tuple[int, bytes]
PREDICTION = json.dumps(
    {
        "engine": "onnxruntime",
        "precision": "fp32",
        "batch_size": 4,
        "latency_ms": {"queue": 1.5, "decode": 0.25, "inference": 2.0, "total": 3.75},
    }
).encode()
REQUEST = b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: 3\r\n\r\nabc"
STALL_S = 0.8


@contextlib.contextmanager
def serving(answer: Callable[[int], Reply | None], tls: tuple[Path, Path] | None = None) -> Iterator[load.Target]:
    """A server whose n-th request (from 0) is answered by `answer(n)`; None closes the connection instead.

    With a certificate and its key it speaks HTTPS.
    """
    numbers = itertools.count()

    class Talk(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):
                while self._request():
                    if (reply := answer(next(numbers))) is None:
                        break
                    status, body = reply
                    self.wfile.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)

        def _request(self) -> bool:
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                pass
            return bool(line) and self.rfile.read(3) == b"abc"

    class Server(socketserver.ThreadingTCPServer):
        request_queue_size = 64

    with Server(("127.0.0.1", 0), Talk) as server:
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield load.Target("127.0.0.1", server.server_address[1], None, [REQUEST])
        finally:
            server.shutdown()
            thread.join()


def well(_number: int) -> Reply:
    """Every request is answered at once."""
    return 200, PREDICTION


def stalling(after: int) -> Callable[[int], Reply]:
    """Answers at once, but from the `after`-th request on nothing is answered for `STALL_S`, once."""
    over = threading.Event()

    def answer(number: int) -> Reply:
        if number == after:
            time.sleep(STALL_S)
            over.set()
        elif number > after:
            over.wait(10)
        return 200, PREDICTION

    return answer


def share_slower(loop: Loop, than_s: float) -> float:
    """Of the answered requests."""
    return float(np.mean(np.asarray(loop.latencies_ns) > than_s * 1e9))


# --- the schedule ----------------------------------------------------------------------------------------------------


@given(rate=st.floats(0.5, 500), seconds=st.floats(1, 20), seed=st.integers(0, 2**32 - 1))
def test_a_schedule_is_in_order_within_its_time_and_repeatable(rate: float, seconds: float, seed: int) -> None:
    due = load.schedule(rate, seconds, seed)
    assert due == sorted(due) == load.schedule(rate, seconds, seed)
    assert all(0 <= at < seconds * 1e9 for at in due)


def test_arrivals_are_a_poisson_process() -> None:
    gaps = np.diff(load.schedule(1000.0, 60.0, seed=3)) / 1e9
    assert gaps.mean() == pytest.approx(1 / 1000, rel=0.02)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.02), "exponential: as spread as it is long"
    assert load.schedule(100.0, 5.0, 1) != load.schedule(100.0, 5.0, 2)


def test_a_schedule_has_an_end() -> None:
    assert len(load.schedule(10_000.0, 300.0, 0)) == MOST_REQUESTS


# --- what latency counts from ---------------------------------------------------------------------------------------


def test_a_stall_shows_in_the_open_loop_and_not_in_the_closed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coordinated omission: one closed-loop client sees a stall once, whoever would have come meanwhile not at all."""
    monkeypatch.setattr(load, "KEPT", MOST_REQUESTS)
    with serving(stalling(after=20)) as target:
        closed = load.run(load.closed(target, 1, 2.0))
    assert max(closed.latencies_ns) >= STALL_S * 1e9, "the stall happened"
    assert share_slower(closed, STALL_S / 2) < 0.05
    due = load.schedule(100.0, 2.0, seed=5)
    with serving(stalling(after=20)) as target:
        opened = load.run(load.open_(target, 4, 100.0, due))
    assert opened.answered == opened.sent == len(due)
    assert opened.scheduled_ns == due
    caught = [at for at in due if due[20] <= at < due[20] + STALL_S / 2 * 1e9]
    assert share_slower(opened, STALL_S / 2) * len(due) >= len(caught) > 20
    assert max(opened.latencies_ns) >= STALL_S * 1e9


def test_waiting_for_a_connection_is_part_of_the_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "CONNECTIONS", 2)

    def slowly(_number: int) -> Reply:
        time.sleep(0.1)
        return 200, PREDICTION

    with serving(slowly) as target:
        opened = load.run(load.open_(target, 2, 50.0, [0] * 6))
    assert opened.answered == 6
    assert max(opened.latencies_ns) >= 0.3e9, "six at once over two connections, 0.1 s each"
    assert max(opened.late_ns) >= 0.2e9


def test_connections_are_open_before_the_closed_loop_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = load.connect

    async def slowly(*given: Any) -> Any:
        await asyncio.sleep(0.3)
        return await connect(*given)

    monkeypatch.setattr(load, "connect", slowly)
    with serving(well) as target:
        loop = load.run(load.closed(target, 3, 60.0, most=30))
    assert loop.answered == loop.sent
    assert max(loop.late_ns) < 0.3e9, "no request waited for its connection"


# --- what is counted ------------------------------------------------------------------------------------------------


def test_the_parts_of_the_latency_and_what_served_come_from_the_answers() -> None:
    with serving(well) as target:
        loop = load.run(load.closed(target, 3, 60.0, most=30))
    assert (loop.kind, loop.users, loop.rate) == ("closed", 3, None)
    assert 30 <= loop.sent == loop.answered <= 32
    assert [(each.engine, each.precision, each.batch_size, each.answers) for each in loop.served] == [
        ("onnxruntime", "fp32", 4, loop.answered)
    ]
    assert (set(loop.queue_us), set(loop.decode_us), set(loop.inference_us)) == ({1500}, {250}, {2000})
    assert loop.cpu_s > 0
    assert loop.elapsed_ns >= max(at + took for at, took in zip(loop.scheduled_ns, loop.latencies_ns, strict=True))


def test_what_fails_is_a_series_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "PAUSE_S", 0.0)
    kinds: list[Reply | None] = [
        (200, PREDICTION),
        (429, b'{"code": "queue_full", "detail": "1000 requests wait already."}'),
        (502, b"<html>bad gateway</html>"),
        (200, b"not JSON"),
        None,
    ]

    def answer(number: int) -> Reply | None:
        return kinds[number % len(kinds)]

    with serving(answer) as target:
        loop = load.run(load.closed(target, 1, 60.0, most=25))
    assert loop.answered == len(loop.latencies_ns) == 5
    assert {(each.code, each.status): each.count for each in loop.failures} == {
        ("queue_full", 429): 5,
        ("http 502", 502): 5,
        ("no prediction", 200): 5,
        ("no answer", None): 5,
    }
    assert loop.sent == 25
    queue_full = next(each for each in loop.failures if each.status == 429)
    assert queue_full.example == "1000 requests wait already."
    assert 0 <= queue_full.first_ns < queue_full.last_ns


@pytest.mark.parametrize("kind", ["closed", "open"])
def test_nobody_listens(kind: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    target = load.Target("127.0.0.1", port, None, [REQUEST])
    work = load.closed(target, 2, 0.5) if kind == "closed" else load.open_(target, 2, 20.0, load.schedule(20.0, 0.5, 0))
    loop = load.run(work)
    assert loop.answered == 0
    assert loop.sent == sum(each.count for each in loop.failures) > 0
    assert {(each.code, each.status) for each in loop.failures} == {("no answer", None)}
    assert "refused" in loop.failures[0].example
    assert loop.elapsed_ns >= loop.failures[0].last_ns > 0, "time without answers counts"


def test_a_service_that_never_answers_ends_the_open_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "WITHIN_S", 0.3)
    monkeypatch.setattr(load, "CONNECTIONS", 2)

    over = threading.Event()

    def never(_number: int) -> None:
        over.wait(30)

    with serving(never) as target:
        loop = load.run(load.open_(target, 1, 50.0, load.schedule(50.0, 0.4, 0)))
        over.set()
    assert loop.answered == 0
    assert loop.sent == len(load.schedule(50.0, 0.4, 0)) == sum(each.count for each in loop.failures)


def test_a_connection_that_was_idle_for_long_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "IDLE_NS", 200_000_000)
    opened: list[int] = []
    connect = load.connect

    async def counting(*given: Any) -> Any:
        opened.append(1)
        return await connect(*given)

    monkeypatch.setattr(load, "connect", counting)
    with serving(well) as target:
        loop = load.run(load.open_(target, 3, 1.0, [0, 600_000_000, 1_200_000_000]))
    assert (loop.answered, loop.failures) == (3, [])
    assert len(opened) >= 5, "three at the start, and one for each request that came after a pause"


def test_of_many_answers_each_so_many_th_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "KEPT", 10)
    with serving(well) as target:
        loop = load.run(load.closed(target, 1, 60.0, most=25))
    assert (loop.answered, loop.every, len(loop.latencies_ns)) == (25, 3, 9)
    assert loop.scheduled_ns == sorted(loop.scheduled_ns)
