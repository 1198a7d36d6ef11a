"""A process that has imported what its children need and forks one for each order: they begin without the import.

The parent's side is `Nursery`, which `shared.child.run` takes; `serve` is the process itself. It does one order at a
time and nothing else, opens nothing of any user, and dies with its parent, as its children die with it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import IO

from shared import process

PARENT_ENV = "CVP_PARENT_PID"
STANDARD = 3
MOST_FDS = 16
START_S = 120.0
"""Within which imports are done and a child is there; on a busy machine they take half a minute."""

ENDED = 4
"""Bytes of a pid, and of how it ended."""


class Barren(Exception):
    """No child came; the order is to be done without a nursery."""


class Born:
    """A child, as `subprocess.Popen` would show it; the nursery waits for it in our place."""

    def __init__(self, pid: int, control: socket.socket, pipes: Sequence[IO[bytes]]) -> None:
        self.pid = pid
        self.stdin, self.stdout, self.stderr = pipes
        self.returncode = -signal.SIGKILL
        """Once it was waited for; -9 also where the nursery is gone, and it with it."""
        self._control, self._ended = control, False

    def wait(self, timeout: float) -> int:
        """How it ended.

        Raises:
            subprocess.TimeoutExpired: It has not, within `timeout` seconds.
        """
        if not self._ended:
            if not select.select([self._control], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("child", timeout)
            if told := _received(self._control, ENDED):
                self.returncode = int.from_bytes(told, "big", signed=True)
            self._ended = True
        return self.returncode


class Nursery:
    """Starts its process with the first order, and again after it was closed.

    Args:
        module: Its `__main__` part calls `serve`.
        idle_s: It may go after so long without an order: it holds what it imported.
    """

    def __init__(self, module: str, idle_s: float = 60.0) -> None:
        self._module, self._idle_s = module, idle_s
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._used_at = 0.0

    def bear(self, fds: Sequence[int], environment: dict[str, str]) -> Born:
        """A child that waits for its order on standard input and inherits `fds`, under other numbers.

        Raises:
            Barren: There is none; the nursery is closed.
        """
        ours, theirs = zip(*(os.pipe()[::step] for step in (-1, 1, 1)), strict=True)  # we write to the first
        pipes = [os.fdopen(fd, mode) for fd, mode in zip(ours, ("wb", "rb", "rb"), strict=True)]
        try:
            control = self._started(environment)
            socket.send_fds(control, [b"+"], [*theirs, *fds])
            control.settimeout(START_S)
            pid = int.from_bytes(_received(control, ENDED), "big")
            control.settimeout(None)
        except OSError as error:
            pid, reason = 0, str(error)
        else:
            reason = "its process ended"
        finally:
            for fd in theirs:
                os.close(fd)
        if not pid:
            for pipe in pipes:
                pipe.close()
            self.close()
            raise Barren(reason)
        self._used_at = time.monotonic()
        return Born(pid, control, pipes)

    def _started(self, environment: dict[str, str]) -> socket.socket:
        if self._control is None:
            self._control, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", self._module, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                    env=environment,
                )
        return self._control

    def rest(self) -> None:
        """Close it where it was long without an order. Not while a child of it is alive."""
        if self._control is not None and time.monotonic() - self._used_at > self._idle_s:
            self.close()

    def close(self) -> None:
        """End its process, and the child with it."""
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._control = self._process = None


def serve(prepare: Callable[[], None], work: Callable[[], None]) -> None:
    """The nursery's whole life: `prepare` once, then a child for each order, which runs `work` and leaves.

    The child is a session of its own, has its pipes as standard input, output and error, and dies with this process.
    """
    process.die_with_parent(int(os.environ[PARENT_ENV]))
    os.environ[PARENT_ENV] = str(os.getpid())
    control = socket.socket(fileno=int(sys.argv[1]))
    prepare()
    before = 0
    while True:
        said, fds, _, _ = socket.recv_fds(control, 1, MOST_FDS)
        if before:
            os.waitpid(before, 0)  # until now its number was nobody else's, so that its parent could signal it
        if not said:
            return
        before = os.fork()
        if not before:
            control.close()
            _live(fds, work)
        for fd in fds:
            os.close(fd)
        control.sendall(before.to_bytes(ENDED, "big"))
        ended = os.waitid(os.P_PID, before, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        control.sendall(code.to_bytes(ENDED, "big", signed=True))


def _live(fds: Sequence[int], work: Callable[[], None]) -> None:
    """The child: never returns."""
    code = 1
    with contextlib.suppress(BaseException):
        os.setsid()
        for number, fd in enumerate(fds[:STANDARD]):
            os.dup2(fd, number)
            os.close(fd)
        code = _code_of(work)
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _code_of(work: Callable[[], None]) -> int:
    try:
        work()
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 0 if left.code is None else 1
    return 0


def _received(control: socket.socket, count: int) -> bytes:
    """So many bytes; none where the other side is gone."""
    try:
        return control.recv(count, socket.MSG_WAITALL)
    except ConnectionError:
        return b""
