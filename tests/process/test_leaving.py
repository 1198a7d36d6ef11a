"""Clients that break their connections while predictions wait: what they asked for does not stand in others' way."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from tests.process.platform import DIGITS, Platform, running, wait_for

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

PICTURE = min((DIGITS / "held-out").glob("*.png")).read_bytes()
CLIENTS, ROOM = 100, 120


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    """One inference process, and a queue with room for the clients once."""
    with running(PREPARERS="1", INFERENCE_WORKERS="2", INFERENCE_PROCESSES="1", INFERENCE_QUEUE=str(ROOM)) as up:
        wait_for(up.ready, what="readiness")
        yield up


def figure(platform: Platform, key: str, name: str) -> float:
    page = httpx.get(f"{platform.url}/metrics", headers={"X-API-Key": key}, timeout=30).text
    return sum(float(line.rpartition(" ")[2]) for line in page.split("\n") if line.startswith(name))


@pytest.mark.parametrize("path", ["/api/v1/inference/predict?model_id=%s", "/v2/models/%s/infer"])
def test_a_hundred_broken_connections_keep_no_hundred_others_out(
    platform: Platform, admin: httpx.Client, digits: str, path: str
) -> None:
    key = str(admin.post("/auth/api-keys", json={"name": "leaving"}).json()["key"])
    assert admin.post(f"/inference/predict?model_id={digits}", content=PICTURE).status_code == 200
    numbers = b'{"inputs":[{"name":"image","shape":[1,1,8,8],"datatype":"FP32","data":[%s]}]}' % b",".join(
        [b"0.5"] * 64
    )
    body = numbers if path.startswith("/v2") else PICTURE
    head = f"POST {path % digits} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    before = figure(platform, key, "cvp_inference_cancelled_total")
    inferencer = psutil.Process(platform.pids("inferencer")[0])

    def under_way() -> bool:
        """Whether the broker has what all of them asked for."""
        names = "cvp_inference_queue_depth ", "cvp_inference_in_flight "
        return sum(figure(platform, key, name) for name in names) >= CLIENTS

    def ask(_: int) -> int:
        return httpx.post(
            platform.url + path % digits, content=body, headers={"X-API-Key": key}, timeout=60
        ).status_code

    inferencer.send_signal(signal.SIGSTOP)
    try:
        with contextlib.ExitStack() as connections:
            for _ in range(CLIENTS):
                connection = connections.enter_context(
                    socket.create_connection(("127.0.0.1", int(platform.env["PORT"])))
                )
                connection.sendall(head.encode() + body)
            wait_for(under_way, what="a hundred predictions under way")
        with ThreadPoolExecutor(CLIENTS) as pool:
            asked = [pool.submit(ask, number) for number in range(CLIENTS)]
            wait_for(lambda: figure(platform, key, "cvp_inference_queue_depth ") >= CLIENTS, what="a hundred new ones")
            inferencer.send_signal(signal.SIGCONT)
            assert [answer.result() for answer in asked] == [200] * CLIENTS
    finally:
        inferencer.send_signal(signal.SIGCONT)
    assert figure(platform, key, "cvp_inference_cancelled_total") - before >= CLIENTS / 2
    assert figure(platform, key, 'cvp_inference_errors_total{code="queue_full"}') == 0
