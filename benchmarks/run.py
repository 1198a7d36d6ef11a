"""`make bench`: the platform's own figures beside their goals, measured on a platform of its own in a temporary folder.

A figure short of its goal makes the run fail, unless `docs/KNOWN_GAPS.md` has a heading with the figure's name.
"""

from __future__ import annotations

import functools
import http.client
import io
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http import HTTPStatus
from pathlib import Path

import httpx
import msgspec
import onnx
import psutil
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks import backlog, lists, models
from inferencer.catalog import DatabaseCatalog
from shared import config, nets
from shared.db import connection
from shared.runtime import Runtime
from shared.specs import ConversionFacts

ROOT = Path(__file__).parents[1]
DIGITS = ROOT / "examples" / "digits"
GAPS = ROOT / "docs" / "KNOWN_GAPS.md"
MB = 1024 * 1024
UPLOAD_BYTES = 1_000_000_000
LATENCY_CALLS, LATENCY_ROUNDS = 200, 5
CLIENTS, LOAD_S = 100, 30
STARTS = 20
READY_WITHIN_S = 300.0
CONVERTED_WITHIN_S, CONVERSION_MB = 60, 2048


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table. No goal means the figure is only printed; no value, that it was not measured."""

    name: str
    value: float | None
    unit: str
    goal: float | None = None
    at_most: bool = True
    note: str = ""
    missing: bool = False
    """The platform cannot yet do what would be measured, so the goal is missed."""

    @property
    def met(self) -> bool:
        """Whether the goal, if any, is reached."""
        if self.goal is None or self.value is None:
            return not self.missing
        return self.value <= self.goal if self.at_most else self.value >= self.goal

    @property
    def measured(self) -> str:
        """Value and unit."""
        if self.value is None:
            return "not possible yet" if self.missing else "not measured"
        return f"{self.value:,.4g} {self.unit}"


class Platform:
    """A running platform in a folder of its own."""

    def __init__(self, data_dir: Path, port: int, **settings: str) -> None:
        self.env = os.environ | {"DATA_DIR": str(data_dir), "PORT": str(port), "PRESETS": "false"} | settings
        self.settings = config.load(self.env)
        self.up_s = self.up()
        key = self._python("-m", "gateway.admin", "key", "admin", "bench").strip().splitlines()[-1]
        self.headers = {"Authorization": f"Bearer {key}"}
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", headers=self.headers, timeout=600)

    def up(self) -> float:
        """Start every process; returns how many seconds it took."""
        started = time.monotonic()
        try:
            self._python("-m", "console.cli", "up")
        except BaseException:  # interrupted half-way: what runs already has to go as well
            self.down()
            raise
        return time.monotonic() - started

    def _python(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            env=self.env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def down(self) -> None:
        """Stop every process."""
        self._python("-m", "console.cli", "down")

    def processes(self) -> dict[str, list[psutil.Process]]:
        """Live processes by service module (`gateway`, `inferencer`, ...), children of jobs included."""
        found: dict[str, list[psutil.Process]] = {}
        data_dir = str(self.settings.root)
        for process in psutil.process_iter():
            try:
                if process.environ().get("DATA_DIR") != data_dir or process.pid == os.getpid():
                    continue
                line = process.cmdline()
            except (psutil.AccessDenied, psutil.NoSuchProcess):
                continue
            name = line[line.index("-m") + 1].split(".")[0] if "-m" in line else "supervisord"
            found.setdefault(name, []).append(process)
        return found

    def upload(self, path: Path, **fields: str) -> str:
        """Upload a model; returns its id."""
        data = {"name": path.stem, "task_type": "classification"} | fields
        with path.open("rb") as file:
            answer = self.http.post("/models", data=data, files={"file": (path.name, file)})
        answer.raise_for_status()
        return str(answer.json()["id"])

    def wait(
        self, path: str, until: Callable[[dict[str, object]], object], within_s: float = READY_WITHIN_S
    ) -> dict[str, object]:
        """Poll a resource until it is as wished."""
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            answer = self.http.get(path)
            answer.raise_for_status()
            body: dict[str, object] = answer.json()
            if body.get("status") in ("failed", "cancelled"):
                raise SystemExit(f"{path}: {body}")
            if until(body):
                return body
            time.sleep(0.1)
        raise SystemExit(f"{path} was not ready within {within_s:g} s")

    def ready(self, model_id: str) -> str:
        """Wait until a model is ready; returns its id."""
        self.wait(f"/models/{model_id}", lambda body: body["status"] == "ready")
        return model_id


@contextmanager
def platform(prepare: Callable[[Path], None] | None = None, **settings: str) -> Iterator[Platform]:
    """A platform that is gone, with its data, afterwards; `prepare` gets the path of its database before the start."""
    with tempfile.TemporaryDirectory(prefix="cvp-bench-") as folder:
        if prepare is not None:
            prepare(config.load({"DATA_DIR": folder}).db_file)
        running = Platform(Path(folder), models.free_port(), **settings)
        try:
            yield running
        finally:
            running.down()


def start_time(_: Platform) -> list[Figure]:
    """From `cvp up` on an empty folder to ready, with presets, as users start it."""
    with platform(PRESETS="true") as fresh:
        return [Figure(name="cvp up to ready", value=fresh.up_s, unit="s", goal=15)]


def memory(running: Platform) -> list[Figure]:
    """Proportional set size of all processes after a prediction and a benchmark."""
    model_id = running.ready(running.upload(DIGITS / "digits.onnx", **models.digits_facts()))
    predict(running, model_id, next((DIGITS / "held-out").glob("*.png")).read_bytes())
    order = {"model_id": model_id, "num_iterations": 100, "max_seconds": 5}
    answer = running.http.post("/benchmark", json=order)
    answer.raise_for_status()
    running.wait(f"/benchmark/{answer.json()['id']}", lambda body: body.get("report_id"))
    parts = {
        name: sum(process.memory_full_info().pss for process in group) / MB
        for name, group in running.processes().items()
    }
    note = ", ".join(f"{name} {pss:.0f}" for name, pss in sorted(parts.items(), key=lambda part: -part[1]))
    return [Figure(name="memory of the platform", value=sum(parts.values()), unit="MB (PSS)", goal=1536, note=note)]


def predict(running: Platform, model_id: str, image: bytes) -> dict[str, object]:
    """One prediction over HTTP."""
    answer = running.http.post(
        f"/inference/predict?model_id={model_id}", content=image, headers={"Content-Type": "image/png"}
    )
    answer.raise_for_status()
    body: dict[str, object] = answer.json()
    return body


def added_latency(running: Platform) -> list[Figure]:
    """HTTP prediction less a bare run of the same decode and engine, interleaved, one keep-alive client.

    The client is the standard library's: a comfortable one (httpx) costs more than the service adds.
    """
    model_id = str(running.http.get("/models?name=digits").json()["items"][0]["id"])
    image = next((DIGITS / "held-out").glob("*.png")).read_bytes()
    serving = DatabaseCatalog(running.settings).lookup(model_id)
    assert serving is not None
    runtime = Runtime(serving)
    runtime.activate()
    bare: list[float] = []
    served: list[float] = []
    for _ in range(LATENCY_ROUNDS):
        with closing(http.client.HTTPConnection("127.0.0.1", running.settings.port, timeout=60)) as client:
            served += timed(functools.partial(post, client, running, model_id, image))
        bare += timed(lambda: runtime.present(runtime.infer(runtime.decode([image]).feeds), 1, 5, False))
    runtime.deactivate()
    connection.database.close()
    added = statistics.median(served) - statistics.median(bare)
    spread = statistics.quantiles(served, n=20)
    note = f"bare {statistics.median(bare):.2f}, served {statistics.median(served):.2f} (P95 {spread[18]:.2f}) ms"
    return [Figure(name="added latency of a prediction", value=added, unit="ms (median)", goal=3, note=note)]


def post(client: http.client.HTTPConnection, running: Platform, model_id: str, image: bytes) -> None:
    """One prediction over a connection that is open already."""
    headers = running.headers | {"Content-Type": "image/png"}
    client.request("POST", f"/api/v1/inference/predict?model_id={model_id}", image, headers)
    answer = client.getresponse()
    body = answer.read()
    if answer.status != HTTPStatus.OK:
        raise SystemExit(body.decode())


def timed(call: Callable[[], object]) -> list[float]:
    """Milliseconds of `LATENCY_CALLS` calls, after a few that do not count."""
    for _ in range(10):
        call()
    taken = []
    for _ in range(LATENCY_CALLS):
        started = time.perf_counter_ns()
        call()
        taken.append((time.perf_counter_ns() - started) / 1e6)
    return taken


def null_model(running: Platform) -> list[Figure]:
    """100 keep-alive clients against a model that costs nothing; wrk is the load generator."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "null.onnx"
        path.write_bytes(models.null_model().SerializeToString())
        model_id = running.ready(running.upload(path))
    image = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 100, 50)).save(image, "PNG")
    predict(running, model_id, image.getvalue())
    report = models.wrk(
        f"http://127.0.0.1:{running.settings.port}",
        [f"/api/v1/inference/predict?model_id={model_id}"],
        headers=running.headers | {"Content-Type": "image/png"},
        bodies=[image.getvalue()],
        clients=CLIENTS,
        seconds=LOAD_S,
    )
    note = f"P50 {report.p50_ms:.0f}, P99 {report.p99_ms:.0f} ms; wrk itself used {report.cores:.2f} cores"
    return [
        Figure(name="null model, 100 clients", value=report.requests_per_s, unit="requests/s", note=note),
        Figure(name="null model, errors", value=report.errors, unit=f"of {report.requests}", goal=0),
    ]


