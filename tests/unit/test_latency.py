"""The rounds in which the network of a search is measured: enough of them, and no more than is needed."""

from __future__ import annotations

from collections import Counter
from typing import Any

from shared.trials import settled
from trainer.latency import MOST_ROUNDS, ROUNDS, in_rounds


class Machine:
    """Takes as long as a size says, and longer for so many rounds; told of every round."""

    def __init__(self, busy: dict[int, int] | None = None) -> None:
        self.busy, self.measured = busy or {}, list[int]()
        self.told: list[dict[str, Any]] = []

    def once(self, size: int) -> float:
        self.measured.append(size)
        count = self.measured.count(size)
        return size * (1 + count if count <= self.busy.get(size, 0) else 1.0)

    def latencies(self, sizes: list[int], seed: int = 0) -> dict[int, float]:
        found = in_rounds(sizes, self.once, seed, self.told.append)
        return {each.image_size: each.latency_ms for each in found}


def test_each_size_is_measured_once_a_round_in_orders_that_differ() -> None:
    machine = Machine()
    assert list(machine.latencies([32, 8, 16]).items()) == [(8, 8.0), (16, 16.0), (32, 32.0)]
    turns = [tuple(machine.measured[start : start + 3]) for start in range(0, 3 * ROUNDS, 3)]
    assert [sorted(turn) for turn in turns] == [[8, 16, 32]] * ROUNDS
    assert len(set(turns)) > 1
    assert len(machine.measured) == 3 * ROUNDS
    again = Machine()
    again.latencies([32, 8, 16])
    assert again.measured == machine.measured


def test_a_size_that_was_disturbed_is_measured_until_two_rounds_agree() -> None:
    machine = Machine(busy={16: 7})
    assert machine.latencies([8, 16]) == {8: 8.0, 16: 16.0}
    assert Counter(machine.measured) == {8: ROUNDS, 16: 9}
    assert [each["stage"] for each in machine.told][ROUNDS - 1 :][:2] == ["round 5 of 5", "round 6, until two agree"]
    assert [each["fraction"] for each in machine.told] == sorted(each["fraction"] for each in machine.told)


def test_a_machine_that_is_never_quiet_is_given_up_and_the_rounds_show_it() -> None:
    slower = (2.0**count for count in range(100))
    (found,) = in_rounds([8], lambda size: next(slower), 0, lambda body: None)
    assert (found.latency_ms, len(found.rounds_ms)) == (1.0, MOST_ROUNDS)
    assert not settled(found.rounds_ms)
