"""Who makes room for whom."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inferencer.budget import UNBOUNDED, Budget, Footprint

MORE = Footprint(60)


def budget(**models: float) -> Budget:
    """Of 100 MB; the models came in this order, and all have answered."""
    made = Budget(UNBOUNDED._replace(mb=100))
    for model_id, mb in models.items():
        made.enter(model_id, Footprint(mb))
        made.use(model_id)
    return made


def test_the_least_recently_used_goes_first():
    made = budget(a=30, b=30, c=30)
    made.use("a")
    assert made.victim("d", MORE, wanted={}) == "b"


def test_those_that_nobody_waits_for_go_before_those_that_somebody_does():
    made = budget(a=30, b=30, c=30)
    assert made.victim("d", MORE, wanted={"a": True, "b": True}) == "c"
    assert made.victim("d", MORE, wanted={"a": True, "b": True, "c": True}) == "a"


def test_those_whose_requests_wait_elsewhere_go_before_those_whose_wait_here():
    made = budget(a=30, b=30, c=30)
    assert made.victim("d", MORE, wanted={"a": True, "b": False, "c": False}) == "b"
    assert made.victim("d", MORE, wanted={"a": True, "b": False}) == "c"


def test_one_that_has_yet_to_answer_who_waits_for_it_does_not_go():
    made = budget(a=50)
    made.enter("new", Footprint(50))
    assert made.victim("d", MORE, wanted={"a": True, "new": True}) == "a"
    made.leave("a")
    assert made.victim("d", MORE, wanted={"new": True}) is None
    assert made.victim("d", MORE, wanted={}) == "new"  # nobody waits any more
    made.use("new")
    assert made.victim("d", MORE, wanted={"new": True}) == "new"


def test_it_does_not_make_room_for_itself():
    made = budget(a=50)
    assert made.victim("a", MORE, wanted={}) is None
    assert not made.others("a", MORE)
    assert made.others("b", MORE)


def test_what_takes_the_place_of_another_counts_once():
    made = budget(a=50)
    made.enter("a", Footprint(80))
    assert made.used == (80, 0)
    made.leave("a")
    made.leave("a")
    made.use("a")
    assert (made.used, "a" in made) == ((0, 0), False)


def _patience(wanted: dict[str, bool], model_id: str) -> int:
    return {None: 0, False: 1, True: 2}[wanted.get(model_id)]


@given(
    asked=st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 100)), max_size=60),
    wanted=st.dictionaries(st.sampled_from("abcdef"), st.booleans()),
)
def test_the_limit_holds_and_nobody_goes_without_need(asked: list[tuple[str, int]], wanted: dict[str, bool]) -> None:
    made, order = Budget(UNBOUNDED._replace(mb=100)), list[str]()
    for model_id, mb in asked:
        if model_id not in made:
            while not made.fits(Footprint(mb)):
                victim = made.victim(model_id, Footprint(mb), wanted)
                assert victim is not None, "all have answered"
                spared = [other for other in order[: order.index(victim)]]
                assert all(_patience(wanted, other) > _patience(wanted, victim) for other in spared)
                made.leave(victim)
                order.remove(victim)
            made.enter(model_id, Footprint(mb))
        else:
            order.remove(model_id)
        made.use(model_id)
        order.append(model_id)
        assert made.used.mb <= 100


def test_where_the_gpu_alone_is_short_models_that_take_none_of_it_stay() -> None:
    made = Budget(Footprint(100, 50))
    for model_id, takes in {"cpu": Footprint(40), "gpu": Footprint(10, 30), "both": Footprint(10, 10)}.items():
        made.enter(model_id, takes)
        made.use(model_id)
    assert made.fits(Footprint(40, 10))
    more = Footprint(10, 20)
    assert not made.fits(more)
    assert made.victim("new", more, wanted={}) == "gpu"
    assert made.victim("new", more, wanted={"gpu": True}) == "both"
    assert made.victim("new", Footprint(50, 20), wanted={}) == "cpu", "both are short"
    made.leave("gpu")
    made.leave("both")
    assert made.fits(more)
    assert not made.others("new", Footprint(10, 60)), "nobody has what is short"
    assert made.others("new", Footprint(70, 60))


@given(
    asked=st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 60), st.integers(0, 60)), max_size=60),
)
def test_both_limits_hold(asked: list[tuple[str, int, int]]) -> None:
    made = Budget(Footprint(100, 60))
    for model_id, mb, gpu_mb in asked:
        if model_id not in made:
            while not made.fits(Footprint(mb, gpu_mb)):
                victim = made.victim(model_id, Footprint(mb, gpu_mb), {})
                assert victim is not None
                made.leave(victim)
            made.enter(model_id, Footprint(mb, gpu_mb))
        made.use(model_id)
        assert made.used.mb <= 100
        assert made.used.gpu_mb <= 60
