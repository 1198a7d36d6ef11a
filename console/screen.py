"""The terminal: spinners, bars and tables for people; plain lines where the output goes to a file or a pipe."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence

import click
import msgspec
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

QUIET_S = 10.0
"""Without a terminal, a step that goes on says so this often."""

PLAIN_WIDTH = 100
"""Columns where there is no window to ask."""

UNBOUND = 10_000
"""Columns of a list that no window cuts."""

NARROW = 12
"""Columns that the cell which gives way keeps."""

GAP = 2

SEEN = 0.02
"""How much of a step must have been watched before it is told how long the rest takes."""

Advance = Callable[[float, str], None]
"""How far a step is, 0..1, and what it does now."""


class Screen:
    """Standard output as it is: a terminal or not. With `stderr` standard error, for commands that print JSON."""

    def __init__(self, console: Console | None = None, *, stderr: bool = False) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True, stderr=stderr)
        if console is None and not self.console.is_terminal and not os.environ.get("COLUMNS"):
            self.console.width = PLAIN_WIDTH

    def line(self, text: str = "", style: str = "") -> None:
        """One line, exactly as it is written: brackets are no markup."""
        self.console.print(text, style=style, markup=False)

    def step(self, name: str, text: str) -> None:
        """One finished step: its name in a column of its own."""
        self.console.print(f"[bold cyan]{name:<11}[/]", end="")
        self.line(text)

    def paragraph(self, text: str, style: str = "") -> None:
        """Prose, wrapped to the width of the window."""
        width = min(self.console.width, 110)
        self.console.print(text, style=style, markup=False, soft_wrap=False, width=width)

    def table(self, table: Table) -> None:
        """A table that never breaks a cell: a narrow window cuts at its edge."""
        self.console.print(table)

    def rows(self, rows: Sequence[Mapping[str, str]], *, wide: str, numbers: Container[str] = ()) -> None:
        """A list of things, all cells by their titles; titles are those of the first row.

        In a window that is too narrow the column `wide` gives way, then the last columns are left out, so that ids stay
        whole. Elsewhere everything is there.

        Args:
            rows: At least one; the most important columns first.
            wide: Whose cells may be shortened.
            numbers: Columns that stand to the right.
        """
        widths = {title: max(cell_len(row[title]) for row in [{title: title}, *rows]) for title in rows[0]}
        room = self.console.width if self.console.is_terminal else UNBOUND
        while len(widths) > 1 and _table_width(widths | {wide: min(widths[wide], NARROW)}) > room:
            widths.pop([title for title in widths if title != wide][-1])
        widths[wide] -= max(0, _table_width(widths) - room)
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), width=_table_width(widths))
        for title, width in widths.items():
            justify: JustifyMethod = "right" if title in numbers else "left"
            table.add_column(title, justify=justify, no_wrap=True, overflow="ellipsis", width=width)
        for row in rows:
            table.add_row(*(Text(row[title]) for title in widths))
        self.console.print(table, crop=False)

    def json(self, value: object) -> None:
        """A value for programs, on standard output whatever this screen is."""
        click.echo(msgspec.json.format(msgspec.json.encode(value)))

    @contextlib.contextmanager
    def waiting(self, title: str) -> Iterator[Callable[[str], None]]:
        """A spinner while something of unknown length goes on; call what it gives with what is being waited for."""
        if not self.console.is_terminal:
            yield self._now_and_then(title)
            return
        with self.console.status(title, spinner="dots") as status:
            yield lambda what: status.update(f"{title}: {what}")

    @contextlib.contextmanager
    def bar(self, title: str) -> Iterator[Advance]:
        """A progress bar; call what it gives with the part done (0..1) and the present doing.

        It tells how long the rest takes, once enough was watched to know.
        """
        pace = Pace()
        if not self.console.is_terminal:
            say = self._now_and_then(title)
            yield lambda part, what: say("  ".join(filter(None, (f"{part:4.0%}", what, pace.rest(part)))))
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[rest]}"),
            TextColumn("{task.fields[what]}", style="dim", markup=False),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(title, total=1.0, what="", rest="")
            yield lambda part, what: progress.update(task, completed=part, what=what, rest=pace.rest(part))

    def _now_and_then(self, title: str) -> Callable[[str], None]:
        said = time.monotonic()

        def say(what: str) -> None:
            nonlocal said
            if time.monotonic() - said >= QUIET_S:
                said = time.monotonic()
                self.line(f"  {title}: {what}")

        return say


def _table_width(widths: Mapping[str, int]) -> int:
    return sum(widths.values()) + GAP * (len(widths) - 1)


class Pace:
    """How long the rest of a step takes, by what was watched of it: it may have been under way before.

    Its clock starts with the first part done: a wait for its turn, and what is prepared, are no slowness.
    """

    def __init__(self) -> None:
        self._first = (0.0, 0.0)
        self._end: float | None = None
        self._part = 0.0

    def rest(self, part: float) -> str:
        """`about 40 s left`, given how far the step is (0..1); empty where that cannot be told."""
        now = time.monotonic()
        if not self._part or part < self._part:
            self._first, self._end = (now, part), None
        elif part > self._part:
            began, already = self._first
            done = part - already
            self._end = now + (now - began) * (1 - part) / done if done >= SEEN else None
        self._part = part
        if self._end is None or now >= self._end or part >= 1:  # slower than before: the next part tells a new end
            return ""
        return f"about {duration(max(1.0, self._end - now))} left"


def duration(seconds: float) -> str:
    """`40 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, whole = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {whole} s" if whole else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
