"""The broker's rules one by one, then all of them under random schedules."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker.core import ALWAYS, FEW, PROBE_AFTER_S, Core, Outgoing
from broker.lane import Lane, Request
from broker.roster import LOADS_AHEAD
from shared.wire import codec
from shared.wire.messages import (
    DEAD_AFTER_S,
    AskStatus,
    Assign,
    Bye,
    Cancel,
    Crowd,
    Done,
    Event,
    Failed,
    Heartbeat,
    LoadedModel,
    Memory,
    Publish,
    Ready,
    Status,
    Submit,
    WhoAreYou,
)

CLIENT = b"gateway-0"
A, B = b"inferencer-0", b"inferencer-1"


def core(limit: int = 100, limit_bytes: int = 10_000, patience_s: float = 3_600) -> Core:
    return Core("boot", Lane(limit, limit_bytes), patience_s, wall=lambda: "2026-01-31T08:15:30.250Z")


def submit(
    request_id: str,
    queue_ms: float = 30_000,
    inference_ms: float = 30_000,
    caller: str = "",
    model_id: str = "mdl",
) -> Submit:
    return Submit(
        request_id=request_id,
        model_id=model_id,
        form="images",
        queue_ttl_ms=queue_ms,
        inference_ttl_ms=inference_ms,
        caller=caller,
    )


def loaded(*names: str) -> list[LoadedModel]:
    return [
        LoadedModel(
            model_id=name, engine="onnxruntime", precision="fp32", batch_size=1, memory_mb=9.5, gpu_memory_mb=9.5
        )
        for name in names
    ]


def ready(
    worker: bytes, credit: int = 1, boot: str = "1", inflight: tuple[str, ...] = (), models: tuple[str, ...] = ("mdl",)
) -> Ready:
    """An introduction; the one model that most tests ask for is in memory."""
    held = list(inflight)
    return Ready(worker_id=worker.decode(), boot_id=boot, credit=credit, inflight=held, models=loaded(*models))


def beat(*models: str, boot: str = "1") -> Heartbeat:
    return Heartbeat(boot_id=boot, models=loaded(*models))


def done(request_id: str) -> Done:
    return Done(
        request_id=request_id,
        engine="onnxruntime",
        precision="fp32",
        batch_size=1,
        queue_ms=0,
        decode_ms=0,
        inference_ms=0,
    )


def failed(request_id: str) -> Failed:
    return Failed(request_id=request_id, code="bad_image", message="no image")


def serving(*workers: bytes, credit: int = 1, **limits: float) -> Core:
    """A core that these workers have introduced themselves to, at time 0."""
    broker = core(**limits)
    for worker in workers:
        broker.handle(0, worker, ready(worker, credit))
    return broker


def assigned(out: list[Outgoing]) -> list[tuple[bytes | None, str]]:
    return [(to, message.request_id) for to, message, _ in out if isinstance(message, Assign)]


def answers(out: list[Outgoing]) -> dict[str, str]:
    """What clients were told: request id to `done` or the code of the failure."""
    return {
        message.request_id: message.code if isinstance(message, Failed) else "done"
        for _, message, _ in out
        if isinstance(message, Done | Failed)
    }


def keep_alive(broker: Core, now_s: float, *workers: bytes) -> list[Outgoing]:
    return [out for worker in workers for out in broker.handle(now_s, worker, beat("mdl"))]


def cancel(broker: Core, *names: str, client: bytes = CLIENT) -> list[Outgoing]:
    return [out for name in names for out in broker.handle(0, client, Cancel(request_id=name))]


# --- the way of a request -------------------------------------------------------------------------------------------


def test_a_request_goes_to_a_worker_and_its_answer_to_the_client_with_all_blobs():
    broker = serving(A)
    out = broker.handle(1.0, CLIENT, submit("r"), [b"jpeg", b"png"])
    [(to, assign, blobs)] = out
    assert (to, blobs) == (A, [b"jpeg", b"png"])
    assert assign == Assign(request_id="r", model_id="mdl", form="images", ttl_ms=30_000, waited_ms=0)
    assert broker.handle(2.0, A, done("r"), [b"{}"]) == [Outgoing(CLIENT, done("r"), [b"{}"])]
    assert broker.idle


def test_a_failure_of_the_worker_reaches_the_client_as_it_is():
    broker = serving(A)
    broker.handle(0, CLIENT, submit("r"))
    assert broker.handle(0, A, failed("r")) == [Outgoing(CLIENT, failed("r"))]


def test_work_beyond_the_credit_waits_in_order_and_the_wait_is_told():
    broker = serving(A, credit=2)
    out = [sent for number in range(4) for sent in broker.handle(number, CLIENT, submit(f"r{number}"))]
    assert assigned(out) == [(A, "r0"), (A, "r1")]
    out = broker.handle(10, A, done("r1"))
    assert assigned(out) == [(A, "r2")]
    assert [message.waited_ms for _, message, _ in out if isinstance(message, Assign)] == [8_000]


def test_work_goes_to_the_worker_with_most_free_credit_then_to_the_one_that_rested_longest():
    broker = core()
    broker.handle(0, A, ready(A, credit=3))
    broker.handle(0, B, ready(B, credit=2))
    out = [sent for number in range(5) for sent in broker.handle(1 + number, CLIENT, submit(f"r{number}"))]
    assert [to for to, _ in assigned(out)] == [A, B, A, B, A]


@pytest.mark.parametrize("answer", [done, failed])
def test_an_answer_gives_the_credit_back_and_a_heartbeat_does_not(answer):
    broker = serving(A)
    broker.handle(0, CLIENT, submit("r0"))
    broker.handle(0, CLIENT, submit("r1"))
    assert assigned(keep_alive(broker, 1, A)) == []
    assert assigned(broker.handle(1, A, answer("r0"))) == [(A, "r1")]


def test_answers_from_workers_that_do_not_hold_the_request_are_dropped():
    broker = serving(A, B)
    [(holder, _)] = assigned(broker.handle(0, CLIENT, submit("r")))
    other = B if holder == A else A
    assert broker.handle(0, other, done("r")) == []
    assert broker.handle(0, other, done("never-heard-of")) == []
    assert answers(broker.handle(0, holder, done("r"))) == {"r": "done"}
    assert broker.handle(0, holder, done("r")) == []


# --- refusals -------------------------------------------------------------------------------------------------------


def refused(out: list[Outgoing]) -> Failed:
    [(to, message, _)] = out
    assert to == CLIENT
    assert isinstance(message, Failed)
    return message


def test_without_a_worker_requests_are_refused_with_a_time_to_come_back():
    failure = refused(core().handle(0, CLIENT, submit("r")))
    assert failure.code == "unavailable"
    assert failure.retry_after_ms > 0


def test_a_worker_without_credit_is_no_worker():
    broker = serving(A, credit=0)
    assert refused(broker.handle(0, CLIENT, submit("r"))).code == "unavailable"


def test_the_lane_is_bounded_by_count():
    broker = serving(A, limit=2)
    for number in range(3):
        broker.handle(0, CLIENT, submit(f"r{number}"))
    assert refused(broker.handle(0, CLIENT, submit("r3"))).code == "queue_full"


def test_the_lane_is_bounded_by_bytes_and_an_answer_makes_room():
    broker = serving(A, limit_bytes=1_000)
    broker.handle(0, CLIENT, submit("held"), [b"x" * 1_000])
    broker.handle(0, CLIENT, submit("waits"), [b"x" * 600])
    assert refused(broker.handle(0, CLIENT, submit("over"), [b"x" * 401])).code == "queue_full"
    assert broker.handle(0, CLIENT, submit("fits"), [b"x" * 200, b"x" * 200]) == []
    assert assigned(broker.handle(0, A, done("held"))) == [(A, "waits")]
    assert broker.handle(0, CLIENT, submit("now"), [b"x" * 600]) == []


def test_a_request_that_could_never_wait_is_too_large():
    broker = serving(A, limit_bytes=1_000)
    assert refused(broker.handle(0, CLIENT, submit("r"), [b"x" * 1_001])).code == "too_large"


def test_an_id_in_use_is_a_conflict_until_its_worker_lets_go():
    broker = serving(A)
    broker.handle(0, CLIENT, submit("r", inference_ms=1_000))
    assert refused(broker.handle(0, CLIENT, submit("r"))).code == "conflict"
    broker.tick(1.5)  # answered as too late, still with the worker
    assert refused(broker.handle(2, CLIENT, submit("r"))).code == "conflict"
    broker.handle(3, A, done("r"))
    assert assigned(broker.handle(4, CLIENT, submit("r"))) == [(A, "r")]


@pytest.mark.parametrize("ttl", [0.0, -1.0, float("nan"), float("inf"), 1e12])
def test_time_limits_that_are_none_are_refused(ttl):
    broker = serving(A)
    assert refused(broker.handle(0, CLIENT, submit("q", queue_ms=ttl))).code == "invalid"
    assert refused(broker.handle(0, CLIENT, submit("i", inference_ms=ttl))).code == "invalid"


def busy_core(stay_s: float, caller: str = "", **limits: float) -> tuple[Core, float]:
    """A core whose only worker has answered a score of requests, one each `stay_s`, while another always waited.

    One more request, `held`, is with the worker.
    """
    broker, now_s = serving(A, **limits), 0.0
    broker.handle(now_s, CLIENT, submit("warm0", caller=caller))
    for number in range(1, 21):
        broker.handle(now_s, CLIENT, submit(f"warm{number}" if number < 20 else "held", caller=caller))
        now_s += stay_s
        broker.handle(now_s, A, done(f"warm{number - 1}"))
    return broker, now_s


def fill(broker: Core, now_s: float, caller: str, count: int) -> Counter[str]:
    """So many requests of a caller at once: how many were refused with which code; others wait."""
    told: Counter[str] = Counter()
    for number in range(count):
        out = broker.handle(now_s, CLIENT, submit(f"{caller}{number}", caller=caller))
        told.update(answers(out).values())
    return told


def test_a_full_lane_says_when_to_come_back_from_the_measured_rate():
    broker, now_s = busy_core(stay_s=0.5, limit=10)
    assert fill(broker, now_s, "r", 10) == {}
    assert refused(broker.handle(now_s, CLIENT, submit("over", caller="r"))).retry_after_ms == pytest.approx(5_000)


def test_a_request_that_cannot_be_reached_in_time_is_refused_at_once():
    broker, now_s = busy_core(stay_s=0.5)
    fill(broker, now_s, "r", 10)
    hasty = submit("hasty", queue_ms=4_000, caller="r")
    assert refused(broker.handle(now_s, CLIENT, hasty)).code == "queue_full"
    assert broker.handle(now_s, CLIENT, submit("patient", queue_ms=6_000, caller="r")) == []


def test_nobody_begins_to_wait_longer_than_patience_says():
    broker, now_s = busy_core(stay_s=0.01, limit=1000, patience_s=3.005)  # 100 a second
    assert fill(broker, now_s, "r", 400) == {"queue_full": 99}
    last = refused(broker.handle(now_s, CLIENT, submit("over", caller="r")))
    assert last.retry_after_ms == pytest.approx(3_010, rel=0.01)


def test_a_slow_model_lets_a_hundred_clients_wait():
    broker, now_s = busy_core(stay_s=0.2, limit=1000, patience_s=1.0)
    assert fill(broker, now_s, "r", 140) == {"queue_full": 140 - (ALWAYS + 1)}


def test_before_anything_was_measured_only_the_bounds_count():
    broker = serving(A, patience_s=0.001)
    assert fill(broker, 0, "r", 101) == {}


def test_a_pace_that_breaks_down_refuses_more():
    """Ten a second; then the worker says nothing for twenty seconds."""
    broker, now_s = busy_core(stay_s=0.1, limit=1000)
    fill(broker, now_s, "r", 100)
    keep_alive(broker, now_s + 10, A)
    assert broker.handle(now_s, CLIENT, submit("then", queue_ms=12_000, caller="r")) == []
    keep_alive(broker, now_s + 20, A)
    late = broker.handle(now_s + 20, CLIENT, submit("now", queue_ms=12_000, caller="r"))
    assert refused(late).code == "queue_full"


def test_time_in_which_nobody_waits_says_nothing_about_the_pace():
    broker, now_s = busy_core(stay_s=0.1, limit=1000)
    broker.handle(now_s, A, done("held"))
    now_s += 3_600
    fill(broker, now_s, "r", 30)
    over = submit("over", queue_ms=2_000, caller="r")
    assert refused(broker.handle(now_s, CLIENT, over)).retry_after_ms == pytest.approx(2_900, rel=0.1)


# --- fairness -------------------------------------------------------------------------------------------------------


def order(broker: Core, now_s: float, holds: str) -> list[str]:
    """The requests that wait, in the order in which the only worker gets them."""
    given = []
    while found := assigned(broker.handle(now_s, A, done(holds))):
        [(_, holds)] = found
        given.append(holds)
    return given


def test_callers_take_turns_however_many_requests_one_has():
    broker = serving(A)
    broker.handle(0, CLIENT, submit("held"))
    fill(broker, 0, "loud", 50)
    fill(broker, 0, "quiet", 3)
    given = order(broker, 0, "held")
    assert [request_id for request_id in given if request_id.startswith("loud")] == [f"loud{n}" for n in range(50)]
    assert [given.index(f"quiet{number}") for number in range(3)] == [1, 3, 5]


def test_shares_are_of_images_not_of_requests():
    broker = serving(A)
    broker.handle(0, CLIENT, submit("held"))
    for number in range(4):
        broker.handle(0, CLIENT, submit(f"many{number}", caller="many"), [b"x"] * 8)
    fill(broker, 0, "one", 17)
    given = order(broker, 0, "held")
    assert given.index("one7") < given.index("many1") < given.index("one8")


def test_who_comes_back_at_once_does_not_pass_those_who_wait():
    """One request at a time, always there when a worker is free: half of the places, not all."""
    broker = serving(A)
    broker.handle(0, CLIENT, submit("held"))
    fill(broker, 0, "loud", 50)
    holds, given = "held", []
    for number in range(40):
        if not any(request.submit.caller == "often" for request in broker.lane):
            broker.handle(0, CLIENT, submit(f"often{number}", caller="often"))
        [(_, holds)] = assigned(broker.handle(0, A, done(holds)))
        given.append(holds.rstrip("0123456789"))
    assert Counter(given) == {"loud": 20, "often": 20}


def test_who_crowds_a_full_lane_gives_way_and_its_newest_are_refused():
    broker = serving(A, limit=10)
    broker.handle(0, CLIENT, submit("held"))
    assert fill(broker, 0, "loud", 12) == {"queue_full": 2}
    out = broker.handle(0, CLIENT, submit("quiet", caller="quiet"))
    assert answers(out) == {"loud9": "queue_full"}
    assert fill(broker, 0, "other", 10) == {"queue_full": 10}
    assert Counter(request.submit.caller for request in broker.lane) == {"loud": 5, "quiet": 1, "other": 4}


def test_giving_way_counts_bytes_as_well_and_never_takes_a_callers_only_request():
    broker = serving(A, limit_bytes=1_000)
    broker.handle(0, CLIENT, submit("held"))
    for number in range(3):
        broker.handle(0, CLIENT, submit(f"heavy{number}", caller="heavy"), [b"x" * 300])
    out = broker.handle(0, CLIENT, submit("light", caller="light"), [b"x" * 200])
    assert answers(out) == {"heavy2": "queue_full"}
    broker.handle(0, CLIENT, submit("only", caller="only"), [b"x" * 200])
    out = broker.handle(0, CLIENT, submit("more", caller="more"), [b"x" * 250])
    assert answers(out) == {"heavy1": "queue_full"}
    assert answers(broker.handle(0, CLIENT, submit("much", caller="much"), [b"x" * 290])) == {"much": "queue_full"}


def test_a_loud_caller_s_queue_keeps_nobody_else_out():
    """Patience is for one's own turn: the loud one is refused, the quiet one is next."""
    broker, now_s = busy_core(stay_s=0.01, caller="loud", limit=1000, patience_s=2.0)
    assert fill(broker, now_s, "loud", 300)["queue_full"] > 90
    assert fill(broker, now_s, "quiet", 50) == {}
    assert order(broker, now_s, "held").index("quiet9") < 25


