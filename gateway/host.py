"""The machine and our processes on it, as psutil sees them."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import psutil

SERVICES = frozenset(
    {"broker", "inferencer", "trainer", "coordinator", "benchmarker", "preparer", "reporter", "gateway"}
)
FOR_JOBS = ("preparer", "trainer", "coordinator", "benchmarker", "reporter")
"""Services without which jobs of some kinds wait for ever."""
SUPERVISOR = "supervisord"
SCRIBE = "shared.scribe"
OTHER = "other"


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """All processes of one service, children of its jobs included."""

    processes: int
    memory_bytes: int
    """Resident; a page that two processes share counts twice."""
    cpu_s: float
    """Used since this gateway first looked; never falls when a process ends."""
    cpu_pct: float
    """Of one core, since the last look."""


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """The filesystem behind one of our folders."""

    free_bytes: int
    size_bytes: int
    writable: bool = True
    """False once the system has made it read-only (what ext4 does after an error), or the folder is another's."""


class HostFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The machine at one moment."""

    cores: int
    cpu_pct: float
    """Of all cores together, since the last look."""
    memory_bytes: int
    memory_available_bytes: int
    disks: dict[str, Disk]
    services: dict[str, Service]

    def away(self) -> list[str]:
        """The services for jobs that should have a process, and have none."""
        return [name for name in FOR_JOBS if name in self.services and not self.services[name].processes]


class Host:
    """Looks at the machine; keeps what it saw last, for the differences. Blocking, one thread at a time.

    Args:
        folders: Folders whose disks matter, by the name they are shown with.
        root: The process whose descendants are the platform: supervisord, or this process where nobody supervises it.
    """

    def __init__(self, folders: Mapping[str, Path], root: int | None = None) -> None:
        self._folders = folders
        supervised = bool(os.environ.get("SUPERVISOR_ENABLED"))
        self._root = root or (os.getppid() if supervised else os.getpid())
        self._seen_s = time.monotonic()
        self._cpu_s: dict[tuple[int, float], float] = {}
        self._used_s: defaultdict[str, float] = defaultdict(float, dict.fromkeys(SERVICES if supervised else (), 0.0))
        psutil.cpu_percent(None)

    def look(self) -> HostFigures:
        """The machine now."""
        memory = psutil.virtual_memory()
        return HostFigures(
            cores=psutil.cpu_count() or 1,
            cpu_pct=psutil.cpu_percent(None),
            memory_bytes=memory.total,
            memory_available_bytes=memory.available,
            disks={name: _disk(folder) for name, folder in self._folders.items()},
            services=self._services(),
        )

    def _services(self) -> dict[str, Service]:
        processes: Counter[str] = Counter()
        memory: Counter[str] = Counter()
        seen: dict[tuple[int, float], float] = {}
        before = self._used_s.copy()
        for process in _family(self._root):
            try:
                with process.oneshot():
                    name, birth = service_of(process.cmdline()), process.create_time()
                    times, resident = process.cpu_times(), process.memory_info().rss
            except psutil.Error:
                continue  # it ended while we looked
            processes[name] += 1
            memory[name] += resident
            seen[process.pid, birth] = times.user + times.system
            self._used_s[name] += max(0.0, seen[process.pid, birth] - self._cpu_s.get((process.pid, birth), 0.0))
        self._cpu_s = seen
        now_s = time.monotonic()
        elapsed_s, self._seen_s = max(1e-3, now_s - self._seen_s), now_s
        return {
            name: Service(
                processes=processes[name],
                memory_bytes=memory[name],
                cpu_s=used_s,
                cpu_pct=round(100 * (used_s - before[name]) / elapsed_s, 1) if name in before else 0.0,
            )
            for name, used_s in self._used_s.items()
        }


def service_of(command: Iterable[str]) -> str:
    """Which service a command line belongs to: `python -m benchmarker.child` is the benchmarker's, and `python -m
    trainer.coordinator` the coordinator's.
    """
    words = list(command)
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    if module == SCRIBE:
        module = words[-1].partition("-")[0]  # it is told whose words it writes down
    for name in (module.rpartition(".")[2], module.partition(".")[0]):
        if name in SERVICES:
            return name
    started_as = [module.rpartition(".")[2], *(Path(word).name for word in words[:2])]
    return SUPERVISOR if SUPERVISOR in started_as else OTHER


def _family(root: int) -> list[psutil.Process]:
    try:
        head = psutil.Process(root)
        return [head, *head.children(recursive=True)]
    except psutil.Error:
        return []


def _disk(folder: Path) -> Disk:
    usage = shutil.disk_usage(folder)
    return Disk(free_bytes=usage.free, size_bytes=usage.total, writable=os.access(folder, os.W_OK))
