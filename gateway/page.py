"""The Prometheus page: every figure of the platform in one place. docs/METRICS.md lists them; a test compares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import get_args

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.host import HostFigures
from gateway.monitor import View
from gateway.tally import Histogram, Tally
from shared import config
from shared.gpu import Gpu
from shared.wire.messages import Status, WorkerState

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
MB = 2**20

Rows = Iterable[tuple[Sequence[str], float]]


class Page(Collector):
    """All metrics at one moment, for one rendering.

    Args:
        version: Of the platform.
        settings: In force.
        tally: What the gateway counted.
        status: The broker's last word.
        view: The last look around.
        names: Of the models there are, by id; others have no series.
    """

    def __init__(
        self,
        *,
        version: str,
        settings: config.Settings,
        tally: Tally,
        status: Status | None,
        view: View,
        names: Mapping[str, str],
    ) -> None:
        self._version, self._settings, self._names = version, settings, names
        self._tally, self._status, self._view = tally, status, view

    def render(self) -> bytes:
        """The page in Prometheus' text format."""
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """The metrics, in the order of docs/METRICS.md."""
        yield _gauge("cvp_build_info", "Always 1; the label is the version.", [([self._version], 1)], ["version"])
        yield from _http(self._tally)
        yield from _inference(self._tally)
        yield from _models(self._tally, self._names)
        yield from _lane(self._status, len(self._settings.inference_farm))
        yield from _broker(self._status, self._names)
        yield from _in_memory(self._status)
        yield from _probes(self._status, self._names)
        yield _counter(
            "cvp_inference_worker_events_total",
            "Inference processes that came (ready), left in order (left) or were lost (lost).",
            [([state], count) for state, count in list(self._tally.worker_events.items())],
            ["state"],
        )
        failing = self._tally.email_failure is not None
        yield _one("cvp_email_failing", "Whether the last e-mail about an alert was given up.", failing)
        yield from self._jobs()
        yield from _host(self._view.host)
        if self._view.gpus:
            yield from _gpus(self._view.gpus)

    def _jobs(self) -> Iterator[Metric]:
        counts = self._view.jobs
        yield _one("cvp_database_up", "Whether the database answered the last look.", counts is not None)
        yield _counter(
            "cvp_database_errors_total",
            "Calls the database refused, or that found too many others waiting for it.",
            [([], self._tally.database_errors)],
        )
        rows = [([row.kind, row.status], row.jobs) for row in counts or []]
        yield _gauge("cvp_jobs", "Jobs that wait or run.", rows, ["kind", "status"])
        yield _one("cvp_jobs_queued_limit", "Jobs that may wait (MAX_QUEUED_JOBS).", self._settings.max_queued_jobs)
        stale = len(self._view.stale)
        yield _one("cvp_deployments_stale", "Deployments activated on another machine or with another file.", stale)


def _http(tally: Tally) -> Iterator[Metric]:
    yield _counter(
        "cvp_http_requests_total",
        "Requests answered; status none: the client left before an answer.",
        [(labels, count) for labels, count in list(tally.http.items())],
        ["method", "route", "status"],
    )
    yield _histogram(
        "cvp_http_request_duration_seconds",
        "From the request's head to the end of its answer.",
        list(tally.http_s.items()),
        ["method", "route"],
    )


def _inference(tally: Tally) -> Iterator[Metric]:
    yield _counter(
        "cvp_inference_requests_total", "Predictions asked for by signed-in users.", [([], tally.predictions)]
    )
    yield _counter(
        "cvp_inference_errors_total",
        "Predictions refused or failed, by error code.",
        [([code], count) for code, count in list(tally.prediction_errors.items())],
        ["code"],
    )
    yield _histogram(
        "cvp_inference_duration_seconds",
        "Answered predictions by stage: queue, decode, inference, and total as the gateway saw it.",
        [((stage,), histogram) for stage, histogram in tally.stages_s.items()],
        ["stage"],
    )


def _models(tally: Tally, names: Mapping[str, str]) -> Iterator[Metric]:
    models = [
        ((model_id, names[model_id]), model) for model_id, model in list(tally.models.items()) if model_id in names
    ]
    label = ["model", "name"]
    yield _counter(
        "cvp_model_requests_total",
        "Predictions asked of a model.",
        [(who, model.requests) for who, model in models],
        label,
    )
    yield _counter(
        "cvp_model_errors_total",
        "Predictions of a model refused or failed, by error code.",
        [((*who, code), count) for who, model in models for code, count in list(model.errors.items())],
        [*label, "code"],
    )
    yield _histogram(
        "cvp_model_duration_seconds",
        "Answered predictions of a model by stage.",
        [((*who, stage), histogram) for who, model in models for stage, histogram in model.stages_s.items()],
        [*label, "stage"],
    )
    yield _counter(
        "cvp_model_batches_total",
        "Batches by why no more requests were in them: full, drained (none waited), alone (one whose last batch died).",
        [((*who, cut), count) for who, model in models for cut, count in model.batches.items()],
        [*label, "cut"],
    )
    yield _histogram(
        "cvp_model_batch_images",
        "Images in a batch.",
        [(who, model.batch_images) for who, model in models],
        label,
    )


