"""Wrong passwords: what they cost the one account they are tried on, and nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from litestar.testing import TestClient

from gateway import admin, passwords, throttle
from gateway.app import create_app
from gateway.throttle import FREE, LONGEST_S, WINDOW_S, Throttle, target
from shared import errors
from shared.db import accounts
from shared.db.audit import Try
from tests.unit.gateway_kit import Gateway, context_at, gateway_at, problem

PASSWORD = "correct horse"


def refused_for(guard: Throttle, username: str, now_s: float) -> float:
    """Seconds this attempt has to wait; 0 if it is let through."""
    try:
        guard.admit(target(username, "hash"), now_s)
    except errors.TooManyAttempts as refusal:
        assert refusal.retry_after_s is not None
        return refusal.retry_after_s
    return 0.0


def after_wrong(guard: Throttle, username: str, times: int, now_s: float = 0.0) -> None:
    for _ in range(times):
        guard.wrong(target(username, "hash"), now_s)


def test_five_are_free_and_then_each_costs_twice_the_last_up_to_a_minute() -> None:
    guard, now_s, waits = Throttle(), 0.0, []
    for _ in range(14):
        wait_s = refused_for(guard, "ada", now_s)
        waits.append(wait_s)
        now_s += wait_s
        assert refused_for(guard, "ada", now_s) == 0, "Retry-After is true"
        after_wrong(guard, "ada", 1, now_s)
    assert waits == [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_an_attempt_pays_in_advance_so_that_many_at_once_are_one() -> None:
    guard = Throttle()
    after_wrong(guard, "ada", FREE)
    assert [refused_for(guard, "ada", 10.0) > 0 for _ in range(5)] == [False, True, True, True, True]


def test_the_window_forgets_and_a_right_password_starts_afresh() -> None:
    guard = Throttle()
    after_wrong(guard, "ada", FREE + 3)
    assert refused_for(guard, "ada", 0.0) == 8
    assert refused_for(guard, "ada", WINDOW_S + 1) == 0
    after_wrong(guard, "ada", FREE - 1, WINDOW_S + 1)
    assert refused_for(guard, "ada", WINDOW_S + 1) == 0
    after_wrong(guard, "ada", 1, WINDOW_S + 1)
    guard.right(target("ada", "hash"))
    assert refused_for(guard, "ada", WINDOW_S + 1) == 0


def test_memory_is_bounded_and_the_account_left_alone_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "ACCOUNTS", 3)
    guard = Throttle()
    for name in ("ada", "bob", "cyd", "ada", "dan"):
        after_wrong(guard, name, FREE)
    assert [refused_for(guard, name, 0.0) > 0 for name in ("ada", "bob", "cyd", "dan")] == [True, False, True, True]


@given(st.lists(st.tuples(st.sampled_from(["try", "wrong", "right"]), st.floats(0, 100)), max_size=60))
def test_no_wait_is_longer_than_promised(story: list[tuple[str, float]]) -> None:
    guard, now_s = Throttle(), 0.0
    for what, later_s in story:
        now_s += later_s
        if what == "wrong":
            after_wrong(guard, "ada", 1, now_s)
        elif what == "right":
            guard.right(target("ada", "hash"))
        assert refused_for(guard, "ada", now_s) <= LONGEST_S
        assert refused_for(guard, "eve", now_s) == 0


# --- over HTTP --------------------------------------------------------------------------------------------------------


@pytest.fixture
def gateway(db_file: Path, tmp_path: Path) -> Iterator[Gateway]:
    with gateway_at(tmp_path) as running:
        yield running


def login(gateway: Gateway, username: str, password: str, **headers: str) -> httpx.Response:
    body: dict[str, Any] = {"username": username, "password": password}
    return gateway.post("/auth/login", role=None, json=body, headers=headers)


def guessed(gateway: Gateway, username: str) -> None:
    for number in range(FREE):
        refused = login(gateway, username, f"guess {number}", **{"X-Forwarded-For": f"10.0.0.{number}"})
        problem(refused, 401, "unauthorized")


def test_a_guessed_account_waits_whatever_the_password_and_the_address(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "_wait_s", lambda _wrong: 30.0)
    accounts.add_user("ada", passwords.hashed(PASSWORD), "engineer")
    accounts.add_user("bob", passwords.hashed(PASSWORD), "engineer")
    token = login(gateway, "ada", PASSWORD).json()["access_token"]
    guessed(gateway, "ADA")
    for given_password in (PASSWORD, "another guess"):
        refused = login(gateway, "ada", given_password, **{"X-Forwarded-For": "10.1.1.1"})
        problem(refused, 429, "too_many_attempts")
        assert 28 <= int(refused.headers["retry-after"]) <= 30
    assert login(gateway, "bob", PASSWORD).status_code == 200
    verified = gateway.get("/auth/verify", role=None, headers={"Authorization": f"Bearer {token}"})
    assert verified.status_code == 200, "open sign-ins go on"


def test_a_name_nobody_has_is_treated_alike(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "_wait_s", lambda _wrong: 30.0)
    monkeypatch.setattr(passwords, "matches", lambda *_: False)
    guessed(gateway, "nobody")
    problem(login(gateway, "nobody", PASSWORD), 429, "too_many_attempts")


def test_a_new_password_leaves_the_count_of_the_old_one_behind(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(throttle, "_wait_s", lambda _wrong: 30.0)
    ada = accounts.add_user("ada", passwords.hashed(PASSWORD), "engineer")
    guessed(gateway, "ada")
    problem(login(gateway, "ada", PASSWORD), 429, "too_many_attempts")
    changed = gateway.call("admin", "PATCH", f"/users/{ada.id}", json={"password": "set by an administrator"})
    assert changed.status_code == 200
    assert login(gateway, "ada", "set by an administrator").status_code == 200
    guessed(gateway, "ada")
    problem(login(gateway, "ada", "set by an administrator"), 429, "too_many_attempts")
    set_on_the_machine(tmp_path, "ada", "set on the machine")
    assert login(gateway, "ada", "set on the machine").status_code == 200


def set_on_the_machine(folder: Path, username: str, password: str) -> None:
    env = {"DATA_DIR": str(folder)}
    done = CliRunner().invoke(admin.main, ["passwd", username], input=f"{password}\n", env=env)
    assert done.exit_code == 0, done.output


def test_the_count_outlives_the_gateway(db_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "_wait_s", lambda _wrong: 30.0)
    for name in ("ada", "bob", "cyd"):
        accounts.add_user(name, passwords.hashed(PASSWORD), "engineer")
    with gateway_at(tmp_path) as first:
        guessed(first, "ada")
        guessed(first, "bob")
        for _ in range(FREE - 1):
            login(first, "cyd", "a guess")
        assert login(first, "cyd", PASSWORD).status_code == 200
        login(first, "cyd", "a guess")
    set_on_the_machine(tmp_path, "bob", "set on the machine")
    second = context_at(tmp_path)
    with TestClient(create_app(second), raise_server_exceptions=False) as client:
        answers = [
            client.post("/api/v1/auth/login", json={"username": name, "password": password})
            for name, password in (("ADA", PASSWORD), ("bob", "set on the machine"), ("cyd", PASSWORD))
        ]
    assert [answer.status_code for answer in answers] == [429, 200, 200]


def test_what_is_remembered_waits_no_longer_than_it_would_have() -> None:
    guard = Throttle()
    tries = [Try(username="ada", password_hash="hash", at_ms=at_ms, right=False) for at_ms in range(FREE + 3)]
    guard.remember(tries, now_ms=5_000, now_s=0.0)
    assert 2.9 < refused_for(guard, "ada", 0.0) <= 3.1, "8 s, of which 5 are over"
    guard.remember([Try(username="bob", password_hash="hash", at_ms=10**9, right=False)] * 20, now_ms=0, now_s=0.0)
    assert refused_for(guard, "bob", 0.0) <= LONGEST_S, "a clock that was set back"