# --- what clients are told of the crowd -----------------------------------------------------------------------------


def crowd(out: list[Outgoing]) -> Crowd | None:
    [told] = [message.crowd for _, message, _ in out if isinstance(message, Done | Failed)]
    return told


def test_answers_say_how_much_room_there_is_when_it_is_little():
    broker, now_s = busy_core(stay_s=0.01, caller="r", limit=1000, patience_s=2.0)
    fill(broker, now_s, "r", 150)
    assert crowd(broker.handle(now_s, A, done("held"))) is None
    for number in range(150, 203):
        broker.handle(now_s, CLIENT, submit(f"r{number}", caller="r"))
    told = crowd(broker.handle(now_s + 0.01, A, done("r0")))
    assert told is not None
    assert 0 < told.room < FEW
    assert told.wait_ms == pytest.approx(1_940, rel=0.1)
    assert fill(broker, now_s + 0.01, "s", 3) == {}, "another caller has room of its own"
    told = crowd(broker.handle(now_s + 0.02, A, done("r1")))
    assert told is not None
    for number in range(told.room):
        assert answers(broker.handle(now_s + 0.02, CLIENT, submit(f"t{number}", caller="r"))) == {}


def test_a_refusal_says_that_there_is_no_room():
    broker = serving(A, limit=2)
    fill(broker, 0, "r", 3)
    assert crowd(broker.handle(0, CLIENT, submit("over", caller="r"))) == Crowd(room=0, wait_ms=1_000)
    assert answers(broker.handle(0, CLIENT, submit("quiet", caller="quiet"))) == {"r2": "queue_full"}


