"""Genomes: the values a training gets, and the points of the unit cube that the search moves.

A genome is a plain JSON object, a value for each gene; it is what is trained, journalled and shown. A point has a
coordinate in [0, 1] for each gene, in the order of their names, so that the operators need to know nothing of
logarithms and bounds. A whole number, a choice and a truth value are cells of the unit interval.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence

from shared.genes import BoolGene, ChoiceGene, FloatGene, Gene, Genome, IntGene, Scalar
from shared.specs import canonical_json

Point = tuple[float, ...]

DIGITS = 6
"""Significant digits of a number in a genome: more of them train the same."""

MANY = 2**62


class Space:
    """All the genomes there are over some genes."""

    def __init__(self, genes: Mapping[str, Gene]) -> None:
        if not genes:
            raise ValueError("A search needs a gene to vary.")
        self.names = tuple(sorted(genes))
        self.genes = tuple(genes[name] for name in self.names)
        self.cells = tuple(cells(gene) for gene in self.genes)
        self.size = math.prod(MANY if count is None else count for count in self.cells)
        """Different genomes; at least `MANY` where a gene is continuous."""

    def decode(self, point: Sequence[float]) -> Genome:
        """The genome at a point, or in whose cells it lies."""
        return {
            name: decode(gene, coordinate) for name, gene, coordinate in zip(self.names, self.genes, point, strict=True)
        }

    def encode(self, genome: Mapping[str, Scalar]) -> Point:
        """The point of a genome, in the middle of its cells. Raises ValueError for what is none of this space."""
        if set(genome) != set(self.names):
            raise ValueError(f"A genome has {', '.join(self.names)}, not {', '.join(sorted(genome))}.")
        return tuple(encode(gene, genome[name]) for name, gene in zip(self.names, self.genes, strict=True))

    def unseen(self, rng: random.Random, seen: frozenset[str] | set[str]) -> Genome | None:
        """A genome whose key is not among `seen`: any, evenly; None when there is no other."""
        for _ in range(100):
            genome = self.decode([rng.random() for _ in self.names])
            if key(genome) not in seen:
                return genome
        if self.size >= MANY:
            return None
        return next((genome for genome in self._all() if key(genome) not in seen), None)

    def _all(self) -> Iterator[Genome]:
        axes = [[(cell + 0.5) / count for cell in range(count)] for count in self.cells if count is not None]
        return (self.decode(point) for point in itertools.product(*axes))


def key(genome: Mapping[str, Scalar]) -> str:
    """The same text for the same genome."""
    return canonical_json(genome).decode()


def cells(gene: Gene) -> int | None:
    """How many values a gene has; None for a continuous one."""
    match gene:
        case FloatGene():
            return 1 if gene.low == gene.high else None
        case IntGene():
            return gene.high - gene.low + 1
        case ChoiceGene():
            return len(gene.choices)
        case BoolGene():
            return 2


def ordered(gene: Gene) -> bool:
    """Whether it makes sense to go a little up or down."""
    return isinstance(gene, FloatGene | IntGene)


def decode(gene: Gene, coordinate: float) -> Scalar:
    """The value of one gene."""
    match gene:
        case FloatGene():
            value = _between(gene.low, gene.high, coordinate, gene.log)
            return min(max(float(f"{value:.{DIGITS}g}"), gene.low), gene.high)
        case IntGene():
            exact = _between(gene.low - 0.5, gene.high + 0.5, coordinate, gene.log)
            return min(max(round(exact), gene.low), gene.high)
        case ChoiceGene():
            return gene.choices[_cell(len(gene.choices), coordinate)]
        case BoolGene():
            return coordinate >= 0.5


def encode(gene: Gene, value: Scalar) -> float:
    """The coordinate of a value. Raises ValueError for one that the gene does not have."""
    match gene:
        case FloatGene() if (number := _number(value)) is not None and gene.low <= number <= gene.high:
            return _within(gene.low, gene.high, number, gene.log)
        case IntGene() if (number := _number(value)) is not None and gene.low <= number <= gene.high:
            return _within(gene.low - 0.5, gene.high + 0.5, number, gene.log)
        case ChoiceGene() if any(_same(value, choice) for choice in gene.choices):
            place = next(index for index, choice in enumerate(gene.choices) if _same(value, choice))
            return (place + 0.5) / len(gene.choices)
        case BoolGene() if isinstance(value, bool):
            return 0.75 if value else 0.25
    raise ValueError(f"{value!r} is no value of the gene {gene}.")


def _cell(count: int, coordinate: float) -> int:
    return min(int(coordinate * count), count - 1)


def _between(low: float, high: float, share: float, log: bool) -> float:
    if log:
        return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    return low + share * (high - low)


def _within(low: float, high: float, value: float, log: bool) -> float:
    if low == high:
        return 0.5
    if log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return min(max((value - low) / (high - low), 0.0), 1.0)


def _number(value: Scalar) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _same(value: Scalar, choice: Scalar) -> bool:
    return value == choice and isinstance(value, bool) == isinstance(choice, bool)
