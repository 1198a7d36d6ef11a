"""Spans of a real platform at a receiver of our own, which reads OTLP as a collector does."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from shared import config, trace
from tests.process.platform import DIGITS, ROOT, Platform, running, settled, wait_for

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]

TRACE_ID, CLIENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE_ID}-{CLIENT}-01", "X-Request-ID": "followed"}


class Receiver:
    """An OTLP endpoint over HTTP. `down` makes it answer 503."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        """`(service, span)` as they arrive."""
        self.down = False
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding"):
                    receiver.spans.append((f"coded: {self.headers['Content-Encoding']}", Span()))
                if not receiver.down:
                    receiver.take(self.path, body)
                self.send_response(503 if receiver.down else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"]
            self.spans += [(service, span) for scope in resource.scope_spans for span in scope.spans]

    def named(self, name: str) -> Span | None:
        """The newest span of our trace with that name."""
        found = [span for _, span in self.spans if span.name == name and span.trace_id.hex() == TRACE_ID]
        return found[-1] if found else None

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture(scope="module")
def platform(receiver: Receiver) -> Iterator[Platform]:
    with running(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_BSP_SCHEDULE_DELAY="100") as up:
        yield up


def predict(client: httpx.Client, model_id: str, image: bytes) -> httpx.Response:
    headers = HEADERS | {"Content-Type": "image/png"}
    return client.post(f"/inference/predict?model_id={model_id}", content=image, headers=headers)


def attributes(span: Span) -> dict[str, str | int | float]:
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in span.attributes}


def awaited(receiver: Receiver, name: str) -> Span:
    span = wait_for(lambda: receiver.named(name), 60, f"the span {name!r}")
    assert isinstance(span, Span)
    return span


def test_a_prediction_from_the_clients_span_down_to_the_engine(
    receiver: Receiver, admin: httpx.Client, digits: str
) -> None:
    image = next(iter(sorted((DIGITS / "held-out").glob("*.png")))).read_bytes()
    assert predict(admin, digits, image).status_code == 200
    request = awaited(receiver, "POST /api/v1/inference/predict")
    assert request.parent_span_id.hex() == CLIENT and request.kind == Span.SPAN_KIND_SERVER
    assert attributes(request)["http.response.status_code"] == 200
    parts = [awaited(receiver, name) for name in ("wait", "decode", "infer")]
    assert [part.parent_span_id for part in parts] == [request.span_id] * 3
    assert attributes(parts[2])["cvp.engine"] == "onnxruntime"
    assert {service for service, span in receiver.spans if span.span_id == parts[2].span_id} == {"inferencer"}
    assert str(attributes(parts[0])["cvp.request_id"]).startswith("followed.")
    moments = [parts[0].start_time_unix_nano, *(part.end_time_unix_nano for part in parts)]
    slack_ns = 50_000_000  # two processes, each with its own reading of the clock
    assert moments == sorted(moments)
    assert request.start_time_unix_nano - slack_ns <= moments[0] and moments[3] <= request.end_time_unix_nano + slack_ns


def test_a_job_its_process_and_the_report_under_the_request(
    receiver: Receiver, admin: httpx.Client, digits: str
) -> None:
    order = {"model_id": digits, "engines": ["onnxruntime"], "batch_sizes": [1], "num_iterations": 50, "max_seconds": 2}
    made = admin.post("/benchmark", json=order, headers=HEADERS).json()
    settled(admin, f"/benchmark/{made['id']}")
    request = awaited(receiver, "POST /api/v1/benchmark")
    for kind, module in (("benchmark", "benchmarker.child"), ("report", "reporter.write")):
        job, process = awaited(receiver, f"job {kind}"), awaited(receiver, f"process {module}")
        assert job.parent_span_id == request.span_id and process.parent_span_id == job.span_id
        assert attributes(job)["cvp.request_id"] == "followed" and attributes(job)["cvp.status"] == "completed"
        assert job.start_time_unix_nano <= process.start_time_unix_nano <= job.end_time_unix_nano
    services = {service for service, span in receiver.spans if span.trace_id.hex() == TRACE_ID}
    assert services >= {"gateway", "benchmarker", "reporter"}


def test_a_cancelled_job_is_a_failed_span(receiver: Receiver, admin: httpx.Client, digits: str) -> None:
    order = {"model_id": digits, "engines": ["onnxruntime"], "num_iterations": 100_000, "max_seconds": 600}
    job_id = admin.post("/benchmark", json=order, headers=HEADERS).json()["id"]
    wait_for(lambda: admin.get(f"/jobs/{job_id}").json()["status"] == "running", 30)
    admin.post(f"/benchmark/{job_id}/cancel")

    def ended() -> bool:
        span = receiver.named("job benchmark")
        return span is not None and attributes(span)["cvp.job_id"] == job_id

    wait_for(ended, 30, "its span")
    assert awaited(receiver, "job benchmark").status.code == Status.STATUS_CODE_ERROR


def test_a_receiver_that_is_away_hurts_nobody(
    receiver: Receiver, platform: Platform, admin: httpx.Client, digits: str
) -> None:
    image = next(iter(sorted((DIGITS / "held-out").glob("*.png")))).read_bytes()
    receiver.down = True
    try:
        assert {predict(admin, digits, image).status_code for _ in range(100)} == {200}
        assert platform.ready()
        began_s = time.monotonic()
        platform.cvp("restart", "reporter")
        assert time.monotonic() - began_s < 20, "the last spans are waited for, but not for long"
    finally:
        receiver.down = False


def test_nothing_is_imported_while_it_is_off() -> None:
    script = "import sys, gateway.__main__, inferencer.__main__, trainer.__main__, benchmarker.__main__; "
    script += "from shared import config, trace; "
    script += "config.load({}); span = trace.Span('a', None); span.note({'b': 1}); span.end(); "
    script += "sys.exit([name for name in sys.modules if name.startswith('opentelemetry')] != [])"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, cwd=ROOT, env=os.environ)


def test_a_span_that_is_not_exported_hands_on_its_parents_place() -> None:
    with trace.Span("outer", HEADERS["traceparent"]) as outer:
        assert outer.traceparent == trace.current() == HEADERS["traceparent"]
        with pytest.raises(ZeroDivisionError), trace.Span("inner", trace.current()):
            _ = 1 / 0
    assert trace.current() is None


def test_without_the_extra_the_setting_stops_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there = {"DATA_DIR": str(tmp_path), "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}
    assert config.load(there).otel_exporter_otlp_endpoint == "http://localhost:4318"
    monkeypatch.setattr(trace, "EXTRA", "opentelemetry.not_there.at_all")
    assert config.load({"DATA_DIR": str(tmp_path)})
    with pytest.raises(config.BadSetting) as refused:
        config.load(there)
    assert "[otel]" in refused.value.message and "OTEL_EXPORTER_OTLP_ENDPOINT" in refused.value.message
