"""What a training came to and what to do next, by rules that the report states beside the answers."""

from __future__ import annotations

from typing import Literal, NamedTuple

from reporter import TrainingRecord, plain
from reporter.confusion import Class, Mixup, classes, mixups
from shared.specs import EpochFigures, Task, TrainingResult
from shared.verdict.accuracy import wilson
from shared.verdict.constraints import Verdict
from shared.verdict.figures import listing, plural, some, terse
from shared.verdict.intervals import Interval

Level = Literal["ready", "rough", "weak", "nothing"]

ROUGH = 0.10
"""An interval as wide as this, or wider, is rough."""
FEW = 5
"""Validation images of a class; of fewer, nothing is said about it."""
LATE = 0.1
"""The best epoch lies in this last share of a training: it was still getting better."""
GAP = 0.10
"""Training images are recognised this much better than others: they were learned by heart."""
HARD = 0.90
"""Fewer training images are recognised, and no better than others: too little was learned."""
FALL, FALLS = 0.10, 3
"""So many epochs fell this far below the best before them: the curve jumps."""
STEP = 50
"""Validation images are advised in such steps."""
SHARE = 0.10
"""A mix-up of so much of a class, and of `FEW` images or more, is named."""
NAMED = 3
MAP_READY, MAP_SOME = 0.25, 0.02
"""Of a detector, mean average precision over IoU 0.50 to 0.95."""

RULES: dict[Task, list[str]] = {
    "classification": [
        "Nothing useful: the interval of the accuracy reaches down to what always giving the most common class of the "
        "validation images would reach.",
        f"Not ready: a class with {FEW} or more validation images is never recognised.",
        f"Ready, roughly judged: the 95 % interval is {100 * ROUGH:.0f} points wide or wider.",
        "Ready: none of these. Whether the accuracy is enough for what the model is meant for, no rule can say.",
    ],
    "detection": [
        f"Nothing useful: the mean average precision over IoU 0.50 to 0.95 is below {MAP_SOME}.",
        f"Not ready: it is below {MAP_READY}.",
        "Ready: neither. Whether that is enough for what the model is meant for, no rule can say.",
    ],
}
ADVICE = [
    f"Train longer: the best epoch is among the last {plain.hundredths(LATE)} % of the epochs, or the very last. A "
    "detector that found nothing useful, too, if its validation loss was lowest in the last epoch.",
    f"Learned by heart: in the best epoch the training images are recognised {plain.points(GAP)} better than others, "
    "or more; the figure is taken while they are varied and values are dropped, so the real gap is larger.",
    f"Too little learned: fewer than {plain.hundredths(HARD)} % of the training images are recognised, and no better "
    "than others.",
    f"The curve jumps: {FALLS} or more epochs fell {plain.points(FALL)} below the best before them.",
    f"A mix-up is named where it takes {plain.hundredths(SHARE)} % of a class and {FEW} images, or more.",
]


class Finding(NamedTuple):
    """Whether the result is good enough to be benchmarked, and why."""

    level: Level
    title: str
    text: str
    tone: Verdict


def accuracy(result: TrainingResult) -> Interval:
    """The share of the validation images that is recognised, with its 95 % interval."""
    return wilson(sum(each.right for each in classes(result)), sum(each.images for each in classes(result)))


def most_common(result: TrainingResult) -> Class:
    """The class that most validation images have."""
    return max(classes(result), key=lambda each: (each.images, -each.place))


def judged(record: TrainingRecord) -> Finding:
    """Good enough to benchmark? Classifiers by the images they recognise, detectors by mean average precision."""
    return _detector(record.result) if record.task_type == "detection" else _classifier(record.result)


def _classifier(result: TrainingResult) -> Finding:
    found, common = accuracy(result), most_common(result)
    images = sum(each.images for each in classes(result))
    low, high = found.low or 0.0, 1.0 if found.high is None else found.high  # of no images nothing is known
    between = f"between {plain.hundredths(low)} and {plain.hundredths(high)} % with 95 % confidence"
    if low <= common.images / max(1, images):
        guess = f"always answering “{common.name}” would be right for {_percent(common.images / max(1, images))}"
        text = f"The accuracy lies {between}, and {guess}."
        return Finding("nothing", "No: nothing useful was learned", text, "fail")
    never = [each for each in classes(result) if each.images >= FEW and not each.right]
    if never:
        named = some([f"“{each.name}”" for each in never])
        text = f"{named} {'is' if len(never) == 1 else 'are'} never recognised; the accuracy lies {between}."
        return Finding("weak", "Not yet", text, "inconclusive")
    if _width(found) >= ROUGH:
        text = f"The accuracy lies {between}: {plural(images, 'validation image')} do not tell more precisely."
        return Finding("rough", "Yes, though it is only roughly known how good it is", text, "inconclusive")
    enough = "Whether that is enough for its purpose is yours to say"
    return Finding("ready", "Yes", f"The accuracy lies {between}. {enough}.", "pass")


