"""Faults that are planted in an engine, a file or an order of the digits, and what the report says about each."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from benchmarker import DatasetFiles, Examined, ExamineOrder, MeasureOrder, gate, measure
from benchmarker.files import Files
from benchmarks import faulty
from benchmarks.checks import Found
from benchmarks.models import DIGITS
from examples.digits import dataset
from preparer import DatasetFile, DatasetOrder
from preparer.dataset import check
from shared import child
from shared.artifacts import ArtifactStore, Outputs
from shared.specs import (
    BenchmarkSpec,
    Constraint,
    DatasetIndex,
    MeasuredModel,
    MeasurementSet,
    ModelDescription,
    PreparedFile,
    Preprocessing,
    TensorInfo,
)
from shared.verdict.report import Report, build

FILES: tuple[DatasetFile, ...] = ("index", "pack", "sheet")
LABELS = [str(digit) for digit in range(10)]
OVERLAP = 3
HANG_S = 15.0
"""How long the engine that hangs is waited for; a real examination has minutes."""

PLANTED: dict[str, tuple[int, str]] = {
    "NaN only at batch 8": (faulty.IS_NAN_AT_8, "NaN or infinity at batch 8"),
    "accuracy 5 points lower": (faulty.LOSES_ACCURACY, "It is less accurate than ONNX Runtime on the CPU in FP32 by"),
    "a hang": (faulty.HANGS, f"longer than {HANG_S:g} s"),
    "a provider that silently falls back": (faulty.FALLS_BACK, "and came up with CPUExecutionProvider"),
}
"""In OpenVINO: the fault, and what must be said."""


def faults(folder: Path, _times: int | None) -> Found:
    """Planted faults, each caught and named in the report, while the engine without one is chosen."""
    house = _House(folder)
    for name, (fault, named) in PLANTED.items():
        yield _told(name, house.run(seed=fault), "openvino/fp32", named)
    seen = f"overlaps the test split: {OVERLAP} of 180"
    yield _told("calibration data that overlaps the test split", house.overlapping(), "onnxruntime/int8", seen)
    yield _left_out(house.copied())
    limit = Constraint(metric="power_draw_w", op="<=", value=50)
    yield _unmeasured(house.run(seed=faulty.IS_SOUND, constraints=(limit,)))


def _told(name: str, found: MeasurementSet, of: str, named: str) -> tuple[str, bool]:
    """What is said against the engine and precision with the fault: caught when it says so and another is chosen."""
    report = build(found, "rep_1")
    against = [each.why for each in report.decision.rejected if each.candidate.key.startswith(of)]
    unmeasured = all(each.status == "rejected" for each in found.series if each.candidate.key.startswith(of))
    caught = all(named in why for why in against) and unmeasured and report.decision.selected is not None
    return f"{name}: {against[-1]}", caught


def _left_out(report: Report) -> tuple[str, bool]:
    (note,) = report.metadata.files["int8"].notes
    return f"images of the test split that are in `train` as well: {note}", "did not calibrate" in note


def _unmeasured(found: MeasurementSet) -> tuple[str, bool]:
    report = build(found, "rep_1")
    verdicts = {each.verdict for one in report.candidates for each in one.constraints if each.metric == "power_draw_w"}
    caught = report.decision.selected is None and verdicts == {"not_measured"}
    return f"a constraint that was not measured: {' '.join(report.decision.reasons)}", caught


class _Images(NamedTuple):
    files: DatasetFiles
    test: list[int]
    """Places of the test split in its index."""


class _House:
    """The digits and their dataset in a folder, measured without the platform around them."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._store = folder, ArtifactStore(folder / "models")
        self._images = self._checked(dataset.write(folder / "digits.zip"))

    def run(self, images: _Images | None = None, known: Sequence[PreparedFile] = (), **config: Any) -> MeasurementSet:
        """One benchmark with examinations that plant what the seed says."""
        with Outputs("referee") as outputs:
            staged = outputs.stage("int8", self._store)
            order = self._order(images or self._images, config)
            where = {"int8": str(outputs.path("int8"))}
            order = msgspec.structs.replace(order, outputs={"int8": staged}, staged=where, known=list(known))
            files = Files(order)
            files.prepare(_ignore)
            found = measure.run(order, _ignore, examine=_examine, files=files)
            if files.prepared and not known:
                outputs.publish("int8")
            return found

    def overlapping(self) -> MeasurementSet:
        """A benchmark whose INT8 file, made before, is said to have seen images of the test split."""
        int8: dict[str, Any] = {"precisions": ("fp32", "int8"), "seed": faulty.IS_SOUND}
        (made,) = self.run(**int8).files
        seen = ",".join(map(str, self._images.test[:OVERLAP]))
        return self.run(known=[msgspec.structs.replace(made, recipe=made.recipe | {"seen": seen})], **int8)

    def copied(self) -> Report:
        """A benchmark in INT8 with a dataset whose whole test split was copied into its part `train`."""
        path = dataset.write(self._folder / "copied.zip")
        with zipfile.ZipFile(path, "a") as archive:
            for name in [name for name in archive.namelist() if name.startswith("test/")]:
                copy = name.replace("test/", "train/").replace(".png", "-copy.png")
                archive.writestr(zipfile.ZipInfo(copy), archive.read(name))
        return build(self.run(self._checked(path), precisions=("fp32", "int8"), seed=faulty.IS_SOUND), "rep_1")

    def _checked(self, archive: Path) -> _Images:
        paths = {name: archive.with_suffix(f".{name}") for name in FILES}
        fds = {name: os.open(path, os.O_WRONLY | os.O_CREAT) for name, path in paths.items()}
        try:
            order = DatasetOrder(
                path=str(archive),
                name="digits",
                task_type="classification",
                split=None,
                seed=0,
                frames_per_second=1.0,
                outputs=fds,
            )
            check(order, _ignore)
        finally:
            for fd in fds.values():
                os.close(fd)
        content = paths["index"].read_bytes()
        index = msgspec.msgpack.decode(content, type=DatasetIndex)
        test = [place for place, sample in enumerate(index.samples) if sample.split == "test"]
        files = DatasetFiles(
            id="dst_referee",
            name="digits",
            index=str(paths["index"]),
            index_sha256=hashlib.sha256(content).hexdigest(),
            pack=str(paths["pack"]),
            archive=str(archive),
            num_test=len(test),
            classes=index.classes,
            class_ids=[LABELS.index(name) for name in index.classes],
        )
        return _Images(files, test)

    def _order(self, images: _Images, config: dict[str, Any]) -> MeasureOrder:
        """Few calls: what is looked at comes before them."""
        path = DIGITS / "digits.onnx"
        contract = msgspec.json.decode((DIGITS / "preprocessing.json").read_bytes(), type=Preprocessing)
        inputs = [TensorInfo(name="image", dtype="float32", shape=["batch", 1, 8, 8])]
        outputs = [TensorInfo(name="logits", dtype="float32", shape=["batch", 10])]
        facts = {
            "model_id": "mdl_referee",
            "dataset_id": images.files.id,
            "engines": ("onnxruntime", "openvino"),
            "precisions": ("fp32",),
            "batch_sizes": (1, 8),
            "threads": (1,),
            "num_iterations": 5,
            "objective": "throughput",
            "isolation": "shared",
        }
        return MeasureOrder(
            id="job_referee",
            artifact=str(path),
            store=str(self._folder),
            models=str(self._store.root),
            model=MeasuredModel(
                id="mdl_referee",
                name="digits",
                task_type="classification",
                sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                file_size=path.stat().st_size,
                parameters=10_026,
                inputs=inputs,
                preprocessing_hash=contract.hash,
            ),
            description=ModelDescription(
                inputs=inputs,
                outputs=outputs,
                opset=18,
                ir_version=10,
                parameters=10_026,
                dynamic_batch=True,
                preprocessing=contract,
                labels=LABELS,
            ),
            config=msgspec.convert(facts | config, BenchmarkSpec),
            dataset=images.files,
            rounds=1,
        )


def _examine(order: ExamineOrder, limit_s: float, fds: Sequence[int], progress: child.Report) -> Examined:
    hangs = order.engine == "openvino" and order.seed == faulty.HANGS
    return gate.examine(order, HANG_S if hangs else limit_s, fds, progress, module="benchmarks.faulty")


def _ignore(body: dict[str, Any]) -> None:
    """Progress nobody looks at."""
