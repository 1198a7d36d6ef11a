"""The service under load in a report: figures from the raw series, sentences from the figures."""

from __future__ import annotations

import csv
import io
import math

import msgspec
import numpy as np
import pytest

from reporter.figures import service_figure
from reporter.render import render
from reporter.service import LIMITED, alone, in_short, service_facts
from reporter.shapes import decades
from reporter.simple import simple_view
from reporter.technical import technical_view
from shared.specs import LoadFailures, Loop, MeasuredService, Served
from shared.verdict.distribution import log_density
from shared.verdict.intervals import percentile
from shared.verdict.report import Report, build, canonical, verify
from shared.verdict.service import loop_record, service_record
from tests.unit.measurements import measurement_set


def a_loop(n: int = 1000, *, every: int = 1, stall: bool = False, slowdown: float = 0.0) -> Loop:
    """So many answers in ten seconds, 2 to 4 ms each; with a stall, a tenth of the time 500 ms; with a slowdown, longer
    by that share of the time since the start.
    """
    draw = np.random.default_rng(1)
    due = np.sort(draw.integers(0, 10_000_000_000, n))
    took = draw.integers(2_000_000, 4_000_000, n)
    if stall:
        took = np.where((due > 3e9) & (due < 4e9), draw.integers(400_000_000, 600_000_000, n), took)
    took = took + (slowdown * due).astype(np.int64)
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


def test_the_rest_is_what_no_part_explains() -> None:
    found = loop_record(a_loop())
    assert found.rest_p50_ms is not None and found.latency_p50_ms.value is not None
    assert found.rest_p50_ms.value == pytest.approx(found.latency_p50_ms.value - 0.5 - 0.2 - 0.9)
    assert found.latency is not None and found.latency.n == 1000


def test_a_service_falls_behind_where_waits_grow_to_the_end() -> None:
    assert loop_record(a_loop(slowdown=0.2)).behind, "of three requests that arrive, one more waits"
    assert not loop_record(a_loop()).behind
    assert not loop_record(a_loop(stall=True)).behind, "it passed"
    assert not loop_record(a_loop(slowdown=0.01)).behind, "100 ms more after ten seconds"
    closed = msgspec.structs.replace(a_loop(slowdown=0.2), kind="closed", rate=None)
    assert not loop_record(closed).behind, "users who wait for their answers cannot get ahead of the service"


def test_a_load_generator_at_its_limit_says_so() -> None:
    busy = loop_record(msgspec.structs.replace(a_loop(), cpu_s=9.5))
    assert busy.saturated and not loop_record(a_loop()).saturated
    record = msgspec.structs.replace(service_record(MeasuredService(open=a_loop())), open=busy)
    assert LIMITED in next(fact.text for fact in service_facts(record) if fact.label == "Open loop, generator")


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
    assert labels.index("Closed loop, served by") < labels.index("Open loop, served by")
    assert {"Open loop, rate", "Open loop, failures", "Disturbed", "What it says"} <= set(labels)
    changed = msgspec.structs.replace(service, open=a_loop(stall=True))
    other = build(msgspec.structs.replace(measurement_set(), service=changed), "rep_1")
    assert other.content_sha256 != report.content_sha256
    assert other.decision == report.decision


def test_a_service_that_could_not_be_driven_says_why() -> None:
    (fact,) = service_facts(service_record(MeasuredService(reason="The service answered no prediction.")))
    assert (fact.label, fact.text) == ("Not measured", "The service answered no prediction.")


# --- what is shown ----------------------------------------------------------------------------------------------------


def driven(**loops: Loop) -> Report:
    service = MeasuredService(source="drawn images", inputs=8, input_bytes=700, **loops)
    return build(msgspec.structs.replace(measurement_set(), service=service), "rep_1")


def without_failures(loop: Loop) -> Loop:
    return msgspec.structs.replace(loop, failures=[], sent=loop.answered)


CLOSED = msgspec.structs.replace(without_failures(a_loop()), kind="closed", rate=None)


@pytest.mark.parametrize(
    ("loop", "words", "fact"),
    [
        (
            without_failures(a_loop()),
            "At 100 requests a second that do not wait for each other it answered 100 a second, 19 of 20 within",
            "carried: 100",
        ),
        (
            without_failures(a_loop(slowdown=0.2)),
            "are more than it carries: it answered 100 a second and fell ever further behind; no request failed.",
            "overloaded: 100",
        ),
        (a_loop(), "; of 1,010 requests 7 refused and 3 failed.", "not every request was answered"),
        (
            msgspec.structs.replace(a_loop(0), answered=0, served=[]),
            "none was answered; of 10 requests 7 refused and 3 failed.",
            "no request was answered",
        ),
    ],
    ids=["carried", "overloaded", "refused", "no answer"],
)
def test_the_simple_view_says_in_words_whether_the_service_carries_it(loop: Loop, words: str, fact: str) -> None:
    report = driven(closed=CLOSED, open=loop)
    assert report.service is not None
    said = in_short(report.service)
    assert said.startswith(
        "10 users at once got 100 answers a second from this platform's own service, 19 of 20 within"
    )
    assert words in said
    assert fact in next(found.text for found in service_facts(report.service) if found.label == "Open loop, rate")
    files = render(report)
    assert simple_view(report).service == said
    assert "Through this platform" in files["simple.html"].decode()
    assert "Through the service" in files["technical.html"].decode()


