"""The service under load in a report: figures from the raw series, sentences from the figures."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from reporter.service import service_facts
from shared.specs import LoadFailures, Loop, MeasuredService, Served
from shared.verdict.intervals import percentile
from shared.verdict.report import build, canonical, verify
from shared.verdict.service import loop_record, service_record
from tests.unit.measurements import measurement_set


def a_loop(n: int = 1000, *, every: int = 1, stall: bool = False) -> Loop:
    """So many answers in ten seconds, 2 to 4 ms each; with a stall, a tenth of the time 500 ms."""
    draw = np.random.default_rng(1)
    due = np.sort(draw.integers(0, 10_000_000_000, n))
    took = draw.integers(2_000_000, 4_000_000, n)
    if stall:
        took = np.where((due > 3e9) & (due < 4e9), draw.integers(400_000_000, 600_000_000, n), took)
    refused = LoadFailures(code="queue_full", status=429, example="Full.", count=7, first_ns=1, last_ns=2)
    silent = LoadFailures(code="no answer", status=None, example="Gone.", count=3, first_ns=1, last_ns=2)
    return Loop(
        kind="open",
        users=10,
        rate=n / 10,
        elapsed_ns=10_000_000_000,
        sent=n * every + 10,
        answered=n * every,
        served=[Served(engine="onnxruntime", precision="fp32", batch_size=4, answers=n * every)],
        failures=[refused, silent],
        every=every,
        scheduled_ns=due.tolist(),
        latencies_ns=took.tolist(),
        late_ns=[100_000] * n,
        queue_us=[500] * n,
        decode_us=[200] * n,
        inference_us=[900] * n,
        cpu_s=2.5,
    )


def test_figures_of_a_loop() -> None:
    found = loop_record(a_loop())
    assert (found.sent, found.answered, found.refused, found.failed) == (1010, 1000, 7, 3)
    assert found.throughput_per_s.value == pytest.approx(100)
    assert found.generator_cores == pytest.approx(0.25)
    assert found.latency_p50_ms.value == pytest.approx(3.0, abs=0.1)
    assert (found.queue_p50_ms.value, found.decode_p50_ms.value, found.inference_p50_ms.value) == (0.5, 0.2, 0.9)
    assert found.late_p99_ms == pytest.approx(0.1)
    for metric in (found.latency_p50_ms, found.latency_p95_ms, found.latency_p99_ms, found.throughput_per_s):
        assert metric.value is not None and metric.low is not None and metric.high is not None
        assert metric.low <= metric.value <= metric.high
    assert loop_record(a_loop(every=3)).throughput_per_s.value == pytest.approx(300)


def test_an_interval_is_wider_where_requests_of_one_moment_are_alike() -> None:
    calm, stalled = (loop_record(a_loop(stall=stall)).latency_p95_ms for stall in (False, True))
    assert calm.high is not None and calm.low is not None and calm.high - calm.low < 1
    independent = percentile(np.asarray(a_loop(stall=True).latencies_ns) / 1e6, 0.95)
    assert stalled.value == pytest.approx(independent.value)
    assert stalled.low is not None and stalled.high is not None and independent.low and independent.high
    assert stalled.high - stalled.low > 1.5 * (independent.high - independent.low), "one stall says little of the next"


def test_a_loop_without_answers_has_no_figures() -> None:
    empty = msgspec.structs.replace(
        a_loop(0), answered=0, sent=10, served=[], scheduled_ns=[], latencies_ns=[], late_ns=[]
    )
    found = loop_record(empty)
    assert found.throughput_per_s.value is None
    assert found.latency_p99_ms.note == "not measured: no request was answered"
    few = loop_record(a_loop(20)).latency_p99_ms
    assert (few.value, few.n) == (None, 20)
    assert "not enough samples" in str(few.note)


def test_the_report_has_the_section_and_every_loop_by_itself() -> None:
    closed = msgspec.structs.replace(a_loop(), kind="closed", rate=None)
    service = MeasuredService(
        source="drawn images", inputs=8, input_bytes=700, closed=closed, open=a_loop(), conditions=["3 predictions."]
    )
    report = build(msgspec.structs.replace(measurement_set(), service=service), "rep_1")
    assert verify(canonical(report))
    assert report.service is not None
    labels = [fact.label for fact in service_facts(report.service)]
    assert labels.index("Closed loop") < labels.index("Open loop")
    assert {"Open loop, failures", "Disturbed", "What it says"} <= set(labels)
    changed = msgspec.structs.replace(service, open=a_loop(stall=True))
    other = build(msgspec.structs.replace(measurement_set(), service=changed), "rep_1")
    assert other.content_sha256 != report.content_sha256
    assert other.decision == report.decision


def test_a_service_that_could_not_be_driven_says_why() -> None:
    (fact,) = service_facts(service_record(MeasuredService(reason="The service answered no prediction.")))
    assert (fact.label, fact.text) == ("Not measured", "The service answered no prediction.")
