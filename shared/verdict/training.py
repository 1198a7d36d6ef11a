"""What a training came to: whether it learned enough for a benchmark, by rules that its report states."""

from __future__ import annotations

from collections import Counter
from typing import Literal, NamedTuple

from shared.specs import Task, TrainingResult
from shared.verdict.accuracy import wilson
from shared.verdict.constraints import Verdict
from shared.verdict.figures import hundredths, plural, some
from shared.verdict.intervals import Interval

Level = Literal["ready", "rough", "weak", "nothing"]
ENOUGH: tuple[Level, ...] = ("ready", "rough")
"""For a benchmark."""

ROUGH = 0.10
"""An interval as wide as this, or wider, is rough."""
FEW = 5
"""Validation images of a class; of fewer, nothing is said about it."""
MAP_READY, MAP_SOME = 0.25, 0.02
"""Of a detector, mean average precision over IoU 0.50 to 0.95."""


class Class(NamedTuple):
    """How the validation images of a class were answered."""

    place: int
    name: str
    images: int
    right: int
    said: int
    """How often the answer was this class, rightly or not."""

    @property
    def share(self) -> float:
        """Of its images, those that are recognised."""
        return self.right / self.images if self.images else 0.0


def classes(result: TrainingResult) -> list[Class]:
    """All classes in their order."""
    images, right, said = Counter[int](), Counter[int](), Counter[int]()
    for true, answer, count in result.confusion:
        images[true] += count
        said[answer] += count
        if true == answer:
            right[true] += count
    return [Class(place, name, images[place], right[place], said[place]) for place, name in enumerate(result.classes)]


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


def judged(task: Task, result: TrainingResult) -> Finding:
    """Good enough to benchmark? Classifiers by the images they recognise, detectors by mean average precision."""
    return _detector(result) if task == "detection" else _classifier(result)


def _classifier(result: TrainingResult) -> Finding:
    found, common = accuracy(result), most_common(result)
    images = sum(each.images for each in classes(result))
    low, high = found.low or 0.0, 1.0 if found.high is None else found.high  # of no images nothing is known
    between = f"between {hundredths(low)} and {hundredths(high)} % with 95 % confidence"
    share = common.images / max(1, images)
    if low <= share:
        guess = f"always answering “{common.name}” would be right for {hundredths(share)} %"
        text = f"The accuracy lies {between}, and {guess}."
        return Finding("nothing", "No: nothing useful was learned", text, "fail")
    never = [each for each in classes(result) if each.images >= FEW and not each.right]
    if never:
        named = some([f"“{each.name}”" for each in never])
        text = f"{named} {'is' if len(never) == 1 else 'are'} never recognised; the accuracy lies {between}."
        return Finding("weak", "Not yet", text, "inconclusive")
    if width(found) >= ROUGH:
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


def width(found: Interval) -> float:
    """Of an interval of a share; 1 where nothing is known."""
    return 1.0 if found.low is None or found.high is None else found.high - found.low