def big_upload(running: Platform) -> list[Figure]:
    """1 GB through the gateway, watching its memory."""
    (gateway,) = running.processes()["gateway"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "big.onnx"
        _write_big(path)
        before = gateway.memory_full_info().uss
        with models.Peak(lambda: gateway.memory_full_info().uss) as peak:
            started = time.monotonic()
            model_id = running.upload(path)
            took = time.monotonic() - started
    running.ready(model_id)
    grown = (peak.highest - before) / MB
    note = f"{UPLOAD_BYTES / 1e6 / took:.0f} MB/s, then checked and ready in {time.monotonic() - started - took:.0f} s"
    running.http.delete(f"/models/{model_id}").raise_for_status()
    return [Figure(name="gateway growth, 1 GB upload", value=grown, unit="MB", goal=100, note=note)]


def accept_to_start(running: Platform) -> list[Figure]:
    """From the insertion of a job to its start, one at a time on an idle platform."""
    for _ in range(STARTS):
        running.ready(running.upload(DIGITS / "digits.onnx", **models.digits_facts()))
        time.sleep(0.3)  # idle again
    waits = sorted(backlog.waits_ms(running.settings.db_file)[-STARTS:])
    note = f"median {statistics.median(waits):.0f} ms of {len(waits)}"
    return [Figure(name="accept to start of a job", value=waits[-2], unit="ms (second worst)", goal=100, note=note)]


def job_queue(_: Platform) -> list[Figure]:
    """The queue by itself, on databases of its own."""
    inserts_s = backlog.inserts_s()
    claim_s, look_s = backlog.first_claim_s()
    restart_s, ready_s = backlog.restart_s()
    note = f"one look at the queue takes {1000 * look_s:.0f} ms"
    up_note = f"of the whole platform; `cvp up` says it is ready after {ready_s:.2f} s"
    return [
        Figure(name=f"{backlog.INSERTS:,} job inserts, FULL", value=inserts_s, unit="s"),
        Figure(name=f"worker start to claim, {backlog.QUEUED:,} queued", value=claim_s, unit="s", goal=3, note=note),
        Figure(name=f"cvp up to claim, {backlog.QUEUED:,} queued", value=restart_s, unit="s", goal=3, note=up_note),
    ]


def list_reads(_: Platform) -> list[Figure]:
    """Lists of many rows, on a platform of their own."""
    with platform(lists.fill) as running:
        loads = [_turn_pages(running, kind) for kind in lists.FILTERS]
    return [figure for pair in loads for figure in pair]


def _turn_pages(running: Platform, kind: str) -> list[Figure]:
    """Clients that ask for the next page the moment they have one."""
    (gateway,) = running.processes()["gateway"]
    targets = [f"/api/v1{page}" for page in lists.pages(running.http, kind)]
    before = gateway.cpu_times()
    load = models.wrk(
        f"http://127.0.0.1:{running.settings.port}",
        targets,
        headers=running.headers,
        clients=lists.CLIENTS,
        seconds=lists.SECONDS,
    )
    after = gateway.cpu_times()
    cpu_ms = 1000 * (after.user + after.system - before.user - before.system) / load.requests
    note = (
        f"P50 {load.p50_ms:.1f}, P99 {load.p99_ms:.1f}; {load.requests_per_s:.0f} requests/s, {cpu_ms:.2f} ms CPU each"
    )
    rows = lists.ROWS * (3 if kind == "jobs" else 1)
    name = f"{kind} list, {rows:,} rows, {lists.CLIENTS} clients"
    return [
        Figure(name=name, value=load.p95_ms, unit="ms (P95)", goal=50, note=note),
        Figure(name=f"{kind} list, errors", value=load.errors, unit="", goal=0),
    ]


def conversion(running: Platform) -> list[Figure]:
    """A ResNet50 of PyTorch, 100 MB, from its upload to a model that can be used.

    The goals: whoever waits for it stays at the screen, and a machine of 4 GB has the memory beside the platform.
    """
    ready, held = "ResNet50 .pth, upload to ready", "ResNet50 .pth, memory of its conversion"
    if nets.missing():
        note = "make setup-train"
        return [
            Figure(name=ready, value=None, unit="s", goal=CONVERTED_WITHIN_S, note=note),
            Figure(name=held, value=None, unit="MB", goal=CONVERSION_MB, note=note),
        ]
    import torch

    from shared.nets.architectures import build

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resnet50.pth"
        torch.save(build("resnet50").module.state_dict(), path)
        started = time.monotonic()
        model_id = running.upload(path, architecture="resnet50")
        model = running.wait(f"/models/{model_id}", lambda body: body["status"] == "ready")
    took_s = time.monotonic() - started
    facts = msgspec.convert(model["conversion"], ConversionFacts)
    apart = max(each.max_abs_diff for each in facts.parity)
    note = f"the conversion alone {facts.seconds:.1f} s; at most {apart:.1g} from its source"
    return [
        Figure(name=ready, value=took_s, unit="s", goal=CONVERTED_WITHIN_S, note=note),
        Figure(name=held, value=facts.peak_memory_mb, unit="MB", goal=CONVERSION_MB, note="resident, at most"),
    ]


def _write_big(path: Path) -> None:
    """A valid model of `UPLOAD_BYTES` bytes: an image's mean plus the mean of a great many weights."""
    count = UPLOAD_BYTES // 4 - 1024
    weights = TensorProto(name="weights", data_type=TensorProto.FLOAT, dims=[count], raw_data=bytes(4 * count))
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0),
            helper.make_node("ReduceMean", ["weights"], ["offset"], keepdims=0),
            helper.make_node("Add", ["mean", "offset"], ["scores"]),
        ],
        "big",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
        [weights, numpy_helper.from_array(models.SPATIAL, "axes")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def known_gaps() -> set[str]:
    """Names of the figures that are known to be short: headings of `docs/KNOWN_GAPS.md`."""
    return set(re.findall(r"^#+ (.+)$", GAPS.read_text(), re.MULTILINE)) if GAPS.exists() else set()


def show(figures: list[Figure]) -> bool:
    """Print the table; returns whether every goal is met or its gap is known."""
    gaps = known_gaps()
    table = Table(
        "figure", "measured", "goal", "", "remarks", title=f"{os.cpu_count()} cores, {time.strftime('%F %H:%M')}"
    )
    for figure in figures:
        goal = "" if figure.goal is None else f"{'≤' if figure.at_most else '≥'} {figure.goal:g}"
        judged = figure.goal is not None and (figure.value is not None or figure.missing)
        verdict = "" if not judged else "met" if figure.met else "known gap" if figure.name in gaps else "SHORT"
        table.add_row(figure.name, figure.measured, goal, verdict, figure.note)
    Console(width=150).print(table)
    return all(figure.met or figure.name in gaps for figure in figures)


def main() -> None:
    """Measure everything, one after the other."""
    figures: list[Figure] = []
    parts = (
        start_time,
        memory,
        accept_to_start,
        job_queue,
        added_latency,
        null_model,
        big_upload,
        list_reads,
        conversion,
    )
    with platform() as running:
        for part in parts:
            figures += part(running)
            print(f"{figures[-1].name}: {figures[-1].measured}", flush=True)
    sys.exit(0 if show(figures) else 1)


if __name__ == "__main__":
    main()
