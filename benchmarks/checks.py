"""Named checks of a bench: chosen on the command line, told line by line, with exit code 1 where a goal was missed."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from rich.console import Console

Found = Iterator[tuple[str, bool]]
"""A line to be told and whether the goal in it, if any, was met."""

Check = Callable[[Path, int | None], Found]
"""Of a folder that is removed after it, and how often to repeat what it does; None as often as is usual. Its docstring
says what it finds out.
"""

console = Console(highlight=False)


def main(bench: str, about: str | None, checks: Mapping[str, Check]) -> None:
    """Make those that the command line names, or all.

    Args:
        bench: Module, as `python -m` takes it.
        about: Its docstring.
        checks: By name, in their order.
    """
    parser = argparse.ArgumentParser(prog=bench, description=about)
    parser.add_argument("checks", nargs="*", metavar="NAME", help=f"of {', '.join(checks)}")
    parser.add_argument("--times", type=int, default=None)
    given = parser.parse_args()
    if unknown := set(given.checks) - set(checks):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(checks)}")
    missed = sum([made(name, checks[name], given.times) for name in given.checks or checks])
    sys.exit(missed > 0)


def made(name: str, check: Check, times: int | None) -> int:
    """Make one of them, and return how many goals it missed."""
    console.print(f"[bold]{name}[/]: {check.__doc__}")
    start, missed = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="cvp-bench-") as folder:
        for told, met in check(Path(folder), times):
            missed += not met
            console.print(f"  {'met   ' if met else '[red]missed[/]'} {told}", soft_wrap=True)
    console.print(f"  {time.monotonic() - start:.0f} s")
    return missed
