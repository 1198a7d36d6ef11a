"""Who makes room for whom."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inferencer.budget import Budget


def budget(**models: float) -> Budget:
    """Of 100 MB; the models came in this order, and all have answered."""
    made = Budget(100)
    for model_id, mb in models.items():
        made.enter(model_id, mb)
        made.use(model_id)
    return made


def test_the_least_recently_used_goes_first():
    made = budget(a=30, b=30, c=30)
    made.use("a")
    assert made.victim("d", wanted=()) == "b"


def test_those_that_nobody_waits_for_go_before_those_that_somebody_does():
    made = budget(a=30, b=30, c=30)
    assert made.victim("d", wanted={"a", "b"}) == "c"
    assert made.victim("d", wanted={"a", "b", "c"}) == "a"


def test_one_that_has_yet_to_answer_who_waits_for_it_does_not_go():
    made = budget(a=50)
    made.enter("new", 50)
    assert made.victim("d", wanted={"a", "new"}) == "a"
    made.leave("a")
    assert made.victim("d", wanted={"new"}) is None
    assert made.victim("d", wanted=()) == "new"  # nobody waits any more
    made.use("new")
    assert made.victim("d", wanted={"new"}) == "new"


def test_it_does_not_make_room_for_itself():
    made = budget(a=50)
    assert made.victim("a", wanted=()) is None
    assert not made.others("a")
    assert made.others("b")


def test_what_takes_the_place_of_another_counts_once():
    made = budget(a=50)
    made.enter("a", 80)
    assert made.used_mb == 80
    made.leave("a")
    made.leave("a")
    made.use("a")
    assert (made.used_mb, "a" in made) == (0, False)


@given(
    asked=st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 100)), max_size=60),
    wanted=st.sets(st.sampled_from("abcdef")),
)
def test_the_limit_holds_and_nobody_goes_without_need(asked: list[tuple[str, int]], wanted: set[str]) -> None:
    made, order = Budget(100), list[str]()
    for model_id, mb in asked:
        if model_id not in made:
            while not made.fits(mb):
                victim = made.victim(model_id, wanted)
                assert victim is not None, "all have answered"
                spared = [other for other in order[: order.index(victim)]]
                assert all(other in wanted for other in spared)
                made.leave(victim)
                order.remove(victim)
            made.enter(model_id, mb)
        else:
            order.remove(model_id)
        made.use(model_id)
        order.append(model_id)
        assert made.used_mb <= 100
