"""A job's child process: how a parent starts one, hears from it, bounds it and ends it; and the child's own side.

The order goes to the child as one JSON document on standard input. The child answers in JSON lines: any number of
`Progress`, then one `Result` or one `Refused`. Its standard error is its log; the parent passes it on and keeps the
end.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import resource
import selectors
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from shared import clock, config, errors, failpoints, log, process, scribe, trace
from shared.nursery import PARENT_ENV, Barren, Born, Nursery

GRACE_S = 2.0
LEAVE_S = 0.2
TICK_S = 0.25
TAIL_LINES = 40
ANSWER_BYTES = 64 * 2**20
"""Longest line of an answer."""

REFUSAL_CHARACTERS = 4000
"""Of a refusal's message, which is stored: engines repeat names out of a model, and those may be megabytes."""

FROM_OUTSIDE = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGKILL})
"""Signals that no work brings upon itself; a crash or a limit (SIGSEGV, SIGXCPU) would only come again."""

HINTS: dict[int, str] = {signal.SIGKILL: " (out of memory?)", signal.SIGXCPU: " (too much processor time)"}

logger = logging.getLogger(__name__)

REPORT_S = 0.5

Order = TypeVar("Order")
Outcome = TypeVar("Outcome")
Report = Callable[[dict[str, Any]], None]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a child may use; None leaves the machine's own limit."""

    wall_s: float
    memory_mb: int | None = None
    """Address space (`RLIMIT_AS`)."""
    cpu_s: int | None = None
    """Processor time; at its end comes SIGXCPU, a second later SIGKILL."""
    file_mb: int | None = None
    """Largest file it may write."""


class Line(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag=True):
    """Base of what a child says."""


class Progress(Line, frozen=True, kw_only=True):
    """How far it is; a small JSON object."""

    body: dict[str, Any]


class Result(Line, frozen=True, kw_only=True):
    """The finished work."""

    value: msgspec.Raw


class Refused(Line, frozen=True, kw_only=True):
    """The work cannot be done, for a reason its user can act on (`shared.errors`)."""

    code: str
    message: str


class ChildDied(Exception):
    """The child ended without a result; the message names the signal or exit code and its last words."""


class ChildKilled(ChildDied):
    """Something outside ended it: the kernel for want of memory, or a person. Another try may succeed."""


class Interrupted(Exception):
    """The parent ended the child on purpose; the message is the reason `interrupted()` gave."""


def now_and_then(report: Report, monotonic: clock.Monotonic = time.monotonic) -> Report:
    """A report that passes a body on every `REPORT_S` at most; those between are lost."""
    told = -REPORT_S

    def tell(body: dict[str, Any]) -> None:
        nonlocal told
        if (now := monotonic()) - told >= REPORT_S:
            told = now
            report(body)

    return tell


def phase(report: Report, begin: float, end: float) -> Report:
    """A report of one phase: its `fraction`, 0 where it says none, becomes that of the whole, `begin` to `end`."""
    return lambda body: report(body | {"fraction": round(begin + (end - begin) * body.get("fraction", 0.0), 4)})


def _pass_on(level: str, text: str) -> None:
    logger.log(log.LEVELS[level], "%s", text)


def run(
    module: str,
    order: msgspec.Struct,
    result_type: type[Outcome],
    *,
    limits: Limits,
    python: Path | None = None,
    nursery: Nursery | None = None,
    pass_fds: Sequence[int] = (),
    on_progress: Report = lambda body: None,
    interrupted: Callable[[], str | None] = lambda: None,
    on_log: Callable[[str, str], None] = _pass_on,
) -> Outcome:
    """Run `python -m module` on an order and return its result.

    Args:
        module: Its `__main__` part calls `main()` below.
        order: Sent as JSON.
        result_type: What the result is decoded to.
        limits: Resource limits; `wall_s` bounds the whole call.
        python: Of another environment, which runs our code with its own packages; None for this one.
        nursery: Has imported what the module needs, and forks the child; where it cannot, it is started as always.
        pass_fds: Descriptors the child inherits (slot locks); from a nursery under other numbers.
        on_progress: Called for every progress line.
        interrupted: Asked every `TICK_S`; a text ends the child.
        on_log: Called with level and text of every line of its standard error.

    Raises:
        errors.AppError: The child refused the work, or it took longer than `wall_s`.
        ChildDied: It crashed, or ended without an answer.
        ChildKilled: Something outside ended it.
        Interrupted: `interrupted()` said so.
    """
    span = trace.Span(f"process {module}", trace.current())
    with (
        span,
        _Running(module, order, limits, python=python, nursery=nursery, pass_fds=pass_fds, on_log=on_log) as child,
    ):
        end = time.monotonic() + limits.wall_s
        for line in child.lines():
            match line:
                case Progress(body=body):
                    on_progress(body)
                case Result(value=value):
                    failpoints.reach("child.after_result")
                    return msgspec.json.decode(value, type=result_type)
                case Refused(code=code, message=message):
                    raise errors.from_code(code, message)
            if reason := interrupted():
                raise Interrupted(reason)
            if time.monotonic() > end:
                raise errors.DeadlineExceeded(f"It ran longer than {limits.wall_s:g} s and was stopped.")
        raise child.death()


def _environment() -> dict[str, str]:
    """Ours without what a user's file must never learn: a child may run hostile code."""
    kept = {name: value for name, value in os.environ.items() if name not in config.SECRETS}
    return kept | {PARENT_ENV: str(os.getpid())}


