"""The coordinator: searches go on identically whenever it is killed, end with a model or a reason, leave nothing."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared import clock, config, errors
from shared.db import accounts, connection, jobs, registry, searches
from shared.db.tables import Job, Search, SearchTrial, Training
from shared.genes import BoolGene, ChoiceGene, FloatGene, Gene, IntGene, SearchSpec, TrainingOrder, genes_of
from shared.specs import BenchmarkSpec, Candidate, TrainingSpec, TrialSpec
from shared.trials import Outcome
from tests.search_kit import (
    DATASET,
    EPOCHS,
    LATENCIES,
    MODEL,
    TWO,
    end,
    end_trial,
    last_training,
    measured,
    order,
    quality,
    status,
    straight,
    trial_of,
    trials,
    waiting,
)
from trainer.coordinator import Coordinator
from trainer.search import AT_ONCE


class Heard:
    """Listens to what is announced."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.rung: list[str] = []

    def publish(self, topic: str, data: dict[str, Any]) -> None:
        assert topic == f"job.{data['id']}"
        self.told.append(data)

    def doorbell(self, lane: str) -> None:
        self.rung.append(lane)


@pytest.fixture
def placed(tmp_path: Path, db_file: Path) -> config.Settings:
    made = config.load({"DATA_DIR": str(tmp_path)})
    made.models.mkdir(parents=True, exist_ok=True)
    return made


@pytest.fixture
def coordinator(placed: config.Settings) -> Coordinator:
    return Coordinator(placed, Heard())


def carry_out(coordinator: Coordinator, search_id: str) -> None:
    """Until its trials are told."""
    coordinator.look()
    while due := waiting(search_id):
        assert len(due) <= AT_ONCE
        end_trial(search_id, due[0])
        coordinator.look()


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 20), st.booleans(), st.booleans(), st.randoms(use_true_random=False))
def test_a_search_whose_coordinator_is_lost_at_any_time_asks_for_the_same_trials(
    admin: accounts.Account,
    placed: config.Settings,
    seed: int,
    halving: bool,
    baseline: bool,
    draw: random.Random,
) -> None:
    search_id = order(admin.id, seed, halving=halving, baseline=baseline)
    coordinator = Coordinator(placed, Heard())
    coordinator.look()
    while due := waiting(search_id):
        for trial in draw.sample(due, draw.randint(1, len(due))):
            end_trial(search_id, trial)
        if draw.random() < 0.5:
            coordinator = Coordinator(placed, Heard())
        coordinator.look()
    expected, outcome = straight(seed, halving=halving, baseline=baseline)
    assert trials(search_id) == expected
    with connection.read():
        assert msgspec.convert(Search.get_by_id(search_id).outcome, Outcome) == outcome
        Job.update(status="cancelled", worker=None, finished_at_ms=1).where(Job.status.in_(jobs.OPEN)).execute()


