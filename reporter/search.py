"""What a genetic search did: fitness over generations beside chance, its finalists, and what became of the genes."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from reportlab.graphics.shapes import Drawing

from reporter import SearchRecord, plain
from reporter.charts import WIDTH
from reporter.curves import COLOURS, FOOT, HEAD, HEIGHT, LEFT, epoch_axis, frame, polyline
from reporter.parts import NONE, Cell, Row, Table
from reporter.shapes import FONT, SMALL, Axis, Decades, axis, decades, fit, ring, stroke, window, words
from reporter.tradeoff import stairs
from reporter.training import NAMES, value_words
from shared.genes import BOTH, BoolGene, ChoiceGene, FloatGene, Gene, Genome, IntGene, Scalar
from shared.trials import Finalist, Latencies, Stage, Trial, settled
from shared.verdict.figures import figure, hundredths, plural

BEST = 5
"""The best fifth of the genomes shows what the search went for."""
STRIPS, STRIP_HEIGHT, STRIP_GAP = 3, 74.0, 34.0
DOT = 1.8


class Scored(NamedTuple):
    """A trial and the values it was given."""

    trial: Trial
    values: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        """The first objective."""
        return self.values[0]

    @property
    def latency_ms(self) -> float:
        """The second, where there are two."""
        return self.values[1]


def scored(record: SearchRecord, epochs: int, stage: Stage = "search") -> list[Scored]:
    """The genomes of a stage that were trained for so many epochs and gave a result."""
    return [
        Scored(each.trial, each.result.values)
        for each in record.told
        if each.trial.stage == stage and each.trial.epochs == epochs and each.result.values is not None
    ]


def trained(record: SearchRecord, stage: Stage = "search") -> list[Scored]:
    """Those that were trained to the end."""
    return scored(record, record.order.epochs, stage)


def unbeaten(found: Sequence[Scored]) -> list[Scored]:
    """Those that no other beats in both objectives, the fastest first."""
    best: list[Scored] = []
    for each in sorted(found, key=lambda one: (one.latency_ms, -one.accuracy)):
        if not best or each.accuracy > best[-1].accuracy or each.values == best[-1].values:
            best.append(each)
    return best


def started(record: SearchRecord) -> list[Scored]:
    """All of them after their first training, which is as long for each."""
    first = min((each.trial.epochs for each in record.told if each.trial.stage == "search"), default=0)
    return scored(record, first)


# --- in words -------------------------------------------------------------------------------------------------------


def told(record: SearchRecord) -> list[str]:
    """What a reader should know first."""
    outcome, spec = record.outcome, record.order.spec
    failed = f"; {plural(outcome.failed, 'training')} gave no result" if outcome.failed else ""
    said = [
        f"{plural(outcome.evaluations, 'setting')} of hyper-parameters were tried in "
        f"{plural(len(outcome.history), 'generation')}; {plural(outcome.epochs, 'epoch')} were trained{failed}."
    ]
    if outcome.best is not None:
        said.append(f"{'Chosen' if _has_both(record) else 'The best'}: {genome_words(outcome.best)}.")
    said += [*_both(record), *_against_chance(record)]
    if spec.halving:
        said.append("Most were trained for a part of the epochs only, and the best third of them went on.")
    return [*said, *([outcome.stopped] if outcome.stopped else [])]


def _both(record: SearchRecord) -> list[str]:
    """What was found between accuracy and latency, and by which rule one was chosen of it."""
    measured = record.latencies
    found = unbeaten(trained(record)) if measured else []
    if measured is None or not found:
        return []
    by = f"{measured.engine} with {plural(measured.threads, 'thread')}"
    how = (
        f"Latency is that of one image on {by}, measured once for each image size while the platform did nothing else."
    )
    ends = [f"{_percent(each.accuracy)} at {figure(each.latency_ms)} ms" for each in (found[0], found[-1])]
    one = f"One setting is both most accurate and fastest: {ends[0]}."
    many = f"More accuracy costs time: from {ends[0]} to {ends[1]}, with what lies between in the table of the front."
    said = [how, one if found[0].values == found[-1].values else many]
    repeated = [each for each in record.outcome.finalists if each.stage == "search" and each.again]
    again = [each for each in repeated if len(each.again) == max(len(one.again) for one in repeated)]
    chosen = next((each for each in again if each.genome == record.outcome.best), None)
    if chosen is None:
        return [
            *said,
            *_disturbed(measured),
            "Chosen is the most accurate setting; nothing was trained again with other seeds.",
        ]
    best = max(again, key=lambda each: (_again(each), -_ms(each)))
    if best is chosen:
        faster = any(_ms(each) < _ms(chosen) for each in again)
        alone = ", and none that is faster comes within one standard error of it" if faster else ""
        rule = f"it is the most accurate over the seeds{alone}"
    else:
        rule = (
            "it is the fastest whose accuracy over the seeds is within one standard error of the best, which has "
            f"{_percent(_again(best))} at {figure(_ms(best))} ms"
        )
    return [
        *said,
        *_disturbed(measured),
        f"The finalist with {_percent(_again(chosen))} at {figure(_ms(chosen))} ms was chosen: {rule}. To have the "
        "model of another setting, order a training with its hyper-parameters.",
    ]


def _disturbed(measured: Latencies) -> list[str]:
    """What a reader should know of the conditions."""
    apart = [each for each in measured.sizes if not settled(each.rounds_ms)]
    if not apart:
        return []
    named = ", ".join(str(each.image_size) for each in apart)
    return [
        f"The machine was at something else while latency was measured: of image size {named} no two rounds agreed, "
        "and its latency may be too high. Order again on a quiet machine before you choose by it."
    ]


def _against_chance(record: SearchRecord) -> list[str]:
    """Beside chance, by other seeds where there are some: what was found once looks better than it is."""
    outcome = record.outcome
    if outcome.baseline_best is None:
        return ["It was not compared with chance; order a search with baseline to see what it was worth."]
    best = outcome.history[-1] if outcome.history else None
    if best is None:
        return [f"Chance found {_percent(outcome.baseline_best[0])}; the search nothing."]
    both = _fronts_beside(record) if _has_both(record) else []
    given = plural(outcome.baseline_epochs, "epoch")
    said = f"Chance, given {given}, found {_percent(outcome.baseline_best[0])}; the search {_percent(best[0])}"
    repeated = [each for each in outcome.finalists if each.again]
    ours, theirs = ([_again(each) for each in repeated if each.stage == stage] for stage in ("search", "baseline"))
    if not ours or not theirs:
        return [f"{said}. Both are what was seen once, which makes them look better than they are.", *both]
    by = plain.difference(max(ours) - max(theirs), None, None)
    return [
        f"{said}. Trained again with other seeds, the best of the search reaches {_percent(max(ours))} and the best of "
        f"chance {_percent(max(theirs))}: {by}. That is one search against one: another seed may turn it.",
        *both,
    ]


def _fronts_beside(record: SearchRecord) -> list[str]:
    """Whose settings the front of both is made of."""
    best = unbeaten([*trained(record), *trained(record, "baseline")])
    ours = sum(each.trial.stage == "search" for each in best)
    return [f"On the front of both together are {ours} of the search and {len(best) - ours} of chance."]


def genome_words(genome: Genome) -> str:
    """`learning rate 0.0012, images a step 32`."""
    return ", ".join(f"{gene_name(name)} {value_words(value)}" for name, value in sorted(genome.items()))


def gene_name(name: str) -> str:
    """Within a sentence."""
    return NAMES.get(name, name).lower()


# --- tables ---------------------------------------------------------------------------------------------------------


def finalists(record: SearchRecord) -> Table:
    """The best, as they were found and again with other seeds; best again first."""
    order = sorted(record.outcome.finalists, key=lambda each: (-_again(each), each.individual))
    return Table(
        title="Finalists: found once, and again with other seeds",
        of="Hyper-parameters",
        columns=[("Found", "%"), ("Again", "%"), *([("Latency", "ms")] if _has_both(record) else [])],
        rows=[
            Row(
                key=str(each.individual),
                name=f"{'' if each.stage == 'search' else 'by chance: '}{genome_words(each.genome)}",
                selected=each.genome == record.outcome.best and each.stage == "search",
                cells=_cells(each),
            )
            for each in order
        ],
        note="What a search finds is chosen for being high; trained again it tends to be lower. In brackets lowest and "
        "highest.",
    )


def front_table(record: SearchRecord) -> Table:
    """What no other setting beats in both, the fastest first, one of equals."""
    best: dict[tuple[float, ...], Scored] = {}
    for each in unbeaten(trained(record)) if _has_both(record) else []:
        if each.values not in best or each.trial.genome == record.outcome.best:
            best[each.values] = each
    return Table(
        title="The front: what no other setting beats in accuracy and latency",
        of="Hyper-parameters",
        columns=[("Latency", "ms"), ("Accuracy", "%")],
        rows=[
            Row(
                key=str(each.trial.number),
                name=genome_words(each.trial.genome),
                selected=each.trial.genome == record.outcome.best,
                cells=[Cell(text=figure(each.latency_ms)), Cell(text=hundredths(each.accuracy))],
            )
            for each in best.values()
        ],
        note="Accuracy as the search saw it, once; finalists have it again with other seeds.",
    )


def latency_table(record: SearchRecord) -> Table:
    """What each image size takes."""
    measured = record.latencies
    return Table(
        title="Latency by image size",
        of="Image size",
        columns=[("Latency", "ms")],
        rows=[
            Row(
                key=str(each.image_size),
                name=f"{each.image_size} x {each.image_size}",
                selected=each.image_size == (record.outcome.best or {}).get("image_size"),
                cells=[
                    Cell(
                        text=figure(each.latency_ms),
                        detail=f"({figure(min(each.rounds_ms))}–{figure(max(each.rounds_ms))})",
                    )
                ],
            )
            for each in (measured.sizes if measured else [])
        ],
        note="In FP32, one image a call: the quickest of the rounds, since what else a machine does only makes them "
        "slower; in brackets quickest and slowest. No other hyper-parameter changes it.",
    )


def _has_both(record: SearchRecord) -> bool:
    return record.order.spec.objectives == BOTH


def _ms(found: Finalist) -> float:
    return found.found[1]


def _cells(found: Finalist) -> list[Cell]:
    again = [values[0] for values in found.again]
    between = f"({hundredths(min(again))}–{hundredths(max(again))})" if again else "no result"
    mean = hundredths(statistics.fmean(again)) if again else NONE
    return [
        Cell(text=hundredths(found.found[0])),
        Cell(text=mean, detail=between),
        *[Cell(text=figure(value)) for value in found.found[1:]],
    ]


def _again(found: Finalist) -> float:
    return statistics.fmean(values[0] for values in found.again) if found.again else -1.0


def gene_table(record: SearchRecord) -> Table:
    """What each gene could be, what it is among the best, and in the end."""
    best = _best(started(record))
    chosen = record.outcome.best or {}
    return Table(
        title="What became of the genes",
        of="Gene",
        columns=[("Searched", ""), ("In the best fifth", ""), ("Chosen", "")],
        rows=[
            Row(
                key=name,
                name=NAMES.get(name, name),
                selected=False,
                cells=[
                    Cell(text=gene_words(gene)),
                    Cell(text=_went_for(gene, [each.trial.genome[name] for each in best])),
                    Cell(text=value_words(chosen[name]) if name in chosen else NONE),
                ],
            )
            for name, gene in sorted(record.order.genes.items())
        ],
        note=f"The best fifth are {plural(len(best), 'setting')} by their accuracy after the first training. A gene "
        "whose best values fill the whole range made little difference, or was not searched long enough.",
    )


def _best(found: Sequence[Scored]) -> list[Scored]:
    return sorted(found, key=lambda each: (-each.accuracy, each.trial.number))[: -(-len(found) // BEST)]


def gene_words(gene: Gene) -> str:
    """`0.00001 to 0.1, by factors`, `sgd, adam, adamw`."""
    match gene:
        case FloatGene() | IntGene():
            return f"{value_words(gene.low)} to {value_words(gene.high)}{', by factors' if gene.log else ''}"
        case ChoiceGene():
            return ", ".join(map(value_words, gene.choices))
        case BoolGene():
            return "yes or no"


def _went_for(gene: Gene, values: Sequence[Scalar]) -> str:
    if not values:
        return NONE
    if isinstance(gene, FloatGene | IntGene):
        numbers = sorted(map(float, values))
        return f"{value_words(numbers[0])} to {value_words(numbers[-1])}"
    return ", ".join(f"{value_words(value)} {count}×" for value, count in Counter(values).most_common())


# --- drawings -------------------------------------------------------------------------------------------------------


def fitness(record: SearchRecord) -> Drawing | None:
    """Every setting that was trained to the end, the best so far, and the best that chance found."""
    found, chance = trained(record), record.outcome.baseline_best
    if not found:
        return None
    drawing = Drawing(WIDTH, FOOT + HEIGHT + HEAD)
    values = [each.accuracy for each in found] + ([chance[0]] if chance else [])
    up, width = _share_axis(values, FOOT, HEIGHT), WIDTH - LEFT - 90
    across = epoch_axis(len(record.outcome.history), LEFT + 10, width - 20)
    drawing.add(words((6, FOOT + HEIGHT + 8), _accuracy_words(up), "muted", size=SMALL))
    frame(drawing, across, up, (LEFT, width), (FOOT, HEIGHT))
    drawing.add(words((LEFT + width / 2, FOOT - 24), "generation", "muted", anchor="middle", size=SMALL))
    for each in found:
        at = across.at(each.trial.generation + 1), up.at(each.accuracy)
        drawing.add(ring(at, DOT, f"{COLOURS[0]}-tint", inside=f"{COLOURS[0]}-tint"))
    best = [(place, each[0]) for place, each in enumerate(record.outcome.history, start=1) if each is not None]
    polyline(drawing, [(across.at(place), up.at(value)) for place, value in best], COLOURS[0], 1.6)
    right = LEFT + width
    ends = [(best[-1][1], "best so far", COLOURS[0])] if best else []
    if chance:
        y = up.at(chance[0])
        drawing.add(stroke((LEFT, y), (right, y), COLOURS[1], 1.2, (5, 2)))
        ends.append((chance[0], "best by chance", COLOURS[1]))
    _ends(drawing, ends, up, right)
    return drawing


def _ends(drawing: Drawing, ends: Sequence[tuple[float, str, str]], up: Axis, right: float) -> None:
    """The lines' names at their right ends, moved apart."""
    last = float("-inf")
    for value, name, colour in sorted(ends):
        y = last = max(up.at(value) - 2.7, last + 10)
        drawing.add(words((right + 6, y), name, colour, size=SMALL))


