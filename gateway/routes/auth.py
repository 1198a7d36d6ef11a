"""Signing in and out, and API keys."""

from __future__ import annotations

import time
from typing import NamedTuple

from litestar import Response, Router, delete, get, post
from litestar.params import FromPath, JSONBody

from gateway import passwords, schemas, throttle, tickets, tokens
from gateway.answers import Answer
from gateway.auth import credential_of
from gateway.browsers import check_origin, session_cookie
from gateway.context import Context
from gateway.routes.common import Cursor, Http, Injected, Limit, about, account_of, identity_of, iso, listing, problems
from shared import apikeys, clock, errors
from shared.db import accounts
from shared.db.tables import ApiKey

DAY_MS = 24 * 3600 * 1000

LOGIN_BYTES = 8 * 1024
"""Largest body of the one call that reads a body of somebody nobody knows yet; memory holds it until it is complete."""


@post(
    "/login",
    status_code=200,
    request_max_body_size=LOGIN_BYTES,
    responses=problems(401, 408, 413, 429, signed_in=False),
)
async def login(request: Http, data: JSONBody[schemas.Login], context: Injected) -> schemas.SignedIn:
    """Sign in with name and password; the token is good for 24 hours.

    After 5 wrong passwords within 15 minutes the next sign-in of that name waits 1 s, then 2, 4, at most 60 (429).
    """
    fresh = await _sign_in(request, data, context)
    return schemas.SignedIn(access_token=fresh.token, expires_in=tokens.SESSION_S, user=_ref(fresh.account))


@post("/session", status_code=200, responses=problems(401, 403, 429, signed_in=False))
async def open_session(
    request: Http, data: JSONBody[schemas.Login], context: Injected
) -> Response[schemas.PageSession]:
    """Sign in as a web page: the credential comes as a cookie that scripts cannot read and other sites do not send.

    With it, calls that change something need the header `X-CSRF-Token`. It counts only where neither `Authorization`
    nor `X-API-Key` is sent, ends after 24 hours, with `POST /api/v1/auth/logout` and with a new password. Wrong
    passwords wait as in `POST /api/v1/auth/login`. Pages of other origins are refused unless `CORS_ORIGINS` lists them.
    """
    check_origin(request.scope, context.settings.origins)
    fresh = await _sign_in(request, data, context)
    csrf_token = context.signer.csrf(fresh.session_id)
    shown = schemas.PageSession(csrf_token=csrf_token, expires_in=tokens.SESSION_S, user=_ref(fresh.account))
    return Answer(shown, cookies=[session_cookie(fresh.token, tokens.SESSION_S, request.scope["scheme"])])


class _Fresh(NamedTuple):
    """A sign-in just made."""

    account: accounts.Account
    session_id: str
    token: str


async def _sign_in(request: Http, data: schemas.Login, context: Context) -> _Fresh:
    found = await context.store.read(accounts.by_name, data.username)
    password_hash = found[1] if found else None
    if found:
        about(request, found[0].username)
    target = throttle.target(data.username, password_hash)
    context.throttle.admit(target, time.monotonic())
    fits = await context.store.hash(passwords.matches, data.password, password_hash)
    if found:  # until here anybody could say this name as often as they liked, and fill the audit log in it
        about(request, found[0].username, found[0].id)
    if not fits or found is None:
        context.throttle.wrong(target, time.monotonic())
        raise errors.Unauthorized("The user name or the password is wrong.")
    context.throttle.right(target)
    account = found[0]
    session = await context.store.write(accounts.open_session, account.id, tokens.SESSION_S * 1000)
    token = context.signer.sign(account.id, session.id, session.created_at_ms, session.expires_at_ms)
    return _Fresh(account, session.id, token)


@post("/logout", status_code=204, responses=problems(409))
async def logout(request: Http, context: Injected) -> Response[None]:
    """End this sign-in; its token is worth nothing from now on, and a page's cookie is taken away."""
    session_id = identity_of(request).session_id
    if session_id is None:
        raise errors.Conflict("An API key does not sign out; DELETE /api/v1/auth/api-keys/{id} revokes it.")
    await context.store.write(accounts.close_session, session_id)
    await context.caches.refresh()
    by_cookie = context.gate.csrf_token(request.scope) is not None
    return Answer(None, cookies=[session_cookie("", 0, request.scope["scheme"])] if by_cookie else [])


@get("/verify", responses=problems())
async def verify(request: Http, context: Injected) -> schemas.Verified:
    """Whose credential this is."""
    identity = identity_of(request)
    return schemas.Verified(
        user=_ref(identity.account),
        expires_at=iso(identity.expires_at_ms),
        csrf_token=context.gate.csrf_token(request.scope),
    )


@post("/ticket", responses=problems())
async def issue_ticket(request: Http, context: Injected) -> schemas.Ticket:
    """A ticket for one WebSocket, for browsers of other origins, which cannot send a header with its handshake.

    It is good for 60 seconds and one handshake, stands for the credential of this call, and ends with it.
    """
    credential = credential_of(request.scope)
    assert credential is not None, "the gate let it pass"
    ticket = context.tickets.issue(account_of(request).id, credential.value)
    return schemas.Ticket(ticket=ticket, expires_in=tickets.TTL_S)


@get("/api-keys", responses=problems())
async def list_keys(
    request: Http, context: Injected, limit: Limit = 50, cursor: Cursor = None
) -> schemas.Listing[schemas.ApiKey]:
    """Your own API keys."""
    page = await context.store.read(accounts.keys, account_of(request).id, limit=limit, cursor=cursor)
    return listing(page, _key)


@post("/api-keys", responses=problems())
async def add_key(request: Http, data: JSONBody[schemas.NewKey], context: Injected) -> schemas.FreshApiKey:
    """Make an API key with your own role. `key` is shown this once."""
    key = apikeys.new_key()
    expires_at_ms = None if data.expires_in_days is None else clock.now_ms() + data.expires_in_days * DAY_MS
    row = await context.store.write(
        accounts.add_key, account_of(request).id, data.name, apikeys.fingerprint(key), apikeys.hint(key), expires_at_ms
    )
    about(request, row.id)
    shown = _key(row)
    return schemas.FreshApiKey(
        key=key, id=shown.id, name=shown.name, hint=shown.hint, created_at=shown.created_at, expires_at=shown.expires_at
    )


@delete("/api-keys/{key_id:str}", responses=problems(404))
async def revoke_key(request: Http, key_id: FromPath[str], context: Injected) -> None:
    """Revoke one of your own keys."""
    await context.store.write(accounts.revoke_key, key_id, account_of(request).id)
    await context.caches.refresh()


def _ref(account: accounts.Account) -> schemas.UserRef:
    return schemas.UserRef(id=account.id, username=account.username, role=account.role)


def _key(row: ApiKey) -> schemas.ApiKey:
    return schemas.ApiKey(
        id=row.id,
        name=row.name,
        hint=row.hint,
        created_at=clock.iso(row.created_at_ms),
        expires_at=iso(row.expires_at_ms),
    )


router = Router(
    "/auth",
    route_handlers=[login, open_session, logout, verify, issue_ticket, list_keys, add_key, revoke_key],
    tags=["auth"],
)
