"""The gate before speed: planted faults are caught and named, sound engines pass, and what passes can be replayed."""

from __future__ import annotations

import functools
import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from benchmarker import DatasetFiles, Examined, ExamineOrder, MeasureOrder, gate, measure
from benchmarker.testsplit import other_boxes, overlap
from benchmarks import faulty as that
from shared import child, golden
from shared.engines import engine_class
from shared.runtime import Runtime, Serving
from shared.specs import (
    Candidate,
    Constraint,
    Detection,
    EngineName,
    GateResult,
    MeasurementSet,
    Precision,
    Preprocessing,
    Resize,
    Sample,
    Series,
    TensorInfo,
)
from shared.verdict.report import build
from tests.dataset_kit import check_here, zipped
from tests.onnx_graphs import cell_detector, mean_model
from tests.unit.test_measure import DESCRIPTION, DIGITS, Laboratory, ignore
from tests.unit.test_measure import order as plain

pytestmark = pytest.mark.process

HELD_OUT = sorted((DIGITS.parent / "held-out").glob("*.png"))
CONTRACT = msgspec.json.decode((DIGITS.parent / "preprocessing.json").read_bytes(), type=Preprocessing)
LABELS = [str(digit) for digit in range(10)]


def drawn(path: Path, draw: random.Random) -> bytes:
    """A held-out digit with a little noise, so that every one is another image."""
    pixels = np.asarray(Image.open(path).convert("L"), np.int16)
    noise = np.random.default_rng(draw.randrange(2**32)).integers(-6, 7, pixels.shape)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> DatasetFiles:
    """200 images to calibrate with and 400 to be judged by; one image is in both parts."""
    folder, draw = tmp_path_factory.mktemp("digits"), random.Random(5)
    files = {}
    for part, count in (("train", 200), ("test", 400)):
        for number in range(count):
            source = HELD_OUT[number % len(HELD_OUT)]
            files[f"{part}/{source.stem[-1]}/{number}.png"] = drawn(source, draw)
    archive = zipped(folder / "digits.zip", files)
    checked = check_here(archive)
    return DatasetFiles(
        id="dst_1",
        name="digits",
        index=str(checked.paths["index"]),
        index_sha256="0" * 64,
        pack=str(checked.paths["pack"]),
        archive=str(archive),
        num_test=400,
        classes=checked.index.classes,
        class_ids=[LABELS.index(name) for name in checked.index.classes],
    )


def order(tmp_path: Path, dataset: DatasetFiles | None = None, **config: Any) -> MeasureOrder:
    spec: dict[str, Any] = {"num_iterations": 5} | config
    if dataset is not None:
        spec |= {"dataset_id": dataset.id, "precisions": ("fp32",)}
    description = msgspec.structs.replace(DESCRIPTION, preprocessing=CONTRACT, labels=LABELS)
    return msgspec.structs.replace(
        plain(**spec), description=description, dataset=dataset, models=str(tmp_path / "models")
    )


SPOILED = functools.partial(gate.examine, module="benchmarks.faulty")


def digits_file(_engine: EngineName, _precision: Precision) -> Path:
    """What every engine runs."""
    return DIGITS


def run(order: MeasureOrder, examine: gate.Examine = SPOILED) -> MeasurementSet:
    return measure.run(order, ignore, Laboratory(), examine)


def result(found: MeasurementSet, engine: str = "openvino") -> GateResult:
    return next(each for each in found.gates if each.engine == engine)


def series(found: MeasurementSet, engine: str = "openvino") -> list[Series]:
    return [each for each in found.series if each.candidate.engine == engine]


def reasons(found: MeasurementSet) -> dict[str, str]:
    decision = build(found, "rep_1").decision
    return {rejection.candidate.key: rejection.why for rejection in decision.rejected}


