"""Weights fetched from a server of our own: over HTTPS, the right file or none, nothing half, nothing for ever."""

from __future__ import annotations

import hashlib
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from preparer import pretrained
from shared import errors
from shared.artifacts import ArtifactStore
from shared.specs import Pretrained
from tests.conftest import make_certificate

CONTENT = bytes(range(256)) * 20_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Answers every path with `content`, `status` and `headers`; counts."""

    daemon_threads = True

    def __init__(self, certificate: tuple[Path, Path]) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.asked = 0
        self.status, self.content, self.headers = 200, CONTENT, {"Content-Length": str(len(CONTENT))}

    def wanted(self, digits: str = SHA256[:8], *, scheme: str = "https", max_bytes: int = 10_000_000) -> Pretrained:
        url = f"{scheme}://127.0.0.1:{self.server_address[1]}/models/net-{digits}.pth"
        return Pretrained(name="weights of a net", url=url, max_bytes=max_bytes)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up, as some of these tests do, is nothing to print."""


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked += 1
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def server(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Trusted as any server is whose certificate the machine's owner trusts: by OpenSSL's own variable."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server(certificate) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "pretrained")


def fetch(wanted: Pretrained, store: ArtifactStore) -> Path:
    return pretrained.fetch(wanted, store, lambda _: None)


def reason(wanted: Pretrained, store: ArtifactStore) -> str:
    """Why it was not fetched; nothing was kept, nothing left."""
    with pytest.raises(pretrained.NotFetched) as refused:
        fetch(wanted, store)
    assert [path for path in store.root.rglob("*") if path.is_file()] == []
    return str(refused.value)


def test_a_file_is_fetched_once_and_told_of(server: Server, store: ArtifactStore) -> None:
    told: list[dict[str, object]] = []
    path = pretrained.fetch(server.wanted(), store, told.append)
    assert path.read_bytes() == CONTENT and told[-1] == {"stage": "fetching weights of a net", "mb": 4}
    assert fetch(server.wanted(), store) == path
    assert fetch(server.wanted(SHA256), store) == path
    assert server.asked == 1


def test_a_kept_file_that_has_changed_is_fetched_again(server: Server, store: ArtifactStore) -> None:
    fetch(server.wanted(), store).write_bytes(b"rotten")
    assert fetch(server.wanted(), store).read_bytes() == CONTENT
    assert server.asked == 2


def test_what_a_killed_fetch_left_goes_with_the_next(server: Server, store: ArtifactStore) -> None:
    (store.root / "staging").mkdir(parents=True)
    (store.root / "staging" / "up_0193a5b2c7e04f1c9a2b7d").write_bytes(CONTENT[:1000])
    path = fetch(server.wanted(), store)
    assert [each for each in store.root.rglob("*") if each.is_file()] == [path]


def test_another_file_than_the_one_meant_is_not_kept(server: Server, store: ArtifactStore) -> None:
    assert f"gave another file, of SHA-256 {SHA256[:16]}" in reason(server.wanted("0123abcd"), store)


def test_a_file_that_is_longer_than_it_may_be_is_not_taken(server: Server, store: ArtifactStore) -> None:
    assert "more than 1,000,000 bytes" in reason(server.wanted(max_bytes=1_000_000), store)


@pytest.mark.parametrize(
    ("status", "headers"),
    [(404, {}), (503, {}), (302, {"Location": "https://elsewhere.example/net-01234567.pth"})],
)
def test_another_answer_is_no_file_and_nobody_else_is_asked(
    status: int, headers: dict[str, str], server: Server, store: ArtifactStore
) -> None:
    server.status, server.content, server.headers = status, b"", headers | {"Content-Length": "0"}
    assert f"127.0.0.1 answered {status}" in reason(server.wanted(), store)
    assert server.asked == 1


def test_a_file_that_breaks_off_is_not_kept(server: Server, store: ArtifactStore) -> None:
    server.content = CONTENT[:-1]
    assert "127.0.0.1 was not reached" in reason(server.wanted(), store)


def test_a_slow_one_is_not_waited_for(server: Server, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "FETCH_S", -1.0)
    assert "takes longer than" in reason(server.wanted(), store)


def test_a_silent_one_is_not_waited_for(server: Server, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "SILENCE_S", 0.2)
    server.headers = {"Content-Length": str(len(CONTENT) + 1), "Connection": "keep-alive"}
    server.protocol_version = "HTTP/1.1"
    held = threading.Event()
    monkeypatch.setattr(Answer, "finish", lambda self: (held.wait(20), BaseHTTPRequestHandler.finish(self)))
    try:
        assert "127.0.0.1 was not reached" in reason(server.wanted(), store)
    finally:
        held.set()


def test_nobody_there(server: Server, store: ArtifactStore) -> None:
    nobody = Pretrained(name="n", url="https://127.0.0.1:1/net-01234567.pth", max_bytes=1)
    assert "127.0.0.1 was not reached (" in reason(nobody, store)


def test_a_server_that_nobody_vouches_for_is_not_talked_to(
    server: Server, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    assert "certificate verify failed" in reason(server.wanted(), store).lower()
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    assert "was not reached" in reason(server.wanted(), store)
    assert server.asked == 0


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/net-01234567.pth", "https://127.0.0.1/net.pth", "file:///etc/passwd-01234567.pth", ""]
)
def test_only_https_and_only_names_that_vouch_for_the_file(url: str, store: ArtifactStore) -> None:
    assert "no HTTPS address" in reason(Pretrained(name="n", url=url, max_bytes=1), store)


def test_a_proxy_that_makes_no_sense_is_a_reason(
    server: Server, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("HTTPS_PROXY", "nonsense://proxy.example")
    assert "was not reached" in reason(server.wanted(), store)


def test_a_disk_that_takes_nothing_is_no_reason_to_go_without(server: Server, store: ArtifactStore) -> None:
    store.root.write_text("a file where the folder should be")
    with pytest.raises(errors.Unavailable):
        fetch(server.wanted(), store)
