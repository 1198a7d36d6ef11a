"""The report of a training: its rules, its words, its page; and what it says of a search."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from PIL import Image
from reportlab.graphics.shapes import Drawing

from reporter import TrainingRecord, search
from reporter.advice import next_steps
from reporter.confusion import MOST_DRAWN, matrix, mixups
from reporter.curves import curves, overlaid
from reporter.html import training_page
from reporter.pair import pair
from reporter.training import duration, hyperparams, training_view
from shared.specs import EpochFigures, FoundBox, HyperParameters, TrainingSpec, WorstSample
from shared.verdict.training import Level, classes, judged
from tests.unit.test_report_render import HOSTILE, Page
from tests.unit.trainings import DIGITS, epochs, record, result
from tests.unit.trainings import search as searched


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(buffer, "PNG")
    return buffer.getvalue()


# --- rules ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shares", "images", "level", "says"),
    [
        ([0.98] * 10, [100] * 10, "ready", "between 96.9 and 98.7 %"),
        ([0.9] * 10, [10] * 10, "rough", "100 validation images do not tell more precisely"),
        ([1.0] * 9 + [0.0], [100] * 10, "weak", "“9” is never recognised"),
        ([1.0] * 9 + [0.0], [100] * 9 + [4], "ready", "between"),
        ([1.0, 0.0, 0.05], [200, 100, 50], "nothing", "always answering “0” would be right for 57.1 %"),
        ([0.1] * 10, [36] * 10, "nothing", "would be right for 10 %"),
        ([1.0, 1.0], [3, 3], "rough", "between 61 and 100 %"),
    ],
)
def test_whether_a_result_is_good_enough(
    shares: Sequence[float], images: Sequence[int], level: Level, says: str
) -> None:
    found = judged("classification", result(shares, images))
    assert (found.level, says in found.text) == (level, True), found


@pytest.mark.parametrize(("precision", "level"), [(0.01, "nothing"), (0.2, "weak"), (0.25, "ready")])
def test_a_detector_is_judged_by_its_precision(precision: float, level: Level) -> None:
    found = result(confusion=[], final_accuracy=precision, worst=[])
    about = record(found, task_type="detection")
    assert judged(about.task_type, about.result).level == level
    page = Page(training_page(about)).words
    assert f"{precision:.3f}" in page
    assert "What is taken for what" not in page


def test_a_detector_that_finds_nothing_yet_trains_on_while_its_loss_falls() -> None:
    def steps(losses: Sequence[float], **changes: Any) -> str:
        curve = [
            msgspec.structs.replace(each, val_loss=loss, val_accuracy=0.001)
            for each, loss in zip(epochs(len(losses)), losses, strict=True)
        ]
        values: dict[str, Any] = {"confusion": [], "final_accuracy": 0.003, "worst": [], "best_epoch": 2} | changes
        return " ".join(next_steps(record(result(curve=curve, **values), task_type="detection")))

    assert "still falling, from 15 to 9.5" in steps([15.0, 10.0, 9.5])
    assert "another learning_rate" in steps([9.0, 10.0, 9.5])
    assert "another learning_rate" in steps([15.0, 10.0, 9.5], stopped_early=True)
    assert "longer" not in steps([15.0, 10.0, 9.5], final_accuracy=0.5)


def test_it_is_said_where_it_began_with_nothing() -> None:
    found = result(confusion=[], final_accuracy=0.01, worst=[])
    box = FoundBox(class_id=0, x1=1, y1=1, x2=4, y2=4, confidence=0.6)
    worst = [WorstSample(member="a.png", time_s=None, loss=9.0, objects=3, found=[box])]
    about = record(msgspec.structs.replace(found, worst=worst), task_type="detection", unlearned=True)
    page = Page(training_page(about)).words
    assert "began with weights that had learned nothing" in page and "cnn32 (mdl_1), nothing learned before" in page
    assert "3 objects, 1 box found" in page and "a.png; loss 9" in page
    assert any("Upload a checkpoint of the same network" in step for step in next_steps(about))
    learned = msgspec.structs.replace(about, unlearned=False)
    assert "learned nothing" not in Page(training_page(learned)).words
    good = record(result([1.0] * 10, [100] * 10), unlearned=True)
    assert not any("Upload a checkpoint" in step for step in next_steps(good)), "it learned all it needs"


def said(curve: list[EpochFigures], shares: Sequence[float] = (0.98,) * 10, **changes: object) -> str:
    """What to do next, without the benchmark."""
    return " ".join(next_steps(record(result(shares, [100] * len(shares), curve=curve, **changes))))


def test_what_to_do_next_follows_from_the_curves() -> None:
    done = epochs(40, 0.97, 0.97, peak=18)
    assert "cvp benchmark mdl_2 --dataset dst_1" in said(done)
    assert not any(
        words in said(done) for words in ("longer", "by heart", "learn more", "learning_rate", "more images")
    )
    assert "the best epoch was 19 of 20" in said(epochs(20, 0.97, 0.97, seed=3))
    assert "longer" not in said(epochs(20, 0.97, 0.97, seed=3), stopped_early=True)
    assert "by heart: it recognises 97" in said(epochs(20, 0.7, 0.99, peak=16))
    assert "only" in said(epochs(20, 0.7, 0.6, peak=12))
    jumping = [msgspec.structs.replace(each, val_accuracy=0.3) if each.epoch in (12, 14, 16) else each for each in done]
    assert "in 3 epochs the accuracy fell far below" in said(jumping)


def test_mixups_and_few_images_are_named() -> None:
    pairs = [(0, 0, 20), (0, 1, 10), (1, 1, 30)]
    steps = " ".join(next_steps(record(result([1.0, 1.0], [30, 30], confusion=pairs, worst=[]))))
    assert "10 of 30 images of “0” are taken for “1”" in steps
    assert "for validation, and not 60" in steps


def test_a_model_that_is_not_ready_is_not_sent_to_a_benchmark() -> None:
    assert "cvp benchmark" not in said(epochs(), [1.0] * 9 + [0.0])
    assert said(epochs(20, 0.97, 0.97, peak=12), [0.1] * 10)


# --- confusion ------------------------------------------------------------------------------------------------------


def test_classes_and_mixups_are_counted() -> None:
    found = result(
        [1.0, 1.0, 1.0], [3, 4, 5], names=["a", "b", "c"], confusion=[(0, 0, 3), (1, 2, 3), (1, 1, 1), (2, 2, 5)]
    )
    assert [(each.name, each.images, each.right, each.said) for each in classes(found)] == [
        ("a", 3, 3, 3),
        ("b", 4, 1, 1),
        ("c", 5, 5, 8),
    ]
    assert [tuple(each) for each in mixups(found)] == [("b", "c", 3, 4)]


@pytest.mark.parametrize("count", [2, 10, MOST_DRAWN])
def test_a_matrix_that_can_be_read_is_drawn(count: int) -> None:
    drawing = matrix(result([0.8] * count, [30] * count, names=[f"a long name of class {n}" for n in range(count)]))
    assert drawing is not None
    inside(drawing)


def test_of_a_larger_one_the_worst_are_listed() -> None:
    found = result([0.5] * (MOST_DRAWN + 1))
    assert matrix(found) is None
    assert "Most frequent mix-ups" in Page(training_page(record(found))).words


def inside(drawing: Drawing) -> None:
    for shape in drawing.contents:
        left, low, right, high = shape.getBounds()
        assert min(left, low) >= -0.01
        assert right <= drawing.width
        assert high <= drawing.height


# --- pages ----------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(60)
def test_ten_thousand_classes_are_reported_on_in_no_time() -> None:
    count = 10_000
    pairs = [(true, said % count, 1) for true in range(count) for said in (true, true + 1)]
    found = msgspec.structs.replace(result(), classes=list(map(str, range(count))), confusion=pairs)
    assert {(each.images, each.right, each.said) for each in classes(found)} == {(2, 1, 2)}
    assert "10,000 classes apart: of 20,000 images" in training_view(record(found)).learned[0]


@pytest.mark.parametrize("count", [1, 2, 3, 20, 1000])
def test_curves_of_any_length_stay_on_the_page(count: int) -> None:
    inside(curves(result(curve=epochs(count)), "accuracy"))


def test_losses_of_zero_and_very_large_ones_are_drawn() -> None:
    flat = [msgspec.structs.replace(each, loss=0.0, val_loss=0.0) for each in epochs(3)]
    inside(curves(result(curve=flat), "accuracy"))
    steep = [msgspec.structs.replace(each, val_loss=10.0 ** (9 - each.epoch)) for each in epochs(9)]
    inside(curves(result(curve=steep), "accuracy"))


def test_the_page_has_everything_and_asks_nobody_for_it() -> None:
    about = record(result(notes=["Memory ran out."], stopped_early=True))
    text = training_page(about, [png(), None, *[png()] * 10])
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    sources = [value or "" for name, value in page.attributes if name in ("src", "href")]
    assert len(sources) == len(about.result.worst) - 1
    assert all(value.startswith("data:image/png;base64,") for value in sources)
    for words in (
        "Memory ran out.",
        "What was learned",
        "Learning rate",
        "ab" * 32,
        "taken for",
        "torch 2.9.1",
        "ordered",
    ):
        assert words in page.words
    assert text == training_page(about, [png(), None, *[png()] * 10])


def test_names_are_text() -> None:
    about = record(result(names=[HOSTILE, *DIGITS[1:]]), model=HOSTILE, dataset=HOSTILE)
    page = Page(training_page(about))
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.words


def test_hyperparameters_say_who_chose_them() -> None:
    spec = TrainingSpec(model_id="m", dataset_id="d", max_epochs=9, hyperparams=HyperParameters(dropout_rate=0.2))
    rows = {row.key: [cell.text for cell in row.cells] for row in training_view(record(spec=spec)).hyperparams.rows}
    assert rows["dropout_rate"] == ["0.2", "ordered"]
    assert rows["learning_rate"] == ["0.001", "default"]
    assert set(rows) == set(HyperParameters.__struct_fields__)


@pytest.mark.parametrize(("seconds", "words"), [(4.21, "4.2 s"), (125, "2 min 5 s"), (11_000, "3 h 3 min")])
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


# --- beside the one before ------------------------------------------------------------------------------------------


def test_two_trainings_are_told_apart_by_order_and_result() -> None:
    used = HyperParameters(learning_rate=0.01, weight_decay=0.01, dropout_rate=0.2, augmentation="light", image_size=32)
    before = record(result([0.7] * 10, hyperparams=used, stopped_early=True), id="job_0")
    found = pair(before, record())
    assert found.told == ["Its accuracy is 25.8 points higher (between 20.6 and 31.1)."]
    different, reached = ({row.name: [cell.text for cell in row.cells] for row in each.rows} for each in found.tables)
    assert different == {"Learning rate": ["0.01", "0.001"], "Patience, epochs": ["–", "5"]}
    assert reached["Best epoch"] == ["20 of 20", "20 of 20"]
    page = Page(training_page(record(before=before))).words
    assert "Beside the training before" in page
    assert "before: job_0" in page


def test_settings_are_rounded_for_the_eye_and_not_for_the_comparison() -> None:
    def with_rate(rate: float) -> TrainingRecord:
        used = msgspec.structs.replace(result().hyperparams, learning_rate=rate)
        return record(result(hyperparams=used))

    for rate, words in ((0.000186846, "0.000187"), (0.001, "0.001"), (1e-5, "0.00001"), (2.5, "2.5")):
        row = next(row for row in hyperparams(with_rate(rate)).rows if row.key == "learning_rate")
        assert row.cells[0].text == words
    for other, shown in (
        (0.000187, ["0.000186846", "0.000187"]),
        (0.0002, ["0.000187", "0.0002"]),
    ):
        found = pair(with_rate(0.000186846), with_rate(other))
        assert [cell.text for cell in found.tables[0].rows[0].cells] == shown
        assert "Nothing that counts was different" not in " ".join(found.told)


def test_what_does_not_compare_is_said() -> None:
    same = pair(record(), record())
    assert "Its accuracy is the same." in same.told
    assert "Nothing that counts was different" in same.told[1]
    assert [table.title for table in same.tables] == ["What came of it"]
    told = " ".join(pair(record(dataset_sha256="cd" * 32), record()).told)
    assert "different validation images" in told
    found = result(confusion=[], final_accuracy=0.4, worst=[])
    boxes = record(found, task_type="detection")
    assert "the same; how much" in pair(boxes, boxes).told[0]


def test_curves_of_two_trainings_stay_on_the_page() -> None:
    inside(overlaid([result(curve=epochs(3)), result(curve=epochs(40))], ["a" * 99, "b" * 99], "accuracy"))


# --- searches -------------------------------------------------------------------------------------------------------


def test_a_search_is_told_beside_chance() -> None:
    page = Page(training_page(record(search=searched()))).words
    for words in (
        "60 settings of hyper-parameters were tried in 5 generations",
        "best by chance",
        "Finalists",
        "by chance: ",
    ):
        assert words in page
    assert "Trained again with other seeds, the best of the search reaches" in page
    assert "Pareto" not in page
    both = Page(training_page(record(search=searched(("accuracy", "latency_ms"))))).words
    assert "Pareto front" in both


def test_what_lies_between_accuracy_and_latency_is_told_with_the_choice_and_its_rule() -> None:
    about = searched(("accuracy", "latency_ms"))
    assert "Latency by image size" in Page(training_page(record(search=about))).words
    told = " ".join(search.told(about))
    for words in (
        "one image on onnxruntime with 2 threads, measured once for each image size while the platform did nothing",
        "More accuracy costs time: from 93.6 % at 0.400 ms to 97.4 % at 0.800 ms",
        "at 0.800 ms was chosen: it is the most accurate over the seeds",
        "On the front of both together are 3 of the search and 0 of chance",
    ):
        assert words in told
    table = search.front_table(about)
    assert [row.cells[0].text for row in table.rows] == ["0.400", "0.600", "0.800"]
    assert [row.selected for row in table.rows] == [False, False, True]
    assert [row.key for row in search.latency_table(about).rows] == ["16", "24", "32"]
    fast = next(one for one in search.unbeaten(search.trained(about)) if one.trial.genome["image_size"] == 24)
    beside = about.outcome.finalists[0]
    close = msgspec.structs.replace(
        beside,
        individual=fast.trial.number,
        genome=fast.trial.genome,
        found=fast.values,
        again=[(accuracy - 0.0005, fast.latency_ms) for accuracy, _ in beside.again],
    )
    outcome = msgspec.structs.replace(about.outcome, best=close.genome, finalists=[beside, close])
    told = " ".join(search.told(msgspec.structs.replace(about, outcome=outcome)))
    assert "it is the fastest whose accuracy over the seeds is within one standard error of the best, which has" in told
    once = msgspec.structs.replace(close, again=[(0.999, 0.1)])
    outcome = msgspec.structs.replace(about.outcome, best=beside.genome, finalists=[beside, once])
    told = " ".join(search.told(msgspec.structs.replace(about, outcome=outcome)))
    assert "it is the most accurate over the seeds" in told, "what gave a result for one seed is not compared"
    alone = msgspec.structs.replace(about.outcome, finalists=[])
    assert "Chosen is the most accurate setting" in " ".join(search.told(msgspec.structs.replace(about, outcome=alone)))


def test_a_machine_that_was_at_something_else_while_latency_was_measured_is_told() -> None:
    about = searched(("accuracy", "latency_ms"))
    assert about.latencies is not None
    assert "at something else" not in " ".join(search.told(about))
    first, *others = about.latencies.sizes
    uneven = msgspec.structs.replace(first, rounds_ms=[first.latency_ms, 2.4 * first.latency_ms])
    latencies = msgspec.structs.replace(about.latencies, sizes=[uneven, *others])
    told = " ".join(search.told(msgspec.structs.replace(about, latencies=latencies)))
    assert "of image size 16 no two rounds agreed" in told


def test_drawings_of_a_search_stay_on_the_page() -> None:
    about = searched(("accuracy", "latency_ms"), generations=3)
    drawings = [search.fitness(about), search.front(about), *search.strips(about)]
    for drawing in drawings:
        assert drawing is not None
        inside(drawing)


def test_a_search_without_a_result_is_told_without_drawings() -> None:
    about = searched()
    nothing = msgspec.structs.replace(
        about,
        told=[],
        outcome=msgspec.structs.replace(
            about.outcome,
            best=None,
            front=[],
            history=[None],
            finalists=[],
            baseline_best=None,
            stopped="No disk left.",
        ),
    )
    page = Page(training_page(record(search=nothing)))
    assert "No disk left." in page.words
    assert "order a search with baseline" in page.words


def test_what_the_genes_did() -> None:
    rows = {row.key: [cell.text for cell in row.cells] for row in search.gene_table(searched()).rows}
    assert rows["learning_rate"][0] == "0.00001 to 0.1, by factors"
    assert "×" in rows["optimizer"][1]
    assert all(cells[2] != "–" for cells in rows.values())