def test_a_search_ends_with_the_model_of_a_training_with_the_best(
    admin: accounts.Account, coordinator: Coordinator
) -> None:
    search_id = order(admin.id, seed=3)
    carry_out(coordinator, search_id)
    best = straight(3)[1].best
    last = last_training(search_id)
    assert best is not None and last is not None
    job = Job.get_by_id(last)
    spec = msgspec.convert(job.spec, TrainingSpec)
    assert {name: getattr(spec.hyperparams, name) for name in best} == best
    assert (spec.seed, spec.max_epochs, job.kind, job.parent_id) == (3, EPOCHS, "train", search_id)
    assert status(search_id) == ("running", None)
    end(last, 0.75, result_model_id=MODEL)
    coordinator.look()
    assert status(search_id) == ("completed", None)
    row = Training.get_by_id(search_id)
    assert (row.result_model_id, row.final_accuracy, row.best_epoch) == (MODEL, 0.75, None)
    coordinator.look()


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 20), st.randoms(use_true_random=False))
def test_a_search_for_latency_as_well_goes_on_with_what_was_measured_and_never_measures_again(
    admin: accounts.Account, placed: config.Settings, seed: int, draw: random.Random
) -> None:
    search_id = order(admin.id, seed, **TWO)
    for _ in range(draw.randint(1, 2)):
        Coordinator(placed, Heard()).look()
        assert waiting(search_id) == []
    measured(search_id)
    coordinator = Coordinator(placed, Heard())
    coordinator.look()
    while due := waiting(search_id):
        end_trial(search_id, draw.choice(due))
        if draw.random() < 0.3:
            coordinator = Coordinator(placed, Heard())
        coordinator.look()
    expected, outcome = straight(seed, **TWO)
    assert trials(search_id) == expected
    last = Training.get_by_id(last_training(search_id))
    with connection.read():
        assert msgspec.convert(Search.get_by_id(search_id).outcome, Outcome) == outcome
        assert Job.select().where((Job.kind == "measure") & (Job.parent_id == search_id)).count() == 1
    assert outcome.best is not None and len(outcome.front) > 1
    assert last.latency_ms == LATENCIES.of(outcome.best)
    assert {row.latency_ms for row in Training.select().where(Training.search_id == search_id)} == {0.5, 2.0}
    end(last.id, 0.75, result_model_id=MODEL)
    coordinator.look()
    assert Training.get_by_id(search_id).latency_ms == last.latency_ms


def test_latencies_are_measured_first_with_the_machine_to_itself(
    admin: accounts.Account, coordinator: Coordinator
) -> None:
    search_id = order(admin.id, **TWO)
    coordinator.look()
    waits = "waiting for the machine to itself, to measure the latency at 2 image sizes"
    assert Job.get_by_id(search_id).progress["stage"] == waits
    (job,) = Job.select().where(Job.parent_id == search_id)
    assert (job.kind, job.isolation, job.lane) == ("measure", "exclusive", "accelerator")
    assert (job.spec["image_sizes"], job.spec["engine"]) == ([16, 32], "onnxruntime")
    Job.update(status="running", attempt=1, worker="trainer-0", progress={"stage": "round 1"}).where(
        Job.id == job.id
    ).execute()
    coordinator.look()
    assert Job.select().where(Job.parent_id == search_id).count() == 1
    assert Job.get_by_id(search_id).progress["stage"] == "measuring the latency at 2 image sizes: round 1"
    measured(search_id)
    coordinator.look()
    assert len(waiting(search_id)) == AT_ONCE


def test_the_engine_is_the_one_that_was_ordered_or_the_one_that_serves(
    admin: accounts.Account, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    serves = Candidate(engine="openvino", precision="int8", batch_size=8, threads=1)
    monkeypatch.setattr(registry, "incumbent", {MODEL: serves}.get)
    found = {order(admin.id, **TWO): "openvino", order(admin.id, **TWO, engine="pytorch"): "pytorch"}
    coordinator.look()
    for search_id, engine in found.items():
        assert Job.get_by_id(Search.get_by_id(search_id).measurement_id).spec["engine"] == engine


def test_a_latency_that_cannot_be_measured_ends_the_search_before_anything_is_trained(
    admin: accounts.Account, coordinator: Coordinator
) -> None:
    search_id = order(admin.id, **TWO)
    coordinator.look()
    measured(search_id, "vit cannot be trained at image_size 16.")
    coordinator.look()
    state, why = status(search_id)
    assert (state, trials(search_id)) == ("failed", [])
    assert why == "The latency could not be measured, and nothing was trained: vit cannot be trained at image_size 16."


@pytest.mark.parametrize("stopped", [False, True], ids=["", "stopped while the disk was full"])
def test_latencies_are_measured_when_there_is_room_on_the_disk(
    admin: accounts.Account, placed: config.Settings, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    coordinator = Coordinator(placed, Heard())
    early, late = order(admin.id, **TWO), order(admin.id, **TWO)
    with monkeypatch.context() as full:
        full.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**20, total=2**40, used=0))
        coordinator.look()
        assert Search.get_by_id(early).measurement_id is None, "nothing is begun without room"
        assert "Free some space" in Job.get_by_id(early).progress["stage"]
    coordinator.look()
    lost = Search.get_by_id(late).measurement_id
    measured(early)
    with monkeypatch.context() as full:
        full.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**20, total=2**40, used=0))
        measured(late, "No room for what is exported (No space left on device).")
        coordinator.look()
        coordinator.look()
        assert "Free some space" in Job.get_by_id(late).progress["stage"]
    coordinator = Coordinator(placed, Heard()) if stopped else coordinator
    coordinator.look()
    assert status(late)[0] == "running"
    assert Search.get_by_id(late).measurement_id != lost
    measured(late, "The network cannot be exported.")
    coordinator.look()
    assert status(late)[0] == "failed"


