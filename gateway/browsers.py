"""What browsers send by themselves, made safe: the session cookie, its CSRF token, and the origin of a page.

A cookie travels with whatever any page makes the browser ask for. So it is kept from scripts and from other sites,
calls that change something need a second proof, which only a page that can read our answers has, and where neither can
be had (the sign-in itself, the handshake of a WebSocket) the browser's word on where the page is from counts.
"""

from __future__ import annotations

import hmac
from collections.abc import Container, Iterable

from litestar.datastructures import Cookie
from litestar.types import Scope

from gateway.errors import CsrfRefused, OriginRefused

CSRF_HEADER = "X-CSRF-Token"
CHANGES_NOTHING = frozenset({"GET", "HEAD", "OPTIONS"})
ENCRYPTED = frozenset({"https", "wss"})

Headers = Iterable[tuple[bytes, bytes]]


def cookie_name(scheme: str) -> str:
    """Over TLS a name that browsers take only from this very host, and only encrypted."""
    return "__Host-cvp_session" if scheme in ENCRYPTED else "cvp_session"


def session_cookie(token: str, ttl_s: int, scheme: str) -> Cookie:
    """The cookie of a sign-in; an empty `token` with `ttl_s` 0 takes it away."""
    return Cookie(
        key=cookie_name(scheme),
        value=token,
        max_age=ttl_s,
        path="/",
        httponly=True,
        samesite="strict",
        secure=scheme in ENCRYPTED,
    )


def session_token(scope: Scope) -> bytes | None:
    """The token in the session cookie of a request."""
    wanted = cookie_name(scope["scheme"]).encode()
    for part in (_header(scope["headers"], b"cookie") or b"").split(b";"):
        name, _, value = part.strip().partition(b"=")
        if name == wanted and value:
            return value
    return None


def check_csrf(scope: Scope, expected: str) -> None:
    """Let a call that rests on the cookie change something only if its page could read an answer of ours.

    Args:
        scope: Of the request.
        expected: The CSRF token of its session.

    Raises:
        CsrfRefused: The header is missing, or it is not the token of this session.
    """
    if scope.get("method", "GET") in CHANGES_NOTHING:
        return
    given = _header(scope["headers"], CSRF_HEADER.lower().encode())
    if given is None:
        raise CsrfRefused(
            f"With a session cookie this call needs the header {CSRF_HEADER}; "
            "GET /api/v1/auth/verify gives it as `csrf_token`."
        )
    if not hmac.compare_digest(given, expected.encode()):
        raise CsrfRefused(
            f"{CSRF_HEADER} is not the token of this session; GET /api/v1/auth/verify gives it as `csrf_token`."
        )


def check_origin(scope: Scope, listed: Container[str]) -> None:
    """Refuse a page from elsewhere. What is no browser sends no `Origin` and passes.

    Args:
        scope: Of the request.
        listed: Origins that may call besides our own.

    Raises:
        OriginRefused: The page is of another host and not listed.
    """
    origin = _header(scope["headers"], b"origin")
    if origin is None or origin.decode("latin-1") in listed:
        return
    host = _header(scope["headers"], b"host")
    scheme, _, named = origin.lower().partition(b"://")
    forged = (
        scope["scheme"] in ENCRYPTED and scheme != b"https"
    )  # anybody on the way can write a page that came without
    if host is None or named != host.lower() or forged:
        raise OriginRefused(
            "The page that asks is of another origin; an administrator can list it in CORS_ORIGINS. "
            "Behind a proxy, let it pass on the Host header."
        )


def _header(headers: Headers, wanted: bytes) -> bytes | None:
    return next((value for name, value in headers if name == wanted), None)
