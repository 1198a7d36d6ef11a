"""A training beside the one before it: what was ordered otherwise, what came of it, whether that is more."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from reporter import TrainingRecord, plain
from reporter.parts import Cell, Row, Table
from reporter.training import NAMES, duration, metric, value_words
from shared.verdict.comparison import apart
from shared.verdict.figures import capital, figure, hundredths
from shared.verdict.training import accuracy


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """Two trainings side by side, the earlier one first."""

    names: tuple[str, str]
    told: list[str]
    tables: list[Table]


def pair(before: TrainingRecord, after: TrainingRecord) -> Pair:
    """The comparison of two trainings of one task."""
    differences = Table(
        title="What was different",
        of="What",
        columns=[("Before", ""), ("Now", "")],
        rows=[_row(what, then, now) for what, then, now in _differences(before, after)],
        note="Hyper-parameters as they were used; all others were the same.",
    )
    results = Table(
        title="What came of it",
        of="Result",
        columns=[("Before", ""), ("Now", "")],
        rows=[_row(what, then, now) for what, then, now in _results(before, after)],
    )
    return Pair(
        names=(f"before: {before.id}", f"now: {after.id}"),
        told=[_better(before, after), *_qualified(before, after)],
        tables=[table for table in (differences, results) if table.rows],
    )


def same_images(before: TrainingRecord, after: TrainingRecord) -> bool:
    """Whether both were judged by the same validation images."""
    divided = after.spec.validation_split
    return (
        before.dataset_sha256 == after.dataset_sha256
        and before.spec.validation_split == divided
        and (divided is None or before.result.seed == after.result.seed)
    )


def _row(what: str, before: str, after: str) -> Row:
    return Row(key=what, name=what, selected=False, cells=[Cell(text=before), Cell(text=after)])


def _better(before: TrainingRecord, after: TrainingRecord) -> str:
    """The difference in accuracy; two classifiers are taken for independent, which asks for more than it must."""
    if after.task_type == "detection":
        more = after.result.final_accuracy - before.result.final_accuracy
        told = f"{abs(more):.3f} {'lower' if more < 0 else 'higher'}" if more else "the same"
        return f"Its mean average precision is {told}; how much of that is chance is not known."
    by = apart(accuracy(before.result), accuracy(after.result))
    return f"Its accuracy is {plain.difference(by.value, by.low, by.high)}."


def _qualified(before: TrainingRecord, after: TrainingRecord) -> Iterator[str]:
    if not same_images(before, after):
        yield "The two were judged by different validation images, so the figures compare only roughly."
    if before.result.seed == after.result.seed and not list(_differences(before, after)):
        yield "Nothing that counts was different: on a processor the two are the same."


def _differences(before: TrainingRecord, after: TrainingRecord) -> Iterator[tuple[str, str, str]]:
    old, new = _order(before), _order(after)
    for what in dict.fromkeys([*old, *new]):
        was, now = old.get(what), new.get(what)
        if was != now:
            then, later = value_words(was), value_words(now)
            yield what, *((str(was), str(now)) if then == later else (then, later))


def _order(record: TrainingRecord) -> dict[str, object]:
    """Everything that decides over what comes of a training: settings as they are, the rest in words."""
    result, spec = record.result, record.spec
    used = msgspec.structs.asdict(result.hyperparams)
    divided = "as the dataset has it" if spec.validation_split is None else f"{spec.validation_split:.0%} anew"
    return {
        "Model": f"{record.model} ({record.model_id})",
        "Dataset": f"{record.dataset} ({record.dataset_sha256[:12]})",
        "Division": divided,
        "Epochs at most": f"{spec.max_epochs}",
        "Seed": f"{result.seed}",
        **{NAMES.get(name, name): value for name, value in used.items()},
        "Device": f"{result.device}, threads {result.threads}",
        **{f"Version of {name}": version for name, version in sorted(result.versions.items())},
    }


def _results(before: TrainingRecord, after: TrainingRecord) -> Iterator[tuple[str, str, str]]:
    old, new = _reached(before), _reached(after)
    return ((what, old[what], new[what]) for what in new)


def _reached(record: TrainingRecord) -> dict[str, str]:
    result = record.result
    return {
        capital(metric(record)): _accuracy_words(record),
        "Validation loss": f"{result.final_loss:.3g}",
        "Best epoch": f"{result.best_epoch} of {len(result.epochs)}",
        "Took": duration(result.duration_s),
        "Images a second": figure(result.images_per_s),
    }


def _accuracy_words(record: TrainingRecord) -> str:
    if record.task_type == "detection":
        return f"{record.result.final_accuracy:.3f}"
    found = accuracy(record.result)
    if found.low is None or found.high is None:
        return f"{hundredths(found.value)} %"
    return f"{hundredths(found.value)} % ({hundredths(found.low)}–{hundredths(found.high)})"
