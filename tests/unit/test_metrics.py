"""The figures of the platform: how they are counted, and that every one of them is documented."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from gateway.context import Context
from gateway.host import Host, service_of
from gateway.monitor import OURS, Monitor, View, minute
from gateway.page import Page
from gateway.store import Store
from gateway.tally import BOUNDS_S, MODELS, Tally, quantile
from shared import errors, gpu
from shared.db import connection, jobs
from shared.db.tables import Job
from shared.specs import ReportSpec
from shared.wire.messages import Done, Event, WorkerStatus
from tests.conftest import eventually
from tests.unit.gateway_kit import FakeBroker, Feed, Gateway, problem, ready_model

DOCS = Path(__file__).parents[2] / "docs" / "METRICS.md"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
CARD = gpu.Gpu(
    index=0, name="a card", util_pct=50.0, memory_used_mb=10, memory_total_mb=100, power_w=75.5, temperature_c=None
)


@pytest.fixture
def gateway(running: Gateway) -> Gateway:
    running.reset()
    running.context.tally.__init__()
    return running


def look(gateway: Gateway) -> View:
    return gateway.client.blocking_portal.call(gateway.context.monitor.look)


def page(gateway: Gateway, key: str | None = None) -> dict[str, Metric]:
    response = gateway.client.get("/metrics", headers={"X-API-Key": key or gateway.keys["engineer"]})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {family.name: family for family in text_string_to_metric_families(response.text)}


def value(families: dict[str, Metric], name: str, /, **labels: str) -> float:
    """The one sample of that name and these labels, among others."""
    [found] = [
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return found


def answered(**facts: Any) -> Done:
    known = {"engine": "onnxruntime", "precision": "fp32", "batch_size": 1}
    timed = {"queue_ms": 1.0, "decode_ms": 1.0, "inference_ms": 1.0}
    return Done(request_id="r", **known | timed | facts)


# --- counting ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.0001, 59.9), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(durations: list[float], q: float) -> None:
    tally = Tally()
    for duration in durations:
        tally.stages_s["total"].add(duration)
    counts = tally.stages_s["total"].counts
    assert sum(counts) == len(durations)
    estimate = quantile(counts, q)
    rank = next(rank for rank in range(1, len(durations) + 1) if rank >= q * len(durations))
    true = sorted(durations)[rank - 1]
    above = next(bound for bound in BOUNDS_S if bound >= true)
    below = max([0.0, *(bound for bound in BOUNDS_S if bound < true)])
    assert estimate is not None and below <= estimate <= above * (1 + 1e-9)


def test_a_quantile_of_nothing_and_of_the_longest() -> None:
    assert quantile([0] * (len(BOUNDS_S) + 1), 0.5) is None
    assert quantile([0] * len(BOUNDS_S) + [3], 0.5) == BOUNDS_S[-1]


def test_a_minute_is_the_difference_of_two_marks() -> None:
    tally = Tally()
    for _ in range(7):
        tally.answered("GET", "/api/v1/jobs", 500, 0.01)
    before = tally.mark(100.0, OURS)
    for status in (200, 200, 404, 503):
        tally.answered("GET", "/api/v1/jobs", status, 0.01)
    for code in ("invalid", "queue_full", "unavailable", "internal"):
        tally.prediction_failed(code)
    for _ in range(4):
        tally.predicted("mdl_1", answered(queue_ms=1.5, decode_ms=0.5, inference_ms=6.0), 9.0)
    last = minute(before, tally.mark(110.0, OURS))
    assert (last.http_per_s, last.http_error_rate) == (0.4, 0.25)
    assert (last.predictions, last.predictions_per_s, last.refused_full) == (8, 0.8, 1)
    assert last.prediction_error_rate == 0.25, "what the client did wrong, and a full queue, are not failures of ours"
    p95 = last.latency["inference"].p95_ms
    assert p95 is not None and 5 < p95 <= 10


def test_a_model_has_a_minute_of_its_own() -> None:
    tally = Tally()
    tally.predicted("before", answered(), 9.0)
    before = tally.mark(100.0, OURS)
    for number in range(8):
        tally.predicted("mdl_1", answered(inference_ms=6.0, batch_size=4, cut="full" if number % 4 == 0 else None), 9.0)
    tally.prediction_failed("bad_image", "mdl_1")
    last = minute(before, tally.mark(110.0, OURS))
    assert (last.models["mdl_1"].per_s, last.models["before"].per_s) == (0.9, 0.0)
    p95 = last.models["mdl_1"].latency["inference"].p95_ms
    assert p95 is not None and 5 < p95 <= 10
    assert last.models["before"].latency["inference"].p95_ms is None
    model = tally.models["mdl_1"]
    assert (model.batches["full"], model.batch_images.total, sum(model.batch_images.counts)) == (2, 8, 2)


def test_models_with_figures_are_bounded_and_the_one_left_alone_loses_them() -> None:
    tally = Tally()
    for number in range(MODELS):
        tally.predicted(f"mdl_{number}", answered(), 9.0)
    before = tally.mark(100.0, OURS)
    tally.prediction_failed("bad_image", "mdl_0")
    tally.predicted("another", answered(), 9.0)
    assert len(tally.models) == MODELS
    assert "mdl_0" in tally.models and "mdl_1" not in tally.models
    tally.predicted("mdl_1", answered(), 9.0)
    assert minute(before, tally.mark(110.0, OURS)).models["mdl_1"].per_s == 0.0, "it has new figures, from nothing"


def test_strangers_cannot_make_series(gateway: Gateway) -> None:
    for index in range(20):
        gateway.client.request("GET", f"/nothing/{index}")
        gateway.client.request(f"M{index}", "/api/v1/models")
    routes = {(labels.method, labels.route) for labels in gateway.context.tally.http}
    assert routes == {("GET", "other"), ("other", "other")}


def test_a_client_that_left_before_an_answer() -> None:
    tally = Tally()
    tally.answered("POST", "/api/v1/models", 0, 3.0)
    assert [labels.status for labels in tally.http] == ["none"]


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_counts_requests_by_template(gateway: Gateway) -> None:
    for job_id in ("a", "b"):
        gateway.get(f"/jobs/{job_id}")
    labels = {"method": "GET", "route": "/api/v1/jobs/{job_id}"}
    families = page(gateway)
    assert value(families, "cvp_http_requests_total", **labels, status="4xx") == 2
    assert value(families, "cvp_http_request_duration_seconds_count", **labels) == 2
    assert value(families, "cvp_http_request_duration_seconds_bucket", **labels, le="+Inf") == 2


def test_the_page_counts_predictions_and_their_errors(gateway: Gateway) -> None:
    model_id = ready_model(gateway)
    gateway.refresh()
    for content in (PNG, PNG, b"no image"):
        gateway.post(f"/inference/predict?model_id={model_id}", role="viewer", content=content)
    gateway.broker.failure = errors.QueueFull("full")
    gateway.post(f"/inference/predict?model_id={model_id}", role="viewer", content=PNG)
    gateway.post("/inference/predict", role=None, content=PNG)
    families = page(gateway)
    assert value(families, "cvp_inference_requests_total") == 4, "who did not sign in has asked for nothing"
    assert value(families, "cvp_inference_errors_total", code="bad_image") == 1
    assert value(families, "cvp_inference_errors_total", code="queue_full") == 1
    assert value(families, "cvp_inference_errors_total", code="unavailable") == 0, "there before its first error"
    assert value(families, "cvp_inference_duration_seconds_count", stage="decode") == 2
    assert value(families, "cvp_inference_duration_seconds_sum", stage="decode") == pytest.approx(0.004)


def test_the_page_shows_each_model_and_forgets_those_that_are_gone(gateway: Gateway) -> None:
    model_id = ready_model(gateway)
    gateway.refresh()
    gateway.broker.cut = "drained"
    for content in (PNG, PNG, b"no image"):
        gateway.post(f"/inference/predict?model_id={model_id}", role="viewer", content=content)
    families, who = page(gateway), {"model": model_id, "name": "digits"}
    assert value(families, "cvp_model_requests_total", **who) == 3
    assert value(families, "cvp_model_errors_total", **who, code="bad_image") == 1
    assert value(families, "cvp_model_duration_seconds_count", **who, stage="total") == 2
    assert value(families, "cvp_model_batches_total", **who, cut="drained") == 2
    assert value(families, "cvp_model_batches_total", **who, cut="full") == 0
    assert value(families, "cvp_model_batch_images_bucket", **who, le="2") == 2
    gateway.delete(f"/models/{model_id}")
    gateway.refresh()
    assert not page(gateway)["cvp_model_requests"].samples


def test_the_page_shows_who_does_well_and_who_waits(gateway: Gateway) -> None:
    model_id = ready_model(gateway)
    gateway.refresh()
    gateway.broker.waiting = {model_id: 3}
    gateway.broker.workers = [
        WorkerStatus(worker_id="a", busy=1, credit=1, silent_ms=900, answered=3, success_age_ms=1500),
        WorkerStatus(worker_id="b", busy=1, credit=1, silent_ms=900, failing=True),
        WorkerStatus(worker_id="c", busy=1, credit=1, silent_ms=3100),
        WorkerStatus(worker_id="d", busy=0, credit=1, silent_ms=0),
    ]
    families = page(gateway)
    states = {
        worker: [
            sample.labels["state"]
            for sample in families["cvp_inference_worker_state"].samples
            if sample.labels["worker"] == worker and sample.value
        ]
        for worker in "abcd"
    }
    assert states == {"a": ["busy"], "b": ["failing"], "c": ["silent"], "d": ["idle"]}
    assert value(families, "cvp_inference_worker_success_age_seconds", worker="a") == 1.5
    assert value(families, "cvp_model_queue_depth", model=model_id) == 3
    health = gateway.get("/inference/health").json()
    assert health["status"] == "degraded"
    assert [process["state"] for process in health["processes"]] == ["busy", "failing", "silent", "idle"]
    assert health["waiting"]["models"] == {model_id: 3}
    told = gateway.get("/health").json()["components"]["inference"]["detail"]
    assert told.endswith("b is failing, c is silent")
    gateway.broker.workers = gateway.broker.workers[1:3]
    assert gateway.get("/inference/health").json()["status"] == "down"


def test_the_page_shows_lane_and_jobs(gateway: Gateway) -> None:
    add_jobs(gateway, queued=2, running=1)
    look(gateway)
    families = page(gateway)
    assert value(families, "cvp_jobs", kind="report", status="queued") == 2
    assert value(families, "cvp_jobs", kind="report", status="running") == 1
    assert value(families, "cvp_inference_queue_depth") == 3
    assert value(families, "cvp_inference_workers") == value(families, "cvp_inference_workers_busy") == 1
    assert value(families, "cvp_broker_up") == value(families, "cvp_database_up") == 1


def test_the_page_says_what_is_away(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> list[jobs.Count]:
        raise errors.Unavailable("The database cannot be used right now.")

    monkeypatch.setattr(jobs, "open_counts", away)
    gateway.broker.alive = False
    look(gateway)
    families = page(gateway)
    assert value(families, "cvp_broker_up") == value(families, "cvp_database_up") == 0
    assert value(families, "cvp_database_errors_total") == 1
    assert "cvp_inference_queue_depth" not in families and not families["cvp_jobs"].samples
    assert gateway.get("/metrics").json()["jobs"] is None
    monkeypatch.undo()
    look(gateway)


def test_inference_processes_that_come_and_go_are_counted(gateway: Gateway) -> None:
    for state in ("ready", "lost", "ready"):
        event = Event(seq=1, boot_id="b", topic="workers", time="", body={"worker_id": "w", "state": state})
        gateway.client.blocking_portal.call(gateway.context._feed.put, event)
    eventually(lambda: gateway.context.tally.worker_events == Counter(ready=2, lost=1))


def test_the_token_for_prometheus_opens_its_page_and_nothing_else(gateway: Gateway) -> None:
    settings = msgspec.structs.replace(gateway.context.settings, metrics_token="scrape-me")
    gate = gateway.context.gate
    gate._metrics_token = Context(settings, FakeBroker(), Feed()).gate._metrics_token
    try:
        assert gateway.client.get("/metrics", headers={"Authorization": "Bearer scrape-me"}).status_code == 200
        problem(gateway.client.get("/metrics", headers={"Authorization": "Bearer scrape-m"}), 401, "unauthorized")
        problem(gateway.client.get("/metrics"), 401, "unauthorized")
        for path in ("/api/v1/metrics", "/api/v1/jobs"):
            problem(gateway.client.get(path, headers={"Authorization": "Bearer scrape-me"}), 401, "unauthorized")
    finally:
        gate._metrics_token = b""
    problem(gateway.client.get("/metrics", headers={"Authorization": "Bearer "}), 401, "unauthorized")


def test_the_token_stays_hidden(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICS_TOKEN", "scrape-me")
    assert "scrape-me" not in gateway.get("/config").text


# --- the JSON ---------------------------------------------------------------------------------------------------------


def test_the_json_has_the_documented_shape(gateway: Gateway) -> None:
    model_id = ready_model(gateway)
    gateway.refresh()
    gateway.post(f"/inference/predict?model_id={model_id}", content=PNG)
    add_jobs(gateway, queued=2, running=1)
    look(gateway)
    figures = gateway.get("/metrics").json()
    assert set(figures) == {"jobs", "inference", "gpu", "cpu", "memory", "disk", "http"}
    assert figures["jobs"] == {"active": 1, "queued": {"report": 2}}
    inference = figures["inference"]
    assert (inference["requests"], inference["errors"], inference["queue"]["depth"]) == (1, {}, 3)
    assert set(inference["latency_ms"]) == {"queue", "decode", "inference", "total"}
    assert inference["rate"] > 0 and 1 < inference["latency_ms"]["decode"]["p95"] <= 2.5
    assert figures["cpu"]["cores"] >= 1 and figures["memory"]["available_mb"] > 0
    assert figures["http"]["rate"] > 0 and figures["http"]["error_rate"] == 0


def test_without_a_gpu_there_are_no_figures_of_one(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "figures", lambda: None)
    look(gateway)
    assert gateway.get("/metrics").json()["gpu"] is None
    assert not [name for name in page(gateway) if name.startswith("cvp_gpu")]
    monkeypatch.setattr(gpu, "figures", lambda: [CARD])
    look(gateway)
    assert gateway.get("/metrics").json()["gpu"] == [msgspec.to_builtins(CARD)]
    families = page(gateway)
    assert value(families, "cvp_gpu_utilization_ratio", gpu="0") == 0.5
    assert value(families, "cvp_gpu_memory_used_bytes", gpu="0") == 10 * 2**20
    assert not families["cvp_gpu_temperature_celsius"].samples, "what the card does not tell is not made up"


# --- the machine ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "service"),
    [
        (["/usr/bin/python3.11", "-m", "gateway"], "gateway"),
        (["python", "-m", "inferencer", "1"], "inferencer"),
        (["python", "-m", "benchmarker.child"], "benchmarker"),
        (["python", "-m", "trainer.enclosed"], "trainer"),
        (["/v/bin/python", "/v/bin/supervisord", "-c", "x"], "supervisord"),
        (["/v/bin/python", "-P", "-m", "supervisor.supervisord", "-c", "x"], "supervisord"),
        (["python", "-m", "http.server"], "other"),
        (["sh", "-m"], "other"),
        ([], "other"),
    ],
)
def test_processes_count_for_their_service(command: list[str], service: str) -> None:
    assert service_of(command) == service


def test_processor_time_never_falls_when_a_process_ends(tmp_path: Path) -> None:
    host = Host({"database": tmp_path})
    before = host.look()
    code = "x = sum(range(10**7)); print('done', flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"done\n"
    during = host.look()
    child.communicate(b"\n", timeout=10)
    after = host.look()
    assert during.services["other"].processes == before.services["other"].processes + 1
    assert during.services["other"].cpu_s > before.services["other"].cpu_s
    assert after.services["other"].cpu_s >= during.services["other"].cpu_s
    assert after.services["other"].processes == before.services["other"].processes
    assert after.disks["database"].free_bytes > 0


def test_a_machine_that_cannot_be_looked_at_is_logged_and_looked_at_again(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gateway.monitor.LOOK_S", 0.01)
    tally = Tally()
    monitor = Monitor(gateway.context.settings, Store(tally), tally)
    kept = gateway.context.settings.reports.rename(gateway.folder / "elsewhere")

    async def main() -> None:
        keeping = asyncio.create_task(monitor.keep())
        async with asyncio.timeout(5):
            while "cannot be looked at" not in caplog.text:
                await asyncio.sleep(0.01)
            kept.rename(gateway.context.settings.reports)
            while monitor._view is None:
                await asyncio.sleep(0.01)
        keeping.cancel()

    asyncio.run(main())


class Nvml:
    """NVIDIA's library as `shared.gpu` calls it, with a card that does not tell its temperature."""

    NVML_TEMPERATURE_GPU = 0
    NVML_TOTAL_POWER_SAMPLES, NVML_GPU_UTILIZATION_SAMPLES = 0, 1

    class NVMLError(Exception):
        """Anything it cannot do."""

    def __init__(self) -> None:
        self.open = 0
        self.used, self.energy_mj = 10 * 2**20, 0
        self.ours: int | None = None
        self.samples: dict[int, list[int]] = {}
        self.handles: list[object] = []

    def nvmlDeviceGetHandleByIndex(self, index: int | str) -> str:
        self.handles.append(index)
        return "handle"

    nvmlDeviceGetHandleByUUID = nvmlDeviceGetHandleByIndex

    def nvmlDeviceGetTotalEnergyConsumption(self, _handle: str) -> int:
        return self.energy_mj

    def nvmlDeviceGetSamples(self, _handle: str, kind: int, _since_us: int) -> tuple[int, list[Any]]:
        if kind not in self.samples:
            raise self.NVMLError("not found")
        return 1, [SimpleNamespace(sampleValue=SimpleNamespace(uiVal=value)) for value in self.samples[kind]]

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def __getattr__(self, name: str) -> Any:
        answers = {
            "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetName": "a card",
            "nvmlSystemGetDriverVersion": "1.2",
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=50),
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=self.used, total=100 * 2**20),
            "nvmlDeviceGetPowerUsage": 75_500,
            "nvmlDeviceGetComputeRunningProcesses": [
                SimpleNamespace(pid=pid, usedGpuMemory=used)
                for pid, used in ((1, 5 * 2**20), (2, None), (os.getpid(), self.ours))
            ],
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0x21,  # idle and hot
        }

        def call(*_: Any) -> Any:
            if name not in answers:
                raise self.NVMLError("not supported")
            return answers[name]

        return call


