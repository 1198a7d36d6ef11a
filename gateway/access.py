"""Who may do what: every call and the least role it needs, in one table. What is not in it, nobody may."""

from __future__ import annotations

import hmac
from typing import Literal
from urllib.parse import parse_qs

from litestar.types import ASGIApp, Receive, Scope, Send

from gateway.auth import Credential, Credentials, credential_of
from gateway.browsers import check_csrf
from gateway.errors import NO_SUCH_PATH, MethodNotAllowed
from gateway.tickets import Tickets
from gateway.tokens import Signer
from shared import errors
from shared.db.accounts import Role

Minimum = Literal["nobody", "viewer", "engineer", "admin"]
"""`nobody`: without signing in."""

IN_WORDS: dict[Minimum, str] = {
    "nobody": "without signing in",
    "viewer": "viewer and up",
    "engineer": "engineer and up",
    "admin": "administrators only",
}

RANK: dict[Role, int] = {"viewer": 1, "engineer": 2, "admin": 3}

TABLE: dict[tuple[str, str], Minimum] = {
    ("POST", "/api/v1/auth/login"): "nobody",
    ("POST", "/api/v1/auth/session"): "nobody",
    ("POST", "/api/v1/auth/logout"): "viewer",
    ("GET", "/api/v1/auth/verify"): "viewer",
    ("POST", "/api/v1/auth/ticket"): "viewer",
    ("GET", "/api/v1/auth/api-keys"): "viewer",
    ("POST", "/api/v1/auth/api-keys"): "viewer",
    ("DELETE", "/api/v1/auth/api-keys/{key_id}"): "viewer",
    ("GET", "/api/v1/users"): "admin",
    ("POST", "/api/v1/users"): "admin",
    ("PATCH", "/api/v1/users/{user_id}"): "admin",
    ("DELETE", "/api/v1/users/{user_id}"): "admin",
    ("POST", "/api/v1/models"): "engineer",
    ("POST", "/api/v1/models/presets/{preset}"): "admin",
    ("GET", "/api/v1/models"): "engineer",
    ("GET", "/api/v1/models/{model_id}"): "engineer",
    ("DELETE", "/api/v1/models/{model_id}"): "admin",
    ("GET", "/api/v1/models/{model_id}/onnx"): "engineer",
    ("GET", "/api/v1/models/{model_id}/training"): "engineer",
    ("GET", "/api/v1/models/{model_id}/deployment"): "engineer",
    ("PUT", "/api/v1/models/{model_id}/deployment"): "engineer",
    ("DELETE", "/api/v1/models/{model_id}/deployment"): "engineer",
    ("POST", "/api/v1/datasets"): "engineer",
    ("GET", "/api/v1/datasets"): "engineer",
    ("GET", "/api/v1/datasets/{dataset_id}"): "engineer",
    ("DELETE", "/api/v1/datasets/{dataset_id}"): "admin",
    ("GET", "/api/v1/datasets/{dataset_id}/contact-sheet"): "engineer",
    ("POST", "/api/v1/training"): "engineer",
    ("GET", "/api/v1/training"): "engineer",
    ("GET", "/api/v1/training/compare"): "engineer",
    ("GET", "/api/v1/training/{training_id}"): "engineer",
    ("GET", "/api/v1/training/{training_id}/report"): "engineer",
    ("POST", "/api/v1/training/{training_id}/report"): "engineer",
    ("POST", "/api/v1/training/{training_id}/cancel"): "engineer",  # their own; an administrator any
    ("POST", "/api/v1/benchmark"): "engineer",
    ("GET", "/api/v1/benchmark"): "engineer",
    ("GET", "/api/v1/benchmark/{benchmark_id}"): "engineer",
    ("GET", "/api/v1/benchmark/{benchmark_id}/report"): "engineer",
    ("POST", "/api/v1/benchmark/{benchmark_id}/report"): "engineer",
    ("POST", "/api/v1/benchmark/{benchmark_id}/cancel"): "engineer",  # their own; an administrator any
    ("GET", "/api/v1/jobs"): "engineer",
    ("GET", "/api/v1/jobs/{job_id}"): "engineer",
    ("GET", "/api/v1/jobs/{job_id}/log"): "engineer",  # of their own; an administrator any
    ("GET", "/api/v1/reports"): "engineer",
    ("GET", "/api/v1/reports/history"): "engineer",
    ("GET", "/api/v1/reports/{report_id}"): "engineer",
    ("GET", "/api/v1/reports/{report_id}/view"): "engineer",
    ("GET", "/api/v1/reports/{report_id}/export"): "engineer",
    ("POST", "/api/v1/inference/predict"): "viewer",
    ("GET", "/api/v1/inference/models"): "viewer",
    ("GET", "/api/v1/inference/health"): "engineer",
    ("GET", "/api/v1/health"): "nobody",  # the components only for signed-in users
    ("GET", "/api/v1/health/live"): "nobody",
    ("GET", "/api/v1/health/ready"): "nobody",
    ("GET", "/api/v1/config"): "engineer",
    ("GET", "/api/v1/events"): "engineer",
    ("GET", "/api/v1/events/ws"): "engineer",  # the handshake of a WebSocket
    ("GET", "/api/v1/metrics"): "engineer",
    ("GET", "/api/v1/alerts"): "admin",
    ("GET", "/api/v1/audit"): "admin",
    ("GET", "/v2"): "viewer",
    ("GET", "/v2/health/live"): "nobody",
    ("GET", "/v2/health/ready"): "nobody",
    ("GET", "/v2/models/{model}"): "viewer",
    ("GET", "/v2/models/{model}/versions/{version}"): "viewer",
    ("GET", "/v2/models/{model}/ready"): "viewer",
    ("GET", "/v2/models/{model}/versions/{version}/ready"): "viewer",
    ("POST", "/v2/models/{model}/infer"): "viewer",
    ("POST", "/v2/models/{model}/versions/{version}/infer"): "viewer",
    ("GET", "/metrics"): "engineer",  # or METRICS_TOKEN
    ("GET", "/"): "nobody",
    ("GET", "/schema"): "nobody",
    ("GET", "/schema/openapi.json"): "nobody",
    ("GET", "/schema/openapi.yaml"): "nobody",
}


