"""JPEGs at a part of their size: which scale is chosen by what was measured, what a report says, what a child finds."""

from __future__ import annotations

import hashlib
import io
import random
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from PIL import Image

from benchmarker import (
    DatasetFiles,
    Examined,
    ExamineOrder,
    JpegsOrder,
    JpegsTimed,
    MeasureOrder,
    decoding,
    gate,
    jpegs,
    measure,
)
from benchmarker.files import Files
from reporter.decoding import in_short
from reporter.render import render
from reporter.simple import simple_view
from reporter.technical import technical_view
from shared import child, errors
from shared.specs import (
    Accuracy,
    Candidate,
    Constraint,
    DecodedAt,
    GateResult,
    JpegScale,
    MeasuredDataset,
    MeasuredDecoding,
    MeasurementSet,
    Preprocessing,
    canonical_json,
)
from shared.verdict.accuracy import packed
from shared.verdict.comparison import compare
from shared.verdict.decision import chosen
from shared.verdict.decoding import NO_FASTER, SLOWER, DecodingRecord, is_faster
from shared.verdict.report import Report, build, canonical, verify
from shared.verdict.verification import verdict, verification
from tests.dataset_kit import check_here, zipped
from tests.unit.measurements import measurement_set
from tests.unit.test_gate import CONTRACT, HELD_OUT, LABELS
from tests.unit.test_measure import DESCRIPTION, Laboratory, ignore
from tests.unit.test_measure import order as plain

IMAGES = 50


def answers(wrong: int, n: int = 400) -> Accuracy:
    """So many of 400 images are answered wrongly, the first ones."""
    right = np.arange(n) >= wrong
    return Accuracy(metric="top1", n=n, value=float(right.mean()), correct=packed(right))


def gated(wrong: int, flips: int | None = None, problems: list[str] | None = None) -> GateResult:
    return GateResult(
        engine="onnxruntime",
        precision="fp32",
        verdict="pass",
        finite=True,
        flips=abs(wrong - 20) if flips is None else flips,
        checked=400,
        problems=problems or [],
        accuracy=None if problems else answers(wrong),
    )


def at(scale: JpegScale, ms: float, wrong: int | None = None, **more: Any) -> DecodedAt:
    """Twelve rounds of so many milliseconds an image, which vary a little; with so many wrong answers."""
    noise = np.random.default_rng(scale).normal(1, 0.02, 12)
    taken = [int(ms * 1e6 * IMAGES * each) for each in noise]
    return DecodedAt(scale=scale, round_ns=taken, gate=None if wrong is None else gated(wrong, **more))


def decoded(*scales: DecodedAt, **more: Any) -> MeasurementSet:
    """A benchmark of which 20 of 400 answers of the reference were wrong, with what came of these scales."""
    right = gated(20)
    gates = [right, msgspec.structs.replace(right, engine="openvino")]
    dataset = MeasuredDataset(id="dst_1", name="photographs", index_sha256="0" * 64, classes=LABELS, num_test=400)
    config = {"accuracy_drop": 0.02, "dataset_id": "dst_1", "jpeg_scales": (1, 2, 4)} | more
    plain_set = measurement_set(constraints=config.pop("constraints", ()), **config)
    found = msgspec.structs.replace(plain_set, dataset=dataset, reference=answers(20), gates=gates)
    candidate = chosen(found)
    measured = MeasuredDecoding(
        own=1, serves=1, candidate=candidate, looked_at=60, images=IMAGES, width=640, height=480, scales=list(scales)
    )
    return msgspec.structs.replace(found, decoding=measured)


def record_of(found: MeasurementSet) -> DecodingRecord:
    report = build(found, "rep_1")
    assert isinstance(report.decoding, DecodingRecord)
    return report.decoding


def why_not(found: MeasurementSet) -> dict[int, str | None]:
    return {each.scale: each.why_not for each in record_of(found).scales}


