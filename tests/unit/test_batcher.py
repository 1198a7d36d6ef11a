"""The queue of an inference process: who goes next, with whom, and nobody is lost."""

from __future__ import annotations

import threading
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferencer.batcher import LOAD_LIMIT_S, PROBE_LIMIT_S, WANTED_S, Batch, Batcher
from shared.wire.messages import Assign


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        self.now_s += 1e-6
        return self.now_s


def assign(request_id: str, model_id: str = "a", *, alone: bool = False, ttl_ms: float = 30_000) -> Assign:
    return Assign(request_id=request_id, model_id=model_id, form="images", ttl_ms=ttl_ms, waited_ms=0.0, alone=alone)


class Desk:
    """A batcher with models that are loaded when they have room here."""

    def __init__(self, at_once: int = 1, **rooms: int) -> None:
        self.rooms = rooms
        self.clock = Clock()
        self.batcher = Batcher(at_once, self.rooms.get, self.clock)

    def put(self, *names: str, images: int = 1, **rest: object) -> None:
        """`a1` is request a1 of model a."""
        for name in names:
            self.batcher.put(assign(name, name[0], **rest), [b"image"] * images)

    def take(self) -> Batch | None:
        return self.batcher.take(timeout_s=0)

    def load(self) -> str | None:
        return self.batcher.take_load(timeout_s=0)

    def batch(self) -> list[str]:
        work = self.take()
        assert isinstance(work, Batch), work
        self.last = work
        return [request.assign.request_id for request in work.requests]


def test_takes_what_is_there_and_waits_for_nobody() -> None:
    desk = Desk(a=4)
    desk.put("a1")
    assert desk.batch() == ["a1"]


def test_takes_as_many_as_the_model_allows_in_order() -> None:
    desk = Desk(at_once=9, a=4)
    desk.put(*(f"a{number}" for number in range(6)))
    assert desk.batch() == ["a0", "a1", "a2", "a3"]
    assert desk.batch() == ["a4", "a5"]
    assert desk.take() is None


def test_the_oldest_request_decides_whose_turn_it_is() -> None:
    desk = Desk(at_once=9, a=4, b=4)
    desk.put("b1", "a1", "b2", "a2")
    assert desk.batch() == ["b1", "b2"]
    assert desk.batch() == ["a1", "a2"]


def test_images_count_not_requests() -> None:
    desk = Desk(at_once=9, a=4)
    desk.put("a1", images=3)
    desk.put("a2", images=2)
    desk.put("a3", images=9)
    assert [desk.batch() for _ in range(3)] == [["a1"], ["a2"], ["a3"]]  # even if one alone is too many


def test_alone_is_alone_on_both_sides() -> None:
    desk = Desk(at_once=9, a=8)
    desk.put("a1", "a2")
    desk.put("a3", alone=True)
    desk.put("a4", "a5")
    assert [desk.batch() for _ in range(3)] == [["a1", "a2"], ["a3"], ["a4", "a5"]]


def test_a_batch_says_why_nothing_more_is_in_it() -> None:
    desk = Desk(at_once=9, a=2)
    desk.put("a1", "a2", "a3")
    desk.put("a4", images=2)
    desk.put("a5")
    desk.put("a6", alone=True)
    desk.put("a7")
    cuts = []
    while (work := desk.take()) is not None:
        assert isinstance(work, Batch)
        cuts.append((len(work.requests), work.cut))
    assert cuts == [(2, "full"), (1, "full"), (1, "full"), (1, "full"), (1, "alone"), (1, "drained")]


def test_no_more_batches_at_once_than_allowed() -> None:
    desk = Desk(at_once=1, a=1, b=1)
    desk.put("a1", "b1")
    assert desk.batch() == ["a1"]
    assert desk.take() is None
    desk.batcher.finished(desk.last)
    assert desk.batch() == ["b1"]


def test_one_thread_loads_a_model_and_holds_up_nobody() -> None:
    desk = Desk(at_once=1, b=4)
    desk.put("a1", "a2", "b1")
    assert desk.load() == "a"
    assert desk.load() is None  # nobody else loads it
    assert desk.batch() == ["b1"]
    desk.batcher.finished(desk.last)
    assert desk.take() is None
    desk.rooms["a"] = 4
    assert desk.batcher.loaded("a", usable=True) == []
    assert desk.batch() == ["a1", "a2"]


def test_a_load_needs_no_free_place() -> None:
    desk = Desk(at_once=1, b=1)
    desk.put("b1", "a1")
    assert desk.batch() == ["b1"]
    assert desk.load() == "a"


def test_the_oldest_request_decides_what_is_loaded() -> None:
    desk = Desk()
    desk.put("b1", "a1", "c1")
    assert [desk.load() for _ in range(4)] == ["b", "a", "c", None]


