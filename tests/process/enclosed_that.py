"""A child that shuts itself in, as the model check does, and then tries one thing; it answers what came of it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec

from shared import child, sandbox

NOBODY = 2**30
"""No process has this number, so that only a filter refuses to signal it, and not Landlock."""


class Order(msgspec.Struct, frozen=True):
    act: str
    path: str = ""
    readable: str = ""
    scratch: str = ""


class Came(msgspec.Struct, frozen=True):
    error: str | None


def call(x86_64: int, aarch64: int, *arguments: int) -> None:
    """A system call by its number."""
    number = x86_64 if os.uname().machine == "x86_64" else aarch64
    if ctypes.CDLL(None, use_errno=True).syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")


def fork_by_call_number(_path: str) -> None:
    call(57, 220, 17, 0, 0, 0, 0)
    os._exit(0)


def start_thread(_path: str) -> None:
    done = threading.Event()
    threading.Thread(target=done.set).start()
    assert done.wait(5)


def in_a_thread(path: str) -> None:
    raised: list[Exception] = []

    def read() -> None:
        try:
            Path(path).read_bytes()
        except OSError as error:
            raised.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    thread.join(5)
    if raised:
        raise raised[0]


ACTS = {
    "read": lambda path: Path(path).read_bytes(),
    "read in a thread": in_a_thread,
    "list": os.listdir,
    "write": lambda path: Path(path).write_bytes(b"x"),
    "append": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_APPEND)),
    "truncate": lambda path: os.truncate(path, 0),
    "remove": os.remove,
    "rename": lambda path: Path(path).rename(path + ".moved"),
    "link": lambda path: os.link(path, path + ".link"),
    "make a folder": os.mkdir,
    "change the mode": lambda path: Path(path).chmod(0o777),
    "change the time": os.utime,
    "tcp": lambda _: socket.create_connection(("127.0.0.1", 9), timeout=2),
    "udp": lambda _: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "unix": lambda _: socket.socket(socket.AF_UNIX),
    "fork": lambda _: os.fork() or os._exit(0),
    "fork by call number": fork_by_call_number,
    "run a program": lambda _: os.execv(sys.executable, [sys.executable, "-c", ""]),
    "kill the parent": lambda _: os.kill(os.getppid(), signal.SIGTERM),
    "signal a thread of nobody": lambda _: call(234, 131, NOBODY, NOBODY, 0),
    "signal a thread": lambda _: call(200, 130, threading.get_native_id(), 0),
    "signal with a value": lambda _: call(129, 138, NOBODY, signal.SIGTERM, 0),
    "signal a thread with a value": lambda _: call(297, 240, NOBODY, NOBODY, signal.SIGTERM, 0),
    "signal itself": lambda _: call(234, 131, os.getpid(), threading.get_native_id(), 0),
    "limit the parent": lambda _: resource.prlimit(os.getppid(), resource.RLIMIT_CORE, (0, 0)),
    "limit itself": lambda _: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    "raise a limit": lambda _: resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2),
    "start a thread": start_thread,
    "crash": lambda _: ctypes.string_at(0),
    "nothing": lambda _: None,
}


def work(order: Order, _report: Any) -> Came:
    if order.act == "enter late":
        stay = threading.Event()
        threading.Thread(target=stay.wait, daemon=True).start()
        with contextlib.suppress(RuntimeError):
            sandbox.enter([])
            return Came(None)
        return Came("RuntimeError")
    readable = [Path(order.readable)] if order.readable else []
    sandbox.enter(readable, Path(order.scratch) if order.scratch else None)
    try:
        ACTS[order.act](order.path)
    except Exception as error:
        return Came(type(error).__name__)
    return Came(None)


if __name__ == "__main__":
    child.main(Order, work)
