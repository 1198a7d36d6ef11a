"""The model's file in other precisions: which can be made, how, and when one that is there is used again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from benchmarker import DatasetFiles, Examined, ExamineOrder, Made, MeasureOrder, candidates, files, measure
from benchmarker.files import Files
from shared import child, engines, gpu
from shared.artifacts import ArtifactStore, Outputs
from shared.specs import BenchmarkSpec, MeasuredModel, ModelDescription, Precision, Preprocessing, Resize, TensorInfo
from tests.onnx_graphs import conv_model
from tests.unit.test_measure import Laboratory, sound

CONTRACT = Preprocessing(resize=Resize(height=16, width=16))
DATASET = DatasetFiles(
    id="dst_1",
    name="pets",
    index="index",
    index_sha256="d" * 64,
    pack="pack",
    archive="archive",
    num_test=7,
    classes=["cat", "dog"],
    class_ids=[0, 1],
)


@pytest.fixture
def outputs() -> Iterator[Outputs]:
    with Outputs("benchmarker-0") as staged:
        yield staged


def order(tmp_path: Path, outputs: Outputs, contract: Preprocessing | None = CONTRACT, **fields: Any) -> MeasureOrder:
    store = ArtifactStore(tmp_path)
    model = store.put(conv_model(tmp_path / "model.onnx").read_bytes())
    inputs = fields.pop("inputs", [TensorInfo(name="image", dtype="float32", shape=["batch", 3, 16, 16])])
    precisions: tuple[Precision, ...] = ("fp16", "int8")
    made = MeasureOrder(
        id="job_1",
        artifact=str(store.path(model.sha256)),
        store=str(tmp_path),
        model=MeasuredModel(
            id="mdl_1",
            name="m",
            task_type="classification",
            sha256=model.sha256,
            file_size=model.size_bytes,
            parameters=1,
            inputs=inputs,
            preprocessing_hash=None,
        ),
        description=ModelDescription(
            inputs=inputs,
            outputs=[TensorInfo(name="scores", dtype="float32", shape=["batch", 5])],
            opset=18,
            ir_version=10,
            parameters=1,
            dynamic_batch=True,
            preprocessing=contract,
            labels=None,
        ),
        config=BenchmarkSpec(model_id="mdl_1", engines=("onnxruntime", "openvino")),
        dataset=DATASET,
        models=str(tmp_path),
        outputs={precision: outputs.stage(precision, store) for precision in precisions},
        staged={precision: str(outputs.path(precision)) for precision in precisions},
    )
    return msgspec.structs.replace(made, **fields)


class Workshop:
    """Stands for the child: writes what it is told, counts how often it was called."""

    def __init__(
        self, content: bytes = b"quantised", failure: Exception | None = None, sensitive: bytes | None = None
    ) -> None:
        self.content, self.failure, self.calls = content, failure, 0
        self.sensitive = sensitive or content

    def __call__(self, _module: str, asked: Any, _kind: object, **_limits: object) -> Made:
        self.calls += 1
        if self.failure is not None:
            raise self.failure
        os.write(asked.output, self.sensitive if asked.keep_sensitive else self.content)
        return Made(recipe={"method": "minmax", "calibration_images": 64}, notes=["a note"])


@pytest.fixture
def workshop(monkeypatch: pytest.MonkeyPatch) -> Workshop:
    made = Workshop()
    monkeypatch.setattr(files.child, "run", made)
    return made


def ignore(_body: dict[str, Any]) -> None:
    """Nobody watches."""


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"dataset": None}, "order it with `dataset_id`"),
        ({"contract": None}, "upload it with `preprocessing`"),
        ({"inputs": [TensorInfo(name="x", dtype="float16", shape=["n", 3, 16, 16])]}, "export it in FP32"),
    ],
)
def test_what_int8_cannot_be_made_without(
    tmp_path: Path, outputs: Outputs, workshop: Workshop, fields: dict[str, Any], why: str
) -> None:
    made = Files(order(tmp_path, outputs, **fields))
    made.make("int8", ignore)
    assert why in (made.unavailable("onnxruntime", "int8") or "")
    assert (made.prepared, workshop.calls) == ([], 0)


def test_a_file_is_made_once_and_used_again(tmp_path: Path, outputs: Outputs, workshop: Workshop) -> None:
    asked = order(tmp_path, outputs)
    first = Files(asked)
    assert "no INT8 file was made" in (first.unavailable("openvino", "int8") or "")
    first.make("int8", ignore)
    (file,) = first.prepared
    assert first.unavailable("openvino", "int8") is None
    assert (first.path("onnxruntime", "int8").read_bytes(), file.notes, file.reused) == (
        b"quantised",
        ["a note"],
        False,
    )
    assert first.dataset is not None
    assert (first.dataset.num_calibration, first.dataset.num_test) == (64, 7)

    published = outputs.publish("int8")
    again = Files(msgspec.structs.replace(asked, known=[file]))
    again.make("int8", ignore)
    assert workshop.calls == 1
    assert again.prepared == [msgspec.structs.replace(file, reused=True)]
    assert again.path("onnxruntime", "int8") == ArtifactStore(tmp_path).path(published.sha256)


@pytest.mark.parametrize("changed", ["onnxruntime", "dataset", "preprocessing", "model", "form"])
def test_another_recipe_is_made_anew(tmp_path: Path, outputs: Outputs, workshop: Workshop, changed: str) -> None:
    asked = order(tmp_path, outputs)
    first = Files(asked)
    first.make("int8", ignore)
    ArtifactStore(tmp_path).put(workshop.content)
    (file,) = first.prepared
    older = msgspec.structs.replace(file, recipe=file.recipe | {changed: "another"})
    Files(msgspec.structs.replace(asked, known=[older])).make("int8", ignore)
    assert workshop.calls == 2


def test_a_file_that_is_gone_is_made_anew(tmp_path: Path, outputs: Outputs, workshop: Workshop) -> None:
    asked = order(tmp_path, outputs)
    first = Files(asked)
    first.make("int8", ignore)
    Files(msgspec.structs.replace(asked, known=first.prepared)).make("int8", ignore)
    assert workshop.calls == 2


def test_a_file_that_was_changed_in_the_store_is_made_anew(
    tmp_path: Path, outputs: Outputs, workshop: Workshop
) -> None:
    asked = order(tmp_path, outputs)
    first = Files(asked)
    first.make("int8", ignore)
    stored = ArtifactStore(tmp_path).put(workshop.content)
    ArtifactStore(tmp_path).path(stored.sha256).write_bytes(b"another")
    Files(msgspec.structs.replace(asked, known=first.prepared)).make("int8", ignore)
    assert workshop.calls == 2


@pytest.mark.parametrize("failure", [child.ChildDied("The process crashed."), child.ChildKilled("It was killed.")])
def test_a_child_that_dies_is_the_precisions_own_trouble(
    tmp_path: Path, outputs: Outputs, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    monkeypatch.setattr(files.child, "run", Workshop(failure=failure))
    made = Files(order(tmp_path, outputs))
    made.make("int8", ignore)
    assert made.unavailable("onnxruntime", "int8") == f"no INT8 file could be made: {failure}"
    assert made.unavailable("onnxruntime", "fp32") is None


def test_a_second_try_replaces_the_first(tmp_path: Path, outputs: Outputs, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Files(order(tmp_path, outputs))
    for content, keep_sensitive in ((b"the longer first try", False), (b"second", True)):
        monkeypatch.setattr(files.child, "run", Workshop(content))
        made.make("fp16", ignore, keep_sensitive=keep_sensitive)
    assert made.path("onnxruntime", "fp16").read_bytes() == b"second"
    assert [file.recipe["sensitive_in_fp32"] for file in made.prepared] == [True]


@pytest.mark.parametrize("cured", [True, False])
def test_fp16_that_does_not_pass_is_made_again_with_its_sensitive_operators_in_fp32(
    tmp_path: Path, outputs: Outputs, monkeypatch: pytest.MonkeyPatch, cured: bool
) -> None:
    monkeypatch.setattr(files.engines, "unavailable", lambda engine, precision: None)
    monkeypatch.setattr(files.child, "run", Workshop(b"whole", sensitive=b"sensitive"))
    examined = []

    def examine(asked: ExamineOrder, _limit_s: float, _fds: object, _progress: object) -> Examined:
        content = Path(asked.artifact).read_bytes()
        if asked.precision == "fp16":
            examined.append(content)
        fails = asked.precision == "fp16" and not (cured and content == b"sensitive")
        problems = ["It answers NaN or infinity at batch 2."] if fails else []
        return msgspec.structs.replace(sound(asked, 0, [], ignore), problems=problems)

    asked = order(tmp_path, outputs)
    config = msgspec.structs.replace(asked.config, precisions=("fp32", "fp16"), engines=("onnxruntime",))
    made = Files(msgspec.structs.replace(asked, config=config))
    made.prepare(ignore)
    found = measure.run(made._order, ignore, Laboratory(), examine, files=made)
    assert examined == [b"whole", b"sensitive"], "two tries, and no third"
    assert {each.status for each in found.series if each.candidate.precision == "fp32"} == {"measured"}
    fp16 = [each for each in found.series if each.candidate.precision == "fp16"]
    assert {each.status for each in fp16} == {"measured" if cured else "rejected"}
    assert [gate.verdict for gate in found.gates if gate.precision == "fp16"] == ["pass" if cured else "fail"]
    (file,) = found.files
    assert file.recipe["sensitive_in_fp32"] is True
    assert "It answers NaN or infinity at batch 2." in file.notes[-1]


def test_a_second_try_that_cannot_be_made_leaves_nothing_to_keep(
    tmp_path: Path, outputs: Outputs, monkeypatch: pytest.MonkeyPatch, workshop: Workshop
) -> None:
    made = Files(order(tmp_path, outputs))
    assert not made.retry_fp16("It is off.", ignore), "there was no first"
    made.make("fp16", ignore)
    monkeypatch.setattr(files.child, "run", Workshop(failure=child.ChildDied("It crashed.")))
    assert not made.retry_fp16("It is off.", ignore)
    assert made.prepared == []
    monkeypatch.setattr(files.engines, "unavailable", lambda engine, precision: None)
    assert made.unavailable("onnxruntime", "fp16") == "no FP16 file could be made: It crashed."


def test_pytorch_runs_the_weights_and_no_other_engine_does(
    tmp_path: Path, outputs: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.engines, "unavailable", lambda engine, precision: None)
    asked = order(tmp_path, outputs)
    assert Files(asked).unavailable("pytorch", "fp32") == files.NO_SOURCE
    made = Files(msgspec.structs.replace(asked, weights="/weights"))
    assert made.unavailable("pytorch", "fp32") is None and made.unavailable("pytorch", "fp16") is None
    assert {made.path("pytorch", precision) for precision in ("fp32", "fp16")} == {Path("/weights")}
    assert made.path("onnxruntime", "fp32") == made.path("tensorrt", "fp32") == Path(asked.artifact)


def test_only_what_an_engine_can_run_is_made(tmp_path: Path, outputs: Outputs, workshop: Workshop) -> None:
    asked = order(tmp_path, outputs)
    config = msgspec.structs.replace(asked.config, precisions=("fp32", "fp16", "int8"))
    runs_fp16 = any(
        engines.unavailable(engine, "fp16") is None
        for engine in candidates.engines(config, gpu=gpu.described() is not None)
    )
    made = Files(msgspec.structs.replace(asked, config=config))
    made.prepare(ignore)
    assert {file.precision for file in made.prepared} == {"int8", *(["fp16"] if runs_fp16 else [])}
    nowhere = msgspec.structs.replace(asked, config=msgspec.structs.replace(config, engines=("tensorrt",)))
    assert Files(nowhere).prepared == []


def test_files_in_a_plan_are_those_of_their_precision(tmp_path: Path, outputs: Outputs, workshop: Workshop) -> None:
    made = Files(order(tmp_path, outputs))
    made.make("int8", ignore)
    assert made.path("onnxruntime", "int8").stat().st_size == len(workshop.content)
    assert made.path("onnxruntime", "fp32").stat().st_size > len(workshop.content)
    assert np.frombuffer(made.path("onnxruntime", "fp32").read_bytes()[:1], np.uint8)[0] == 8  # an ONNX file
