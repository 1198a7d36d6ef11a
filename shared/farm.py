"""How many inference processes pay on this machine: as somebody set it, else as it was measured, else as counted."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

import msgspec

from shared import config, machine

NEAR = 0.97
"""Fewer processes will do where they reach this share of the best pace."""
FEW = 4
"""Up to so many, every number is tried."""
FOUND_BY = "CVP_INFERENCE_PROCESSES_BY"
"""How the number of inference processes was found, in words, for processes whose environment holds only the number."""

SET = "set: INFERENCE_PROCESSES"
COUNTED = "counted: one a core, and no more than INFERENCE_WORKERS"


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What was found on this machine, as it is kept."""

    fingerprint: str
    """Of the machine and the engines it holds for."""
    most: int
    """As many processes as the settings allowed then."""
    pace: dict[int, float]
    """By how many processes ran at once, one thread each: what all of them do in a second of processor time each."""
    measured_on: str

    @property
    def processes(self) -> int:
        """The fewest that are as good as the best."""
        enough = NEAR * max(self.pace.values())
        return min(count for count, pace in self.pace.items() if pace >= enough)


READY = b"ready\n"
"""What a process says that waits for its plan."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """When a process that is measured runs, by the monotonic clock, which all processes of a machine share."""

    begins_s: float
    every_s: float
    """From the start of one slice to that of the next."""
    slice_s: float
    mine: list[bool]
    """Of each slice, whether to run in it or to keep still."""


class Choice(NamedTuple):
    """So many inference processes, and how that was found."""

    processes: int
    by: str


def most(settings: config.Settings) -> int:
    """Processes there may be where nobody set their number: one a core, and each has a thread."""
    return min(settings.inference_workers, config.cores())


def counts(most: int, physical: int | None) -> list[int]:
    """The numbers of processes to try, ascending: all up to a few; of many one, half, the physical cores, and all."""
    if most <= FEW:
        return list(range(1, most + 1))
    return sorted({1, most // 2, min(physical or most, most), most})


def choice(settings: config.Settings) -> Choice:
    """How many there are with these settings on this machine now."""
    if settings.inference_processes:
        return Choice(len(settings.inference_farm), SET)
    found = remembered(settings)
    if found is None:
        return Choice(most(settings), COUNTED)
    ratio = found.pace[found.processes] / found.pace[1]
    told = "more are no faster" if found.processes == 1 else f"{ratio:.2f} times the pace of one"
    return Choice(found.processes, f"measured on {found.measured_on}: {told}")


def remembered(settings: config.Settings) -> Measured | None:
    """What was measured here; None where nothing was, or not on this machine as it is, or the file is damaged."""
    try:
        found = msgspec.json.decode(_file(settings).read_bytes(), type=Measured)
    except (OSError, msgspec.MsgspecError):
        return None
    sound = 1 in found.pace and all(1 <= count <= found.most and pace > 0 for count, pace in found.pace.items())
    fits = sound and found.most == most(settings) and found.fingerprint == machine.system_info().fingerprint
    return found if fits else None


def remember(settings: config.Settings, found: Measured) -> None:
    """Keep it for the next start: all of it or nothing.

    Raises:
        OSError: It cannot be written.
    """
    path = _file(settings)
    draft = path.with_suffix(".part")
    try:
        with draft.open("wb") as file:
            file.write(msgspec.json.encode(found))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def _file(settings: config.Settings) -> Path:
    return settings.root / "inference-farm.json"