def test_a_gpu_is_read_figure_by_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert gpu.figures() == [CARD]
    assert gpu.described() == "a card, driver 1.2"
    assert gpu.use() == gpu.Use(processes=2, slowed_by=["heat"])
    assert library.open == 0


def test_a_meter_tells_what_came_into_use_and_how_much_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Nvml()
    library.samples = {library.NVML_GPU_UTILIZATION_SAMPLES: [40, 60], library.NVML_TOTAL_POWER_SAMPLES: [80_000]}
    monkeypatch.setitem(sys.modules, "pynvml", library)
    now = iter([100.0, 100.5, 110.0, 114.0])
    monkeypatch.setattr(gpu.time, "monotonic", lambda: next(now))
    meter = gpu.Meter()
    assert meter.read() == gpu.Drawn(), "nothing was begun"
    meter.start()
    library.used, library.energy_mj = 30 * 2**20, 600_000
    assert meter.read() == gpu.Drawn(util_pct=50, vram_mb=20, power_w=80), "too short for the counter of energy"
    meter.start()
    library.energy_mj += 600_000
    assert meter.read() == gpu.Drawn(util_pct=50, vram_mb=20, power_w=150)
    assert library.open == 0


def test_a_meter_leaves_out_what_the_card_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in (Nvml(), None):
        monkeypatch.setitem(sys.modules, "pynvml", library)
        meter = gpu.Meter()
        meter.start()
        drawn = meter.read()
        assert (drawn.util_pct, drawn.power_w) == (None, None)
        assert drawn.vram_mb == (None if library is None else 0)


