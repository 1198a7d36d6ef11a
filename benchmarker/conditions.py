"""What disturbed a measurement: the machine is read before and after, and what is noteworthy becomes a sentence."""

from __future__ import annotations

import os
import re
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from shared import config, gpu
from shared.gpu import Use
from shared.wire.client import ask_status

OTHERS_SHARE = 0.05
"""Of all cores: what other processes may use on average before it is told."""
STEAL_SHARE = 0.01
"""Of all cores' time: what the hypervisor may withhold before it is told."""
QUOTA_SHARE = 0.01
"""Of the run's duration: how long a container may be stopped by its quota before it is told."""

_TICKS_S = 1 / os.sysconf("SC_CLK_TCK")
_CPUS = "sys/devices/system/cpu"


class Reading(NamedTuple):
    """The machine at one moment; counters run since its start, None where it does not say."""

    at_s: float
    cores: int
    """Cores of the machine, those we may not use included."""
    busy_s: float | None
    """Time all cores worked, for anybody."""
    steal_s: float | None
    """Time our machine wanted to work and the hypervisor ran somebody else."""
    own_s: float
    """Processor time of this process and of its children that have ended."""
    quota_cores: float | None
    """What the container's quota allows; None without one."""
    stopped_s: float | None
    """Time the container was stopped because its quota was used up."""
    heat_events: int | None
    """How often cores slowed down because of heat."""
    governors: frozenset[str]
    clock_share: float = 1.0
    """Of the fastest clock of the processor, what it is allowed now."""
    gpu: Use | None = None
    predictions: tuple[str, int] | None = None
    """The broker's boot and the predictions it has answered since; None without a broker."""


def read(root: Path = Path("/"), broker: str | None = None) -> Reading:
    """The machine now. Children that are to count as ours must have been waited for.

    Args:
        root: Where `proc` and `sys` are; another folder in tests.
        broker: Endpoint of the broker, which counts predictions; None does not ask.
    """
    status = ask_status(broker) if broker else None
    cores, busy_s, steal_s = _processor_time(_text(root / "proc/stat"))
    stopped = re.search(r"^throttled_usec (\d+)$", _text(root / "sys/fs/cgroup/cpu.stat"), re.MULTILINE)
    heat = [int(_text(path)) for path in root.glob(f"{_CPUS}/cpu[0-9]*/thermal_throttle/core_throttle_count")]
    return Reading(
        at_s=time.monotonic(),
        cores=cores,
        busy_s=busy_s,
        steal_s=steal_s,
        own_s=sum(_used(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)),
        quota_cores=config.quota_cores(_text(root / "sys/fs/cgroup/cpu.max")),
        stopped_s=int(stopped[1]) / 1e6 if stopped else None,
        heat_events=sum(heat) if heat else None,
        governors=frozenset(_text(path).strip() for path in root.glob(f"{_CPUS}/cpu[0-9]*/cpufreq/scaling_governor")),
        clock_share=_clock_share(root),
        gpu=gpu.use(),
        predictions=(status.boot_id, status.completed + status.failed) if status else None,
    )


def disturbances(before: Reading, after: Reading) -> list[str]:
    """What was at work beside the measurement, one sentence each: these make a run dirty."""
    return [*_load(before, after), *service_disturbances(before, after, own=0)]


def service_disturbances(before: Reading, after: Reading, own: int) -> list[str]:
    """The same while the service was driven by `own` requests. Load of other processes is not told apart from that of
    the service, and is not in it.
    """
    machine = (*_steal(before, after), *_stopped(before, after), *_slowed(before, after))
    return [*machine, *_predictions(before, after, own)]


def circumstances(before: Reading, after: Reading) -> list[str]:
    """What a reader should know of the machine, one sentence each, although nothing disturbed the run."""
    return [*_unread(before, after), *_limits(after)]


