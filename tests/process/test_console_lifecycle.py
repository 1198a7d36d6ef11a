"""`cvp up`, `restart` and `down` with a real supervisord; the programs are stand-ins that do nothing but live."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from console.supervision import CONFIGURATION, Supervisor, environment, still_held
from shared import config
from tests.conftest import eventually

IDLE = """
import sys
from shared import process

def main(settings, stop):
    stop.wait(600)

process.service("-".join([__package__, *sys.argv[1:]]), main)
"""

GATEWAY = """
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from shared import process

class Ready(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

def main(settings, stop):
    with ThreadingHTTPServer((settings.host, settings.port), Ready) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stop.wait(600)
        server.shutdown()

process.service("gateway", main)
"""

COORDINATOR = IDLE.replace('"-".join([__package__, *sys.argv[1:]])', '"coordinator"')
ADMIN = "import sys; sys.argv[1] == 'ensure' and print('Created the user admin with the password pa55word')"


class Machine:
    """A folder, a port, and the command."""

    def __init__(self, root: Path, port: int) -> None:
        packages = root / "packages"
        for name in ("broker", "inferencer", "trainer", "benchmarker", "preparer", "reporter", "gateway"):
            (packages / name).mkdir(parents=True)
            (packages / name / "__init__.py").touch()
            (packages / name / "__main__.py").write_text(GATEWAY if name == "gateway" else IDLE)
        (packages / "gateway" / "admin.py").write_text(ADMIN)
        (packages / "trainer" / "coordinator.py").write_text(COORDINATOR)
        self.env = os.environ | {
            "DATA_DIR": str(root / "data"),
            "PORT": str(port),
            "INFERENCE_PROCESSES": "1",
            "PYTHONPATH": str(packages),
        }
        self.settings = config.load(self.env)
        self.supervisor = Supervisor(self.settings)

    def cvp(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "console.cli", *arguments],
            env=self.env | env,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def pid(self, name: str) -> int:
        return next(program.pid for program in self.supervisor.programs() if program.name == name)

    def is_back(self, name: str, other_than: int) -> bool:
        return self.pid(name) not in (0, other_than) and name in still_held(self.settings.run)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    machine = Machine(tmp_path_factory.mktemp("cvp"), port)
    yield machine
    machine.cvp("down")


@pytest.fixture
def running(machine: Machine) -> Machine:
    done = machine.cvp("up")
    assert done.returncode == 0, done.stderr
    return machine


def gone(pids: set[int]) -> bool:
    """Whether the processes have ended; one that nobody has collected yet has."""
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


pytestmark = pytest.mark.process


def test_up_starts_everything_and_prints_the_first_password(machine: Machine):
    done = machine.cvp("up")
    assert done.returncode == 0, done.stderr
    assert f"Ready at http://127.0.0.1:{machine.settings.port}" in done.stdout
    assert "pa55word" in done.stdout
    held = still_held(machine.settings.run)
    assert held == [
        "benchmarker-0",
        "benchmarker-1",
        "broker",
        "coordinator",
        "gateway",
        "inferencer-0",
        "preparer-0",
        "preparer-1",
        "preparer-2",
        "reporter",
        "supervisord",
        "trainer-0",
        "trainer-1",
    ]


@pytest.mark.skipif(config.cores() == 1, reason="one core leaves nothing to choose")
def test_the_first_start_measures_how_many_inference_processes_pay(machine: Machine):
    machine.cvp("down")
    kept = machine.settings.root / "inference-farm.json"
    told = []
    for _ in range(2):
        done = machine.cvp("up", INFERENCE_PROCESSES="")
        assert done.returncode == 0, done.stderr
        told.append(done.stdout.splitlines()[1])
        number = sum(program.group == "inferencer" for program in machine.supervisor.programs())
        assert re.match(rf"{number} inference process(es)? \((measured on |counted: )", told[-1])
        machine.cvp("down")
        if "could not be measured" in told[0]:  # the machine was busy: that is told, and next time it is tried again
            assert not kept.exists()
            return
    assert kept.exists()
    assert told[0] == told[1]


def test_a_second_up_is_content(running: Machine):
    pid = running.supervisor.pid()
    done = running.cvp("up")
    assert (done.returncode, done.stdout.startswith("Already running")) == (0, True)
    assert running.supervisor.pid() == pid


def test_up_with_other_settings_says_which(running: Machine):
    done = running.cvp("up", LOG_LEVEL="debug")
    assert done.returncode == 1
    assert "LOG_LEVEL=info (this shell: debug)" in done.stderr


def test_status_lists_every_process(running: Machine):
    done = running.cvp("status")
    assert done.returncode == 0
    for name in ("broker", "inferencer-0", "gateway", "trainer-1", "benchmarker-1", "preparer-2", "reporter"):
        assert f"\n{name} " in done.stdout
    assert "Ready at" in done.stdout


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_ends_unasked_is_back_within_seconds(running: Machine, how: signal.Signals):
    pid = running.pid("reporter")
    os.kill(pid, how)
    eventually(lambda: running.is_back("reporter", pid))


def test_restart_gives_a_new_process_and_leaves_the_others(running: Machine):
    before = {program.name: program.pid for program in running.supervisor.programs()}
    done = running.cvp("restart", "benchmarker")
    assert done.stdout == "Restarted benchmarker-0, benchmarker-1.\n"
    after = {program.name: program.pid for program in running.supervisor.programs()}
    assert {name for name in before if before[name] != after[name]} == {"benchmarker-0", "benchmarker-1"}


def test_restart_of_nothing_lists_what_there_is(running: Machine):
    done = running.cvp("restart", "gatway")
    assert done.returncode == 1
    assert "there are: broker, " in done.stderr


def test_up_works_after_supervisord_was_killed(running: Machine):
    pids = {program.pid for program in running.supervisor.programs()}
    os.kill(running.supervisor.pid(), signal.SIGKILL)
    done = running.cvp("up")
    assert (done.returncode, "Ready at" in done.stdout) == (0, True), done.stderr
    assert not pids & {program.pid for program in running.supervisor.programs()}
    eventually(lambda: gone(pids), within_s=2)


def test_who_was_just_being_started_when_supervisord_was_killed_leaves(running: Machine):
    """It asked the kernel to be told too late; were it to stay, it would keep the next start from its lock."""
    done = subprocess.run(
        [sys.executable, "-m", "reporter"],
        env=running.env | {"SUPERVISOR_ENABLED": "1"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, "65 would be the lock, tried after its parent"
    assert running.pid("reporter")


def test_a_second_supervisord_is_refused(running: Machine):
    with pytest.raises(Exception, match=r"supervisord\.lock"):
        running.supervisor.lock.acquire(patience_s=0.2)


def test_a_second_supervisord_started_past_cvp_leaves_the_first_alone(running: Machine):
    before = {program.name: program.pid for program in running.supervisor.programs()}
    second = subprocess.run(
        [sys.executable, "-P", "-m", "supervisor.supervisord", "--configuration", str(CONFIGURATION)],
        env=environment(running.settings) | {"PYTHONPATH": running.env["PYTHONPATH"]},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.returncode != 0
    assert "already listening" in second.stderr + second.stdout
    assert {program.name: program.pid for program in running.supervisor.programs()} == before


def test_down_leaves_nothing_and_may_be_repeated(running: Machine):
    pids = {program.pid for program in running.supervisor.programs()} | {running.supervisor.pid()}
    assert running.cvp("down").stdout == "Stopped.\n"
    eventually(lambda: gone(pids), within_s=2)
    assert still_held(running.settings.run) == []
    assert running.cvp("down").stdout.startswith("Nothing runs")
    assert running.cvp("status").returncode == 3


def test_a_taken_port_is_found_before_anything_starts(machine: Machine):
    machine.cvp("down")
    with socket.create_server(("127.0.0.1", machine.settings.port)):
        done = machine.cvp("up")
    assert done.returncode == 1
    assert f"Port {machine.settings.port} is taken" in done.stderr
    assert still_held(machine.settings.run) == []