# --- planted faults --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (that.IS_NAN_AT_8, "NaN or infinity at batch 8"),
        (that.FALLS_BACK, "was asked for CUDAExecutionProvider and came up with CPUExecutionProvider"),
        (that.CRASHES, "the kernel is broken"),
        (that.IS_OFF, "At batch 2 its outputs differ from those of ONNX Runtime on the CPU in FP32 by up to 0.01"),
        (that.OVERFLOWS, "At batch 1 it answers the brightest input with NaN or infinity"),
    ],
)
def test_a_fault_is_caught_named_and_not_measured(tmp_path: Path, fault: int, named: str) -> None:
    found = run(order(tmp_path, seed=fault))
    assert named in " ".join(result(found).problems)
    assert result(found).verdict == "fail"
    assert {each.status for each in series(found)} == {"rejected"}
    assert all(not each.blocks and named in str(each.reason) for each in series(found))
    assert {each.status for each in series(found, "onnxruntime")} == {"measured"}
    assert named in reasons(found)["openvino/fp32/b8/t1/i1"]


def test_a_hang_costs_its_engine_and_no_other(tmp_path: Path) -> None:
    def soon(examined: ExamineOrder, limit_s: float, fds: Sequence[int], progress: child.Report) -> Examined:
        return SPOILED(examined, 15.0 if examined.engine == "openvino" else limit_s, fds, progress)

    found = run(order(tmp_path, seed=that.HANGS), soon)
    assert "longer than 15 s" in result(found).problems[0]
    assert [each.status for each in found.series] == ["measured", "measured", "rejected", "rejected"]


def test_a_loss_of_accuracy_is_rejected_with_its_figures(tmp_path: Path, digits: DatasetFiles) -> None:
    found = run(order(tmp_path, digits, seed=that.LOSES_ACCURACY, objective="throughput"))
    assert found.reference is not None and found.reference.value > 0.9
    lost = result(found)
    assert lost.accuracy is not None and lost.accuracy.value == pytest.approx(found.reference.value - 0.05)
    assert lost.flips and lost.verdict == "fail"
    assert "It is less accurate than ONNX Runtime on the CPU in FP32 by" in lost.problems[0]
    assert "wanted is accuracy drop ≤ 0.01" in lost.problems[0]
    record = build(found, "rep_1")
    rejected = next(each for each in record.candidates if each.engine == "openvino")
    assert rejected.status == "rejected"
    assert rejected.parity is not None and rejected.parity.flips == lost.flips
    assert rejected.metrics["accuracy_drop"].low is not None and rejected.metrics["accuracy_drop"].low > 0.01
    assert record.decision.selected is not None and record.decision.selected.engine == "onnxruntime"


def test_a_reference_that_cannot_run_lets_nobody_pass(tmp_path: Path) -> None:
    def broken(examined: ExamineOrder, limit_s: float, fds: Sequence[int], progress: child.Report) -> Examined:
        raise gate.child.ChildDied("The process ended by SIGKILL (out of memory?).")

    found = run(order(tmp_path), broken)
    assert {each.status for each in found.series} == {"rejected"}
    assert "which everything is compared with, could not be run" in result(found).problems[0]


# --- what passes -----------------------------------------------------------------------------------------------------


def test_sound_engines_pass_with_accuracy_flips_and_golden_samples(tmp_path: Path, digits: DatasetFiles) -> None:
    told: list[dict[str, Any]] = []
    found = measure.run(order(tmp_path, digits), told.append, Laboratory(), gate.examine)
    assert [each.verdict for each in found.gates] == ["pass", "pass"], found.gates
    counted = [body for body in told if "total" in body]
    assert {body["checking"] for body in counted} == {"the reference", "onnxruntime/fp32", "openvino/fp32"}
    assert all(0 < body["done"] <= body["total"] == 400 for body in counted)
    fractions = [body["fraction"] for body in told]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    for each in found.gates:
        assert (each.checked, each.flips, each.finite) == (400, 0, True)
        assert [one.batch for one in each.parity] == [1, 2, 8]
        assert each.accuracy == found.reference
        assert each.golden is not None
    assert found.dataset is not None and found.dataset.num_test == 400
    metrics = build(found, "rep_1").candidates[0].metrics
    assert metrics["accuracy"].n == 400 and metrics["accuracy"].low is not None
    assert (metrics["accuracy_drop"].value, metrics["accuracy_drop"].exact) == (0.0, True)