def test_a_search_that_is_cancelled_while_it_measures_ends_that(
    admin: accounts.Account, coordinator: Coordinator
) -> None:
    search_id = order(admin.id, **TWO)
    coordinator.look()
    with connection.write():
        jobs.request_cancel(search_id)
    coordinator.look()
    assert status(search_id)[0] == status(Search.get_by_id(search_id).measurement_id)[0] == "cancelled"


def test_a_last_training_that_fails_fails_the_search_with_its_reason(
    admin: accounts.Account, coordinator: Coordinator
) -> None:
    search_id = order(admin.id)
    carry_out(coordinator, search_id)
    last = last_training(search_id)
    assert last is not None
    end(last, "The disk is full.")
    coordinator.look()
    assert status(search_id)[0] == "failed"
    assert "The disk is full." in str(status(search_id)[1])


def test_trials_are_jobs_of_their_search(admin: accounts.Account, coordinator: Coordinator) -> None:
    search_id = order(admin.id, seed=7, halving=True)
    coordinator.look()
    first, second = waiting(search_id)
    row = SearchTrial.get(SearchTrial.number == first.number)
    job, search = Job.get_by_id(row.job_id), Job.get_by_id(search_id)
    assert (job.kind, job.lane, job.parent_id) == ("trial", "accelerator", search_id)
    assert (job.priority, job.created_by) == (search.priority, admin.id)
    spec = msgspec.convert(job.spec, TrialSpec)
    assert (spec.until_epoch, spec.continues, spec.training.seed, spec.training.max_epochs) == (1, None, 7, EPOCHS)
    assert {name: getattr(spec.training.hyperparams, name) for name in first.genome} == first.genome
    assert first.genome != second.genome
    carry_out(coordinator, search_id)
    longer = [each for each in trials(search_id) if each.continues is not None]
    assert longer
    for each in longer:
        job_id = SearchTrial.get(SearchTrial.number == each.number).job_id
        before = SearchTrial.get(SearchTrial.number == each.continues).job_id
        assert msgspec.convert(Job.get_by_id(job_id).spec, TrialSpec).continues == before


def test_what_fails_is_no_result_and_if_all_do_the_search_says_why(
    admin: accounts.Account, coordinator: Coordinator
) -> None:
    search_id = order(admin.id)
    coordinator.look()
    while due := waiting(search_id):
        end_trial(search_id, due[0], "The loss is not a number.")
        coordinator.look()
    assert len(trials(search_id)) <= 6 + 1
    assert status(search_id)[0] == "failed"
    assert "gave a result; the last: The loss is not a number." in str(status(search_id)[1])


def test_a_trial_that_somebody_cancels_is_no_result(admin: accounts.Account, coordinator: Coordinator) -> None:
    search_id = order(admin.id)
    coordinator.look()
    job_id = SearchTrial.get(SearchTrial.number == 0).job_id
    with connection.write():
        jobs.request_cancel(job_id)
    coordinator.look()
    told = SearchTrial.get(SearchTrial.number == 0).result
    assert told["reason"] == "Its training was cancelled."
    assert len(waiting(search_id)) == AT_ONCE


