"""Alerts over TLS to a real mail server: both ways of encryption, sign-in, and all that can be wrong with them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from gateway import mail
from gateway.mail import Post
from gateway.tally import Tally
from tests.conftest import make_certificate

# aiosmtpd does not count TLS from the start as TLS when it is to take no password in the clear, and warns of that.
pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning")

TO = "ops@example.org"
SCHEMES = ("smtp", "smtps")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def trusted(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """As an operator makes the authority of their own known."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "PAUSE_S", 0.01)
    monkeypatch.setattr(mail, "AGAIN_S", 0.05)


class Inbox:
    """Takes messages from whoever signs in as `me` with `right/one`."""

    def __init__(self) -> None:
        self.messages: list[tuple[Envelope, bool]] = []
        """Each with whether it came from somebody who had signed in."""
        self.sign_ins = 0

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.messages.append((envelope, bool(session.authenticated)))
        return "250 OK"

    def sign_in(self, server: SMTP, session: Session, envelope: Envelope, how: str, given: Any) -> AuthResult:
        self.sign_ins += 1
        right = isinstance(given, LoginPassword) and (given.login, given.password) == (b"me", b"right/one")
        return AuthResult(success=right, handled=False)


@contextlib.contextmanager
def served(scheme: str, certificate: tuple[Path, Path]) -> Iterator[tuple[Inbox, int]]:
    """A mail server on this machine that takes nothing in the clear."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    box = Inbox()
    tls: dict[str, Any] = {"ssl_context": context, "auth_require_tls": False}
    if scheme == "smtp":
        tls = {"tls_context": context, "require_starttls": True}
    server = Controller(box, hostname="127.0.0.1", port=port, authenticator=box.sign_in, auth_required=True, **tls)
    server.start()
    try:
        yield box, port
    finally:
        server.stop()


def deliver(post: Post, until: Callable[[], object]) -> float:
    """Let it work until then; returns the seconds that took."""

    async def main() -> float:
        began_s = time.monotonic()
        delivering = asyncio.create_task(post.deliver())
        async with asyncio.timeout(20):
            while not until():
                await asyncio.sleep(0.01)
        took_s = time.monotonic() - began_s
        delivering.cancel()
        await asyncio.gather(delivering, return_exceptions=True)
        return took_s

    return asyncio.run(main())


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.usefixtures("trusted")
def test_an_alert_goes_over_tls_to_a_server_that_wants_a_password(scheme: str, certificate: tuple[Path, Path]) -> None:
    tally = Tally()
    with served(scheme, certificate) as (box, port):
        post = Post(f"{scheme}://me:right%2Fone@127.0.0.1:{port}", TO, tally)
        post.put("subject", "text")
        deliver(post, lambda: box.messages)
    [(message, signed_in)] = box.messages
    assert message.rcpt_tos == [TO] and signed_in
    assert tally.email_failure is None


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.usefixtures("trusted")
def test_a_wrong_password_is_loud_at_the_start_and_is_not_tried_again_and_again(
    scheme: str, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mail, "AGAIN_S", 3600.0)
    tally = Tally()
    with served(scheme, certificate) as (box, port):
        deliver(Post(f"{scheme}://me:wrong-one@127.0.0.1:{port}", TO, tally), lambda: tally.email_failure)
    assert "535" in str(tally.email_failure)
    given_up = [record for record in caplog.records if "given up" in record.message]
    assert [record.levelno for record in given_up] == [logging.ERROR]
    assert box.sign_ins <= 2, "once by each way of saying a password"
    assert not box.messages and "wrong-one" not in str([vars(record) for record in caplog.records])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_certificate_that_does_not_verify_gets_no_password(
    scheme: str, certificate: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    tally = Tally()
    with served(scheme, certificate) as (box, port):
        deliver(Post(f"{scheme}://me:right%2Fone@127.0.0.1:{port}", TO, tally), lambda: tally.email_failure)
    assert "CERTIFICATE_VERIFY_FAILED" in str(tally.email_failure)
    assert box.sign_ins == 0 and not box.messages
    assert "given up" in caplog.text


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.usefixtures("trusted")
def test_a_certificate_for_another_name_does_not_verify(scheme: str, certificate: tuple[Path, Path]) -> None:
    tally = Tally()
    with served(scheme, certificate) as (box, port):
        deliver(Post(f"{scheme}://me:right%2Fone@localhost:{port}", TO, tally), lambda: tally.email_failure)
    assert "localhost" in str(tally.email_failure) and box.sign_ins == 0


def test_a_server_that_says_nothing_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "PATIENCE_S", 0.2)
    tally = Tally()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        post = Post(f"smtp://127.0.0.1:{silent.getsockname()[1]}", TO, tally)
        assert deliver(post, lambda: tally.email_failure) < 5
    assert "timed out" in str(tally.email_failure)


@pytest.mark.usefixtures("trusted")
def test_it_notices_by_itself_that_the_server_is_back(certificate: tuple[Path, Path]) -> None:
    tally = Tally()
    tally.email_failure = "it was away"
    with served("smtp", certificate) as (box, port):
        deliver(Post(f"smtp://me:right%2Fone@127.0.0.1:{port}", TO, tally), lambda: tally.email_failure is None)
    assert box.sign_ins >= 1 and not box.messages, "no message is needed for that"
