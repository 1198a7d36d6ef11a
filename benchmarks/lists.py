"""How fast lists are read: a database of many models, datasets, benchmarks and so on, and the pages clients ask for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx

from shared import clock, ids
from shared.db import accounts, connection, jobs, registry, tables
from shared.specs import (
    LANE_OF,
    BenchmarkSpec,
    ClassCount,
    ConvertSpec,
    DatasetSummary,
    ImageSizes,
    JobKind,
    ModelDescription,
    Preprocessing,
    ReportSpec,
    Resize,
    Split,
    Stored,
    TensorInfo,
)

ROWS = 10_000
"""Models, datasets, benchmarks and reports each; three times as many jobs."""

CLIENTS, SECONDS = 20, 10

DEPTHS = (0.25, 0.5, 0.95)
"""How far down a list its deep pages begin."""

FILTERS = {
    "models": ("status=ready", "status=failed", "task_type=detection", "name=model+77"),
    "datasets": ("status=ready", "status=failed", "task_type=detection", "name=dataset+77"),
    "jobs": ("kind=benchmark", "kind=convert&status=failed", "status=completed", "status=cancelled", "status=running"),
    "benchmark": ("status=completed", "status=failed"),
    "reports": (),
}
RENDERINGS = ("report.json", "report.pdf", "report.html", "report.csv")
VIEWS = ("technical.html", "technical.json", "simple.html", "simple.json")


def fill(db_file: Path) -> None:
    """Make the database, with `ROWS` of each kind, as weeks of use leave it: most done, some failed or cancelled."""
    connection.migrate(db_file)
    connection.open_db(db_file)
    user_id = accounts.add_user("admin", "unusable", "admin").id
    for start in range(0, ROWS, 500):
        with connection.write():
            for number in range(start, start + 500):
                _life(number, user_id)
    connection.database.close()


def _life(number: int, user_id: str) -> None:
    """One model, its check, its benchmark, and the report about it. One in fifty ends badly."""
    ended = "failed" if number % 50 == 7 else "cancelled" if number % 50 == 11 else "completed"
    model_id = _model(number, user_id, ready=ended != "failed")
    _dataset(number, user_id, ready=ended != "failed")
    _ended("convert", jobs.insert("convert", ConvertSpec(model_id=model_id), user_id=user_id), ended)
    spec = BenchmarkSpec(model_id=model_id)
    benchmark_id = jobs.insert("benchmark", spec, user_id=user_id, isolation="exclusive")
    _ended("benchmark", benchmark_id, ended)
    now_ms = clock.now_ms()
    tables.Benchmark.insert(id=benchmark_id, model_id=model_id, user_id=user_id, created_at_ms=now_ms).execute()
    _ended("report", jobs.insert("report", ReportSpec(benchmark_id=benchmark_id), user_id=user_id), "completed")
    tables.Report.insert(
        id=ids.new_id("rep"),
        benchmark_id=benchmark_id,
        model_id=model_id,
        selected_engine="onnxruntime",
        content_sha256=_sha256(benchmark_id),
        files={name: _sha256(benchmark_id + name) for name in (*RENDERINGS, *VIEWS)},
        created_at_ms=now_ms,
    ).execute()


def _model(number: int, user_id: str, *, ready: bool) -> str:
    stored = Stored(sha256=_sha256(f"model {number}"), size_bytes=100_000)
    task = "detection" if number % 100 == 3 else "classification"
    labels = [f"class number {label}" for label in range(1000 if number % 10 == 0 else 10)]
    facts = {"name": f"model {number}", "framework": "onnx", "task_type": task, "labels": labels}
    model_id = registry.add_model(stored, user_id, **facts)
    registry.keep_artifact(stored, "models")
    found = {"status": "ready", "onnx_sha256": stored.sha256, "onnx_size": stored.size_bytes}
    lost = {"status": "failed", "error": "This is not an ONNX file."}
    change = found | {"description_json": _description(labels)} if ready else lost
    tables.Model.update(**change).where(tables.Model.id == model_id).execute()
    return model_id


def _dataset(number: int, user_id: str, *, ready: bool) -> None:
    dataset_id = ids.new_id("dst")
    splits: dict[Split, int] = {"train": 800, "val": 100, "test": 100}
    found = {"status": "ready", "num_samples": 1000, "num_classes": 10, "num_warnings": 0, "prepared_size": 10_000_000}
    files = {f"{name}_sha256": _sha256(f"{dataset_id} {name}") for name in ("index", "pack", "sheet")}
    failed = {"status": "failed", "error": "The file is no ZIP."}
    tables.Dataset.insert(
        id=dataset_id,
        name=f"dataset {number}",
        task_type="detection" if number % 100 == 3 else "classification",
        file_sha256=_sha256(f"dataset {number}"),
        file_size=100_000_000,
        job_id=ids.new_id("job"),
        created_by=user_id,
        created_at_ms=clock.now_ms(),
        **(found | files | {"splits": splits, "summary": _summary(splits)} if ready else failed),
    ).execute()


def _summary(splits: dict[Split, int]) -> DatasetSummary:
    return DatasetSummary(
        layout="folders",
        split_source="made",
        classes=[ClassCount(name=f"class number {number}", train=80, val=10, test=10) for number in range(10)],
        splits=splits,
        num_samples=1000,
        num_skipped=0,
        sizes=ImageSizes(smallest=(100, 100), median=(500, 375), largest=(4000, 3000)),
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        warnings=[],
        num_warnings=0,
        near_duplicates=[],
        num_near_duplicates=0,
        images_per_s=100.0,
    )


def _description(labels: list[str]) -> ModelDescription:
    return ModelDescription(
        inputs=[TensorInfo(name="image", dtype="float32", shape=["batch", 3, 224, 224])],
        outputs=[TensorInfo(name="scores", dtype="float32", shape=["batch", len(labels)])],
        opset=18,
        ir_version=10,
        parameters=1_000_000,
        dynamic_batch=True,
        preprocessing=Preprocessing(resize=Resize(height=224, width=224), color="RGB"),
        labels=labels,
    )


def _ended(kind: JobKind, job_id: str, status: str) -> None:
    """As the worker leaves it, with its three events."""
    now_ms = clock.now_ms()
    error = "The worker said why." if status == "failed" else None
    progress = {"fraction": 1.0, "stage": "done"}
    tables.Job.update(
        status=status, attempt=1, started_at_ms=now_ms, finished_at_ms=now_ms, error=error, progress=progress
    ).where(tables.Job.id == job_id).execute()
    for event in ("started", status):
        tables.JobEvent.insert(job_id=job_id, at_ms=now_ms, attempt=1, event=event, detail=LANE_OF[kind]).execute()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def pages(http: httpx.Client, kind: str) -> list[str]:
    """The pages that clients ask for: the first one, deep ones, and the first and second of every filter."""
    everything = list(_cursors(http, f"/{kind}?limit=200"))
    deep = [everything[int(depth * len(everything))] for depth in DEPTHS]
    found = [f"/{kind}", *(f"/{kind}?cursor={cursor}" for cursor in deep)]
    for wanted in FILTERS[kind]:
        found.append(f"/{kind}?{wanted}")
        after = http.get(found[-1]).raise_for_status().json()["next_cursor"]
        found += [f"/{kind}?{wanted}&cursor={after}"] if after else []
    return found


def _cursors(http: httpx.Client, path: str) -> Iterator[str]:
    after = http.get(path).raise_for_status().json()["next_cursor"]
    while after:
        yield after
        after = http.get(f"{path}&cursor={after}").raise_for_status().json()["next_cursor"]