def test_cancelling_a_search_cancels_its_trials(
    admin: accounts.Account, coordinator: Coordinator, placed: config.Settings
) -> None:
    search_id = order(admin.id, halving=True)
    coordinator.look()
    end_trial(search_id, waiting(search_id)[0])
    coordinator.look()
    queued, running = (SearchTrial.get(SearchTrial.number == number).job_id for number in (1, 2))
    Job.update(status="running", worker="trainer-0", attempt=1).where(Job.id == running).execute()
    done = placed.training / SearchTrial.get(SearchTrial.number == 0).job_id
    done.mkdir(parents=True)
    with connection.write():
        jobs.request_cancel(search_id)
    coordinator.look()
    assert status(search_id)[0] == "cancelled"
    assert status(queued)[0] == "cancelled"
    assert Job.get_by_id(running).cancel_requested
    assert not done.exists()


def test_what_waits_is_cancelled_at_once(admin: accounts.Account, coordinator: Coordinator) -> None:
    search_id = order(admin.id)
    with connection.write():
        jobs.request_cancel(search_id)
    coordinator.look()
    assert status(search_id)[0] == "cancelled"
    assert trials(search_id) == []


def test_several_searches_go_on_side_by_side(admin: accounts.Account, coordinator: Coordinator) -> None:
    one, other = order(admin.id, seed=1), order(admin.id, seed=2)
    coordinator.look()
    assert len(waiting(one)) == len(waiting(other)) == AT_ONCE
    carry_out(coordinator, other)
    assert last_training(other) is not None
    assert trials(other) == straight(2)[0]
    assert len(trials(one)) == AT_ONCE


def test_checkpoints_that_nothing_goes_on_from_are_removed(
    admin: accounts.Account, coordinator: Coordinator, placed: config.Settings
) -> None:
    search_id = order(admin.id, seed=4, halving=True, finalists=0)
    coordinator.look()
    most = 0
    while due := waiting(search_id):
        trial = due[0]
        ours = placed.training / SearchTrial.get(SearchTrial.number == trial.number).job_id
        if trial.continues is not None:
            before = placed.training / SearchTrial.get(SearchTrial.number == trial.continues).job_id
            assert before.is_dir(), "what a trial goes on from was removed"
            before.rename(ours)
        ours.mkdir(parents=True, exist_ok=True)
        end_trial(search_id, trial, quality(trial.genome, 1, 0) if trial.seed == 4 else None)
        coordinator.look()
        most = max(most, len(list(placed.training.iterdir())))
    assert most < 16
    assert list(placed.training.iterdir()) == []


def test_without_room_on_the_disk_a_search_waits_and_says_so(
    admin: accounts.Account, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_id = order(admin.id)
    with monkeypatch.context() as full:
        full.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**20, total=2**40, used=0))
        coordinator.look()
        assert trials(search_id) == []
        assert "Free some space" in Job.get_by_id(search_id).progress["stage"]
    coordinator.look()
    assert len(waiting(search_id)) == AT_ONCE
    assert Job.get_by_id(search_id).progress["stage"] == "searching"


@pytest.mark.parametrize("stopped", [False, True], ids=["", "stopped while the disk was full"])
def test_trials_that_fail_while_the_disk_is_full_are_trained_when_there_is_room_again(
    admin: accounts.Account,
    placed: config.Settings,
    coordinator: Coordinator,
    monkeypatch: pytest.MonkeyPatch,
    stopped: bool,
) -> None:
    search_id = order(admin.id, seed=5)
    coordinator.look()
    lost = waiting(search_id)
    before = {row.number: row.job_id for row in SearchTrial.select()}
    with monkeypatch.context() as full:
        full.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**20, total=2**40, used=0))
        for trial in lost:
            end_trial(search_id, trial, "The checkpoint cannot be written (No space left on device).")
        coordinator.look()
        assert waiting(search_id) == []
        assert "Free some space" in Job.get_by_id(search_id).progress["stage"]
    coordinator = Coordinator(placed, Heard()) if stopped else coordinator
    coordinator.look()
    assert waiting(search_id) == lost
    for row in SearchTrial.select():
        assert Job.get_by_id(row.job_id).spec["continues"] == before[row.number], "from where it had come to"
    carry_out(coordinator, search_id)
    expected, outcome = straight(5)
    assert trials(search_id) == expected
    assert msgspec.convert(Search.get_by_id(search_id).outcome, Outcome) == outcome