# --- clients that leave ---------------------------------------------------------------------------------------------


def test_what_a_client_cancels_leaves_the_lane_unanswered_and_makes_room():
    broker = serving(A, limit=2, limit_bytes=20)
    for number in range(3):
        broker.handle(0, CLIENT, submit(f"r{number}"), [b"x" * 10])
    assert cancel(broker, "r1", "r2", "r2", "never heard of") == []
    assert (len(broker.lane), broker.lane.queued_bytes, broker.lane.callers) == (0, 0, 0)
    for number in range(3, 5):
        assert broker.handle(0, CLIENT, submit(f"r{number}"), [b"x" * 10]) == []
    assert assigned(broker.handle(0, A, done("r0"))) == [(A, "r3")]
    broker.handle(0, A, done("r3"))
    broker.handle(0, A, done("r4"))
    assert broker.idle
    [(_, status, _)] = broker.handle(0, CLIENT, AskStatus())
    assert (status.cancelled, status.completed, status.failed) == (2, 3, 0)


def test_what_a_worker_has_it_finishes_though_nobody_waits_for_it():
    broker = serving(A)
    broker.handle(0, CLIENT, submit("r"))
    assert cancel(broker, "r") == []
    assert broker.handle(0, A, done("r")) == [Outgoing(CLIENT, done("r"))]


def test_a_client_that_begins_anew_waits_for_nothing_of_before():
    broker = serving(A)
    for number in range(4):
        broker.handle(0, CLIENT, submit(f"r{number}", caller="ab"[number % 2]))
        broker.handle(0, b"gateway-1", submit(f"other-{number}"))
    assert broker.handle(0, CLIENT, Cancel()) == []
    assert {request.client for request in broker.lane} == {b"gateway-1"}
    assert len(broker.lane) == 4
    assert assigned(broker.handle(0, A, done("r0"))) == [(A, "other-0")]


def test_nobody_cancels_for_another():
    broker = serving(A)
    broker.handle(0, CLIENT, submit("r0"))
    broker.handle(0, CLIENT, submit("r1"))
    cancel(broker, "r1", client=b"gateway-1")
    assert assigned(broker.handle(0, A, done("r0"))) == [(A, "r1")]


def test_what_was_set_aside_or_came_back_can_be_cancelled_too():
    broker = serving(A, credit=2)
    for name in ("aside-0", "aside-1", "aside-2"):
        broker.handle(0, CLIENT, submit(name, model_id="other"))
    assert broker.lane.aside == ["other"]
    cancel(broker, "aside-1", "aside-2")
    assert (broker.lane.aside, len(broker.lane)) == ([], 0)
    broker.handle(0, CLIENT, submit("r"))
    broker.handle(1, B, ready(B, 0))
    broker.handle(1, A, ready(A, 0, boot="2"))  # it was restarted, and takes nothing yet
    assert [request.submit.request_id for request in broker.lane] == ["aside-0", "r"]
    cancel(broker, "aside-0", "r")
    assert len(broker.lane) == 0
    assert broker.idle


