"""An examination of this machine: what the platform needs, what it found, and what to do about it."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from console.client import Client, address
from console.groundwork import require_free_port
from console.screen import Screen
from console.supervision import Supervisor, settings_in_force
from shared import config, errors, sandbox

DISK_MB = 2_000
"""Least free disk: a model upload of 1 GB is staged beside its final place."""
DISK_ADVICE = "Free some, or set DATA_DIR to a folder on a larger disk."

ENGINES = """
import msgspec, sys
from shared.engines import availability
sys.stdout.buffer.write(msgspec.json.encode(availability()))
"""
GPUS = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing looked at. `wrong` findings make the examination fail; their text says what to do."""

    subject: str
    text: str
    wrong: bool = False


def show(screen: Screen) -> int:
    """Print all findings; returns the exit code, 1 when something is wrong."""
    found = []
    for finding in examine():
        found.append(finding)
        mark, style = ("wrong", "bold red") if finding.wrong else ("ok", "green")
        screen.console.print(f"[{style}]{mark:<6}[/]", end="")
        screen.line(f"{finding.subject:<13}{finding.text}")
    wrong = sum(finding.wrong for finding in found)
    screen.line(f"\n{wrong} of {len(found)} need attention." if wrong else "\nAll is well.")
    return 1 if wrong else 0


def examine() -> Iterator[Finding]:
    """Look at everything, the cheap and fundamental first."""
    yield Finding(subject="Python", text=f"{platform.python_version()} in {sys.prefix}")
    yield sqlite()
    try:
        settings = config.load()
        config.require_tls_pair(settings)
    except config.BadSetting as bad:
        yield Finding(subject="settings", text=bad.message, wrong=True)
    else:
        yield Finding(subject="settings", text="all in range; `cvp config` lists them")
        yield folders(settings)
        yield disk(settings)
        yield port(settings)
        yield spans(settings)
        yield noise_floor(settings)
    yield isolation()
    yield from engines()
    yield tensorflow()
    yield gpu()


def sqlite() -> Finding:
    """The gate against the SQLite releases that can corrupt a log with several writers."""
    from shared.db import connection

    try:
        connection.require_safe_sqlite()
    except connection.SchemaMismatch as mismatch:
        return Finding(subject="SQLite", text=str(mismatch), wrong=True)
    return Finding(subject="SQLite", text=".".join(map(str, connection.sqlite_version())))


def folders(settings: config.Settings) -> Finding:
    """Whether every folder can be made and written to."""
    try:
        settings.make_folders()
        stores = (settings.models, settings.datasets, settings.reports)
        for folder in (settings.db_file.parent, *stores, settings.logs, settings.run):
            with tempfile.NamedTemporaryFile(dir=folder):
                pass
    except OSError as error:
        text = f"Cannot write in {error.filename}: {error.strerror}. Make it writable, or set DATA_DIR to another one."
        return Finding(subject="folders", text=text, wrong=True)
    socket_path = settings.run / "supervisor.sock"
    room = config.IPC_PATH_MAX - len(str(socket_path).encode())
    return Finding(subject="folders", text=f"{settings.root} is writable; {room} bytes left for socket names")