def _born(nursery: Nursery | None, pass_fds: Sequence[int]) -> Born | None:
    try:
        return None if nursery is None else nursery.bear(pass_fds, _environment())
    except Barren as barren:
        logger.warning("a child is started without the imports made before", extra={"reason": str(barren)})
        return None


class _Running:
    """A live child in a process group of its own; leaving the block ends the whole group."""

    def __init__(
        self,
        module: str,
        order: msgspec.Struct,
        limits: Limits,
        *,
        python: Path | None,
        nursery: Nursery | None,
        pass_fds: Sequence[int],
        on_log: Callable[[str, str], None],
    ) -> None:
        self._on_log, self._nursery = on_log, nursery
        self._tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        self._process: Born | subprocess.Popen[bytes] = _born(nursery, pass_fds) or subprocess.Popen(
            [python or sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=pass_fds,
            start_new_session=True,
            env=_environment() | ({"PYTHONPATH": str(config.HOME)} if python else {}),
        )
        self._limit(limits)  # before the order arrives, so before it does anything with it
        with contextlib.suppress(BrokenPipeError):
            self._pipe(self._process.stdin).write(msgspec.json.encode(order))
            self._pipe(self._process.stdin).close()

    def __enter__(self) -> _Running:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        if self._nursery is not None and self._process.returncode != 0:
            self._nursery.close()  # whatever ended its child may be in what it imported
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(BrokenPipeError):
                self._pipe(pipe).close()

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None
        return pipe

    def _limit(self, limits: Limits) -> None:
        mb = 1024 * 1024
        wanted = (
            (resource.RLIMIT_AS, limits.memory_mb and limits.memory_mb * mb, 0),
            (resource.RLIMIT_CPU, limits.cpu_s, 1),
            (resource.RLIMIT_FSIZE, limits.file_mb and limits.file_mb * mb, 0),
            (resource.RLIMIT_CORE, 0, 0),
        )
        for kind, value, grace in wanted:
            if value is not None:
                with contextlib.suppress(ProcessLookupError):
                    resource.prlimit(self._process.pid, kind, (value, value + grace))

    def lines(self) -> Iterator[Line | None]:
        """What the child says; None at least every `TICK_S`. Ends when the child closed its pipe."""
        decoder = msgspec.json.Decoder(Progress | Result | Refused)
        stdout, stderr = self._pipe(self._process.stdout), self._pipe(self._process.stderr)
        buffers = {stdout.fileno(): bytearray(), stderr.fileno(): bytearray()}
        with selectors.DefaultSelector() as selector:
            for fd in buffers:
                selector.register(fd, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select(TICK_S):
                    chunk = os.read(key.fd, 1 << 16)
                    if not chunk:
                        selector.unregister(key.fd)
                    if key.fd == stderr.fileno():
                        for line in _split(buffers[key.fd], chunk, scribe.LINE_BYTES):
                            self._log(line)
                        continue
                    for line in _split(buffers[key.fd], chunk, ANSWER_BYTES):
                        yield _read(decoder, line)
                yield None

    def _log(self, line: bytes) -> None:
        level, text = scribe.read(line.decode(errors="replace"))
        self._tail.append(text)
        self._on_log(level, text)

    def death(self) -> ChildDied:
        """How it ended, in a sentence, with the last line of its log."""
        self._end()
        code = self._process.returncode
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        hint = HINTS.get(-code, "")
        said = next((line.strip() for line in reversed(self._tail) if line.strip()), "")
        kind = ChildKilled if -code in FROM_OUTSIDE else ChildDied
        return kind(f"The process {how}{hint}{': ' + said[:300] if said else '.'}")

    def _end(self) -> None:
        """Let it leave, then ask, then insist; its whole process group goes with it."""
        for signum in (0, signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signum)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_S if signum else LEAVE_S)


def _read(decoder: msgspec.json.Decoder[Any], line: bytes) -> Line:
    try:
        answer: Line = decoder.decode(line)
    except msgspec.MsgspecError as error:
        raise ChildDied(f"The process sent an answer that cannot be read ({error}).") from error
    return answer


def _split(buffer: bytearray, chunk: bytes, longest: int) -> list[bytes]:
    """Whole lines so far, one that grows over `longest` bytes in parts; at the end of the stream (an empty chunk) the
    rest counts as a line.
    """
    buffer += chunk
    if chunk and b"\n" not in chunk and len(buffer) <= longest:
        return []  # looking at all of it each time would take minutes for a line of megabytes
    *lines, rest = bytes(buffer).split(b"\n")
    if not chunk or len(rest) > longest:
        lines, rest = [*lines, rest], b""
    buffer[:] = rest
    return [line for line in lines if line]


def main(order_type: type[Order], work: Callable[[Order, Report], Any]) -> None:
    """The child's whole life: die with the parent, read the order, work, answer.

    Standard output belongs to the answers: whatever libraries print there goes to standard error instead.
    """
    process.die_with_parent(int(os.environ[PARENT_ENV]))
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(line: Line) -> None:
        view = memoryview(msgspec.json.encode(line) + b"\n")
        while view:
            view = view[answers.write(view) :]

    log.setup_child(config.load().log_level)
    try:
        order = msgspec.json.decode(sys.stdin.buffer.read(), type=order_type)
        value = work(order, lambda body: say(Progress(body=body)))
        failpoints.reach("child.before_result")
        say(Result(value=msgspec.Raw(msgspec.json.encode(value))))
    except errors.AppError as refused:
        say(Refused(code=refused.code, message=refused.message[:REFUSAL_CHARACTERS]))
    except MemoryError:
        say(Refused(code=errors.TooLarge.code, message="It needs more memory than a job may use."))
    except Exception:
        traceback.print_exc()
        sys.exit(1)
