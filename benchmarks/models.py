"""What the measurements need: the models they send, wrk as the load generator, a watcher of memory peaks."""

from __future__ import annotations

import re
import resource
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
SPATIAL = np.array([2, 3], dtype=np.int64)
SAMPLE_S = 0.02


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def digits_facts() -> dict[str, str]:
    """Form fields that go with the digits model."""
    return {
        "preprocessing": (DIGITS / "preprocessing.json").read_text(),
        "labels": (DIGITS / "labels.json").read_text(),
    }


def null_model() -> ModelProto:
    """The mean over the pixels of a 16x16 RGB image (768 bytes): what is left is the platform's own cost."""
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["image", "axes"], ["scores"], keepdims=0)],
        "null",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(SPATIAL, "axes")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What wrk saw."""

    requests: int
    requests_per_s: float
    errors: int
    note: str


def wrk(url: str, *, headers: Mapping[str, str], body: bytes, clients: int, seconds: int) -> Load:
    """POST `body` from `clients` keep-alive connections, each sending again as soon as it is answered (closed loop)."""
    if shutil.which("wrk") is None:
        raise SystemExit("wrk, the load generator, is missing: apt-get install wrk (make bench does it when root)")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        (Path(folder) / "body").write_bytes(body)
        lines = [f"wrk.headers[{name!r}] = {value!r}" for name, value in headers.items()]
        lines += ["wrk.method = 'POST'", f"wrk.body = io.open({str(Path(folder) / 'body')!r}, 'rb'):read('*a')"]
        script.write_text("\n".join(lines))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        said = subprocess.run(
            ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "10s", "--latency", "-s", str(script), url],
            capture_output=True,
            text=True,
            timeout=seconds + 60,
            check=True,
        ).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return _load(said, cpu_s / seconds)


def _load(said: str, wrk_cores: float) -> Load:
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    percentiles = dict(re.findall(r"^\s+(50|99)%\s+(\S+)$", said, re.MULTILINE))
    requests = re.search(r"(\d+) requests in", said)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    if requests is None or rate is None:
        raise SystemExit(f"wrk said something unexpected:\n{said}")
    return Load(
        requests=int(requests[1]),
        requests_per_s=float(rate[1]),
        errors=(int(refused[1]) if refused else 0) + (sum(map(int, broken.groups())) if broken else 0),
        note=f"P50 {percentiles.get('50')}, P99 {percentiles.get('99')}; wrk itself used {wrk_cores:.2f} cores",
    )


class Peak:
    """The highest value a reading had while the block ran."""

    def __init__(self, read: Callable[[], int]) -> None:
        self._read = read
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.highest = 0

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self.highest = max(self.highest, self._read())