def test_a_turn_that_was_cancelled_is_no_turn_taken():
    """Whoever cancels all it has does not come later for it than one that waited."""
    broker = serving(A)
    broker.handle(0, CLIENT, submit("first"))
    for number in range(3):
        broker.handle(0, CLIENT, submit(f"a{number}", caller="a"))
        broker.handle(0, CLIENT, submit(f"b{number}", caller="b"))
    cancel(broker, "a0", "a1", "a2")
    broker.handle(0, CLIENT, submit("a3", caller="a"))
    held, order = "first", []
    for _ in range(4):
        [(_, held)] = assigned(broker.handle(0, A, done(held)))
        order.append(held)
    assert order == ["b0", "a3", "b1", "b2"]


# --- deadlines ------------------------------------------------------------------------------------------------------


def test_a_request_that_waits_too_long_fails_without_being_assigned():
    broker = serving(A)
    broker.handle(0, CLIENT, submit("busy"))
    broker.handle(0, CLIENT, submit("patient", queue_ms=9_000))
    broker.handle(0, CLIENT, submit("late", queue_ms=2_000))
    keep_alive(broker, 1, A)
    assert answers(broker.tick(1.9)) == {}
    assert answers(broker.tick(2.1)) == {"late": "deadline_exceeded"}
    assert assigned(broker.handle(3, A, done("busy"))) == [(A, "patient")]


def test_a_deadline_that_passed_between_two_ticks_is_still_kept():
    broker = serving(A)
    broker.handle(0, CLIENT, submit("busy"))
    broker.handle(0, CLIENT, submit("late", queue_ms=50))
    out = broker.handle(0.06, A, done("busy"))
    assert answers(out) == {"busy": "done", "late": "deadline_exceeded"}
    assert assigned(out) == []


def test_an_inference_that_takes_too_long_fails_and_keeps_its_credit_until_it_is_answered():
    broker = serving(A)
    broker.handle(0, CLIENT, submit("slow", inference_ms=1_000))
    broker.handle(0, CLIENT, submit("next"))
    out = broker.tick(1.1)
    assert answers(out) == {"slow": "deadline_exceeded"}
    assert assigned(out) == []
    out = broker.handle(2, A, done("slow"))
    assert answers(out) == {}
    assert assigned(out) == [(A, "next")]


# --- workers come and go --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [Heartbeat(boot_id="1"), done("r"), failed("r")])
def test_a_stranger_is_asked_who_it_is(message):
    assert core().handle(0, A, message) == [Outgoing(A, WhoAreYou())]


def test_a_known_name_with_another_life_is_asked_who_it_is():
    assert serving(A).handle(1, A, Heartbeat(boot_id="2")) == [Outgoing(A, WhoAreYou())]


def test_what_a_worker_still_does_for_an_earlier_broker_takes_its_credit_until_it_answers():
    broker = core()
    broker.handle(0, A, ready(A, credit=2, inflight=("old", "older")))
    assert assigned(broker.handle(0, CLIENT, submit("r"))) == []
    out = broker.handle(1, A, done("old"))
    assert (assigned(out), answers(out)) == ([(A, "r")], {})
    assert assigned(broker.handle(1, CLIENT, submit("r2"))) == []
    assert assigned(broker.handle(2, A, failed("older"))) == [(A, "r2")]


def test_what_we_gave_a_worker_is_not_counted_twice_when_it_introduces_itself_again():
    broker = serving(A, credit=2)
    broker.handle(0, CLIENT, submit("r"))
    broker.handle(1, A, ready(A, credit=2, inflight=("r",)))
    assert assigned(broker.handle(1, CLIENT, submit("r2"))) == [(A, "r2")]


def test_a_worker_that_comes_back_is_given_what_it_still_works_on_and_its_one_answer_serves():
    broker = serving(A)
    broker.handle(0, CLIENT, submit("r"))
    broker.tick(DEAD_AFTER_S + 0.1)
    assert assigned(broker.handle(16, A, ready(A, inflight=("r",)))) == [(A, "r")]
    assert answers(broker.handle(17, A, done("r"))) == {"r": "done"}
    assert assigned(broker.handle(18, CLIENT, submit("r2"))) == [(A, "r2")]


def test_a_suspect_waits_until_its_worker_has_nothing_else_at_all():
    broker = serving(A, credit=2)
    broker.handle(0, CLIENT, submit("r"))
    broker.handle(0, CLIENT, submit("r2"))
    broker.tick(DEAD_AFTER_S + 0.1)
    assert assigned(broker.handle(16, A, ready(A, credit=2, inflight=("r", "r2")))) == []
    assert assigned(broker.handle(17, A, done("r2"))) == [(A, "r")]


def test_a_leaving_worker_is_there_until_it_has_answered_for_an_earlier_broker_too():
    broker = core()
    broker.handle(0, A, ready(A, inflight=("old",)))
    broker.handle(1, A, Bye(boot_id="1"))
    assert broker.roster.get(A) is not None
    broker.handle(2, A, done("old"))
    assert broker.roster.get(A) is None


def test_a_silent_worker_is_probed_then_given_up_and_its_work_done_elsewhere():
    broker = serving(A)
    broker.handle(0, CLIENT, submit("r"))
    broker.handle(0, B, ready(B))
    assert Outgoing(A, WhoAreYou()) in broker.tick(PROBE_AFTER_S + 0.1)
    assert Outgoing(A, WhoAreYou()) not in broker.tick(PROBE_AFTER_S + 0.2)
    keep_alive(broker, DEAD_AFTER_S, B)
    out = broker.tick(DEAD_AFTER_S + 0.1)
    assert assigned(out) == [(B, "r")]
    [retry] = [message for _, message, _ in out if isinstance(message, Assign)]
    assert retry.alone
    assert retry.ttl_ms == pytest.approx(30_000 - 15_100)
    late = broker.handle(DEAD_AFTER_S + 0.2, A, done("r"))
    assert late == [Outgoing(A, WhoAreYou())]
    assert answers(broker.handle(DEAD_AFTER_S + 0.3, B, done("r"))) == {"r": "done"}


def test_what_was_lost_on_its_way_to_a_silent_worker_is_given_away_again():
    """Its connection was made anew while it could not read: what was on its way is gone, and the probe with it."""
    broker = serving(A)
    broker.handle(0, CLIENT, submit("r"))
    broker.tick(PROBE_AFTER_S + 0.1)
    assert Outgoing(A, WhoAreYou()) in broker.handle(8, A, beat("mdl"))
    out = broker.handle(8, A, ready(A))
    assert assigned(out) == [(A, "r")]
    assert not any(message.alone for _, message, _ in out if isinstance(message, Assign)), "it never got there"
    assert answers(broker.handle(9, A, done("r"))) == {"r": "done"}


def test_an_answer_that_was_lost_on_its_way_gives_its_credit_back():
    """The worker was heard all the time; that it has the request no more comes out when it is late."""
    broker = serving(A)
    broker.handle(0, CLIENT, submit("r"))
    for second in range(1, 31):
        keep_alive(broker, second, A)
    out = broker.tick(30.1)
    assert answers(out) == {"r": "deadline_exceeded"} and Outgoing(A, WhoAreYou()) in out
    broker.handle(30.2, A, ready(A))
    assert assigned(broker.handle(31, CLIENT, submit("next"))) == [(A, "next")]