# --- the choice ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scales", "selected"),
    [
        pytest.param([at(1, 3), at(2, 2, 20), at(4, 1, 20)], 4, id="the fastest of those that lose nothing"),
        pytest.param([at(1, 3), at(2, 2, 20), at(4, 1, 90)], 2, id="the fastest loses too much"),
        pytest.param([at(1, 3), at(2, 2, 90), at(4, 1, 90)], 1, id="both lose too much"),
        pytest.param([at(1, 3), at(2, 3), at(4, 3)], 1, id="nobody saves time"),
        pytest.param([at(1, 3), at(2, 2, 20), at(4, 2, 20)], 2, id="as fast, but less of the image"),
        pytest.param([at(1, 3), at(2, 2, 26), at(4, 1, 27)], 1, id="the images do not settle it"),
    ],
)
def test_the_fastest_that_surely_loses_little_is_chosen(scales: list[DecodedAt], selected: int) -> None:
    record = record_of(decoded(*scales))
    assert (record.own, record.selected) == (1, selected)
    assert {each.scale for each in record.scales if each.why_not is None} - {1} == {selected} - {1}


def test_who_is_not_chosen_is_told_why() -> None:
    found = why_not(decoded(at(1, 3), at(2, 2, 26), at(4, 3.0)))
    assert found[1] is None and found[4] == "it is not sure to save time"
    assert str(found[2]).startswith("is inconclusive on accuracy drop ≤ 0.02 with 0.0150 (")
    assert "it takes about" in str(found[2])
    broken = decoded(at(1, 3), at(2, 2, 20, problems=["The process ended by SIGKILL."]))
    assert why_not(broken)[2] == "The process ended by SIGKILL."
    slower = decoded(at(1, 3), at(2, 2, 20), at(4, 1, 20))
    assert why_not(slower) == {1: SLOWER, 2: SLOWER, 4: None}
    assert why_not(decoded(at(1, 3), at(2, 2, 20), at(4, 2, 20))) == {1: SLOWER, 2: None, 4: NO_FASTER}


def test_a_limit_of_ones_own_counts_as_for_candidates() -> None:
    strict = Constraint(metric="accuracy", op=">=", value=0.9)
    assert record_of(decoded(at(1, 3), at(2, 2, 22), constraints=(strict,), accuracy_drop=0.05)).selected == 2
    hardly = Constraint(metric="accuracy", op=">=", value=0.925)
    assert record_of(decoded(at(1, 3), at(2, 2, 22), constraints=(hardly,), accuracy_drop=0.05)).selected == 1


def test_a_handful_of_rounds_is_sure_of_nothing() -> None:
    few = [msgspec.structs.replace(each, round_ns=each.round_ns[:5]) for each in (at(1, 3), at(2, 1))]
    assert not is_faster(*few) and is_faster(at(1, 3), at(2, 2)) and not is_faster(at(2, 2), at(1, 3))


def test_another_choice_than_the_one_that_was_asked_changes_nothing() -> None:
    found = decoded(at(1, 3), at(2, 2, 20))
    other = Candidate(engine="tensorrt", precision="fp32", batch_size=1, threads=2)
    measured = msgspec.structs.replace(cast(MeasuredDecoding, found.decoding), candidate=other)
    record = record_of(msgspec.structs.replace(found, decoding=measured))
    assert (record.selected, record.scales) == (1, []) and "another candidate" in str(record.reason)


def test_a_forged_scale_fails_and_another_one_is_told() -> None:
    found = decoded(at(1, 3), at(2, 2, 20), at(4, 1, 90))
    report = build(found, "rep_1")
    assert report.scale == 2 and build(measurement_set(), "rep_1").scale is None
    bold = msgspec.structs.replace(record_of(found), selected=4)
    forged = msgspec.to_builtins(msgspec.structs.replace(report, decoding=bold, content_sha256=""))
    del forged["content_sha256"]
    sha256 = hashlib.sha256(canonical_json(forged)).hexdigest()
    checks = verification(canonical_json(forged | {"content_sha256": sha256}), canonical_json(found))
    assert {each.name: each.outcome for each in checks} == {"hash": "holds", "source": "holds", "decision": "fails"}
    other = build(decoded(at(1, 3), at(4, 1, 20)), "rep_2")
    between = compare(report, other)
    assert (between.scale_before, between.scale_after) == (2, 4)


