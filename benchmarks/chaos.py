"""`make chaos`: processes of a platform under load are killed at random; at the end everything promised must hold.

Every kind of process is as likely as any other: services, children of jobs, `cvp backup`; now and then supervisord.
CHAOS_S bounds the campaign (default 150 s), or KILLS=1000 goes on until that many are done; SEED repeats its choices.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import click
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks import models
from benchmarks.invariants import orphans, violations
from benchmarks.load import Load
from benchmarks.run import DIGITS, Platform
from benchmarks.saver import Saver
from console import lifecycle
from console.supervision import NotAnswering, Supervisor
from shared.db import connection, jobs, tables

GROWN_UP_S = 6.0
"""Services younger than this are left alone: supervisord gives up those that die young five times in a row."""

STOP_S = 17.0
"""Longer than the 15 s after which a silent worker counts as dead."""

SCRIBE = "shared.scribe"
"""Beside every service, and as old as it."""

SUPERVISOR = "supervisor.supervisord"
SUPERVISOR_EVERY = 60
"""One kill in this many is supervisord's; everything else ends with it, and `cvp up` starts anew."""

STOP_EVERY = 40
RECOVERY_S = 420.0
PAUSE_S = (0.05, 0.9)


class Campaign:
    """Kills, and remembers whom."""

    def __init__(self, running: Platform, seed: int) -> None:
        self.kills: Counter[str] = Counter()
        self.stops: Counter[str] = Counter()
        self.restarts = 0
        self.broken: list[str] = []
        self._running, self._draw = running, random.Random(seed)
        self._suspended: tuple[psutil.Process, float] | None = None

    def strike(self) -> None:
        """Kill or suspend one process, or wait when there is none to choose."""
        self._wake(time.monotonic())
        living = self._living()
        self._count_slots(living)
        time.sleep(self._draw.uniform(*PAUSE_S))
        if self._draw.randrange(SUPERVISOR_EVERY) == 0:
            self._kill_supervisor(living)
            return
        chosen = self._choose(living)
        if chosen is None:
            return
        name, process = chosen
        try:
            if self._suspended is None and self._draw.randrange(STOP_EVERY) == 0:
                process.suspend()
                self._suspended = process, time.monotonic() + STOP_S
                self.stops[name] += 1
            else:
                process.kill()
                self.kills[name] += 1
        except psutil.NoSuchProcess:
            return

    def calm(self) -> None:
        """Let everything run again, as an operator would: `cvp up`."""
        self._wake(float("inf"))
        self.up()

    def up(self) -> None:
        """`cvp up`, which also starts what supervisord has given up."""
        for attempt in range(3):
            try:
                lifecycle.up(self._running.settings, lambda _: None)
                return
            except click.ClickException as error:
                if attempt == 2:
                    self.broken.append(f"cvp up: {error.message}")
        self.restarts += 1

    def _wake(self, now: float) -> None:
        if self._suspended is not None and now >= self._suspended[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._suspended[0].resume()
            self._suspended = None

    def _choose(self, living: dict[str, list[psutil.Process]]) -> tuple[str, psutil.Process] | None:
        """Every kind of process is as likely as any other, however many there are of it."""
        old = time.time() - GROWN_UP_S
        names = sorted(name for name in living if name != SUPERVISOR)
        self._draw.shuffle(names)
        for name in names:
            service = "." not in name or name == SCRIBE
            ripe = [each for each in living[name] if not service or each.create_time() < old]
            if ripe:
                return name, self._draw.choice(ripe)
        return None

    def _kill_supervisor(self, living: dict[str, list[psutil.Process]]) -> None:
        for process in living.get(SUPERVISOR, []):
            process.kill()
            self.kills[SUPERVISOR] += 1
        self._wake(float("inf"))
        self.restarts += 1
        self.up()

    def _living(self) -> dict[str, list[psutil.Process]]:
        """Processes of the platform by module; services without a dot, children of jobs with one."""
        found: dict[str, list[psutil.Process]] = {}
        for process in psutil.process_iter():
            try:
                line = process.cmdline()
                if "-m" in line and process.environ().get("DATA_DIR") == str(self._running.settings.root):
                    found.setdefault(line[line.index("-m") + 1], []).append(process)
            except (psutil.AccessDenied, psutil.NoSuchProcess):
                continue
        return found

    def _count_slots(self, living: dict[str, list[psutil.Process]]) -> None:
        measuring = [one for one in living.get("benchmarker.child", []) if one.is_running()]
        alive = [one for one in measuring if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
        if len(alive) > self._running.settings.max_gpu_workers:
            self.broken.append(f"{len(alive)} accelerator jobs at once: {[one.pid for one in alive]}")

    def given_up(self) -> bool:
        """Whether supervisord gave up a program; an operator has to start it then."""
        try:
            return any(program.given_up for program in Supervisor(self._running.settings).programs())
        except (NotAnswering, click.ClickException):
            return False


def recovered(bound_s: float = RECOVERY_S) -> float | None:
    """Seconds until every job has ended; None when they do not within the bound."""
    started = time.monotonic()
    while time.monotonic() - started < bound_s:
        with connection.read():
            if not tables.Job.select().where(tables.Job.status.in_(jobs.OPEN)).exists():
                return time.monotonic() - started
        time.sleep(0.2)
    return None


def show(campaign: Campaign, load: Load, wrong: list[str], notes: list[str]) -> None:
    """The short table."""
    console = Console(width=130)
    table = Table(
        "what", "how often", title=f"{sum(campaign.kills.values())} kills, {sum(campaign.stops.values())} stops"
    )
    table.add_row("killed", ", ".join(f"{name} {count}" for name, count in sorted(campaign.kills.items())))
    table.add_row("stopped for 17 s", ", ".join(f"{name} {count}" for name, count in sorted(campaign.stops.items())))
    for what in sorted({what for what, _ in load.answers}):
        parts = sorted((status, count) for (kind, status), count in load.answers.items() if kind == what)
        table.add_row(f"{what}, answers", ", ".join(f"{status}: {count}" for status, count in parts))
    with connection.read():
        ends = Counter((job.kind, job.status) for job in tables.Job.select())
    table.add_row("jobs", ", ".join(f"{kind} {status} {count}" for (kind, status), count in sorted(ends.items())))
    table.add_row("accepted", f"{len(load.accepted)} orders; {'; '.join(notes)}")
    table.add_row("violations", "\n".join(wrong[:20]) or "none")
    console.print(table)


def main() -> None:
    """Break it, let it recover, look."""
    kills = int(os.environ.get("KILLS", "0"))
    seconds = float(os.environ.get("CHAOS_S", "150"))
    seed = int(os.environ.get("SEED", str(random.randrange(10**6))))
    print(f"SEED={seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="cvp-chaos-") as parent:
        folder = Path(parent) / "data"
        os.environ |= {"DATA_DIR": str(folder), "PORT": str(models.free_port()), "INFERENCE_WORKERS": "4"}
        running = Platform(folder, int(os.environ["PORT"]))
        try:
            wrong = campaign(running, kills, seconds, seed)
        finally:
            lifecycle.down(running.settings, lambda _: None)
    sys.exit(1 if wrong else 0)


def campaign(running: Platform, kills: int, seconds: float, seed: int) -> list[str]:
    """Run it on a platform that is up; returns the violations."""
    model_id = running.ready(running.upload(DIGITS / "digits.onnx", **models.digits_facts()))
    connection.open_db(running.settings.db_file)
    chaos = Campaign(running, seed)
    began, said = time.monotonic(), 0
    saver = Saver(running.settings, running.settings.root.with_suffix(".saved"))
    with Load(str(running.http.base_url), running.headers, model_id, seed) as load, saver:
        while (sum(chaos.kills.values()) < kills) if kills else (time.monotonic() - began < seconds):
            chaos.strike()
            if chaos.given_up():
                chaos.restarts += 1
                chaos.up()
            if sum(chaos.kills.values()) >= said + 50:
                said += 50
                print(f"{said} kills after {time.monotonic() - began:.0f} s", flush=True)
    chaos.calm()
    took = recovered()
    load.ask_again()
    notes = [f"all jobs ended {took:.0f} s after the last kill" if took is not None else "jobs are still open"]
    notes += [f"{chaos.restarts} times `cvp up`", f"{orphans(running.settings)} files without a row"]
    notes += ["backups " + ", ".join(f"{end} {count}" for end, count in sorted(saver.ends.items()))]
    saver.restore()
    lifecycle.down(running.settings, lambda _: None)
    wrong = [*chaos.broken, *load.broken, *saver.broken, *violations(running.settings, [model_id, *load.accepted])]
    show(chaos, load, wrong, notes)
    connection.database.close()
    return wrong


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