def test_a_worker_that_restarted_gets_its_lost_work_again():
    broker = serving(A)
    broker.handle(0, CLIENT, submit("r"))
    out = broker.handle(1, A, ready(A, boot="2"))
    assert assigned(out) == [(A, "r")]
    assert answers(out) == {}


def test_a_request_that_kills_a_worker_while_alone_is_poison_and_its_batch_mates_are_not():
    broker = serving(A, credit=4)
    for number in range(3):
        broker.handle(0, CLIENT, submit(f"r{number}"))
    out = broker.handle(1, A, ready(A, credit=4, boot="2"))
    assert assigned(out) == [(A, "r0")]  # one by one, although there is credit for all
    out = broker.handle(2, A, ready(A, credit=4, boot="3"))
    assert answers(out) == {"r0": "poison_request"}
    assert assigned(out) == [(A, "r1")]
    assert assigned(broker.handle(3, A, done("r1"))) == [(A, "r2")]
    assert answers(broker.handle(4, A, done("r2"))) == {"r2": "done"}


def test_nothing_joins_a_worker_that_runs_a_request_alone():
    broker = serving(A, credit=4)
    broker.handle(0, CLIENT, submit("suspect"))
    broker.handle(1, A, ready(A, credit=4, boot="2"))
    assert assigned(broker.handle(2, CLIENT, submit("other"))) == []
    assert assigned(broker.handle(3, A, done("suspect"))) == [(A, "other")]


def test_a_retry_keeps_its_time_limit():
    broker = serving(A)
    broker.handle(0, CLIENT, submit("r", inference_ms=5_000))
    broker.handle(4, B, ready(B))
    broker.handle(4, CLIENT, submit("keeps-b-busy"))
    assert assigned(broker.undelivered(4, Outgoing(A, WhoAreYou()))) == []
    assert answers(broker.tick(5.1)) == {"r": "deadline_exceeded"}


def test_an_assignment_that_cannot_be_delivered_goes_elsewhere_without_blame():
    broker = serving(A, B)
    [lost] = broker.handle(0, CLIENT, submit("r"))
    out = broker.undelivered(0, lost)
    [again] = [message for _, message, _ in out if isinstance(message, Assign)]
    assert not again.alone
    assert broker.roster.get(lost.to) is None


def test_an_answer_that_cannot_be_delivered_is_forgotten():
    broker = serving(A)
    broker.handle(0, CLIENT, submit("r"))
    [answer] = broker.handle(0, A, done("r"))
    assert broker.undelivered(0, answer) == []
    assert broker.idle


def test_a_leaving_worker_gets_nothing_new_and_goes_when_all_is_answered():
    broker = serving(A, credit=4)
    broker.handle(0, CLIENT, submit("r"))
    broker.handle(0, B, ready(B))
    broker.handle(1, A, Bye(boot_id="1"))
    assert assigned(broker.handle(1, CLIENT, submit("r2"))) == [(B, "r2")]
    assert answers(broker.handle(2, A, done("r"))) == {"r": "done"}
    assert broker.roster.get(A) is None


def test_an_old_goodbye_does_not_send_the_successor_away():
    broker = serving(A)
    broker.handle(1, A, ready(A, boot="2"))
    broker.handle(1, A, Bye(boot_id="1"))
    assert assigned(broker.handle(2, CLIENT, submit("r"))) == [(A, "r")]


def broken(request_id: str) -> Failed:
    return Failed(request_id=request_id, code="internal", message="It broke.")


def worker_status(broker: Core, now_s: float, worker: bytes):
    [(_, status, _)] = broker.handle(now_s, CLIENT, AskStatus())
    return next(found for found in status.workers if found.worker_id == worker.decode())


def test_a_worker_that_only_fails_takes_what_no_other_can_until_it_answers_again():
    broker = core()
    broker.handle(0, A, ready(A, credit=9))
    broker.handle(0, B, ready(B, credit=1))
    for number in range(3):
        broker.handle(0, CLIENT, submit(f"f{number}"))
        broker.handle(0, A, broken(f"f{number}"))
    assert worker_status(broker, 0, A).failing
    assert assigned(broker.handle(1, CLIENT, submit("first"))) == [(B, "first")]
    assert assigned(broker.handle(1, CLIENT, submit("second"))) == [(A, "second")]
    broker.handle(2, A, done("second"))
    status = worker_status(broker, 5, A)
    assert (status.failing, status.answered, status.success_age_ms) == (False, 1, 3_000)


def test_what_is_wrong_with_requests_is_not_held_against_their_worker():
    broker = serving(A)
    for number in range(5):
        broker.handle(0, CLIENT, submit(f"f{number}"))
        broker.handle(0, A, failed(f"f{number}"))
    assert not worker_status(broker, 0, A).failing


def test_a_worker_that_answers_nothing_in_time_is_failing_though_its_heart_beats():
    broker = serving(A, credit=4)
    for number in range(3):
        broker.handle(0, CLIENT, submit(f"r{number}", inference_ms=1_000))
    keep_alive(broker, 1, A)
    broker.tick(1.1)
    status = worker_status(broker, 1.1, A)
    assert (status.failing, status.success_age_ms) == (True, None)
    assert status.silent_ms == pytest.approx(100)
    keep_alive(broker, 61, A)
    broker.tick(61.2)
    assert not worker_status(broker, 61.2, A).failing, "nobody has asked it since"


def test_a_worker_with_much_to_do_is_not_failing():
    broker = serving(A)
    for number in range(20):
        broker.handle(0, CLIENT, submit(f"r{number}", queue_ms=3_000))
    for number in range(3):
        keep_alive(broker, 1 + number, A)
        broker.handle(1 + number, A, done(f"r{number}"))
    keep_alive(broker, 4, A)
    assert len(broker.lane) == 0, "the others waited too long"
    assert not worker_status(broker, 4, A).failing


# --- models that have to be loaded -----------------------------------------------------------------------------------


def test_a_model_that_has_to_be_loaded_takes_one_credit_and_the_others_wait_without_holding_anybody_up():
    broker = core()
    broker.handle(0, A, ready(A, credit=8, models=("mdl",)))
    out = [sent for number in range(5) for sent in broker.handle(0, CLIENT, submit(f"c{number}", model_id="cold"))]
    assert assigned(out) == [(A, "c0")]
    assert assigned(broker.handle(1, CLIENT, submit("r"))) == [(A, "r")]
    assert assigned(broker.handle(2, A, beat("mdl", "cold"))) == [(A, f"c{number}") for number in (1, 2, 3, 4)]
    [(_, status, _)] = broker.handle(3, CLIENT, AskStatus())
    assert (status.cold, status.depth) == (5, 0)


def test_once_a_model_is_loaded_what_waited_for_it_takes_turns_with_the_line():
    broker = core()
    broker.handle(0, A, ready(A, credit=2, models=("mdl",)))
    for number in range(5):
        broker.handle(0, CLIENT, submit(f"c{number}", caller="loud", model_id="cold"))
    for number in range(3):
        broker.handle(0, CLIENT, submit(f"r{number}", caller="quiet"))
    broker.handle(1, A, beat("mdl", "cold"))
    answered = ("c0", "r0", "c1", "r1", "c2")
    given = [assigned(broker.handle(1, A, done(name)))[0][1] for name in answered]
    assert given == ["c1", "r1", "c2", "r2", "c3"]


