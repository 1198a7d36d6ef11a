"""The two views of a report as data."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from reportlab.graphics.shapes import Circle, Line, Polygon, Rect, String

from reporter import plain
from reporter.charts import ROWS_A_PANEL, latency_panels, overview
from reporter.figures import figures, overview_figure
from reporter.lines import LINES_A_PANEL, throughput_panels
from reporter.shapes import axis, fit, spread
from reporter.simple import SimpleView, simple_view
from reporter.technical import TechnicalView, technical_view
from reporter.tradeoff import front, points, tradeoff_chart
from shared.specs import Accuracy, Constraint, GateResult, MeasuredDataset, MeasurementSet, NoiseFloor, Series
from shared.verdict.accuracy import packed
from shared.verdict.report import Report, build
from tests.unit.measurements import candidate, measured, measurement_set, series, unavailable

STANDARD = build(measurement_set(), "rep_1")
NOTHING_PASSES = build(measurement_set(constraints=(Constraint(metric="latency_p95_ms", op="<", value=0.5),)), "rep_2")
UNMEASURED = build(measurement_set([unavailable(candidate("tensorrt"), "no GPU")]), "rep_3")
TOO_FEW = build(measurement_set([measured(candidate("onnxruntime"), 1.2, calls=60)], ()), "rep_4")


def accurate(found: Sequence[Series]) -> MeasurementSet:
    """Measurements with a test split of 400 images: in INT8 one engine errs six times more, the other twice."""
    right = np.arange(400) % 20 != 0
    gates = []
    for engine, precision in sorted({(item.candidate.engine, item.candidate.precision) for item in found}):
        wrong = right.copy()
        wrong[1 : 1 + (0 if precision == "fp32" else 2 if engine == "openvino" else 6)] = False
        said = Accuracy(metric="top1", n=400, value=float(wrong.mean()), correct=packed(wrong))
        flips = int((wrong != right).sum())
        gates.append(GateResult(engine=engine, precision=precision, verdict="pass", flips=flips, accuracy=said))
    reference = Accuracy(metric="top1", n=400, value=0.95, correct=packed(right))
    dataset = MeasuredDataset(id="dst_1", name="digits", index_sha256="a" * 64, classes=["0", "1"], num_test=400)
    made = measurement_set(found, (), dataset_id="dst_1")
    return msgspec.structs.replace(made, gates=gates, reference=reference, dataset=dataset)


def in_int8(of: Series) -> Series:
    return msgspec.structs.replace(of, candidate=msgspec.structs.replace(of.candidate, precision="int8"))


ACCURATE = build(
    accurate(
        [
            measured(candidate("onnxruntime"), 1.9, memory_mb=61),
            measured(candidate("openvino"), 1.5, memory_mb=118),
            in_int8(measured(candidate("onnxruntime"), 1.0)),
            in_int8(measured(candidate("openvino"), 0.8)),
        ],
    ),
    "rep_6",
)
MANY = build(
    accurate([measured(candidate("onnxruntime", b, n), b, calls=75) for b in (1, 2) for n in range(1, 17)]), "rep_7"
)


def named(shape: object) -> bool:
    return isinstance(shape, String) and shape.text.startswith("ONNX Runtime")


def simple(report: Report) -> SimpleView:
    return simple_view(report)


def technical(report: Report) -> TechnicalView:
    return technical_view(report)


@pytest.mark.parametrize(
    ("report", "headline"),
    [
        (STANDARD, "Use ONNX Runtime FP32"),
        (NOTHING_PASSES, "No setup keeps every limit"),
        (UNMEASURED, "Nothing could be measured"),
        (TOO_FEW, "Not enough samples to choose"),
    ],
)
def test_the_headline_says_what_came_of_it(report: Report, headline: str) -> None:
    assert simple(report).headline == headline


def test_the_first_page_in_words() -> None:
    view = simple(STANDARD)
    assert view.summary == ("1 image at a time, 2 processor threads. Chosen for fastest answers; it keeps every limit.")
    assert [(item.label, item.figure, item.unit) for item in view.figures] == [
        ("Response time", "1.37", "ms"),
        ("Throughput", "789", "images/s"),
        ("Memory", "61.7", "MB"),
    ]
    assert view.figures[0].meaning == "19 of 20 calls are answered within this time; 1.35–1.41 ms with 95 % confidence"
    assert view.why[0] == (
        "4 of 8 setups ran on this machine; 1 of them keeps the limits: response time (19 of 20 calls) of at most 5 ms "
        "and throughput of at least 650 images/s."
    )
    assert view.why[1].startswith("OpenVINO FP32: its response time is 33 % longer (")
    assert view.why[1].endswith("; it is not sure to keep the limit on throughput.")
    assert (view.sureness.level, view.sureness.title) == ("alone", "No rival")
    assert view.serving.endswith("serves already, as long as nothing else is activated: nothing changes.")
    assert view.created_at == "2026-01-31 08:15 UTC"


def test_a_choice_that_speed_did_not_make_does_not_say_so() -> None:
    pair = [measured(candidate(engine), 1.0, calls=7000) for engine in ("onnxruntime", "openvino")]
    tie = build(measurement_set(pair, ()), "rep_5")
    assert simple(tie).summary.endswith("Chosen among 2 setups that speed does not separate; no limit was set.")


def test_what_was_rejected_needs_no_other_machine() -> None:
    rejected = Series(candidate=candidate("openvino"), status="rejected", reason="It answers with NaN.")
    report = build(measurement_set([rejected], ()), "rep_6")
    assert "OpenVINO FP32: rejected before measuring: It answers with NaN." in simple(report).why
    assert not any("OpenVINO" in text for text in report.recommendations)


def test_without_a_choice_the_nearest_is_shown() -> None:
    view = simple(NOTHING_PASSES)
    assert view.selected is None
    assert view.figures_of == "ONNX Runtime FP32, batch 1, 2 threads"
    assert view.deployment_steps == []
    assert "With P95 latency < 1.41 ms instead of 0.5 it would pass every constraint." in view.why


def test_tables_hold_every_measured_candidate_with_intervals() -> None:
    view = technical(STANDARD)
    latency, resources, constraints, deltas = view.tables
    assert [row.name for row in latency.rows][:2] == ["ONNX Runtime FP32, batch 1", "ONNX Runtime FP32, batch 8"]
    assert [row.selected for row in latency.rows] == [True, False, False, False]
    assert (latency.rows[0].cells[1].text, latency.rows[0].cells[1].detail) == ("1.37", "(1.35–1.41)")
    assert resources.columns[0] == ("Throughput", "images/s")
    assert [cell.tone for cell in constraints.rows[2].cells] == ["pass", "fail"]
    assert deltas.title == "Compared with ONNX Runtime FP32, batch 1"
    assert latency.note == "696 calls in 12 blocks per candidate; 95 % intervals in brackets."


def test_many_constraints_are_spread_over_tables() -> None:
    constraints = tuple(Constraint(metric="latency_p95_ms", op="<=", value=float(ms)) for ms in range(1, 7))
    tables = [table for table in technical(build(measurement_set(constraints=constraints), "r")).tables]
    wanted = [len(table.columns) for table in tables if table.title.startswith("Constraints")]
    assert wanted == [4, 2]


def test_a_missing_percentile_is_a_dash_with_its_reason() -> None:
    cell = technical(TOO_FEW).tables[0].rows[0].cells[1]
    assert (cell.text, cell.detail) == ("–", "not enough samples: n=60, needs >= 72")


def test_candidates_of_one_engine_with_one_reason_share_a_line() -> None:
    labels = [fact.label for fact in technical(STANDARD).passed_over]
    assert "TensorRT FP32, batch 1 and 8" in labels


def test_the_noise_floor_is_shown_with_its_age() -> None:
    def shown(measurements: MeasurementSet) -> str:
        return next(fact.text for fact in technical(build(measurements, "r")).facts if fact.label == "Noise floor")

    assert shown(measurement_set()) == "not measured; order a benchmark with noise_floor"
    noise = NoiseFloor(
        value=0.0312, runs=10, measured_at="2026-01-29T08:00:00.000Z", fingerprint="f", benchmark_id="job_1"
    )
    found = msgspec.structs.replace(measurement_set(), noise_floor=noise)
    assert shown(found) == "3.12 % over 10 pairs of launches, measured 2 days before (2026-01-29 08:00 UTC, job_1)"
    here = msgspec.structs.replace(noise, measured_at=found.created_at)
    assert shown(msgspec.structs.replace(found, noise_floor=here)).endswith("measured in this run")


def test_threads_are_named_only_where_they_differ() -> None:
    found = [measured(candidate("onnxruntime", 1, threads), 1.0 + threads) for threads in (1, 2)]
    names = [row.name for row in technical(build(measurement_set(found, ()), "r")).tables[0].rows]
    assert names == ["ONNX Runtime FP32, 1 thread, batch 1", "ONNX Runtime FP32, 2 threads, batch 1"]


# --- charts ---------------------------------------------------------------------------------------------------------


def test_a_panel_for_each_batch_size() -> None:
    assert len(latency_panels(STANDARD)) == 2
    assert latency_panels(UNMEASURED) == []
    assert throughput_panels(UNMEASURED) == []
    assert figures(UNMEASURED) == []
    assert overview_figure(UNMEASURED) is None


FEW_CALLS = build(measurement_set([measured(candidate("onnxruntime", b), b, calls=75) for b in (1, 2, 8)], ()), "rep_5")


@pytest.mark.parametrize("report", [STANDARD, NOTHING_PASSES, TOO_FEW, FEW_CALLS, ACCURATE, MANY], ids=str)
def test_nothing_is_drawn_outside_the_drawing(report: Report) -> None:
    drawn = [drawing for figure in figures(report) for drawing in figure.drawings]
    for drawing in (*drawn, *overview(report)):
        for shape in drawing.contents:
            left, bottom, right, top = shape.getBounds()
            assert left >= -0.5 and right <= drawing.width + 0.5, shape.getProperties()
            assert bottom >= -0.5 and top <= drawing.height + 0.5, shape.getProperties()


def test_figures_do_not_run_into_the_plot() -> None:
    for drawing in latency_panels(FEW_CALLS):
        figures = [shape for shape in drawing.contents if isinstance(shape, String) and shape.textAnchor == "end"]
        marks = [shape.getBounds() for shape in drawing.contents if isinstance(shape, Polygon | Circle | Line | Rect)]
        plotted = [bounds for bounds in marks if bounds[0] > 0]  # the tint behind the chosen row spans all
        assert min(shape.getBounds()[0] for shape in figures) > max(bounds[2] for bounds in plotted)


def test_long_panels_are_continued() -> None:
    found = [measured(candidate("onnxruntime", 1, threads), 1.0, calls=80) for threads in range(1, ROWS_A_PANEL + 2)]
    assert len(latency_panels(build(measurement_set(found, ()), "r"))) == 2


def test_one_batch_size_gives_bars() -> None:
    [one] = throughput_panels(build(measurement_set(series()[:1], ()), "r"))
    [both] = throughput_panels(STANDARD)
    assert one.height < both.height


def test_more_lines_than_can_be_told_apart_are_spread_over_panels() -> None:
    assert len(throughput_panels(MANY)) == 2
    assert len({shape.text for panel in throughput_panels(MANY) for shape in panel.contents if named(shape)}) > (
        LINES_A_PANEL
    )


def test_every_figure_is_told_in_words() -> None:
    told = [figure.told for figure in figures(ACCURATE)]
    assert told[0].startswith("Histograms of the calls, with P50, P95 and P99, P95 latency: ")
    assert "(chosen)" in told[0]
    assert told[2].startswith("On the Pareto front: OpenVINO INT8, batch 1 with 0.9")
    assert "and 20 more, see the tables" in figures(MANY)[0].told
    shown = overview_figure(ACCURATE)
    assert shown is not None and "OpenVINO INT8" in shown.told


def test_the_front_holds_those_that_nobody_beats_in_both() -> None:
    best = [(record.engine, record.precision) for record in front(points(ACCURATE))]
    assert best == [("openvino", "int8"), ("openvino", "fp32")]
    assert tradeoff_chart(STANDARD) is None


# --- what it changes ------------------------------------------------------------------------------------------------


def test_what_a_switch_changes_is_told_for_each_figure() -> None:
    view = simple(ACCURATE)
    assert view.serving == "ONNX Runtime FP32, batch 1, 2 threads serves now, as long as nothing else is activated."
    told = {change.label: (change.now, change.then, change.tone) for change in view.changes}
    assert list(told) == ["Response time", "Throughput", "Memory", "Accuracy"]
    assert told["Response time"][2] == told["Throughput"][2] == "good"
    assert told["Memory"] == ("61.7 MB", "120 MB", "bad")
    assert told["Accuracy"] == ("95 %", "95 %", "same")
    assert view.changes[0].text.endswith("%)") and "shorter (" in view.changes[0].text
    assert view.sureness.level == "clear"
    assert view.sureness.text.startswith("The next best, ONNX Runtime FP32, batch 1, 2 threads, takes 2")


def test_an_activated_deployment_is_what_the_choice_is_compared_with() -> None:
    fast, slow = candidate("openvino"), candidate("onnxruntime")
    found = [measured(fast, 1.0), measured(slow, 2.0)]
    active = msgspec.structs.replace(measurement_set(found, ()), incumbent=slow)
    present = build(active, "r").present
    assert present is not None and present.activated and present.candidate == slow
    assert present.changes[0].by == pytest.approx(0.5, rel=0.1)
    unknown = msgspec.structs.replace(measurement_set(found, ()), incumbent=candidate("pytorch"))
    assert build(unknown, "r").present is None
    assert "was not measured here" in simple(build(unknown, "r")).serving


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        ((1.30, 1.25, 1.34), "30 % longer (25 to 34 %)"),
        ((0.77, 0.75, 0.80), "23 % shorter (20 to 25 %)"),
        ((2.43, 2.2, 2.6), "2.43 times as long (2.2 to 2.6 times)"),
        ((1.01, 0.97, 1.05), "about the same (between 3 % shorter and 5 % longer)"),
        ((1.5, 0.8, 15.5), "between 20 % shorter and 15.5 times as long"),
        ((1.3, None, None), "30 % longer, by estimate"),
    ],
)
def test_ratios_in_words(ratio: tuple[float, float | None, float | None], words: str) -> None:
    assert plain.relation("latency_p95_ms", *ratio) == words


def test_differences_of_accuracy_in_words() -> None:
    assert plain.difference(-0.003, -0.005, -0.001) == "0.3 points lower (between 0.1 and 0.5)"
    assert plain.difference(0.01, 0.002, 0.018) == "1 point higher (between 0.2 and 1.8)"
    assert "do not settle" in plain.difference(-0.003, -0.009, 0.003)
    assert plain.difference(0.0, -0.1, 0.1) == "the same"


@pytest.mark.parametrize("largest", [1e-6, 0.03, 1.0, 1.36, 9.99, 10.0, 12_345.0, 1e9])
def test_an_axis_reaches_beyond_its_data_with_a_few_ticks(largest: float) -> None:
    scale = axis(largest, 100, 300)
    assert 100 < scale.at(largest) < 400
    assert 3 <= len(scale.ticks) <= 8
    assert scale.ticks[-1] <= scale.top
    assert len(set(scale.labels())) == len(scale.ticks)


def test_labels_are_moved_apart_and_kept_in_bounds() -> None:
    moved = spread([10.0, 11.0, 12.0, 60.0], 20.0, 0.0, 100.0)
    assert all(b - a >= 20.0 for a, b in pairwise(moved))
    assert moved[0] >= 0.0
    assert spread([], 20.0, 0.0, 100.0) == []


def test_long_names_are_shortened() -> None:
    assert fit("ONNX Runtime FP32", 500, "Helvetica") == "ONNX Runtime FP32"
    assert fit("ONNX Runtime FP32", 40, "Helvetica").endswith("…")