def test_memory_that_a_process_takes_is_its_own_or_where_that_is_not_told_the_whole_device_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert gpu.total_mb() == 100
    nothing = gpu.taken()
    assert nothing == gpu.Taken(here_mb=None, by_all_mb=10)
    library.used = 40 * 2**20
    assert gpu.grown_mb(nothing, gpu.taken()) == 30
    library.ours = 8 * 2**20
    first = gpu.taken()
    assert gpu.grown_mb(nothing, first) == 8, "the rest is somebody else's"
    library.ours, library.used = 11 * 2**20, 90 * 2**20
    assert gpu.grown_mb(first, gpu.taken()) == 3
    assert gpu.grown_mb(gpu.taken(), first) == 0
    assert gpu.grown_mb(nothing, gpu.Taken(None, None)) is None
    assert gpu.grown_mb(None, first) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert (gpu.taken(), gpu.total_mb()) == (None, None)
    assert library.open == 0


@pytest.mark.parametrize(("visible", "asked"), [("", 0), ("1,0", 1), ("GPU-1234", "GPU-1234"), ("-1", 0)])
def test_the_gpu_that_is_read_is_the_one_that_engines_see(
    monkeypatch: pytest.MonkeyPatch, visible: str, asked: object
) -> None:
    library = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    gpu.described()
    assert library.handles == [asked]


