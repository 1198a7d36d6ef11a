"""What every process needs to live and die well: signals, its lock, death with its parent, stack dumps."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import fcntl
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from shared import config, log, trace

PR_SET_PDEATHSIG = 1
EXIT_BAD_CONFIG = 64
EXIT_LOCKED = 65
LOCK_PATIENCE_S = 5.0

logger = logging.getLogger(__name__)


class Locked(Exception):
    """Another live process holds the lock."""


class FileLock:
    """An advisory `flock` on a file. It is free again the moment its last holder is gone, however that one died.

    The lock belongs to the open file, so a child that inherits the descriptor (`pass_fds`) holds it too.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def acquire(self, patience_s: float = 0.0) -> FileLock:
        """Take the lock, trying for `patience_s`.

        Raises:
            Locked: Somebody else still holds it.
        """
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        end = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._fd = fd
                return self
            except BlockingIOError:
                if time.monotonic() >= end:
                    os.close(fd)
                    raise Locked(str(self.path)) from None
                time.sleep(0.05)

    @property
    def fd(self) -> int:
        """The descriptor to hand to a child."""
        if self._fd is None:
            raise RuntimeError(f"{self.path} is not held")
        return self._fd

    def release(self) -> None:
        """Close our descriptor; children that inherited it keep the lock."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock now. Takes it for an instant; takers use `LOCK_PATIENCE_S`."""
    try:
        FileLock(path).acquire().release()
    except Locked:
        return False
    return True


class Stop:
    """The wish to end, set by SIGTERM or SIGINT. A pipe carries it, so poll loops wake at once."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.read_fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def set(self, *_: object) -> None:
        """Ask to stop; safe in a signal handler."""
        self._event.set()
        with contextlib.suppress(BlockingIOError):  # the pipe is full: everybody is awake already
            os.write(self._write_fd, b"x")

    def __bool__(self) -> bool:
        return self._event.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Sleep up to `timeout_s`; true as soon as a stop is wished."""
        return self._event.wait(timeout_s)


def die_with_parent(expected_parent: int | None = None, signum: int = signal.SIGKILL) -> None:
    """Let the kernel send us `signum` when our parent ends.

    Args:
        expected_parent: The parent's pid as it told us; if it is gone already we leave at once (the race that
            `PR_SET_PDEATHSIG` alone leaves open).
        signum: SIGKILL for children of a job, SIGTERM for services that should drain.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signum, 0, 0, 0)
    if expected_parent is not None and os.getppid() != expected_parent:
        sys.exit(0)


def _supervisor(settings: config.Settings) -> int | None:
    """Pid of the supervisord of this RUN_DIR, which it writes before it starts anybody; None when it is not ours."""
    try:
        return int((settings.run / "supervisord.pid").read_text())
    except (OSError, ValueError):
        return None


def service(name: str, main: Callable[[config.Settings, Stop], None]) -> None:
    """Run one service: settings, log, lock, signals, then `main` until it returns.

    Exit codes: 0 stopped as asked, 64 a bad setting, 65 a second copy, 1 anything else (supervisord restarts it).
    """
    try:
        settings = config.load()
    except config.BadSetting as bad:
        log.setup(name, "info")
        logger.critical("%s", bad.message)
        sys.exit(EXIT_BAD_CONFIG)
    log.setup(name, settings.log_level)
    settings.make_folders()
    if os.environ.get("SUPERVISOR_ENABLED"):
        die_with_parent(_supervisor(settings), signum=signal.SIGTERM)
    try:
        lock = FileLock(settings.run / f"{name}.lock").acquire(LOCK_PATIENCE_S)
    except Locked:
        logger.error("another %s is running on %s; this copy leaves", name, settings.run)
        sys.exit(EXIT_LOCKED)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    if settings.otel_exporter_otlp_endpoint:
        trace.export(name)
    stop = Stop()

    def on_signal(signum: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    logger.info("started", extra={"pid": os.getpid()})
    try:
        main(settings, stop)
    except config.BadSetting as bad:
        logger.critical("%s", bad.message)
        sys.exit(EXIT_BAD_CONFIG)
    except Exception:
        logger.critical("stopped by an unexpected failure", exc_info=True)
        sys.exit(1)
    finally:
        trace.close()
        lock.release()
    logger.info("stopped")
