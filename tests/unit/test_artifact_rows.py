"""Stored files and their rows over any sequence of uploads, deletions, measurements and deaths in between."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import unittest.mock
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarker import Measured
from benchmarker.__main__ import Measure
from gateway import schemas
from gateway.routes import datasets as dataset_routes
from gateway.routes import models as routes
from preparer import Converted, write
from preparer.__main__ import CheckDataset, Convert
from reporter.housekeeping import FILES_EVERY_S, ORPHAN_S, Housekeeping
from shared import config, ids
from shared.artifacts import ArtifactStore, Outputs, Staging
from shared.db import accounts, connection, jobs, registry
from shared.db.tables import Artifact, Benchmark, BenchmarkResult, Dataset, EngineFile, Job, JobEvent, Model
from shared.specs import BenchmarkSpec, ConvertSpec, DatasetSpec, ModelDescription, PreparedFile, Stored
from tests.unit.gateway_kit import SUMMARY

DESCRIPTION = ModelDescription(
    inputs=[], outputs=[], opset=18, ir_version=10, parameters=0, dynamic_batch=True, preprocessing=None, labels=None
)
DATASET_FORM = schemas.DatasetForm(name="d", task_type="classification")
FORM = schemas.ModelForm(name="m", task_type="classification", framework="onnx")
SMALL = st.integers(0, 3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("upload"), SMALL),
        st.tuples(st.just("delete"), SMALL),
        st.tuples(st.just("measure"), SMALL),
        st.tuples(st.just("quantise"), SMALL),
        st.tuples(st.just("quantise dies before its commit"), SMALL),
        st.tuples(st.just("upload a dataset"), SMALL),
        st.tuples(st.just("check a dataset"), SMALL),
        st.tuples(st.just("delete a dataset"), SMALL),
        st.tuples(st.just("check a dataset dies before its commit"), SMALL),
        st.tuples(st.just("upload dies before its commit"), SMALL),
        st.tuples(st.just("delete dies after its commit"), SMALL),
        st.tuples(st.just("measure dies before its commit"), SMALL),
        st.tuples(st.just("wait"), st.sampled_from((1, int(FILES_EVERY_S), int(ORPHAN_S)))),
        st.tuples(st.just("the reporter starts again"), st.just(0)),
    ),
    max_size=40,
)


class Died(Exception):
    """The process ended here."""


class Installation:
    """Stores, rows, and the calls of gateway, benchmarker and reporter that touch both."""

    def __init__(self, root: Path, user_id: str) -> None:
        self.settings = config.load({"DATA_DIR": str(root), "RUN_DIR": "/tmp/cvp-none"})
        self.user_id, self.now_s = user_id, 0.0
        self.models, self.reports = ArtifactStore(self.settings.models), ArtifactStore(self.settings.reports)
        self.datasets = ArtifactStore(self.settings.datasets)
        self.context: Any = SimpleNamespace(models=self.models, datasets=self.datasets, settings=self.settings)
        state = {"account": SimpleNamespace(id=user_id), "request_id": "", "traceparent": ""}
        self.request: Any = SimpleNamespace(scope={"state": state})
        self.restart(0)

    def restart(self, _: int) -> None:
        self.keeper = Housekeeping(self.settings, lambda: self.now_s)

    def upload(self, content: int, *, dies: bool = False) -> None:
        with self.models.stage() as staging:
            staging.write(b"%d" % content)
            stored = staging.seal()
            if dies:
                self._die_after_publishing(staging)
            routes._accept(self.context, staging, FORM, stored=stored, request=self.request, key=None)

    def _die_after_publishing(self, staging: Staging) -> None:
        publish = staging.publish

        def publish_and_die() -> None:
            publish()
            raise Died

        staging.publish = publish_and_die

    def delete(self, index: int, *, dies: bool = False) -> None:
        alive = [model.id for model in live()]
        if not alive:
            return
        if not dies:
            routes._delete(self.context, alive[index % len(alive)], self.request)
            return
        with connection.write():
            registry.delete_model(alive[index % len(alive)])
        raise Died

    def measure(self, content: int, *, dies: bool = False) -> None:
        stored = self.reports.put(b"measurements %d" % content)
        if dies:
            raise Died
        with connection.write():
            registry.keep_artifact(stored, "reports")

    def quantise(self, index: int, *, dies: bool = False) -> None:
        """Another model's file may have the same bytes."""
        alive = live()
        if not alive:
            return
        spec = BenchmarkSpec(model_id=alive[index % len(alive)].id)
        job: Any = SimpleNamespace(id="job_1", created_by=self.user_id, spec=msgspec.json.encode(spec))
        content = b"int8 of %d" % (index % 2)
        with Outputs("benchmarker-0") as outputs:
            write(outputs.stage("int8", self.models), content)
            sha256 = hashlib.sha256(content).hexdigest()
            file = PreparedFile(precision="int8", sha256=sha256, size_bytes=len(content), recipe={}, notes=[])
            measured = Measured(measurements=self.reports.put(b"measurements"), rows=[], files=[file])
            commit = Measure(self.settings).finish(job, measured, outputs)
            with connection.write(), unittest.mock.patch.object(jobs, "insert"):
                commit()
                if dies:
                    raise Died

    def upload_dataset(self, content: int) -> None:
        with self.datasets.stage() as staging:
            staging.write(b"dataset %d" % content)
            stored = staging.seal()
            dataset_routes._accept(self.context, staging, DATASET_FORM, stored=stored, request=self.request, key=None)

    def check_dataset(self, index: int, *, dies: bool = False, meanwhile: Callable[[], None] = lambda: None) -> None:
        """The pack depends on the upload alone, so that datasets share it; a deleted one may be checked as well."""
        every = list(Dataset.select().order_by(Dataset.id))
        if not every:
            return
        chosen = every[index % len(every)]
        names = {"index": chosen.id, "pack": chosen.file_sha256, "sheet": chosen.id}
        job: Any = SimpleNamespace(spec=msgspec.json.encode(DatasetSpec(dataset_id=chosen.id)))
        with Outputs("tests") as outputs:
            for name, of in names.items():
                write(outputs.stage(name, self.datasets), f"{name} {of}".encode())
            commit = CheckDataset(self.settings).finish(job, SUMMARY, outputs)
            meanwhile()
            with connection.write():
                commit()
                if dies:
                    raise Died

    def delete_dataset(self, index: int) -> None:
        alive = [row.id for row in live(Dataset)]
        if alive:
            dataset_routes._delete(self.context, alive[index % len(alive)], self.request)

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.keeper.step()

    def files(self) -> set[str]:
        stores = (self.models, self.datasets, self.reports)
        return {sha256 for store in stores for files in store.published() for sha256 in files}


