"""What the measurements need: the models they send, wrk as the load generator, a watcher of memory peaks."""

from __future__ import annotations

import re
import resource
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
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
    """What wrk saw; times in milliseconds."""

    requests: int
    requests_per_s: float
    errors: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cores: float
    """What wrk itself used."""


SCRIPT = """
local targets, files, ready, at = { %(targets)s }, { %(files)s }, {}, 0
init = function()
  for i = 1, math.max(#targets, #files) do
    local body = #files > 0 and io.open(files[(i - 1) %% #files + 1], 'rb'):read('*a') or nil
    ready[i] = wrk.format(nil, targets[(i - 1) %% #targets + 1], nil, body)
  end
end
request = function()
  at = at %% #ready + 1
  return ready[at]
end
done = function(summary, latency, requests)
  local broken = summary.errors
  io.write(string.format('{"requests":%%d,"requests_per_s":%%f,"errors":%%d,"p50_ms":%%f,"p95_ms":%%f,"p99_ms":%%f}',
    summary.requests, summary.requests / summary.duration * 1e6,
    broken.connect + broken.read + broken.write + broken.timeout + broken.status,
    latency:percentile(50) / 1000, latency:percentile(95) / 1000, latency:percentile(99) / 1000))
end
"""


def wrk(
    address: str,
    targets: Sequence[str],
    *,
    headers: Mapping[str, str],
    clients: int,
    seconds: int,
    bodies: Sequence[bytes] = (),
    timeout_s: int = 10,
) -> Load:
    """Ask for `targets` in turn from `clients` keep-alive connections; POST where there are bodies, in turn as well.

    Each connection sends again as soon as it is answered.
    """
    if shutil.which("wrk") is None:
        raise SystemExit("wrk, the load generator, is missing: apt-get install wrk (make bench does it when root)")
    with tempfile.TemporaryDirectory() as folder:
        lines = [f"wrk.headers[{name!r}] = {value!r}" for name, value in headers.items()]
        files = [Path(folder) / f"body-{number}" for number in range(len(bodies))]
        for file, body in zip(files, bodies, strict=True):
            file.write_bytes(body)
        if bodies:
            lines.append("wrk.method = 'POST'")
        quoted = {"targets": ", ".join(map(repr, targets)), "files": ", ".join(repr(str(file)) for file in files)}
        lines.append(SCRIPT % quoted)
        (Path(folder) / "load.lua").write_text("\n".join(lines))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", f"--timeout={timeout_s}s"]
        command += [f"--script={folder}/load.lua", address]
        said = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=True).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if (found := re.search(r"^\{.*\}$", said, re.MULTILINE)) is None:
        raise SystemExit(f"wrk said something unexpected:\n{said}")
    return msgspec.convert(msgspec.json.decode(found[0]) | {"cores": cpu_s / seconds}, Load)


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