def _broker(status: Status | None, names: Mapping[str, str]) -> Iterator[Metric]:
    """What the broker says of workers and of who waits."""
    if status is None:
        return
    states = [
        ([worker.worker_id, state], worker.state == state)
        for worker in status.workers
        for state in get_args(WorkerState)
    ]
    yield _gauge(
        "cvp_inference_worker_state",
        "1 for the state an inference process is in; failing: the last requests it had went wrong.",
        states,
        ["worker", "state"],
    )
    ages = [
        ([worker.worker_id], worker.success_age_ms / 1000)
        for worker in status.workers
        if worker.success_age_ms is not None
    ]
    yield _gauge("cvp_inference_worker_success_age_seconds", "Since it last answered a prediction.", ages, ["worker"])
    depths = [([model_id, names[model_id]], depth) for model_id, depth in status.waiting.items() if model_id in names]
    yield _gauge("cvp_model_queue_depth", "Predictions of a model that wait.", depths, ["model", "name"])
    yield _one("cvp_inference_callers_waiting", "API keys and users whose predictions wait.", status.callers)
    if status.images_per_s is not None:
        yield _one("cvp_inference_pace", "Images answered a second while predictions last waited.", status.images_per_s)


def _lane(status: Status | None, expected: int) -> Iterator[Metric]:
    yield _one("cvp_broker_up", "Whether the broker answers.", status is not None)
    yield _one("cvp_inference_workers_expected", "Inference processes that should be there.", expected)
    workers = status.workers if status else []
    refused = sum(bool(model.problem) for worker in workers for model in worker.models)
    yield _one("cvp_inference_workers", "Inference processes that are there.", len(workers))
    yield _one(
        "cvp_inference_workers_busy", "Inference processes with work.", sum(worker.busy > 0 for worker in workers)
    )
    yield _one(
        "cvp_deployments_refused", "Models in inference processes that cannot serve what was activated.", refused
    )
    if status is None:
        return
    yield _one("cvp_inference_queue_depth", "Predictions that wait.", status.depth)
    yield _one("cvp_inference_queue_limit", "Predictions that may wait (INFERENCE_QUEUE).", status.depth_limit)
    yield _one("cvp_inference_queue_bytes", "Bytes of those that wait.", status.queued_bytes)
    yield _one(
        "cvp_inference_queue_limit_bytes", "Bytes that may wait (INFERENCE_QUEUE_MB).", status.queued_bytes_limit
    )
    yield _one("cvp_inference_in_flight", "Predictions that workers hold.", status.in_flight)


def _in_memory(status: Status | None) -> Iterator[Metric]:
    workers = status.workers if status else []
    memory = [([worker.worker_id], worker.memory) for worker in workers]
    label = ["process"]
    yield _gauge(
        "cvp_models_loaded",
        "Models in memory, by inference process.",
        [([worker.worker_id], len(worker.models)) for worker in workers],
        label,
    )
    yield _gauge(
        "cvp_models_memory_bytes",
        "What they take, as measured when each was loaded.",
        [(name, one.used_mb * MB) for name, one in memory],
        label,
    )
    yield _gauge(
        "cvp_models_memory_limit_bytes",
        "What they may take: the process's part of INFERENCE_MEMORY_MB.",
        [(name, one.limit_mb * MB) for name, one in memory],
        label,
    )
    on_gpu = [(name, one) for name, one in memory if one.gpu_limit_mb]
    yield _gauge(
        "cvp_models_gpu_memory_bytes",
        "What they take of the GPU's memory.",
        [(name, one.gpu_used_mb * MB) for name, one in on_gpu],
        label,
    )
    yield _gauge(
        "cvp_models_gpu_memory_limit_bytes",
        "What they may take: the process's part of GPU_MEMORY_MB, or of all that the GPU has.",
        [(name, one.gpu_limit_mb * MB) for name, one in on_gpu],
        label,
    )
    yield _counter("cvp_model_loads_total", "Models loaded.", [(name, one.loads) for name, one in memory], label)
    yield _counter(
        "cvp_model_load_seconds_total", "Time that took.", [(name, one.load_s) for name, one in memory], label
    )
    yield _counter(
        "cvp_model_unloads_total",
        "Models that made room for others.",
        [(name, one.unloads) for name, one in memory],
        label,
    )
    cold: Rows = [] if status is None else [([], status.cold)]
    yield _counter("cvp_inference_cold_requests_total", "Predictions that waited until their model was loaded.", cold)
    left: Rows = [] if status is None else [([], status.cancelled)]
    yield _counter(
        "cvp_inference_cancelled_total", "Predictions that left the queue because their client had gone.", left
    )


