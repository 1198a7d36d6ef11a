"""Ordering trainings, following, cancelling and comparing them, and what they leave."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reporter import Written
from reporter.__main__ import WriteReport
from shared import clock, config, nets
from shared.artifacts import Outputs
from shared.db import connection, jobs, registry, trainings
from shared.db.tables import Dataset, Job, Model, Training, TrainingReport
from shared.genes import TrainingOrder
from shared.specs import (
    Architecture,
    ClassCount,
    ConversionFacts,
    DatasetSummary,
    ModelDescription,
    Preprocessing,
    Resize,
    TrainingResult,
)
from tests.training_kit import figures, reached
from tests.unit import gateway_kit as kit
from tests.unit.gateway_kit import Gateway, fields_of, problem
from trainer import Trained, duty

NO_PYTORCH = "PyTorch is not installed here: run `make setup-train` and order again."


@pytest.fixture(autouse=True)
def _pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nets, "missing", lambda then="": None)


@pytest.fixture
def ids(gateway: Gateway) -> dict[str, str]:
    return {"model_id": kit.trainable_model(gateway), "dataset_id": data(gateway)}


def data(gateway: Gateway, summary: DatasetSummary | None = None, task: str = "classification") -> str:
    """A dataset that is ready."""
    made = gateway.post("/datasets", **kit.form({"name": "images", "task_type": task}, kit.ZIP, "d.zip")).json()
    kit.make_ready(gateway, made["id"], made["id"], summary or kit.of_digits())
    return str(made["id"])


def order(gateway: Gateway, ids: dict[str, str], role: str = "engineer", **spec: Any) -> dict[str, Any]:
    response = gateway.post("/training", role, json=ids | {"max_epochs": 3} | spec)
    assert response.status_code == 202, response.text
    return dict(response.json())


def claimed(training_id: str) -> jobs.Claimed:
    job = jobs.claim("accelerator", "trainer-0", clock.now_ms(), training_id)
    assert job
    return job


def end(gateway: Gateway, training_id: str, result: TrainingResult) -> str:
    """The training as a trainer ends it; returns the model that it made."""
    job = claimed(training_id)
    contract = Preprocessing(resize=Resize(height=8, width=8))
    described = msgspec.structs.replace(
        registry.described(registry.model(json.loads(job.spec)["model_id"])), labels=result.classes
    )
    facts = ConversionFacts(
        source="s", exporter="e", opset=18, dynamic_batch=True, parity=[], seconds=1.0, peak_memory_mb=1.0
    )
    architecture = Architecture(name="cnn32", num_classes=10, task="classification", preprocessing=contract)
    made = Trained(
        result=result,
        architecture=architecture,
        preprocessing=contract,
        finished=True,
        facts=facts,
        description=described,
    )
    with Outputs("trainer-0") as outputs:
        for name in ("onnx", "weights"):
            fd = outputs.stage(name, gateway.context.models)
            with open(fd, "wb", closefd=False) as file:
                file.write(f"{name} of {training_id}".encode())
        jobs.finish(job, duty.Train(gateway.context.settings).finish(job, made, outputs))
    return str(Training.get_by_id(training_id).result_model_id)


# --- ordering ---------------------------------------------------------------------------------------------------------


def test_an_order_becomes_a_queued_job(gateway: Gateway, ids: dict[str, str]) -> None:
    response = gateway.post("/training", json=ids | {"max_epochs": 7, "hyperparams": {"learning_rate": 0.01}})
    made = response.json()
    assert response.headers["location"] == f"/api/v1/training/{made['id']}"
    assert (made["status"], made["model_id"], made["dataset_id"]) == ("queued", ids["model_id"], ids["dataset_id"])
    assert (made["model_name"], made["dataset_name"], made["config"]["max_epochs"]) == ("a network", "images", 7)
    assert made["hyperparams"]["learning_rate"] == 0.01
    assert (made["epochs"], made["result"], made["result_model_id"], made["search_id"]) == ([], None, None, None)
    assert gateway.get(f"/training/{made['id']}").json() == made
    assert gateway.broker.rung[-1] == "accelerator"
    job = gateway.get(f"/jobs/{made['id']}").json()
    assert (job["kind"], job["lane"]) == ("train", "accelerator")


@pytest.mark.parametrize(
    ("spec", "wrong"),
    [
        ({"max_epochs": 0}, {"max_epochs"}),
        ({"max_epochs": 10**9}, {"max_epochs"}),
        ({"hyperparams": {"learning_rate": 0}}, {"hyperparams.learning_rate"}),
        ({"hyperparams": {"learning_rate": 1e400}}, {"hyperparams.learning_rate"}),
        ({"hyperparams": {"batch_size": 1}}, {"hyperparams.batch_size"}),
        ({"hyperparams": {"momentum": 0.9}}, {"hyperparams.momentum"}),
        ({"validation_split": 1.0}, {"validation_split"}),
        ({"name": ""}, {"name"}),
        ({"name": "two\nlines"}, {"name"}),
        ({"epochs": 3}, {"epochs"}),
    ],
)
def test_what_is_wrong_is_said_field_by_field(gateway: Gateway, spec: dict[str, Any], wrong: set[str]) -> None:
    body = json.dumps({"model_id": "mdl_1", "dataset_id": "dst_1", "max_epochs": 3} | spec).replace("Infinity", "1e400")
    response = gateway.post("/training", content=body, headers={"content-type": "application/json"})
    assert fields_of(response) == wrong
    assert Job.select().count() == 0


def test_what_cannot_be_trained_is_refused_with_the_reason(gateway: Gateway, ids: dict[str, str]) -> None:
    graph = kit.ready_model(gateway)
    counts = [ClassCount(name="cat", train=9, val=1, test=0), ClassCount(name="dog", train=0, val=1, test=0)]
    one_class = msgspec.structs.replace(kit.SUMMARY, classes=counts, splits={"train": 9, "val": 2, "test": 0})
    no_val = msgspec.structs.replace(kit.of_digits(), splits={"train": 80, "val": 0, "test": 20})
    empty = msgspec.structs.replace(kit.of_digits(), splits={"train": 0, "val": 5, "test": 20})
    boxes = data(gateway, task="detection")
    waiting = gateway.post("/datasets", **kit.form({"name": "w", "task_type": "classification"}, kit.ZIP, "d.zip"))
    for changed, status, said in (
        ({"model_id": "mdl_no"}, 404, "no model"),
        ({"dataset_id": "dst_no"}, 404, "no dataset"),
        ({"model_id": graph}, 409, "finished graph; training needs a network by name"),
        ({"dataset_id": boxes}, 409, "for detection, the model for classification"),
        ({"dataset_id": waiting.json()["id"]}, 409, "wait for `ready`"),
        ({"dataset_id": data(gateway, one_class)}, 422, "of one class only"),
        ({"dataset_id": data(gateway, no_val)}, 422, "Order with validation_split"),
        ({"dataset_id": data(gateway, empty)}, 422, "0 images for training"),
    ):
        response = gateway.post("/training", json=ids | {"max_epochs": 3} | changed)
        assert response.status_code == status, response.text
        assert said in response.json()["detail"]
    assert Job.select().where(Job.kind == "train").count() == 0
    order(gateway, ids | {"dataset_id": data(gateway, no_val)}, validation_split=0.2)
    order(gateway, ids | {"dataset_id": data(gateway, one_class)}, validation_split=0.2)


def test_a_size_that_no_detector_takes_is_refused_before_it_waits(gateway: Gateway, ids: dict[str, str]) -> None:
    boxes = ids | {"dataset_id": data(gateway, task="detection"), "max_epochs": 3}
    with connection.write():
        Model.update(task_type="detection").where(Model.id == ids["model_id"]).execute()
    for changed in ({}, {"ga": {}}):
        response = gateway.post("/training", "admin", json=boxes | {"hyperparams": {"image_size": 65}} | changed)
        assert (response.status_code, "a multiple of 32, not 65" in response.json()["detail"]) == (422, True)
    order(gateway, boxes, hyperparams={"image_size": 64})


def test_no_more_of_a_network_is_frozen_than_it_has(gateway: Gateway, ids: dict[str, str]) -> None:
    facts = ConversionFacts(
        source="s", exporter="e", opset=18, dynamic_batch=True, parity=[], seconds=1.0, peak_memory_mb=1.0, stages=4
    )
    order(gateway, ids, hyperparams={"frozen_stages": 256})  # nobody has counted them
    with connection.write():
        Model.update(conversion=facts).where(Model.id == ids["model_id"]).execute()
    gene = {"type": "int", "low": 0, "high": 5}
    for said in ({"hyperparams": {"frozen_stages": 5}}, {"ga": {"search_space": {"frozen_stages": gene}}}):
        response = gateway.post("/training", "admin", json=ids | {"max_epochs": 3} | said)
        assert problem(response, 422, "invalid")["detail"] == (
            "a network has 4 stages; frozen_stages is at most that, not 5."
        )
    order(gateway, ids, hyperparams={"frozen_stages": 4})


def test_without_pytorch_it_is_said_at_once(
    gateway: Gateway, ids: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nets, "missing", lambda then="": NO_PYTORCH)
    response = gateway.post("/training", json=ids | {"max_epochs": 3})
    assert problem(response, 409, "conflict")["detail"] == NO_PYTORCH


def test_an_order_that_is_repeated_with_its_key_is_one(gateway: Gateway, ids: dict[str, str]) -> None:
    asked = {"json": ids | {"max_epochs": 3}, "headers": {"Idempotency-Key": "k"}}
    first, again = gateway.post("/training", **asked), gateway.post("/training", **asked)
    assert first.json() == again.json() and Job.select().where(Job.kind == "train").count() == 1


def test_model_and_dataset_are_kept_while_they_are_trained(gateway: Gateway, ids: dict[str, str]) -> None:
    made = order(gateway, ids)
    for path in (f"/models/{ids['model_id']}", f"/datasets/{ids['dataset_id']}"):
        assert made["id"] in problem(gateway.delete(path), 409, "conflict")["detail"]
    gateway.post(f"/training/{made['id']}/cancel")
    for path in (f"/models/{ids['model_id']}", f"/datasets/{ids['dataset_id']}"):
        assert gateway.delete(path).is_success
    assert gateway.get(f"/training/{made['id']}").json()["model_name"] == "a network", "its history stays"


def test_engineers_cancel_their_own(gateway: Gateway, ids: dict[str, str]) -> None:
    mine, theirs = order(gateway, ids), order(gateway, ids, "admin")
    assert gateway.post(f"/training/{mine['id']}/cancel").json()["status"] == "cancelled"
    assert (
        "training is somebody else's"
        in problem(gateway.post(f"/training/{theirs['id']}/cancel"), 403, "forbidden")["detail"]
    )
    job = claimed(theirs["id"])
    shown = gateway.post(f"/training/{theirs['id']}/cancel", "admin").json()
    assert (shown["status"], shown["cancel_requested"]) == ("running", True)
    assert jobs.report_progress(job, {}), "its worker learns of it"
    assert problem(gateway.post(f"/training/{mine['id']}/cancel"), 409, "conflict")
    assert gateway.broker.published[-1][0] == f"job.{theirs['id']}"
    problem(gateway.post("/training/job_no/cancel"), 404, "not_found")


# --- what it brings forth ---------------------------------------------------------------------------------------------


def test_epochs_are_shown_as_they_come_and_an_attempt_that_began_anew_replaces_them(
    gateway: Gateway, ids: dict[str, str]
) -> None:
    made = order(gateway, ids)
    job = claimed(made["id"])
    for epoch in (1, 2, 3):
        duty.keep_epoch(job, {"figures": msgspec.to_builtins(figures(epoch))})
    duty.keep_epoch(job, {"stage": "training"})
    shown = gateway.get(f"/training/{made['id']}").json()["epochs"]
    assert [each["epoch"] for each in shown] == [1, 2, 3]
    duty.keep_epoch(job, {"figures": msgspec.to_builtins(figures(1, 0.8))})
    assert [each["val_accuracy"] for each in gateway.get(f"/training/{made['id']}").json()["epochs"]] == [0.8]
    assert gateway.get(f"/jobs/{made['id']}").json()["max_attempts"] == 3
    jobs.put_back(job, "stopped")
    with pytest.raises(jobs.Fenced):
        duty.keep_epoch(job, {"figures": msgspec.to_builtins(figures(2))})


def test_a_finished_training_leaves_a_ready_model_that_says_what_it_learned_from(
    gateway: Gateway, ids: dict[str, str]
) -> None:
    made = order(gateway, ids, seed=5, validation_split=0.25)
    model_id = end(gateway, made["id"], reached(seed=5))
    shown = gateway.get(f"/training/{made['id']}").json()
    assert (shown["status"], shown["result_model_id"], shown["best_epoch"]) == ("completed", model_id, 1)
    assert (shown["final_accuracy"], shown["final_loss"], shown["duration_s"]) == (0.9, 1.0, 1.5)
    assert shown["hyperparams"]["weight_decay"] == 0.01, "as it was used"
    assert len(shown["epochs"]) == 3 and shown["result"]["num_train"] == 80
    model = gateway.get(f"/models/{model_id}").json()
    assert (model["name"], model["status"], model["framework"]) == ("a network trained on images", "ready", "pytorch")
    assert (model["parent_id"], model["job_id"], model["architecture"]) == (ids["model_id"], made["id"], "cnn32")
    assert model["trainable"], "it can be trained further"
    index = model["lineage"].pop("dataset_index_sha256")
    assert len(index) == 64
    assert model["lineage"] == {
        "training_id": made["id"],
        "search_id": None,
        "dataset_id": ids["dataset_id"],
        "dataset_name": "images",
        "validation_split": 0.25,
        "seed": 5,
        "best_epoch": 1,
        "versions": {"torch": "2"},
    }
    assert gateway.get(f"/models/{model_id}/onnx").content == f"onnx of {made['id']}".encode()
    names = [
        gateway.get(f"/models/{end(gateway, order(gateway, ids, **said)['id'], reached())}").json()["name"]
        for said in ({}, {}, {"name": "a network trained on images"})
    ]
    assert names == [f"a network trained on images{number}" for number in (" (2)", " (3)", "")], "said, it is kept"
    again = order(gateway, {"model_id": model_id, "dataset_id": ids["dataset_id"]})
    assert gateway.get(f"/models/{model_id}/training").json()["items"] == [
        {name: value for name, value in again.items() if name not in ("epochs", "result", "search", "report")}
    ]
    gateway.post(f"/training/{again['id']}/cancel")
    assert gateway.delete(f"/models/{model_id}").is_success
    assert not (gateway.context.models.path(model["sha256"])).exists(), "its files go with it"


def test_a_name_is_no_longer_than_names_are(gateway: Gateway, ids: dict[str, str]) -> None:
    with connection.write():
        Model.update(name="n" * 200).where(Model.id == ids["model_id"]).execute()
    first, second = (
        gateway.get(f"/models/{end(gateway, order(gateway, ids)['id'], reached())}").json()["name"] for _ in range(2)
    )
    assert (first, second) == ("n" * 190 + " (2)", "n" * 190 + " (3)"), "whole it is the name of the model trained"


def test_lists_and_filters(gateway: Gateway, ids: dict[str, str]) -> None:
    other = ids | {"dataset_id": data(gateway)}
    first, second = order(gateway, ids)["id"], order(gateway, other)["id"]
    with connection.write():
        Training.update(search_id=first).where(Training.id == second).execute()
    third = order(gateway, other)["id"]
    gateway.post(f"/training/{third}/cancel")

    def found(**wanted: str) -> list[str]:
        return [each["id"] for each in gateway.get("/training", params=wanted).json()["items"]]

    assert found() == [third, first], "what belongs to a search is not among them"
    assert found(search_id=first) == [second]
    assert found(dataset_id=other["dataset_id"]) == [third] and found(model_id="mdl_no") == []
    assert found(status="queued") == [first]
    problem(gateway.get("/models/mdl_no/training"), 404, "not_found")
    problem(gateway.get("/training/job_no"), 404, "not_found")


def test_the_history_as_a_table(gateway: Gateway, ids: dict[str, str]) -> None:
    with connection.write():
        Model.update(name="=1+1").where(Model.id == ids["model_id"]).execute()
    waiting = order(gateway, ids)["id"]
    done = order(gateway, ids, seed=9, priority=1)["id"]
    model_id = end(gateway, done, reached())
    answer = gateway.get("/training?format=csv&limit=2")
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["training_id"] for row in rows] == [done, waiting]
    assert {row["task_type"] for row in rows} == {"classification"}
    assert rows[0]["model_name"] == "'=1+1", "no spreadsheet runs it"
    assert (rows[0]["status"], rows[0]["final_accuracy"], rows[0]["seed"]) == ("completed", "0.9", "9")
    assert (rows[0]["learning_rate"], rows[0]["result_model_id"]) == ("0.001", model_id)
    assert (rows[1]["status"], rows[1]["learning_rate"], rows[1]["final_accuracy"]) == ("queued", "", "")
    assert gateway.get("/training?format=csv&limit=1").headers["x-next-cursor"] == done


def test_two_trainings_side_by_side(gateway: Gateway, ids: dict[str, str]) -> None:
    one, other = order(gateway, ids)["id"], order(gateway, ids, seed=9, priority=3, name="x")["id"]
    end(gateway, other, reached(accuracy=0.95, seed=9, versions={"torch": "3"}))
    end(gateway, one, reached())
    found = gateway.get(f"/training/compare?a={one}&b={other}").json()
    assert (found["a"]["id"], len(found["a"]["epochs"]), found["b"]["id"]) == (one, 3, other)
    assert found["order"] == [
        {"name": "seed", "a": 0, "b": 9, "delta": 9.0},
        {"name": "version of torch", "a": "2", "b": "3", "delta": None},
    ]
    reached_by = {each["name"]: each for each in found["outcome"]}
    assert (reached_by["final_accuracy"]["a"], reached_by["final_accuracy"]["delta"]) == (0.9, 0.05)
    waiting = order(gateway, ids, max_epochs=9)["id"]
    assert found["note"] is None
    found = gateway.get(f"/training/compare?a={one}&b={waiting}").json()
    assert {each["name"]: each["b"] for each in found["outcome"]}["final_accuracy"] is None
    problem(gateway.get(f"/training/compare?a={one}&b=job_no"), 404, "not_found")
    assert "parameter 'b'" in problem(gateway.get(f"/training/compare?a={one}"), 422, "invalid")["detail"]


def test_figures_of_different_tasks_are_not_subtracted(gateway: Gateway, ids: dict[str, str]) -> None:
    boxes = {"model_id": kit.trainable_model(gateway), "dataset_id": data(gateway, task="detection")}
    with connection.write():
        Model.update(task_type="detection").where(Model.id == boxes["model_id"]).execute()
    one, other = order(gateway, ids)["id"], order(gateway, boxes)["id"]
    for training_id in (one, other):
        end(gateway, training_id, reached())
    found = gateway.get(f"/training/compare?a={one}&b={other}").json()
    assert (found["a"]["task_type"], found["b"]["task_type"]) == ("classification", "detection")
    assert "One is for classification, the other for detection" in found["note"]
    deltas = {each["name"]: each["delta"] for each in found["outcome"]}
    assert (deltas["final_accuracy"], deltas["final_loss"], deltas["duration_s"]) == (None, None, 0.0)


def test_a_training_tells_how_its_report_is_coming_along(gateway: Gateway, ids: dict[str, str]) -> None:
    made = order(gateway, ids)
    assert made["report"] is None
    end(gateway, made["id"], reached())
    assert gateway.get(f"/training/{made['id']}").json()["report"] == {"status": "queued"}


def test_a_training_that_gets_further_each_time_is_never_given_up(gateway: Gateway, ids: dict[str, str]) -> None:
    training_id = order(gateway, ids)["id"]
    for epoch in range(1, 6):
        job = claimed(training_id)
        duty.keep_epoch(job, {"figures": msgspec.to_builtins(figures(epoch))})
        assert jobs.recover(lambda worker: True, clock.now_ms(), {}) == [(training_id, "queued")]
        Job.update(not_before_ms=0).execute()
    for status in ("queued", "failed"):
        claimed(training_id)
        given_up = {"train": duty.Train(gateway.context.settings).give_up}
        assert jobs.recover(lambda worker: True, clock.now_ms(), given_up) == [(training_id, status)]
        Job.update(not_before_ms=0).execute()
    assert len(gateway.get(f"/training/{training_id}").json()["epochs"]) == 5, "its curves stay"


# --- folders of checkpoints -------------------------------------------------------------------------------------------


def test_a_report_follows_a_training_and_is_told_of_before_it_is_there(gateway: Gateway, ids: dict[str, str]) -> None:
    training_id = order(gateway, ids)["id"]
    path = f"/training/{training_id}/report"
    assert "the training is queued" in problem(gateway.get(path), 404, "not_found")["detail"]
    assert "is queued: there is nothing to report" in problem(gateway.post(path), 409, "conflict")["detail"]
    end(gateway, training_id, reached())
    assert "writing it is queued" in problem(gateway.get(path), 404, "not_found")["detail"]
    assert "The report of job" in problem(gateway.post(path), 409, "conflict")["detail"]
    [following] = Job.select().where(Job.parent_id == training_id)
    assert (following.kind, following.spec) == ("report", {"training_id": training_id})
    Job.update(status="failed", error="No room.", finished_at_ms=1).where(Job.id == following.id).execute()
    detail = problem(gateway.get(path), 404, "not_found")["detail"]
    assert f"No room. POST /api/v1{path} has it written" in detail
    gateway.broker.rung.clear()
    assert gateway.post(path).status_code == 202
    assert gateway.broker.rung == ["report"]
    problem(gateway.get("/training/job_0/report"), 404, "not_found")


def test_a_trial_of_a_search_is_reported_on_as_well(gateway: Gateway, ids: dict[str, str]) -> None:
    trial_id = order(gateway, ids)["id"]
    end(gateway, trial_id, reached())
    ordered = Job.get_by_id(trial_id).spec
    Job.update(kind="trial", spec=ordered | {"until_epoch": 1, "continues": "job_0"}).where(
        Job.id == trial_id
    ).execute()
    [following] = Job.select().where(Job.parent_id == trial_id)
    job, writer = jobs.claim("report", "reporter", clock.now_ms(), following.id), WriteReport(gateway.context.settings)
    assert job
    with Outputs("reporter") as outputs:
        told = writer.order(job, outputs)[0].training
    assert told is not None
    assert told.record.spec == msgspec.convert(ordered, TrainingOrder).without_search()


@pytest.mark.parametrize("deleted", [False, True], ids=["with its dataset", "without its dataset"])
def test_what_the_reporter_writes_is_shown_and_nothing_in_it_runs(
    gateway: Gateway, ids: dict[str, str], deleted: bool
) -> None:
    before, training_id = (order(gateway, ids)["id"] for _ in range(2))
    end(gateway, before, reached())
    Job.update(status="cancelled", finished_at_ms=1).where(Job.parent_id == before).execute()
    as_a_search = Job.get_by_id(before).spec | {"ga": {"population_size": 2}}
    Job.update(spec=as_a_search).where(Job.id == before).execute()
    model_id = end(gateway, training_id, reached())
    if deleted:
        Dataset.update(deleted_at_ms=1).where(Dataset.id == ids["dataset_id"]).execute()
    [following] = Job.select().where(Job.parent_id == training_id)
    job, writer = jobs.claim("report", "reporter", clock.now_ms(), following.id), WriteReport(gateway.context.settings)
    assert job
    with Outputs("reporter") as outputs:
        asked, _ = writer.order(job, outputs)
        told = asked.training
        record = told.record
        assert (record.model, record.dataset, record.result_model_id) == ("a network", "images", model_id)
        assert record.before is not None
        assert (record.before.id, record.before.before) == (before, None)
        assert (told.index is None, told.pack is None) == (deleted, deleted)
        for name, fd in told.outputs.items():
            with open(fd, "wb", closefd=False) as file:
                file.write(name.encode())
        result = Written(report_id=training_id, content_sha256="c", selected_engine=None, files={})
        jobs.finish(job, writer.finish(job, result, outputs))
    path = f"/training/{training_id}/report"
    page = gateway.get(path)
    assert (page.content, page.headers["content-type"]) == (b"report.html", "text/html; charset=utf-8")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert gateway.get(f"{path}?format=json").content == b"report.json"
    gateway.context.reports.path(TrainingReport.get_by_id(training_id).files["report.json"]).unlink()
    assert "gone from the disk" in problem(gateway.get(f"{path}?format=json"), 404, "not_found")["detail"]
    assert "is completed" in problem(gateway.post(path), 409, "conflict")["detail"]


def test_a_folder_goes_when_its_training_has_ended_and_not_before(
    gateway: Gateway, ids: dict[str, str], tmp_path: Path
) -> None:
    settings = config.load({"DATA_DIR": str(tmp_path)})
    waits, runs, cancelled = (order(gateway, ids)["id"] for _ in range(3))
    gateway.post(f"/training/{cancelled}/cancel")
    claimed(waits)
    assert trainings.open_among([waits, runs, cancelled, "nobody's"]) == {waits, runs}
    duty.sweep(settings.training)
    for name in (waits, runs, cancelled, "nobody's"):
        (settings.training / name).mkdir(parents=True)
        (settings.training / name / "checkpoint.safetensors").write_bytes(b"weights")
    duty.sweep(settings.training)
    assert {path.name for path in settings.training.iterdir()} == {waits, runs}


def test_the_child_is_told_where_everything_is(gateway: Gateway, ids: dict[str, str]) -> None:
    settings = msgspec.structs.replace(gateway.context.settings, gpu_memory_mb=2048)
    job = claimed(order(gateway, ids)["id"])
    with Outputs("trainer-0") as outputs:
        asked, limits = duty.Train(settings).order(job, outputs)
        assert sorted(asked.outputs) == ["onnx", "weights"]
    assert Path(asked.weights).is_file() and Path(asked.index).is_file() and Path(asked.pack).is_file()
    assert Path(asked.folder) == settings.training / job.id and Path(asked.folder).stat().st_mode & 0o777 == 0o700
    assert (asked.gpu_memory_mb, limits.wall_s) == (2048, jobs.MAX_RUNTIME_S["train"])
    assert asked.labels == [str(digit) for digit in range(10)]
    assert isinstance(registry.described(registry.model(ids["model_id"])), ModelDescription)
