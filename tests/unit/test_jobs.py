"""The order of jobs (pure), the state machine, and the schema that forbids the impossible."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import msgspec
import peewee
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import clock, errors
from shared.db import accounts, connection, jobs, registry, tables
from shared.specs import BenchmarkSpec, ConvertSpec, ReportSpec, Stored, TrainingSpec
from shared.trace import Origin

NOW = 10_000_000
ENDINGS: dict[str, jobs.GiveUp] = {"benchmark": lambda job, reason: None}

ONLY_THERE: dict[str, dict[str, object]] = {
    "accelerator": {"kind": "benchmark", "heavy": False},
    "cpu": {"isolation": "shared"},
    "report": {"kind": "report", "heavy": False, "isolation": "shared"},
}
"""What jobs of the other lanes cannot be."""

PRESET: dict[str, object] = {"kind": "convert", "heavy": True}
"""What background jobs are."""

tickets = st.lists(
    st.builds(
        dict,
        lane=st.sampled_from(["accelerator", "cpu", "report"]),
        status=st.sampled_from(["queued", "queued", "running"]),
        kind=st.sampled_from(["convert", "dataset"]),
        isolation=st.sampled_from(["exclusive", "shared"]),
        heavy=st.booleans(),
        priority=st.sampled_from([jobs.BACKGROUND, -3, 0, 0, 3]),
        ordered_at_ms=st.integers(0, NOW),
        not_before_ms=st.sampled_from([0, 0, NOW + 1]),
    )
    .map(lambda row: row | ONLY_THERE[row["lane"]])
    .map(lambda row: row | (PRESET if (row["lane"], row["priority"]) == ("cpu", jobs.BACKGROUND) else {})),
    max_size=8,
).map(lambda rows: [msgspec.convert(row | {"id": f"job_{i}"}, jobs.Ticket) for i, row in enumerate(rows)])


quiet = st.sampled_from([0, NOW - jobs.PATIENCE_MS, NOW - jobs.PATIENCE_MS + 1, NOW])
"""When a job last ended: patience is over, just over, nearly over, and has just begun."""


@given(tickets, st.sampled_from(["accelerator", "cpu", "report"]))
def test_what_is_picked_may_start(open_jobs, lane):
    chosen = jobs.pick(open_jobs, lane, NOW)
    running = [job for job in open_jobs if job.status == "running"]
    if chosen is None:
        return
    assert chosen.lane == lane
    assert chosen.status == "queued"
    assert chosen.not_before_ms <= NOW
    assert not any(job.isolation == "exclusive" for job in running)
    if chosen.isolation == "exclusive":
        assert not running
    assert not (chosen.heavy and any(job.heavy and job.kind == chosen.kind for job in running))


@given(tickets)
def test_an_idle_platform_starts_something(open_jobs):
    waiting = [job for job in open_jobs if job.status == "queued" and job.not_before_ms <= NOW]
    if waiting and not any(job.status == "running" for job in open_jobs):
        assert any(jobs.pick(open_jobs, lane, NOW) for lane in ("accelerator", "cpu", "report"))


@given(tickets, quiet)
def test_what_is_waited_for_is_open_and_chains_end(open_jobs, quiet_since_ms):
    waits = jobs.waiting_for(open_jobs, NOW, quiet_since_ms)
    known = {job.id: job for job in open_jobs}
    for job_id, before in waits.items():
        assert known[job_id].status == "queued" and before in known
        seen, here = {job_id}, before
        while here in waits:
            assert here not in seen, "two jobs wait for each other"
            seen.add(here)
            here = waits[here]


@given(tickets, st.sampled_from(["accelerator", "cpu", "report"]), quiet)
def test_who_may_start_waits_for_nobody_but_the_work_of_its_own_lane(open_jobs, lane, quiet_since_ms):
    waits = jobs.waiting_for(open_jobs, NOW, quiet_since_ms)
    known = {job.id: job for job in open_jobs}
    chosen = jobs.pick(open_jobs, lane, NOW, quiet_since_ms)
    if chosen is not None and (before := waits.get(chosen.id)) is not None:
        assert not known[before].heavy or known[before].kind != chosen.kind or not chosen.heavy
        assert known[before].status == "running" and known[before].lane == lane
    for job in open_jobs:
        held_back = job.status == "queued" and job.not_before_ms <= NOW and job.lane == lane and job != chosen
        assert not held_back or job.id in waits


def test_what_a_job_waits_for():
    running = ticket("running", status="running", ordered_at_ms=1)
    alone = ticket("alone", status="running", isolation="exclusive", ordered_at_ms=1)
    exclusive = ticket("exclusive", isolation="exclusive", ordered_at_ms=50)
    first, second = ticket("first", ordered_at_ms=60), ticket("second", ordered_at_ms=70)
    young = ticket("young", lane="cpu", ordered_at_ms=80)
    assert jobs.waiting_for([first], NOW) == {}
    assert jobs.waiting_for([running, first, second], NOW) == {"first": "running", "second": "first"}
    assert jobs.waiting_for([running, exclusive, young], NOW) == {"exclusive": "running", "young": "exclusive"}
    assert jobs.waiting_for([alone, first, second, young], NOW) == dict.fromkeys(("first", "second", "young"), "alone")
    assert jobs.waiting_for([running, ticket("put off", not_before_ms=NOW + 1)], NOW) == {}


def test_an_exclusive_job_lets_older_jobs_of_other_lanes_go_first():
    second = ticket("second", isolation="exclusive", ordered_at_ms=50)
    report = ticket("report of the first", lane="report", ordered_at_ms=10)
    check = ticket("check", lane="cpu", ordered_at_ms=60)
    now, ended = 100_000, 99_000
    waiting = [second, report, check]
    assert jobs.pick(waiting, "accelerator", now, ended) is None
    assert jobs.pick(waiting, "report", now, ended) == report
    assert jobs.pick(waiting, "cpu", now, ended) is None, "the younger one waits for the measurement"
    assert jobs.pick([second, check], "accelerator", now, ended) == second
    dead_reporter = now + jobs.PATIENCE_MS
    assert jobs.pick(waiting, "accelerator", dead_reporter, ended) == second
    assert jobs.waiting_for(waiting, now, ended) == {second.id: report.id, check.id: second.id}
    assert jobs.waiting_for(waiting, dead_reporter, ended) == {check.id: second.id}, "its patience is over"


def test_a_small_upload_waits_neither_for_a_large_dataset_nor_for_a_conversion():
    large = ticket("large", kind="dataset", heavy=True, status="running", ordered_at_ms=1)
    larger = ticket("larger", kind="dataset", heavy=True, priority=9, ordered_at_ms=2)
    conversion = ticket("conversion", kind="convert", heavy=True, ordered_at_ms=3)
    second = ticket("second", kind="convert", heavy=True, ordered_at_ms=4)
    small, model = ticket("small", kind="dataset", ordered_at_ms=5), ticket("model", kind="convert", ordered_at_ms=6)
    waiting = [larger, conversion, second, small, model]
    assert jobs.pick([large, *waiting], "cpu", NOW) == conversion
    converts = ticket("conversion", kind="convert", heavy=True, status="running", ordered_at_ms=3)
    busy = [large, converts, larger, second, small, model]
    assert jobs.pick(busy, "cpu", NOW) == small
    assert jobs.waiting_for(busy, NOW) == {
        "larger": "large",
        "second": "conversion",
        "small": "large",
        "model": "small",
    }
    assert jobs.pick(waiting, "cpu", NOW) == larger, "with nothing heavy at work it goes as usual"


def test_an_exclusive_job_that_waits_for_a_heavy_one_holds_back_nothing_small():
    large = ticket("large", kind="dataset", heavy=True, status="running", ordered_at_ms=1)
    exclusive = ticket("exclusive", kind="benchmark", lane="accelerator", isolation="exclusive", ordered_at_ms=50)
    conversion = ticket("conversion", kind="convert", heavy=True, ordered_at_ms=60)
    small = ticket("small", kind="convert", ordered_at_ms=70)
    waiting = [exclusive, conversion, small]
    assert jobs.pick([large, *waiting], "accelerator", NOW) is None
    assert jobs.pick([large, *waiting], "cpu", NOW) == small
    assert jobs.waiting_for([large, *waiting], NOW) == {
        "exclusive": "large",
        "conversion": "exclusive",
        "small": "large",
    }
    assert jobs.pick(waiting, "cpu", NOW) is None
    assert jobs.pick(waiting, "accelerator", NOW) == exclusive, "as soon as the large one is done"


def test_a_measurement_that_waits_for_a_training_holds_back_nothing_small_and_gets_room_in_time():
    slot = functools.partial(ticket, lane="accelerator")
    training = slot("training", kind="train", status="running", ordered_at_ms=1)
    second = slot("second", kind="train", status="running", ordered_at_ms=2)
    measures = slot("measures", kind="benchmark", isolation="exclusive", ordered_at_ms=50)
    younger = slot("younger", kind="train", ordered_at_ms=60)
    model, large = (
        ticket("model", lane="cpu", ordered_at_ms=70),
        ticket("large", lane="cpu", heavy=True, ordered_at_ms=71),
    )
    open_jobs = [training, second, measures, younger, model, large]
    assert jobs.pick(open_jobs, "cpu", NOW) == model
    assert jobs.pick(open_jobs, "accelerator", NOW) is None, "nothing younger trains before it"
    assert jobs.waiting_for(open_jobs, NOW)["large"] == "measures"

    def asked(now_ms: int, *others: jobs.Ticket, of: str = "training", since_ms: int = 0) -> jobs.Ticket | None:
        return jobs.room_for([*open_jobs, *others], of, now_ms, since_ms=since_ms, wait_ms=1000)

    assert asked(1049) is None and asked(1050) == measures == asked(1050, of="second")
    assert asked(5000, since_ms=4001) is None, "it has just begun"
    assert asked(5000, of="younger") is None, "it does not run"
    assert asked(5000, slot("shared", kind="benchmark", status="running")) is None, "it would stand still for nothing"
    assert asked(5000, slot("urgent", kind="train", priority=9, ordered_at_ms=55)) is None, "another one is next"


def test_who_made_room_stands_behind_the_measurement(admin: accounts.Account):
    specs = {
        "train": TrainingSpec(model_id="m", dataset_id="d", max_epochs=1),
        "benchmark": BenchmarkSpec(model_id="m"),
    }

    def order(kind: str, **more: Any) -> str:
        with connection.write():
            return jobs.insert(kind, specs[kind], user_id=admin.id, **more)

    training = order("train", priority=1)
    mine = jobs.claim("accelerator", "trainer-0", clock.now_ms(), training)
    assert mine
    exclusive = order("benchmark", isolation="exclusive")
    later = order("benchmark", isolation="exclusive")
    tables.Job.update(ordered_at_ms=tables.Job.ordered_at_ms + 10).where(tables.Job.id == later).execute()
    jobs.put_back(mine, "made room", behind_exclusive=True)
    assert jobs.find(training).attempt == 0
    for next_one in (exclusive, training, later):
        ticket = jobs.peek("accelerator", clock.now_ms())
        assert ticket and ticket.id == next_one
        claimed = jobs.claim("accelerator", "worker", clock.now_ms(), ticket.id)
        assert claimed
        jobs.finish(claimed, lambda: None)


@given(tickets, st.randoms())
def test_the_order_of_rows_does_not_matter(open_jobs, random):
    shuffled = random.sample(open_jobs, len(open_jobs))
    assert jobs.pick(open_jobs, "accelerator", NOW) == jobs.pick(shuffled, "accelerator", NOW)


@given(tickets)
def test_nothing_younger_overtakes_a_waiting_exclusive_job(open_jobs):
    head = jobs._head(open_jobs, "accelerator", NOW, lambda job: None)
    other = jobs.pick(open_jobs, "cpu", NOW)
    waits_for_long = any(job.heavy and job.status == "running" for job in open_jobs)
    if head and head.isolation == "exclusive" and other and (other.heavy or not waits_for_long):
        assert other.ordered_at_ms <= head.ordered_at_ms and not other.background


def preset(name: str, **changes: object) -> jobs.Ticket:
    return ticket(name, **PRESET | {"priority": jobs.BACKGROUND} | changes)


@given(tickets, quiet)
def test_a_background_job_starts_and_stays_only_while_no_user_waits_for_its_place(open_jobs, quiet_since_ms):
    """However long it has waited."""
    ours = preset("ours", ordered_at_ms=-jobs.AGEING_MS * 1000)
    starts = jobs.pick([*open_jobs, ours], "cpu", NOW, quiet_since_ms) == ours
    stays = not jobs.gives_way([*open_jobs, msgspec.structs.replace(ours, status="running")], "ours", NOW)
    assert starts == stays, "else it would be stopped and started for ever"
    ready = [job for job in open_jobs if job.status == "queued" and job.not_before_ms <= NOW]
    head = jobs._head(open_jobs, "accelerator", NOW, lambda job: None)
    alone = head is not None and head.isolation == "exclusive"
    small = any(job.lane == "cpu" and not job.heavy for job in ready)
    assert not stays or not (alone or small)


def test_whoever_orders_while_five_presets_wait_and_one_runs_waits_for_none_of_them():
    line = [preset(f"preset {i}", ordered_at_ms=i) for i in range(5)]
    runs, back = preset("runs", status="running"), preset("runs")
    benchmark = ticket("benchmark", isolation="exclusive", ordered_at_ms=50)
    upload, model = ticket("upload", kind="convert", ordered_at_ms=60), ticket("model", kind="convert", heavy=True)
    assert not jobs.gives_way([runs, *line], "runs", 100)
    for ordered in ([benchmark], [upload], [model], [benchmark, upload]):
        assert jobs.gives_way([runs, *line, *ordered], "runs", 100)
    assert jobs.pick([back, *line, benchmark], "cpu", 100, 99) is None
    assert jobs.pick([back, *line, benchmark], "accelerator", 100, 99) == benchmark, "its patience is not for these"
    assert jobs.pick([back, *line, upload], "cpu", 100, 99) == upload
    assert jobs.pick([back, *line, model], "cpu", 100, 99) == model
    shared = ticket("shared", ordered_at_ms=50)
    assert not jobs.gives_way([runs, *line, shared], "runs", 100), "the two may run beside each other"
    checks = ticket("checks", kind="dataset", heavy=True, status="running")
    waits = ticket("waits", kind="dataset", heavy=True)
    assert not jobs.gives_way([runs, checks, waits], "runs", 100), "that one waits for its like"
    ordered_by_a_user = ticket("low", priority=jobs.BACKGROUND, status="running")
    assert not jobs.gives_way([ordered_by_a_user, benchmark], "low", 100)


def ticket(name: str, **changes: object) -> jobs.Ticket:
    kind = changes.get("kind", "benchmark")
    plain = {
        "id": name,
        "kind": kind,
        "lane": "accelerator" if kind == "benchmark" else "cpu",
        "status": "queued",
        "isolation": "shared",
        "heavy": False,
        "priority": 0,
        "ordered_at_ms": 0,
        "not_before_ms": 0,
    }
    return msgspec.convert(plain | changes, jobs.Ticket)


def test_priority_goes_first_and_age_catches_up():
    urgent_ms, old_ms = jobs.AGEING_MS, 0
    old, urgent = ticket("old", ordered_at_ms=old_ms), ticket("urgent", ordered_at_ms=urgent_ms - 1, priority=1)
    assert jobs.pick([old, urgent], "accelerator", NOW) == urgent
    late = ticket("late", ordered_at_ms=urgent_ms + 1, priority=1)
    assert jobs.pick([old, late], "accelerator", NOW) == old


def test_a_clock_that_was_set_back_does_not_hold_a_job_for_hours():
    waits = ticket("waits", not_before_ms=NOW + jobs.MAX_BACK_OFF_MS)
    assert jobs.pick([waits], "accelerator", NOW) is None
    assert jobs.pick([waits], "accelerator", NOW - 3_600_000) == waits


@pytest.mark.parametrize("jump_ms", [1, 3_600_000, 10 * 365 * 86_400_000])
def test_a_clock_that_jumps_ahead_changes_no_order_and_holds_nobody(jump_ms: int):
    """A job that waits out its back-off starts at once; what is ordered afterwards still comes after."""
    waits = ticket("waits", not_before_ms=NOW + jobs.MAX_BACK_OFF_MS)
    line = [ticket("low", ordered_at_ms=NOW - 2, priority=-1), ticket("next", ordered_at_ms=NOW - 1)]
    assert jobs.pick(line, "accelerator", NOW) == jobs.pick(line, "accelerator", NOW + jump_ms) == line[1]
    assert (jobs.pick([waits], "accelerator", NOW + jump_ms) == waits) == (jump_ms >= jobs.MAX_BACK_OFF_MS)
    assert jobs.pick([*line, ticket("late", ordered_at_ms=NOW + jump_ms)], "accelerator", NOW + jump_ms) == line[1]


@pytest.fixture
def queued(admin: accounts.Account) -> str:
    with connection.write():
        return jobs.insert("benchmark", BenchmarkSpec(model_id="m"), user_id=admin.id, isolation="exclusive")


def claim(worker: str = "benchmarker-0") -> jobs.Claimed:
    seen = jobs.peek("accelerator", clock.now_ms() + 60_000)
    assert seen is not None
    job = jobs.claim("accelerator", worker, clock.now_ms() + 60_000, seen.id)
    assert job is not None
    return job


def status(job_id: str) -> str:
    return str(tables.Job.get_by_id(job_id).status)


def test_a_claimed_job_is_claimed_once(queued: str):
    seen = jobs.peek("accelerator", clock.now_ms())
    assert seen is not None
    assert seen.id == queued
    assert claim().attempt == 1
    assert jobs.claim("accelerator", "benchmarker-1", clock.now_ms(), queued) is None


def test_finishing_commits_the_results_with_it(queued: str):
    job = claim()
    with pytest.raises(ZeroDivisionError):
        jobs.finish(job, lambda: 1 / 0)
    assert status(queued) == "running"
    jobs.report_progress(job, {"fraction": 0.9, "round": 9})
    jobs.finish(job, lambda: None)
    assert status(queued) == "completed"
    assert tables.Job.get_by_id(queued).progress == {"fraction": 1.0, "round": 9}


@pytest.mark.parametrize("late", ["finish", "fail", "cancelled", "progress", "put_back"])
def test_a_worker_that_was_given_up_changes_nothing(queued: str, late: str):
    zombie = claim()
    assert jobs.recover(lambda worker: True, clock.now_ms(), ENDINGS) == [(queued, "queued")]
    again = claim("benchmarker-1")
    assert again.attempt == 2
    before = tables.Job.select().where(tables.Job.id == queued).dicts().get()
    writes = {
        "finish": lambda: jobs.finish(zombie, lambda: pytest.fail("results of a zombie were written")),
        "fail": lambda: jobs.fail(zombie, "late"),
        "cancelled": lambda: jobs.cancelled(zombie),
        "progress": lambda: jobs.report_progress(zombie, {"fraction": 1}),
        "put_back": lambda: jobs.put_back(zombie, "late"),
    }
    with pytest.raises(jobs.Fenced):
        writes[late]()
    assert tables.Job.select().where(tables.Job.id == queued).dicts().get() == before


def test_a_job_that_kills_its_workers_is_given_up(queued: str):
    for attempt in itertools.count(1):
        assert claim().attempt == attempt
        ((_, now),) = jobs.recover(lambda worker: True, clock.now_ms(), ENDINGS)
        if now == "failed":
            break
    assert attempt == 3
    assert "3 times" in tables.Job.get_by_id(queued).error


def test_whoever_ends_a_lost_job_ends_what_hangs_on_it_too(queued: str):
    for _ in range(2):
        claim()
        jobs.recover(lambda worker: True, clock.now_ms(), ENDINGS)
    claim()
    assert jobs.recover(lambda worker: True, clock.now_ms(), {}) == [], "another lane leaves the end to ours"
    assert status(queued) == "running"
    told: list[tuple[str, str]] = []
    ours: dict[str, jobs.GiveUp] = {"benchmark": lambda job, reason: told.append((job.id, reason))}
    assert jobs.recover(lambda worker: True, clock.now_ms(), ours) == [(queued, "failed")]
    assert told == [(queued, tables.Job.get_by_id(queued).error)]


def test_what_is_missing_right_now_is_tried_again_and_then_is_the_reason(queued: str):
    ended: list[str] = []
    outcomes = [jobs.retry(claim(), "No space left.", lambda job, reason: ended.append(reason)) for _ in range(3)]
    assert outcomes == ["queued", "queued", "failed"]
    assert ended == ["No space left."]
    assert tables.Job.get_by_id(queued).error == "No space left."


def test_a_job_that_is_to_be_cancelled_is_not_tried_again(queued: str):
    job = claim()
    with connection.write():
        jobs.request_cancel(queued)
    ended: list[str] = []
    assert jobs.retry(job, "No space left.", lambda job, reason: ended.append(reason)) == "cancelled"
    assert (status(queued), ended) == ("cancelled", ["No space left."])


def test_a_live_worker_keeps_its_job(queued: str):
    claim()
    assert jobs.recover(lambda worker: False, clock.now_ms(), ENDINGS) == []


def test_putting_back_does_not_count_as_an_attempt(queued: str):
    jobs.put_back(claim(), "the worker was stopped")
    assert claim().attempt == 1


def test_cancel_of_a_queued_and_of_a_running_job(queued: str):
    with connection.write():
        assert jobs.request_cancel(queued) == "queued"
    assert status(queued) == "cancelled"
    with connection.write(), pytest.raises(errors.Conflict):
        jobs.request_cancel(queued)


def test_cancel_of_a_running_job_reaches_its_worker(queued: str):
    job = claim()
    assert not jobs.report_progress(job, {})
    with connection.write():
        assert jobs.request_cancel(queued) == "running"
    assert jobs.report_progress(job, {})
    jobs.cancelled(job)
    assert status(queued) == "cancelled"


def test_the_queue_has_an_end(admin: accounts.Account):
    with connection.write():
        for _ in range(3):
            jobs.insert("convert", ConvertSpec(model_id="m"), user_id=admin.id, limit=3)
        with pytest.raises(errors.QueueFull) as full:
            jobs.insert("convert", ConvertSpec(model_id="m"), user_id=admin.id, limit=3)
    assert full.value.retry_after_s


@pytest.mark.parametrize(
    "impossible",
    [
        {"status": "running"},
        {"status": "running", "worker": "w"},
        {"status": "completed"},
        {"status": "failed", "finished_at_ms": 1},
        {"status": "nonsense"},
        {"worker": "w"},
        {"attempt": -1},
        {"spec": "no json"},
    ],
)
def test_the_schema_forbids_the_impossible(queued: str, impossible: dict[str, object]):
    assignments = ", ".join(f"{name} = ?" for name in impossible)
    with pytest.raises(peewee.IntegrityError), connection.write():
        connection.database.execute_sql(f"UPDATE jobs SET {assignments} WHERE id = ?", [*impossible.values(), queued])


def test_tables_and_schema_have_the_same_columns(db_file):
    for table in tables.Table.__subclasses__():
        columns = {column.name for column in connection.database.get_columns(table._meta.table_name)}
        assert columns == set(table._meta.columns), table


def test_a_model_is_not_deleted_under_its_benchmark(queued: str, admin: accounts.Account):
    with connection.write():
        stored = Stored(sha256="a" * 64, size_bytes=1)
        registry.keep_artifact(stored, "models")
        model_id = registry.add_model(
            stored, admin.id, name="m", description="", task_type="classification", framework="onnx"
        )
        tables.Job.update(spec=BenchmarkSpec(model_id=model_id)).where(tables.Job.id == queued).execute()
    with pytest.raises(errors.Conflict, match=queued), connection.write():
        registry.delete_model(model_id)
    with connection.write():
        jobs.request_cancel(queued)
        assert registry.delete_model(model_id) == ["a" * 64]


def test_a_follow_up_and_every_event_keep_the_request_they_come_from(admin: accounts.Account):
    origin = Origin("req-1", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    with connection.write():
        first = jobs.insert("benchmark", BenchmarkSpec(model_id="m"), user_id=admin.id, origin=origin)
    job = claim()
    assert job.origin == origin
    with connection.write():
        second = jobs.insert("report", ReportSpec(benchmark_id=first), user_id=admin.id, parent=job)
        jobs.request_cancel(first, "req-2")
    follow_up = tables.Job.get_by_id(second)
    assert (follow_up.request_id, follow_up.traceparent) == (origin.request_id, origin.traceparent)
    jobs.cancelled(job)
    story = [(each.event, each.request_id) for each in jobs.history(first)]
    assert story == [("queued", "req-1"), ("started", "req-1"), ("cancel requested", "req-2"), ("cancelled", "req-1")]
