"""`cvp models` and `cvp datasets`: what was uploaded; list it, show it, add to it, delete from it."""

from __future__ import annotations

import itertools
from pathlib import Path

from console import printout
from console.client import Client, Json, Noun
from console.jobs import watching
from console.screen import Screen
from console.session import clock, find, signed_in
from shared import config, errors
from shared.verdict.figures import plural

CHECK_BOUND_S = 86_400.0
"""Ten gigabytes of images are checked within an hour; others may be ahead of them."""

FEW = 5
"""Warnings that are shown."""

JOB_OF: dict[Noun, str] = {"models": "convert", "datasets": "dataset"}
NEXT: dict[Noun, str] = {
    "models": "`cvp benchmark {id}` measures it.",
    "datasets": "`cvp datasets show {id}` tells more.",
}


def listed(
    settings: config.Settings, screen: Screen, noun: Noun, limit: int, *, as_json: bool, **wanted: str | None
) -> None:
    """The newest, one a line."""
    with signed_in(settings) as client:
        found = list(itertools.islice(client.items(noun, **wanted), limit))
    if as_json:
        screen.json(found)
    elif not found:
        screen.line(f"No {noun}. `cvp {noun} add FILE` uploads one.")
    else:
        row = _model_row if noun == "models" else _dataset_row
        screen.rows([row(item) for item in found], wide="name", numbers=("size", "classes", *SPLITS))


def shown(settings: config.Settings, screen: Screen, noun: Noun, said: str, *, as_json: bool) -> None:
    """All there is to know of one."""
    with signed_in(settings) as client:
        item = client.item(noun, find(client, noun, said)["id"])
    if as_json:
        screen.json(item)
    elif noun == "models":
        _show_model(item, screen)
    else:
        _show_dataset(item, screen)


def deleted(settings: config.Settings, screen: Screen, noun: Noun, item: Json) -> None:
    """Delete what `found` gave."""
    with signed_in(settings) as client:
        client.delete(noun, item["id"])
    screen.line(f"Deleted {item['id']}, {item['name']}.")


def found(settings: config.Settings, noun: Noun, said: str) -> Json:
    """The one that is meant."""
    with signed_in(settings) as client:
        return find(client, noun, said)


def added(
    settings: config.Settings,
    screen: Screen,
    noun: Noun,
    path: Path,
    fields: Json,
    *,
    archive: str | None = None,
    detach: bool,
    as_json: bool,
) -> None:
    """Upload a file and wait until it has been checked.

    Args:
        settings: In force.
        screen: Where it is told.
        noun: What the file is.
        path: The file.
        fields: As the API takes them; None is not sent.
        archive: Of a CSV: the dataset that has the images, by id or name.
        detach: Do not wait for the check.
        as_json: Print the model or dataset as the API shows it.

    Raises:
        errors.BadModel, errors.BadDataset: The check refused it; the message says why.
    """
    with signed_in(settings) as client:
        if archive is not None:
            fields = fields | {"archive_id": find(client, "datasets", archive)["id"]}
        item = _upload(client, screen, noun, path, fields)
        if not detach:
            item = _checked(client, screen, noun, item)
    if as_json:
        screen.json(item)
        return
    screen.line(f"{noun.removesuffix('s').capitalize()} {item['id']}, {item['name']}: {_standing(item)}.")
    screen.line(f"`cvp jobs follow {item['job_id']}` shows its check." if detach else NEXT[noun].format(**item))


def _upload(client: Client, screen: Screen, noun: Noun, path: Path, fields: Json) -> Json:
    size = path.stat().st_size
    try:
        with screen.bar("upload") as advance:
            return client.upload(noun, path, fields, lambda sent: advance(sent / max(size, 1), _size(sent)))
    except KeyboardInterrupt:
        screen.line()
        screen.line("The upload was stopped; nothing of it is kept.")
        raise


def _checked(client: Client, screen: Screen, noun: Noun, item: Json) -> Json:
    """Wait for the check.

    Raises:
        errors.BadModel, errors.BadDataset: It was refused.
    """
    with watching(screen, "check", {"id": item["job_id"], "kind": JOB_OF[noun]}) as on_state:
        client.wait_for_job(item["job_id"], CHECK_BOUND_S, on_state)
    item = client.item(noun, item["id"])
    if item["status"] == "failed":
        refusal = errors.BadModel if noun == "models" else errors.BadDataset
        raise refusal(f"{item['name']} ({item['id']}) was refused: {item['error']}")
    return item