def disk(settings: config.Settings) -> Finding:
    """Room for uploads, also where the folders are still to be made."""
    places: tuple[Path, ...] = (settings.root, settings.models, settings.datasets, settings.db_file.parent)
    standing = {next(folder for folder in (place, *place.parents) if folder.is_dir()) for place in places}
    free_mb, where = min((shutil.disk_usage(folder).free // 10**6, str(folder)) for folder in standing)
    short = free_mb < DISK_MB
    text = f"{free_mb / 1000:.1f} GB free in {where}" + (
        f"; {DISK_MB / 1000:.0f} GB are needed. {DISK_ADVICE}" if short else ""
    )
    return Finding(subject="disk", text=text, wrong=short)


def port(settings: config.Settings) -> Finding:
    """Whether the gateway can listen, or is the one who does."""
    supervisor = Supervisor(settings)
    if supervisor.lives():
        return _running(supervisor)
    try:
        require_free_port(settings)
    except click.ClickException as error:
        return Finding(subject="port", text=error.message, wrong=True)
    return Finding(subject="port", text=f"{settings.port} on {settings.host} is free; the platform does not run")


def _running(supervisor: Supervisor) -> Finding:
    settings = settings_in_force(supervisor)
    with Client(settings) as client:
        reason = client.not_ready()
    if reason:
        return Finding(subject="platform", text=f"{reason} `cvp status` shows the processes.", wrong=True)
    if given_up := [advice for program in supervisor.programs() if (advice := program.advice())]:
        return Finding(subject="platform", text=" ".join(given_up), wrong=True)
    return Finding(subject="platform", text=f"ready at {address(settings)}")


def spans(settings: config.Settings) -> Finding:
    """Where spans go; a start that lacks what sends them has been refused already, with the settings."""
    collector = settings.otel_exporter_otlp_endpoint
    text = f"sent to {collector}" if collector else "not exported; OTEL_EXPORTER_OTLP_ENDPOINT names a collector"
    return Finding(subject="spans", text=text)


def noise_floor(settings: config.Settings) -> Finding:
    """Within which margin candidates of a benchmark tie on this machine, as it is now."""
    from shared.db import benchmarks, connection
    from shared.machine import system_info
    from shared.verdict.decision import margin_of
    from shared.verdict.wording import percent

    noise = None
    if settings.db_file.is_file():
        try:
            connection.open_db(settings.db_file)
            with connection.database.connection_context():
                noise = benchmarks.noise_floor(system_info().fingerprint)
        except (connection.SchemaMismatch, errors.AppError) as refused:
            return Finding(subject="noise floor", text=f"unknown: {refused}")
    margin = f"candidates of a benchmark tie within ±{percent(margin_of(noise))}"
    if noise is None:
        how = 'not measured with these engines and drivers; "noise_floor": true in a benchmark does it'
    else:
        how = f"{percent(noise.value)}, measured {noise.measured_at[:10]} by {noise.benchmark_id}"
    return Finding(subject="noise floor", text=f"{how}; {margin}")


def isolation() -> Finding:
    """Whether the file somebody uploads is looked at where it can reach nothing."""
    if lacks := sandbox.missing():
        text = (
            f"Uploads are checked with limits, but not shut in: {'; '.join(lacks)}. Let only people you trust upload."
        )
        return Finding(subject="sandbox", text=text, wrong=True)
    return Finding(subject="sandbox", text="uploads are checked, and measured, without network or other files")


def engines() -> Iterator[Finding]:
    """What each engine can do here, asked in a child: a driver that crashes on import must not take us along."""
    asked = [sys.executable, "-P", "-c", ENGINES]
    done = subprocess.run(asked, capture_output=True, timeout=120, check=False)
    if done.returncode != 0:
        said = (done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        yield Finding(subject="engines", text=f"Cannot be loaded: {said}. `make setup` installs them.", wrong=True)
        return
    table = msgspec.json.decode(done.stdout, type=list[tuple[str, str, str | None]])
    yield from _by_engine(table)
    if all(reason for _, _, reason in table):
        yield Finding(subject="engines", text="None can run here. `make setup` installs them.", wrong=True)


def _by_engine(table: list[tuple[str, str, str | None]]) -> Iterator[Finding]:
    for name in dict.fromkeys(name for name, _, _ in table):
        rows = [(precision, reason) for engine, precision, reason in table if engine == name]
        able = [precision for precision, reason in rows if reason is None]
        reasons = dict.fromkeys(reason for _, reason in rows if reason)
        text = ", ".join(able) if able else f"not here: {'; '.join(reasons)}"
        yield Finding(subject=name, text=text)


def tensorflow() -> Finding:
    """Whether TensorFlow and Keras files can be converted; without it all else works."""
    if config.tensorflow_python() is None:
        return Finding(
            subject="TensorFlow", text="not installed; `make setup-tensorflow` does it, to convert its files"
        )
    return Finding(subject="TensorFlow", text=f"its files and those of Keras can be converted, in {config.TENSORFLOW}")


def gpu() -> Finding:
    """The NVIDIA GPUs of this machine; none is fine."""
    if shutil.which(GPUS[0]) is None:
        return Finding(subject="GPU", text="no NVIDIA driver; everything runs on the CPU")
    done = subprocess.run(GPUS, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines()
        text = f"nvidia-smi fails: {said[-1] if said else done.returncode}. Reinstall the driver, or use the CPU."
        return Finding(subject="GPU", text=text, wrong=True)
    return Finding(subject="GPU", text="; ".join(done.stdout.strip().splitlines()))
