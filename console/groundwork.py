"""What must be in order before the processes start: the port, the database, somebody who can sign in."""

from __future__ import annotations

import contextlib
import errno
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import click

from console.supervision import environment
from shared import config

if TYPE_CHECKING:
    import psutil


def migrate(settings: config.Settings) -> list[str]:
    """Bring the database file to this version's schema; returns what was applied.

    Raises:
        click.ClickException: The file and this version do not belong together, or a restore is under way.
    """
    from console import restore
    from shared.db import connection

    restore.require_none_under_way(settings)
    try:
        return connection.migrate(settings.db_file)
    except connection.SchemaMismatch as mismatch:
        raise click.ClickException(str(mismatch)) from mismatch


def first_account(settings: config.Settings) -> str:
    """Create an account where there is none; returns what is to be told about it. The database is migrated.

    Asked here, because the account tool takes a fifth of a second of processor time to load, at every start.
    """
    from shared.db import accounts, connection

    try:
        if accounts.users(limit=1, cursor=None).rows:
            return ""
    finally:
        connection.database.close()
    return gateway_admin(settings, "ensure").strip()


def gateway_admin(settings: config.Settings, *arguments: str, stdin: str = "") -> str:
    """Run the gateway's own account tool; hashing and keys are its business. Returns what it printed.

    Raises:
        click.ClickException: It refused; the message is its own.
    """
    done = subprocess.run(
        [sys.executable, "-P", "-m", "gateway.admin", *arguments],
        env=environment(settings),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode != 0:
        reason = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise click.ClickException(reason.removeprefix("cvp: ").removeprefix("Error: "))
    return done.stdout


def require_free_port(settings: config.Settings) -> None:
    """Refuse to start when the gateway could not listen.

    Raises:
        click.ClickException: Says who has the port, where that can be seen.
    """
    try:
        family, kind, _, _, where = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
            probe.listen(1)
    except socket.gaierror:
        raise click.ClickException(f"HOST={settings.host!r} is no address of this machine; try 127.0.0.1.") from None
    except OSError as error:
        raise click.ClickException(_why_not_listen(settings, error)) from error


def _why_not_listen(settings: config.Settings, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {settings.port} is taken{_by_whom(settings.port)}. Stop that program, or choose another port: "
            f"PORT={settings.port + 1}."
        )
    if error.errno == errno.EACCES:
        return f"Port {settings.port} is for the superuser only; choose one above 1023, for example PORT=8080."
    return f"Cannot listen on HOST={settings.host!r} PORT={settings.port}: {error.strerror}."


def _by_whom(port: int) -> str:
    """Who listens on a port, as far as this user may see."""
    import psutil

    with contextlib.suppress(psutil.Error):
        for each in psutil.net_connections("tcp"):
            if each.status == psutil.CONN_LISTEN and each.laddr.port == port and each.pid:
                return f" by {_named(psutil.Process(each.pid))}"
    return ""


def _named(process: psutil.Process) -> str:
    if process.cmdline()[1:] == ["-m", "gateway"]:
        return f"another copy of this platform (DATA_DIR={process.environ().get('DATA_DIR')})"
    return f"{process.name()} (process {process.pid})"
