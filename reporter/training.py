"""The report of a training: what was learned, whether it is good enough, what to do next, and everything beneath."""

from __future__ import annotations

import msgspec

from reporter import TrainingRecord
from reporter.advice import ADVICE, RULES, best_epoch, next_steps
from reporter.confusion import MOST_DRAWN, class_table, mixup_table, mixups
from reporter.lookup import when
from reporter.parts import NONE, Cell, Fact, Row, Table
from reporter.simple import KeyFigure
from shared.specs import HyperParameters, Task, TrainingResult, WorstSample
from shared.verdict.constraints import Verdict
from shared.verdict.figures import figure, hundredths, plural, terse
from shared.verdict.training import Level, accuracy, classes, judged

HEADLINES: dict[Level, str] = {
    "ready": "Ready to benchmark",
    "rough": "Ready to benchmark, roughly judged",
    "weak": "Not ready yet",
    "nothing": "Nothing useful was learned",
}
NAMES: dict[str, str] = {
    "learning_rate": "Learning rate",
    "batch_size": "Images a step",
    "optimizer": "Optimizer",
    "weight_decay": "Weight decay",
    "dropout_rate": "Dropout",
    "augmentation": "Augmentation",
    "image_size": "Image size",
    "class_balance": "Balance of classes",
    "frozen_stages": "Frozen stages",
    "patience": "Patience, epochs",
}
METHOD = (
    "Validation images take no part in learning, but the best epoch is chosen by them, so the figures look a little "
    "better than new images will.",
    "Intervals are Wilson's score intervals and hold for images of the same kind.",
)


UNLEARNED = "It began with weights that had learned nothing, drawn from a seed: all it knows comes from these images."


class Worst(msgspec.Struct, frozen=True, kw_only=True):
    """A validation image that the model gets most wrong; `place` among the pictures, if there are any."""

    place: int
    title: str
    detail: str
    wrong: bool


WORST_NOTES: dict[Task, str] = {
    "classification": "The validation images with the largest loss. Wrong labels are often among them.",
    "detection": "The validation images with the largest loss. Thick orange boxes are their labels, thin blue ones "
    "what the model finds. Wrong labels are often among them.",
}
"""What the pictures show."""


class TrainingView(msgspec.Struct, frozen=True, kw_only=True):
    """Everything in the report of a training, in the order it is read."""

    training_id: str
    model: str
    created_at: str
    headline: str
    summary: str
    notes: list[str]
    figures: list[KeyFigure]
    finding: str
    reason: str
    tone: Verdict
    learned: list[str]
    next: list[str]
    tables: list[Table]
    worst: list[Worst]
    worst_note: str
    hyperparams: Table
    facts: list[Fact]
    rules: list[str]
    advice: list[str]
    method: list[str]


def training_view(record: TrainingRecord) -> TrainingView:
    """The view of a training."""
    finding, result = judged(record.task_type, record.result), record.result
    return TrainingView(
        training_id=record.id,
        model=record.model,
        created_at=when(record.created_at),
        headline=HEADLINES[finding.level],
        summary=_summary(record),
        notes=[*([UNLEARNED] if record.unlearned else []), *result.notes],
        figures=_figures(record),
        finding=finding.title,
        reason=finding.text,
        tone=finding.tone,
        learned=_learned(record),
        next=next_steps(record),
        tables=[table for table in _tables(result) if table.rows],
        worst=[_worst(place, sample, result) for place, sample in enumerate(result.worst)],
        worst_note=WORST_NOTES[record.task_type],
        hyperparams=hyperparams(record),
        facts=_facts(record),
        rules=RULES[record.task_type],
        advice=ADVICE,
        method=list(METHOD),
    )


def _tables(result: TrainingResult) -> list[Table]:
    few = len(result.classes) <= MOST_DRAWN
    return [class_table(result)] if few else [class_table(result), mixup_table(result)]


def metric(record: TrainingRecord) -> str:
    """What the accuracy of its curves is called."""
    return "mAP50-95" if record.task_type == "detection" else "accuracy"


