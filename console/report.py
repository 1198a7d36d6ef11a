"""`cvp report`: reports as files, whether they are what they say, and what differs between two of them."""

from __future__ import annotations

import itertools
import re
from contextlib import suppress
from pathlib import Path

import msgspec

from console.client import Format, Json
from console.screen import Screen
from console.session import clock, find, signed_in
from shared import config, errors, ids
from shared.verdict.comparison import Comparison, Shift, Shifts, Standing, compare
from shared.verdict.figures import QUANTITIES, capital, estimate, factor, figure, listing, quantity
from shared.verdict.report import Report, parse
from shared.verdict.verification import Check, Outcome, verdict, verification

MOST_BYTES = 2**30
"""A report or a measurement set is never this large; what is would only fill the memory."""

ID = re.compile(r"rep_[0-9A-Za-z]{1,64}")
OUTCOMES: dict[Outcome, str] = {"holds": "holds", "fails": "FAILS", "unknown": "not checked"}
STYLES: dict[Outcome, str] = {"holds": "green", "fails": "bold red", "unknown": "yellow"}
EXIT_CODES: dict[Outcome, int] = {"holds": 0, "fails": 1, "unknown": 3}
STANDINGS: dict[Standing, str] = {"changed": "changed", "unclear": "not settled"}


def listed(settings: config.Settings, screen: Screen, limit: int, model: str | None, *, as_json: bool) -> None:
    """The reports of benchmarks, newest first; `model` by id or name."""
    with signed_in(settings) as client:
        wanted = {} if model is None else {"model_id": find(client, "models", model)["id"]}
        found = list(itertools.islice(client.reports(**wanted), limit))
    if as_json:
        screen.json(found)
    elif not found:
        screen.line("No reports. `cvp benchmark MODEL` makes one.")
    else:
        screen.rows([_ref(each) for each in found], wide="chosen")


def _ref(found: Json) -> dict[str, str]:
    return {
        "report": found["id"],
        "model": found["model_id"],
        "chosen": found["selected_engine"] or "nothing",
        "written (UTC)": clock(found["created_at"]),
    }


def export(settings: config.Settings, screen: Screen, report_id: str, form: Format | None, out: Path | None) -> None:
    """Save a report as a file, whole or not at all: that of a benchmark by its own id, that of a training by the job's.

    Args:
        settings: In force.
        screen: Where it is told.
        report_id: Of the report, or of the training.
        form: The format; by default what is for reading, the PDF of a benchmark's and the page of a training's.
        out: The file; by default named by the id, in this folder.
    """
    of_training = ids.is_id(report_id, "job")
    if not (of_training or ID.fullmatch(report_id)):
        raise errors.InvalidInput(f"{report_id[:80]} is no id of a report (rep_…) or of a training (job_…).")
    form = form or ("html" if of_training else "pdf")
    if of_training and form not in ("html", "json"):
        raise errors.InvalidInput(f"The report of a training is saved as html or json, not as {form}.")
    with signed_in(settings) as client:
        content = client.training_report(report_id, form) if of_training else client.export(report_id, form)
    path = out or Path(f"{report_id}-measurements.json" if form == "measurements" else f"{report_id}.{form}")
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        said = f"{path} cannot be written: {error.strerror}. Name another file with --out."
        raise errors.InvalidInput(said) from error
    finally:
        with suppress(OSError):
            part.unlink()
    screen.line(f"Saved {path} ({len(content):,} bytes).")


def verify(settings: config.Settings, screen: Screen, source: str, measurements: Path | None) -> int:
    """Check a report, a line for each check; the exit code."""
    report = _content(settings, source)
    known, absent = _measurements(settings, report, measurements)
    checks = verification(report, known, absent)
    for check in checks:
        _tell(check, screen)
    outcome = verdict(checks)
    said = {
        "holds": "The report is what it says, and follows from its measurements.",
        "fails": "It does not verify: do not rely on it.",
        "unknown": "What could be checked holds; the rest was not.",
    }[outcome]
    screen.line(said, style=STYLES[outcome])
    return EXIT_CODES[outcome]


def _tell(check: Check, screen: Screen) -> None:
    screen.console.print(f"{check.name:<10}", end="")
    screen.console.print(f"{OUTCOMES[check.outcome]:<13}", style=STYLES[check.outcome], end="")
    screen.line(check.text)


def diff(settings: config.Settings, screen: Screen, sources: tuple[str, str], *, as_json: bool) -> None:
    """Print what differs between two reports."""
    before, after = (_parsed(source, _content(settings, source)) for source in sources)
    found = compare(before, after)
    if as_json:
        screen.json(found)
    else:
        _print(found, screen)


# --- where reports come from ----------------------------------------------------------------------------------------