def test_a_model_that_does_not_load_gives_its_requests_back() -> None:
    desk = Desk()
    desk.put("a1", "a2")
    assert desk.load() == "a"
    assert [request.assign.request_id for request in desk.batcher.loaded("a", usable=False)] == ["a1", "a2"]
    assert desk.load() is None
    desk.put("a3")
    assert desk.load() == "a"  # the next request tries again


def test_a_model_that_made_room_is_loaded_again() -> None:
    desk = Desk(a=4)
    desk.put("a1")
    del desk.rooms["a"]
    assert desk.take() is None
    assert desk.load() == "a"


def test_a_batch_whose_model_went_meanwhile_waits_again_in_its_place() -> None:
    desk = Desk(at_once=1, a=2)
    desk.put("a1", "a2", "a3")
    assert desk.batch() == ["a1", "a2"]
    desk.batcher.again(desk.last)
    desk.batcher.finished(desk.last)
    assert desk.batcher.waiting() == {"a": True}
    assert desk.batch() == ["a1", "a2"]
    desk.batcher.finished(desk.last)
    assert desk.batch() == ["a3"]
    assert desk.batcher.waiting() == {}


def test_what_waits_with_the_broker_is_waited_for_too_as_long_as_that_is_true() -> None:
    desk = Desk(a=1, b=1)
    desk.batcher.put(msgspec.structs.replace(assign("c1", "c"), wanted=["a", "b"]), [b"image"])
    assert desk.batcher.waiting() == {"a": False, "b": False, "c": True}
    desk.batcher.put(msgspec.structs.replace(assign("d1", "d"), wanted=["b"]), [b"image"])
    desk.put("c2")
    assert desk.batcher.waiting() == {"b": False, "c": True, "d": True}
    desk.clock.now_s += WANTED_S
    assert desk.batcher.waiting() == {"c": True, "d": True}


def test_what_waited_too_long_is_taken_out() -> None:
    desk = Desk(a=8)
    desk.put("a1", "b1", ttl_ms=1_000)
    desk.put("a2", ttl_ms=5_000)
    desk.clock.now_s += 2
    assert sorted(request.assign.request_id for request in desk.batcher.expired()) == ["a1", "b1"]
    assert desk.batch() == ["a2"]
    assert desk.batcher.expired() == []


def test_work_beyond_every_deadline_is_stuck() -> None:
    desk = Desk(a=8)
    desk.put("a1", ttl_ms=1_000)
    desk.put("a2", ttl_ms=5_000)
    desk.batch()
    desk.clock.now_s += 2
    assert not desk.batcher.stuck()
    desk.clock.now_s += 4
    assert desk.batcher.stuck()
    desk.batcher.finished(desk.last)
    assert not desk.batcher.stuck()


def test_an_endless_load_is_stuck() -> None:
    desk = Desk()
    desk.put("a1")
    desk.load()
    assert not desk.batcher.stuck()
    desk.clock.now_s += LOAD_LIMIT_S + 1
    assert desk.batcher.stuck()


def test_a_probe_has_the_place_of_one_batch_however_many_wait() -> None:
    desk = Desk(at_once=2, a=1)
    desk.put(*(f"a{number}" for number in range(9)))
    assert desk.batch() == ["a0"]
    with desk.batcher.reserved(0) as given:
        assert given
        assert desk.take() is None, "one runs, and the probe"
    assert desk.batch() == ["a1"]
    with desk.batcher.reserved(0) as given:
        assert not given, "both places are taken"
        desk.batcher.finished(desk.last)
        assert desk.batch() == ["a2"], "who waited in vain keeps no place"


def test_a_probe_that_waits_is_next_when_a_batch_ends() -> None:
    desk = Desk(a=1)
    desk.put("a1", "a2")
    desk.batch()
    probing, go_on = threading.Event(), threading.Event()

    def probe() -> None:
        with desk.batcher.reserved(30) as given:
            assert given
            probing.set()
            go_on.wait(10)

    thread = threading.Thread(target=probe)
    thread.start()
    while not desk.batcher._reserved:
        threading.Event().wait(0.001)
    desk.batcher.finished(desk.last)
    assert desk.take() is None
    assert probing.wait(10)
    assert desk.take() is None
    go_on.set()
    work = desk.batcher.take(timeout_s=10)
    assert work is not None
    assert [request.assign.request_id for request in work.requests] == ["a2"]
    thread.join(10)


def test_a_probe_that_does_not_end_is_stuck() -> None:
    desk = Desk()
    with desk.batcher.reserved(0):
        assert not desk.batcher.stuck()
        desk.clock.now_s += PROBE_LIMIT_S + 1
        assert desk.batcher.stuck()
    assert not desk.batcher.stuck()


