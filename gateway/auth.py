"""Who is calling: credentials of a request to an account, cached until access changes."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import msgspec
from litestar.types import Scope

from gateway import tokens
from gateway.browsers import session_token
from gateway.store import Store
from shared import apikeys, clock, errors
from shared.db import accounts

CACHED = 10_000
"""Credentials remembered at once; beyond that the cache starts afresh."""

CALLER = 16
"""Characters of a key's fingerprint that tell it from others."""

NO_CREDENTIAL = (
    "Send `Authorization: Bearer <token or API key>` or `X-API-Key: <key>`; POST /api/v1/auth/login gives a token."
)


class Credential(NamedTuple):
    """What a request shows."""

    value: bytes
    by_cookie: bool


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A good credential: whose it is, which session it stands for (None: an API key), and when it ends."""

    account: accounts.Account
    caller: str
    """Whose share of what is shared it uses: each API key has one, all sign-ins of a user have one together."""
    session_id: str | None
    expires_at_ms: int | None


Asked = dict[bytes, asyncio.Task[Identity]]


class Credentials:
    """Turns credentials into identities. Answers from memory what the database said since access last changed."""

    def __init__(self, store: Store, signer: tokens.Signer) -> None:
        self._store, self._signer = store, signer
        self._known: dict[bytes, Identity] = {}
        self._asked: Asked = {}
        """Look-ups under way: a thousand connections that show one credential ask the database once."""

    async def identify(self, scope: Scope) -> Identity:
        """The identity behind a request.

        Raises:
            errors.Unauthorized: No credential, or one that is wrong, expired or revoked.
        """
        credential = credential_of(scope)
        if credential is None:
            raise errors.Unauthorized(NO_CREDENTIAL)
        identity = self._known.get(credential.value)
        if identity is None:
            identity = await self._look_up(credential.value)
        if credential.by_cookie and identity.session_id is None:
            raise errors.Unauthorized("The session cookie holds no sign-in; send an API key in a header.")
        if identity.expires_at_ms is not None and identity.expires_at_ms <= clock.now_ms():
            raise errors.Unauthorized("The credential has expired; sign in again or make a new key.")
        return identity

    def forget(self) -> None:
        """Drop everything remembered: a role, a session or a key changed."""
        self._known.clear()
        self._asked = {}  # what was read before a change must not be remembered after it

    async def _look_up(self, credential: bytes) -> Identity:
        asked = self._asked
        task = asked.get(credential)
        if task is None:
            task = asked[credential] = asyncio.create_task(self._find(credential))
            task.add_done_callback(lambda done: self._found(asked, credential, done))
        return await asyncio.shield(task)

    async def _find(self, credential: bytes) -> Identity:
        text = credential.decode("latin-1")
        return await (self._by_key(text) if text.startswith(apikeys.KEY_PREFIX) else self._by_token(text))

    def _found(
        self, asked: dict[bytes, asyncio.Task[Identity]], credential: bytes, done: asyncio.Task[Identity]
    ) -> None:
        """A look-up has ended; `asked` are those of its time."""
        asked.pop(credential, None)
        if done.cancelled() or done.exception() is not None or asked is not self._asked:
            return
        if len(self._known) >= CACHED:
            self._known.clear()
        self._known[credential] = done.result()

    async def _by_key(self, key: str) -> Identity:
        if not apikeys.well_formed(key):
            raise errors.Unauthorized("The API key is mistyped or cut off; its checksum does not fit.")
        fingerprint = apikeys.fingerprint(key)
        found = await self._store.read(accounts.key_user, fingerprint)
        if found is None:
            raise errors.Unauthorized("The API key is unknown, revoked or expired.")
        account, expires_at_ms = found
        return Identity(account=account, caller=fingerprint[:CALLER], session_id=None, expires_at_ms=expires_at_ms)

    async def _by_token(self, token: str) -> Identity:
        claims = self._signer.read(token)
        account = await self._store.read(accounts.session_user, claims.session_id)
        if account is None:
            raise errors.Unauthorized("The sign-in has ended; sign in again.")
        return Identity(
            account=account, caller=account.id, session_id=claims.session_id, expires_at_ms=claims.expires_at_ms
        )


def credential_of(scope: Scope) -> Credential | None:
    """The bearer token or key of a request, or else the token in its session cookie; before all, what a ticket gave.

    `Authorization` counts before `X-API-Key`. Where one of the two was sent, right or wrong, the cookie counts for
    nothing.
    """
    redeemed: Credential | None = scope["state"].get("credential")
    if redeemed is not None:
        return redeemed
    key, explicit = b"", False
    for name, value in scope["headers"]:
        if name == b"authorization":
            if value[:7].lower() == b"bearer ":
                return Credential(value[7:].strip(), by_cookie=False)
            explicit = True
        elif name == b"x-api-key":
            key, explicit = value.strip(), True
    if key:
        return Credential(key, by_cookie=False)
    token = None if explicit else session_token(scope)
    return None if token is None else Credential(token, by_cookie=True)
