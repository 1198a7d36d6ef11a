"""A process shuts itself in: it may read what it names, and nothing else - no writing, no network, no programs.

Two facilities of Linux do it, neither of which needs privileges or another program: Landlock (kernel 5.13, what may be
opened) and seccomp (which system calls may be made). Nothing undoes them before the process ends; its threads inherit
them. What remains possible: computing, memory within the limits of `shared.child`, threads, `stat`, and the descriptors
that are open already.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/dev/null", "/dev/urandom")
MACHINE = (
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices",
    "/sys/bus/pci",
    "/sys/fs/cgroup",
)
"""What the engines ask about the processor and the memory."""

PR_SET_SECCOMP, PR_GET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 21, 38
SECCOMP_MODE_FILTER = 2

LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
READ_FILE, READ_DIR = 1 << 2, 1 << 3
SCRATCH_RIGHTS = 1 << 1 | READ_FILE | READ_DIR | 0b11 << 4 | 0b11 << 7 | 1 << 14
"""Writing, removing and making files and folders, and cutting files off."""
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""How many rights over files a version of Landlock knows; from 5 on 16."""
TCP_RIGHTS = 0b11
SCOPES = 0b11
"""Signals and abstract sockets of processes outside."""

CAP_VERSION = 0x20080522
CAPS_KEPT = 0b110
"""Reading files of another owner, which Landlock bounds; without it root could not read some data folders."""

ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_CALLS = 0x40000000
CLONE_THREAD = 0x10000
DENIED = {
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "kill": (62, 129),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "truncate": (76, 45),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "utimensat": (280, 88),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "mount": (165, 40),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "memfd_create": (319, 279),
}
"""Calls that a computation has no use for, by their numbers on x86-64 and on ARM."""
TGKILL = (234, 131)
"""How a process ends itself, too: its first argument says whose thread is meant."""

PRLIMIT = (302, 261)
"""The same; 0 is the caller."""

CLONE = (56, 220)
CLONE3 = 435
CAPSET = (126, 91)

_libc = ctypes.CDLL(None, use_errno=True)


def missing() -> list[str]:
    """What this machine lacks for the whole sandbox, a clause each; empty where it has everything."""
    lacks = []
    if _landlock_version() < 1:
        lacks.append("the kernel offers no Landlock (Linux 5.13 or newer with `landlock` among its security modules)")
    if not _has_seccomp():
        lacks.append("system calls cannot be filtered (seccomp on x86-64 or ARM)")
    return lacks


def enter(readable: Iterable[Path], scratch: Path | None = None) -> None:
    """Shut this process in, as far as the machine can (`missing`).

    Call it before a library starts threads: Landlock holds for the calling thread and those it starts.

    Args:
        readable: Files and folders that stay readable besides Python, the libraries and facts about the processor.
        scratch: The one folder in which files may be made, for libraries that work through files.

    Raises:
        RuntimeError: There are other threads already, which would stay outside.
        OSError: The kernel refused.
    """
    if sum(1 for _ in Path("/proc/self/task").iterdir()) > 1:
        raise RuntimeError("the sandbox must be entered before other threads start")
    _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if platform.machine() in ARCH:
        _drop_capabilities()
    if _landlock_version() >= 1:
        _allow([*libraries(), *readable], scratch)
    if _has_seccomp():
        _filter_calls()


def libraries() -> Iterator[Path]:
    """Where Python, what it imports and what the machine says about itself lie."""
    yield from map(Path, (*SYSTEM, *MACHINE))
    yield Path(sys.base_prefix, "lib")
    yield from (Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    yield Path(sys.prefix, "pyvenv.cfg")
    yield Path(__file__).parent


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def _landlock_version() -> int:
    return int(_libc.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1))


def _has_seccomp() -> bool:
    return platform.machine() in ARCH and _libc.prctl(PR_GET_SECCOMP, 0, 0, 0, 0) >= 0


def _allow(readable: Iterable[Path], scratch: Path | None) -> None:
    """Every right over files that the kernel can take away is taken; reading these is given back, and the scratch."""
    version = _landlock_version()
    known = (1 << FILE_RIGHTS.get(version, 16)) - 1
    attribute = struct.pack("=QQQ", known, TCP_RIGHTS, SCOPES)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _check(_libc.syscall(LANDLOCK_CREATE, attribute, ctypes.c_size_t(size), 0), "landlock")
    granted = [(path, READ_FILE | READ_DIR if path.is_dir() else READ_FILE) for path in readable]
    for path, rights in [*granted, *([(scratch, SCRATCH_RIGHTS & known)] if scratch else [])]:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        _check(_libc.syscall(LANDLOCK_ADD, ruleset, 1, struct.pack("=Qi", rights, fd), 0), f"landlock {path}")
        os.close(fd)
    _check(_libc.syscall(LANDLOCK_RESTRICT, ruleset, 0), "landlock")
    os.close(ruleset)


def _drop_capabilities() -> None:
    """Root, too, keeps only `CAPS_KEPT`; above all it cannot raise its limits again."""
    status = Path("/proc/self/status").read_text()
    held = int(next(line for line in status.splitlines() if line.startswith("CapEff")).split()[1], 16)
    kept = held & CAPS_KEPT
    header, sets = struct.pack("=Ii", CAP_VERSION, 0), struct.pack("=6I", kept, kept, 0, 0, 0, 0)
    _check(_libc.syscall(CAPSET[_column()], header, sets), "capset")


def _filter_calls() -> None:
    program = b"".join(_program())
    buffer = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    _check(_libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, described, 0, 0), "seccomp")


def _column() -> int:
    return list(ARCH).index(platform.machine())


def _program() -> Iterator[bytes]:
    """The filter in the kernel's own small language: load, compare, return."""
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000

    def step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
        return struct.pack("=HBBI", code, then, otherwise, value)

    def answer(number: int, result: int) -> Iterator[bytes]:
        yield step(equal, number, otherwise=1)
        yield step(give, result)

    yield step(load, 4)
    yield step(equal, ARCH[platform.machine()], then=1)
    yield step(give, refuse | errno.EPERM)
    yield step(load, 0)
    yield step(at_least, X32_CALLS, otherwise=1)
    yield step(give, refuse | errno.EPERM)
    for numbers in DENIED.values():
        if (number := numbers[_column()]) is not None:
            yield from answer(number, refuse | errno.EPERM)
    for numbers, itself in ((TGKILL, os.getpid()), (PRLIMIT, 0)):
        yield step(equal, numbers[_column()], otherwise=4)
        yield step(load, 16)
        yield step(equal, itself, otherwise=1)
        yield step(give, allow)
        yield step(give, refuse | errno.EPERM)
    yield from answer(CLONE3, refuse | errno.ENOSYS)  # its flags are in memory; without it libraries use clone
    yield step(equal, CLONE[_column()], otherwise=3)
    yield step(load, 16)
    yield step(any_bit, CLONE_THREAD, then=1)
    yield step(give, refuse | errno.EPERM)
    yield step(give, allow)