def test_closing_wakes_everybody() -> None:
    batcher = Batcher(1, {}.get)
    results: list[object] = []
    threads = [threading.Thread(target=lambda: results.append(batcher.take(timeout_s=30))) for _ in range(3)]
    for thread in threads:
        thread.start()
    batcher.close()
    for thread in threads:
        thread.join(10)
    assert results == [None, None, None]
    with batcher.reserved(30) as given:
        assert not given
    assert batcher.take_load(timeout_s=30) is None


def test_a_waiting_thread_is_woken_by_a_request() -> None:
    batcher = Batcher(1, {"a": 4}.get)
    results: list[Batch | None] = []
    thread = threading.Thread(target=lambda: results.append(batcher.take(timeout_s=30)))
    thread.start()
    batcher.put(assign("a1"), [b"image"])
    thread.join(10)
    assert isinstance(results[0], Batch)


@settings(max_examples=100, deadline=None)
@given(
    requests=st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(1, 5)), max_size=40),
    at_once=st.integers(1, 3),
    room=st.integers(1, 6),
    choices=st.lists(st.integers(0, 9), max_size=80),
)
def test_everything_comes_out_once_in_order_and_within_bounds(
    requests: list[tuple[str, bool, int]], at_once: int, room: int, choices: list[int]
) -> None:
    desk = Desk(at_once)
    for number, (model, alone, images) in enumerate(requests):
        desk.put(f"{model}{number}", alone=alone, images=images)
    seen: list[str] = []
    running: list[Batch] = []
    loading: list[str] = []
    moves = iter(choices)
    while len(seen) < len(requests):
        if next(moves, 0) % 3 == 0 and (to_load := desk.load()) is not None:
            assert to_load not in loading
            loading.append(to_load)
        work = desk.take() if next(moves, 0) % 2 == 0 else None
        match work:
            case Batch(model_id, batch, _):
                running.append(work)
                assert len(running) <= at_once
                assert len({request.assign.model_id for request in batch}) == 1
                assert len(batch) == 1 or sum(request.images for request in batch) <= room
                assert len(batch) == 1 or not any(request.assign.alone for request in batch)
                seen += [request.assign.request_id for request in batch]
            case None if running:
                desk.batcher.finished(running.pop(next(moves, 0) % len(running)))
            case None if loading:
                model_id = loading.pop(next(moves, 0) % len(loading))
                desk.rooms[model_id] = room
                desk.batcher.loaded(model_id, usable=True)
    assert Counter(seen) == Counter(f"{model}{number}" for number, (model, _, _) in enumerate(requests))
    for model in "abc":
        mine = [int(name[1:]) for name in seen if name[0] == model]
        assert mine == sorted(mine)


def test_many_threads_lose_nothing() -> None:
    rooms: dict[str, int] = {}
    batcher = Batcher(2, rooms.get)
    done: list[str] = []

    def work() -> None:
        while (batch := batcher.take(timeout_s=10)) is not None:
            done.extend(request.assign.request_id for request in batch.requests)
            batcher.finished(batch)

    def load() -> None:
        while len(done) < len(names):
            if (model_id := batcher.take_load(timeout_s=0.05)) is not None:
                rooms[model_id] = 3
                assert batcher.loaded(model_id, usable=True) == []

    def probe() -> None:
        while len(done) < len(names):
            with batcher.reserved(0.05) as given:
                assert len(batcher._running) + given <= 2

    crew = [threading.Thread(target=target) for target in (work, work, work, work, load, probe)]
    names = [f"{'abc'[number % 3]}{number}" for number in range(500)]
    for thread in crew:
        thread.start()
    for number, name in enumerate(names):
        if number % 50 == 0:
            rooms.pop("c", None)  # unloaded while some wait for it
        batcher.put(assign(name, name[0]), [b"image"])
    while len(done) < len(names) and any(thread.is_alive() for thread in crew):
        threading.Event().wait(0.005)
    batcher.close()
    for thread in crew:
        thread.join(10)
    assert Counter(done) == Counter(names)


def test_no_thread_is_woken_for_what_cannot_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(a=1, b=1)
    woken: list[int] = []
    loaders: list[int] = []
    monkeypatch.setattr(desk.batcher._changed, "notify", lambda: woken.append(1))
    monkeypatch.setattr(desk.batcher._missing, "notify", lambda: loaders.append(1))
    desk.put("a1")
    assert len(woken) == 1 and desk.batch() == ["a1"]
    desk.put("a2", "b1")
    assert len(woken) == 1  # they wait for the one that runs, and the thread that ends it comes back
    desk.put("c1")
    assert (len(woken), len(loaders)) == (1, 1)  # a model to load needs no place
    assert desk.load() == "c"
    desk.put("c2")
    assert len(loaders) == 1  # it loads already
    desk.batcher.finished(desk.last)
    desk.batcher._at_once = 3
    assert desk.batch() == ["a2"]
    assert len(woken) == 2  # one that begins something passes on what is left
