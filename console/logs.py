"""The end of a process's log, and what is added to it; JSON lines are made readable on a terminal."""

from __future__ import annotations

import collections
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import click
import msgspec

LOOK_AGAIN_S = 0.2
COLORS = {"warn": "yellow", "warning": "yellow", "error": "red", "fatal": "red", "critical": "red", "debug": "cyan"}


def show(folder: Path, name: str, *, lines: int, follow: bool, pretty: bool) -> None:
    """Print the last lines of a log, and go on with what is added when `follow` is wished.

    Raises:
        click.ClickException: There is no such log; the message lists those there are.
    """
    path = folder / f"{name}.log"
    names = sorted(each.stem for each in folder.glob("*.log"))
    if name not in names:
        there = f"there are: {', '.join(names)}" if names else "nothing was started yet: `cvp up`"
        raise click.ClickException(f"There is no log of {name!r} in {folder}; {there}.")
    with path.open(errors="replace") as log:
        for line in collections.deque(log, maxlen=lines):
            click.echo(readable(line) if pretty else line, nl=False)
        if follow:
            for line in added(path, log):
                click.echo(readable(line) if pretty else line, nl=False)


def added(path: Path, log: TextIO) -> Iterator[str]:
    """Whole lines as they appear, through rotations of the file. Never ends; closes what it reads from."""
    part = ""
    try:
        while True:
            piece = log.readline()
            part += piece
            if part.endswith("\n"):
                yield part
                part = ""
            elif not piece and _rotated(path, log):
                log.close()
                log = path.open(errors="replace")
            elif not piece:
                time.sleep(LOOK_AGAIN_S)
    finally:
        log.close()


def _rotated(path: Path, log: TextIO) -> bool:
    try:
        return path.stat().st_ino != os.fstat(log.fileno()).st_ino
    except FileNotFoundError:  # between the rename and the new file
        return False


def readable(line: str) -> str:
    """`20:15:02.123 warn  message  key=value ...`; what is no log line of ours stays as it is."""
    try:
        record = msgspec.json.decode(line, type=dict[str, object])
        clock, level, message = str(record.pop("time"))[11:23], str(record.pop("level")), record.pop("message")
    except (msgspec.DecodeError, KeyError):
        return line
    record.pop("service", None)
    trace = record.pop("trace", None)
    extra = "  ".join(f"{key}={value}" for key, value in record.items())
    head = click.style(f"{clock} {level:<5}", fg=COLORS.get(level, "green"))
    return f"{head} {message}  {click.style(extra, dim=True)}".rstrip() + "\n" + (f"{trace}\n" if trace else "")
