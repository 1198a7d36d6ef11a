"""Up, down and restart: everything between `make run` and a platform that serves, and back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import click
import msgspec

from console import tryout
from console.client import Client
from console.groundwork import first_account, migrate, require_free_port
from console.supervision import (
    UP,
    NotAnswering,
    Program,
    Supervisor,
    differences,
    holders,
    settings_in_force,
    wait_until_free,
)
from shared import config, farm, process

READY_BOUND_S = 60.0
DRAIN_BOUND_S = 40.0
"""A little more than supervisord gives one program to drain (`stopwaitsecs`)."""
STAGES = (("gateway", "trainer", "coordinator", "benchmarker", "preparer", "reporter"), ("inferencer",), ("broker",))
"""Who is stopped together, and before whom: the gateway finishes its answers while all that help are still there."""

Say = Callable[[str], None]


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """What `up` did."""

    by_us: bool
    """Whether the platform was down before."""
    first_sign_in: str
    """What the gateway said about the account it created; empty when there was one."""
    farm: str
    """How many inference processes there are, and how that was found; empty when somebody set it."""


def up(settings: config.Settings, say: Say) -> Started:
    """Bring the platform up and wait until it serves; `say` hears what is being waited for.

    What was started is stopped again when it does not become ready.

    Raises:
        click.ClickException: With the reason, and what to do.
    """
    from console import restore

    settings.make_folders()
    supervisor = Supervisor(settings)
    lock = _lock_unless_running(supervisor)
    if lock is None:
        _join(supervisor, say)
        return Started(by_us=False, first_sign_in="", farm="")
    try:
        _wait_for_leftovers(settings, say)
        require_free_port(settings)
        config.require_tls_pair(settings)
        say("preparing the database")
        restore.settle(settings)
        migrate(settings)
        first_sign_in = first_account(settings)
        unmeasured = tryout.first(settings, say)
        supervisor.start(lock)
    finally:
        lock.release()
    try:
        wait_until_ready(supervisor, say)
    except BaseException:
        with contextlib.suppress(OSError, ValueError):  # nobody reads any more: stop all the same
            say("it did not come up; stopping it again")
        down(settings, lambda _: None)
        raise
    return Started(by_us=True, first_sign_in=first_sign_in, farm=_farm(settings, unmeasured))


def _farm(settings: config.Settings, unmeasured: str) -> str:
    if settings.inference_processes:
        return ""
    number, by = farm.choice(settings)
    why = f" It could not be measured, for {unmeasured}; the next start tries again." if unmeasured else ""
    return (
        f"{number} inference process{'' if number == 1 else 'es'} ({by}; INFERENCE_PROCESSES sets another number).{why}"
    )


def down(settings: config.Settings, say: Say) -> bool:
    """Stop the platform and wait until every process is gone.

    Returns:
        Whether there was anything to stop.

    Raises:
        click.ClickException: Something does not end; names it.
    """
    supervisor = Supervisor(settings)
    was_up = supervisor.lives()
    if was_up and (lock := _lock_unless_running(supervisor)):  # somebody else has just stopped it
        lock.release()
    elif was_up:
        with contextlib.suppress(NotAnswering):  # somebody else stops it too, and it ended meanwhile: the locks tell
            _stop(supervisor, say)
    leftovers = wait_until_free(settings.run, (), 0.0)
    if leftovers and not was_up:
        say(f"waiting for what a killed supervisord left behind: {', '.join(leftovers)}")
    if held := wait_until_free(settings.run, (), DRAIN_BOUND_S):
        raise _will_not_end(settings, held)
    return was_up or bool(leftovers)


def named(supervisor: Supervisor, name: str) -> list[Program]:
    """The programs a person means: one by its name, or all of a kind.

    Raises:
        click.ClickException: There is none; the message lists those there are.
    """
    if not supervisor.lives():
        raise click.ClickException("The platform does not run; `cvp up` starts it.")
    programs = supervisor.programs()
    chosen = [program for program in programs if program.answers_to((name,))]
    if not chosen:
        there = ", ".join(program.name for program in programs)
        raise click.ClickException(f"There is no process {name!r}; there are: {there}.")
    return chosen


def restart(supervisor: Supervisor, chosen: list[Program], say: Say) -> None:
    """Drain programs and start them again, one after the other, so that the others serve meanwhile.

    Raises:
        click.ClickException: One does not start again.
        config.BadSetting: The gateway could not serve HTTPS with the files that are there now; nothing was stopped.
    """
    supervisor = Supervisor(settings_in_force(supervisor))
    if any(program.answers_to(("gateway",)) for program in chosen):
        config.require_tls_pair(supervisor.settings)
    for program in chosen:
        _drain(supervisor, (program.name,), say)
        supervisor.start_program(program)
        wait_until_ready(supervisor, say, only=(program.name,))


def wait_until_ready(
    supervisor: Supervisor, say: Say, bound_s: float = READY_BOUND_S, only: tuple[str, ...] = ()
) -> None:
    """Wait until every program, or `only` those of these names, runs and the gateway says that it serves.

    Raises:
        click.ClickException: A program was given up, or it takes too long; has the end of its log.
    """
    end = time.monotonic() + bound_s
    with Client(supervisor.settings) as client:
        while time.monotonic() < end:
            missing = _missing(supervisor, only) or client.not_ready()
            if not missing:
                return
            say(missing)
            time.sleep(0.1)
    raise click.ClickException(f"Not ready after {bound_s:.0f} s: {missing}. `cvp logs NAME` shows more.")


def _missing(supervisor: Supervisor, only: tuple[str, ...]) -> str:
    """The programs that are not up yet, in words; empty when all are."""
    if not supervisor.answers():
        return "waiting for supervisord"
    programs = [program for program in supervisor.programs() if not only or program.name in only]
    for program in programs:
        if program.given_up:
            raise click.ClickException(_why_not_up(supervisor.settings, program))
    missing = [program.name for program in programs if not supervisor.has_started(program)]
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return f"waiting for {', '.join(missing[:3])}{more}" if missing else ""


def _why_not_up(settings: config.Settings, program: Program) -> str:
    log = settings.logs / f"{program.name}.log"
    last = _tail(log.read_text(errors="replace").splitlines()) if log.exists() else []
    return "\n".join([f"{program.name} does not stay up. The end of its log, {log}:", *last])


def _tail(lines: list[str]) -> list[str]:
    """The last words of the last try alone: a process that dies five times says the same five times."""
    starts = [index for index, line in enumerate(lines) if '"message":"started"' in line]
    return lines[starts[-1] if starts else 0 :][-12:]


def _join(supervisor: Supervisor, say: Say) -> None:
    """Somebody else started the platform: check that it is the one that is asked for, and complete it."""
    require_same_settings(supervisor)
    for program in supervisor.programs():
        if program.state not in UP:
            supervisor.start_program(program)
    wait_until_ready(supervisor, say)


def require_same_settings(supervisor: Supervisor) -> None:
    """Refuse to pass a platform with other settings for the one that is asked for.

    Raises:
        click.ClickException: Names the settings that differ.
    """
    other = differences(supervisor.settings, settings_in_force(supervisor))
    if other:
        raise click.ClickException(
            f"The platform runs already, with other settings: {'; '.join(other)}. "
            "`cvp down`, then `cvp up` changes them."
        )


def _lock_unless_running(supervisor: Supervisor) -> process.FileLock | None:
    """The lock of a new supervisord; None when there is one that answers. One that starts or ends is waited for."""
    end = time.monotonic() + READY_BOUND_S
    while True:
        try:
            return supervisor.lock.acquire(patience_s=0.3)
        except process.Locked:
            if supervisor.answers():
                return None
            if time.monotonic() >= end:
                raise _will_not_end(supervisor.settings, ["supervisord"]) from None


def _wait_for_leftovers(settings: config.Settings, say: Say) -> None:
    """Let the programs of a killed supervisord end: they were told to by the kernel and are draining."""
    held = wait_until_free(settings.run, ("supervisord",), 0.0)
    if held:
        say(f"waiting for what an earlier start left behind: {', '.join(held)}")
        if held := wait_until_free(settings.run, ("supervisord",), DRAIN_BOUND_S):
            raise _will_not_end(settings, held)


def _will_not_end(settings: config.Settings, held: list[str]) -> click.ClickException:
    pids = sorted({pid for name in held for pid in holders(settings.run / f"{name}.lock")})
    end_them = f"`kill -9 {' '.join(map(str, pids))}` ends them" if pids else "they belong to another user"
    return click.ClickException(f"Still running without an answer: {', '.join(held)}; {end_them}. Then try again.")


def _stop(supervisor: Supervisor, say: Say) -> None:
    try:
        for stage in STAGES:
            _drain(supervisor, stage, say)
    finally:
        supervisor.shut_down()  # also after a second Ctrl-C: supervisord ends the rest by itself


def _drain(supervisor: Supervisor, names: tuple[str, ...], say: Say) -> None:
    """Stop programs together, named singly or by kind. supervisord kills what takes too long, so the wait ends."""
    for program in supervisor.programs():
        if program.answers_to(names):
            supervisor.stop_program(program)
    end = time.monotonic() + DRAIN_BOUND_S
    while time.monotonic() < end:
        busy = [each.name for each in supervisor.programs() if each.answers_to(names) and each.pid]
        if not busy:
            return
        say(f"draining {', '.join(busy)}")
        time.sleep(0.05)