@pytest.mark.parametrize("other", [{"caller": "quiet", "model_id": "cold"}, {"caller": "loud", "model_id": "colder"}])
def test_of_those_who_waited_for_a_model_each_has_its_turn(other: dict[str, str]):
    """Callers of one model, and models."""
    broker = core()
    broker.handle(0, A, ready(A, credit=3, models=()))
    out = [
        sent
        for number in range(4)
        for sent in broker.handle(0, CLIENT, submit(f"c{number}", caller="loud", model_id="cold"))
    ]
    out += [sent for number in range(2) for sent in broker.handle(0, CLIENT, submit(f"o{number}", **other))]
    out += broker.handle(1, A, beat("cold", "colder"))
    given = [name for _, name in assigned(out)]
    for name in given:
        given += [name for _, name in assigned(broker.handle(1, A, done(name)))]
    assert sorted(given) == ["c0", "c1", "c2", "c3", "o0", "o1"]
    assert given.index("o1") < given.index("c3")


def test_who_has_to_load_a_model_is_told_which_others_wait():
    broker = serving(A, credit=1)
    for name in ("mdl", "other", "third", "mdl"):
        broker.handle(0, CLIENT, submit(f"{name}-{len(broker.lane)}", model_id=name))
    there, given, request_id = ["mdl"], [], "mdl-0"
    for _ in range(3):
        [assign] = [out.message for out in broker.handle(1, A, done(request_id)) if isinstance(out.message, Assign)]
        given.append((assign.model_id, assign.wanted))
        request_id, there = assign.request_id, [*there, assign.model_id]
        broker.handle(1, A, beat(*there))
    assert given == [("other", ["mdl", "third"]), ("third", ["mdl"]), ("mdl", [])]


def test_a_worker_loads_one_model_and_has_one_more_ahead():
    broker = core()
    broker.handle(0, A, ready(A, credit=8, models=()))
    out = [sent for name in "xyz" for sent in broker.handle(0, CLIENT, submit(name, model_id=name))]
    assert assigned(out) == [(A, "x"), (A, "y")]
    assert assigned(broker.handle(1, A, beat("x"))) == [(A, "z")]


def test_a_load_that_failed_lets_the_next_try():
    broker = core()
    broker.handle(0, A, ready(A, credit=8, models=()))
    for number in range(3):
        broker.handle(0, CLIENT, submit(f"r{number}"))
    out = broker.handle(1, A, failed("r0"))
    assert (answers(out), assigned(out)) == ({"r0": "bad_image"}, [(A, "r1")])
    assert assigned(broker.handle(2, A, done("r1"))) == [(A, "r2")]


def test_what_waits_for_a_model_goes_to_whoever_has_it_first():
    broker = core()
    broker.handle(0, A, ready(A, credit=8, models=()))
    for number in range(3):
        broker.handle(0, CLIENT, submit(f"r{number}"))
    assert assigned(broker.handle(1, B, ready(B, credit=8))) == [(B, "r1"), (B, "r2")]


def test_the_model_is_where_the_request_goes_until_the_others_have_much_less_to_do():
    broker = core()
    broker.handle(0, A, ready(A, credit=8, models=("mdl",)))
    broker.handle(0, B, ready(B, credit=8, models=()))
    out = [sent for number in range(5) for sent in broker.handle(0, CLIENT, submit(f"r{number}"))]
    assert assigned(out) == [(A, "r0"), (A, "r1"), (B, "r2"), (A, "r3"), (A, "r4")]


@pytest.mark.parametrize("full", [Memory(limit_mb=20, used_mb=12), Memory(gpu_limit_mb=20, gpu_used_mb=12)])
def test_a_model_that_would_push_others_out_stays_where_it_is_for_longer(full: Memory):
    broker = core()
    broker.handle(0, A, ready(A, credit=8, models=("mdl",)))
    broker.handle(0, B, ready(B, credit=8, models=()))
    broker.handle(0, B, msgspec.structs.replace(beat(), memory=full))
    out = [sent for number in range(8) for sent in broker.handle(0, CLIENT, submit(f"r{number}"))]
    assert [to for to, _ in assigned(out)] == [A, A, A, A, A, A, B, A]


@pytest.mark.parametrize("full", [Memory(limit_mb=20, used_mb=19), Memory(gpu_limit_mb=20, gpu_used_mb=19)])
def test_two_workers_with_full_memories_do_not_load_the_same_model_at_once(full: Memory):
    broker = core()
    for worker in (A, B):
        broker.handle(0, worker, ready(worker, credit=8))
        broker.handle(0, worker, msgspec.structs.replace(beat("mdl", "other"), memory=full))
    out = [sent for name in ("c0", "c1") for sent in broker.handle(0, CLIENT, submit(name, model_id="cold"))]
    [(loader, _)] = assigned(out)
    other = B if loader == A else A
    assert assigned(broker.handle(1, CLIENT, submit("r"))) == [(other, "r")]
    assert assigned(broker.handle(2, loader, failed("c0"))) == [(loader, "c1")]
    assert assigned(broker.handle(3, loader, done("c1"))) == []


def test_waiting_for_a_model_has_its_end_too_and_leaves_half_of_the_lane_to_others():
    broker = core(limit=4)
    broker.handle(0, A, ready(A, credit=4, models=("mdl",)))
    for number in range(3):
        broker.handle(0, CLIENT, submit(f"c{number}", queue_ms=1_000, model_id="cold"))
    assert refused(broker.handle(0, CLIENT, submit("over", model_id="cold"))).code == "queue_full"
    assert assigned(broker.handle(0, CLIENT, submit("r"))) == [(A, "r")]
    assert answers(broker.tick(1.1)) == {"c1": "deadline_exceeded", "c2": "deadline_exceeded"}
    assert len(broker.lane) == 0


# --- draining -------------------------------------------------------------------------------------------------------


def test_a_draining_broker_refuses_what_is_new_and_finishes_what_it_has():
    broker = serving(A)
    broker.handle(0, CLIENT, submit("held"))
    broker.handle(0, CLIENT, submit("waits"))
    broker.drain()
    assert refused(broker.handle(0, CLIENT, submit("new"))).code == "unavailable"
    assert assigned(broker.handle(1, A, done("held"))) == [(A, "waits")]
    assert not broker.idle
    broker.handle(2, A, done("waits"))
    assert broker.idle


def test_a_draining_broker_without_workers_lets_nobody_wait():
    broker = serving(A)
    broker.handle(0, CLIENT, submit("held"))
    broker.handle(0, CLIENT, submit("waits"))
    broker.drain()
    assert answers(broker.handle(1, A, Bye(boot_id="1"))) == {"waits": "unavailable"}


def test_an_ending_broker_answers_everybody():
    broker = serving(A)
    broker.handle(0, CLIENT, submit("held"))
    broker.handle(0, CLIENT, submit("waits"))
    broker.drain()
    assert answers(broker.abandon()) == {"held": "unavailable", "waits": "unavailable"}
    assert broker.idle
    assert answers(broker.handle(1, A, done("held"))) == {}


