"""Signing in, credentials good and bad, users, and the accounts command."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from gateway import admin, passwords, tokens
from shared import apikeys, clock
from shared.db import accounts, connection
from tests.unit.gateway_kit import Gateway, fields_of, gateway_at, problem

PASSWORD = "correct horse"


@pytest.fixture
def gateway(db_file: Path, tmp_path: Path) -> Iterator[Gateway]:
    with gateway_at(tmp_path) as running:
        yield running


@pytest.fixture
def ada(gateway: Gateway) -> accounts.Account:
    return accounts.add_user("ada", passwords.hashed(PASSWORD), "engineer")


def bearer(gateway: Gateway, token: str, path: str = "/auth/verify") -> Any:
    return gateway.get(path, role=None, headers={"Authorization": f"Bearer {token}"})


def login(gateway: Gateway, username: str = "ada", password: str = PASSWORD) -> Any:
    return gateway.post("/auth/login", role=None, json={"username": username, "password": password})


def test_sign_in_and_out(gateway: Gateway, ada: accounts.Account) -> None:
    answer = login(gateway, "ADA").json()
    assert answer["user"] == {"id": ada.id, "username": "ada", "role": "engineer"}
    assert (answer["token_type"], answer["expires_in"]) == ("bearer", 86400)
    assert bearer(gateway, answer["access_token"]).json()["user"]["id"] == ada.id
    headers = {"Authorization": f"bearer {answer['access_token']}"}
    assert gateway.post("/auth/logout", role=None, headers=headers).status_code == 204
    problem(bearer(gateway, answer["access_token"]), 401, "unauthorized")


def test_wrong_name_and_wrong_password_look_alike(gateway: Gateway, ada: accounts.Account) -> None:
    wrong_password = problem(login(gateway, password="incorrect horse"), 401, "unauthorized")
    wrong_name = problem(login(gateway, "eve"), 401, "unauthorized")
    assert wrong_password["detail"] == wrong_name["detail"]


def test_a_wrong_name_costs_a_hash_too(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str | None] = []
    monkeypatch.setattr(passwords, "matches", lambda _, password_hash: checked.append(password_hash))
    problem(login(gateway, "eve"), 401, "unauthorized")
    assert checked == [None]
    monkeypatch.undo()
    assert not passwords.matches(PASSWORD, None)


def forged(payload: dict[str, Any], key: bytes, header: dict[str, str] | None = None) -> str:
    return jwt.encode(payload, key, algorithm="HS256", headers=header)


def test_tokens_that_are_not_ours(gateway: Gateway, ada: accounts.Account) -> None:
    good = login(gateway).json()["access_token"]
    payload = jwt.decode(good, options={"verify_signature": False})
    secret = (gateway.context.settings.secrets / "jwt.key").read_bytes()
    assert bearer(gateway, forged(payload, secret)).status_code == 200, "the forgery below fails for its own reason"
    unsigned = ".".join(
        base64.urlsafe_b64encode(part).rstrip(b"=").decode()
        for part in (b'{"alg":"none","typ":"JWT"}', json.dumps(payload).encode(), b"")
    )
    bad = [
        good[:-4],
        unsigned,
        forged(payload, b"x" * 32),
        jwt.encode(payload, secret * 2, algorithm="HS512"),
        forged(payload | {"iss": "somebody"}, secret),
        forged(payload | {"aud": "another-api"}, secret),
        forged(payload | {"exp": clock.now_ms() // 1000 - 1}, secret),
        forged({name: value for name, value in payload.items() if name != "exp"}, secret),
        forged(payload | {"jti": "ses_unknown"}, secret),
        "a" * 100_000,
        "",
        "ä",
    ]
    for token in bad:
        response = gateway.get("/auth/verify", role=None, headers={"Authorization": f"Bearer {token}".encode()})
        problem(response, 401, "unauthorized")


def test_the_secret_is_private_and_kept(gateway: Gateway) -> None:
    path = gateway.context.settings.secrets / "jwt.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_bytes()) == 32
    before = path.read_bytes()
    tokens.Signer.at(path.parent)
    assert path.read_bytes() == before
    assert [item.name for item in path.parent.iterdir()] == ["jwt.key"]


def test_a_token_ends_with_its_time_even_from_the_cache(
    gateway: Gateway, ada: accounts.Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = login(gateway).json()["access_token"]
    assert bearer(gateway, token).status_code == 200
    later = clock.now_ms() + tokens.SESSION_S * 1000 + 1
    monkeypatch.setattr(clock, "now_ms", lambda: later)
    problem(bearer(gateway, token), 401, "unauthorized")


def test_api_keys(gateway: Gateway) -> None:
    made = gateway.post("/auth/api-keys", json={"name": "ci", "expires_in_days": 1})
    assert made.status_code == 201
    key = made.json()["key"]
    assert key.startswith("cvp_") and len(key) == 40
    listed = gateway.get("/auth/api-keys").json()["items"]
    assert [item["name"] for item in listed] == ["ci", "test"]
    assert "key" not in listed[0] and key not in json.dumps(listed)
    for headers in ({"X-API-Key": key}, {"Authorization": f"Bearer {key}"}):
        assert gateway.get("/auth/verify", role=None, headers=headers).json()["user"]["role"] == "engineer"
    problem(gateway.delete(f"/auth/api-keys/{made.json()['id']}", role="admin"), 404, "not_found")
    assert gateway.delete(f"/auth/api-keys/{made.json()['id']}", role="engineer").status_code == 204
    problem(gateway.get("/auth/verify", role=None, headers={"X-API-Key": key}), 401, "unauthorized")


def test_bad_keys(gateway: Gateway, ada: accounts.Account) -> None:
    expired = apikeys.new_key()
    accounts.add_key(ada.id, "old", apikeys.fingerprint(expired), apikeys.hint(expired), clock.now_ms() - 1)
    for key in (expired, apikeys.new_key(), gateway.keys["admin"][:-1], "cvp_", "cvp_" + "ä" * 36):
        response = gateway.get("/auth/verify", role=None, headers={"X-API-Key": key.encode("latin-1")})
        problem(response, 401, "unauthorized")


def test_an_api_key_does_not_sign_out(gateway: Gateway) -> None:
    problem(gateway.post("/auth/logout"), 409, "conflict")


@given(st.integers(4, 39), st.sampled_from(apikeys.BASE62))
def test_one_wrong_character_is_told_without_a_look_up(position: int, other: str) -> None:
    key = apikeys.new_key()
    assert apikeys.well_formed(key)
    assert apikeys.well_formed(key[:position] + other + key[position + 1 :]) == (other == key[position])


def test_users(gateway: Gateway) -> None:
    made = gateway.post("/users", role="admin", json={"username": "bob", "password": PASSWORD, "role": "viewer"})
    assert made.status_code == 201
    bob = made.json()
    assert "password" not in json.dumps(bob)
    problem(
        gateway.post("/users", role="admin", json={"username": "BOB", "password": PASSWORD, "role": "viewer"}),
        409,
        "conflict",
    )
    assert gateway.get("/users", role="admin").json()["items"][0] == bob
    token = login(gateway, "bob").json()["access_token"]
    problem(bearer(gateway, token, "/jobs"), 403, "forbidden")
    assert gateway.call("admin", "PATCH", f"/users/{bob['id']}", json={"role": "engineer"}).json()["role"] == "engineer"
    assert bearer(gateway, token, "/jobs").status_code == 200, "the role counts at once, from the row"
    gateway.call("admin", "PATCH", f"/users/{bob['id']}", json={"password": "another secret"})
    problem(bearer(gateway, token), 401, "unauthorized")
    token = login(gateway, "bob", "another secret").json()["access_token"]
    assert gateway.delete(f"/users/{bob['id']}").status_code == 204
    problem(bearer(gateway, token), 401, "unauthorized")
    problem(gateway.delete(f"/users/{bob['id']}"), 404, "not_found")


def test_the_last_admin_stays(gateway: Gateway) -> None:
    me = gateway.get("/auth/verify", role="admin").json()["user"]["id"]
    problem(gateway.delete(f"/users/{me}"), 409, "conflict")
    problem(gateway.call("admin", "PATCH", f"/users/{me}", json={"role": "viewer"}), 409, "conflict")


def test_what_is_wrong_with_a_user_is_said_field_by_field(gateway: Gateway) -> None:
    bad = {"username": "no spaces", "password": "short", "role": "root", "is_admin": True}
    assert fields_of(gateway.post("/users", role="admin", json=bad)) == {"username", "password", "role", "is_admin"}
    assert fields_of(gateway.post("/users", role="admin", json={})) == {"username", "password", "role"}


def test_access_changed_by_another_process_counts_within_a_look(gateway: Gateway, ada: accounts.Account) -> None:
    token = login(gateway).json()["access_token"]
    assert bearer(gateway, token).status_code == 200
    accounts.change_user(ada.id, password_hash="elsewhere")
    gateway.refresh()
    problem(bearer(gateway, token), 401, "unauthorized")


def accounts_command(*arguments: str, folder: Path, typed: str = "", **environ: str) -> Any:
    return CliRunner().invoke(admin.main, arguments, input=typed, env={"DATA_DIR": str(folder), **environ})


def test_ensure_makes_the_first_user_once(db_file: Path, tmp_path: Path) -> None:
    first = accounts_command("ensure", folder=tmp_path)
    assert first.exit_code == 0
    password = first.output.partition("with the password ")[2].split()[0]
    found = accounts.by_name("admin")
    assert found is not None and found[0].role == "admin" and passwords.matches(password, found[1])
    assert accounts_command("ensure", folder=tmp_path).output == ""


def test_ensure_takes_the_password_of_the_environment_and_does_not_show_it(db_file: Path, tmp_path: Path) -> None:
    short = accounts_command("ensure", folder=tmp_path, CVP_ADMIN_PASSWORD="short")
    assert short.exit_code == 1 and "8 to 256" in short.output
    made = accounts_command("ensure", folder=tmp_path, CVP_ADMIN_PASSWORD=PASSWORD)
    assert PASSWORD not in made.output
    found = accounts.by_name("admin")
    assert found is not None and passwords.matches(PASSWORD, found[1])


def test_passwd_and_key(gateway: Gateway, ada: accounts.Account, tmp_path: Path) -> None:
    assert accounts_command("passwd", "ada", folder=tmp_path, typed="brand new one\n").exit_code == 0
    problem(login(gateway), 401, "unauthorized")
    assert login(gateway, password="brand new one").status_code == 200
    key = accounts_command("key", "ada", "demo", folder=tmp_path).output.strip()
    assert gateway.get("/auth/verify", role=None, headers={"X-API-Key": key}).json()["user"]["username"] == "ada"
    missing = accounts_command("passwd", "eve", folder=tmp_path, typed="whatever it is\n")
    assert missing.exit_code == 1 and "no user" in missing.output


def test_the_accounts_command_says_when_the_database_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    refused = accounts_command("ensure", folder=tmp_path)
    assert refused.exit_code == 1 and "cvp migrate" in refused.output
    connection.database.close()
