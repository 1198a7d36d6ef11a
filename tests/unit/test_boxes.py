"""Boxes out of detectors' outputs: formats, suppression against a plain one, and the way back into the original."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image

from preparer import DescribeOrder
from preparer.describe import describe
from shared import errors
from shared.runtime import Runtime, Serving, Source
from shared.specs import Detection, Preprocessing, Resize, TensorInfo
from shared.vision import boxes, preprocess
from shared.vision.boxes import Found
from tests.dataset_kit import video
from tests.onnx_graphs import graph, mean_model
from tests.unit.test_runtime import png, ready, serving

ONE = [10.0, 20.0, 30.0, 60.0]
ONE_CENTRED = [20.0, 40.0, 20.0, 40.0]


def output(*shape: int | str) -> list[TensorInfo]:
    return [TensorInfo(name="boxes", dtype="float32", shape=["batch", *shape])]


@pytest.mark.parametrize(
    ("shape", "labels", "kind"),
    [
        ((84, 8400), None, "yolo"),
        ((6, 8400), 2, "yolo"),
        ((8400, 84), None, "yolo_rows"),
        ((25200, 85), None, "yolo_objectness"),
        ((8400, 9), 4, "yolo_objectness"),
        ((8400, 9), 5, "yolo_rows"),
        ((300, 6), None, "corners"),
        ((300, 6), 80, "corners"),
        ((300, 6), 2, "yolo_rows"),
        ((300, 6), 1, "yolo_objectness"),
        ((84, 84), None, None),
        ((84, "boxes"), None, None),
        ((84, 8400), 3, None),
        ((10,), None, None),
        ((2, 3, 4), None, None),
    ],
)
def test_the_format_is_recognised_by_shape_and_labels(shape, labels, kind):
    names = None if labels is None else [str(index) for index in range(labels)]
    assert boxes.recognise(output(*shape), names) == kind


@pytest.mark.parametrize(
    ("kind", "shape", "count"),
    [
        ("yolo", (84, 8400), 80),
        ("yolo_rows", (8400, 84), 80),
        ("yolo_objectness", (9, 6), 1),
        ("corners", (9, 6), None),
    ],
)
def test_how_many_classes_a_format_tells_apart(kind, shape, count):
    assert boxes.classes(kind, output(*shape)) == count


@pytest.mark.parametrize(
    ("kind", "shape"), [("yolo", (4, 9)), ("yolo_objectness", (9, 5)), ("corners", (9, 7)), ("yolo", (9,))]
)
def test_an_output_that_cannot_be_of_the_format(kind, shape):
    with pytest.raises(errors.BadModel, match=r"preprocessing\.detection\.format"):
        boxes.classes(kind, output(*shape))


ROWS = {
    "yolo": np.array([[*ONE_CENTRED, 0.1, 0.9], [*ONE_CENTRED, 0.2, 0.1]], np.float32).T,
    "yolo_rows": np.array([[*ONE_CENTRED, 0.1, 0.9], [*ONE_CENTRED, 0.2, 0.1]], np.float32),
    "yolo_objectness": np.array([[*ONE_CENTRED, 0.9, 0.1, 1.0], [*ONE_CENTRED, 0.2, 1.0, 0.1]], np.float32),
    "corners": np.array([[*ONE, 0.9, 1], [*ONE, 0.2, 0]], np.float32),
}


@pytest.mark.parametrize("kind", list(ROWS))
def test_every_format_holds_the_same_box(kind):
    [found] = boxes.find(ROWS[kind][None], Detection(format=kind))
    np.testing.assert_allclose(found.corners, [ONE], rtol=1e-6)
    np.testing.assert_allclose(found.scores, [0.9], rtol=1e-6)
    assert found.classes.tolist() == [1]


def test_what_is_no_number_is_refused():
    broken = ROWS["corners"][None].copy()
    broken[0, 0, 0] = np.nan
    with pytest.raises(errors.BadOutput):
        boxes.find(broken, Detection(format="corners"))


HUGE = 3e38


@pytest.mark.parametrize(
    ("kind", "coordinates", "rows", "said"),
    [
        ("corners", "pixels", np.zeros((1, 4, 5)), "have 5 values"),
        ("yolo_rows", "pixels", np.zeros((1, 9, 4)), "have 4 values"),
        ("yolo", "pixels", np.zeros((1, 4, 9)), "have 4 values"),
        ("yolo_objectness", "pixels", np.zeros((1, 9, 5)), "have 5 values"),
        ("corners", "pixels", [[[*ONE, 0.9, -7]]], "classes that cannot be"),
        ("corners", "pixels", [[[*ONE, 0.9, 1e30]]], "classes that cannot be"),
        ("yolo_objectness", "pixels", [[[*ONE_CENTRED, HUGE, HUGE]]], "scores hold NaN or infinity"),
        ("yolo_rows", "pixels", [[[HUGE, 0, HUGE, 1, 0.9]]], "boxes hold NaN or infinity"),
        ("corners", "normalized", [[[0, 0, HUGE, 1, 0.9, 0]]], "boxes hold NaN or infinity"),
    ],
)
def test_outputs_that_hold_no_boxes_are_refused(kind, coordinates, rows, said):
    rules = Detection(format=kind, coordinates=coordinates)
    with pytest.raises(errors.BadOutput, match=said):
        boxes.placed(boxes.find(np.array(rows, np.float32), rules)[0], rules, (64, 64), None, None)


def test_boxes_beyond_any_image_are_compared_all_the_same():
    rows = np.array([[0, 0, HUGE, HUGE, 0.9, 0], [0, 0, 1e30, HUGE, 0.8, 0]], np.float32)
    assert list(boxes.suppress(Found(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.intp)), 0.5, 9)) == [0, 1]


def plain_suppression(found: Found, threshold: float) -> list[int]:
    """The definition, box by box."""
    kept: list[int] = []
    for index in np.argsort(-found.scores, kind="stable").tolist():
        x1, y1, x2, y2 = found.corners[index].tolist()
        for other in kept:
            u1, v1, u2, v2 = found.corners[other].tolist()
            shared = max(0.0, min(x2, u2) - max(x1, u1)) * max(0.0, min(y2, v2) - max(y1, v1))
            union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - shared
            if found.classes[index] == found.classes[other] and shared / union > threshold:
                break
        else:
            kept.append(index)
    return kept


edges = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 20), st.integers(1, 20))


@given(
    st.lists(st.tuples(edges, st.integers(0, 2), st.integers(1, 100)), max_size=30), st.sampled_from([0.3, 0.5, 0.7])
)
def test_suppression_keeps_what_its_definition_keeps(rows, threshold):
    corners = np.array([[x, y, x + w, y + h] for (x, y, w, h), _, _ in rows], np.float32).reshape(-1, 4)
    found = Found(
        corners, np.array([s for *_, s in rows], np.float32) / 100, np.array([c for _, c, _ in rows], np.intp)
    )
    assert boxes.suppress(found, threshold, 1000).tolist() == plain_suppression(found, threshold)
    assert boxes.suppress(found, threshold, 2).tolist() == plain_suppression(found, threshold)[:2]


sides = st.integers(1, 400)
modes = st.sampled_from(["stretch", "shorter_side", "letterbox"])


@given(sides, sides, st.integers(8, 64), st.integers(8, 64), modes)
def test_a_placement_is_where_resizing_puts_the_image(width, height, to_width, to_height, mode):
    """The centre of the original is the centre of the input, within the pixel that rounding moves it."""
    resize = Resize(width=to_width, height=to_height, mode=mode)
    place = preprocess.placement((width, height), resize)
    assert abs(width / 2 * place.scale_x + place.offset_x - to_width / 2) <= 1 + place.scale_x
    assert abs(height / 2 * place.scale_y + place.offset_y - to_height / 2) <= 1 + place.scale_y


@pytest.mark.parametrize("mode", ["stretch", "shorter_side", "letterbox"])
def test_a_mark_in_the_picture_is_found_where_the_placement_says(mode):
    picture = Image.new("L", (200, 100))
    picture.paste(255, (80, 40, 120, 60))
    resize = Resize(width=64, height=48, mode=mode, pad=0)
    rows, columns = np.nonzero(preprocess.resized(picture, resize)[..., 0] > 127)
    place = preprocess.placement(picture.size, resize)
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    wanted = [80 * place.scale_x + place.offset_x, 40 * place.scale_y + place.offset_y]
    wanted += [120 * place.scale_x + place.offset_x, 60 * place.scale_y + place.offset_y]
    np.testing.assert_allclose(seen, wanted, atol=1)


def detector(path: Path, batch: int | str = "batch") -> Path:
    """Whatever it sees: a box over the left half of its 64 x 32 input, class 1, and a weaker one in the same place."""
    rows = np.array([[16, 16, 32, 32, 0.1, 0.9], [16, 16, 32, 31, 0.1, 0.8], [48, 16, 8, 8, 0.6, 0.1]], np.float32)
    boxes_found = np.concatenate([rows, np.zeros((17, 6), np.float32)]).T[None]
    return graph(
        path,
        [
            helper.make_node("ReduceMean", ["images", "axes"], ["mean"], keepdims=1),
            helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
            helper.make_node("Squeeze", ["nothing", "last"], ["flat"]),
            helper.make_node("Add", ["flat", "boxes"], ["output0"]),
        ],
        {"images": (TensorProto.FLOAT, [batch, 3, 32, 64])},
        {"output0": (TensorProto.FLOAT, [batch, 6, 20])},
        {
            "axes": np.array([1, 2, 3]),
            "zero": np.zeros(1, np.float32),
            "last": np.array([3]),
            "boxes": boxes_found,
        },
    )


def test_a_detector_from_its_check_to_boxes_in_the_original(tmp_path):
    path = detector(tmp_path / "detector.onnx")
    found = describe(DescribeOrder(path=str(path), task_type="detection", preprocessing=None, labels=["cat", "dog"]))
    assert found.preprocessing == Preprocessing(
        resize=Resize(width=64, height=32, mode="letterbox"), detection=Detection(format="yolo")
    )
    assert any("'yolo'" in note for note in found.notes)
    serving = Serving(
        model_id="mdl_1",
        name="detector",
        task_type="detection",
        onnx=path,
        inputs=found.inputs,
        outputs=found.outputs,
        dynamic_batch=True,
        preprocessing=found.preprocessing,
        labels=found.labels,
        scores="logits",
        engine="onnxruntime",
        precision="fp32",
        batch_size=4,
        threads=1,
    )
    runtime = Runtime(serving)
    runtime.activate()
    given = runtime.decode([png((9, 9, 9)), png((1, 2, 3))])  # 20 x 10: fits the input exactly, 3.2 times as large
    outputs = runtime.infer(given.feeds)
    answer = json.loads(runtime.present(outputs, 2, 5, raw_outputs=False, source=given.source))
    assert answer["predictions"][0] == [
        {"box": [0.0, 0.0, 10.0, 10.0], "class_id": 1, "label": "dog", "confidence": 0.9},
        {"box": [13.75, 3.75, 16.25, 6.25], "class_id": 0, "label": "cat", "confidence": 0.6},
    ]
    assert answer["predictions"][1] == answer["predictions"][0]
    tensors = json.loads(runtime.present(outputs, 2, 5, raw_outputs=False))
    assert tensors["predictions"][0][0]["box"] == [0.0, 0.0, 32.0, 32.0]
    runtime.deactivate()


def test_labels_that_do_not_fit_a_detector(tmp_path):
    path = detector(tmp_path / "detector.onnx")
    contract = Preprocessing(resize=Resize(width=64, height=32), detection=Detection(format="yolo"))
    with pytest.raises(errors.BadModel, match="3 labels, but the model has 2 classes"):
        describe(DescribeOrder(path=str(path), task_type="detection", preprocessing=contract, labels=["a", "b", "c"]))


def test_a_detector_in_no_known_format_says_so(tmp_path):
    path = detector(tmp_path / "detector.onnx")
    found = describe(DescribeOrder(path=str(path), task_type="detection", preprocessing=None, labels=["a", "b", "c"]))
    assert found.preprocessing is not None and found.preprocessing.detection is None
    assert any("upload with preprocessing.detection" in note for note in found.notes)


def test_finished_boxes_and_coordinates_across_the_image():
    rules = Detection(format="corners", coordinates="normalized", max_boxes=1)
    [found] = boxes.find(np.array([[[0.5, 0.5, 1.5, 1.0, 0.7, 2], [0, 0, 1, 1, 0.9, 7]]], np.float32), rules)
    place = preprocess.placement((128, 64), Resize(width=64, height=32))
    [best] = boxes.placed(found, rules, (64, 32), place, ["a", "b", "c"])
    assert (best.box, best.class_id, best.label) == ((0.0, 0.0, 128.0, 64.0), 7, "7")


def test_a_video_is_sampled_at_the_stated_rate(tmp_path):
    film = video(tmp_path / "film.avi", seconds=3, fps=10, size=(64, 32))
    runtime = ready(serving(mean_model(tmp_path / "mean.onnx")))
    given = runtime.sample(film, 2)
    assert given.source.times_s == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5])
    assert given.source.sizes == [(64, 32)] * 6
    reds = runtime.infer(given.feeds)["scores"][:, 0]
    wanted = [number * 5 / 255 - 0.5 for number in (0, 5, 10, 15, 20, 25)]  # the contract's mean is 0.5
    np.testing.assert_allclose(reds, wanted, atol=0.02)
    answer = json.loads(runtime.present({"scores": np.eye(3)[:2]}, 2, 1, False, Source(times_s=[0.0, 0.5])))
    assert answer["times_s"] == [0, 0.5] and len(answer["predictions"]) == 2
    with pytest.raises(errors.TooLarge, match="lower frames_per_second"):
        runtime.sample(video(tmp_path / "long.avi", seconds=7, fps=10), 10)
    with pytest.raises(errors.DeadlineExceeded):
        runtime.sample(film, 2, lambda: True)
    with pytest.raises(errors.BadImage):
        runtime.sample(film[: len(film) // 50], 2)
    runtime.deactivate()
