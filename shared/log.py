"""Logging: one JSON object a line on standard error, whoever writes there; supervisord keeps and rotates the files."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TextIO

import msgspec

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
}
_NAMES = {number: name for name, number in LEVELS.items()}
_bound: contextvars.ContextVar[Mapping[str, object]] = contextvars.ContextVar("bound", default=MappingProxyType({}))
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


_scribes: list[subprocess.Popen[bytes]] = []
logger = logging.getLogger(__name__)


class JsonLines(logging.Formatter):
    """Formats a record as JSON; whatever is passed in `extra=` or `bound` becomes a field of its own."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self.service = service

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON: time, level, service, message, then the extra fields."""
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": _NAMES.get(record.levelno, record.levelname.lower()),
            "service": self.service,
            "message": record.getMessage(),
        }
        line |= _bound.get()
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["trace"] = "".join(traceback.format_exception(*record.exc_info))
        return msgspec.json.encode(line, enc_hook=str).decode()


@contextlib.contextmanager
def bound(**fields: object) -> Iterator[None]:
    """Every line that is logged inside the block, by this thread or task, has these fields; None is left out."""
    token = _bound.set({**_bound.get(), **{name: value for name, value in fields.items() if value is not None}})
    try:
        yield
    finally:
        _bound.reset(token)


def setup(service: str, level: str) -> None:
    """Send the log of a service to standard error as JSON lines, what libraries warn of too; once, first thing.

    The log goes there directly. Whatever else is written to standard output and error by this process (native code, a
    crash) is made JSON by a process of its own, `shared.scribe`, which has nothing to do otherwise.
    """
    direct = os.dup(sys.stderr.fileno())
    _to(os.fdopen(direct, "w"), JsonLines(service), level)
    heard, said = os.pipe()
    _scribes.append(
        subprocess.Popen(
            [sys.executable, "-S", "-m", "shared.scribe", service],
            stdin=heard,
            stdout=direct,
            stderr=direct,
            start_new_session=True,  # whoever ends our process group still wants to read its last words
            env=os.environ | {"PYTHONPATH": str(Path(__file__).absolute().parents[1])},
        )
    )
    os.dup2(said, sys.stdout.fileno())
    os.dup2(said, sys.stderr.fileno())
    os.close(heard)
    os.close(said)


def setup_child(level: str) -> None:
    """Send the log of a job's child to standard error as lines with their level, which the parent makes JSON of."""
    _to(sys.stderr, logging.Formatter("%(levelname)s: %(message)s"), level)


def _to(stream: TextIO, formatter: logging.Formatter, level: str) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=LEVELS[level], force=True)
    warnings.showwarning = _warned


def _warned(  # noqa: PLR0917  # the signature of warnings.showwarning
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    logger.warning("%s", message, extra={"warning": category.__name__, "where": f"{filename}:{lineno}"})
