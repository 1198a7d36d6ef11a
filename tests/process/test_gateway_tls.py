"""The real gateway process with TLS: handshakes good and bad, and access that ends while a stream is open."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from shared import apikeys
from shared.db import accounts, connection
from tests.conftest import eventually, make_certificate

pytestmark = pytest.mark.process

HOST = "127.0.0.1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Served:
    """A gateway process of its own, its database opened here too."""

    def __init__(self, folder: Path) -> None:
        self.cert, key = make_certificate(folder)
        self.port = free_port()
        data = {"DATA_DIR": str(folder), "HOST": HOST, "PORT": str(self.port), "LOG_LEVEL": "error"}
        tls = {"TLS_ENABLED": "true", "TLS_CERT": str(self.cert), "TLS_KEY": str(key)}
        self.process = subprocess.Popen([sys.executable, "-m", "gateway"], env={**os.environ, **data, **tls})

    @property
    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.cert))

    def client(self, key: str = "") -> httpx.Client:
        headers = {"X-API-Key": key} if key else {}
        return httpx.Client(
            base_url=f"https://{HOST}:{self.port}/api/v1", verify=self.trusting, timeout=10, headers=headers
        )

    def answers(self) -> bool:
        assert self.process.poll() is None, "the gateway ended"
        try:
            with self.client() as client:
                return client.get("/health/live").status_code == 200
        except httpx.TransportError:
            return False

    def greeted(self, context: ssl.SSLContext) -> str | None:
        """The version of TLS a handshake arrives at."""
        with (
            socket.create_connection((HOST, self.port), 10) as plain,
            context.wrap_socket(plain, server_hostname=HOST) as encrypted,
        ):
            return encrypted.version()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    folder = Path(tempfile.mkdtemp(prefix="cvp-"))
    db_file = folder / "db" / "cv-platform.db"
    connection.migrate(db_file)
    connection.open_db(db_file)
    served = Served(folder)
    try:
        eventually(served.answers, within_s=60)
        yield served
    finally:
        served.process.send_signal(signal.SIGKILL)
        served.process.wait(10)
        connection.database.close()
        shutil.rmtree(folder)


def test_a_client_that_knows_the_certificate_is_served(served: Served) -> None:
    assert served.greeted(served.trusting) == "TLSv1.3"
    older = served.trusting
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    assert served.greeted(older) == "TLSv1.2"
    with served.client() as client:
        answer = client.get("/health/live")
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    assert answer.headers["strict-transport-security"] == "max-age=31536000"


def test_a_client_that_does_not_know_it_stays_away(served: Served) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        served.greeted(ssl.create_default_context())


def test_what_is_older_than_tls_1_2_is_refused_by_the_server(served: Served) -> None:
    outdated = served.trusting
    outdated.set_ciphers("ALL:@SECLEVEL=0")  # or our own side would refuse, and nothing would be tested
    with pytest.warns(DeprecationWarning):
        outdated.minimum_version = ssl.TLSVersion.TLSv1
        outdated.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match=r"(?i)unexpected_eof|alert.protocol.version"):
        served.greeted(outdated)


def test_plain_http_gets_no_answer(served: Served) -> None:
    with socket.create_connection((HOST, served.port), 10) as plain:
        plain.sendall(b"GET /api/v1/health/live HTTP/1.1\r\nHost: gateway\r\n\r\n")
        plain.settimeout(10)
        try:
            said = plain.recv(1000)
        except ConnectionResetError:
            said = b""
    assert b"HTTP" not in said and b"ok" not in said
    assert served.answers()


def somebody(username: str) -> tuple[accounts.Account, str, str]:
    """A new engineer, the id of a key of theirs, and the key."""
    user = accounts.add_user(username, "unusable", "engineer")
    key = apikeys.new_key()
    return user, accounts.add_key(user.id, "test", apikeys.fingerprint(key), apikeys.hint(key), None).id, key


ENDS: dict[str, Callable[[str, str], object]] = {
    "key-revoked": lambda user, key: accounts.revoke_key(key, user),
    "user-deleted": lambda user, _key: accounts.delete_user(user),
    "role-changed": lambda user, _key: accounts.change_user(user, role="viewer"),
}


@pytest.mark.parametrize("how", ENDS)
def test_access_that_another_process_ends_is_gone_here_open_streams_included(served: Served, how: str) -> None:
    user, key_id, key = somebody(how)
    with served.client(key) as client, served.client(key) as listener:
        assert client.get("/models").status_code == 200
        with listener.stream("GET", "/events") as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith(":")
            ENDS[how](user.id, key_id)
            started = time.monotonic()
            for _ in lines:
                pass
            ended_s = time.monotonic() - started
        eventually(lambda: client.get("/models").status_code in (401, 403), within_s=5)
    assert ended_s < 5, "below a second on a machine that is not busy with other tests"
