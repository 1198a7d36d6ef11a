"""The section on the platform's own HTTP service under load: what it carried, in tables, sentences and one for all."""

from __future__ import annotations

from collections.abc import Iterator

from reporter.lookup import measured, short
from reporter.parts import Cell, Fact, Row, Table, metric_cell
from shared.verdict.figures import ENGINE_TITLES, estimate, figure, listing, plural
from shared.verdict.metrics import Metric
from shared.verdict.report import CandidateRecord, Report
from shared.verdict.service import LoopRecord, ServiceRecord

NO_PART = (
    "The loops say what users of this platform see: HTTP, sign-in, queue and decoding included, with what served then. "
    "The limits of the order and the choice are about candidates and do not look here."
)
ASSUMES = (
    "Latency of the open loop counts from the moment a request was due, so that it holds what a stall made others "
    "wait; that of the closed loop counts from sending, and a stall holds its clients back. Percentiles are over "
    "answered requests alone."
)
PARTS_NOTE = (
    "Medians, so that they do not add up exactly. Queue, decoding and inference are told by the answers; the rest is "
    "HTTP, sign-in, the ways between processes, and in the open loop the wait for a connection."
)
LIMITED = "it had no processor time left, so that the service may be quicker than these figures"
ALONE = "alone"
"""Of an engine: timed without the service around it."""


def loops(record: ServiceRecord) -> list[tuple[str, LoopRecord]]:
    """Those that were run, each with a name that says how it drove the service."""
    named = []
    if record.closed:
        named.append((f"Closed loop, {plural(record.closed.users, 'user')}", record.closed))
    if record.open:
        named.append((f"Open loop, {figure(record.open.offered_per_s or 0.0)}/s", record.open))
    return named


def alone(report: Report) -> CandidateRecord | None:
    """The candidate that tells how long the engine takes of what the service took: the one that answered most
    requests, by engine and precision, in its smallest batch, at its quickest.
    """
    if report.service is None:
        return None
    answers: dict[tuple[str, str], int] = {}
    for _, loop in loops(report.service):
        for each in loop.served:
            answers[each.engine, each.precision] = answers.get((each.engine, each.precision), 0) + each.answers
    most = max(answers, key=lambda which: (answers[which], which), default=None)
    same = [
        record
        for record in measured(report)
        if (record.engine, record.precision) == most and record.metrics["latency_p50_ms"].value is not None
    ]
    return min(same, key=lambda item: (item.batch_size, item.metrics["latency_p50_ms"].value), default=None)


# --- in a sentence or two --------------------------------------------------------------------------------------------


def in_short(record: ServiceRecord) -> str:
    """For somebody who decides."""
    said = [_closed_in_short(record.closed)] if record.closed else []
    said += [_open_in_short(record.open)] if record.open else []
    if record.reason:
        said.append(record.reason)
    return " ".join(said)


def _closed_in_short(loop: LoopRecord) -> str:
    who = f"{plural(loop.users, 'user')} at once"
    if not loop.throughput_per_s.value:
        return f"{who} got no answer from this platform's own service{_lost(loop)}."
    rate = f"{figure(loop.throughput_per_s.value)} answers a second from this platform's own service"
    return f"{who} got {rate}{_within(loop)}{_lost(loop)}."


def _open_in_short(loop: LoopRecord) -> str:
    arrived = f"{figure(loop.offered_per_s or 0.0)} requests a second that do not wait for each other"
    if not loop.throughput_per_s.value:
        return f"Of {arrived} none was answered{_lost(loop)}."
    rate = figure(loop.throughput_per_s.value)
    if loop.behind:
        fell = f"it answered {rate} a second and fell ever further behind"
        return f"{arrived} are more than it carries: {fell}{_lost(loop)}."
    return f"At {arrived} it answered {rate} a second{_within(loop)}{_lost(loop)}."


def _within(loop: LoopRecord) -> str:
    value = loop.latency_p95_ms.value
    return "" if value is None else f", 19 of 20 within {figure(value)} ms"


def _lost(loop: LoopRecord) -> str:
    """What became of the rest; nothing is said of requests that are all answered but that."""
    if not loop.refused and not loop.failed:
        return "; no request failed"
    kinds = [f"{loop.refused:,} refused"] * bool(loop.refused) + [f"{loop.failed:,} failed"] * bool(loop.failed)
    return f"; of {plural(loop.sent, 'request')} {listing(kinds)}"


# --- tables ----------------------------------------------------------------------------------------------------------


def service_tables(report: Report) -> list[Table]:
    """Requests, latency beside the engine alone, and where the time goes; none where no loop was run."""
    if report.service is None or not (driven := loops(report.service)):
        return []
    engine = alone(report)
    return [_requests(driven), _latency(driven, report, engine), _parts(driven)]


def _requests(driven: list[tuple[str, LoopRecord]]) -> Table:
    return Table(
        title="Requests",
        of="Load",
        columns=[
            ("Ordered", "a second"),
            ("Answered", "a second"),
            ("Sent", ""),
            ("Answered", ""),
            ("Refused", "429: queue full"),
            ("Failed", ""),
        ],
        rows=[_row(name, [_ordered(loop), _achieved(loop), *_counts(loop)]) for name, loop in driven],
    )


def _ordered(loop: LoopRecord) -> Cell:
    if loop.offered_per_s is None:
        return Cell(text="as it comes", detail="each user sends when answered")
    return Cell(text=figure(loop.offered_per_s), detail="on average, Poisson")


