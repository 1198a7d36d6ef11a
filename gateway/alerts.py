"""Alerts: which are due, when raised and cleared, and who is told. The Prometheus rules have the same limits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from gateway.mail import Post
from gateway.monitor import LOOK_S, Minute, Monitor, View
from gateway.store import Store
from shared import clock, config, errors
from shared.db import alerts
from shared.wire.messages import LoadedModel, Status, WorkerStatus

TOPIC = "alerts"
CLEAR_AFTER_S = 30.0
"""A condition must be gone this long before its alert is cleared, so that one at its limit does not flap."""

PATIENCE_S = {"NoInferenceWorker": 15.0, "NoJobWorker": 15.0}
"""Conditions that must last before they are an alert: a restart takes a few seconds."""

ERROR_SHARE = 0.05
ERRORS_AT_LEAST = 5
DISK_SHARE = 0.1
LOST_WORKERS = 3

BY_EMAIL_IN_VAIN = "EmailFailing"
"""The alert that is not mailed."""

logger = logging.getLogger(__name__)


class Change(NamedTuple):
    """An alert raised or cleared."""

    name: str
    message: str
    raised: bool


def due(view: View, last: Minute, status: Status | None, settings: config.Settings) -> dict[str, str]:
    """The conditions that hold now, by name of the alert, each with a sentence of what is seen. Pure."""
    found: dict[str, str] = {}
    if status is None or not status.workers:
        found["NoInferenceWorker"] = "No inference process is there; predictions are refused."
    if away := view.host.away():
        found["NoJobWorker"] = f"No process is there of: {', '.join(away)}; its jobs wait."
    if last.workers_lost >= LOST_WORKERS:
        found["WorkerFlapping"] = f"Inference processes died {last.workers_lost} times within five minutes."
    if last.refused_full or (status is not None and status.depth >= status.depth_limit):
        found["InferenceQueueFull"] = f"{last.refused_full} predictions of the last minute were refused: too many wait."
    queued = sum(row.jobs for row in view.jobs or [] if row.status == "queued")
    if queued >= settings.max_queued_jobs:
        found["JobQueueFull"] = (
            f"{queued} jobs wait (MAX_QUEUED_JOBS={settings.max_queued_jobs}); new ones are refused."
        )
    if last.http_failed >= ERRORS_AT_LEAST and last.http_error_rate > ERROR_SHARE:
        found["ErrorRate"] = f"{last.http_error_rate:.0%} of the last minute's requests failed on our side."
    if view.jobs is None or last.database_errors:
        found["DatabaseErrors"] = f"The database refused {last.database_errors} calls in the last minute."
    low = [name for name, disk in view.host.disks.items() if disk.free_bytes < DISK_SHARE * disk.size_bytes]
    if low:
        free = min(view.host.disks[name].free_bytes for name in low) // 2**20
        found["DiskLow"] = f"The disk behind {', '.join(low)} is over 90 % full ({free} MB free)."
    locked = [name for name, disk in view.host.disks.items() if not disk.writable]
    if locked:
        found["DiskReadOnly"] = f"The disk behind {', '.join(locked)} cannot be written; uploads and jobs are refused."
    if view.stale:
        found["DeploymentStale"] = f"{_first(view.stale)} It serves on and is activated anew."
    if refused := [(worker.worker_id, model.problem) for worker, model in _loaded(status) if model.problem]:
        found["DeploymentRefused"] = f"{_first(refused)} What served before goes on there, or the default."
    if last.email_failure is not None:
        found[BY_EMAIL_IN_VAIN] = f"Alerts cannot be mailed: {last.email_failure}"
    return found


def _loaded(status: Status | None) -> list[tuple[WorkerStatus, LoadedModel]]:
    return [(worker, model) for worker in (status.workers if status else []) for model in worker.models]


def _first(found: list[tuple[str, str]]) -> str:
    where, why = found[0]
    return f"{where}: {why}" + (f" ({len(found)} in all.)" if len(found) > 1 else "")


class Standing:
    """Which alerts stand: raised at once or after `PATIENCE_S`, cleared after `CLEAR_AFTER_S`. Pure.

    Args:
        before: Alerts that stand from an earlier run.
        now_s: Monotonic.
    """

    def __init__(self, before: Mapping[str, str], now_s: float) -> None:
        self.alerts = dict(before)
        self._since_s: dict[str, float] = {}
        self._seen_s = dict.fromkeys(before, now_s)

    def step(self, found: Mapping[str, str], now_s: float) -> list[Change]:
        """What changes now that these conditions hold."""
        self._since_s = {name: self._since_s.get(name, now_s) for name in found}
        self._seen_s |= dict.fromkeys(found, now_s)
        ripe = {name for name, since_s in self._since_s.items() if now_s - since_s >= PATIENCE_S.get(name, 0.0)}
        over = {name for name in self.alerts if now_s - self._seen_s[name] >= CLEAR_AFTER_S}
        changes = [Change(name, found[name], True) for name in found if name in ripe and name not in self.alerts]
        changes += [Change(name, message, False) for name, message in self.alerts.items() if name in over]
        self.alerts |= {change.name: change.message for change in changes if change.raised}
        for name in over:
            del self.alerts[name]
        return changes


class Speaker(Protocol):
    """What this needs of the broker's client."""

    def status(self) -> tuple[Status | None, float]:
        """The broker's last word and its age in seconds."""
        ...

    def publish(self, topic: str, body: dict[str, Any]) -> None:
        """Announce an event."""
        ...


class Watch:
    """Raises and clears alerts for as long as the gateway runs: rows, events, e-mail, a line in the log each.

    Args:
        settings: In force.
        store: Writes the rows.
        monitor: Gives the figures.
        broker: Gives the lane's status and takes the events.
        post: Takes the e-mail.
    """

    def __init__(self, settings: config.Settings, store: Store, monitor: Monitor, broker: Speaker, post: Post) -> None:
        self._settings, self._store, self._monitor, self._broker, self._post = settings, store, monitor, broker, post
        self._standing: Standing | None = None
        self._settled: dict[str, str] | None = None

    async def keep(self) -> None:
        """Decide anew after each look of the monitor, until cancelled."""
        while True:
            try:
                await self.step()
            except errors.Unavailable as error:
                logger.error("alerts cannot be stored; trying again", extra={"error": error.message})
            await asyncio.sleep(LOOK_S)

    async def step(self) -> None:
        """Decide now.

        Raises:
            errors.Unavailable: The database cannot be used; people have been told of what changed all the same.
        """
        now_s = asyncio.get_running_loop().time()
        if self._standing is None:
            self._standing = Standing(await self._store.read(alerts.raised), now_s)
        view, status = await self._monitor.view(), self._broker.status()[0]
        for change in self._standing.step(due(view, self._monitor.minute(), status, self._settings), now_s):
            self._tell(change)
        if self._settled != self._standing.alerts:
            wanted = dict(self._standing.alerts)
            await self._store.write(alerts.settle, wanted, clock.now_ms())
            self._settled = wanted

    def _tell(self, change: Change) -> None:
        state = "raised" if change.raised else "cleared"
        logger.log(
            logging.ERROR if change.raised else logging.INFO,
            "alert %s",
            state,
            extra={"alert": change.name, "detail": change.message},
        )
        self._broker.publish(TOPIC, {"name": change.name, "state": state, "message": change.message})
        if change.name != BY_EMAIL_IN_VAIN:
            self._post.put(f"[cv-platform] {change.name} {state}", change.message)
