"""Fronts and crowding against their definitions, by brute force."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from trainer.pareto import crowding, fronts, ranking

losses = st.integers(1, 3).flatmap(
    lambda axes: st.lists(st.tuples(*[st.integers(0, 6).map(float)] * axes), min_size=0, max_size=40)
)


def beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and any(a < b for a, b in zip(one, other, strict=True))


def peeled(points: list[tuple[float, ...]]) -> list[list[int]]:
    left = list(range(len(points)))
    found = []
    while left:
        front = [one for one in left if not any(beats(points[other], points[one]) for other in left)]
        found.append(front)
        left = [one for one in left if one not in front]
    return found


@given(losses)
def test_fronts_are_those_of_brute_force(points: list[tuple[float, ...]]) -> None:
    assert list(fronts(points)) == peeled(points)


@given(losses)
def test_the_ranking_is_a_permutation_front_by_front(points: list[tuple[float, ...]]) -> None:
    order = ranking(points)
    assert sorted(order) == list(range(len(points)))
    front_of = {place: number for number, front in enumerate(peeled(points)) for place in front}
    assert [front_of[place] for place in order] == sorted(front_of.values())


def test_crowding_is_the_room_between_neighbours() -> None:
    assert crowding([(0.0, 10.0), (1.0, 6.0), (4.0, 5.0), (10.0, 0.0)]) == [math.inf, 0.4 + 0.5, 0.9 + 0.6, math.inf]
    assert crowding([(1.0, 1.0)] * 3) == [math.inf, 0.0, math.inf]
    assert crowding([]) == []


def test_with_one_objective_the_ranking_is_by_loss_and_then_by_age() -> None:
    assert ranking([(2.0,), (1.0,), (2.0,), (0.0,)]) == [3, 1, 0, 2]


def test_the_ends_of_a_front_come_first_and_the_crowded_last() -> None:
    assert ranking([(0.0, 10.0), (1.0, 6.0), (1.1, 5.9), (1.2, 5.8), (10.0, 0.0)])[-1] in (2, 3)
