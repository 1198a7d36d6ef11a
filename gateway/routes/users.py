"""Users, for administrators."""

from __future__ import annotations

import msgspec
from litestar import Router, delete, get, patch, post
from litestar.params import FromPath, JSONBody

from gateway import passwords, schemas
from gateway.routes.common import Cursor, Http, Injected, Limit, about, listing, problems
from shared import clock
from shared.db import accounts, tables


@get("/", responses=problems())
async def list_users(context: Injected, limit: Limit = 50, cursor: Cursor = None) -> schemas.Listing[schemas.User]:
    """All users."""
    return listing(await context.store.read(accounts.users, limit=limit, cursor=cursor), _user)


@post("/", responses=problems(409))
async def add_user(request: Http, data: JSONBody[schemas.NewUser], context: Injected) -> schemas.User:
    """Make a user."""
    password_hash = await context.store.hash(passwords.hashed, data.password)
    account = await context.store.write(accounts.add_user, data.username, password_hash, data.role)
    about(request, account.id)
    return _user(await context.store.read(accounts.user, account.id))


@patch("/{user_id:str}", responses=problems(404, 409))
async def change_user(user_id: FromPath[str], data: JSONBody[schemas.UserChange], context: Injected) -> schemas.User:
    """Change a user's role or password; takes effect at once."""
    password_hash = None if data.password is None else await context.store.hash(passwords.hashed, data.password)
    if data.role is not None or password_hash is not None:
        await context.store.write(accounts.change_user, user_id, role=data.role, password_hash=password_hash)
        await context.caches.refresh()
    return _user(await context.store.read(accounts.user, user_id))


@delete("/{user_id:str}", responses=problems(404, 409))
async def delete_user(user_id: FromPath[str], context: Injected) -> None:
    """Delete a user; sign-ins and keys end at once, what they made stays."""
    await context.store.write(accounts.delete_user, user_id)
    await context.caches.refresh()


def _user(row: tables.User) -> schemas.User:
    shown = {"id": row.id, "username": row.username, "role": row.role, "created_at": clock.iso(row.created_at_ms)}
    return msgspec.convert(shown, schemas.User)


router = Router("/users", route_handlers=[list_users, add_user, change_user, delete_user], tags=["users"])
