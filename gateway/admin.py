"""Accounts from the machine itself: `python -m gateway.admin ensure | passwd USER | key USER NAME`."""

from __future__ import annotations

import os
import sys

import click

from gateway import passwords
from shared import apikeys, clock, config, errors, ids
from shared.db import accounts, audit, connection

FIRST_USER = "admin"


@click.group()
def main() -> None:
    """Work on the accounts of this installation, whether or not the platform runs."""
    try:
        settings = config.load()
    except config.BadSetting as bad:
        raise click.ClickException(bad.message) from None
    try:
        connection.open_db(settings.db_file)
    except connection.SchemaMismatch as mismatch:
        raise click.ClickException(str(mismatch)) from None


@main.command()
def ensure() -> None:
    """Create `admin` if there is no user yet, with CVP_ADMIN_PASSWORD or a random password that is printed once."""
    if accounts.users(limit=1, cursor=None).rows:
        return
    given = os.environ.get("CVP_ADMIN_PASSWORD")
    password = given or passwords.random_password()
    try:
        accounts.add_user(FIRST_USER, passwords.hashed(_strong(password)), "admin")
    except errors.Conflict:
        return  # somebody else was faster
    shown = "." if given else f" with the password {password} (shown this once; `cvp passwd` sets another)"
    click.echo(f"Created the user {FIRST_USER!r}{shown}")


@main.command()
@click.argument("username")
def passwd(username: str) -> None:
    """Set the password of USERNAME to the line read from standard input; their sign-ins end."""
    account = _account(username)
    password = _strong(sys.stdin.readline().rstrip("\r\n"))
    accounts.change_user(account.id, password_hash=passwords.hashed(password))
    done = audit.Entry(
        at_ms=clock.now_ms(),
        request_id=ids.request_id(None),
        user_id=None,
        action=audit.PASSWORD_SET,
        resource=account.username,
        result="200",
    )
    audit.add([done])
    click.echo(f"Changed the password of {account.username!r}.")


@main.command()
@click.argument("username")
@click.argument("name")
def key(username: str, name: str) -> None:
    """Create an API key called NAME for USERNAME and print it, alone on its line."""
    account = _account(username)
    fresh = apikeys.new_key()
    accounts.add_key(account.id, name, apikeys.fingerprint(fresh), apikeys.hint(fresh), None)
    click.echo(fresh)


def _account(username: str) -> accounts.Account:
    found = accounts.by_name(username)
    if found is None:
        raise click.ClickException(f"There is no user {username!r}.")
    return found[0]


def _strong(password: str) -> str:
    if not passwords.MIN_LENGTH <= len(password) <= passwords.MAX_LENGTH:
        raise click.ClickException(
            f"A password has {passwords.MIN_LENGTH} to {passwords.MAX_LENGTH} characters; this one has {len(password)}."
        )
    return password


if __name__ == "__main__":
    main()
