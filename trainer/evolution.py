"""The operators of the genetic search: who lives on, who has children, and what the children are.

They draw from the generator they are given and keep nothing themselves. The constants were chosen on the first ten
tasks of LCBench (`benchmarks/search.py`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from shared.genes import Genome
from trainer.genome import Point, Space, ordered
from trainer.pareto import Losses, ranking

TOURNAMENT = 3
"""Of so many drawn survivors the best becomes a parent."""

FIRST_STEP, LAST_STEP = 0.25, 0.03
"""Standard deviation of a mutation, as a share of the gene's range, when the search begins and when it ends."""

LONG_STEP, LONG_STEPS = 0.4, 0.25
"""A mutation that leaves the neighbourhood whatever the hour, and the share of those."""


@dataclass(frozen=True)
class Individual:
    """A genome with the result of its longest training so far."""

    number: int
    """Of its first trial: its age."""
    genome: Genome
    point: Point
    rung: int
    """How long it was trained; results of different rungs are not compared."""
    losses: Losses


class Population:
    """The individuals that can have children: the `size` best, so that what is good is never lost (elitism)."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.members: list[Individual] = []
        """The best first."""

    def add(self, newcomer: Individual) -> None:
        """Take in an individual, or what is known of it now; the last in rank goes where there are too many."""
        self.drop(newcomer.number)
        self.members = ranked([*self.members, newcomer])[: self._size]

    def drop(self, number: int) -> None:
        """Forget an individual."""
        self.members = [member for member in self.members if member.number != number]


def survivors(population_size: int, objectives: int) -> int:
    """How many can have children: a few where there is one best, all of a generation where a front is sought."""
    return population_size if objectives > 1 else max(2, -(-population_size // 4))


def ranked(individuals: Sequence[Individual]) -> list[Individual]:
    """From the best to the worst: longer trained before shorter, since those were the best of theirs."""
    found: list[Individual] = []
    for rung in sorted({individual.rung for individual in individuals}, reverse=True):
        peers = [individual for individual in individuals if individual.rung == rung]
        found += [peers[place] for place in ranking([peer.losses for peer in peers])]
    return found


def latin_hypercube(rng: random.Random, count: int, axes: int) -> list[Point]:
    """Points spread over the whole space: on every axis one in each of `count` equal parts."""
    columns = []
    for _ in range(axes):
        column = [(part + rng.random()) / count for part in range(count)]
        rng.shuffle(column)
        columns.append(column)
    return list(zip(*columns, strict=True))


def breed(
    rng: random.Random,
    space: Space,
    members: Sequence[Individual],
    *,
    mutation_rate: float,
    crossover_rate: float,
    progress: float,
) -> Point:
    """One child of ranked members. `progress` is the share of the search that is over, 0 to 1."""
    child = tournament(rng, members).point
    if rng.random() < crossover_rate:
        child = crossover(rng, child, tournament(rng, members).point)
    return mutate(rng, space, child, mutation_rate, FIRST_STEP * (LAST_STEP / FIRST_STEP) ** progress)


def tournament(rng: random.Random, members: Sequence[Individual]) -> Individual:
    """The best of a few drawn from ranked members."""
    return members[min(rng.randrange(len(members)) for _ in range(TOURNAMENT))]


def crossover(rng: random.Random, one: Point, other: Point) -> Point:
    """Each gene from either parent (uniform crossover)."""
    return tuple(a if rng.random() < 0.5 else b for a, b in zip(one, other, strict=True))


def mutate(rng: random.Random, space: Space, point: Point, rate: float, step: float) -> Point:
    """A point that differs in about a share `rate` of its genes, in one at least where any can differ.

    A gene with an order goes up or down by a normal step, another becomes any other of its values.
    """
    changeable = [place for place, count in enumerate(space.cells) if count != 1]
    if not changeable:
        return point
    surely = rng.choice(changeable)
    child = list(point)
    for place in changeable:
        if place == surely or rng.random() < rate:
            count = space.cells[place]
            if ordered(space.genes[place]):
                child[place] = _moved(rng, point[place], LONG_STEP if rng.random() < LONG_STEPS else step)
            elif count is not None:
                other = int(point[place] * count) + rng.randrange(1, count)
                child[place] = (other % count + 0.5) / count
    return tuple(child)


def _moved(rng: random.Random, coordinate: float, step: float) -> float:
    """A step that is thrown back at the ends of the interval."""
    moved = abs(coordinate + rng.gauss(0.0, step)) % 2.0
    return 2.0 - moved if moved > 1.0 else moved