def front(record: SearchRecord) -> Drawing | None:
    """Accuracy against latency of all settings that were trained to the end; None with one objective."""
    found = trained(record)
    if not _has_both(record) or not found:
        return None
    drawing = Drawing(WIDTH, FOOT + HEIGHT + HEAD)
    up, width = _share_axis([each.accuracy for each in found], FOOT, HEIGHT), WIDTH - LEFT - 10
    across = axis(max(each.latency_ms for each in found), LEFT, width)
    drawing.add(words((6, FOOT + HEIGHT + 8), _accuracy_words(up), "muted", size=SMALL))
    frame(drawing, across, up, (LEFT, width), (FOOT, HEIGHT))
    drawing.add(words((LEFT + width / 2, FOOT - 24), "latency, ms", "muted", anchor="middle", size=SMALL))
    best = sorted((values[1], values[0]) for _, values in record.outcome.front)
    corners = [(across.at(latency), up.at(accuracy)) for latency, accuracy in best]
    polyline(drawing, stairs(corners, across) if corners else [], "muted", 1)
    for each in found:
        at = across.at(each.latency_ms), up.at(each.accuracy)
        on_front = any(each.values == values for _, values in record.outcome.front)
        if each.trial.genome == record.outcome.best:
            drawing.add(ring(at, 3 * DOT, COLOURS[1], inside="paper"))
        drawing.add(ring(at, DOT + on_front, COLOURS[0], inside=COLOURS[0] if on_front else "paper"))
    return drawing


