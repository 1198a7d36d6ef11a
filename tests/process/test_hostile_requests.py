"""Requests that were made to break in or to break down: each gets its stated answer, and the platform stays well."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import gzip
import hashlib
import hmac
import json
import os
import pickle
import secrets
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import psutil
import pytest
import zmq

from gateway import tokens
from tests.process.platform import ADMIN_PASSWORD, DIGITS, Platform, running, wait_for

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

FAILURES = ("Traceback", "unexpected failure", '"status":500', '"level":"FATAL"')
PASSWORD = "a quiet engineer"


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    """At the end nothing of it may be left: no failure of ours in the logs, no memory."""
    with running() as up:
        wait_for(up.ready, what="readiness")
        gateway = psutil.Process(up.pids("gateway")[0])
        httpx.get(f"{up.url}/schema/openapi.json")
        before = gateway.memory_info().rss
        yield up
        assert up.ready()
        assert gateway.is_running(), "the gateway died"
        assert (gateway.memory_info().rss - before) / 2**20 < 100
        lines = [
            f"{path.name}: {line}"
            for path in (up.data_dir / "logs").glob("*")
            for line in path.read_text(errors="replace").splitlines()
        ]
        assert [line[-3000:] for line in lines if any(sign in line for sign in FAILURES)] == []


@pytest.fixture(scope="module")
def admin(platform: Platform) -> Iterator[httpx.Client]:
    with platform.login() as client:
        yield client


@pytest.fixture(scope="module")
def people(platform: Platform, admin: httpx.Client) -> Iterator[dict[str, httpx.Client]]:
    """Two engineers and a viewer."""
    with contextlib.ExitStack() as stack:
        found = {}
        for name, role in (("ada", "engineer"), ("bob", "engineer"), ("vic", "viewer")):
            answer = admin.post("/users", json={"username": name, "password": PASSWORD, "role": role})
            assert answer.status_code == 201, answer.text
            found[name] = stack.enter_context(platform.login(name, PASSWORD))
        yield found


def verify(platform: Platform, credential: str) -> int:
    headers = {"Authorization": f"Bearer {credential}"}
    return httpx.get(f"{platform.url}/api/v1/auth/verify", headers=headers).status_code


def raw(platform: Platform, request: bytes, timeout_s: float = 10.0) -> bytes:
    """Everything the server answers to these bytes until it closes or falls silent."""
    answer = b""
    with connected(platform) as connection:
        connection.settimeout(timeout_s)
        with contextlib.suppress(OSError):
            connection.sendall(request)
        with contextlib.suppress(OSError):
            while chunk := connection.recv(1 << 16):
                answer += chunk
                connection.settimeout(0.5)
    return answer


def connected(platform: Platform) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(platform.env["PORT"])), timeout=10)


def statuses(answer: bytes) -> list[int]:
    return [int(part.split(b" ", 1)[0]) for part in answer.split(b"HTTP/1.1 ")[1:]]


# --- credentials ------------------------------------------------------------------------------------------------------


def b64(value: Any) -> str:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def forged(claims: dict[str, Any], header: dict[str, Any], secret: bytes = b"") -> str:
    signed = f"{b64({'typ': 'JWT'} | header)}.{b64(claims)}"
    return f"{signed}.{b64(hmac.new(secret, signed.encode(), hashlib.sha256).digest()) if secret else ''}"


def test_forged_tokens(platform: Platform, admin: httpx.Client):
    real = admin.headers["Authorization"].removeprefix("Bearer ")
    claims = jwt.decode(real, options={"verify_signature": False})
    secret = (platform.data_dir / "secrets" / "jwt.key").read_bytes()
    assert verify(platform, forged(claims, {"alg": "HS256"}, secret)) == 200
    head, body, signature = real.split(".")
    other = b64(claims | {"sub": "somebody", "jti": secrets.token_hex(8)})
    now = int(time.time())
    attacks = {
        "none": forged(claims, {"alg": "none"}),
        "None": forged(claims, {"alg": "None"}),
        "no signature": f"{head}.{body}.",
        "another body": f"{head}.{other}.{signature}",
        "public key as secret": forged(claims, {"alg": "HS256"}, b"-----BEGIN PUBLIC KEY-----"),
        "empty secret": forged(claims, {"alg": "HS256"}, b"\0"),
        "another algorithm": jwt.encode(claims, secret + secret, algorithm="HS512"),
        "kid as a path": forged(claims, {"alg": "HS256", "kid": "../../../../dev/null"}, b"\0"),
        "kid as SQL": forged(claims, {"alg": "HS256", "kid": "x' UNION SELECT 'k"}, b"k"),
        "jku": forged(claims, {"alg": "HS256", "jku": "http://127.0.0.1:9/keys"}, b"k"),
        "jwk": forged(claims, {"alg": "HS256", "jwk": {"kty": "oct", "k": b64(b"k")}}, b"k"),
        "x5u": forged(claims, {"alg": "HS256", "x5u": "http://127.0.0.1:9/"}, b"k"),
        "expired": forged(claims | {"exp": now - 10}, {"alg": "HS256"}, secret),
        "not yet": forged(claims | {"nbf": now + 1000}, {"alg": "HS256"}, secret),
        "issued tomorrow": forged(claims | {"iat": now + 100_000}, {"alg": "HS256"}, secret),
        "another audience": forged(claims | {"aud": "else"}, {"alg": "HS256"}, secret),
        "another issuer": forged(claims | {"iss": "else"}, {"alg": "HS256"}, secret),
        "no session": forged(claims | {"jti": "nothing"}, {"alg": "HS256"}, secret),
        "a session that is a number": forged(claims | {"jti": 1}, {"alg": "HS256"}, secret),
        "never expires": forged({name: claims[name] for name in claims if name != "exp"}, {"alg": "HS256"}, secret),
        "deep": f"{b64(b'[' * 5_000)}.{b64(b'[' * 5_000)}.x",
        "dots": "." * 1000,
    }
    assert {name: verify(platform, token) for name, token in attacks.items()} == dict.fromkeys(attacks, 401)


def test_a_token_of_a_megabyte(platform: Platform):
    answer = raw(
        platform, b"GET /api/v1/auth/verify HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n" % (b"a" * 2**20)
    )
    assert statuses(answer) == [431]


def test_keys(platform: Platform, people: dict[str, httpx.Client]):
    made = people["ada"].post("/auth/api-keys", json={"name": "a"}).json()
    assert verify(platform, made["key"]) == 200
    wrong = made["key"][:-1] + ("a" if made["key"][-1] != "a" else "b")
    assert verify(platform, wrong) == verify(platform, tokens.new_key()) == verify(platform, "cvp_") == 401
    assert people["bob"].delete(f"/auth/api-keys/{made['id']}").status_code == 404
    assert verify(platform, made["key"]) == 200
    assert people["ada"].delete(f"/auth/api-keys/{made['id']}").status_code == 204
    wait_for(lambda: verify(platform, made["key"]) == 401, 1.0, "the revocation")


def test_ids_of_others_and_ids_that_are_none(people: dict[str, httpx.Client]):
    for client, status in ((people["ada"], 404), (people["vic"], 403)):
        for path in ("models", "jobs", "reports", "benchmark"):
            for name in ("1", "%00", "x'%20OR%201=1--", "..%2f..%2fetc%2fpasswd", "%F0%9F%92%A9", "a" * 3000):
                assert client.get(f"/{path}/{name}").status_code in (status, 404), f"{path}/{name}"
    assert people["ada"].get("/users").status_code == 403


def test_fields_nobody_may_set(admin: httpx.Client, people: dict[str, httpx.Client]):
    user = {"username": "eve", "password": PASSWORD, "role": "viewer"}
    for extra in ({"is_admin": True}, {"id": "1"}, {"created_at": "now"}, {"password_hash": "x"}):
        assert admin.post("/users", json=user | extra).status_code == 422
    for extra in ({"user_id": "1"}, {"owner_id": "1"}, {"role": "admin"}, {"key": "cvp_x"}):
        assert people["vic"].post("/auth/api-keys", json={"name": "a"} | extra).status_code == 422
    for extra in ({"state": "completed"}, {"status": "completed"}, {"created_by": "1"}, {"priority": 10**9}):
        assert people["ada"].post("/benchmark", json={"model_id": "m"} | extra).status_code == 422
    assert [item["username"] for item in admin.get("/users").json()["items"] if item["username"] == "eve"] == []


# --- sign-in ----------------------------------------------------------------------------------------------------------


def test_addresses_in_headers_do_not_help_a_guesser(platform: Platform, people: dict[str, httpx.Client]):
    def guess(number: int) -> int:
        headers = {"X-Forwarded-For": f"10.0.0.{number}", "Forwarded": f"for=10.0.0.{number}", "X-Real-IP": "1.1.1.1"}
        body = {"username": "vic", "password": f"wrong {number}"}
        return httpx.post(f"{platform.url}/api/v1/auth/login", json=body, headers=headers).status_code

    found = [guess(number) for number in range(8)]
    assert found[:5] == [401] * 5
    assert 429 in found[5:]
    assert people["vic"].get("/auth/verify").status_code == 200


def test_a_hundred_logins_at_once(platform: Platform):
    gateway = psutil.Process(platform.pids("gateway")[0])
    before, most, slowest = gateway.memory_info().rss, 0, 0.0
    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        body = {"username": "admin", "password": ADMIN_PASSWORD}
        waiting = [
            pool.submit(httpx.post, f"{platform.url}/api/v1/auth/login", json=body, timeout=60) for _ in range(100)
        ]
        while not all(future.done() for future in waiting):
            started = time.monotonic()
            assert httpx.get(f"{platform.url}/api/v1/health/live", timeout=10).status_code == 200
            slowest = max(slowest, time.monotonic() - started)
            most = max(most, gateway.memory_info().rss)
    found = {future.result().status_code for future in waiting}
    assert found <= {200, 429, 503}
    assert 200 in found
    assert (most - before) / 2**20 < 150
    assert slowest < 5


# --- HTTP -------------------------------------------------------------------------------------------------------------

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}",
        b"Content-Length: 2, 40\r\n\r\n{}",
        b"Content-Length: -1\r\n\r\n{}",
        b"Content-Length: +2\r\n\r\n{}",
        b"Content-Length: 0x2\r\n\r\n{}",
        b"Content-Length: 99999999999999999999999\r\n\r\n{}",
        b"Content-Length : 2\r\n\r\n{}",
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"X: a\r\n b\0c\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
def test_two_readings_of_one_request(headers: bytes, platform: Platform):
    answer = raw(platform, POST + headers + SMUGGLED, 3)
    assert b"404" not in answer, "the second request was seen"
    assert len(statuses(answer)) <= 1
    assert all(400 <= status < 500 for status in statuses(answer))


def test_ten_thousand_headers_and_a_long_path(platform: Platform):
    many = b"".join(b"X-%d: a\r\n" % number for number in range(10_000))
    answer = raw(platform, b"GET /api/v1/health/live HTTP/1.1\r\nHost: x\r\n" + many + b"\r\n")
    assert statuses(answer) == [431]
    for path in (b"a" * 100_000, b"api/v1/models/" + b"a" * 100_000, b"schema?" + b"a=b&" * 25_000):
        answer = raw(platform, b"GET /" + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        assert statuses(answer) == [431], answer[:300]


def test_ten_thousand_parts(people: dict[str, httpx.Client]):
    parts = b"".join(b'--b\r\nContent-Disposition: form-data; name="n%d"\r\n\r\n1\r\n' % i for i in range(10_000))
    for path in ("/models", "/inference/predict"):
        answer = people["ada"].post(
            path, content=parts + b"--b--\r\n", headers={"Content-Type": "multipart/form-data; boundary=b"}
        )
        assert answer.status_code in (413, 422), answer.text


def test_a_compressed_body_is_not_unpacked(platform: Platform, people: dict[str, httpx.Client]):
    bomb = gzip.compress(b" " * 50_000_000)
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = people["ada"].post("/benchmark", content=bomb, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    answer = httpx.post(f"{platform.url}/api/v1/auth/login", content=bomb, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_slow_clients_take_nobody_s_place(platform: Platform):
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connected(platform)) for _ in range(200)]
        for number, connection in enumerate(slow):
            connection.sendall(b"GET / HT" if number % 2 else POST + b"Content-Length: 100\r\n\r\n{")
        for _ in range(20):
            started = time.monotonic()
            assert httpx.get(f"{platform.url}/api/v1/health/live", timeout=5).status_code == 200
            assert time.monotonic() - started < 2
        slow[1].settimeout(15)
        assert statuses(slow[1].recv(1 << 16)) == [408], "an unfinished header has its time"


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"model_id":' * 100_000,
        b'{"model_id": "m", "num_iterations": 1e400}',
        b'{"model_id": "m", "num_iterations": true}',
        b'{"model_id": "m", "num_iterations": ' + b"9" * 5000 + b"}",
        b'{"model_id": "m", "num_iterations": NaN}',
        b'{"model_id": "\\ud800"}',
        b'{"model_id": "\xed\xa0\x80"}',
        b'{"model_id": "\xff"}',
        b"\xef\xbb\xbf{}",
        b"",
        b"null",
        b'{"model_id": ["m"]}',
        b'{"model_id": {"$ne": ""}}',
        b'{"__proto__": {"admin": true}}',
    ],
    ids=range(15),
)
def test_json_that_is_none_or_too_much(body: bytes, people: dict[str, httpx.Client]):
    for path in ("/benchmark", "/inference/predict", "/auth/api-keys"):
        answer = people["ada"].post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (413, 422), f"{path}: {answer.text[:300]}"
        assert answer.json()["code"] in ("invalid", "too_large")


def test_a_key_given_twice_has_one_meaning(people: dict[str, httpx.Client]):
    answer = people["ada"].post(
        "/auth/api-keys", content=b'{"name":"first","name":"second"}', headers={"Content-Type": "application/json"}
    )
    assert answer.status_code in (201, 422)
    if answer.status_code == 201:
        assert answer.json()["name"] == "second"


HOSTILE = "x\r\nSet-Cookie: a=b\r\n\r\n<script>alert(1)</script>{{7*7}}${jndi:ldap://x}'; DROP TABLE user;--\x1b[31m"


def test_names_stay_names(platform: Platform, people: dict[str, httpx.Client]):
    made = people["ada"].post("/auth/api-keys", json={"name": HOSTILE})
    assert made.status_code in (201, 422), made.text
    assert "set-cookie" not in made.headers
    listed = people["ada"].get("/auth/api-keys")
    assert listed.headers["content-type"].startswith("application/json")
    assert made.status_code == 422 or HOSTILE in [item["name"] for item in listed.json()["items"]]
    answer = httpx.get(f"{platform.url}/api/v1/health/live", headers={"X-Request-ID": "a{{7*7}}<script>"})
    assert "<script>" not in answer.headers["x-request-id"]
    people["ada"].get("/models/" + "a%0d%0aX-Evil:%20b%0a{%22level%22:%22FATAL%22}")
    logs = [line for path in (platform.data_dir / "logs").glob("gateway*") for line in path.read_text().splitlines()]
    assert not [line for line in logs if line.startswith(("X-Evil", "Set-Cookie", '{"level":"FATAL"'))]
    assert people["ada"].get("/auth/verify").status_code == 200


def test_an_idempotency_key_belongs_to_one_request(people: dict[str, httpx.Client]):
    content = (DIGITS / "digits.onnx").read_bytes()

    def upload(client: httpx.Client, name: str) -> httpx.Response:
        return client.post(
            "/models",
            data={"name": name, "task_type": "classification"},
            files={"file": ("digits.onnx", content)},
            headers={"Idempotency-Key": "mine"},
        )

    first = upload(people["ada"], "one")
    assert first.status_code == 202, first.text
    assert upload(people["ada"], "one").json() == first.json()
    assert upload(people["ada"], "two").status_code == 409
    assert upload(people["bob"], "one").json()["id"] != first.json()["id"]


# --- the bus ----------------------------------------------------------------------------------------------------------


class Payload:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.path,)


def test_the_bus_is_for_its_owner_and_takes_no_garbage(platform: Platform, admin: httpx.Client):
    run = platform.data_dir / "run"
    path = run / "broker.sock"
    assert run.stat().st_mode & 0o077 == 0 or path.stat().st_mode & 0o077 == 0
    broker, trace = platform.pids("broker"), str(platform.data_dir / "ran")
    with zmq.Context() as context:
        for identity in (b"spoofed", b"gateway", b"inferencer-0", b"\x01" * 255):
            with context.socket(zmq.DEALER) as dealer:
                dealer.set(zmq.LINGER, 500)
                dealer.set(zmq.IDENTITY, identity)
                dealer.connect(f"ipc://{path}")
                for frames in (
                    [b""],
                    [pickle.dumps(Payload(trace))],
                    [b"cvp/1", pickle.dumps(Payload(trace))],
                    [b"cvp/1", b"\xdd\xff\xff\xff\xff"],
                    [b"cvp/1", b"\x91" * 100_000],
                    [b"cvp/9", b"\x80"],
                    [b"cvp/1", b"\x80"] + [b"x"] * 1000,
                    [secrets.token_bytes(100) for _ in range(20)],
                    [b"cvp/1", b"x" * 2**20],
                ):
                    dealer.send_multipart(frames)
    with socket.socket(socket.AF_UNIX) as plain:
        plain.connect(str(path))
        plain.sendall(secrets.token_bytes(1 << 16))
    wait_for(platform.ready, what="readiness")
    assert admin.get("/inference/health").status_code == 200
    assert platform.pids("broker") == broker
    assert not (platform.data_dir / "ran").exists()