SIGN_INS = ("POST /api/v1/auth/login", "POST /api/v1/auth/session")
"""As the audit log calls them."""

METRICS = "/metrics"
PATHS = frozenset(path for _, path in TABLE)


class Gate:
    """Stands before every handler, after routing; it decides before any of the body is read.

    Args:
        credentials: Turns what a request carries into an identity.
        signer: Knows the CSRF token of a session.
        tickets: Stand for a credential in the handshake of a socket.
        metrics_token: Opens `METRICS` and nothing else; empty: there is none.
    """

    def __init__(self, credentials: Credentials, signer: Signer, tickets: Tickets, metrics_token: str = "") -> None:
        self._credentials, self._signer, self._tickets = credentials, signer, tickets
        self._metrics_token = metrics_token.encode()

    def around(self, app: ASGIApp) -> ASGIApp:
        """The middleware: `app` behind this gate."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            await self.check(scope)
            await app(scope, receive, send)

        return guarded

    async def check(self, scope: Scope) -> None:
        """Let the request pass, with `scope["state"]["account"]` set, or refuse it.

        Raises:
            errors.NotFound: The path is not in the table: it exists for nobody.
            MethodNotAllowed: The path is, with other methods.
            errors.Unauthorized: The call needs an identity and the request has none.
            errors.Forbidden: The role is not enough.
            CsrfRefused: It rests on a session cookie, would change something, and lacks the token for that.
        """
        needed = _needed(str(scope.get("method")), scope["path_template"])
        if needed == "nobody" or self._scrapes(scope):
            return
        self._redeem(scope)
        identity = await self._credentials.identify(scope)
        scope["state"]["account"], scope["state"]["identity"] = identity.account, identity
        if RANK[identity.account.role] < RANK[needed]:
            raise errors.Forbidden(f"Your role is {identity.account.role}; this call needs {needed}.")
        if (csrf_token := self.csrf_token(scope)) is not None:
            check_csrf(scope, csrf_token)

    def _redeem(self, scope: Scope) -> None:
        """Put the credential that a socket's ticket stands for in its place; from then on it is looked at again."""
        if "socket" not in scope["state"] or "credential" in scope["state"]:
            return
        given = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).get("ticket", [])
        if given:
            scope["state"]["credential"] = Credential(self._tickets.redeem(given[0]), by_cookie=False)

    def csrf_token(self, scope: Scope) -> str | None:
        """The token that a request let in by its cookie needs to change something; None for all others."""
        session_id = scope["state"]["identity"].session_id
        if session_id is None:
            return None
        credential = credential_of(scope)
        return self._signer.csrf(session_id) if credential and credential.by_cookie else None

    def _scrapes(self, scope: Scope) -> bool:
        """Whether this is the page for Prometheus, asked for with the token for it."""
        if scope["path_template"] != METRICS or not self._metrics_token:
            return False
        credential = credential_of(scope)
        return credential is not None and hmac.compare_digest(credential.value, self._metrics_token)


def _needed(method: str, path: str) -> Minimum:
    needed = TABLE.get((method, path))
    if needed is None:
        methods = sorted(known for known, template in TABLE if template == path)
        raise MethodNotAllowed(", ".join(methods)) if methods else errors.NotFound(NO_SUCH_PATH)
    return needed
