"""A command's session with the platform on this machine: its key, and which model or dataset a name means."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from console.client import Client, Json, Noun
from console.groundwork import gateway_admin
from console.supervision import Supervisor, settings_in_force
from shared import config, errors, ids

PREFIXES: dict[Noun, str] = {"models": "mdl", "datasets": "dst"}


@contextmanager
def signed_in(settings: config.Settings) -> Iterator[Client]:
    """The platform on this machine, as it was started, with the key of its commands.

    Raises:
        errors.Unavailable: It does not answer.
    """
    supervisor = Supervisor(settings)
    if supervisor.lives():
        settings = settings_in_force(supervisor)
    with Client(settings) as stranger:
        if reason := stranger.not_ready():
            raise errors.Unavailable(f"The platform cannot be asked: {reason}; `cvp up` starts it.")
    with Client(settings, local_key(settings)) as client:
        yield client


def local_key(settings: config.Settings) -> str:
    """The API key by which commands on this machine sign in as admin: that of last time, or a new one.

    Raises:
        errors.Unavailable: The platform does not answer.
    """
    path = settings.secrets / "demo.key"
    key = path.read_text().strip() if path.exists() else ""
    with Client(settings, key) as client:
        if key and client.signed_in():
            return key
    key = gateway_admin(settings, "key", "admin", "demo").strip()
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(key)
    return key


def find(client: Client, noun: Noun, said: str, *, to_use: bool = False) -> Json:
    """The one model or dataset with this id or name; with `to_use` those that are not ready do not make a name unclear.

    Raises:
        errors.NotFound: There is none.
        errors.Conflict: Several have this name; the message lists their ids.
    """
    one = noun.removesuffix("s")
    if ids.is_id(said, PREFIXES[noun]):
        return client.item(noun, said)
    found = list(client.items(noun, name=said))
    if to_use and len(found) > 1:
        found = [item for item in found if item["status"] == "ready"] or found
    if not found:
        raise errors.NotFound(f"No {one} has the id or the name {said[:200]!r}. `cvp {noun}` lists them.")
    if len(found) > 1:
        which = "".join(f"\n  {item['id']}  {item['status']}, of {clock(item['created_at'])}" for item in found)
        raise errors.Conflict(f"{len(found)} {noun} are called {said!r}. Say which by its id:{which}")
    return found[0]


def clock(created_at: str) -> str:
    """An instant of the API, in minutes: `2026-01-31 08:15`, UTC."""
    return created_at[:16].replace("T", " ")