def test_without_a_dataset_accuracy_is_not_measured_and_a_limit_on_it_not_passed(tmp_path: Path) -> None:
    limit = Constraint(metric="accuracy", op=">=", value=0.5)
    found = run(order(tmp_path, constraints=(limit,)), gate.examine)
    assert [each.verdict for each in found.gates] == ["pass", "pass"]
    record = build(found, "rep_1")
    assert record.decision.selected is None
    assert {each.constraints[0].verdict for each in record.candidates} == {"not_measured"}


def test_too_few_images_to_tell_are_inconclusive_and_say_how_many_it_takes(
    tmp_path: Path, digits: DatasetFiles
) -> None:
    found = run(order(tmp_path, digits, seed=that.TURNS))
    assert (result(found).verdict, result(found).flips) == ("inconclusive", 1)
    assert {each.status for each in series(found)} == {"measured"}
    why = reasons(found)["openvino/fp32/b1/t1/i1"]
    assert "is inconclusive on accuracy drop ≤ 0.01" in why
    assert "the 400 images of the test split cannot tell" in why and "it takes about" in why


def test_a_part_of_the_test_split_is_said_to_be_one(
    tmp_path: Path, digits: DatasetFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "TEST_SPLIT_S", 0.0)
    found = run(order(tmp_path, digits), gate.examine)
    assert all(0 < each.checked < 400 for each in found.gates)
    assert all("the rest was left out" in " ".join(each.notes) for each in found.gates)


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_a_model_with_a_fixed_batch_passes_without_a_dataset_too(tmp_path: Path, batch: int) -> None:
    path = mean_model(tmp_path / "fixed.onnx", batch)
    takes = TensorInfo(name="image", dtype="float32", shape=[batch, 3, 8, 8])
    answers = TensorInfo(name="scores", dtype="float32", shape=[batch, 3])
    given = plain()
    about = msgspec.structs.replace(DESCRIPTION, inputs=[takes], outputs=[answers], dynamic_batch=False)
    model = msgspec.structs.replace(given.model, inputs=[takes])
    candidates = [Candidate(engine="openvino", precision="fp32", batch_size=batch, threads=1)]
    fixed = msgspec.structs.replace(given, model=model, description=about)
    found = gate.check(fixed, candidates, lambda *_: path, ignore)
    assert [(each.verdict, each.problems) for each in found.results] == [("pass", [])]
    samples = golden.read(found.golden["openvino", "fp32"]).inputs["image"]
    rows = np.frombuffer(samples.data, np.float32).reshape(samples.shape)
    assert samples.shape == [8, 3, 8, 8]
    assert len(np.unique(rows, axis=0)) == 8


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_golden_samples_are_replayed_and_another_model_does_not_pass(
    tmp_path: Path, digits: DatasetFiles, engine: Any
) -> None:
    checked = order(tmp_path, digits)
    candidates = [Candidate(engine=engine, precision="fp32", batch_size=8, threads=1)]
    samples = golden.read(gate.check(checked, candidates, digits_file, ignore).golden[engine, "fp32"])
    assert samples.source == "test split"
    assert {name: array.shape for name, array in samples.inputs.items()} == {"image": [8, 1, 8, 8]}
    about = checked.description
    serving = Serving(
        model_id="mdl_1", name="digits", task_type="classification", onnx=DIGITS, inputs=about.inputs,
        outputs=about.outputs, dynamic_batch=True, preprocessing=CONTRACT, labels=LABELS, scores="logits",
        engine=engine, precision="fp32", batch_size=4, threads=2,
    )  # fmt: skip
    runtime = Runtime(serving, engine=engine_class(engine)(DIGITS, threads=2))
    runtime.activate()
    assert golden.replay(runtime, samples) == []
    [scores] = samples.outputs.values()
    moved = np.frombuffer(scores.data, np.float32) + np.float32(0.01)
    other = {"logits": msgspec.structs.replace(scores, data=moved.tobytes())}
    [problem] = golden.replay(runtime, msgspec.structs.replace(samples, outputs=other))
    assert "differ by up to 0.01 from those at the benchmark" in problem
    runtime.deactivate()


