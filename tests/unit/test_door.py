"""What turns a request away before its body is read, and what does not."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from shared.errors import QueueFull
from shared.wire.door import REMEMBERED, STALE_S, Door
from shared.wire.messages import Crowd


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def door(clock: Clock) -> Door:
    return Door(clock)


def refused(door: Door, caller: str) -> QueueFull:
    with pytest.raises(QueueFull) as caught, door.entering(caller):
        pass
    return caught.value


def let_in(door: Door, caller: str) -> None:
    with door.entering(caller):
        pass
    door.sent(caller)


def test_all_may_come_until_there_is_a_remark(door: Door) -> None:
    with ExitStack() as arriving:
        for _ in range(100):
            arriving.enter_context(door.entering("a"))
    door.told("a", None)
    let_in(door, "a")


def test_as_many_come_in_as_there_is_room_for(door: Door) -> None:
    door.told("a", Crowd(room=2, wait_ms=1_500))
    let_in(door, "a")
    let_in(door, "a")
    assert refused(door, "a").retry_after_s == 1.5
    let_in(door, "b")


def test_who_left_makes_room_for_another(door: Door) -> None:
    door.left("a")  # there is room for all: nothing to remember
    door.told("a", Crowd(room=1, wait_ms=1_500))
    let_in(door, "a")
    refused(door, "a")
    door.left("a")
    let_in(door, "a")
    refused(door, "a")


def test_those_who_are_arriving_count(door: Door) -> None:
    door.told("a", Crowd(room=1, wait_ms=1_500))
    with door.entering("a"):
        refused(door, "a")
    let_in(door, "a")
    refused(door, "a")


def test_a_newer_word_replaces_the_older(door: Door) -> None:
    door.told("a", Crowd(room=0, wait_ms=1_500))
    refused(door, "a")
    door.told("a", Crowd(room=1, wait_ms=1_500))
    let_in(door, "a")
    door.told("a", Crowd(room=0, wait_ms=1_500))
    door.told("a", None)
    let_in(door, "a")


def test_an_old_word_counts_for_nothing(door: Door, clock: Clock) -> None:
    """A caller whose slow bodies fill what room there was is not shut out once nobody says anything any more."""
    door.told("a", Crowd(room=1, wait_ms=1_500))
    with door.entering("a"):
        clock.now_s += STALE_S
        let_in(door, "a")


def test_another_broker_begins_anew(door: Door) -> None:
    door.told("a", Crowd(room=0, wait_ms=1_500))
    door.forget()
    let_in(door, "a")


def test_what_is_remembered_is_bounded(door: Door, clock: Clock) -> None:
    for number in range(3 * REMEMBERED):
        clock.now_s += 0.01
        door.told(str(number), Crowd(room=0, wait_ms=1_500))
    refused(door, str(3 * REMEMBERED - 1))
    assert len(door._said) <= REMEMBERED


def test_a_request_that_breaks_off_leaves_no_trace(door: Door) -> None:
    door.told("a", Crowd(room=1, wait_ms=1_500))
    with pytest.raises(ValueError, match="half"), door.entering("a"):
        raise ValueError("half a body")
    let_in(door, "a")
    assert not door._entering
