"""Which results beat which, with one objective or several: fronts and crowding of NSGA-II.

Deb, Pratap, Agarwal, Meyarivan: A fast and elitist multiobjective genetic algorithm, IEEE Transactions on Evolutionary
Computation 6(2), 2002. All values are losses here: less is better.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

Losses = tuple[float, ...]


def fronts(losses: Sequence[Losses]) -> Iterator[list[int]]:
    """The places of all, front by front: none of the first is beaten, those of the next by the ones before alone.

    One beats another that is nowhere worse and somewhere better. Whoever wants the first alone waits for no other.
    """
    values = np.array(losses, dtype=np.float64).reshape(len(losses), len(losses[0]) if losses else 0)
    no_worse = np.ones((len(losses), len(losses)), dtype=bool)
    for axis in values.T:
        no_worse &= axis[:, None] <= axis[None]
    beats = no_worse & ~no_worse.T
    beaten_by = beats.sum(axis=0)
    while len(front := np.flatnonzero(beaten_by == 0)):
        yield [int(place) for place in front]
        beaten_by -= beats[front].sum(axis=0)
        beaten_by[front] = -1


def crowding(losses: Sequence[Losses]) -> list[float]:
    """How much room each has around it on its front, infinite at the ends: more is worth keeping."""
    room = [0.0] * len(losses)
    for axis in range(len(losses[0]) if losses else 0):
        order = sorted(range(len(losses)), key=lambda place: losses[place][axis])
        spread = losses[order[-1]][axis] - losses[order[0]][axis]
        room[order[0]] = room[order[-1]] = math.inf
        if spread > 0:
            for before, place, after in zip(order, order[1:], order[2:], strict=False):
                room[place] += (losses[after][axis] - losses[before][axis]) / spread
    return room


def ranking(losses: Sequence[Losses]) -> list[int]:
    """The places of all from the best to the worst: by front, then by room, then as they came.

    With one objective that is by loss, then as they came.
    """
    if losses and len(losses[0]) == 1:
        return sorted(range(len(losses)), key=lambda place: losses[place])
    order: list[int] = []
    for front in fronts(losses):
        room = crowding([losses[place] for place in front])
        order += [place for _, place in sorted(zip(room, front, strict=True), key=lambda pair: -pair[0])]
    return order