# --- detectors -------------------------------------------------------------------------------------------------------

SQUARE = 32
"""Pixels of a bright square in the original, which is scaled to half and gets a border above and below."""


def squares(draw: random.Random, kind: str) -> tuple[bytes, str]:
    """A picture of 128 x 64 with bright squares, and their YOLO labels."""
    pixels = np.full((64, 128), 20, np.uint8)
    lines = []
    for row in range(2):
        for column in range(4):
            if draw.random() < 0.4:
                y, x = row * SQUARE, column * SQUARE
                pixels[y : y + SQUARE, x : x + SQUARE] = draw.randrange(150, 256)
                lines.append(f"0 {(x + 16) / 128} {(y + 16) / 64} {SQUARE / 128} {SQUARE / 64}")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return buffer.getvalue(), "\n".join(lines)


@pytest.fixture(scope="module")
def squares_dataset(tmp_path_factory: pytest.TempPathFactory) -> DatasetFiles:
    return many_squares(tmp_path_factory.mktemp("squares"), "PNG")


def many_squares(folder: Path, kind: str) -> DatasetFiles:
    draw = random.Random(9)
    files: dict[str, Any] = {"data.yaml": "names: [square, hole]\n"}
    for part, count in (("train", 12), ("test", 60)):
        for number in range(count):
            image, labels = squares(draw, kind)
            files[f"images/{part}/{number}.{kind.lower()}"] = image
            files[f"labels/{part}/{number}.txt"] = labels
    archive = zipped(folder / "squares.zip", files)
    checked = check_here(archive, "detection")
    return DatasetFiles(
        id="dst_2",
        name="squares",
        index=str(checked.paths["index"]),
        index_sha256="0" * 64,
        pack=str(checked.paths["pack"]),
        archive=str(archive),
        num_test=60,
        classes=checked.index.classes,
        class_ids=[0, 1],
    )


def detector(tmp_path: Path, dataset: DatasetFiles, **config: Any) -> MeasureOrder:
    model = cell_detector(tmp_path / "cells.onnx")
    contract = Preprocessing(
        resize=Resize(height=64, width=64, mode="letterbox", pad=0), color="L", detection=Detection(format="yolo")
    )
    inputs = [TensorInfo(name="image", dtype="float32", shape=["batch", 1, 64, 64])]
    described = msgspec.structs.replace(
        DESCRIPTION,
        inputs=inputs,
        outputs=[TensorInfo(name="boxes", dtype="float32", shape=["batch", 6, 16])],
        preprocessing=contract,
        labels=["square", "hole"],
    )
    made = plain(model, num_iterations=5, dataset_id=dataset.id, precisions=("fp32",), **config)
    about = msgspec.structs.replace(made.model, task_type="detection", inputs=inputs)
    return msgspec.structs.replace(
        made, model=about, description=described, dataset=dataset, models=str(tmp_path / "models")
    )


def test_a_detectors_accuracy_is_cocos_on_the_originals(tmp_path: Path, squares_dataset: DatasetFiles) -> None:
    found = run(detector(tmp_path, squares_dataset), gate.examine)
    assert [each.verdict for each in found.gates] == ["pass", "pass"], found.gates
    right = result(found).accuracy
    assert right is not None and right.metric == "map" and right.n == 60
    assert right.value > 0.99 and right.map50 is not None and right.map50 > 0.99
    assert right.drops is not None and set(right.drops) == {0.0}
    assert build(found, "rep_1").metadata.reference is not None


def test_a_detector_that_misses_objects_is_rejected(tmp_path: Path, squares_dataset: DatasetFiles) -> None:
    found = run(detector(tmp_path, squares_dataset, seed=that.LOSES_ACCURACY))
    lost = result(found)
    assert lost.verdict == "fail" and lost.flips is not None and 5 < lost.flips <= 12, "some pictures show nothing"
    assert lost.accuracy is not None and lost.accuracy.drop is not None and lost.accuracy.drop > 0.01
    assert "It is less accurate" in lost.problems[0]


