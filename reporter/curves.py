"""Learning curves: loss and accuracy, epoch by epoch, of one training or of two over one another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from reportlab.graphics.shapes import Drawing
from reportlab.pdfbase.pdfmetrics import stringWidth

from reporter.charts import WIDTH
from reporter.shapes import DOT, FONT, SMALL, Axis, Decades, Point, axis, decades, fit, ring, stroke, window, words
from shared.specs import EpochFigures, TrainingResult

LEFT, FOOT, HEIGHT, HEAD = 40.0, 30.0, 150.0, 18.0
GAP = 52.0
PANEL = (WIDTH - LEFT - GAP - 10) / 2
LOGARITHMIC = 20.0
"""Losses that differ by more than this factor have a logarithmic scale."""
LEAST_LOSS = 1e-3
"""Where a linear scale of losses ends at the least: smaller ones are nothing."""
MOST_TICKS = 6
COLOURS = ("onnxruntime", "openvino")
"""Of a training, and of one to compare with: names among `shapes.COLOURS`."""

Get = Callable[[EpochFigures], float | None]


class Line(NamedTuple):
    """A curve, and how it is drawn."""

    name: str
    values: Sequence[tuple[int, float]]
    """Epoch and value."""
    colour: str
    width: float
    best: int | None = None
    """The epoch that is marked."""


def curves(result: TrainingResult, metric: str) -> Drawing:
    """Loss and accuracy of a training, on its training images and on those it is judged by; the best epoch marked."""
    best, colour = result.best_epoch, COLOURS[0]
    return _side_by_side(
        [
            Line("training", _of(result, lambda each: each.loss), "muted", 1.0),
            Line("validation", _of(result, lambda each: each.val_loss), colour, 1.6, best),
        ],
        [
            Line("training", _of(result, lambda each: each.accuracy), "muted", 1.0),
            Line("validation", _of(result, lambda each: each.val_accuracy), colour, 1.6, best),
        ],
        metric,
    )


def overlaid(results: Sequence[TrainingResult], names: Sequence[str], metric: str) -> Drawing:
    """Loss and accuracy on validation images of two trainings, the one to compare with first; best epochs marked."""
    losses, accuracies = (
        [
            Line(name, _of(result, get), colour, 1.6, result.best_epoch)
            for result, name, colour in zip(results, names, reversed(COLOURS), strict=True)
        ]
        for get in (lambda each: each.val_loss, lambda each: each.val_accuracy)
    )
    return _side_by_side(losses, accuracies, metric)


def _of(result: TrainingResult, get: Get) -> list[tuple[int, float]]:
    return [(each.epoch, value) for each in result.epochs if (value := get(each)) is not None]


def _side_by_side(losses: Sequence[Line], accuracies: Sequence[Line], metric: str) -> Drawing:
    drawing = Drawing(WIDTH, FOOT + HEIGHT + HEAD + 16)
    epochs = max(epoch for line in losses for epoch, _ in line.values)
    _key(drawing, losses)
    _panel(drawing, losses, _loss_scale(losses), epoch_axis(epochs, LEFT, PANEL), "loss")
    right = epoch_axis(epochs, LEFT + PANEL + GAP, PANEL)
    _panel(drawing, accuracies, _share_scale(accuracies), right, metric)
    return drawing


def _loss_scale(lines: Sequence[Line]) -> Axis | Decades:
    values = [value for line in lines for _, value in line.values]
    least, largest = min(values), max(values)
    if 0 < least < largest / LOGARITHMIC:
        return decades(least, largest, FOOT, HEIGHT)
    return axis(max(largest, LEAST_LOSS), FOOT, HEIGHT, most_ticks=MOST_TICKS)


def _share_scale(lines: Sequence[Line]) -> Axis:
    values = [value for line in lines for _, value in line.values] or [0.0, 1.0]
    if min(values) < 0.5:
        return axis(max(values), FOOT, HEIGHT, most_ticks=MOST_TICKS)
    return window(min(values), max(values), FOOT, HEIGHT, most_ticks=MOST_TICKS)


def _panel(drawing: Drawing, lines: Sequence[Line], up: Axis | Decades, across: Axis, title: str) -> None:
    left = across.start
    told = ", logarithmic" if isinstance(up, Decades) else "" if up.bottom <= 0 else " (the scale does not begin at 0)"
    drawing.add(words((left - LEFT + 6, FOOT + HEIGHT + 8), f"{title}{told}", "muted", size=SMALL))
    frame(drawing, across, up, (left, PANEL), (FOOT, HEIGHT))
    drawing.add(words((left + PANEL / 2, FOOT - 24), "epoch", "muted", anchor="middle", size=SMALL))
    for line in lines:
        polyline(drawing, [(across.at(epoch), up.at(value)) for epoch, value in line.values], line.colour, line.width)
    for line in lines:
        for epoch, value in line.values:
            if epoch == line.best:
                x, y = across.at(epoch), up.at(value)
                drawing.add(stroke((x, FOOT), (x, y - 4.5), line.colour, 0.8, (3, 2)))
                drawing.add(ring((x, y), 4.5, "ink", width=1))
                drawing.add(ring((x, y), DOT, line.colour, inside=line.colour))


def epoch_axis(last: int, left: float, width: float) -> Axis:
    """A scale from epoch 1 to the last, with whole numbers for ticks; a single epoch stands in the middle."""
    if last == 1:
        return Axis(0.0, 2.0, [1.0], left, width)
    rough = window(1, last, left, width)
    step = max(1, round(rough.ticks[1] - rough.ticks[0]))
    inner = [float(tick) for tick in range(step, last + 1, step) if tick > 1 and last - tick >= step / 2]
    return Axis(1.0, float(last), [1.0, *inner, float(last)], left, width)


def frame(
    drawing: Drawing,
    across: Axis | Decades,
    up: Axis | Decades,
    sides: tuple[float, float],
    heights: tuple[float, float],
) -> None:
    """The grid of a plot and its labels; `sides` are left edge and width, `heights` foot and height."""
    (left, width), (foot, height) = sides, heights
    for tick, label in zip(up.ticks, plain_labels(up), strict=True):
        y = up.at(tick)
        drawing.add(stroke((left, y), (left + width, y), "grid", 0.5))
        drawing.add(words((left - 5, y - 2.7), label, "muted", anchor="end", size=SMALL))
    for tick, label in zip(across.ticks, plain_labels(across), strict=True):
        x = across.at(tick)
        drawing.add(stroke((x, foot), (x, foot + height), "grid", 0.5))
        drawing.add(words((x, foot - 12), label, "muted", anchor="middle", size=SMALL))


def plain_labels(scale: Axis | Decades) -> list[str]:
    """The ticks as text, without a unit."""
    if isinstance(scale, Decades):
        return [f"{tick:.12g}" if 1e-3 <= tick < 1e4 else f"{tick:.0e}".replace("e-0", "e-") for tick in scale.ticks]
    return scale.labels() if len(scale.ticks) > 1 else [f"{tick:g}" for tick in scale.ticks]


def polyline(drawing: Drawing, points: Sequence[Point], colour: str, width: float) -> None:
    """A line through points; a single one is a dot."""
    for start, end in pairwise(points):
        drawing.add(stroke(start, end, colour, width))
    if len(points) == 1:
        drawing.add(ring(points[0], DOT, colour, inside=colour))


def _key(drawing: Drawing, lines: Sequence[Line]) -> None:
    """What the lines mean."""
    x, y = LEFT, FOOT + HEIGHT + HEAD + 6
    room = (WIDTH - LEFT - 90) / len(lines)
    for line in lines:
        drawing.add(stroke((x, y), (x + 16, y), line.colour, line.width))
        text = fit(line.name, room - 39, FONT, SMALL)
        drawing.add(words((x + 21, y - 2.7), text, "ink", size=SMALL))
        x += 39 + stringWidth(text, FONT, SMALL)
    drawing.add(ring((x + 4, y), 4.5, "ink", width=1))
    drawing.add(words((x + 13, y - 2.7), "best epoch", "muted", size=SMALL))