def strips(record: SearchRecord) -> list[Drawing]:
    """Accuracy against each gene after the first training, three genes a row; the best fifth are darker."""
    found, genes = started(record), sorted(record.order.genes.items())
    if not found:
        return []
    rows = [genes[start : start + STRIPS] for start in range(0, len(genes), STRIPS)]
    return [_strips(record, row, found) for row in rows]


def _strips(record: SearchRecord, genes: Sequence[tuple[str, Gene]], found: Sequence[Scored]) -> Drawing:
    drawing = Drawing(WIDTH, STRIP_HEIGHT + 40)
    up = _share_axis([each.accuracy for each in found], 20, STRIP_HEIGHT, most_ticks=4)
    width = (WIDTH - STRIPS * STRIP_GAP - 6) / STRIPS
    best = {each.trial.number for each in _best(found)}
    for place, (name, gene) in enumerate(genes):
        left = STRIP_GAP + place * (width + STRIP_GAP)
        across = gene_axis(gene, left, width)
        drawing.add(words((left, STRIP_HEIGHT + 28), NAMES.get(name, name), "ink", size=SMALL))
        frame(drawing, across, up, (left, width), (20, STRIP_HEIGHT))
        if not isinstance(gene, FloatGene | IntGene):
            for choice in _choices(gene):
                x, text = across.at(_place(gene, choice)), value_words(choice)
                room = width / len(_choices(gene)) - 2
                drawing.add(words((x, 8), fit(text, room, FONT, SMALL), "muted", anchor="middle", size=SMALL))
        for each in sorted(found, key=lambda one: one.trial.number in best):
            at = across.at(_place(gene, each.trial.genome[name])), up.at(each.accuracy)
            colour = COLOURS[0] if each.trial.number in best else f"{COLOURS[0]}-tint"
            drawing.add(ring(at, DOT, colour, inside=colour))
    return drawing