def _probes(status: Status | None, names: Mapping[str, str]) -> Iterator[Metric]:
    """How each model does in each process that has it."""
    there = [
        ([model.model_id, names[model.model_id], worker.worker_id], model.health)
        for worker in (status.workers if status else [])
        for model in worker.models
        if model.model_id in names
    ]
    label = ["model", "name", "process"]
    yield _gauge(
        "cvp_model_success_age_seconds",
        "Since a model last answered a prediction in a process, passed a probe, or was loaded.",
        [(where, health.success_age_ms / 1000) for where, health in there],
        label,
    )
    yield _counter(
        "cvp_model_probes_total",
        "Probes of a model in memory that no prediction had shown to be well.",
        [
            ([*where, outcome], count)
            for where, health in there
            for outcome, count in (("passed", health.probes - health.failed_probes), ("failed", health.failed_probes))
        ],
        [*label, "outcome"],
    )


def _host(host: HostFigures) -> Iterator[Metric]:
    services = host.services.items()
    label = ["service"]
    yield _counter(
        "cvp_process_cpu_seconds_total",
        "Processor time by service, children of its jobs included.",
        [([name], service.cpu_s) for name, service in services],
        label,
    )
    yield _gauge(
        "cvp_process_resident_memory_bytes",
        "Resident memory by service; shared pages count for each process.",
        [([name], service.memory_bytes) for name, service in services],
        label,
    )
    yield _gauge("cvp_processes", "Live processes.", [([name], service.processes) for name, service in services], label)
    yield _one("cvp_host_cpu_ratio", "Use of all cores, 0 to 1, over the last seconds.", host.cpu_pct / 100)
    yield _one("cvp_host_memory_bytes", "Memory of the machine.", host.memory_bytes)
    yield _one("cvp_host_memory_available_bytes", "Memory that programs can still get.", host.memory_available_bytes)
    disks = host.disks.items()
    free = [([name], disk.free_bytes) for name, disk in disks]
    size = [([name], disk.size_bytes) for name, disk in disks]
    yield _gauge("cvp_disk_free_bytes", "Free on the disk of the database or a store of files.", free, ["store"])
    yield _gauge("cvp_disk_size_bytes", "Size of the disk behind it.", size, ["store"])
    writable = [([name], disk.writable) for name, disk in disks]
    yield _gauge("cvp_disk_writable", "1 while the folder can be written, 0 on a read-only disk.", writable, ["store"])


def _gpus(gpus: list[Gpu]) -> Iterator[Metric]:
    def family(name: str, told: str, field: str, scale: float = 1.0) -> Metric:
        values = [(str(gpu.index), getattr(gpu, field)) for gpu in gpus]
        return _gauge(name, told, [([index], value * scale) for index, value in values if value is not None], ["gpu"])

    yield family("cvp_gpu_utilization_ratio", "Time a kernel was running, 0 to 1.", "util_pct", 0.01)
    yield family("cvp_gpu_memory_used_bytes", "Memory in use.", "memory_used_mb", MB)
    yield family("cvp_gpu_memory_bytes", "Memory of the GPU.", "memory_total_mb", MB)
    yield family("cvp_gpu_power_watts", "Power drawn.", "power_w")
    yield family("cvp_gpu_temperature_celsius", "Temperature.", "temperature_c")


def _one(name: str, told: str, value: float) -> Metric:
    return _gauge(name, told, [([], value)])


def _gauge(name: str, told: str, rows: Rows, labels: Sequence[str] = ()) -> Metric:
    return _filled(GaugeMetricFamily(name, told, labels=labels), rows)


def _counter(name: str, told: str, rows: Rows, labels: Sequence[str] = ()) -> Metric:
    return _filled(CounterMetricFamily(name, told, labels=labels), rows)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, rows: Rows) -> Metric:
    for values, value in rows:
        family.add_metric(values, float(value))
    return family


def _histogram(name: str, told: str, rows: Iterable[tuple[Sequence[str], Histogram]], labels: Sequence[str]) -> Metric:
    family = HistogramMetricFamily(name, told, labels=labels)
    for values, histogram in rows:
        bounds = [*map(str, histogram.bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
        family.add_metric(values, buckets, histogram.total)
    return family
