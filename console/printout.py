"""How the results of the main job look in a terminal: the table of candidates, the decision, the predictions."""

from __future__ import annotations

import itertools
import statistics

import msgspec
from msgspec import UnsetType
from rich.table import Table
from rich.text import Text

from console.client import Json
from console.screen import Screen, duration
from shared.genes import Scalar
from shared.specs import Candidate, MetricName, TrainingResult
from shared.trials import Outcome
from shared.verdict.constraints import Verdict
from shared.verdict.decoding import DecodingRecord
from shared.verdict.figures import ENGINE_TITLES, estimate, figure, listing, plural, terse
from shared.verdict.report import CandidateRecord, Report
from shared.verdict.training import Finding

BLOCKS = "▁▂▃▄▅▆▇█"
TONES: dict[Verdict, str] = {"pass": "green", "fail": "bold red", "inconclusive": "yellow", "not_measured": ""}
VERDICTS = {"fail": "fails", "inconclusive": "unclear", "not_measured": "unknown"}


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One predicted image."""

    label: str
    predicted: str
    confidence: float
    client_ms: float
    """Wall time of the whole HTTP call."""
    split_ms: dict[str, float]
    """`latency_ms` of the answer."""


def candidates(report: Report, screen: Screen) -> None:
    """The measured candidates as a table, then the engines that could not run, with the reason."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("  candidate")
    judged = any(record.status == "measured" and _known(record, "accuracy") for record in report.candidates)
    for title in ("batch", "P50 ms", "P95 ms, interval", "images/s", "MB", *(("accuracy",) if judged else ())):
        table.add_column(title, justify="right")
    table.add_column("verdict")
    for record in report.candidates:
        if record.status == "measured":
            chosen = _candidate(record) == report.decision.selected
            table.add_row(*_row(record, report, chosen, judged), style="bold" if chosen else "")
    screen.table(table)
    for reason, names in _left_out(report).items():
        screen.line(f"  {listing(names)}: {reason}", style="dim")


def _row(record: CandidateRecord, report: Report, chosen: bool, judged: bool) -> list[str]:
    return [
        f"{'→' if chosen else ' '} {ENGINE_TITLES[record.engine]} {record.precision.upper()}",
        str(record.batch_size),
        _figure(record, "latency_p50_ms"),
        _interval(record, "latency_p95_ms"),
        _figure(record, "throughput_fps"),
        _figure(record, "memory_mb"),
        *([_figure(record, "accuracy")] if judged else []),
        _verdict(record, report, chosen),
    ]


def _known(record: CandidateRecord, metric: MetricName) -> bool:
    return record.metrics[metric].value is not None


def _figure(record: CandidateRecord, metric: MetricName) -> str:
    found = record.metrics[metric].value
    return "-" if found is None else figure(found)


def _interval(record: CandidateRecord, metric: MetricName) -> str:
    found = record.metrics[metric]
    return "-" if found.value is None else estimate(found.value, found.low, found.high)


def _verdict(record: CandidateRecord, report: Report, chosen: bool) -> str:
    if chosen:
        return "chosen"
    missed = [judgement.verdict for judgement in record.constraints if judgement.verdict != "pass"]
    if missed:
        return VERDICTS[missed[0]]
    return "tied" if _candidate(record) in report.decision.tied else "passes"


def _candidate(record: CandidateRecord) -> Candidate:
    return Candidate(**{name: getattr(record, name) for name in Candidate.__struct_fields__})


def _left_out(report: Report) -> dict[str, list[str]]:
    """Engines by the reason for which they were not measured."""
    found: dict[str, list[str]] = {}
    for record in report.candidates:
        if record.status != "measured":
            names = found.setdefault(f"{record.status}, {record.reason}", [])
            if ENGINE_TITLES[record.engine] not in names:
                names.append(ENGINE_TITLES[record.engine])
    return found


def decision(report: Report, screen: Screen) -> None:
    """The choice, or that there is none, with its reasons."""
    for reason in report.decision.reasons:
        screen.paragraph(reason, style="bold" if reason.startswith(("Chosen", "No choice")) else "")
    if report.decision.fragile:
        screen.paragraph("The choice is fragile: the intervals do not settle it.", style="yellow")
    if not isinstance(report.decoding, UnsetType):
        _decoding(report.decoding, screen)


def _decoding(record: DecodingRecord, screen: Screen) -> None:
    """At which part of their size JPEGs are decoded, and what was found out about each that was tried."""
    size = "in full" if record.selected == 1 else f"at 1/{record.selected} of their size"
    screen.paragraph(f"JPEGs are decoded {size}. {record.reason or ''}".rstrip(), style="bold")
    for each in record.scales:
        if each.saved_ms is not None and each.saved_ms.value is not None:
            saved = estimate(each.saved_ms.value, each.saved_ms.low, each.saved_ms.high)
            told = "saves" if (each.saved_ms.low or 0) > 0 else "saves no time for sure:"
            screen.paragraph(f"1/{each.scale} {told} {saved} ms an image; {each.why_not or 'it keeps every limit'}.")


