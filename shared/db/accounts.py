"""Users, sign-ins and API keys: rows only; hashing and tokens are the gateway's."""

from __future__ import annotations

from typing import Literal

import msgspec
import peewee

from shared import clock, errors, ids
from shared.db import connection, pages
from shared.db.registry import bump
from shared.db.tables import ApiKey, Job, Session, User

Role = Literal["admin", "engineer", "viewer"]


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """Who is calling, as the access rules see them."""

    id: str
    username: str
    role: Role


def account(user_id: str) -> Account | None:
    """The user's present name and role; None once deleted. Roles are always read here, never from a token."""
    with connection.read():
        row = User.get_or_none((User.id == user_id) & User.deleted_at_ms.is_null())
    return None if row is None else _account(row)


def users(*, limit: int, cursor: str | None) -> pages.Page[User]:
    """Users that are not deleted, newest first."""
    return pages.page(User.select().where(User.deleted_at_ms.is_null()), User.id, "usr", limit, cursor)


def user(user_id: str) -> User:
    """The row of a user.

    Raises:
        errors.NotFound: No such user.
    """
    with connection.read():
        return _live(user_id)


def by_name(username: str) -> tuple[Account, str] | None:
    """A user and the password hash."""
    with connection.read():
        row = User.get_or_none((User.username == username) & User.deleted_at_ms.is_null())
    return None if row is None else (_account(row), str(row.password_hash))


def add_user(username: str, password_hash: str, role: Role) -> Account:
    """Create a user.

    Raises:
        errors.Conflict: The name is taken (case does not matter).
    """
    user_id = ids.new_id("usr")
    try:
        with connection.write(durable=True):
            User.insert(
                id=user_id,
                username=username,
                password_hash=password_hash,
                role=role,
                created_at_ms=clock.now_ms(),
            ).execute()
    except peewee.IntegrityError:
        raise errors.Conflict(f"The user name {username!r} is taken; choose another.") from None
    return Account(id=user_id, username=username, role=role)


def change_user(user_id: str, *, role: Role | None = None, password_hash: str | None = None) -> None:
    """Change role or password; a new password ends the user's sign-ins.

    Raises:
        errors.NotFound: No such user.
        errors.Conflict: The last administrator would lose the role.
    """
    with connection.write(durable=True):
        row = _live(user_id)
        if role is not None and row.role == "admin" and role != "admin":
            _keep_an_admin()
        changes = {"role": role, "password_hash": password_hash}
        User.update(**{name: value for name, value in changes.items() if value is not None}).where(
            User.id == user_id
        ).execute()
        if password_hash is not None:
            _end_sessions(user_id)
        bump("access")


def delete_user(user_id: str) -> None:
    """Delete a user: sign-ins and keys end, what they made stays.

    Raises:
        errors.NotFound: No such user.
        errors.Conflict: The last administrator.
    """
    now = clock.now_ms()
    with connection.write(durable=True):
        if _live(user_id).role == "admin":
            _keep_an_admin()
        User.update(deleted_at_ms=now).where(User.id == user_id).execute()
        ApiKey.update(revoked_at_ms=now).where((ApiKey.user_id == user_id) & ApiKey.revoked_at_ms.is_null()).execute()
        _end_sessions(user_id)
        bump("access")


def open_session(user_id: str, ttl_ms: int) -> Session:
    """A new sign-in; old, expired ones of everybody are swept."""
    now = clock.now_ms()
    session = Session(id=ids.new_id("ses"), user_id=user_id, created_at_ms=now, expires_at_ms=now + ttl_ms)
    with connection.write():
        Session.delete().where(Session.expires_at_ms < now).execute()
        session.save(force_insert=True)
    return session


def session_user(session_id: str) -> Account | None:
    """Who a sign-in belongs to, unless it expired or was ended."""
    with connection.read():
        row = Session.get_or_none(
            (Session.id == session_id) & Session.revoked_at_ms.is_null() & (Session.expires_at_ms > clock.now_ms())
        )
    return None if row is None else account(row.user_id)


def close_session(session_id: str) -> None:
    """End one sign-in."""
    with connection.write():
        Session.update(revoked_at_ms=clock.now_ms()).where(Session.id == session_id).execute()
        bump("access")


