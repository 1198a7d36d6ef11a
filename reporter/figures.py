"""The figures of a report in their order: drawings with title, caption and the words for who cannot see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reportlab.graphics.shapes import Drawing

from reporter.charts import latency_key, latency_panels, overview
from reporter.lines import throughput_panels
from reporter.lookup import best_of_each, is_selected, measured, short
from reporter.ridges import service_panel
from reporter.service import ALONE, alone, loops
from reporter.tradeoff import front, points, tradeoff_chart
from shared.specs import MetricName
from shared.verdict.decision import METRIC_OF
from shared.verdict.figures import QUANTITIES, estimate, listing, quantity
from shared.verdict.report import CandidateRecord, Report

TOLD = 12
"""So many candidates are read out; the tables have all of them."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Drawings that belong together."""

    title: str
    drawings: Sequence[Drawing]
    caption: str
    told: str
    """What they show, with the figures of the most important candidates."""


def figures(report: Report) -> list[Figure]:
    """Those of the technical view that the report has data for."""
    found = [_latency(report), _throughput(report), _tradeoff(report)]
    return [figure for figure in found if figure is not None]


def overview_figure(report: Report) -> Figure | None:
    """That of the simple view."""
    drawings, metric = overview(report), METRIC_OF[report.metadata.config.objective]
    if not drawings:
        return None
    quick = metric == "latency_p95_ms"
    what = "19 of 20 calls are answered within this time; shorter is better" if quick else "more is better"
    return Figure(
        title="Response time of each engine" if quick else "Images per second of each engine",
        drawings=drawings,
        caption=f"The best setup of each engine and precision; {what}. The black bars are 95 % intervals.",
        told=_told(report, "Bars", metric, best_of_each(report)),
    )


def service_figure(report: Report) -> Figure | None:
    """That of the section on the service under load."""
    drawing = service_panel(report)
    if drawing is None or report.service is None:
        return None
    engine = alone(report)
    told = [f"{short(report, engine)}, {ALONE} {_figure(engine, 'latency_p95_ms')}"] if engine else []
    for name, loop in loops(report.service):
        found = loop.latency_p95_ms
        value = "not known" if found.value is None else f"{estimate(found.value, found.low, found.high)} ms"
        told.append(f"{name} {value}")
    return Figure(
        title="Through the service",
        drawings=[latency_key(), drawing],
        caption="Answered requests, and the calls of the engine alone in this benchmark. The scale is logarithmic.",
        told=f"Histograms of the latency through the service, with P50, P95 and P99, P95: {'; '.join(told)}.",
    )


def _latency(report: Report) -> Figure | None:
    panels = latency_panels(report)
    if not panels:
        return None
    return Figure(
        title="How long calls take",
        drawings=[latency_key(), *panels],
        caption="All timed calls of each candidate; the scale ends behind the last P99, slower calls are not drawn.",
        told=_told(report, "Histograms of the calls, with P50, P95 and P99", "latency_p95_ms", measured(report)),
    )


def _throughput(report: Report) -> Figure | None:
    panels = throughput_panels(report)
    if not panels:
        return None
    several = len({record.batch_size for record in measured(report)}) > 1
    return Figure(
        title="Throughput against batch size" if several else "Throughput",
        drawings=panels,
        caption="Images over wall time; bars across are 95 % intervals. The marks stand for engines; in FP32 they are "
        "filled, in FP16 tinted, in INT8 hollow.",
        told=_told(report, "Images per second of each candidate", "throughput_fps", measured(report)),
    )


def _tradeoff(report: Report) -> Figure | None:
    drawing = tradeoff_chart(report)
    if drawing is None:
        return None
    best = front(points(report))
    return Figure(
        title="Accuracy against latency",
        drawings=[drawing],
        caption="Up and to the left is better. The dashed line joins those that no other candidate beats in both, by "
        "estimate (Pareto front); crosses are 95 % intervals. The marks are as above.",
        told=f"On the Pareto front: {listing([_both(report, record) for record in best])}.",
    )


def _both(report: Report, record: CandidateRecord) -> str:
    return f"{short(report, record)} with {_figure(record, 'accuracy')} at {_figure(record, 'latency_p95_ms')}"


def _told(report: Report, what: str, metric: MetricName, records: Sequence[CandidateRecord]) -> str:
    """`Bars, P95 latency: ONNX Runtime FP32, batch 1 (chosen) 1.36 (1.34–1.39) ms; …`, the chosen one first."""
    order = sorted(records, key=lambda record: not is_selected(report, record))
    said = [
        f"{short(report, record)}{' (chosen)' if is_selected(report, record) else ''} {_figure(record, metric)}"
        for record in order[:TOLD]
    ]
    more = f"; and {len(order) - TOLD} more, see the tables" if len(order) > TOLD else ""
    return f"{what}, {QUANTITIES[metric].label}: {'; '.join(said)}{more}."


def _figure(record: CandidateRecord, metric: MetricName) -> str:
    found = record.metrics[metric]
    if found.value is None:
        return "not known"
    return quantity(metric, estimate(found.value, found.low, found.high))