def _summary(record: TrainingRecord) -> str:
    """One sentence under the headline."""
    result = record.result
    if record.task_type == "detection":
        reached = f"reaches a mean average precision (mAP50-95) of {result.final_accuracy:.3f}"
    else:
        reached = f"recognises {hundredths(accuracy(result).value)} %"
    images = plural(result.num_val, "validation image")
    of = "on" if record.task_type == "detection" else "of"
    return f"{record.model}, trained on {record.dataset}, {reached} {of} {images}."


# --- the first page -------------------------------------------------------------------------------------------------


def _figures(record: TrainingRecord) -> list[KeyFigure]:
    result = record.result
    learned = f"in {len(result.classes):,} classes; {plural(result.num_val, 'other')} to judge it by"
    found = [
        KeyFigure(label="Learned from", figure=f"{result.num_train:,}", unit="images", meaning=learned),
        KeyFigure(label="Training took", figure=duration(result.duration_s), unit="", meaning=_epochs(result)),
    ]
    return [*(_precision(result) if record.task_type == "detection" else _shares(result)), *found]


def _precision(result: TrainingResult) -> list[KeyFigure]:
    half = "" if result.final_map50 is None else f"; {result.final_map50:.3f} where half an overlap is enough (mAP50)"
    whole = f"mean average precision over IoU 0.50 to 0.95{half}"
    return [KeyFigure(label="Accuracy", figure=f"{result.final_accuracy:.3f}", unit="mAP50-95", meaning=whole)]


def _shares(result: TrainingResult) -> list[KeyFigure]:
    found = accuracy(result)
    images = sum(each.images for each in classes(result))
    known = (
        ""
        if found.low is None or found.high is None
        else (f"; {hundredths(found.low)} to {hundredths(found.high)} % with 95 % confidence")
    )
    meaning = f"of {plural(images, 'validation image')}{known}"
    least = min((each for each in classes(result) if each.images), key=lambda each: (each.share, each.place))
    rest = f"of {plural(least.images, 'image')} of “{least.name}”, the class that is recognised least"
    return [
        KeyFigure(label="Recognised", figure=hundredths(found.value), unit="%", meaning=meaning),
        KeyFigure(label="Weakest class", figure=hundredths(least.share), unit="%", meaning=rest),
    ]


def _epochs(result: TrainingResult) -> str:
    ended = ", ended early" if result.stopped_early else ""
    return f"{plural(len(result.epochs), 'epoch')}{ended}; {figure(result.images_per_s)} images/s on {result.device}"


def _learned(record: TrainingRecord) -> list[str]:
    said = _classes_learned(record.result) if record.task_type == "classification" else _boxes_learned(record.result)
    return [*said, _course(record.result)]


def _classes_learned(result: TrainingResult) -> list[str]:
    known = [each for each in classes(result) if each.images]
    right, images = sum(each.right for each in known), sum(each.images for each in known)
    said = [
        f"It tells {len(result.classes):,} classes apart: of {plural(images, 'image')} it did not learn from, it "
        f"recognises {right:,}."
    ]
    order = sorted(known, key=lambda each: (each.share, each.place))
    if order[0].share < order[-1].share:
        first, last = (f"“{each.name}” ({each.right} of {each.images})" for each in (order[-1], order[0]))
        said.append(f"It is best at {first} and weakest at {last}.")
    elif order[0].share == 1:
        said.append("It recognises every one of them.")
    for worst in mixups(result)[:1]:
        mistake = f"{worst.images} of {worst.of} images of “{worst.true}” are taken for “{worst.said}”"
        said.append(f"Its most frequent mistake: {mistake}.")
    return said


def _boxes_learned(result: TrainingResult) -> list[str]:
    return [
        f"It finds objects of {plural(len(result.classes), 'kind')} and draws boxes around them. Over overlaps with "
        f"the true boxes from a half to nearly all, its mean average precision is {result.final_accuracy:.3f} of 1."
    ]


