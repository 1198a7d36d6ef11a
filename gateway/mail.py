"""E-mail about alerts: a bounded line, one thread that sends, a few attempts; that it does not work is an alert too."""

from __future__ import annotations

import asyncio
import logging
import smtplib
import socket
import ssl
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from urllib.parse import unquote, urlsplit

from gateway.store import Pool
from gateway.tally import Tally
from shared import errors

WAITING = 64
"""Messages that may wait; a mail server that is away must not fill the memory."""

ATTEMPTS = 3
PAUSE_S = 20.0
AGAIN_S = 300.0
"""Between two looks at a mail server that takes nothing."""

PATIENCE_S = 8.0
"""For each step of the conversation with the mail server."""

logger = logging.getLogger(__name__)


class Post:
    """Takes messages and sends them one after another; without a server or a receiver it takes none.

    It signs in once at the start, so that wrong settings show then and not with the first alert.

    Args:
        url: `smtp://[user:password@]host[:port]` (STARTTLS where the server offers it), or `smtps://` for TLS at once.
        receivers: Addresses, separated by commas.
        tally: Told whether e-mail works.
    """

    def __init__(self, url: str, receivers: str, tally: Tally) -> None:
        self._url = urlsplit(url)
        self._receivers = [address.strip() for address in receivers.split(",") if address.strip()]
        self._tally = tally
        self._line: asyncio.Queue[EmailMessage] = asyncio.Queue(WAITING)
        self._sender = Pool("e-mail", threads=1, waiting=1)

    def put(self, subject: str, text: str) -> None:
        """Send this soon; never waits."""
        if not self._wanted():
            return
        message = EmailMessage()
        message["Subject"], message["To"] = subject, ", ".join(self._receivers)
        message["From"] = f"cv-platform@{socket.gethostname()}"
        message["Date"], message["Message-ID"] = formatdate(), make_msgid(domain="cv-platform")
        message.set_content(
            f'{text}\n\nOn {socket.gethostname()}. docs/RUNBOOK.md, "What to watch", says what to do.\n'
        )
        try:
            self._line.put_nowait(message)
        except asyncio.QueueFull:
            logger.error("too much e-mail waits; this is dropped", extra={"subject": subject})

    async def deliver(self) -> None:
        """Send what was put, until cancelled."""
        try:
            if self._wanted():
                await self._insist(None)
            while True:
                await self._insist(await self._next())
        finally:
            self._sender.close()

    async def _next(self) -> EmailMessage | None:
        """What to send now; None: nothing came, and it is time to see whether e-mail works again."""
        try:
            async with asyncio.timeout(AGAIN_S if self._tally.email_failure else None):
                return await self._line.get()
        except TimeoutError:
            return None

    def _wanted(self) -> bool:
        return bool(self._url.hostname and self._receivers)

    async def _insist(self, message: EmailMessage | None) -> None:
        """Send this, or only see whether the server would take something."""
        about = {"subject": message["Subject"] if message else None, "server": self._url.hostname}
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await self._sender.run(self._send, message)
                self._tally.email_failure = None
                return
            except (OSError, ValueError, smtplib.SMTPException, errors.Unavailable) as error:
                reason = str(error)
                logger.warning("e-mail was not sent", extra=about | {"attempt": attempt, "error": reason})
                if _final(error):
                    break
            if attempt < ATTEMPTS:
                await asyncio.sleep(PAUSE_S)
        logger.error("e-mail is given up", extra=about | {"error": reason})
        self._tally.email_failure = reason

    def _send(self, message: EmailMessage | None) -> None:
        host, port = str(self._url.hostname), self._url.port or 0
        if self._url.scheme == "smtps":
            context = ssl.create_default_context()
            with smtplib.SMTP_SSL(host, port, timeout=PATIENCE_S, context=context) as server:
                self._hand_over(server, message)
            return
        with smtplib.SMTP(host, port, timeout=PATIENCE_S) as server:
            server.ehlo()
            if server.has_extn("starttls"):
                server.starttls(context=ssl.create_default_context())
            elif self._url.username:
                raise smtplib.SMTPException("the server offers no STARTTLS; a password is not sent in the clear")
            self._hand_over(server, message)

    def _hand_over(self, server: smtplib.SMTP, message: EmailMessage | None) -> None:
        if self._url.username:
            server.login(unquote(self._url.username), unquote(self._url.password or ""))
        if message is not None:
            server.send_message(message)


def _final(error: Exception) -> bool:
    """Whether trying again cannot help: the certificate or the password is wrong."""
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return error.smtp_code >= 500
    return isinstance(error, ssl.SSLCertVerificationError)