def test_a_report_without_the_service_does_not_speak_of_it() -> None:
    report = build(measurement_set(), "rep_1")
    assert simple_view(report).service == "" and technical_view(report).service_tables == []
    assert service_figure(report) is None
    assert "Through th" not in render(report)["report.html"].decode()
    assert "service_sent" not in render(report)["report.csv"].decode()


def test_the_engine_alone_stands_beside_the_loops() -> None:
    report = driven(closed=CLOSED, open=a_loop())
    engine = alone(report)
    assert engine is not None and (engine.engine, engine.precision, engine.batch_size) == ("onnxruntime", "fp32", 1)
    requests, latency, parts = technical_view(report).service_tables
    assert [row.name for row in requests.rows] == ["Closed loop, 10 users", "Open loop, 100/s"]
    assert latency.rows[0].name == "ONNX Runtime FP32, batch 1, alone"
    assert len(latency.rows) == 3
    assert [cell.text for cell in parts.rows[0].cells[:3]] == ["0.500", "0.200", "0.900"]
    shown = service_figure(report)
    assert shown is not None and "ONNX Runtime FP32, batch 1, alone" in shown.told and "Open loop, 100/s" in shown.told


def test_what_serves_may_not_be_among_the_candidates() -> None:
    other = [Served(engine="onnxruntime", precision="int8", batch_size=4, answers=1000)]
    report = driven(open=msgspec.structs.replace(a_loop(), served=other))
    assert alone(report) is None
    assert len(technical_view(report).service_tables[1].rows) == 1
    assert service_figure(report) is not None


@pytest.mark.parametrize("loop", [a_loop(), a_loop(3), a_loop(slowdown=3.0), a_loop(0)])
def test_nothing_is_drawn_outside_the_panel(loop: Loop) -> None:
    shown = service_figure(driven(closed=CLOSED, open=loop))
    assert shown is not None
    for drawing in shown.drawings:
        for shape in drawing.contents:
            left, bottom, right, top = shape.getBounds()
            assert left >= -0.5 and right <= drawing.width + 0.5, shape.getProperties()
            assert bottom >= -0.5 and top <= drawing.height + 0.5, shape.getProperties()


def test_loops_are_rows_of_their_own_in_the_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(render(driven(closed=CLOSED, open=a_loop()))["report.csv"].decode())))
    closed, opened = (row for row in rows if row["status"] == "service")
    assert (closed["candidate"], closed["service_users"]) == ("service: Closed loop, 10 users", "10")
    assert closed["service_ordered_per_s"] == "" and float(opened["service_ordered_per_s"]) == 100
    assert (opened["service_sent"], opened["service_refused"], opened["service_failed"]) == ("1010", "7", "3")
    assert float(opened["latency_p95_ms_low"]) <= float(opened["latency_p95_ms"])
    assert all(row["service_sent"] == "" for row in rows if row["status"] != "service")


@pytest.mark.parametrize(("least", "largest"), [(0.01, 20_000.0), (1.0, 3.0), (5.0, 5.0), (1e-3, 1e-3)])
def test_a_logarithmic_scale_has_a_few_ticks_in_reach(least: float, largest: float) -> None:
    scale = decades(least, largest, 10.0, 100.0)
    assert 1 <= len(scale.ticks) <= 10
    assert all(10.0 <= scale.at(tick) <= 110.0 for tick in (*scale.ticks, least, largest))
    assert scale.at(least) < scale.at(2 * least)


def test_wider_bins_of_a_logarithmic_scale_hold_every_call() -> None:
    found = loop_record(a_loop(5000)).latency
    assert found is not None
    bars = log_density(found)
    assert max(height for *_, height in bars) == 1
    assert all(1.05 < high / low < 1.15 for low, high, _ in bars)
    calls = sum(height * math.log(high / low) for low, high, height in bars)
    fullest = max(bars, key=lambda bar: bar[2])
    inside = sum(count for edge, count in found.bins if fullest[0] <= edge / 1e6 < fullest[1])
    assert inside / found.n == pytest.approx(math.log(fullest[1] / fullest[0]) / calls)
