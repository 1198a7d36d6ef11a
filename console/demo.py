"""`cvp demo`: the main job on the running platform, or between an up and a down of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import click

from console import lifecycle, mission
from console.client import address
from console.job import main_job, typed
from console.screen import Screen
from console.supervision import Supervisor, settings_in_force
from shared import config

Job = Callable[[config.Settings, Screen, bool], None]
ENDINGS = (signal.SIGTERM, signal.SIGHUP)


def run(settings: config.Settings, screen: Screen, *, train: bool, fresh: bool, start: bool, keep: bool) -> None:
    """The main job, with `train` the whole mission; with `start` between up and down, with `keep` held until Ctrl-C.

    Raises:
        click.ClickException, errors.AppError: One sentence on what happened and what to do.
    """
    job: Job = main_job
    if train:
        mission.require_pytorch()
        job = mission.whole_mission
    supervisor = Supervisor(settings)
    if start:
        with _started(settings, screen) as by_us:
            job(settings, screen, fresh)
            where_next(settings, screen, by_us=by_us, keep=keep)
            if by_us and keep:
                hold(supervisor)
        return
    if not supervisor.lives():
        raise click.ClickException(
            f"The platform does not run (data in {settings.root}). `cvp up` starts it; so does `cvp demo --start`."
        )
    settings = settings_in_force(supervisor)
    job(settings, screen, fresh)
    where_next(settings, screen, by_us=False, keep=False)


@contextlib.contextmanager
def _started(settings: config.Settings, screen: Screen) -> Iterator[bool]:
    """The platform, up; stopped at the end, whatever happens, if it was us who started it. Gives whether it was."""
    for ending in ENDINGS:
        signal.signal(ending, _interrupt)
    with screen.waiting("Starting") as say:
        begun = lifecycle.up(settings, say)
    screen.line(f"{'Started' if begun.by_us else 'Running'} at {address(settings)} (data in {settings.root})")
    if begun.farm:
        screen.line(begun.farm)
    if begun.first_sign_in:
        screen.line(begun.first_sign_in, style="bold")
    try:
        yield begun.by_us
    finally:
        if begun.by_us:
            _stop(settings, screen)


def _stop(settings: config.Settings, screen: Screen) -> None:
    try:
        screen.line()
        with screen.waiting("Stopping") as say:
            lifecycle.down(settings, say)
        screen.line("Stopped.")
    except (OSError, ValueError):  # nobody reads what we print any more; what we started ends all the same
        lifecycle.down(settings, lambda _: None)


def _interrupt(signum: int, _frame: FrameType | None) -> None:
    """SIGTERM and a closed terminal end things as Ctrl-C does; without a terminal nobody can be told."""
    for ending in ENDINGS:
        signal.signal(ending, signal.SIG_IGN)  # a closing terminal sends more than one
    if signum == signal.SIGHUP:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for fd in (1, 2):
            os.dup2(nowhere, fd)
    raise KeyboardInterrupt


def hold(supervisor: Supervisor) -> None:
    """Wait for Ctrl-C, or for somebody else to stop the platform."""
    with contextlib.suppress(KeyboardInterrupt):
        while supervisor.lives():
            time.sleep(0.5)


def where_next(settings: config.Settings, screen: Screen, *, by_us: bool, keep: bool) -> None:
    """What somebody who has just watched this wants to open or type now; no address that is about to fall silent."""
    stays = keep or not by_us
    running = ((f"{address(settings)}/schema", "API documentation"),)
    lasting = (
        (typed(settings.root / "demo" / "report.html"), "the report, in a browser"),
        (f"{_cvp()} passwd", "another password for the user admin (the first start printed one)"),
        (f"{_cvp()} status", "the processes; `logs NAME`, `restart NAME`, `doctor` too"),
    )
    again = ((f"{_cvp()} up", f"starts it again with this data, at {address(settings)}"),)
    screen.line()
    screen.line("Where to go next", style="bold")
    for what, why in (*running, *lasting) if stays else (*lasting[:2], *again):
        screen.line(f"  {what:<36} {why}")
    screen.line()
    if not by_us:
        screen.line(f"The platform was running before and goes on; `{_cvp()} down` stops it.")
    elif keep:
        screen.line("Ctrl-C stops the platform.")
    else:
        screen.line("The demo is over and its platform stops now; `make run` and `make run-train` keep it running.")


def _cvp() -> str:
    """The command as it can be typed here."""
    return "cvp" if shutil.which("cvp") else typed(Path(sys.executable).parent / "cvp")
