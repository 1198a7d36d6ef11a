"""A whole platform for tests: real processes under a real supervisord, in a folder and on a port of its own."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from PIL import Image

from shared import config

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples" / "digits"
ADMIN_PASSWORD = "correct horse battery"


class Platform:
    """Starts with `cvp up`, is spoken to over HTTP, and is told apart from others by its folder."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.data_dir = data_dir
        self.url = f"http://127.0.0.1:{port}"
        self.env = os.environ | {
            "DATA_DIR": str(data_dir),
            "PORT": str(port),
            "CVP_ADMIN_PASSWORD": ADMIN_PASSWORD,
            "INFERENCE_WORKERS": "4",
            "INFERENCE_PROCESSES": str(min(4, config.cores())),  # as it would be counted: measuring takes seconds
            **settings,
        }

    def cvp(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the command as a person would."""
        done = subprocess.run(
            [sys.executable, "-m", "console.cli", *arguments],
            env=self.env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert not check or done.returncode == 0, f"cvp {' '.join(arguments)}:\n{done.stdout}{done.stderr}{self.logs()}"
        return done

    def logs(self) -> str:
        """The end of every log, for a failing test."""
        files = sorted((self.data_dir / "logs").glob("*"))
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}" for path in files)

    def login(self, username: str = "admin", password: str = ADMIN_PASSWORD) -> httpx.Client:
        """A client signed in as somebody."""
        answer = httpx.post(
            f"{self.url}/api/v1/auth/login", json={"username": username, "password": password}, timeout=30
        )
        assert answer.status_code in (200, 201), answer.text
        token = answer.json()["access_token"]
        return httpx.Client(base_url=f"{self.url}/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=60)

    def pids(self, module: str) -> list[int]:
        """Processes of this platform that run `python -m module`."""
        found = []
        for process in psutil.process_iter():
            try:
                line = process.cmdline()
                ours = "-m" in line and line[line.index("-m") + 1] == module
                if ours and process.environ().get("DATA_DIR") == str(self.data_dir):
                    found.append(process.pid)
            except (psutil.NoSuchProcess, psutil.AccessDenied, IndexError):
                continue
        return found

    def kill(self, module: str) -> int:
        """SIGKILL one process of a service; returns its pid."""
        pid = self.pids(module)[0]
        os.kill(pid, signal.SIGKILL)
        return pid

    def ready(self) -> bool:
        """Whether the platform says it is ready."""
        try:
            return httpx.get(f"{self.url}/api/v1/health/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False


def family(pid: int) -> list[psutil.Process]:
    """The processes of a worker's job; its scribe stays for as long as it does (and is its copy for an instant)."""
    worker = psutil.Process(pid)
    mine = worker.cmdline()
    lines = [(one, one.cmdline()) for one in worker.children(recursive=True)]
    return [one for one, line in lines if line != mine and "shared.scribe" not in line]


def wait_for(check: Callable[[], Any], within_s: float = 30.0, what: str = "it") -> Any:
    """Poll until `check()` gives something true, and return that."""
    end = time.monotonic() + within_s
    while not (got := check()):
        assert time.monotonic() < end, f"{what} did not come about within {within_s} s"
        time.sleep(0.05)
    return got


@contextmanager
def running(**settings: str) -> Iterator[Platform]:
    """A platform that is up with these settings, and gone afterwards."""
    data_dir = Path(tempfile.mkdtemp(prefix="cvp-test-"))
    platform = Platform(data_dir, **settings)
    try:
        platform.cvp("up")
        yield platform
    finally:
        platform.cvp("down", check=False)
        shutil.rmtree(data_dir, ignore_errors=True)


def upload_digits(client: httpx.Client, name: str = "digits") -> str:
    """Upload the example model with its contract and wait until it is ready."""
    answer = client.post(
        "/models",
        data={
            "name": name,
            "task_type": "classification",
            "preprocessing": (DIGITS / "preprocessing.json").read_text(),
            "labels": (DIGITS / "labels.json").read_text(),
        },
        files={"file": ("digits.onnx", (DIGITS / "digits.onnx").read_bytes())},
    )
    assert answer.status_code == 202, answer.text
    model_id = str(answer.json()["id"])
    assert settled(client, f"/models/{model_id}")["status"] == "ready"
    return model_id


def photograph(width: int = 320, height: int = 240) -> bytes:
    """A JPEG of something."""
    image = Image.radial_gradient("L").resize((width, height))
    buffer = io.BytesIO()
    Image.merge("RGB", (image, image.rotate(90), image.transpose(Image.Transpose.FLIP_TOP_BOTTOM))).save(buffer, "JPEG")
    return buffer.getvalue()


def settled(client: httpx.Client, path: str, within_s: float = 90.0) -> dict[str, Any]:
    """The resource once its status is final."""

    def final() -> dict[str, Any] | None:
        body: dict[str, Any] = client.get(path).raise_for_status().json()
        return body if body["status"] in ("ready", "completed", "failed", "cancelled") else None

    return dict(wait_for(final, within_s, path))
