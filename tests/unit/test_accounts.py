"""Users, sign-ins and keys: what ends when, and that an administrator always remains."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from shared import apikeys, clock, errors
from shared.db import accounts, connection, jobs
from shared.db.registry import revisions
from shared.specs import BenchmarkSpec


@pytest.fixture
def ann(admin: accounts.Account) -> accounts.Account:
    return accounts.add_user("Ann", "hash", "engineer")


def test_names_are_unique_whatever_their_case(ann: accounts.Account):
    with pytest.raises(errors.Conflict, match="taken"):
        accounts.add_user("aNN", "hash", "viewer")
    found = accounts.by_name("ANN")
    assert found is not None
    assert found[0] == ann


def test_a_deleted_name_may_be_used_again(ann: accounts.Account):
    accounts.delete_user(ann.id)
    assert accounts.account(ann.id) is None
    assert accounts.add_user("ann", "hash", "viewer").id != ann.id


def test_the_last_administrator_stays(admin: accounts.Account, ann: accounts.Account):
    with pytest.raises(errors.Conflict, match="last administrator"):
        accounts.delete_user(admin.id)
    with pytest.raises(errors.Conflict, match="last administrator"):
        accounts.change_user(admin.id, role="viewer")
    accounts.change_user(ann.id, role="admin")
    accounts.change_user(admin.id, role="viewer")
    with pytest.raises(errors.NotFound):
        accounts.change_user("usr_none", role="viewer")


def test_a_session_lives_until_it_expires_is_closed_or_its_user_goes(ann: accounts.Account):
    day_ms = 86_400_000
    session = accounts.open_session(ann.id, day_ms)
    assert accounts.session_user(session.id) == ann
    assert accounts.session_user(accounts.open_session(ann.id, 1).id) in (ann, None)
    accounts.close_session(session.id)
    assert accounts.session_user(session.id) is None
    other = accounts.open_session(ann.id, day_ms)
    accounts.change_user(ann.id, password_hash="new")
    assert accounts.session_user(other.id) is None


def test_a_role_is_read_from_the_row(ann: accounts.Account):
    session = accounts.open_session(ann.id, 60_000)
    before = revisions()["access"]
    accounts.change_user(ann.id, role="viewer")
    now = accounts.session_user(session.id)
    assert now is not None
    assert now.role == "viewer"
    assert revisions()["access"] > before


def test_keys_end_by_expiry_revocation_and_with_their_user(admin: accounts.Account, ann: accounts.Account):
    live = accounts.add_key(ann.id, "ci", "a" * 64, "cvp_ab", None)
    accounts.add_key(ann.id, "old", "b" * 64, "cvp_cd", clock.now_ms() - 1)
    found = accounts.key_user("a" * 64)
    assert found == (ann, None)
    assert accounts.key_user("b" * 64) is None
    with pytest.raises(errors.NotFound):
        accounts.revoke_key(live.id, admin.id)
    accounts.revoke_key(live.id, ann.id)
    assert accounts.key_user("a" * 64) is None
    accounts.add_key(ann.id, "again", "c" * 64, "cvp_ef", None)
    accounts.delete_user(ann.id)
    assert accounts.key_user("c" * 64) is None


def test_the_key_of_a_job_is_a_viewers_and_ends_with_it(ann: accounts.Account, db_file: Path) -> None:
    with connection.write():
        job_id = jobs.insert("benchmark", BenchmarkSpec(model_id="mdl_1"), user_id=ann.id)
    keys = [apikeys.new_key() for _ in range(2)]
    soon = clock.now_ms() + 60_000
    accounts.add_job_key(job_id, ann.id, apikeys.fingerprint(keys[0]), soon)
    assert accounts.key_user(apikeys.fingerprint(keys[0])) is None, "the job does not run"
    now = clock.now_ms()
    ticket = jobs.peek("accelerator", now)
    assert ticket is not None
    job = jobs.claim("accelerator", "benchmarker-0", now, ticket.id)
    assert job is not None
    found = accounts.key_user(apikeys.fingerprint(keys[0]))
    assert found == (msgspec.structs.replace(ann, role="viewer"), soon)
    assert accounts.keys(ann.id, limit=10, cursor=None).rows == [], "nobody's to keep"
    assert accounts.drop_job_keys() == 0

    before = revisions()["access"]
    accounts.add_job_key(job_id, ann.id, apikeys.fingerprint(keys[1]), soon)
    assert accounts.key_user(apikeys.fingerprint(keys[0])) is None, "one of an earlier attempt"
    assert accounts.key_user(apikeys.fingerprint(keys[1])) is not None
    jobs.put_back(job, "the worker was stopped")
    assert accounts.key_user(apikeys.fingerprint(keys[1])) is None
    assert accounts.drop_job_keys() == 1
    assert accounts.drop_job_keys() == 0
    assert revisions()["access"] >= before + 2, "what remembers it must look again"


def test_the_key_of_a_job_expires_and_goes_with_its_user(ann: accounts.Account, db_file: Path) -> None:
    with connection.write():
        job_id = jobs.insert("benchmark", BenchmarkSpec(model_id="mdl_1"), user_id=ann.id)
    assert jobs.claim("accelerator", "benchmarker-0", clock.now_ms(), job_id) is not None
    key = apikeys.fingerprint(apikeys.new_key())
    accounts.add_job_key(job_id, ann.id, key, clock.now_ms() - 1)
    assert accounts.key_user(key) is None
    accounts.add_job_key(job_id, ann.id, key, clock.now_ms() + 60_000)
    assert accounts.key_user(key) is not None
    accounts.delete_user(ann.id)
    assert accounts.key_user(key) is None