def _course(result: TrainingResult) -> str:
    done, best = len(result.epochs), result.best_epoch
    if done == 1:
        return "One epoch was trained: a single point, not a curve."
    if best == done:
        return f"The last of {done} epochs was the best."
    after = plural(done - best, "epoch")
    ended = ", so it ended there" if result.stopped_early else ""
    return f"The best of {done} epochs was number {best}; {after} after it brought nothing better{ended}."


# --- beneath --------------------------------------------------------------------------------------------------------


def _worst(place: int, sample: WorstSample, result: TrainingResult) -> Worst:
    at = "" if sample.time_s is None else f" at {sample.time_s:g} s"
    where = f"{sample.member}{at}; loss {sample.loss:.3g}"
    if sample.class_id is None or sample.predicted is None:
        boxes = f"{len(sample.found)} {'box' if len(sample.found) == 1 else 'boxes'} found"
        return Worst(place=place, title=f"{plural(sample.objects, 'object')}, {boxes}", detail=where, wrong=True)
    sure = "" if sample.confidence is None else f", {hundredths(sample.confidence)} % sure"
    true, said = result.classes[sample.class_id], result.classes[sample.predicted]
    if sample.class_id == sample.predicted:
        return Worst(place=place, title=f"“{true}”, recognised{sure}", detail=where, wrong=False)
    return Worst(place=place, title=f"“{true}”, taken for “{said}”{sure}", detail=where, wrong=True)


def hyperparams(record: TrainingRecord) -> Table:
    """As they were used, and whether somebody said so."""
    default, used, wanted = HyperParameters(), record.result.hyperparams, record.spec.hyperparams
    rows = [
        Row(
            key=name,
            name=NAMES.get(name, name),
            selected=False,
            cells=[
                Cell(text=value_words(getattr(used, name))),
                Cell(text="default" if getattr(wanted, name) == getattr(default, name) else "ordered"),
            ],
        )
        for name in HyperParameters.__struct_fields__
    ]
    return Table(title="Hyper-parameters as used", of="Name", columns=[("Used", ""), ("From", "")], rows=rows)


def value_words(value: object) -> str:
    """A hyper-parameter as text."""
    if value is None:
        return NONE
    return terse(value) if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """`4.2 s`, `12 min 5 s`, `3 h 4 min`."""
    if seconds < 60:
        return f"{figure(seconds, 1)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, more = divmod(minutes, 60)
    return f"{hours:,} h {more} min" if hours else f"{minutes} min {rest} s"


def _facts(record: TrainingRecord) -> list[Fact]:
    spec, result = record.spec, record.result
    share = spec.validation_split
    divided = "as the dataset has it" if share is None else f"anew, {share:.0%} for validation"
    versions = ", ".join(f"{name} {version}" for name, version in sorted(result.versions.items()))
    best = best_epoch(result)
    return [
        Fact(label="Training", text=record.id),
        Fact(
            label="Began with",
            text=f"{record.model} ({record.model_id}){', nothing learned before' if record.unlearned else ''}",
        ),
        Fact(label="Made", text=record.result_model_id or "no model"),
        Fact(label="Dataset", text=f"{record.dataset} ({record.dataset_id})"),
        Fact(label="Index SHA-256", text=record.dataset_sha256),
        Fact(label="Division", text=f"{divided}; {result.num_train:,} images and {result.num_val:,}"),
        Fact(label="Epochs", text=f"{len(result.epochs)} of at most {spec.max_epochs}; best {result.best_epoch}"),
        Fact(label="Loss", text=f"of the best epoch {best.loss:.3g}, in validation {result.final_loss:.3g}"),
        Fact(label="Seed", text=f"{result.seed}"),
        Fact(label="Ran on", text=f"{result.device}, {plural(result.threads, 'processor thread')}"),
        Fact(label="Software", text=versions),
        Fact(label="Ordered at", text=record.created_at),
    ]