# --- status and events ----------------------------------------------------------------------------------------------


def test_the_status_tells_what_is_there():
    broker = serving(A, limit=7, limit_bytes=700)
    memory = Memory(limit_mb=100, used_mb=9.5, loads=1, load_s=0.25)
    broker.handle(1, A, Heartbeat(boot_id="1", models=loaded("mdl"), memory=memory))
    for number in range(3):
        broker.handle(1, CLIENT, submit(f"r{number}"), [b"four"])
    broker.handle(1, A, done("r0"))
    broker.handle(1, CLIENT, submit("r1"))
    [(to, status, _)] = broker.handle(3, CLIENT, AskStatus())
    assert (to, type(status)) == (CLIENT, Status)
    [worker] = status.workers
    assert (worker.worker_id, worker.busy, worker.credit, worker.silent_ms) == ("inferencer-0", 1, 0, 2_000)
    assert (worker.models, worker.memory) == (loaded("mdl"), memory)
    assert (status.depth, status.depth_limit, status.queued_bytes, status.queued_bytes_limit) == (1, 7, 4, 700)
    assert (status.in_flight, status.completed, status.failed, status.draining) == (1, 1, 1, False)
    assert (status.waiting, status.callers, status.images_per_s) == ({"mdl": 1}, 1, None)


def test_an_announcement_becomes_an_event_with_the_next_number():
    broker = core()
    out = [broker.handle(0, b"benchmarker", Publish(topic="job.7", body={"progress": number})) for number in range(2)]
    assert [event for [(to, event, _)] in out] == [
        Event(seq=seq, boot_id="boot", topic="job.7", time="2026-01-31T08:15:30.250Z", body={"progress": seq - 1})
        for seq in (1, 2)
    ]
    assert all(to is None for [(to, _, _)] in out)


def test_the_coming_and_going_of_workers_is_announced():
    broker = core()
    out = (
        broker.handle(0, A, ready(A)) + broker.handle(1, A, ready(A, boot="2")) + broker.handle(2, A, Bye(boot_id="2"))
    )
    assert [event.body["state"] for _, event, _ in out] == ["ready", "lost", "ready", "left"]


# --- random schedules -----------------------------------------------------------------------------------------------


@dataclass
class Inferencer:
    """What a worker process would remember. `reachable` is whether its process exists."""

    name: bytes
    boot: int = 0
    credit: int = 1
    reachable: bool = False
    models: set[str] = field(default_factory=set)
    holds: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)


MODELS = ("mdl", "other", "third")

workers = st.integers(0, 2)
ttls = st.sampled_from([1.0, 500.0, 5_000.0, 30_000.0])