def gene_axis(gene: Gene, left: float, width: float) -> Axis | Decades:
    """Where the values of a gene lie; choices side by side, without ticks."""
    match gene:
        case FloatGene() | IntGene() if gene.low == gene.high:
            return Axis(gene.low - 1, gene.high + 1, [float(gene.low)], left, width)
        case FloatGene() | IntGene() if gene.log:
            return decades(gene.low, gene.high, left, width)
        case FloatGene() | IntGene():
            return window(gene.low, gene.high, left, width, most_ticks=4)
        case _:
            return Axis(0.0, float(len(_choices(gene))), [], left, width)


def _choices(gene: Gene) -> tuple[Scalar, ...]:
    return gene.choices if isinstance(gene, ChoiceGene) else (False, True)


def _place(gene: Gene, value: Scalar) -> float:
    """A value on the axis of its gene."""
    if isinstance(gene, FloatGene | IntGene):
        return float(value)
    return _choices(gene).index(value) + 0.5


def _accuracy_words(up: Axis) -> str:
    return "accuracy" if up.bottom <= 0 else "accuracy (the scale does not begin at 0)"


def _share_axis(values: Sequence[float], foot: float, height: float, most_ticks: int = 6) -> Axis:
    low, high = min(values), max(values)
    return axis(high, foot, height, most_ticks) if low < 0.5 else window(low, high, foot, height, most_ticks)


def _percent(share: float) -> str:
    return f"{hundredths(share)} %"
