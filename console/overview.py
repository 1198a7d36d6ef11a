"""Tables for people: what runs, and with which settings."""

from __future__ import annotations

import datetime

import msgspec
import psutil
from rich.table import Table

from console.client import Client, address
from console.screen import Screen
from console.supervision import Program, Supervisor, differences, environment, settings_in_force
from shared import config

NOT_RUNNING = 3
"""Exit code of `cvp status` when nothing runs, as system services use it."""


def show_status(settings: config.Settings, screen: Screen) -> int:
    """Print every program and whether the platform serves; returns the exit code."""
    supervisor = Supervisor(settings)
    if not supervisor.lives():
        screen.line(f"Not running (data in {settings.root}). `cvp up` starts it.")
        return NOT_RUNNING
    programs = supervisor.programs()
    screen.table(_programs(programs))
    in_force = settings_in_force(supervisor)
    with Client(in_force) as client:
        reason = client.not_ready()
    given_up = [advice for program in programs if (advice := program.advice())]
    if not reason and not given_up:
        screen.line(f"Ready at {address(in_force)} (data in {in_force.root})")
        return 0
    screen.line(f"Not ready: {reason}" if reason else f"Only in part ready at {address(in_force)}:")
    for advice in given_up:
        screen.line(advice)
    return 1


def _programs(programs: list[Program]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("process")
    table.add_column("state")
    table.add_column("pid", justify="right")
    table.add_column("up", justify="right")
    table.add_column("MB", justify="right")
    table.add_column("")
    total = 0.0
    for program in programs:
        memory = _memory_mb(program.pid)
        total += memory
        up = str(datetime.timedelta(seconds=program.uptime_s)) if program.pid else ""
        pid, megabytes = (str(program.pid), f"{memory:.0f}") if program.pid else ("", "")
        table.add_row(program.name, program.state.lower(), pid, up, megabytes, program.why)
    table.add_row("all", "", "", "", f"{total:.0f}", "")
    return table


def _memory_mb(pid: int) -> float:
    """Memory of a process and its children; pages shared with others count in part, so that sums are true."""
    if not pid:
        return 0.0
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return float(sum(each.memory_full_info().pss for each in family)) / 2**20
    except psutil.Error:
        return 0.0


def show_config(screen: Screen) -> None:
    """Print every setting as the next start would use it, and where a running platform differs."""
    settings = config.load()
    values = msgspec.to_builtins(config.load(environment(settings)))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("setting", "value", "from", "meaning"):
        table.add_column(title, overflow="fold")
    for name, _, origin, meaning in config.in_force():
        table.add_row(name, config.shown(name, values[name]), origin, meaning)
    screen.table(table)
    supervisor = Supervisor(settings)
    if supervisor.lives():
        for line in differences(settings, settings_in_force(supervisor)):
            screen.line(f"The running platform has {line}.")
