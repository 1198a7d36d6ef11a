"""Makes log lines of what a process writes to standard error past its log: engines' warnings, tracebacks, last words.

`python -m shared.scribe NAME` does it for a service, from outside: it ends when nobody can write any more, so it has
also heard what the service said while it crashed. Only the standard library is imported here, of which little.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable

LINE_BYTES = 16_384
"""A longer line becomes several."""

GUESSED_FROM = 500
"""Characters at the beginning of a line that a level is guessed from; the patterns take long over long ones."""

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_OURS = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL): (.*)", re.DOTALL)
_ONNX_RUNTIME = re.compile(r"(?:\d{4}-\d\d-\d\d [\d:.]+ )?(\[([VIWEF]):onnxruntime:.*)", re.DOTALL)
_LEVELS = {"V": "debug", "I": "info", "W": "warn", "E": "error", "F": "fatal"}
_LEVELS |= {"DEBUG": "debug", "INFO": "info", "WARNING": "warn", "ERROR": "error", "CRITICAL": "fatal"}
_GUESSES = (
    ("fatal", re.compile(r"Fatal Python error|[Ss]egmentation fault|terminate called|Aborted|.*core dumped")),
    ("error", re.compile(r"Traceback \(|(?i:.{0,40}\berror\b)|[\w.]+(Error|Exception)\b")),
    ("warn", re.compile(r"(?i:.{0,80}\bwarn(ing)?\b)|.{0,200}\w+Warning: ")),
)


def read(line: str) -> tuple[str, str]:
    """Level and text of a raw line: as it says itself, else guessed from its beginning; colours are dropped."""
    text = _ANSI.sub("", line).rstrip()
    if ours := _OURS.fullmatch(text):
        return _LEVELS[ours[1]], ours[2]
    if engine := _ONNX_RUNTIME.fullmatch(text):
        return _LEVELS[engine[2]], engine[1]
    return next((level for level, pattern in _GUESSES if pattern.match(text, 0, GUESSED_FROM)), "info"), text


def records(service: str, lines: Iterable[bytes]) -> Iterable[str]:
    """One JSON log line for each raw line with something in it."""
    for line in lines:
        level, text = read(line.decode(errors="replace"))
        if text:
            now = time.time()
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
            record = {"time": stamp, "level": level, "service": service, "message": text, "from": "stderr"}
            yield json.dumps(record, ensure_ascii=False, separators=(",", ":"))


def main(service: str) -> None:
    """Until the end of standard input."""
    for record in records(service, iter(lambda: sys.stdin.buffer.readline(LINE_BYTES), b"")):
        sys.stdout.write(record + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