@pytest.mark.parametrize("write", ["tell", "hand_out", "train_best", "complete"])
def test_what_the_database_does_not_take_is_done_again(
    admin: accounts.Account, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    search_id = order(admin.id, population_size=2, generations=2, finalists=0)
    broken = [0]

    def refuse(*_: object) -> None:
        broken[0] += 1
        raise errors.Unavailable("The database cannot be used right now.")

    def look() -> None:
        with monkeypatch.context() as sick:
            sick.setattr(searches, write, refuse)
            with contextlib.suppress(errors.Unavailable):
                coordinator.look()
        coordinator.look()

    look()
    while due := waiting(search_id):
        end_trial(search_id, due[0])
        look()
    last = last_training(search_id)
    assert last is not None
    end(last, 0.5)
    look()
    assert broken[0] > 0
    assert status(search_id)[0] == "completed"
    assert trials(search_id) == straight(0, population_size=2, generations=2, finalists=0)[0]


def test_rows_that_no_search_of_this_version_made_fail_it_with_a_sentence(
    admin: accounts.Account, placed: config.Settings
) -> None:
    search_id = order(admin.id)
    carry_out(Coordinator(placed, Heard()), search_id)
    opening = Search.get_by_id(search_id).opening
    Search.update(opening=opening | {"seed": 99}).where(Search.id == search_id).execute()
    Search.update(final_id=None).execute()
    Coordinator(placed, Heard()).look()
    assert status(search_id)[0] == "failed"
    assert "would not ask for" in str(status(search_id)[1])


def test_how_far_it_is_is_told_where_that_changes(admin: accounts.Account, placed: config.Settings) -> None:
    heard = Heard()
    coordinator = Coordinator(placed, heard)
    search_id = order(admin.id, population_size=2, generations=3, finalists=1, baseline=True)
    coordinator.look()
    coordinator.look()
    coordinator.look()
    assert len(heard.told) == 1
    carry_out(coordinator, search_id)
    seen = [each["progress"] for each in heard.told]
    fractions = [each["fraction"] for each in seen]
    assert fractions == sorted(fractions)
    assert seen[0]["evaluations"] == 0
    assert seen[-1]["evaluations"] == seen[-1]["max_evaluations"] == 6
    assert {each["stage"] for each in seen} == {
        "searching",
        "searching by chance, to compare",
        "training the finalists again, with other seeds",
        "training with the best hyper-parameters",
    }
    counted = {each["stage"]: (each["done"], each["total"]) for each in seen if "total" in each}
    assert counted == {
        "searching by chance, to compare": (5, 6),
        "training the finalists again, with other seeds": (5, 6),
    }, "the last told of each"
    assert all(each["eta_s"] > 0 for each in seen[2:])
    assert Job.get_by_id(search_id).progress == seen[-1]
    assert set(heard.rung) == {"accelerator"}


def test_a_search_says_which_benchmark_it_waits_for(admin: accounts.Account, coordinator: Coordinator) -> None:
    search_id = order(admin.id)
    coordinator.look()
    spec = BenchmarkSpec(model_id=MODEL, priority=9)
    with connection.write():
        benchmark = jobs.insert("benchmark", spec, user_id=admin.id, priority=9, isolation="exclusive")
    assert jobs.claim("accelerator", "benchmarker-0", clock.now_ms(), benchmark)
    coordinator.look()
    assert Job.get_by_id(search_id).progress["stage"] == f"waiting for benchmark {benchmark}"
    with connection.write():
        Job.update(status="completed", worker=None, finished_at_ms=clock.now_ms()).where(Job.id == benchmark).execute()
    coordinator.look()
    assert Job.get_by_id(search_id).progress["stage"] == "searching"


def test_a_search_keeps_no_benchmark_waiting_and_is_nobody_elses(
    admin: accounts.Account, coordinator: Coordinator
) -> None:
    search_id = order(admin.id)
    coordinator.look()
    Job.update(status="cancelled", finished_at_ms=1).where(Job.kind == "trial").execute()
    with connection.write():
        alone = jobs.insert("benchmark", BenchmarkSpec(model_id=MODEL), user_id=admin.id, isolation="exclusive")
    now = clock.now_ms() + jobs.PATIENCE_MS
    found = jobs.peek("accelerator", now)
    assert found is not None and found.id == alone
    assert jobs.open_waits(now) == {}
    assert jobs.recover(lambda _: True, now, {"search": lambda job, reason: None}) == []
    assert status(search_id)[0] == "running"


@pytest.mark.parametrize("isolation", ["exclusive", "shared"])
def test_what_waits_goes_before_the_trials_that_are_yet_to_come(
    isolation: str, admin: accounts.Account, coordinator: Coordinator
) -> None:
    search_id = order(admin.id)
    coordinator.look()
    with connection.write():
        waits = jobs.insert("benchmark", BenchmarkSpec(model_id=MODEL), user_id=admin.id, isolation=isolation)
    Job.update(ordered_at_ms=Job.ordered_at_ms - 1000).execute()
    for _ in range(AT_ONCE):
        assert next_kind() == "trial"
        end_trial(search_id, waiting(search_id)[0])
        coordinator.look()
    assert len(waiting(search_id)) == AT_ONCE
    assert next_kind() == "benchmark"
    Job.update(status="cancelled", finished_at_ms=1).where(Job.id == waits).execute()
    assert next_kind() == "trial"


def next_kind() -> str | None:
    """Of the job that a free trainer or benchmarker would find."""
    found = jobs.peek("accelerator", clock.now_ms() + jobs.PATIENCE_MS)
    return None if found is None else found.kind


def test_two_searches_take_turns(admin: accounts.Account, coordinator: Coordinator) -> None:
    both = [order(admin.id, seed=seed) for seed in range(2)]
    ended = []
    for _ in range(8):
        coordinator.look()
        Job.update(ordered_at_ms=Job.ordered_at_ms - 1000).execute()
        found = jobs.peek("accelerator", clock.now_ms())
        assert found is not None
        row = SearchTrial.get(SearchTrial.job_id == found.id)
        end_trial(row.search_id, trial_of(row.trial))
        ended.append(both.index(row.search_id))
    assert ended == [0, 0, 1, 1, 0, 0, 1, 1]


def test_a_search_has_an_end(admin: accounts.Account, coordinator: Coordinator) -> None:
    search_id = order(admin.id)
    coordinator.look()
    Job.update(started_at_ms=clock.now_ms() - 31 * 24 * 3600 * 1000).where(Job.id == search_id).execute()
    coordinator.look()
    assert status(search_id)[0] == "failed"
    assert "at most 30 days" in str(status(search_id)[1])
    assert waiting(search_id) == []


@pytest.mark.parametrize(
    ("name", "gene", "wrong"),
    [
        (
            "learning_rate",
            FloatGene(low=1e-3, high=100.0),
            "The gene learning_rate may become 100.0, but",
        ),
        ("batch_size", IntGene(low=1, high=64), "must be a whole number from 2 to 4096"),
        ("batch_size", FloatGene(low=8.0, high=64.5), "must be a whole number"),
        ("optimizer", ChoiceGene(choices=("sgd", "lion")), "may become 'lion', but optimizer must be one of"),
        ("augmentation", BoolGene(), "must be one of light, none or strong"),
        ("hidden_units", IntGene(low=1, high=2), "A training has no hidden_units; genes are among"),
    ],
)
def test_a_gene_with_values_that_no_training_takes_is_refused(name: str, gene: Gene, wrong: str) -> None:
    with pytest.raises(ValueError, match="gene") as refused:
        genes_of(SearchSpec(search_space={name: gene}))
    assert wrong in str(refused.value)


def test_an_order_names_what_it_is_for() -> None:
    spec = TrainingOrder(model_id=MODEL, dataset_id=DATASET, max_epochs=3)
    assert spec.ga is None
    assert msgspec.json.decode(msgspec.json.encode(spec), type=TrainingOrder) == spec