def test_a_detector_is_judged_in_the_originals_pixels_at_whatever_scale(tmp_path: Path) -> None:
    asked = detector(tmp_path, many_squares(tmp_path, "JPEG"))
    candidate = Candidate(engine="openvino", precision="fp32", batch_size=1, threads=1)
    found = gate.at_scales(asked, candidate, [2, 4], lambda *_: Path(asked.artifact), ignore)
    for each in found:
        right = each.accuracy
        assert (each.verdict, each.checked, each.parity) == ("pass", 60, []), each
        assert right is not None and right.value > 0.99
        assert right.drops is not None and max(map(abs, right.drops)) < 0.01


# --- calibration -----------------------------------------------------------------------------------------------------


def test_calibration_that_overlaps_the_test_split_is_named_and_refused(tmp_path: Path, digits: DatasetFiles) -> None:
    checked = order(tmp_path, digits, seed=that.IS_SOUND)
    samples = measure_samples(digits)
    places = [place for place, sample in enumerate(samples) if sample.split == "test"][:3]

    candidates = [Candidate(engine="openvino", precision="int8", batch_size=1, threads=1)]
    [found] = gate.check(checked, candidates, digits_file, ignore, SPOILED, calibration=places).results
    assert found.verdict == "fail"
    assert "Its calibration overlaps the test split: 3 of 400" in found.problems[0]
    assert samples[places[0]].member in found.problems[0]
    places = [place for place, sample in enumerate(samples) if sample.split == "train"]
    [clean] = gate.check(checked, candidates, digits_file, ignore, SPOILED, calibration=places).results
    assert clean.verdict == "pass", clean


def test_int8_without_accuracy_does_not_pass(tmp_path: Path) -> None:
    candidates = [Candidate(engine="openvino", precision="int8", batch_size=1, threads=1)]
    checked = order(tmp_path, seed=that.IS_SOUND)
    [found] = gate.check(checked, candidates, digits_file, ignore, SPOILED).results
    assert found.verdict == "fail" and "Order with a dataset" in found.problems[0]


def measure_samples(digits: DatasetFiles) -> list[Sample]:
    from shared.vision.samples import read_index

    return read_index(Path(digits.index)).samples


def test_the_same_image_under_another_name_is_an_overlap_and_a_similar_one_is_told(tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    pack.write_bytes(b"oneonetwo")

    def sample(name: str, offset: int, dhash: int) -> Sample:
        return Sample(member=name, width=8, height=8, split="test", dhash=dhash, offset=offset, size=3)

    calibration = [sample("a.png", 0, 0b1111)]
    assert overlap(calibration, [sample("b.png", 3, 0b1111)], pack) == (["b.png"], 0)
    assert overlap(calibration, [sample("c.png", 6, 0b1111)], pack) == ([], 1)
    assert overlap(calibration, [sample("d.png", 6, 0b1100)], pack) == ([], 1)
    assert overlap(calibration, [sample("e.png", 6, 0b0111111110000)], pack) == ([], 0)
    assert overlap(calibration, [sample("a.png", 6, 0)], pack) == (["a.png"], 0)


def test_boxes_are_other_boxes_when_an_object_has_no_partner() -> None:
    rules = Detection(format="yolo", score_threshold=0.5)
    one = np.array([[0, 0, 10, 10, 0.9, 1], [20, 20, 40, 40, 0.8, 2], [0, 0, 5, 5, 0.1, 3]], np.float32)
    moved, renamed = one.copy(), one.copy()
    moved[:, :4] += 1
    renamed[1, 5] = 1
    assert not other_boxes(one, moved, rules)
    assert not other_boxes(one, one[::-1], rules)
    assert not other_boxes(one, one[:2], rules), "what is not shown does not count"
    assert other_boxes(one, renamed, rules)
    assert other_boxes(one, one[:1], rules)