def test_what_was_measured_before_there_was_a_choice_hashes_as_it_did() -> None:
    found = measurement_set()
    report = build(found, "rep_1")
    assert b"decod" not in canonical_json(found) + canonical(report) and b"jpeg_scale" not in canonical(report)


# --- the report ------------------------------------------------------------------------------------------------------


def sentence(*scales: DecodedAt, **more: Any) -> str:
    return simple_view(build(decoded(*scales, **more), "rep_1")).decoding


def test_a_sentence_for_who_decides() -> None:
    said = sentence(at(1, 3), at(2, 1.7, 21))
    assert said.startswith("Decoding JPEGs at half their size saves 1.3") and "ms an image" in said
    assert said.endswith("costs 0.25 points of accuracy against the original model, precision included.")
    assert "changes no answer on the test images" in sentence(at(1, 3), at(4, 1, 20))
    assert "saves" in sentence(at(1, 3), at(2, 2, 18)) and "0.5 points higher" in sentence(at(1, 3), at(2, 2, 18))
    stays = sentence(at(1, 3), at(2, 3))
    assert stays == (
        "JPEGs are decoded at full size, as the model's contract says: at half their size it is not sure to save time."
    )
    assert "at a quarter of their size 17.5 points of accuracy are lost" in sentence(at(1, 3), at(4, 1, 90))
    assert "the test images do not tell whether the limits on accuracy" in sentence(at(1, 3), at(4, 1, 26))
    assert simple_view(build(measurement_set(), "rep_1")).decoding == ""


def test_what_serves_may_decode_so_already() -> None:
    found = decoded(at(1, 3), at(2, 2, 20))
    selected = chosen(found)
    for serves, said in ((1, "nothing changes but the size at which JPEGs are decoded."), (2, "nothing changes.")):
        measured = msgspec.structs.replace(cast(MeasuredDecoding, found.decoding), serves=cast(JpegScale, serves))
        same = msgspec.structs.replace(found, incumbent=selected, decoding=measured)
        assert simple_view(build(same, "rep_1")).serving.endswith(f"serves already: {said}")


def test_figures_remarks_and_steps() -> None:
    found = decoded(at(1, 3), at(2, 2, 20), at(4, 1, 90))
    report = build(found, "rep_1")
    view = technical_view(report)
    table = next(table for table in view.tables if table.of == "Decoded at")
    assert [(row.name, row.selected) for row in table.rows] == [
        ("Full size", False),
        ("Half their size", True),
        ("A quarter of their size", False),
    ]
    assert table.rows[0].cells[2].text == "0.950" and table.rows[1].cells[4].text == "0"
    assert "50 JPEGs of the test split, the middle one 640 x 480" in table.note and "12 rounds" in table.note
    assert any(fact.label == "JPEGs at a quarter of their size" for fact in view.notes)
    files = render(report)
    for name in ("report.html", "technical.html", "simple.html"):
        if name in files:
            assert b"Half their size" in files[name] or b"half their size" in files[name]
    steps = build(msgspec.structs.replace(found, model=with_contract(found)), "rep_1").deployment_steps
    assert any("decode those at 1/2 of their size" in step for step in steps)
    assert verify(canonical(report))
    assert verdict(verification(canonical(report), canonical_json(found))) == "holds"
    assert msgspec.json.decode(canonical(report), type=Report) == report


def with_contract(found: MeasurementSet) -> Any:
    return msgspec.structs.replace(found.model, preprocessing_hash=CONTRACT.hash)


def test_why_nothing_was_found_out_is_said() -> None:
    found = decoded(at(1, 3))
    none = MeasuredDecoding(own=1, serves=1, looked_at=60, reason="None of the 60 images of the test split is a JPEG.")
    report = build(msgspec.structs.replace(found, decoding=none), "rep_1")
    assert isinstance(report.decoding, DecodingRecord) and report.decoding.selected == 1
    assert in_short(report.decoding) == (
        "JPEGs are decoded at full size, as the model's contract says; no other size could be judged. None of the 60 "
        "images of the test split is a JPEG."
    )
    assert any("None of the 60 images" in fact.text for fact in technical_view(report).notes)


