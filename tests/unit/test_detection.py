"""What a detector learns: its loss beside numbers by hand and a slow formula, objects that move with their image."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import shapes
from shared import errors
from shared.specs import Box, DatasetIndex, Detection, HyperParameters, Preprocessing, Resize, Sample
from shared.vision import augmentation
from tests.conftest import needs
from tests.dataset_kit import Checked
from tests.training_kit import here, order, scenes, weights_file
from trainer import sampling

torch = needs("torch")

from shared.nets import architectures  # noqa: E402
from shared.nets.yolov8 import REG_MAX  # noqa: E402
from trainer import assignment, detection, network, terms  # noqa: E402
from trainer.scenes import Scenes  # noqa: E402

SIDE = 64
CLASSES = 3
NONE = [-1.0, 0, 0, 0, 0]


# --- overlap ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        ((3, 4, 9, 8), (3, 4, 9, 8), 1.0),
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7 - 2 / 18),
        ((0, 0, 1, 1), (3, 4, 4, 5), 0 - (9 + 16) / (16 + 25)),
        ((0, 0, 4, 2), (0, 0, 2, 4), 1 / 3 - 2 / 32 - 0.16796 * 0.16796 / (2 / 3 + 0.16796)),
    ],
)
def test_overlap_counts_distance_and_proportions(one, other, wanted):
    # the last: 4 / pi^2 (atan 2 - atan 1/2)^2 = 4 / 9.8696 * 0.6435^2 = 0.16783
    found = assignment.ciou(torch.tensor(one, dtype=torch.float64), torch.tensor(other, dtype=torch.float64))
    assert float(found) == pytest.approx(wanted, abs=2e-4)


def slow_ciou(one, other) -> float:
    (x1, y1, x2, y2), (u1, v1, u2, v2) = one, other
    shared = max(0, min(x2, u2) - max(x1, u1)) * max(0, min(y2, v2) - max(y1, v1))
    union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - shared
    iou = shared / union
    apart = math.dist(((x1 + x2) / 2, (y1 + y2) / 2), ((u1 + u2) / 2, (v1 + v2) / 2)) ** 2
    around = math.dist((min(x1, u1), min(y1, v1)), (max(x2, u2), max(y2, v2))) ** 2
    unlike = 4 / math.pi**2 * (math.atan((x2 - x1) / (y2 - y1)) - math.atan((u2 - u1) / (v2 - v1))) ** 2
    return iou - apart / around - (unlike**2 / (1 - iou + unlike) if unlike else 0)


# --- assignment -------------------------------------------------------------------------------------------------------


def grid(side: int = SIDE) -> list[tuple[float, float, int]]:
    """Centre x, centre y and stride of every cell, in pixels, in the network's order."""
    return [
        (stride * (x + 0.5), stride * (y + 0.5), stride)
        for stride in (8, 16, 32)
        for y in range(side // stride)
        for x in range(side // stride)
    ]


def slow_assigned(scores, corners, objects):
    """Of each cell the object it answers for, or None, and the score it should have; by the words of the paper."""
    chosen: dict[int, list[tuple[float, int, float]]] = {}
    for number, (label, *box) in enumerate(objects):
        middle, half = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2], [(box[2] - box[0]) / 2, (box[3] - box[1]) / 2]
        found = []
        for cell, (x, y, _) in enumerate(grid()):
            if abs(x - middle[0]) <= max(4, half[0]) and abs(y - middle[1]) <= max(4, half[1]):
                overlap = max(0.0, slow_ciou(box, corners[cell]))
                found.append((scores[cell][int(label)] ** 0.5 * overlap**6, cell, overlap))
        for aligned, cell, overlap in sorted(found, reverse=True)[:10]:
            if aligned > 0:
                chosen.setdefault(cell, []).append((overlap, number, aligned))
    owner = {cell: max(claims) for cell, claims in chosen.items()}
    result = {}
    for cell, (_, number, aligned) in owner.items():
        own = [claim for claim in owner.values() if claim[1] == number]
        result[cell] = (number, aligned / max(each[2] for each in own) * max(each[0] for each in own))
    return result


def some_objects(random: np.random.Generator, count: int) -> list[list[float]]:
    found = []
    for _ in range(count):
        width, height = random.uniform(4, 40, 2)
        left, top = random.uniform(0, SIDE - width), random.uniform(0, SIDE - height)
        found.append([float(random.integers(CLASSES)), left, top, left + width, top + height])
    return found


def near(random: np.random.Generator, objects: list[list[float]]) -> np.ndarray:
    """Boxes that some cells might say: each something like one of the objects."""
    count = len(grid())
    base = np.array(objects)[random.integers(0, len(objects), count), 1:]
    moved = base + random.normal(0, 3, (count, 4))
    return np.concatenate([np.minimum(moved[:, :2], moved[:, 2:] - 1), moved[:, 2:]], 1)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_cells_answer_for_what_they_see_best(seed, count):
    random = np.random.default_rng(seed)
    objects = some_objects(random, count)
    corners, scores = near(random, objects), random.uniform(0.01, 0.99, (len(grid()), CLASSES))
    centres = torch.tensor([cell[:2] for cell in grid()])
    truths = torch.tensor([*objects, NONE], dtype=torch.double)
    found = assignment.assign(torch.tensor(scores), torch.tensor(corners), centres.double(), truths)
    wanted = np.zeros((len(grid()), CLASSES))
    for cell, (number, share) in slow_assigned(scores, corners, objects).items():
        wanted[cell, int(objects[number][0])] = share
        np.testing.assert_allclose(found.corners[cell], objects[number][1:])
    np.testing.assert_allclose(found.scores, wanted, atol=1e-5)


def test_an_object_smaller_than_a_cell_has_one_that_answers():
    tiny = [1.0, 31, 31, 34, 33]
    centres = torch.tensor([cell[:2] for cell in grid()])
    said = torch.tensor([tiny[1:]]).expand(len(centres), 4)
    found = assignment.assign(torch.full((len(centres), CLASSES), 0.5), said, centres, torch.tensor([tiny]))
    assert float(found.scores[:, 1].max()) == pytest.approx(1, abs=1e-4)


# --- loss -------------------------------------------------------------------------------------------------------------


def raw_of(values: torch.Tensor) -> list[torch.Tensor]:
    """`[B, 84, 64 + classes]`, a row a cell, as the maps of three strides."""
    sides = [SIDE // stride for stride in (8, 16, 32)]
    parts = values.split([side * side for side in sides], 1)
    return [part.transpose(1, 2).unflatten(2, (side, side)) for part, side in zip(parts, sides, strict=True)]


def test_an_empty_image_costs_only_its_scores():
    """84 cells, 3 classes, each said with logit 0 or 2 and wanted 0: ln 2 and ln(1 + e^2) each, halved by its gain."""
    values = torch.zeros(2, 84, 4 * REG_MAX + CLASSES)
    values[1, :, 4 * REG_MAX :] = 2.0
    found = detection.losses(raw_of(values), torch.tensor([[NONE], [NONE]]))
    assert found.sums().tolist() == pytest.approx([0.5 * 252 * 0.693147, 0.5 * 252 * 2.126928], rel=1e-5)
    assert found.weights.tolist() == [0, 0]
    whole, right = detection.loss(raw_of(values), torch.tensor([[NONE], [NONE]]))
    assert (float(whole), right) == (pytest.approx(0.5 * 252 * (0.693147 + 2.126928), rel=1e-5), None)


def test_one_object_by_hand():
    """An object around the middle of the coarse cell 80, all sides at 7.5 or 0.5 cells.

    With all logits 0 every cell expects its sides 7.5 cells away. The object is 32 pixels wide and as high; its
    cells, whose boxes reach (15 * stride) far, differ in overlap: of stride 8, 120 pixels wide, those four around its
    centre are best, by symmetry all alike.
    """
    values = torch.zeros(1, 84, 4 * REG_MAX + CLASSES)
    found = detection.losses(raw_of(values), torch.tensor([[[2.0, 16, 16, 48, 48]]]))
    iou = 32 * 32 / 120**2
    overlap = iou - (4**2 + 4**2) / (2 * 120**2)  # their centres are 4 pixels off each way; the box around is their own
    next_overlap = iou - (4**2 + 12**2) / (2 * 120**2)  # eight more of stride 8
    corner = iou - (12**2 + 12**2) / (2 * 120**2)  # four in the corners; all of stride 16 lie 8 off, 240 wide: worse
    shares = [overlap] * 4 + [overlap * (next_overlap / overlap) ** 6] * 6
    assert corner < next_overlap
    assert float(found.weights) == pytest.approx(sum(shares), rel=1e-4)
    boxes = 4 * overlap * (1 - overlap) + sum(shares[4:]) * (1 - next_overlap)
    assert float(found.boxes) == pytest.approx(boxes, rel=1e-4)
    assert float(found.sides) == pytest.approx(sum(shares) * math.log(16), rel=1e-4)  # any bin: one in sixteen
    assert float(found.scores) == pytest.approx(252 * math.log(2), rel=1e-4)  # at logit 0 whatever is wanted


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_the_loss_is_that_of_a_slow_formula(seed):
    random = np.random.default_rng(seed)
    objects = some_objects(random, 3)
    values = random.normal(0, 2, (84, 4 * REG_MAX + CLASSES))
    sides, logits = values[:, : 4 * REG_MAX].reshape(84, 4, REG_MAX), values[:, 4 * REG_MAX :]
    chances = np.exp(sides) / np.exp(sides).sum(2, keepdims=True)
    scores = 1 / (1 + np.exp(-logits))
    corners = [
        [x - far[0] * stride, y - far[1] * stride, x + far[2] * stride, y + far[3] * stride]
        for (x, y, stride), far in zip(grid(), (chances * np.arange(REG_MAX)).sum(2), strict=True)
    ]
    wanted = np.zeros((84, CLASSES))
    box = side = weights = 0.0
    for cell, (number, share) in slow_assigned(scores, corners, objects).items():
        label, *edges = objects[number]
        wanted[cell, int(label)] = share
        weights += share
        box += share * (1 - slow_ciou(edges, corners[cell]))
        x, y, stride = grid()[cell]
        for place, far in enumerate([x - edges[0], y - edges[1], edges[2] - x, edges[3] - y]):
            truth = min(max(far / stride, 0), REG_MAX - 1.01)
            low = int(truth)
            for bin_, part in ((low, low + 1 - truth), (low + 1, truth - low)):
                side -= share * part * math.log(chances[cell, place, bin_]) / 4
    score = -(wanted * np.log(scores) + (1 - wanted) * np.log(1 - scores)).sum()
    raw = raw_of(torch.tensor(values[None], dtype=torch.float32))
    found = detection.losses(raw, torch.tensor([[*objects, NONE]], dtype=torch.float32))
    assert [float(each) for each in found] == pytest.approx([score, box, side, weights], rel=1e-3, abs=1e-4)
    mean, _ = detection.loss(raw, torch.tensor([objects], dtype=torch.float32))
    assert float(mean) == pytest.approx((0.5 * score + 7.5 * box + 1.5 * side) / max(1, weights), rel=1e-3)


def test_boxes_are_where_serving_has_them():
    module = architectures.build("yolov8n", CLASSES).module
    images = torch.rand(2, 3, SIDE, SIDE)
    with torch.no_grad():
        raw = module.raw(images)
        served = module(images)
    torch.testing.assert_close(served, module.decoded(raw))
    corners = detection.answered(raw).corners
    middle, size = served[:, :2], served[:, 2:4]
    edges = torch.cat([middle - size / 2, middle + size / 2], 1)
    torch.testing.assert_close(edges, corners.transpose(1, 2), atol=1e-3, rtol=0)


# --- objects move with their image ------------------------------------------------------------------------------------


@given(st.sampled_from(["light", "strong"]), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_objects_move_with_their_image(kind, seed):
    from PIL import Image

    random = np.random.default_rng(seed)
    pixels = np.full((60, 90, 3), 30, np.uint8)
    left, top = int(random.integers(0, 70)), int(random.integers(0, 45))
    pixels[top : top + 12, left : left + 15] = 220
    corners = np.array([[left, top, left + 15, top + 12]], float)
    draws = random.random(augmentation.DRAWS).astype(np.float32)
    image, found = augmentation.reframed(Image.fromarray(pixels), corners, kind, draws, 114)
    seen = np.asarray(image.convert("L")).astype(int)
    cut = found[0].clip(0, [image.width, image.height] * 2)
    inside = np.zeros(seen.shape, bool)
    x1, y1, x2, y2 = (int(edge) for edge in cut)
    inside[y1:y2, x1:x2] = True
    if not inside.any() or inside.all():
        return
    assert seen[inside].min() > seen[~inside].max()
    assert found[0, 2] - found[0, 0] == 15
    assert found[0, 3] - found[0, 1] == 12


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Checked:
    return scenes(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights_file(tmp_path_factory.mktemp("weights"), "yolov8n", 80, 640)


def test_a_batch_has_its_objects_in_pixels_of_the_input(data: Checked):
    contract = Preprocessing(resize=Resize(height=96, width=160, mode="letterbox"))
    samples = data.index.samples[:6]
    images = Scenes(data.paths["pack"], samples, contract)
    batch = images.batch(np.arange(6))
    images.close()
    assert batch.targets.shape == (6, max(len(sample.boxes) for sample in samples), 5)
    for sample, rows in zip(samples, batch.targets, strict=True):
        scale, offset = 96 / sample.height, (160 - 96) / 2
        found = [row for row in rows.tolist() if row[0] >= 0]
        wanted = [
            [box.class_id, box.x1 * scale + offset, box.y1 * scale, box.x2 * scale + offset, box.y2 * scale]
            for box in sample.boxes
        ]
        assert np.array(found) == pytest.approx(np.array(wanted), abs=1e-3)


# --- what is refused --------------------------------------------------------------------------------------------------


def sample(member: str, part: str, *labels: int) -> Sample:
    boxes = tuple(Box(class_id=label, x1=1, y1=1, x2=5, y2=5) for label in labels)
    return Sample(member=member, width=8, height=8, split=part, boxes=boxes, dhash=0, offset=0, size=1)


def index(*samples: Sample) -> DatasetIndex:
    colours = (0.5, 0.5, 0.5)
    return DatasetIndex(task_type="detection", classes=["a"], mean=colours, std=colours, samples=list(samples))


def test_images_without_objects_are_learned_from_as_well():
    found = sampling.parts(index(sample("1", "train", 0), sample("2", "train"), sample("3", "val", 0)), None, 0)
    assert [len(part) for part in found] == [2, 1]
    assert sampling.class_counts(found.train) == {0: 1}


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        ([sample("1", "train"), sample("2", "train"), sample("3", "val", 0)], "part train has an object"),
        ([sample("1", "train", 0), sample("2", "train"), sample("3", "val")], "part val has an object"),
        ([sample("1", "train", 0), sample("2", "train")], "no images in its part val"),
    ],
)
def test_what_cannot_be_trained_with_is_refused(samples, why):
    with pytest.raises(errors.InvalidInput, match=why):
        sampling.parts(index(*samples), None, 0)


def test_too_many_validation_images_are_drawn_from():
    many = [sample(str(number), "val", 0) for number in range(sampling.MOST_JUDGED + 10)]
    data = index(sample("a", "train", 0), sample("b", "train", 0), *many)
    found = sampling.parts(data, None, 1)
    assert len(found.val) == sampling.MOST_JUDGED
    assert found == sampling.parts(data, None, 1) != sampling.parts(data, None, 2)


def test_a_dataset_of_another_task_is_refused(weights: Path, data: Checked, tmp_path: Path):
    classifier = msgspec.structs.replace(data.index, task_type="classification")
    with pytest.raises(errors.InvalidInput, match="dataset is for classification and yolov8n is not"):
        network.start(weights, None, classifier, 0)


def test_the_contract_says_what_the_network_answers(weights: Path, data: Checked, tmp_path: Path):
    resize = Resize(height=640, width=640, mode="letterbox")
    rules = Detection(format="corners", coordinates="normalized", score_threshold=0.4)
    said = Preprocessing(resize=resize, scores="logits", detection=rules)
    found = terms.of(order(weights, data, tmp_path / "run", labels=None, preprocessing=said))
    assert found.contract.detection == Detection(format="yolo", score_threshold=0.4)
    assert found.contract.scores == "probabilities"
    assert terms.CORRECTED in found.notes and terms.WHOLE not in found.notes


def test_what_learns_begins_with_whole_images(weights: Path, data: Checked, tmp_path: Path):
    resize = Resize(height=640, width=640, mode="letterbox")
    said = Preprocessing(resize=resize, scores="probabilities", detection=Detection(format="yolo"), jpeg_scale=4)
    found = terms.of(order(weights, data, tmp_path / "run", labels=None, preprocessing=said))
    assert found.contract == said.reduced(1)
    assert terms.WHOLE in found.notes and terms.CORRECTED not in found.notes


# --- a whole training -------------------------------------------------------------------------------------------------


def test_it_learns_and_what_it_leaves_can_be_served(weights: Path, data: Checked, tmp_path: Path):
    wanted = HyperParameters(batch_size=8, image_size=SIDE, dropout_rate=0.1, frozen_stages=1)
    with (tmp_path / "onnx").open("wb") as onnx, (tmp_path / "weights").open("wb") as kept:
        outputs = {"onnx": onnx.fileno(), "weights": kept.fileno()}
        asked = order(
            weights, data, tmp_path / "run", labels=None, preprocessing=None, hyperparams=wanted, max_epochs=8
        )
        told: list[Any] = []
        made = here(msgspec.structs.replace(asked, outputs=outputs), report=told.append)
    result = made.result
    first, last = result.epochs[0], result.epochs[-1]
    assert last.loss < first.loss and last.val_loss < first.val_loss
    assert all(each.accuracy is None and each.val_map50 is not None for each in result.epochs)
    assert told[-1]["map50"] == result.epochs[-1].val_map50
    assert result.final_accuracy == max(each.val_accuracy for each in result.epochs)
    assert result.final_map50 == result.epochs[result.best_epoch - 1].val_map50
    assert (result.confusion, result.worst[0].class_id, len(result.worst)) == ([], None, 8)
    marked = {each.member: len(each.boxes) for each in data.index.samples}
    assert {each.member: each.objects for each in result.worst} == {
        each.member: marked[each.member] for each in result.worst
    }
    assert [each.batch for each in made.facts.parity] == [1, 2, 8]
    assert (made.preprocessing.resize.height, made.preprocessing.detection) == (SIDE, Detection(format="yolo"))
    assert made.architecture.num_classes == len(shapes.CLASSES)