def _load(before: Reading, after: Reading) -> Iterator[str]:
    if before.busy_s is None or after.busy_s is None:
        return
    elapsed_s = max(after.at_s - before.at_s, _TICKS_S)
    others = (after.busy_s - before.busy_s - (after.own_s - before.own_s)) / elapsed_s
    if others > OTHERS_SHARE * after.cores:
        yield f"Other processes used {others:.2f} of {after.cores} cores on average; latencies may be too high."


def _steal(before: Reading, after: Reading) -> Iterator[str]:
    if before.steal_s is None or after.steal_s is None:
        return
    elapsed_s = max(after.at_s - before.at_s, _TICKS_S)
    steal = (after.steal_s - before.steal_s) / (elapsed_s * after.cores)
    if steal > STEAL_SHARE:
        yield f"The hypervisor withheld {steal:.1%} of the processor time; latencies may be too high."


def _stopped(before: Reading, after: Reading) -> Iterator[str]:
    elapsed_s = after.at_s - before.at_s
    stopped_s = (after.stopped_s or 0) - (before.stopped_s or 0)
    if stopped_s > QUOTA_SHARE * elapsed_s:
        yield f"The quota stopped this container for {stopped_s:.1f} s of {elapsed_s:.1f} s; latencies are too high."


def _slowed(before: Reading, after: Reading) -> Iterator[str]:
    if heat := (after.heat_events or 0) - (before.heat_events or 0):
        yield f"The processor slowed down {heat} times because of heat; latencies may be too high."
    uses = [use for use in (before.gpu, after.gpu) if use]
    if most := max((use.processes for use in uses), default=0):
        yield f"Other processes were at work on the GPU ({most} at the most, before or after the run)."
    if slowed_by := sorted({reason for use in uses for reason in use.slowed_by}):
        yield f"The GPU was slowed down by {', '.join(slowed_by)}."


def _predictions(before: Reading, after: Reading, own: int = 0) -> Iterator[str]:
    """Those of others; `own` at most were ours. Of requests that failed, some may never have reached the broker."""
    if before.predictions is None or after.predictions is None:
        return
    (first_boot, at_first), (last_boot, at_last) = before.predictions, after.predictions
    answered = at_last - (at_first if first_boot == last_boot else 0) - own
    if answered > 0:
        was = "prediction was" if answered == 1 else "predictions were"
        yield f"{answered:,} {was} answered by this platform during the run; latencies may be too high."


def _unread(before: Reading, after: Reading) -> Iterator[str]:
    if before.busy_s is None or after.busy_s is None:
        yield "The load of other processes could not be read on this machine."


def _limits(after: Reading) -> Iterator[str]:
    if after.quota_cores is not None and after.quota_cores < after.cores:
        yield f"A quota allows this container the time of {after.quota_cores:g} of {after.cores} cores."
    if varying := sorted(after.governors - {"performance"}):
        yield f"The processor's clock follows the load (governor {', '.join(varying)})."
    if after.clock_share < 1:
        yield f"The processor's clock is held at {after.clock_share:.0%} of the highest it has."


def _clock_share(root: Path) -> float:
    """The least share of its highest clock that a core is allowed; 1 where the machine does not say."""
    shares = [1.0]
    for folder in root.glob(f"{_CPUS}/cpu[0-9]*/cpufreq"):
        allowed, highest = _text(folder / "scaling_max_freq"), _text(folder / "cpuinfo_max_freq")
        if allowed and highest:
            shares.append(int(allowed) / int(highest))
    return min(shares)


def _processor_time(stat: str) -> tuple[int, float | None, float | None]:
    """Cores, busy seconds and stolen seconds from the text of `/proc/stat` (fields as in proc_stat(5))."""
    cores = len(re.findall(r"^cpu\d+ ", stat, re.MULTILINE))
    total = re.search(r"^cpu +(.*)$", stat, re.MULTILINE)
    ticks = [int(field) for field in total[1].split()] if total else []
    if len(ticks) < 8 or not any(ticks):
        return cores or 1, None, None
    user, nice, system, _idle, _iowait, irq, softirq, steal = ticks[:8]
    return cores, (user + nice + system + irq + softirq) * _TICKS_S, steal * _TICKS_S


def _used(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
