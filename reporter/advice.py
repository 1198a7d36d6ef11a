"""What to do next after a training, by rules that the report states beside the answers."""

from __future__ import annotations

from reporter import TrainingRecord, plain
from reporter.confusion import Mixup, mixups
from shared.specs import EpochFigures, Task, TrainingResult
from shared.verdict.accuracy import wilson
from shared.verdict.figures import hundredths, listing, terse
from shared.verdict.training import ENOUGH, FEW, MAP_READY, MAP_SOME, ROUGH, accuracy, classes, judged, width

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
    f"Train longer: the best epoch is among the last {hundredths(LATE)} % of the epochs, or the very last. A "
    "detector that found nothing useful, too, if its validation loss was lowest in the last epoch.",
    "Begin with learned weights: the model is not ready, and those it began with were drawn from a seed.",
    f"Learned by heart: in the best epoch the training images are recognised {plain.points(GAP)} better than others, "
    "or more; the figure is taken while they are varied and values are dropped, so the real gap is larger.",
    f"Too little learned: fewer than {hundredths(HARD)} % of the training images are recognised, and no better "
    "than others.",
    f"The curve jumps: {FALLS} or more epochs fell {plain.points(FALL)} below the best before them.",
    f"A mix-up is named where it takes {hundredths(SHARE)} % of a class and {FEW} images, or more.",
]


# --- what to do next ------------------------------------------------------------------------------------------------


def next_steps(record: TrainingRecord) -> list[str]:
    """What to do now, the most important first."""
    result, finding = record.result, judged(record.task_type, record.result)
    steps = [_learning(result) or _falling(record), _begin(record), _balance(record), _steady(result)]
    if record.task_type == "classification":
        steps += [_more_images(result), _classes(result)]
    ready = finding.level in ENOUGH
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
    if record.task_type != "detection" or judged(record.task_type, record.result).level != "nothing" or not unfinished:
        return None
    return (
        f"Train longer, several times as many epochs: after {len(losses)} it finds nothing yet, but the validation "
        f"loss was still falling, from {losses[0]:.3g} to {losses[-1]:.3g}."
    )


def _begin(record: TrainingRecord) -> str | None:
    """Of a model that is not ready, and began with nothing."""
    if not record.unlearned or judged(record.task_type, record.result).level in ENOUGH:
        return None
    return (
        f"Begin with weights that have learned something: those of {record.model} had not. Upload a checkpoint of the "
        "same network, with its architecture, or train that further which learned most here."
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
    if width(found) < ROUGH:
        return None
    wanted = -(-images // STEP) * STEP
    while width(wilson(round(found.value * wanted), wanted)) >= ROUGH:
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


def _percent(share: float) -> str:
    return f"{hundredths(share)} %"
