"""The tryout at the first start: how much more several inference processes get done on this machine than one."""

from __future__ import annotations

import contextlib
import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import IO

import msgspec
import psutil

from shared import config, farm, machine
from shared.nursery import PARENT_ENV

BOUND_S = 4.0
"""Of all of it. An idle machine of two cores takes some two seconds, half of them until the processes have begun."""
ROUNDS = 5
RUN_S = 1.2
"""All slices together."""
APART_S = 0.01
"""Between two slices, so that the last call of one does not reach into the next."""
MODULE = "shared.engines.yardstick"
LINE_BYTES = 1 << 16
REASON_MAX = 300


class Unmeasured(Exception):
    """It could not be measured; the message says why."""


def first(settings: config.Settings, say: Callable[[str], None]) -> str:
    """Measure and remember, where nobody chose the number of processes and it was not measured here before.

    Returns:
        Why it could not be measured; empty when all is well, or nothing was to be done.
    """
    most = farm.most(settings)
    if settings.inference_processes or most == 1 or farm.remembered(settings) is not None:
        return ""
    say("measuring how many inference processes pay on this machine")
    try:
        pace = measure(farm.counts(most, psutil.cpu_count(logical=False)))
        found = farm.Measured(
            fingerprint=machine.system_info().fingerprint,
            most=most,
            pace=pace,
            measured_on=f"{datetime.now(UTC):%Y-%m-%d}",
        )
        farm.remember(settings, found)
    except Unmeasured as error:
        return str(error)
    except OSError as error:
        return f"the system refused ({error.strerror})"
    return ""


def measure(counts: Sequence[int], bound_s: float = BOUND_S, module: str = MODULE) -> dict[int, float]:
    """What so many processes do together in a second, for each of `counts`: the median over rounds that take turns.

    It is a second of processor time of each, so that the choice is not one for whatever else ran just then.

    Raises:
        Unmeasured: It takes longer than `bound_s`, or a process fails.
    """
    end_s = time.monotonic() + bound_s
    slice_s = RUN_S / (ROUNDS * len(counts))
    turns = [count for number in range(ROUNDS) for count in (counts if number % 2 else counts[::-1])]
    every_s = slice_s + APART_S
    with contextlib.ExitStack() as stack:
        processes = [_started(stack, module) for _ in range(max(counts))]
        for process in processes:
            if (said := _line(process, end_s)) != farm.READY:
                raise Unmeasured(f"a process said {said[:REASON_MAX]!r} and not that it is ready")
        begins_s = time.monotonic() + APART_S
        if begins_s + len(turns) * every_s > end_s:
            raise Unmeasured(f"it would have taken longer than {bound_s:g} s, as on a busy machine")
        for index, process in enumerate(processes):
            mine = [index < count for count in turns]
            plan = farm.Plan(begins_s=begins_s, every_s=every_s, slice_s=slice_s, mine=mine)
            _tell(process, msgspec.json.encode(plan))
        paces = [msgspec.json.decode(_line(process, end_s), type=list[float]) for process in processes]
    together = [sum(each) for each in zip(*paces, strict=True)]
    found = {
        count: statistics.median(pace for turn, pace in zip(turns, together, strict=True) if turn == count)
        for count in counts
    }
    if not all(found.values()):
        raise Unmeasured("a process did not get to run in its time, as on a busy machine")
    return found


def _started(stack: contextlib.ExitStack, module: str) -> subprocess.Popen[bytes]:
    """A process that ends with the block."""
    kept = {name: value for name, value in os.environ.items() if name not in config.SECRETS}
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=kept | {PARENT_ENV: str(os.getpid())},
            bufsize=0,  # nothing is left to be written when it has ended
        )
    )
    stack.callback(process.kill)
    return process


def _line(process: subprocess.Popen[bytes], end_s: float) -> bytes:
    """The line that it says next; it says no more than that before it is told to.

    Raises:
        Unmeasured: None in time, or it ended.
    """
    stdout, line = _pipe(process.stdout), b""
    while not line.endswith(b"\n"):
        if not select.select([stdout], [], [], max(0.0, end_s - time.monotonic()))[0]:
            raise Unmeasured("it took too long, as on a busy machine")
        if not (said := os.read(stdout.fileno(), LINE_BYTES)):
            raise _death(process)
        line += said
    return line


def _tell(process: subprocess.Popen[bytes], line: bytes) -> None:
    """Send it one line.

    Raises:
        Unmeasured: It ended.
    """
    try:
        _pipe(process.stdin).write(line + b"\n")
    except BrokenPipeError:
        raise _death(process) from None


def _death(process: subprocess.Popen[bytes]) -> Unmeasured:
    process.kill()  # whatever still runs of it says no more
    last = _pipe(process.stderr).read().decode(errors="replace").strip().rpartition("\n")[2]
    return Unmeasured(f"a process ended before it had run: {last[:REASON_MAX] or 'it said nothing'}")


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
