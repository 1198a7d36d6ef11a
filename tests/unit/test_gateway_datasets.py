"""Datasets over HTTP: uploads good, bad and early refused; lists, details, contact sheet, deletion."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace
from typing import Any

import msgspec
import peewee
import pytest

from gateway import upload_kinds, uploads
from preparer import dataset as check
from shared import ids
from shared.db import connection, datasets, jobs, registry, tables
from shared.db.tables import Artifact, Dataset, Job
from tests.unit.gateway_kit import (
    ONNX,
    SUMMARY,
    ZIP,
    Conversation,
    Gateway,
    context_at,
    converse,
    fields_of,
    form,
    make_ready,
    problem,
)

GOOD = {"name": "pets", "task_type": "classification"}
CSV = b"file,label\n1.jpg,cat\n2.jpg,dog\n"


def zip_form(content: bytes = ZIP, **fields: Any) -> dict[str, Any]:
    return form(GOOD | fields, content, "pets.zip")


def upload(gateway: Gateway, content: bytes = ZIP, **fields: Any) -> dict[str, Any]:
    answer = gateway.post("/datasets", **zip_form(content, **fields))
    assert answer.status_code == 202, answer.text
    body: dict[str, Any] = answer.json()
    return body


def upload_labels(gateway: Gateway, archive_id: str) -> dict[str, Any]:
    answer = gateway.post("/datasets", **form(GOOD | {"archive_id": archive_id}, CSV, "labels.csv"))
    assert answer.status_code == 202, answer.text
    body: dict[str, Any] = answer.json()
    return body


def nothing_is_left(gateway: Gateway) -> None:
    assert gateway.files() == []
    assert (Dataset.select().count(), Job.select().count(), Artifact.select().count()) == (0, 0, 0)


def test_an_upload_becomes_a_dataset_a_job_and_a_file(gateway: Gateway) -> None:
    extra = {"description": "Ünïcode", "split": "70/20/10", "seed": "7", "frames_per_second": "0.5"}
    response = gateway.post("/datasets", **zip_form(**extra))
    assert response.status_code == 202, response.text
    dataset = response.json()
    assert response.headers["location"] == f"/api/v1/datasets/{dataset['id']}"
    assert {name: dataset[name] for name in ("status", "split", "seed", "frames_per_second", "file_size")} == {
        "status": "preprocessing",
        "split": "70/20/10",
        "seed": 7,
        "frames_per_second": 0.5,
        "file_size": len(ZIP),
    }
    assert "warnings" not in dataset
    assert gateway.get(f"/datasets/{dataset['id']}").json() == dataset
    assert gateway.context.datasets.path(dataset["sha256"]).read_bytes() == ZIP
    assert gateway.staged() == []
    job = jobs.find(dataset["job_id"])
    assert (job.kind, job.lane, job.status) == ("dataset", "cpu", "queued")
    assert msgspec.json.decode(job.spec) == {"dataset_id": dataset["id"]}
    assert gateway.get("/jobs?kind=dataset").json()["items"][0]["id"] == job.id
    assert gateway.broker.rung == ["cpu"]


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"task_type": "classification"}, {"name"}),
        ({"name": "", "task_type": "poetry"}, {"name", "task_type"}),
        (GOOD | {"labels": "a"}, {"labels"}),
        (GOOD | {"split": "80/20"}, {"split"}),
        (GOOD | {"split": "80/10/20"}, {"split"}),
        (GOOD | {"split": "0/50/50"}, {"split"}),
        (GOOD | {"split": "١٠٠/0/0"}, {"split"}),
        (GOOD | {"seed": "-1"}, {"seed"}),
        (GOOD | {"seed": "one"}, {"seed"}),
        (GOOD | {"frames_per_second": "0"}, {"frames_per_second"}),
        (GOOD | {"frames_per_second": "nan"}, {"frames_per_second"}),
        (GOOD | {"archive_id": "dst_1"}, {"archive_id"}),
    ],
)
def test_wrong_fields(gateway: Gateway, fields: dict[str, Any], wrong: set[str]) -> None:
    refused = gateway.post("/datasets", **form(fields, ZIP, "pets.zip"))
    assert fields_of(refused) == wrong
    assert "null" not in refused.text, "which no field of a form can be"
    nothing_is_left(gateway)


@pytest.mark.parametrize(
    ("content", "filename", "status", "code"),
    [
        (b"", "a.zip", 422, "invalid"),
        (b"\x89PNG\r\n\x1a\n", "a.zip", 415, "unsupported_media"),
        (b"Rar!\x1a\x07\x00\x00", "a.zip", 415, "unsupported_media"),
        (b"PK", "a.zip", 415, "unsupported_media"),
        (ZIP, "a.tar.gz", 415, "unsupported_media"),
        (ZIP, "../../etc/passwd", 415, "unsupported_media"),
    ],
)
def test_wrong_files(gateway: Gateway, content: bytes, filename: str, status: int, code: str) -> None:
    problem(gateway.post("/datasets", **form(GOOD, content, filename)), status, code)
    nothing_is_left(gateway)


def test_a_table_needs_the_dataset_with_its_images(gateway: Gateway) -> None:
    assert fields_of(gateway.post("/datasets", **form(GOOD, CSV, "labels.csv"))) == {"archive_id"}
    gone = form(GOOD | {"archive_id": ids.new_id("dst")}, CSV, "labels.csv")
    problem(gateway.post("/datasets", **gone), 404, "not_found")
    nothing_is_left(gateway)
    archive_id = upload(gateway)["id"]
    for content in (ZIP, b"a\0b,c\n1.jpg"):
        binary = form(GOOD | {"archive_id": archive_id}, content, "labels.csv")
        problem(gateway.post("/datasets", **binary), 415, "unsupported_media")
    table = upload_labels(gateway, archive_id)
    assert table["archive_id"] == archive_id
    nested = form(GOOD | {"archive_id": table["id"]}, CSV, "labels.csv")
    assert archive_id in problem(gateway.post("/datasets", **nested), 409, "conflict")["detail"]


def test_sizes_have_limits(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    assert upload_kinds.TABLE_BYTES == check.LARGEST_TABLE
    monkeypatch.setattr(upload_kinds.DATASET, "file_bytes", 2**20)
    monkeypatch.setattr(upload_kinds, "TABLE_BYTES", len(CSV))
    archive_id = upload(gateway, ZIP[:4] + bytes(2**20 - 4))["id"]
    problem(gateway.post("/datasets", **zip_form(ZIP[:4] + bytes(2**20))), 413, "too_large")
    upload_labels(gateway, archive_id)
    large = form(GOOD | {"archive_id": archive_id}, CSV + b"3.jpg,cat\n", "labels.csv")
    problem(gateway.post("/datasets", **large), 413, "too_large")
    assert gateway.staged() == [] and len(gateway.files()) == 2


def spoken(gateway: Gateway, length: int, **options: Any) -> Conversation:
    """The answer to an upload that announces `length` bytes and never sends them."""
    context, key = context_at(gateway.folder), gateway.keys["engineer"]
    for name, value in options.items():
        context.settings = msgspec.structs.replace(context.settings, **{name: value})
    headers = {"content-type": "multipart/form-data; boundary=x", "content-length": str(length)}
    talk = Conversation("POST", "/api/v1/datasets", key, headers)
    talk.say(b"--x\r\n", more=True)
    talk.leave()
    converse(context, talk)
    return talk


def test_what_cannot_be_taken_is_refused_before_it_travels(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = {
        "too_large": spoken(gateway, upload_kinds.DATASET.file_bytes + uploads.FORM_BYTES + 1),
        "queue_full": spoken(gateway, 1000, max_queued_jobs=0),
    }
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=6 * 2**30, total=2**40, used=0))
    refused["unavailable"] = spoken(gateway, 9 * 2**30)
    assert {name: json.loads(talk.body)["code"] for name, talk in refused.items()} == {name: name for name in refused}
    assert "6.4 GB left, 10.7 are needed" in json.loads(refused["unavailable"].body)["detail"]
    assert refused["unavailable"].headers["retry-after"] == "60"
    nothing_is_left(gateway)


def test_a_repeated_upload_is_one_dataset(gateway: Gateway) -> None:
    key = {"Idempotency-Key": "first"}
    first = gateway.post("/datasets", headers=key, **zip_form())
    again = gateway.post("/datasets", headers=key, **zip_form())
    assert (again.status_code, again.json()) == (202, first.json())
    assert Dataset.select().count() == 1
    problem(gateway.post("/datasets", headers=key, **zip_form(seed="1")), 409, "conflict")
    assert gateway.post("/datasets", headers={"Idempotency-Key": "x"}, **zip_form(b"none")).status_code == 415
    assert gateway.post("/datasets", headers={"Idempotency-Key": "x"}, **zip_form()).status_code == 202


def test_the_bytes_of_a_model_are_no_dataset(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_kinds.DATASET, "check_head", lambda form, *_: form)
    assert gateway.post("/models", **form(GOOD)).status_code == 202
    problem(gateway.post("/datasets", **zip_form(ONNX)), 409, "conflict")
    assert len(gateway.files()) == 1


def test_lists_in_pages_and_by_filter(gateway: Gateway) -> None:
    made = [upload(gateway, name=f"d{number}")["id"] for number in range(5)]
    with connection.write():
        datasets.fail(made[0], "No image.")
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = gateway.get("/datasets", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert seen == sorted(made, reverse=True)
    assert [item["name"] for item in gateway.get("/datasets?name=d3").json()["items"]] == ["d3"]
    [failed] = gateway.get("/datasets?status=failed").json()["items"]
    assert (failed["id"], failed["error"]) == (made[0], "No image.")
    assert gateway.get("/datasets?task_type=detection").json()["items"] == []


def test_a_ready_dataset(gateway: Gateway) -> None:
    dataset_id = upload(gateway)["id"]
    problem(gateway.get(f"/datasets/{dataset_id}/contact-sheet"), 409, "conflict")
    make_ready(gateway, dataset_id)
    dataset = gateway.get(f"/datasets/{dataset_id}").json()
    brief = {"status": "ready", "num_samples": 20, "num_classes": 2, "num_warnings": 1, "prepared_size": 5}
    assert {name: dataset[name] for name in brief} == brief
    assert list(dataset["splits"].items()) == [("train", 16), ("val", 2), ("test", 2)]
    assert dataset["classes"] == ["cat", "dog"]
    assert dataset["statistics"]["classes"][1] == {"name": "dog", "train": 8, "val": 1, "test": 1, "boxes": None}
    assert dataset["warnings"] == [{"where": "cat/7.jpg", "what": "is not used: it is empty"}]
    assert dataset["near_duplicates"][0]["second_split"] == "test" and dataset["num_near_duplicates"] == 1
    [listed] = gateway.get("/datasets?status=ready").json()["items"]
    assert listed == {name: value for name, value in dataset.items() if name in listed} and "classes" not in listed
    sheet = gateway.get(f"/datasets/{dataset_id}/contact-sheet")
    assert (sheet.content, sheet.headers["content-type"]) == (b"sheet ", "image/jpeg")
    gateway.context.datasets.path(Dataset.get_by_id(dataset_id).sheet_sha256).unlink()
    problem(gateway.get(f"/datasets/{dataset_id}/contact-sheet"), 404, "not_found")


def test_deleting_ends_the_check_and_removes_all_files(gateway: Gateway) -> None:
    first, second = upload(gateway), upload(gateway, seed="1")
    make_ready(gateway, first["id"])
    assert len(gateway.files()) == 4
    running = upload(gateway, seed="2")
    Job.update(status="running", worker="preparer", attempt=1).where(Job.id == running["job_id"]).execute()
    assert gateway.delete(f"/datasets/{running['id']}").status_code == 204
    assert jobs.find(running["job_id"]).cancel_requested
    assert gateway.delete(f"/datasets/{first['id']}").status_code == 204
    assert [path.read_bytes() for path in gateway.files()] == [ZIP], "another has the same upload"
    assert gateway.delete(f"/datasets/{second['id']}").status_code == 204
    nothing = (gateway.files(), list(Artifact.select()))
    assert nothing == ([], [])
    for path in (f"/datasets/{first['id']}", f"/datasets/{first['id']}/contact-sheet"):
        problem(gateway.get(path), 404, "not_found")
    problem(gateway.delete(f"/datasets/{first['id']}"), 404, "not_found")


def test_a_check_that_ends_after_the_deletion_leaves_no_rows(gateway: Gateway) -> None:
    dataset_id = upload(gateway)["id"]
    gateway.delete(f"/datasets/{dataset_id}")
    make_ready(gateway, dataset_id)
    assert Artifact.select().count() == 0
    assert Dataset.get_by_id(dataset_id).status == "preprocessing"


def test_what_is_needed_is_not_deleted(gateway: Gateway) -> None:
    archive_id = upload(gateway)["id"]
    table = upload_labels(gateway, archive_id)
    said = problem(gateway.delete(f"/datasets/{archive_id}"), 409, "conflict")["detail"]
    assert table["id"] in said
    with connection.write():
        jobs.insert("benchmark", UsesDataset(dataset_id=table["id"]), user_id=table["created_by"])
    problem(gateway.delete(f"/datasets/{table['id']}"), 409, "conflict")
    Job.update(status="completed", finished_at_ms=1).where(Job.kind == "benchmark").execute()
    assert gateway.delete(f"/datasets/{table['id']}").status_code == 204
    assert gateway.delete(f"/datasets/{archive_id}").status_code == 204


class UsesDataset(msgspec.Struct):
    """A job of another kind that names a dataset."""

    dataset_id: str


def test_every_column_that_names_a_file_is_known() -> None:
    """A file is deleted when no column of `registry.FILES` names it, so none may be missing there."""
    tables_with_files = {table for table in vars(tables).values() if isinstance(table, type)}
    named = {
        column
        for table in tables_with_files
        if issubclass(table, peewee.Model) and "deleted_at_ms" in table._meta.fields
        for name, column in table._meta.fields.items()
        if name.endswith("_sha256")
    }
    assert named == {column for columns in registry.FILES.values() for column in columns}


def test_the_summary_survives_the_database(gateway: Gateway) -> None:
    dataset_id = upload(gateway)["id"]
    make_ready(gateway, dataset_id)
    assert datasets.find(dataset_id).summary == SUMMARY
