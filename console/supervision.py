"""supervisord as the console uses it: start it, ask it, and know whether it lives."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import time
import xmlrpc.client
from pathlib import Path
from typing import Any

import click
import msgspec
from supervisor.xmlrpc import Faults

from shared import config, farm, process

CONFIGURATION = Path(__file__).parents[1] / "deploy" / "supervisord.conf"
CALL_TIMEOUT_S = 10.0
FIRST_PASSWORD = "CVP_ADMIN_PASSWORD"
"""For the account that the first start creates; no process needs it afterwards."""
UP = ("STARTING", "RUNNING")
FINAL_EXITS = (process.EXIT_BAD_CONFIG, process.EXIT_LOCKED)


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """One supervised process, named as in `cvp status`: `gateway`, `inferencer-0`."""

    name: str
    group: str
    state: str
    pid: int
    uptime_s: int
    why: str
    """What supervisord says about a failure, empty when all is well."""
    given_up: bool
    """Whether supervisord will not try again by itself."""

    def answers_to(self, names: tuple[str, ...]) -> bool:
        """Whether a person means this program by one of `names`: its own, or that of its kind."""
        return self.name in names or self.group in names

    def advice(self) -> str:
        """What to do about a program that was given up; empty for any other."""
        if not self.given_up:
            return ""
        return f"{self.name} was given up: `cvp logs {self.name}` may say why, `cvp restart {self.name}` tries again."


class NotAnswering(click.ClickException):
    """supervisord is not there, hangs, or is ending already."""


class Supervisor:
    """The supervisord of one RUN_DIR. Its lock says whether it lives; its socket takes the calls."""

    def __init__(self, settings: config.Settings) -> None:
        self.settings = settings
        self.lock = process.FileLock(settings.run / "supervisord.lock")

    def lives(self) -> bool:
        """Whether a supervisord holds the lock, or somebody is just starting one."""
        return self.lock.path.parent.is_dir() and not process.is_free(self.lock.path)

    def start(self, held: process.FileLock) -> None:
        """Start supervisord in the background; it keeps `held`, the lock of this RUN_DIR, until it ends.

        Raises:
            click.ClickException: It refused its configuration.
        """
        done = subprocess.run(
            [sys.executable, "-P", "-m", "supervisor.supervisord", "--configuration", str(CONFIGURATION)],
            env={name: value for name, value in environment(self.settings).items() if name != FIRST_PASSWORD},
            pass_fds=(held.fd,),
            start_new_session=True,  # a Ctrl-C is for `cvp`, which then stops what it started
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if done.returncode != 0:
            raise click.ClickException(f"supervisord did not start: {(done.stderr or done.stdout).strip()}")

    def answers(self) -> bool:
        """Whether it takes calls now."""
        try:
            self._call("getState")
        except NotAnswering:
            return False
        return True

    def programs(self) -> list[Program]:
        """All programs in the order they are started."""
        rows: list[dict[str, Any]] = self._call("getAllProcessInfo")
        return [_program(row) for row in sorted(rows, key=lambda row: (_order(row["group"]), row["name"]))]

    def has_started(self, program: Program) -> bool:
        """Whether a program is past its settings and imports: it has taken its lock."""
        return program.state in UP and not process.is_free(self.settings.run / f"{program.name}.lock")

    def pid(self) -> int:
        """Process id of supervisord."""
        return int(self._call("getPID"))

    def start_program(self, program: Program) -> None:
        """Ask for a start and do not wait; a program that is up already stays as it is."""
        self._call("startProcess", f"{program.group}:{program.name}", False, fine=Faults.ALREADY_STARTED)

    def stop_program(self, program: Program) -> None:
        """Ask for a drain and do not wait; a program that is down already stays as it is."""
        self._call("stopProcess", f"{program.group}:{program.name}", False, fine=Faults.NOT_RUNNING)

    def shut_down(self) -> None:
        """Ask for the end of everything, the gateway first, the broker last; do not wait."""
        self._call("shutdown")

    def _call(self, method: str, *arguments: Any, fine: int | None = None) -> Any:
        socket_path = self.settings.run / "supervisor.sock"
        try:
            with xmlrpc.client.ServerProxy("http://localhost", transport=_UnixTransport(socket_path)) as server:
                return getattr(server.supervisor, method)(*arguments)
        except (OSError, http.client.HTTPException) as error:
            raise NotAnswering(
                f"supervisord does not answer on {socket_path} ({error}). `cvp status` tells whether it runs, "
                f"{self.settings.logs / 'supervisord.log'} why not."
            ) from error
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == fine:
                return None
            if fault.faultCode == Faults.SHUTDOWN_STATE:
                raise NotAnswering("The platform is being stopped; wait for it with `cvp down`.") from fault
            raise click.ClickException(f"supervisord refused: {fault.faultString}") from fault


class _UnixTransport(xmlrpc.client.Transport):
    """XML-RPC over a Unix socket, with a bound on every wait (supervisor's own transport has none)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = _UnixConnection(self._path)
        self._connection = host, connection  # what `close()` closes
        return connection


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=CALL_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _program(row: dict[str, Any]) -> Program:
    up, ended = row["statename"] in UP, row["statename"] == "EXITED"  # whose description is only when
    return Program(
        name=row["name"],
        group=row["group"],
        state=row["statename"],
        pid=row["pid"],
        uptime_s=max(0, row["now"] - row["start"]) if up else 0,
        why="" if up else f"exit code {row['exitstatus']}" if ended else row["spawnerr"] or row["description"],
        given_up=row["statename"] == "FATAL" or (row["statename"] == "EXITED" and row["exitstatus"] in FINAL_EXITS),
    )


def _order(group: str) -> int:
    order = ("broker", "inferencer", "gateway", "trainer", "coordinator", "benchmarker", "preparer", "reporter")
    return order.index(group) if group in order else len(order)


def environment(settings: config.Settings) -> dict[str, str]:
    """What supervisord is started with: our environment, the settings it reads itself, and every path absolute."""
    inference = farm.choice(settings)
    paths = {
        "DATA_DIR": settings.root,
        "RUN_DIR": settings.run,
        "DB_PATH": settings.db_file,
        "MODEL_PATH": settings.models,
        "DATASET_PATH": settings.datasets,
        "REPORT_PATH": settings.reports,
    } | {name: Path(os.environ[name]).absolute() for name in ("TLS_CERT", "TLS_KEY") if os.environ.get(name)}
    return (
        dict(os.environ)
        | {name: str(path) for name, path in paths.items()}
        | {
            "INFERENCE_PROCESSES": str(inference.processes),
            farm.FOUND_BY: inference.by,
            "MAX_GPU_WORKERS": str(settings.max_gpu_workers),
            "PREPARERS": str(settings.preparers),
            config.GIVEN: ",".join(config.given(os.environ)),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        }
    )


def settings_in_force(supervisor: Supervisor) -> config.Settings:
    """The settings the running platform was started with, whatever this shell's environment says."""
    import psutil

    return config.load(psutil.Process(supervisor.pid()).environ())


def differences(asked: config.Settings, runs: config.Settings) -> list[str]:
    """Settings in which a running platform is not the one this shell asks for, in words."""
    want, have = msgspec.to_builtins(config.load(environment(asked))), msgspec.to_builtins(runs)
    return [
        f"another {name}"
        if name in config.SECRETS
        else f"{name}={config.shown(name, have[name])} (this shell: {config.shown(name, want[name])})"
        for name in want
        if want[name] != have[name]
    ]


def still_held(run: Path) -> list[str]:
    """Names of the locks under `run/` that some process holds."""
    return sorted(path.stem for path in run.glob("*.lock") if not process.is_free(path))


def holders(lock: Path) -> list[int]:
    """Processes that have a lock file open, for the message that asks to end them."""
    import psutil

    found = []
    for each in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(opened.path == os.path.realpath(lock) for opened in each.open_files()):
                found.append(each.pid)
    return found


def wait_until_free(run: Path, besides: tuple[str, ...], bound_s: float) -> list[str]:
    """Wait until no lock but `besides` is held; returns those that still are."""
    end = time.monotonic() + bound_s
    while (held := [name for name in still_held(run) if name not in besides]) and time.monotonic() < end:
        time.sleep(0.1)
    return held