def add_key(user_id: str, name: str, key_sha256: str, hint: str, expires_at_ms: int | None) -> ApiKey:
    """Record a key by its hash."""
    key = ApiKey(
        id=ids.new_id("key"),
        user_id=user_id,
        name=name,
        key_sha256=key_sha256,
        hint=hint,
        created_at_ms=clock.now_ms(),
        expires_at_ms=expires_at_ms,
    )
    with connection.write(durable=True):
        key.save(force_insert=True)
    return key


def add_job_key(job_id: str, user_id: str, key_sha256: str, expires_at_ms: int) -> None:
    """Record the key of a running job: good for a viewer's calls while it runs. That of an earlier attempt goes."""
    now = clock.now_ms()
    with connection.write():
        _drop_keys(ApiKey.job_id == job_id)
        ApiKey.insert(
            id=ids.new_id("key"),
            user_id=user_id,
            name=f"of {job_id}",
            key_sha256=key_sha256,
            hint="",
            created_at_ms=now,
            expires_at_ms=expires_at_ms,
            job_id=job_id,
        ).execute()


def drop_job_keys() -> int:
    """Delete the keys of jobs that do not run any more, however they ended; returns how many went."""
    ended = ApiKey.job_id.is_null(False) & ApiKey.job_id.not_in(Job.select(Job.id).where(Job.status == "running"))
    with connection.read():
        if not ApiKey.select().where(ended).exists():
            return 0
    with connection.write():
        return _drop_keys(ended)


def _drop_keys(which: peewee.Expression) -> int:
    gone = int(ApiKey.delete().where(which).execute())
    if gone:
        bump("access")
    return gone


def key_user(key_sha256: str) -> tuple[Account, int | None] | None:
    """Who a live key belongs to, and when it expires (ms); behind the key of a job is a viewer, whoever ordered it."""
    with connection.read():
        row = ApiKey.get_or_none(
            (ApiKey.key_sha256 == key_sha256)
            & ApiKey.revoked_at_ms.is_null()
            & (ApiKey.expires_at_ms.is_null() | (ApiKey.expires_at_ms > clock.now_ms()))
        )
    if row is None:
        return None
    owner = account(row.user_id)
    if owner is not None and row.job_id is not None:
        owner = msgspec.structs.replace(owner, role="viewer") if _runs(row.job_id) else None
    return None if owner is None else (owner, row.expires_at_ms)


def _runs(job_id: str) -> bool:
    with connection.read():
        return bool(Job.select().where((Job.id == job_id) & (Job.status == "running")).exists())


def keys(user_id: str, *, limit: int, cursor: str | None) -> pages.Page[ApiKey]:
    """The user's keys that are not revoked, newest first; not those of jobs."""
    query = ApiKey.select().where(
        (ApiKey.user_id == user_id) & ApiKey.revoked_at_ms.is_null() & ApiKey.job_id.is_null()
    )
    return pages.page(query, ApiKey.id, "key", limit, cursor)


def revoke_key(key_id: str, user_id: str) -> None:
    """Revoke one of the user's own keys.

    Raises:
        errors.NotFound: Not theirs, or gone.
    """
    with connection.write(durable=True):
        changed = (
            ApiKey.update(revoked_at_ms=clock.now_ms())
            .where((ApiKey.id == key_id) & (ApiKey.user_id == user_id) & ApiKey.revoked_at_ms.is_null())
            .execute()
        )
        if not changed:
            raise errors.NotFound(f"You have no key {key_id[:80]!r}; GET /api/v1/auth/api-keys lists yours.")
        bump("access")


def _account(row: User) -> Account:
    return msgspec.convert({"id": row.id, "username": row.username, "role": row.role}, Account)


def _live(user_id: str) -> User:
    row = User.get_or_none((User.id == user_id) & User.deleted_at_ms.is_null())
    if row is None:
        raise errors.NotFound(f"There is no user {user_id[:80]!r}; GET /api/v1/users lists them.")
    return row


def _keep_an_admin() -> None:
    if User.select().where((User.role == "admin") & User.deleted_at_ms.is_null()).count() <= 1:
        raise errors.Conflict("This is the last administrator; make somebody else one first.")


def _end_sessions(user_id: str) -> None:
    Session.update(revoked_at_ms=clock.now_ms()).where(
        (Session.user_id == user_id) & Session.revoked_at_ms.is_null()
    ).execute()
