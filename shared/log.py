"""Logging: one JSON object a line on standard error; supervisord keeps and rotates the files."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from types import MappingProxyType

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
    """Send this process's log to standard error as JSON lines. Call once, first thing in `__main__`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(service))
    logging.basicConfig(handlers=[handler], level=LEVELS[level], force=True)