def _detector(result: TrainingResult) -> Finding:
    found = result.final_accuracy
    said = f"Its mean average precision over IoU 0.50 to 0.95 is {found:.3f}"
    if found < MAP_SOME:
        return Finding("nothing", "No: nothing useful was learned", f"{said}.", "fail")
    if found < MAP_READY:
        return Finding("weak", "Not yet", f"{said}; from {MAP_READY} on a benchmark makes sense.", "inconclusive")
    return Finding("ready", "Yes", f"{said}. Whether that is enough for its purpose is yours to say.", "pass")


# --- what to do next ------------------------------------------------------------------------------------------------


def next_steps(record: TrainingRecord) -> list[str]:
    """What to do now, the most important first."""
    result, finding = record.result, judged(record)
    steps = [_learning(result) or _falling(record), _balance(record), _steady(result)]
    if record.task_type == "classification":
        steps += [_more_images(result), _classes(result)]
    ready = finding.level in ("ready", "rough")
    found = [step for step in steps if step]
    if not ready and not found:
        found.append("Look at the worst samples and their labels, and train with another learning_rate.")
    return [_benchmark(record), *found] if ready else found


def _benchmark(record: TrainingRecord) -> str:
    return (
        f"Benchmark it with its dataset: cvp benchmark {record.result_model_id} --dataset {record.dataset_id}. "
        "That measures how fast each engine runs it here, and its gate judges accuracy by the part “test”, which this "
        "training never saw."
    )


def _learning(result: TrainingResult) -> str | None:
    epochs = len(result.epochs)
    late = epochs - result.best_epoch < max(1, round(LATE * epochs))
    if result.stopped_early or not late or result.final_accuracy >= 1:
        return None
    return (
        f"Train longer: the best epoch was {result.best_epoch} of {epochs}, so it was still getting better. "
        f"Twice as many is a fair next try."
    )


def _falling(record: TrainingRecord) -> str | None:
    """Of a detector that finds nothing yet, whose precision is mere chance from epoch to epoch."""
    result = record.result
    losses = [each.val_loss for each in result.epochs]
    unfinished = len(losses) > 1 and losses[-1] == min(losses) and not result.stopped_early
    if record.task_type != "detection" or judged(record).level != "nothing" or not unfinished:
        return None
    return (
        f"Train longer, several times as many epochs: after {len(losses)} it finds nothing yet, but the validation "
        f"loss was still falling, from {losses[0]:.3g} to {losses[-1]:.3g}."
    )


def _balance(record: TrainingRecord) -> str | None:
    """Learned by heart, or not learned at all."""
    best = best_epoch(record.result)
    if best.accuracy is None or record.task_type == "detection":
        return None
    if best.accuracy - best.val_accuracy >= GAP:
        return (
            f"Have it learn less by heart: it recognises {_percent(best.accuracy)} of its training images and "
            f"{_percent(best.val_accuracy)} of others. More images help most; then stronger augmentation, a higher "
            "dropout_rate or weight_decay, a smaller network."
        )
    if best.accuracy < HARD and best.accuracy <= best.val_accuracy:
        return (
            f"Have it learn more: it recognises only {_percent(best.accuracy)} of its own training images. Try another "
            "learning_rate, fewer frozen stages, weaker augmentation or a larger network."
        )
    return None


def _steady(result: TrainingResult) -> str | None:
    best, falls = 0.0, 0
    for each in result.epochs:
        falls += each.val_accuracy <= best - FALL
        best = max(best, each.val_accuracy)
    if falls < FALLS:
        return None
    rate = result.hyperparams.learning_rate
    used = f", which was {terse(rate)}" if rate else ""
    return f"Lower the learning_rate{used}: in {falls} epochs the accuracy fell far below the best before them."


def _more_images(result: TrainingResult) -> str | None:
    found, images = accuracy(result), sum(each.images for each in classes(result))
    if _width(found) < ROUGH:
        return None
    wanted = -(-images // STEP) * STEP
    while _width(wilson(round(found.value * wanted), wanted)) >= ROUGH:
        wanted += STEP
    return (
        f"Judge it by more images: with some {wanted:,} for validation, and not {images:,}, the accuracy would be "
        f"known within {plain.points(ROUGH / 2)} either way."
    )


def _classes(result: TrainingResult) -> str | None:
    """Look at what is mixed up most."""
    named = [each for each in mixups(result) if each.images >= FEW and each.images >= SHARE * each.of]
    if not named:
        return None
    return f"Look at the images and labels of these: {listing([_mixup(each) for each in named[:NAMED]])}."


def _mixup(found: Mixup) -> str:
    return f"{found.images} of {found.of} images of “{found.true}” are taken for “{found.said}”"


def best_epoch(result: TrainingResult) -> EpochFigures:
    """The figures of the epoch whose weights are the result."""
    return result.epochs[result.best_epoch - 1]


def _width(found: Interval) -> float:
    return 1.0 if found.low is None or found.high is None else found.high - found.low


def _percent(share: float) -> str:
    return f"{plain.hundredths(share)} %"