def _content(settings: config.Settings, source: str) -> bytes:
    """A file, or the record of the report with this id.

    Raises:
        errors.NotFound: There is neither.
    """
    path = Path(source)
    if path.is_file():
        return _read(path)
    if not ID.fullmatch(source):
        raise errors.NotFound(f"There is no file {source}, and it is no id of a report (rep_…).")
    with signed_in(settings) as client:
        return client.export(source, "json")


def _read(path: Path) -> bytes:
    if path.stat().st_size > MOST_BYTES:
        raise errors.InvalidInput(f"{path} is larger than any report; is it the right file?")
    return path.read_bytes()


def _measurements(settings: config.Settings, report: bytes, given: Path | None) -> tuple[bytes | None, str]:
    """Those of a file, else those that the platform on this machine has; else why there are none."""
    if given is not None:
        return _read(given), ""
    why = "The measurements are not at hand, so nothing was computed again; --measurements FILE gives them"
    try:
        report_id = parse(report).id
    except (msgspec.DecodeError, RecursionError, UnicodeError):  # the checks say what is wrong with it
        return None, f"{why}."
    if not ID.fullmatch(report_id):
        return None, f"{why}."
    try:
        with signed_in(settings) as client:
            return client.export(report_id, "measurements"), ""
    except errors.AppError as error:
        return None, f"{why}. {error.message}"


def _parsed(source: str, content: bytes) -> Report:
    try:
        return parse(content)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise errors.InvalidInput(f"{source} is no report as JSON: {error}.") from error


# --- what differs ---------------------------------------------------------------------------------------------------


def _print(found: Comparison, screen: Screen) -> None:
    screen.line(
        f"From {found.before} ({clock(found.before_at)} UTC) to {found.after} ({clock(found.after_at)} UTC)", "bold"
    )
    if not found.comparable:
        screen.line("Another model file or another machine: the figures are not of one thing.", style="yellow")
    _print_decision(found, screen)
    _heading("Conditions", screen)
    for condition in found.conditions:
        screen.line(f"  {condition.what}: {_value(condition.before)} -> {_value(condition.after)}")
    for disturbance in found.disturbances:
        screen.line(f"  {disturbance}")
    if not found.conditions and not found.disturbances:
        screen.line("  the same order, model, machine and software")
    _heading(f"Figures (within noise: less than {100 * found.margin:.3g} % apart; 95 % intervals in brackets)", screen)
    for item in found.candidates:
        _print_candidate(item, screen)


def _print_decision(found: Comparison, screen: Screen) -> None:
    before, after = found.selected_before or "nothing", found.selected_after or "nothing"
    if before == after:
        screen.line(f"Both choose {before}.")
    else:
        screen.line(f"The choice changed: {before} -> {after}.", style="bold yellow")
    if found.scale_before != found.scale_after:
        scales = " -> ".join(
            "as the contract says" if each is None else f"at 1/{each}"
            for each in (found.scale_before, found.scale_after)
        )
        screen.line(f"JPEGs are decoded at another part of their size: {scales}.", style="bold yellow")
    if found.fragile:
        screen.line("A choice was fragile: another run may have chosen differently.", style="yellow")


def _print_candidate(item: Shifts, screen: Screen) -> None:
    """What differs of a candidate, figure by figure, and what does not in one line."""
    if not item.shifts:
        states = item.before if item.before == item.after else f"{item.before} -> {item.after}"
        screen.line(f"  {item.candidate}: {states}" + (f", {item.reason}" if item.reason else ""), style="dim")
        return
    screen.line(f"  {item.candidate}")
    for shift in item.shifts:
        if shift.standing != "alike":
            name = capital(QUANTITIES[shift.metric].label)
            values = " -> ".join(quantity(shift.metric, figure(value)) for value in (shift.before, shift.after))
            style = "yellow" if shift.standing == "changed" else ""
            screen.line(f"    {name:<15}{STANDINGS[shift.standing]:<13}{values}; {_by(shift)}", style=style)
    if alike := [QUANTITIES[shift.metric].label for shift in item.shifts if shift.standing == "alike"]:
        screen.line(f"    within noise: {listing(alike)}", style="dim")


def _by(shift: Shift) -> str:
    if shift.metric in ("accuracy", "accuracy_drop"):
        return f"by {estimate(shift.by, shift.low, shift.high)}"
    bounds = "" if shift.low is None or shift.high is None else f" ({shift.low:.2f}–{shift.high:.2f})"
    return f"{factor(shift.by)}{bounds}"


def _heading(text: str, screen: Screen) -> None:
    screen.line()
    screen.line(text, style="bold")


def _value(value: object) -> str:
    text = "none" if value is None else value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else f"{text[:57]}..."