def _achieved(loop: LoopRecord) -> Cell:
    cell = metric_cell(loop.throughput_per_s)
    return Cell(text=cell.text, detail=cell.detail, tone="fail" if loop.behind else None)


def _counts(loop: LoopRecord) -> list[Cell]:
    lost = [Cell(text=f"{count:,}", tone="fail" if count else None) for count in (loop.refused, loop.failed)]
    return [Cell(text=f"{loop.sent:,}"), Cell(text=f"{loop.answered:,}"), *lost]


def _latency(driven: list[tuple[str, LoopRecord]], report: Report, engine: CandidateRecord | None) -> Table:
    rows = [
        _row(name, [metric_cell(each) for each in (loop.latency_p50_ms, loop.latency_p95_ms, loop.latency_p99_ms)])
        for name, loop in driven
    ]
    if engine is not None:
        percentiles = [engine.metrics[name] for name in ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms")]
        rows.insert(0, _row(f"{short(report, engine)}, {ALONE}", [metric_cell(each) for each in percentiles]))
    columns = [(name, "ms") for name in ("P50", "P95", "P99")]
    note = f"{ALONE.capitalize()}: calls of the engine in this benchmark, without the service." if engine else ""
    return Table(title="Latency of a request", of="Load", columns=columns, rows=rows, note=note)


def _parts(driven: list[tuple[str, LoopRecord]]) -> Table:
    columns = [(name, "ms") for name in ("Queue", "Decoding", "Inference", "The rest", "All of it")]
    rows = [
        _row(
            name,
            [
                metric_cell(each)
                for each in (
                    loop.queue_p50_ms,
                    loop.decode_p50_ms,
                    loop.inference_p50_ms,
                    loop.rest_p50_ms,
                    loop.latency_p50_ms,
                )
            ],
        )
        for name, loop in driven
    ]
    return Table(title="Where the time of a request goes", of="Load", columns=columns, rows=rows, note=PARTS_NOTE)


def _row(name: str, cells: list[Cell]) -> Row:
    return Row(key=name, name=name, selected=False, cells=cells)


# --- facts -----------------------------------------------------------------------------------------------------------


def service_facts(record: ServiceRecord) -> list[Fact]:
    """What the tables do not say, line by line."""
    return list(_facts(record))


def _facts(record: ServiceRecord) -> Iterator[Fact]:
    if record.reason:
        yield Fact(label="Not measured", text=record.reason)
    for label, loop in (("Closed loop", record.closed), ("Open loop", record.open)):
        if loop is not None:
            yield from _loop(label, loop)
    if record.source:
        over = "HTTPS" if record.tls else "HTTP"
        what = f"{record.source}, the middle one {record.input_bytes:,} bytes"
        text = f"{plural(record.inputs, 'input')} in turn ({what}), over {over} on this machine"
        yield Fact(label="Sent", text=text)
    yield from (Fact(label="Disturbed", text=condition) for condition in record.conditions)
    if record.closed or record.open:
        yield Fact(label="What it says", text=f"{NO_PART} {ASSUMES}")


def _loop(label: str, loop: LoopRecord) -> Iterator[Fact]:
    if loop.offered_per_s is not None:
        yield Fact(label=f"{label}, rate", text=_carried(loop))
    if seen := "; ".join(f"{each.count:,} × {each.code}: {each.example}" for each in loop.failures):
        yield Fact(label=f"{label}, failures", text=seen)
    yield Fact(label=f"{label}, served by", text=_served(loop))
    late = "" if loop.late_p99_ms is None else f"; P99 until a request was written {figure(loop.late_p99_ms)} ms"
    late += ", the wait for a free connection included" if late and loop.offered_per_s is not None else ""
    kept = f"; percentiles are over {loop.kept}" if loop.kept else ""
    limited = f"; {LIMITED}" if loop.saturated else ""
    text = f"{figure(loop.generator_cores)} processor cores, of this machine{late}{kept}{limited}"
    yield Fact(label=f"{label}, generator", text=text)


def _carried(loop: LoopRecord) -> str:
    """Whether the ordered rate was."""
    achieved = loop.throughput_per_s
    if achieved.value is None:
        return "no request was answered"
    rates = f"{_value(achieved)} answers a second at {figure(loop.offered_per_s or 0.0)} ordered"
    if loop.behind:
        return (
            f"overloaded: {rates}; requests waited ever longer, so that the latencies say how long the load lasted "
            "and not how quick the service is"
        )
    if loop.refused or loop.failed:
        return f"{rates}; not every request was answered"
    return f"carried: {rates}, every request answered, and waits did not grow"


def _served(loop: LoopRecord) -> str:
    """Engines and precisions, and how many requests they answered together."""
    answers: dict[str, int] = {}
    for each in loop.served:
        engine = next((title for name, title in ENGINE_TITLES.items() if name == each.engine), each.engine)
        name = f"{engine} {each.precision.upper()}"
        answers[name] = answers.get(name, 0) + each.answers
    most = max((each.batch_size for each in loop.served), default=0)
    by = listing([f"{name} ({plural(count, 'answer')})" for name, count in sorted(answers.items())])
    return f"{by}, up to {plural(most, 'request')} a call" if by else "nothing"


def _value(metric: Metric) -> str:
    if metric.value is None:
        return metric.note or "not measured"
    return estimate(metric.value, metric.low, metric.high)
