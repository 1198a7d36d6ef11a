"""Which classes are taken for which: the matrix as a drawing, and the classes and mix-ups in figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from reportlab.graphics.shapes import Drawing
from reportlab.pdfbase.pdfmetrics import stringWidth

from reporter.charts import WIDTH
from reporter.parts import NONE, Cell, Row, Table
from reporter.shapes import FONT, SMALL, box, fit, stroke, words
from shared.specs import TrainingResult
from shared.verdict.accuracy import wilson
from shared.verdict.figures import some
from shared.verdict.training import Class, classes

MOST_DRAWN = 30
"""Classes; a larger matrix cannot be read."""
MOST_ROWS = 20
NAME_WIDTH = 90.0
CELL_MOST, TOP = 30.0, 62.0
COUNT_SIZE = 6.5


class Mixup(NamedTuple):
    """Images of one class that are taken for another."""

    true: str
    said: str
    images: int
    of: int
    """Images of the true class."""


def mixups(result: TrainingResult) -> list[Mixup]:
    """The most frequent first."""
    images = {each.place: each.images for each in classes(result)}
    wrong = [(count, true, said) for true, said, count in result.confusion if true != said]
    return [
        Mixup(result.classes[true], result.classes[said], count, images[true])
        for count, true, said in sorted(wrong, key=lambda each: (-each[0], each[1], each[2]))
    ]


# --- the matrix -----------------------------------------------------------------------------------------------------


def matrix(result: TrainingResult) -> Drawing | None:
    """A row a class, a square a kind of answer: its area is the share of the class's images, and at least its number's.

    None without figures, and where there are too many classes to read.
    """
    count = len(result.classes)
    if not result.confusion or count > MOST_DRAWN:
        return None
    cell = min(CELL_MOST, (WIDTH - NAME_WIDTH - 40) / count)
    drawing = Drawing(WIDTH, cell * count + TOP)
    images = {each.place: each.images for each in classes(result)}
    _names(drawing, result.classes, cell)
    for true, said, number in result.confusion:
        x, y = NAME_WIDTH + cell * said, cell * (count - 1 - true)
        size = SMALL if cell >= 18 else COUNT_SIZE
        least = min(cell - 2, stringWidth(f"{number}", FONT, size) + 4)
        side = max(least, (cell - 2) * (number / images[true]) ** 0.5)
        inset = (cell - side) / 2
        colour = "onnxruntime-tint" if true == said else "openvino-tint"
        drawing.add(box((x + inset, y + inset), side, side, colour))
        middle = (x + cell / 2, y + cell / 2 - size / 3)
        drawing.add(words(middle, f"{number}", "ink", anchor="middle", size=size))
    return drawing


def _names(drawing: Drawing, names: Sequence[str], cell: float) -> None:
    """The grid, true classes down its left side, answers along its top, there as numbers where names are long."""
    count, top = len(names), cell * len(names)
    for line in range(count + 1):
        drawing.add(stroke((NAME_WIDTH, cell * line), (NAME_WIDTH + top, cell * line), "grid", 0.5))
        drawing.add(stroke((NAME_WIDTH + cell * line, 0), (NAME_WIDTH + cell * line, top), "grid", 0.5))
    fits = all(stringWidth(name, FONT, SMALL) <= cell - 2 for name in names)
    for place, name in enumerate(names):
        y = cell * (count - 1 - place) + cell / 2 - 2.7
        numbered = name if fits else f"{name}  {place + 1}"
        drawing.add(words((NAME_WIDTH - 5, y), _shortened(numbered, NAME_WIDTH - 8), "ink", anchor="end", size=SMALL))
        x = NAME_WIDTH + cell * place + cell / 2
        drawing.add(words((x, top + 5), name if fits else f"{place + 1}", "ink", anchor="middle", size=SMALL))
    drawing.add(words((NAME_WIDTH + top / 2, top + 20), "answer", "muted", anchor="middle", size=SMALL))
    drawing.add(words((NAME_WIDTH - 5, top + 5), "true class", "muted", anchor="end", size=SMALL))
    _key(drawing, top + 42)


def _shortened(text: str, width: float) -> str:
    """Shortened in the middle, so that the number at its end stays."""
    if stringWidth(text, FONT, SMALL) <= width:
        return text
    name, _, number = text.rpartition("  ")
    if not name:
        return fit(text, width, FONT, SMALL)
    return f"{fit(name, width - stringWidth(f'  {number}', FONT, SMALL), FONT, SMALL)}  {number}"


def _key(drawing: Drawing, y: float) -> None:
    for x, colour, text in (
        (NAME_WIDTH, "onnxruntime-tint", "recognised"),
        (NAME_WIDTH + 70, "openvino-tint", "taken for another class"),
    ):
        drawing.add(box((x, y - 1), 9, 9, colour))
        drawing.add(words((x + 14, y), text, "muted", size=SMALL))
    told = "a full square is every image of the class"
    drawing.add(words((NAME_WIDTH + 190, y), told, "muted", size=SMALL))


# --- tables ---------------------------------------------------------------------------------------------------------


def class_table(result: TrainingResult) -> Table:
    """How well each class is recognised, the least first."""
    known = [each for each in classes(result) if each.images]
    shown = sorted(known, key=lambda each: (each.share, each.place))[:MOST_ROWS]
    notes = ["In brackets 95 % intervals."]
    if len(known) > len(shown):
        notes.append(f"These are the {len(shown)} least recognised of {len(known):,} classes.")
    if missing := [each.name for each in classes(result) if not each.images]:
        notes.append(f"Validation has no images of {some(missing)}: nothing is known of them.")
    return Table(
        title="How well each class is recognised",
        of="Class",
        columns=[("Images", ""), ("Recognised", "%"), ("Taken for it wrongly", "images")],
        rows=[_class_row(each) for each in shown],
        note=" ".join(notes),
    )


def _class_row(found: Class) -> Row:
    share = wilson(found.right, found.images)
    between = "" if share.low is None or share.high is None else f"({100 * share.low:.0f}–{100 * share.high:.0f})"
    return Row(
        key=found.name,
        name=found.name,
        selected=False,
        cells=[
            Cell(text=f"{found.images:,}"),
            Cell(text=f"{100 * share.value:.0f}", detail=between),
            Cell(text=f"{found.said - found.right:,}" if found.said > found.right else NONE),
        ],
    )


def mixup_table(result: TrainingResult) -> Table:
    """The most frequent mix-ups, for where the matrix cannot be drawn."""
    return Table(
        title="Most frequent mix-ups",
        of="True class",
        columns=[("Taken for", ""), ("Images", ""), ("Of the class", "%")],
        rows=[
            Row(
                key=f"{each.true} as {each.said}",
                name=each.true,
                selected=False,
                cells=[
                    Cell(text=each.said),
                    Cell(text=f"{each.images:,}"),
                    Cell(text=f"{100 * each.images / each.of:.0f}"),
                ],
            )
            for each in mixups(result)[:MOST_ROWS]
        ],
    )
