"""The peers: where each is installed, how it is started and asked, what share of the limit it is known to reach."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil

from benchmarks import models
from benchmarks.peers.model import MODEL_ENV
from benchmarks.subjects import LARGE, NULL, SMALL, Subject

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ROOT / ".venv-peers"
INSTALL_S, START_S, STOP_S = 900, 120, 10
MARK = "CVP_BENCH_PEER"
"""In the environment of everything a peer starts, so that all of it can be found and ended."""
FIRST_ASK_S = 30
COMING_UP = (400, 404, 502, 503)
"""What some answer before the model is there."""


class Request(NamedTuple):
    """An HTTP request that asks for one prediction."""

    target: str
    headers: dict[str, str]
    body: bytes


class Door(NamedTuple):
    """Where a server answers, how it is asked, and how its reply is read."""

    address: str
    request: Callable[[bytes], Request]
    answer: Callable[[bytes], dict[str, Any]]
    """What `Model.answer` gives."""
    processes: Callable[[], list[psutil.Process]]
    """All that the server consists of now."""
    inside: bool = False
    """Whether it prepares images as the platform does."""
    gated: bool = False
    """Whether it computes in INT8 or from JPEGs decoded smaller, which an accuracy gate has allowed."""


class Peer(NamedTuple):
    """A server somebody could use instead."""

    name: str
    module: str
    """Of `benchmarks.peers`, without its `on_`; its requirements and its environment are called the same."""
    request: Callable[[str, bytes], Request]
    """Of a model's name and what is to be sent."""
    share: dict[str, float]
    """Requests a second as a share of the bare loop (batch 1, two processes), by model, as found when its set-up was
    right. None is known where it is missing."""
    answer: Callable[[bytes], dict[str, Any]] = json.loads
    """What `Model.answer` gave, out of the reply."""


class Absent(Exception):
    """A peer cannot be measured; the message says why."""


def plain(_: str, body: bytes) -> Request:
    """The body as it is."""
    return Request("/predict", {"Content-Type": "application/octet-stream"}, body)


def form(_: str, body: bytes) -> Request:
    """The body as the file of a form."""
    mark = "bench-5ef2a1b0c3"
    head = (
        f'--{mark}\r\nContent-Disposition: form-data; name="body"; filename="body.jpg"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    content = head.encode() + body + f"\r\n--{mark}--\r\n".encode()
    return Request("/predict", {"Content-Type": f"multipart/form-data; boundary={mark}"}, content)


def open_inference(model: str, body: bytes) -> Request:
    """In the JSON of the Open Inference Protocol."""
    if model == NULL:
        given: dict[str, Any] = {"datatype": "UINT8", "shape": [1, len(body)], "data": list(body)}
    else:
        given = {"datatype": "BYTES", "shape": [1], "data": [base64.b64encode(body).decode()]}
    content = json.dumps({"inputs": [{"name": "body"} | given]}).encode()
    return Request("/v2/models/peer/infer", {"Content-Type": "application/json"}, content)


def _of_open_inference(reply: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.loads(reply)["outputs"][0]["data"][0])
    return found


def _to_mosec(model: str, body: bytes) -> Request:
    return plain(model, body)._replace(target="/inference")


PEERS = (
    Peer("FastAPI", "fastapi", plain, {SMALL: 203 / 283, LARGE: 15.9 / 22.2, NULL: 2706 / 36_000}),
    Peer("LitServe", "litserve", form, {SMALL: 149 / 283, LARGE: 17.9 / 22.2, NULL: 427 / 36_000}),
    Peer("mosec", "mosec", _to_mosec, {SMALL: 110 / 283, LARGE: 6.6 / 22.2, NULL: 3198 / 36_000}),
    Peer("BentoML", "bentoml", form, {SMALL: 161 / 283, LARGE: 17.3 / 22.2, NULL: 411 / 36_000}),
    Peer("Ray Serve", "ray", plain, {SMALL: 73 / 283, LARGE: 15.9 / 22.2, NULL: 116 / 36_000}),
    Peer("MLServer", "mlserver", open_inference, {}, _of_open_inference),
)


def install(peer: Peer) -> None:
    """Make its environment, or make it anew when its requirements have changed.

    Raises:
        Absent: It cannot be installed.
    """
    wanted = Path(__file__).with_name(f"{peer.module}.txt")
    folder = ENVIRONMENTS / peer.module
    stamp = folder / ".installed"
    if stamp.exists() and stamp.read_bytes() == wanted.read_bytes():
        return
    shutil.rmtree(folder, ignore_errors=True)
    print(f"installing {peer.name}", flush=True)
    steps = (
        [sys.executable, "-m", "venv", str(folder)],
        [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-input", "--requirement", str(wanted)],
    )
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, timeout=INSTALL_S, check=False)
        if done.returncode:
            raise Absent(f"it cannot be installed: {(done.stderr.strip() or done.stdout).splitlines()[-1][:200]}")
    shutil.copyfile(wanted, stamp)


@contextlib.contextmanager
def running(peer: Peer, subject: Subject) -> Iterator[Door]:
    """It serves a model, and has answered already; afterwards it is gone with all it started.

    Raises:
        Absent: It does not start.
    """
    port, mark = models.free_port(), uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="peer-") as folder:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment |= {MARK: mark, MODEL_ENV: str(subject.path), "TMPDIR": folder, "HOME": folder, **QUIET}
        log = Path(folder) / "log"
        with log.open("wb") as said:
            command = [str(ENVIRONMENTS / peer.module / "bin" / "python"), "-m", f"benchmarks.peers.on_{peer.module}"]
            process = subprocess.Popen(
                [*command, str(port)], cwd=ROOT, env=environment, stdout=said, stderr=said, start_new_session=True
            )
        try:
            door = Door(
                f"http://127.0.0.1:{port}",
                lambda body: peer.request(subject.name, body),
                peer.answer,
                lambda: _marked(mark),
            )
            _wait(process, door, subject.bodies[0], log)
            yield door
        finally:
            _end(process, mark)


QUIET = {
    "BENTOML_DO_NOT_TRACK": "true",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else Ray looks for another address than 127.0.0.1 for a minute
    "OMP_NUM_THREADS": "1",
}


def processor_s(processes: Sequence[psutil.Process]) -> float:
    """Processor time that they have used so far, those that are gone left out."""
    used_s = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used_s += times.user + times.system
    return used_s


def _wait(process: subprocess.Popen[bytes], door: Door, body: bytes, log: Path) -> None:
    """Until it answers."""
    end, request = time.monotonic() + START_S, door.request(body)
    said = ""
    while time.monotonic() < end and process.poll() is None:
        try:
            answer = httpx.post(
                door.address + request.target,
                content=request.body,
                headers=request.headers,
                timeout=FIRST_ASK_S,
            )
            if answer.is_success:
                return
            said = f"{answer.status_code} {answer.text[:200]}"
            if answer.status_code not in COMING_UP:
                break
        except httpx.TransportError as error:
            said = str(error)
        time.sleep(0.2)
    last = " ".join(log.read_text(errors="replace").splitlines()[-3:])[-300:]
    raise Absent(f"it does not answer ({said}); it said last: {last}")


def _end(process: subprocess.Popen[bytes], mark: str) -> None:
    """Ask it to stop, then end whatever is left of what it started."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    while left := _marked(mark):
        for other in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                other.kill()
        psutil.wait_procs(left, 1)
    process.wait()


def _marked(mark: str) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if _has(process, mark)]


def _has(process: psutil.Process, mark: str) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark)
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return False