@settings(max_examples=150, stateful_step_count=60, deadline=None)
class Schedules(RuleBasedStateMachine):
    """Clients, workers and time do what they like; after every step the broker's promises hold."""

    LIMIT, LIMIT_BYTES, MAX_CREDIT = 5, 100, 4

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.core = core(self.LIMIT, self.LIMIT_BYTES)
        self.farm = [Inferencer(b"inferencer-%d" % number) for number in range(3)]
        self.submitted: Counter[tuple[bytes, str]] = Counter()
        self.answers: Counter[tuple[bytes, str]] = Counter()
        self.seq = 0

    def deliver(self, out: list[Outgoing]) -> None:
        """Act as the sockets do; every message must also be writable."""
        waiting = list(out)
        while waiting:
            outgoing = waiting.pop(0)
            to, message, blobs = outgoing
            codec.encode(message, blobs)
            worker = next((worker for worker in self.farm if worker.name == to), None)
            if worker is not None and not worker.reachable:
                waiting += self.core.undelivered(self.now_s, outgoing)
            elif isinstance(message, Assign):
                assert worker is not None
                if message.request_id not in worker.holds:  # given again what it is at, its one answer serves
                    worker.holds.append(message.request_id)
            elif isinstance(message, WhoAreYou):
                assert worker is not None
                waiting += self.core.handle(self.now_s, worker.name, self.introduction(worker))
            elif isinstance(message, Event):
                assert message.seq == self.seq + 1
                self.seq += 1
            elif isinstance(message, Done | Failed):
                assert to is not None
                self.answers[to, message.request_id] += 1

    def says(self, worker: Inferencer, message: Done | Failed | Heartbeat | Bye | Ready) -> None:
        self.deliver(self.core.handle(self.now_s, worker.name, message))

    def introduction(self, worker: Inferencer) -> Ready:
        return ready(worker.name, worker.credit, str(worker.boot), tuple(worker.holds), tuple(worker.models))

    @rule(
        client=st.sampled_from([b"gateway-0", b"gateway-1"]),
        number=st.integers(0, 30),
        size=st.integers(0, 110),
        caller=st.sampled_from("abc"),
    )
    def submit_without_hurry(self, client: bytes, number: int, size: int, caller: str) -> None:
        self.submit(client, number, size, 30_000.0, 30_000.0, caller)

    @rule(client=st.just(b"gateway-0"), number=st.integers(0, 30), size=st.just(1), queue_ms=ttls, inference_ms=ttls)
    def submit(
        self, client: bytes, number: int, size: int, queue_ms: float, inference_ms: float, caller: str = "a"
    ) -> None:
        request_id = f"r{number}"
        self.submitted[client, request_id] += 1
        message = submit(request_id, queue_ms, inference_ms, caller, MODELS[number % len(MODELS)])
        self.deliver(self.core.handle(self.now_s, client, message, [b"x" * size]))

    @rule(client=st.sampled_from([b"gateway-0", b"gateway-1"]), number=st.integers(0, 30))
    def cancel(self, client: bytes, number: int) -> None:
        """What waits is gone without an answer; nothing else changes."""
        before = [(request.client, request.submit.request_id) for request in self.core.lane]
        cancelled = (client, f"r{number}")
        self.deliver(self.core.handle(self.now_s, client, Cancel(request_id=cancelled[1])))
        self.submitted[cancelled] -= before.count(cancelled)
        assert cancelled not in [(request.client, request.submit.request_id) for request in self.core.lane]

    @rule(client=st.sampled_from([b"gateway-0", b"gateway-1"]))
    def begin_anew(self, client: bytes) -> None:
        """A client waits for nothing of before."""
        before = [(request.client, request.submit.request_id) for request in self.core.lane]
        self.deliver(self.core.handle(self.now_s, client, Cancel()))
        self.submitted -= Counter(one for one in before if one[0] == client)
        assert client not in [request.client for request in self.core.lane]

    @rule(number=workers, credit=st.integers(0, MAX_CREDIT), models=st.sets(st.sampled_from(MODELS)))
    def start(self, number: int, credit: int, models: set[str]) -> None:
        worker = self.farm[number]
        worker.boot, worker.credit, worker.reachable, worker.holds = worker.boot + 1, credit, True, []
        worker.models = models
        self.says(worker, self.introduction(worker))

    @rule(number=workers)
    def die(self, number: int) -> None:
        self.farm[number].reachable, self.farm[number].holds = False, []

    @rule(number=workers)
    def heartbeat(self, number: int) -> None:
        worker = self.farm[number]
        if worker.reachable:
            full = Memory(limit_mb=20, used_mb=20) if number else Memory()
            said = beat(*worker.models, boot=str(worker.boot))
            self.says(worker, msgspec.structs.replace(said, memory=full))

    @rule(number=workers, model=st.sampled_from(MODELS))
    def load(self, number: int, model: str) -> None:
        self.farm[number].models.add(model)
        self.heartbeat(number)

    @rule(number=workers, model=st.sampled_from(MODELS))
    def unload(self, number: int, model: str) -> None:
        """Not while it holds requests: only then is it known how many a worker was given for a model it had not."""
        worker = self.farm[number]
        if all(MODELS[int(request_id[1:]) % len(MODELS)] != model for request_id in worker.holds):
            worker.models.discard(model)
            self.heartbeat(number)

    @rule(number=workers)
    def leave(self, number: int) -> None:
        self.says(self.farm[number], Bye(boot_id=str(self.farm[number].boot)))

    @rule(number=workers, which=st.integers(0, 10), answer=st.sampled_from([done, failed]))
    def answer(self, number: int, which: int, answer) -> None:
        worker = self.farm[number]
        if worker.holds:
            request_id = worker.holds.pop(which % len(worker.holds))
            worker.answered.append(request_id)
            self.says(worker, answer(request_id))

    @rule(number=workers, other=workers, which=st.integers(0, 10))
    def answer_again_or_for_another(self, number: int, other: int, which: int) -> None:
        """Late, double and foreign answers; not for what the worker holds now, which would be the true answer."""
        worker, pool = self.farm[number], self.farm[other].answered + self.farm[other].holds + ["never-heard-of"]
        request_id = pool[which % len(pool)]
        if request_id not in worker.holds:
            self.says(worker, done(request_id))

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.4, 1.0, 3.0, 16.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.deliver(self.core.tick(self.now_s))
        assert all(request.deadline_s > self.now_s for request in self.core.lane)
        assert all(request.deadline_s > self.now_s for worker in self.core.roster for request in worker.unanswered)

    @rule()
    def the_broker_restarts(self) -> None:
        """What the old one held is gone, and its clients know; the workers go on with what they have."""
        self.submitted = Counter(self.answers)
        self.core, self.seq = core(self.LIMIT, self.LIMIT_BYTES), 0

    @precondition(lambda self: self.now_s > 20)
    @rule()
    def drain(self) -> None:
        self.core.drain()

    @precondition(lambda self: self.core.draining)
    @rule()
    def abandon(self) -> None:
        self.deliver(self.core.abandon())
        assert self.core.idle
        assert self.answers == self.submitted

    @invariant()
    def nobody_is_answered_twice(self) -> None:
        assert self.answers <= self.submitted

    @invariant()
    def credit_is_kept(self) -> None:
        for worker in self.core.roster:
            assert len(worker.holds) <= worker.credit <= self.MAX_CREDIT
            assert 0 <= worker.free <= worker.credit

    @invariant()
    def no_worker_has_more_than_it_asked_for(self) -> None:
        """As the workers themselves see it, whichever broker gave it to them."""
        for worker in self.farm:
            known = self.core.roster.get(worker.name)
            if worker.reachable and known is not None and known.boot_id == str(worker.boot):
                assert len(worker.holds) <= worker.credit
                assert set(worker.holds) <= known.holds.keys() | known.strays

    @invariant()
    def requests_that_run_alone_do(self) -> None:
        for worker in self.core.roster:
            assert not any(request.alone for request in worker.unanswered) or len(worker.unanswered) == 1

    @invariant()
    def the_lane_keeps_its_bounds(self) -> None:
        lane = self.core.lane
        waiting = list(lane)
        assert len(lane) == len(waiting)
        admitted = [request for request in waiting if request.assigned_s is None]
        assert len(admitted) <= self.LIMIT
        assert sum(request.size_bytes for request in admitted) <= self.LIMIT_BYTES
        assert lane.queued_bytes == sum(request.size_bytes for request in waiting)
        assert (len(lane), lane.images) == (len(waiting), sum(request.images for request in waiting))

    @invariant()
    def nothing_waits_while_a_worker_could_take_it(self) -> None:
        lane = self.core.lane
        heads = [lane.head(model) for model in (None, *lane.aside)]
        assert all(head is None or self.core.roster.pick(head) is None for head in heads)

    @invariant()
    def what_must_be_loaded_takes_one_credit_a_model(self) -> None:
        for worker in self.core.roster:
            names = [held.submit.model_id for held in worker.holds.values()]
            missing = [name for name in names if name not in worker.loaded]
            assert len(missing) == len(set(missing)) <= LOADS_AHEAD

    @invariant()
    def whoever_has_the_model_and_a_free_hand_takes_the_request(self) -> None:
        head = self.core.lane.head()
        having = [worker for worker in self.core.roster if head and head.submit.model_id in worker.loaded]
        assert not any(worker.can_take(head) for worker in having)

    def teardown(self) -> None:
        """However it stands: once time has passed, every request has been answered exactly once."""
        for _ in range(70):
            self.now_s += 1.0
            self.deliver(self.core.tick(self.now_s))
        assert self.answers == self.submitted
        assert self.core.idle
        assert len(self.core.lane) == 0


TestSchedules = Schedules.TestCase


def waiting(request_id: str, caller: str, images: int) -> Request:
    return Request(submit(request_id, caller=caller), CLIENT, [b""] * images, 0.0, 30.0)


@settings(max_examples=200, deadline=None)
@given(
    arrivals=st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9), st.booleans()), min_size=1, max_size=120),
)
def test_callers_that_always_wait_get_as_much_as_each_other(arrivals: list[tuple[str, int, bool]]) -> None:
    """Between any two moments, of two callers who had something waiting all the time neither is ahead by more than
    two of the largest requests; and each caller's own come in order."""
    lane = Lane(1000, 1000)
    taken: Counter[str] = Counter()
    since: dict[tuple[str, str], Counter[str]] = {}
    orders: dict[str, list[int]] = {caller: [] for caller in "abc"}

    def backlogged() -> set[str]:
        return {request.submit.caller for request in lane}

    def take() -> None:
        head = lane.head()
        assert head is lane.pop()
        assert head is not None
        taken[head.submit.caller] += head.images
        orders[head.submit.caller].append(int(head.submit.request_id))

    def compare() -> None:
        there = backlogged()
        for pair in itertools.combinations("abc", 2):
            if not there.issuperset(pair):
                since.pop(pair, None)
                continue
            began = since.setdefault(pair, taken.copy())
            first, second = (taken[caller] - began[caller] for caller in pair)
            assert abs(first - second) <= 18

    for number, (caller, images, also_take) in enumerate(arrivals):
        lane.append(waiting(str(number), caller, images))
        compare()
        if also_take:
            take()
            compare()
    while len(lane):
        take()
        compare()
    assert taken.total() == sum(images for _, images, _ in arrivals)
    assert all(numbers == sorted(numbers) for numbers in orders.values())
    assert (lane.images, lane.queued_bytes, lane.callers) == (0, 0, 0)