def live(table: Any = Model) -> list[Any]:
    with connection.read():
        return list(table.select().where(table.deleted_at_ms.is_null()).order_by(table.id))


def named() -> set[str]:
    """The files that models and datasets refer to, and those that were made of models."""
    uploaded = {
        sha256
        for table, columns in registry.FILES.items()
        for row in live(table)
        for column in columns
        if (sha256 := getattr(row, column.name)) is not None
    }
    return uploaded | {file.sha256 for model in live() for file in registry.engine_files(model.id)}


def rows() -> set[str]:
    with connection.read():
        return {row.sha256 for row in Artifact.select()}


@pytest.fixture(scope="module")
def user_id(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("rows") / "cv.db"
    connection.migrate(path)
    connection.open_db(path)
    yield accounts.add_user("root", "unusable", "admin").id
    connection.database.close()


@pytest.fixture
def clean(user_id: str) -> str:
    with connection.write():
        for table in (EngineFile, JobEvent, Job, Model, Dataset, Artifact):
            table.delete().execute()
    return user_id


def test_a_file_uploaded_again_while_its_model_is_deleted_stays(
    clean: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    house = Installation(tmp_path, clean)
    house.upload(1)
    write, begun = connection.write, []

    def upload_before_the_second(**options: Any) -> Any:
        begun.append(options)
        if len(begun) == 2:
            house.upload(1)
        return write(**options)

    monkeypatch.setattr(connection, "write", upload_before_the_second)
    house.delete(0)
    assert len(begun) == 3
    assert rows() == house.files()
    assert len(live()) == 1


def test_the_files_of_a_check_stay_while_another_dataset_with_them_is_deleted(clean: str, tmp_path: Path):
    house = Installation(tmp_path, clean)
    for _ in range(2):
        house.upload_dataset(1)
    house.check_dataset(0)
    house.check_dataset(1, meanwhile=lambda: house.delete_dataset(0))
    assert [row.status for row in live(Dataset)] == ["ready"]
    assert named() == rows() == house.files()


def test_a_model_that_was_deleted_while_it_was_converted_keeps_no_file(clean: str, tmp_path: Path):
    house = Installation(tmp_path, clean)
    house.upload(1)
    spec = ConvertSpec(model_id=live()[0].id)
    job: Any = SimpleNamespace(spec=msgspec.json.encode(spec))
    with Outputs("tests") as outputs:
        write(outputs.stage("onnx", house.models), b"converted")
        commit = Convert(house.settings).finish(job, Converted(description=DESCRIPTION, conversion=None), outputs)
        house.delete(0)
        with connection.write():
            commit()
    assert rows() == house.files() == set()


def test_golden_samples_live_as_long_as_a_model_that_has_them(clean: str, tmp_path: Path):
    house = Installation(tmp_path, clean)
    golden = house.models.put(b"golden")
    try:
        for content in (1, 2):
            house.upload(content)
            examined(live()[-1].id, clean, golden)
        house.delete(0)
        assert golden.sha256 in rows() & house.files()
        house.delete(0)
        assert rows() == house.files() == set()
    finally:
        with connection.write():
            BenchmarkResult.delete().execute()
            Benchmark.delete().execute()


def examined(model_id: str, user_id: str, golden: Stored) -> None:
    """A finished benchmark of a model whose two candidates share their golden samples."""
    with connection.write():
        job_id = jobs.insert("benchmark", BenchmarkSpec(model_id=model_id), user_id=user_id, job_id=ids.new_id("job"))
        Job.update(status="completed", finished_at_ms=0).where(Job.id == job_id).execute()
        Benchmark.insert(id=job_id, model_id=model_id, user_id=user_id, created_at_ms=0).execute()
        registry.keep_artifact(golden, "models")
        for batch in (1, 8):
            BenchmarkResult.insert(
                benchmark_id=job_id, engine="openvino", precision="fp32", batch_size=batch, threads=1, instances=1,
                status="measured", golden_sha256=golden.sha256,
            ).execute()  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(steps=STEPS)
def test_no_row_without_its_file_and_in_the_end_no_file_without_a_row(user_id: str, steps: list[tuple[str, int]]):
    with connection.write():
        for table in (EngineFile, JobEvent, Job, Model, Dataset, Artifact):
            table.delete().execute()
    with tempfile.TemporaryDirectory() as folder:
        house = Installation(Path(folder), user_id)
        calls: dict[str, Callable[..., None]] = {
            "upload": house.upload,
            "delete": house.delete,
            "measure": house.measure,
            "quantise": house.quantise,
            "upload a dataset": house.upload_dataset,
            "check a dataset": house.check_dataset,
            "delete a dataset": house.delete_dataset,
            "wait": house.wait,
            "the reporter starts again": house.restart,
        }
        for step, value in steps:
            name, dies, _ = step.partition(" dies ")
            with contextlib.suppress(Died):
                calls[name](value, **({"dies": True} if dies else {}))
            assert rows() <= house.files(), step
            assert named() <= rows(), step
        for _ in range(3):
            house.wait(ORPHAN_S)
        assert house.files() == rows()