# --- what a child finds ----------------------------------------------------------------------------------------------


def photograph(path: Path, draw: random.Random, kind: str) -> bytes:
    """A held-out digit, 8 x 8, as large as a photograph, a little lighter or darker each time."""
    shift = draw.randrange(-4, 5)
    digit = Image.open(path).convert("L").point(lambda value: max(0, min(255, value + shift)))
    buffer = io.BytesIO()
    digit.resize((480, 480), Image.Resampling.NEAREST).save(buffer, kind, quality=92)
    return buffer.getvalue()


def photographed(folder: Path, kind: str = "JPEG") -> Path:
    """The held-out digits as a ZIP of photographs, 30 to train with and 150 to be judged by."""
    draw = random.Random(2)
    files = {
        f"{part}/{source.stem[-1]}/{number}.{kind.lower()}": photograph(source, draw, kind)
        for part, count in (("train", 30), ("test", 150))
        for number, source in enumerate((HELD_OUT * 20)[:count])
    }
    return zipped(folder / "photographs.zip", files)


def dataset(folder: Path, kind: str) -> DatasetFiles:
    archive = photographed(folder, kind)
    checked = check_here(archive)
    return DatasetFiles(
        id="dst_1",
        name="digits",
        index=str(checked.paths["index"]),
        index_sha256="0" * 64,
        pack=str(checked.paths["pack"]),
        archive=str(archive),
        num_test=150,
        classes=checked.index.classes,
        class_ids=[LABELS.index(name) for name in checked.index.classes],
    )


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> DatasetFiles:
    return dataset(tmp_path_factory.mktemp("photographs"), "JPEG")


def order(tmp_path: Path, data: DatasetFiles, **config: Any) -> MeasureOrder:
    spec = {"num_iterations": 5, "dataset_id": data.id, "precisions": ("fp32",), "engines": ("onnxruntime",)}
    description = msgspec.structs.replace(DESCRIPTION, preprocessing=CONTRACT, labels=LABELS)
    asked = plain(**spec | {"batch_sizes": (1,), "jpeg_scales": (1, 2, 4)} | config)
    return msgspec.structs.replace(asked, description=description, dataset=data, models=str(tmp_path / "models"))


def times(*ms: float) -> Any:
    """Takes the time as told."""

    def take(asked: JpegsOrder) -> JpegsTimed:
        taken = [at(scale, each).round_ns for scale, each in zip(asked.scales, ms, strict=True)]
        return JpegsTimed(looked_at=IMAGES, images=IMAGES, width=480, height=480, round_ns=taken)

    return take


def test_which_scales_are_tried(photographs: DatasetFiles, tmp_path: Path) -> None:
    asked = order(tmp_path, photographs, jpeg_scales=(4, 1, 2))
    assert decoding.scales(asked) == [2, 4]
    assert decoding.scales(msgspec.structs.replace(asked, dataset=None)) == []
    assert decoding.scales(order(tmp_path, photographs, jpeg_scales=(1,))) == []
    assert decoding.scales(msgspec.structs.replace(asked, config=plain().config)) == [], "nothing was ordered"
    half = msgspec.structs.replace(asked.description, preprocessing=CONTRACT.reduced(2))
    assert decoding.scales(msgspec.structs.replace(asked, description=half)) == [4], "less than its own saves nothing"
    tensors = msgspec.structs.replace(asked.description, preprocessing=None)
    assert decoding.scales(msgspec.structs.replace(asked, description=tensors)) == []


@pytest.mark.process
def test_from_the_images_to_what_is_deployed(tmp_path: Path, photographs: DatasetFiles) -> None:
    asked = order(tmp_path, photographs)
    told: list[dict[str, Any]] = []
    found = measure.run(asked, ignore, Repeated(), gate.examine)
    tried = decoding.tried(asked, found, Files(asked), told.append, time=times(3, 2, 1))
    assert tried.reason is None and tried.candidate == chosen(found)
    assert found.reference is not None
    whole, half, quarter = tried.scales
    assert whole.gate is None and half.gate is not None and quarter.gate is not None
    for each in (half.gate, quarter.gate):
        assert (each.checked, each.finite, each.problems) == (150, True, [])
        assert each.accuracy is not None and each.accuracy.value == found.reference.value
    assert {body["checking"] for body in told} == {"decoding of JPEGs", "the reference", "JPEGs at 1/2", "JPEGs at 1/4"}
    fractions = [body["fraction"] for body in told if "fraction" in body]
    assert fractions == sorted(fractions)
    assert record_of(msgspec.structs.replace(found, decoding=tried)).selected == 4


