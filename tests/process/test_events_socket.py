"""The socket of events through the real server: what it says, and clients that were made to break it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from gateway import events
from gateway.__main__ import CLIENT_BYTES
from shared import apikeys
from shared.db import accounts, connection
from tests.conftest import eventually
from tests.process.platform import Platform, running, upload_digits, wait_for

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

HOST = "127.0.0.1"
PATH = "/api/v1/events/ws"
WITHIN_S = 5.0
"""What is promised within a second, on a machine that is busy with other tests."""


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with running() as up:
        wait_for(up.ready, what="readiness")
        yield up
        assert up.ready()
        assert "Traceback" not in up.logs()


def opened(port: int, headers: dict[str, str] | None = None, query: str = "", **options: Any) -> ClientConnection:
    url = f"ws://{HOST}:{port}{PATH}{query}"
    return connect(url, additional_headers=headers, proxy=None, compression=None, **options)


def port_of(platform: Platform) -> int:
    return int(platform.env["PORT"])


def signed(admin: httpx.Client) -> dict[str, str]:
    return {"Authorization": admin.headers["Authorization"]}


def refusal(port: int, **options: Any) -> int:
    with pytest.raises(InvalidStatus) as refused:
        opened(port, **options)
    answer = refused.value.response
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == json.loads(bytes(answer.body or b""))["request_id"]
    return answer.status_code


def farewell(client: ClientConnection, within_s: float = WITHIN_S) -> tuple[int, float]:
    """The code a socket is closed with, and after how many seconds."""
    began = time.monotonic()
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            client.recv(timeout=within_s)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, time.monotonic() - began


def test_a_socket_says_what_the_stream_says(platform: Platform, admin: httpx.Client) -> None:
    ticket = admin.post("/auth/ticket").json()["ticket"]
    with (
        admin.stream("GET", "/events") as stream,
        opened(port_of(platform), query=f"?ticket={ticket}", origin=platform.url) as client,
    ):
        lines = stream.iter_lines()
        assert next(lines).startswith(":")
        upload_digits(admin)
        said = [json.loads(client.recv(timeout=30)) for _ in range(2)]
        streamed = [json.loads(line.removeprefix("data: ")) for line in lines_with_data(lines, 2)]
    assert said == streamed
    assert all(set(message) == {"seq", "topic", "time", "body"} for message in said)
    assert refusal(port_of(platform), query=f"?ticket={ticket}") == 401, "one ticket opens one socket"


def lines_with_data(lines: Iterator[str], count: int) -> Iterator[str]:
    for line in lines:
        if line.startswith("data:"):
            yield line
            count -= 1
        if not count:
            return


def test_who_is_turned_away_hears_why(platform: Platform, admin: httpx.Client) -> None:
    port, key = port_of(platform), signed(admin)
    assert refusal(port) == 401
    assert refusal(port, query="?ticket=wrong") == 401
    assert refusal(port, query=f"?access_token={key['Authorization'][7:]}") == 401
    assert refusal(port, headers=key, origin="https://evil.example") == 403


def handshake(**changes: str | None) -> bytes:
    """A good one, but for the changes; None leaves a header out."""
    headers: dict[str, str | None] = {
        "Host": HOST,
        "Connection": "keep-alive, Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
    }
    line = changes.pop("line", None) or f"GET {PATH} HTTP/1.1"
    headers |= {name.replace("_", "-"): value for name, value in changes.items()}
    told = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value is not None)
    return f"{line}\r\n{told}\r\n".encode()


@contextlib.contextmanager
def raw(port: int, request: bytes) -> Iterator[tuple[socket.socket, int]]:
    """A connection on which this was said, and the status of the answer."""
    with socket.create_connection((HOST, port), timeout=10) as plain:
        plain.sendall(request)
        head = b""
        while b"\r\n\r\n" not in head and (byte := plain.recv(1)):
            head += byte
        yield plain, int(head.split(b" ", 2)[1])


HALF: dict[str, tuple[dict[str, str | None], int]] = {
    "no upgrade": ({"Upgrade": None, "Connection": None}, 426),
    "no connection header": ({"Connection": None}, 426),
    "another protocol": ({"Upgrade": "h2c"}, 426),
    "an old version": ({"Sec_WebSocket_Version": "8"}, 426),
    "no key": ({"Sec_WebSocket_Key": None}, 426),
    "a short key": ({"Sec_WebSocket_Key": "AAAA"}, 426),
    "HTTP/1.0": ({"line": f"GET {PATH} HTTP/1.0"}, 426),
    "a body": ({"Content_Length": "5"}, 426),
    "another method": ({"line": f"POST {PATH} HTTP/1.1"}, 405),
    "another path": ({"line": "GET /api/v1/models HTTP/1.1"}, 200),
    "no such path": ({"line": "GET /ws HTTP/1.1"}, 404),
    "all of it": ({}, 101),
}


@pytest.mark.parametrize("what", HALF)
def test_half_a_handshake_is_a_plain_request(platform: Platform, admin: httpx.Client, what: str) -> None:
    changes, status = HALF[what]
    with raw(port_of(platform), handshake(**(signed(admin) | changes))) as (_, answered):
        assert answered == status


def frame(opcode: int, payload: bytes, *, fin: bool = True, masked: bool = True, announced: int | None = None) -> bytes:
    size = len(payload) if announced is None else announced
    head = bytes([(0x80 if fin else 0) | opcode, (0x80 if masked else 0) | 127]) + struct.pack("!Q", size)
    return head + (bytes(4) if masked else b"") + payload  # masked with zeros


BROKEN: dict[str, tuple[bytes, int]] = {
    "a huge frame, announced": (frame(2, b"", announced=2**40), 1009),
    "a frame just too big": (frame(1, b"x" * (CLIENT_BYTES + 1)), 1009),
    "a message in too many parts": (
        frame(1, b"x" * 3000, fin=False) + b"".join(frame(0, b"x" * 3000, fin=False) for _ in range(3)),
        1009,
    ),
    "no mask": (frame(1, b"hello", masked=False), 1002),
    "an unknown opcode": (frame(3, b"hello"), 1002),
    "a part of nothing": (frame(0, b"hello"), 1002),
    "a long ping": (frame(9, b"x" * 126), 1002),
    "a size that is negative": (frame(2, b"", announced=2**63), 1009),
    "text that is none": (frame(1, b"\xff\xfe"), 1007),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_frames_close_the_socket(platform: Platform, admin: httpx.Client, what: str) -> None:
    sent, code = BROKEN[what]
    with raw(port_of(platform), handshake(**signed(admin))) as (plain, answered):
        assert answered == 101
        plain.sendall(sent)
        assert code_at_the_end(plain) == code


def code_at_the_end(plain: socket.socket) -> int:
    """The code of the closing frame; frames before it are skipped."""
    left = b""
    while chunk := plain.recv(1 << 16):
        left += chunk
    while left[0] != 0x88:
        size, start = left[1], 2
        if size == 126:
            size, start = struct.unpack_from("!H", left, 2)[0], 4
        left = left[start + size :]
    return int.from_bytes(left[2:4], "big")


def test_what_a_client_says_changes_nothing(platform: Platform, admin: httpx.Client) -> None:
    with opened(port_of(platform), signed(admin)) as client:
        for number in range(1000):
            client.send(str(number) * 10)
        client.ping().wait(WITHIN_S)
        upload_digits(admin, "said")
        assert json.loads(client.recv(timeout=10))["topic"].startswith("job.")


def test_a_revoked_key_closes_its_sockets_within_a_second(platform: Platform, admin: httpx.Client) -> None:
    made = admin.post("/auth/api-keys", json={"name": "camera"}).json()
    with opened(port_of(platform), {"X-API-Key": made["key"]}) as client:
        assert admin.delete(f"/auth/api-keys/{made['id']}").status_code == 204
        code, after_s = farewell(client)
    assert code == 4401
    assert after_s < WITHIN_S


def test_sockets_are_bounded_and_make_room_again(platform: Platform, admin: httpx.Client) -> None:
    port, key = port_of(platform), signed(admin)
    others = [sign_in_of(admin, f"eve{number}") for number in range(events.LISTENERS // events.PER_USER)]
    with contextlib.ExitStack() as held:
        for other in others:
            for _ in range(events.PER_USER):
                _, answered = held.enter_context(raw(port, handshake(**other)))
                assert answered == 101
        for _ in range(50):
            assert refusal(port, headers=key) == 503
        assert admin.get("/health").status_code == 200
    eventually(lambda: admits(port, key), within_s=WITHIN_S)


def test_a_user_does_not_take_every_place(platform: Platform, admin: httpx.Client) -> None:
    port, key = port_of(platform), signed(admin)
    other = sign_in_of(admin, "mallory")
    with contextlib.ExitStack() as held:
        for _ in range(events.PER_USER):
            _, answered = held.enter_context(raw(port, handshake(**other)))
            assert answered == 101
        assert refusal(port, headers=other) == 503
        assert admits(port, key)


def sign_in_of(admin: httpx.Client, username: str) -> dict[str, str]:
    """The sign-in of a new engineer, as a header."""
    account = {"username": username, "password": "correct horse", "role": "engineer"}
    assert admin.post("/users", json=account).status_code == 201
    del account["role"]
    signed_in = admin.post("/auth/login", json=account)
    assert signed_in.status_code == 200
    return {"Authorization": f"Bearer {signed_in.json()['access_token']}"}


def admits(port: int, key: dict[str, str]) -> bool:
    with raw(port, handshake(**key)) as (_, answered):
        return answered == 101


# --- clients that are not there, do not read, or only shout -----------------------------------------------------------


class Alone:
    """A gateway process with a habit of `gateway_that`, its database opened here too."""

    def __init__(self, habit: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cvp-"))
        db_file = self.folder / "db" / "cv-platform.db"
        connection.migrate(db_file)
        connection.open_db(db_file)
        account = accounts.add_user("eve", "unusable", "engineer")
        key = apikeys.new_key()
        accounts.add_key(account.id, "test", apikeys.fingerprint(key), apikeys.hint(key), None)
        self.key = {"X-API-Key": key}
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port = int(probe.getsockname()[1])
        env = {"DATA_DIR": str(self.folder), "HOST": HOST, "PORT": str(self.port), "LOG_LEVEL": "error"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.process.gateway_that", habit], env=os.environ | env
        )
        eventually(self.answers, within_s=60)

    def answers(self) -> bool:
        assert self.process.poll() is None, "the gateway ended"
        try:
            return httpx.get(f"http://{HOST}:{self.port}/api/v1/health/live", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def holds(self, plain: socket.socket) -> bool:
        """Whether the gateway still has its end of this connection."""
        port = plain.getsockname()[1]
        return any(end.raddr and end.raddr.port == port for end in psutil.Process(self.process.pid).net_connections())

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
        connection.database.close()
        shutil.rmtree(self.folder)


@pytest.fixture
def alone(request: pytest.FixtureRequest) -> Iterator[Alone]:
    gateway = Alone(request.param)
    try:
        yield gateway
    finally:
        gateway.close()


@pytest.mark.parametrize("alone", ["asks"], indirect=True)
def test_a_client_that_is_not_there_any_more_is_let_go_and_the_others_hear_of_the_end(alone: Alone) -> None:
    with opened(alone.port, alone.key) as healthy, raw(alone.port, handshake(**alone.key)) as (silent, answered):
        assert answered == 101
        eventually(lambda: not alone.holds(silent), within_s=20)
        with pytest.raises(TimeoutError):
            healthy.recv(timeout=0.1)  # it answers pings, and is still there
        alone.process.send_signal(signal.SIGTERM)
        code, _ = farewell(healthy, within_s=10)
        assert code == 1001
        assert alone.process.wait(10) == 0


@pytest.mark.parametrize("alone", ["floods"], indirect=True)
def test_a_client_that_does_not_read_is_cut(alone: Alone) -> None:
    before = psutil.Process(alone.process.pid).memory_info().rss
    with socket.create_connection((HOST, alone.port), timeout=10) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(handshake(**alone.key))
        eventually(lambda: alone.holds(deaf))
        eventually(lambda: not alone.holds(deaf), within_s=30)
    assert (psutil.Process(alone.process.pid).memory_info().rss - before) / 2**20 < 100


@pytest.mark.parametrize("alone", ["listens"], indirect=True)
def test_a_client_that_pings_without_reading_is_cut(alone: Alone) -> None:
    before = psutil.Process(alone.process.pid).memory_info().rss
    with raw(alone.port, handshake(**alone.key)) as (plain, answered):
        assert answered == 101
        with pytest.raises(ConnectionError):
            for _ in range(100_000):
                plain.sendall(frame(9, b"x" * 125) * 100)
    assert (psutil.Process(alone.process.pid).memory_info().rss - before) / 2**20 < 50
    assert alone.answers()