def test_a_driver_that_is_not_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Nvml()

    def no_driver() -> None:
        raise library.NVMLError("driver not loaded")

    monkeypatch.setattr(library, "nvmlInit", no_driver)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert (gpu.figures(), gpu.described(), gpu.use()) == (None, None, None)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert (gpu.figures(), gpu.described(), gpu.use()) == (None, None, None)


# --- documentation ----------------------------------------------------------------------------------------------------


def test_every_metric_is_documented_and_every_documented_one_is_there(gateway: Gateway) -> None:
    context = gateway.context
    context.tally.answered("GET", "/api/v1/jobs", 200, 0.1)
    view = msgspec.structs.replace(look(gateway), gpus=[CARD])
    sent = {
        (_name(family), family.type, ", ".join(sorted(_labels(family))))
        for family in Page(
            version="1",
            settings=context.settings,
            tally=_full(context.tally),
            status=context.broker.status()[0],
            view=view,
            names={"mdl_1": "digits"},
        ).collect()
    }
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| \S", DOCS.read_text(), re.MULTILINE)
    written = {(name, kind, labels.replace("`", "").strip()) for name, kind, labels in rows}
    assert sent - written == set(), "say in docs/METRICS.md what they mean"
    assert written - sent == set(), "these are in docs/METRICS.md and nowhere else"


def _full(tally: Tally) -> Tally:
    tally.prediction_failed("invalid", "mdl_1")
    tally.worker_events["ready"] += 1
    return tally


def _name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


def _labels(family: Metric) -> set[str]:
    names: tuple[str, ...] = family._labelnames
    return set(names)


def add_jobs(gateway: Gateway, *, queued: int, running: int) -> None:
    from shared.db import accounts

    owner = accounts.by_name("a-engineer")
    assert owner is not None
    with connection.write():
        ids = [
            jobs.insert("report", ReportSpec(benchmark_id="b"), user_id=owner[0].id) for _ in range(queued + running)
        ]
        Job.update(status="running", worker="w", attempt=1, started_at_ms=1).where(Job.id.in_(ids[:running])).execute()