class Repeated(Laboratory):
    """Of each launch twenty times the calls."""

    def __call__(self, order: Any, limit_s: float) -> Any:
        launched = super().__call__(order, limit_s)
        block = msgspec.structs.replace(launched.block, latencies_ns=[2_000_000, 2_100_000] * 20, elapsed_ns=84_000_000)
        return msgspec.structs.replace(launched, block=block)


@pytest.mark.process
def test_a_scale_that_spoils_the_answers_is_refused(tmp_path: Path, photographs: DatasetFiles) -> None:
    asked = order(tmp_path, photographs)
    found = measure.run(asked, ignore, Repeated(), gate.examine)

    def spoils(examined: ExamineOrder, *rest: Any) -> Examined:
        seen, contract = gate.examine(examined, *rest), examined.description.preprocessing
        assert seen.accuracy is not None and contract is not None and examined.answers_only
        return seen if contract.reduction < 4 else msgspec.structs.replace(seen, accuracy=answers(75, n=150), flips=70)

    tried = decoding.tried(asked, found, Files(asked), ignore, time=times(3, 2, 1), examine=spoils)
    record = record_of(msgspec.structs.replace(found, decoding=tried))
    assert record.selected == 2
    assert "It is less accurate than ONNX Runtime on the CPU in FP32 by" in str(record.scales[2].why_not)


@pytest.mark.process
def test_nothing_is_asked_where_no_time_is_saved(tmp_path: Path, photographs: DatasetFiles) -> None:
    asked = order(tmp_path, photographs)
    found = measure.run(asked, ignore, Repeated(), gate.examine)
    tried = decoding.tried(asked, found, Files(asked), ignore, time=times(2, 2, 2), examine=never)
    assert [each.gate for each in tried.scales] == [None] * 3 and tried.reason is None
    nobody = msgspec.structs.replace(found, reference=None)  # keeps a limit on accuracy that is not known
    assert decoding.tried(asked, nobody, Files(asked), ignore, time=never).reason == decoding.NOTHING_CHOSEN

    def dies(_: JpegsOrder) -> JpegsTimed:
        raise child.ChildDied("The process ended by SIGKILL (out of memory?).")

    assert "SIGKILL" in str(decoding.tried(asked, found, Files(asked), ignore, time=dies).reason)


def never(*_: Any) -> Any:
    raise AssertionError("no test split is asked for nothing")


def asked_of(data: DatasetFiles, contract: Preprocessing = CONTRACT) -> JpegsOrder:
    return JpegsOrder(dataset=data, contract=contract, scales=[1, 2, 4], rounds=3, seed=1)


@pytest.mark.process
def test_the_time_is_taken_of_the_datasets_own_jpegs(photographs: DatasetFiles) -> None:
    found = decoding.take_time(asked_of(photographs))
    assert found.images == found.looked_at == jpegs.MOST_IMAGES
    assert (found.width, found.height) == (480, 480)
    assert [len(taken) for taken in found.round_ns] == [3, 3, 3]
    assert min(min(taken) for taken in found.round_ns) > 0


def test_images_that_are_no_jpegs_are_left_alone(tmp_path: Path) -> None:
    data = dataset(tmp_path, "PNG")
    found = jpegs.timed(asked_of(data))
    assert (found.images, found.looked_at, found.round_ns) == (0, 150, [])


def test_a_dataset_that_is_gone_is_an_error(tmp_path: Path, photographs: DatasetFiles) -> None:
    gone = msgspec.structs.replace(photographs, archive=str(tmp_path / "gone.zip"))
    with pytest.raises(errors.BadDataset, match="upload it again"):
        jpegs.timed(asked_of(gone))
