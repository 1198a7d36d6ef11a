"""The terminal: spinners, bars and tables for people; plain lines where the output goes to a file or a pipe."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

QUIET_S = 10.0
"""Without a terminal, a step that goes on says so this often."""

PLAIN_WIDTH = 100
"""Columns where there is no window to ask."""

Advance = Callable[[float, str], None]
"""How far a step is, 0..1, and what it does now."""


class Screen:
    """Standard output as it is: a terminal or not."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
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
        """A progress bar; call what it gives with the part done (0..1) and the present doing."""
        if not self.console.is_terminal:
            say = self._now_and_then(title)
            yield lambda part, what: say(f"{part:4.0%} {what}".rstrip())
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[what]}", style="dim", markup=False),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(title, total=1.0, what="")
            yield lambda part, what: progress.update(task, completed=part, what=what)

    def _now_and_then(self, title: str) -> Callable[[str], None]:
        said = time.monotonic()

        def say(what: str) -> None:
            nonlocal said
            if time.monotonic() - said >= QUIET_S:
                said = time.monotonic()
                self.line(f"  {title}: {what}")

        return say