def training(result: TrainingResult, screen: Screen) -> None:
    """What a training reached, and the way there."""
    curve = [figures.val_accuracy for figures in result.epochs]
    low, high = (f"{value:.1%}" if result.final_map50 is None else f"{value:.3f}" for value in (min(curve), max(curve)))
    reached = f"  accuracy  {result.final_accuracy:.1%} of"
    if result.final_map50 is not None:
        reached = f"  mAP       {result.final_accuracy:.3f} (mAP50 {result.final_map50:.3f}) on"
    ending = f"epoch {result.best_epoch} of {len(curve)}{', stopped early' if result.stopped_early else ''}"
    screen.line(f"{reached} {plural(result.num_val, 'validation image')} ({ending})")
    screen.line(f"  curve     {sparkline(curve)}  {low} to {high}")
    speed = f"{result.images_per_s:,.0f} images/s on {result.device}"
    screen.line(f"  took      {duration(result.duration_s)}, {speed}")
    for note in result.notes:
        screen.line(f"  {note}", style="dim")


def verdict(finding: Finding, screen: Screen) -> None:
    """Whether a training learned enough to be benchmarked."""
    screen.paragraph(f"Good enough to benchmark? {finding.title}. {finding.text}", style=TONES[finding.tone])


def search(outcome: Outcome, screen: Screen) -> None:
    """What a search found, beside what chance found where that was asked for."""
    failed = f", {plural(outcome.failed, 'failure')}" if outcome.failed else ""
    best = [values[0] for values in outcome.history if values]
    ways = " → ".join(f"{value:.3f}" for value in best)
    screen.line(f"  search    {plural(outcome.evaluations, 'genome')} tried{failed}; best by generation: {ways}")
    if outcome.baseline_best is not None:
        screen.line(f"  chance    {outcome.baseline_best[0]:.3f}, the best it found in as many epochs")
    if outcome.front and len(outcome.front[0][1]) > 1:
        ways = " · ".join(f"{accuracy:.3f} at {ms:.3g} ms" for ms, accuracy in _front(outcome))
        screen.line(f"  front     {ways}")
    genome = ", ".join(f"{name} {_gene(value)}" for name, value in (outcome.best or {}).items())
    screen.line(f"  chosen    {genome}")
    if outcome.stopped:
        screen.line(f"  It ended early: {outcome.stopped}", style="yellow")


def _front(outcome: Outcome) -> list[tuple[float, float]]:
    """Milliseconds and accuracy of what nothing beats in both, the fastest first."""
    return sorted({(ms, accuracy) for _, (accuracy, ms) in outcome.front})


def _gene(value: Scalar) -> str:
    return terse(value) if isinstance(value, float) else str(value)


def sparkline(values: list[float], width: int = 40) -> str:
    """A curve of block characters, the mean of neighbours where there are more values than columns."""
    count = min(width, len(values))
    edges = [round(place * len(values) / count) for place in range(count + 1)]
    means = [statistics.fmean(values[low:high]) for low, high in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    step = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((mean - low) * step)] for mean in means)


def predictions(answers: list[Answer], screen: Screen) -> None:
    """Labels over answers, the wrong ones marked, and where the time went."""
    screen.console.print(Text("  label    " + " ".join(answer.label for answer in answers)))
    told = Text("  answer   ")
    for answer in answers:
        told.append(f"{answer.predicted} ", style="green" if answer.predicted == answer.label else "bold red reverse")
    screen.console.print(told)
    for wrong in (answer for answer in answers if answer.predicted != answer.label):
        screen.line(f"  wrong: a {wrong.label} was taken for a {wrong.predicted} ({wrong.confidence:.0%} sure)")
    screen.line(f"  {_latency(answers)}")


def _latency(answers: list[Answer]) -> str:
    """The median, so that the first call, which loads the model, does not colour the rest."""
    client = statistics.median(answer.client_ms for answer in answers)
    parts = [
        f"{stage} {statistics.median(answer.split_ms[stage] for answer in answers):.2f}"
        for stage in ("queue", "decode", "inference")
    ]
    return f"median {client:.1f} ms for the client; in the platform: {', '.join(parts)} ms"


def tensor(info: Json) -> str:
    """An input or output: `input float32[batch, 3, 32, 32]`."""
    return f"{info['name']} {info['dtype']}[{', '.join(map(str, info['shape']))}]"


def serving(serves: Json) -> str:
    """What serves a model: `openvino in INT8, 2 threads a session, batches up to 1 (report)`."""
    what = f"{serves['engine']} in {serves['precision'].upper()}, {plural(serves['threads'], 'thread')} a session"
    jpegs = f", JPEGs decoded at 1/{serves['jpeg_scale']}" if (serves["jpeg_scale"] or 1) > 1 else ""
    return f"{what}, batches up to {serves['batch_size']}{jpegs} ({serves['source']})"
