"""Signing in as a web page: the cookie, the CSRF token that goes with it, and everything that ends or outranks it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from http.cookies import Morsel, SimpleCookie
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from litestar.testing import TestClient
from litestar.types import Scope

from gateway import passwords, tokens
from gateway.app import create_app
from gateway.browsers import check_origin
from gateway.errors import OriginRefused
from gateway.throttle import FREE
from shared import clock
from shared.db import accounts
from shared.db import audit as rows
from tests.unit.gateway_kit import Gateway, context_at, gateway_at, problem

PASSWORD = "correct horse"
KEY = {"name": "made by a page"}


@pytest.fixture
def gateway(db_file: Path, tmp_path: Path) -> Iterator[Gateway]:
    with gateway_at(tmp_path) as running:
        accounts.add_user("ada", passwords.hashed(PASSWORD), "engineer")
        yield running


def morsel(answer: httpx.Response) -> Morsel[str]:
    """The one cookie an answer sets."""
    (line,) = answer.headers.get_list("set-cookie")
    (found,) = SimpleCookie(line).values()
    return found


class Page:
    """A page that is signed in; nothing travels but what a test says."""

    def __init__(self, gateway: Gateway) -> None:
        answer = gateway.post("/auth/session", role=None, json={"username": "ada", "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        gateway.client.cookies.clear()
        self.gateway, self.cookie, self.csrf = gateway, morsel(answer).value, answer.json()["csrf_token"]

    def call(self, method: str, path: str, csrf: str | None = None, **options: Any) -> httpx.Response:
        headers = {"Cookie": f"theme=dark; cvp_session={self.cookie}", **options.pop("headers", {})}
        if csrf is not None:
            headers["X-CSRF-Token"] = csrf
        return self.gateway.call(None, method, path, headers=headers, **options)


@pytest.fixture
def page(gateway: Gateway) -> Page:
    return Page(gateway)


def test_the_cookie_is_kept_from_scripts_and_other_sites(gateway: Gateway) -> None:
    answer = gateway.post("/auth/session", role=None, json={"username": "ada", "password": PASSWORD})
    cookie = morsel(answer)
    assert (cookie.key, cookie["path"], cookie["domain"]) == ("cvp_session", "/", "")
    assert cookie["httponly"] is True
    assert cookie["samesite"].lower() == "strict"
    assert int(cookie["max-age"]) == tokens.SESSION_S
    assert cookie["secure"] == ""
    assert cookie.value not in answer.text, "or scripts could read it"
    assert answer.json()["user"]["username"] == "ada"


def test_over_tls_it_is_bound_to_this_host(db_file: Path, tmp_path: Path) -> None:
    accounts.add_user("ada", passwords.hashed(PASSWORD), "engineer")
    with TestClient(create_app(context_at(tmp_path)), base_url="https://gateway.test") as client:
        signed_in = client.post("/api/v1/auth/session", json={"username": "ada", "password": PASSWORD})
        cookie = morsel(signed_in)
        assert (cookie.key, cookie["secure"], cookie["path"]) == ("__Host-cvp_session", True, "/")
        assert client.get("/api/v1/models").status_code == 200
        unbound = {"Cookie": f"cvp_session={cookie.value}"}
        client.cookies.clear()
        problem(client.get("/api/v1/models", headers=unbound), 401, "unauthorized")


def test_reading_needs_the_cookie_and_changing_the_token_of_its_session_too(gateway: Gateway, page: Page) -> None:
    assert page.call("GET", "/models").status_code == 200
    assert page.call("GET", "/auth/verify").json()["csrf_token"] == page.csrf
    missing = problem(page.call("POST", "/auth/api-keys", json=KEY), 403, "csrf")
    assert "X-CSRF-Token" in missing["detail"] and "/auth/verify" in missing["detail"]
    wrong = ("", "0" * 64, page.csrf[:-1], page.csrf + "0", Page(gateway).csrf, "\xff")
    for csrf in wrong:
        refused = page.call("POST", "/auth/api-keys", json=KEY, headers={"X-CSRF-Token": csrf.encode("latin-1")})
        problem(refused, 403, "csrf")
    assert page.call("POST", "/auth/api-keys", page.csrf, json=KEY).status_code == 201


def test_a_prediction_counts_as_a_change(page: Page) -> None:
    problem(page.call("POST", "/inference/predict", content=b"never looked at"), 403, "csrf")


@pytest.mark.parametrize("tamper", [lambda t: t[:-2], lambda t: t + "x", lambda t: "a.b.c", lambda t: f'"{t}"'])
def test_a_cookie_that_was_tampered_with(page: Page, tamper: Callable[[str], str]) -> None:
    page.cookie = tamper(page.cookie)
    problem(page.call("GET", "/models"), 401, "unauthorized")


def test_an_expired_cookie(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    assert page.call("GET", "/models").status_code == 200
    later = clock.now_ms() + tokens.SESSION_S * 1000 + 1
    monkeypatch.setattr(clock, "now_ms", lambda: later)
    problem(page.call("GET", "/models"), 401, "unauthorized")


ENDS: dict[str, Callable[[str], object]] = {
    "password changed": lambda user: accounts.change_user(user, password_hash="another"),
    "user deleted": accounts.delete_user,
}


@pytest.mark.parametrize("how", ENDS)
def test_what_ends_the_access_ends_the_session(gateway: Gateway, page: Page, how: str) -> None:
    user_id = page.call("GET", "/auth/verify").json()["user"]["id"]
    ENDS[how](user_id)
    gateway.refresh()
    problem(page.call("GET", "/models"), 401, "unauthorized")


def test_a_role_counts_at_once(gateway: Gateway, page: Page) -> None:
    accounts.change_user(page.call("GET", "/auth/verify").json()["user"]["id"], role="viewer")
    gateway.refresh()
    problem(page.call("GET", "/models"), 403, "forbidden")


def test_signing_out_needs_the_token_and_takes_the_cookie_away(page: Page) -> None:
    problem(page.call("POST", "/auth/logout"), 403, "csrf")
    answer = page.call("POST", "/auth/logout", page.csrf)
    assert answer.status_code == 204
    cookie = morsel(answer)
    assert (cookie.key, cookie.value, cookie["max-age"], cookie["path"]) == ("cvp_session", "", "0", "/")
    problem(page.call("GET", "/models"), 401, "unauthorized")


def test_a_header_always_wins_over_the_cookie(gateway: Gateway, page: Page) -> None:
    key = {"X-API-Key": gateway.keys["viewer"]}
    verified = page.call("GET", "/auth/verify", headers=key).json()
    assert (verified["user"]["username"], verified["csrf_token"]) == ("a-viewer", None)
    assert page.call("POST", "/auth/api-keys", json=KEY, headers=key).status_code == 201, "headers need no CSRF token"
    for bad in (
        {"X-API-Key": "wrong"},
        {"X-API-Key": ""},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic eA=="},
    ):
        problem(page.call("GET", "/auth/verify", headers=bad), 401, "unauthorized")
    answer = gateway.call(None, "POST", "/auth/logout", headers={"Authorization": f"Bearer {page.cookie}"})
    assert answer.status_code == 204 and "set-cookie" not in answer.headers


def test_a_key_is_no_session(gateway: Gateway, page: Page) -> None:
    page.cookie = gateway.keys["engineer"]
    problem(page.call("GET", "/models"), 401, "unauthorized")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://testserver.local:81", "testserver.local"])
def test_a_page_from_elsewhere_signs_nobody_in(gateway: Gateway, origin: str) -> None:
    body = {"username": "ada", "password": PASSWORD}
    answer = gateway.post("/auth/session", role=None, json=body, headers={"Origin": origin})
    assert "CORS_ORIGINS" in problem(answer, 403, "origin")["detail"]
    assert "set-cookie" not in answer.headers


def test_a_page_of_ours_does(gateway: Gateway) -> None:
    body = {"username": "ada", "password": PASSWORD}
    answer = gateway.post("/auth/session", role=None, json=body, headers={"Origin": "http://testserver.local"})
    assert answer.status_code == 200


def test_wrong_passwords_wait_as_anywhere(gateway: Gateway) -> None:
    for _ in range(FREE):
        answer = gateway.post("/auth/session", role=None, json={"username": "ada", "password": "guess"})
        problem(answer, 401, "unauthorized")
        assert "set-cookie" not in answer.headers
    answer = gateway.post("/auth/login", role=None, json={"username": "ada", "password": PASSWORD})
    problem(answer, 429, "too_many_attempts")


def test_a_refusal_is_in_the_audit_log(gateway: Gateway, page: Page) -> None:
    problem(page.call("POST", "/auth/api-keys", json=KEY), 403, "csrf")
    gateway.client.blocking_portal.call(gateway.context.trail.flush)
    newest = rows.listing(limit=1, cursor=None).rows[0]
    assert (newest.username, newest.action, newest.result) == ("ada", "POST /api/v1/auth/api-keys", "403")


def test_the_components_of_health_are_shown_to_a_page(page: Page) -> None:
    assert "components" in page.call("GET", "/health").json()


def test_signing_in_is_documented_with_its_second_proof(gateway: Gateway) -> None:
    paths = gateway.get("/schema/openapi.json", role=None).json()["paths"]
    assert {"cookie": []} in paths["/api/v1/models"]["get"]["security"]
    assert {"cookie": [], "csrf": []} in paths["/api/v1/models"]["post"]["security"]


@pytest.mark.parametrize(
    ("scheme", "origin", "passes"),
    [
        ("https", "https://cvp.example", True),
        ("wss", "https://cvp.example", True),
        ("http", "https://cvp.example", True),  # behind a proxy that ends TLS
        ("https", "http://cvp.example", False),
        ("wss", "http://cvp.example", False),
    ],
)
def test_a_page_that_came_without_tls_is_not_ours_over_it(scheme: str, origin: str, passes: bool) -> None:
    headers = [(b"host", b"cvp.example"), (b"origin", origin.encode())]
    scope = cast(Scope, {"type": "http", "scheme": scheme, "headers": headers})
    refusal = contextlib.nullcontext() if passes else pytest.raises(OriginRefused)
    with refusal:
        check_origin(scope, [])