# --- as lines and tables --------------------------------------------------------------------------------------------

SPLITS = ("train", "val", "test")


def _model_row(model: Json) -> dict[str, str]:
    made = model["onnx_size"] or not model["preset"]
    return {
        "model": model["id"],
        "name": model["name"],
        "status": model["status"],
        "task": model["task_type"],
        "size": _size(model["onnx_size"] or model["file_size"]) if made else "",
        "serves": _serves(model),
        "added (UTC)": clock(model["created_at"]),
    }


def _dataset_row(dataset: Json) -> dict[str, str]:
    splits = dataset["splits"] or {}
    return {
        "dataset": dataset["id"],
        "name": dataset["name"],
        "status": dataset["status"],
        "task": dataset["task_type"],
        "classes": _number(dataset["num_classes"]),
        **{part: _number(splits.get(part)) for part in SPLITS},
        "size": _size(dataset["file_size"]),
        "added (UTC)": clock(dataset["created_at"]),
    }


def _show_model(model: Json, screen: Screen) -> None:
    _head(model, screen)
    about = [model["task_type"], model["framework"], _size(model["file_size"])]
    facts = {
        "what": ", ".join([*about, *([f"as ONNX {_size(model['onnx_size'])}"] if model["onnx_size"] else [])]),
        "network": model["architecture"],
        "weights": (model["preset"] or {}).get("weights"),
        "takes": ", ".join(map(printout.tensor, model["inputs"])),
        "gives": ", ".join(map(printout.tensor, model["outputs"])),
        "classes": _classes(model["labels"]),
        "learned": _learned(model["lineage"]),
        "from": model["parent_id"],
        "serves": _serves(model),
        "training": "possible" if model["trainable"] else model["why_not"],
    }
    _facts(facts, screen)
    for note in model["notes"]:
        screen.line(f"  {note}", style="dim")


def _show_dataset(dataset: Json, screen: Screen) -> None:
    _head(dataset, screen)
    facts = {
        "what": f"{dataset['task_type']}, {_size(dataset['file_size'])}",
        "images": _number(dataset["num_samples"]),
        "classes": _classes(dataset.get("classes")),
    }
    _facts(facts, screen)
    if counts := (dataset.get("statistics") or {}).get("classes"):
        screen.line()
        rows = [{"class": count["name"], **{part: _number(count[part]) for part in SPLITS}} for count in counts]
        rows.append({"class": "all", **{part: _number(dataset["splits"][part]) for part in SPLITS}})
        screen.rows(rows, wide="class", numbers=SPLITS)
    _warn(dataset, screen)


def _warn(dataset: Json, screen: Screen) -> None:
    """What its owner should know."""
    warnings, total = dataset.get("warnings") or [], dataset["num_warnings"] or 0
    if warnings:
        screen.line()
    for warning in warnings[:FEW]:
        screen.line(f"  {warning['where']}: {warning['what']}", style="yellow")
    if total > FEW:
        screen.line(f"  and {plural(total - FEW, 'warning')} more; --json has them", style="yellow")
    if pairs := dataset.get("num_near_duplicates"):
        screen.line(f"  {plural(pairs, 'pair')} of images in different parts look alike; --json has them", "yellow")


def _head(item: Json, screen: Screen) -> None:
    screen.line(f"{item['name']}: {_standing(item)}", style="bold")
    _facts({"id": item["id"], "added": f"{clock(item['created_at'])} UTC", "about": item["description"]}, screen)


def _facts(facts: dict[str, str | None], screen: Screen) -> None:
    for name, value in facts.items():
        if value:
            screen.line(f"  {name:<10}{value}")


def _standing(item: Json) -> str:
    return f"{item['status']}, {item['error']}" if item["error"] else str(item["status"])


def _learned(lineage: Json | None) -> str | None:
    if lineage is None:
        return None
    return f"{lineage['dataset_name']} ({lineage['dataset_id']}), training {lineage['training_id']}"


def _serves(model: Json) -> str:
    serves = model["serves"]
    return f"{serves['engine']} {serves['precision']}" if serves else ""


def _classes(names: list[str] | None) -> str | None:
    if not names:
        return None
    return f"{len(names):,}: {', '.join(names[:8])}{', …' if len(names) > 8 else ''}"


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _size(size_bytes: int) -> str:
    for unit, step in (("GB", 1e9), ("MB", 1e6)):
        if size_bytes >= step:
            return f"{size_bytes / step:,.1f} {unit}"
    return f"{size_bytes / 1e3:,.0f} kB"
