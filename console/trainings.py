"""`cvp trainings`: what was trained, as a list or a table for a spreadsheet, and two of them side by side."""

from __future__ import annotations

import itertools
from typing import Any

import click

from console.client import Client, Json
from console.jobs import check_id, progress
from console.printout import sparkline
from console.screen import Screen
from console.session import clock, find, signed_in
from shared import config
from shared.verdict.figures import terse

ENDED = ("completed", "failed", "cancelled")
MEASURES = {"classification": "accuracy", "detection": "mAP50-95"}
"""What the accuracy of a task is called."""

WIDEST = 60


def listed(
    settings: config.Settings,
    screen: Screen,
    limit: int,
    *,
    model: str | None,
    dataset: str | None,
    status: str | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Trainings and searches, newest first; `model` and `dataset` by id or name."""
    with signed_in(settings) as client:
        wanted = {
            "model_id": model and find(client, "models", model)["id"],
            "dataset_id": dataset and find(client, "datasets", dataset)["id"],
            "status": status,
        }
        if as_csv:
            _print_table(client, limit, wanted)
            return
        found = list(itertools.islice(client.trainings(**wanted), limit))
    if as_json:
        screen.json(found)
    elif not found:
        screen.line("No trainings. `cvp train MODEL DATASET` orders one.")
    else:
        screen.rows([_row(training) for training in found], wide="model")


def _print_table(client: Client, limit: int, wanted: dict[str, str | None]) -> None:
    for piece in client.trainings_table(limit, **wanted):
        click.echo(piece, nl=False)


def _row(training: Json) -> dict[str, str]:
    accuracy = training["final_accuracy"]
    part, what = progress(training | {"kind": "train"})
    now = "" if training["status"] in ENDED else f"{part:.0%} {what}"
    reached = "" if accuracy is None else f"{MEASURES[training['task_type']]} {accuracy:.3f}"
    return {
        "training": training["id"],
        "status": training["status"],
        "model": training["model_name"],
        "dataset": training["dataset_name"],
        "reached": training["error"] or reached or now,
        "made": training["result_model_id"] or "",
        "ordered (UTC)": clock(training["created_at"]),
    }


def compared(settings: config.Settings, screen: Screen, a: str, b: str, *, as_json: bool) -> None:
    """What differs between two trainings: in the order, along the way, in the end."""
    for training_id in (a, b):
        check_id(training_id)
    with signed_in(settings) as client:
        found = client.compared(a, b)
    if as_json:
        screen.json(found)
        return
    for letter in ("a", "b"):
        one = found[letter]
        screen.line(f"{letter.upper()}  {one['id']}  {one['model_name']} on {one['dataset_name']}, {one['status']}")
        if one["epochs"]:
            curve = [each["val_accuracy"] for each in one["epochs"]]
            screen.line(f"   {sparkline(curve)}  {MEASURES[one['task_type']]} {min(curve):.3f} to {max(curve):.3f}")
    if found["note"]:
        screen.paragraph(found["note"], style="yellow")
    for title, differences in (("ordered otherwise", found["order"]), ("reached", found["outcome"])):
        screen.line()
        if differences:
            screen.rows([_difference(title, each) for each in differences], wide=title)
        else:
            screen.line(f"{title}: nothing")


def _difference(title: str, each: Json) -> dict[str, str]:
    delta = "" if each["delta"] is None else f"{'+' if each['delta'] > 0 else ''}{terse(each['delta'])}"
    return {title: each["name"], "A": _shown(each["a"]), "B": _shown(each["b"]), "B less A": delta}


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    text = terse(value) if isinstance(value, float) else str(value)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."
