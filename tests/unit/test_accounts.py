"""Users, sign-ins and keys: what ends when, and that an administrator always remains."""

from __future__ import annotations

import pytest

from shared import clock, errors
from shared.db import accounts
from shared.db.registry import revisions


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
