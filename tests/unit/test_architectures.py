"""Networks by name: the published sizes, the same weights from the same seed, and what each expects of an image."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared import errors
from shared.specs import Preprocessing
from tests.conftest import needs

torch = needs("torch")

from shared.nets import architectures  # noqa: E402
from shared.nets.architectures import build  # noqa: E402

YOLO_PARAMETERS = {"n": 3_157_200, "s": 11_166_560, "m": 25_902_640, "l": 43_691_520, "x": 68_229_648}


@pytest.mark.parametrize("scale", YOLO_PARAMETERS)
def test_yolov8_has_its_published_size(scale: str) -> None:
    module = architectures.skeleton(f"yolov8{scale}", 80)
    counters = ("running_mean", "running_var", "num_batches_tracked")
    assert sum(each.numel() for name, each in module.items() if not name.endswith(counters)) == YOLO_PARAMETERS[scale]


def test_yolov8n_has_the_usual_names() -> None:
    names = list(architectures.skeleton("yolov8n", 80))
    assert len(names) == 355
    assert names[0] == "model.0.conv.weight"
    assert names[-1] == "model.22.dfl.conv.weight"
    assert "model.2.m.0.cv1.bn.running_mean" in names
    assert "model.22.cv3.2.2.bias" in names


def test_yolov8_answers_boxes_in_pixels_and_scores() -> None:
    net = build("yolov8n", 3)
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = net.module(images)
    assert found.shape == (2, 4 + 3, 8 * 12 + 4 * 6 + 2 * 3)
    assert ((found[:, 4:] > 0) & (found[:, 4:] < 1)).all()
    x, y = found[0, 0, :96].view(8, 12), found[0, 1, :96].view(8, 12)
    centres = torch.arange(12) * 8 + 4.0
    assert (x - centres).abs().max() < 8 * 16  # a box is around its cell, at most 16 strides a side
    assert x.mean(0).diff().min() > 0  # x grows along a row, y down a column
    assert y.mean(1).diff().min() > 0


def test_a_cell_of_yolov8_decodes_to_the_box_it_says() -> None:
    """Distances of exactly 1, 2, 3 and 4 cells to the sides, at one cell of stride 8."""
    head = architectures.build("yolov8n", 1).module.model[-1]
    raw = [torch.zeros(1, 65, size, size) for size in (4, 2, 1)]
    for side, distance in enumerate((1, 2, 3, 4)):
        raw[0][0, side * 16 + distance, 1, 2] = 100.0
    x, y, width, height, score = head.decoded(raw)[0, :, 1 * 4 + 2].tolist()
    assert (width, height) == pytest.approx((4 * 8, 6 * 8))
    assert (x, y) == pytest.approx(((2.5 + 1) * 8, (1.5 + 1) * 8))
    assert score == 0.5


@pytest.mark.parametrize(("name", "classes"), [("yolov8n", 1), ("yolov8s", 80)])
def test_an_untrained_detector_finds_nothing(name: str, classes: int) -> None:
    module = build(name, classes).module
    digit = next((Path(__file__).parents[2] / "examples" / "digits" / "held-out").glob("*.png"))
    with Image.open(digit) as opened:
        pixels = np.array(opened.convert("RGB").resize((320, 320)))
    photograph = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    drawn = architectures.scene((3, 320, 320), torch.Generator().manual_seed(1))
    with torch.no_grad():
        scores = module(torch.cat([photograph, drawn, torch.zeros_like(drawn), torch.ones_like(drawn)]))[:, 4:]
    assert scores.max() < 0.25
    assert scores.amax((1, 2)).unique().numel() == 4  # it looks at the images all the same


def test_yolov8_in_training_gives_raw_maps() -> None:
    maps = build("yolov8n", 3).module.train()(torch.zeros(1, 3, 64, 64))
    assert [tuple(each.shape) for each in maps] == [(1, 67, 8, 8), (1, 67, 4, 4), (1, 67, 2, 2)]


@pytest.mark.parametrize("name", ["cnn32", "resnet18", "timm/mobilenetv3_small_050"])
def test_one_seed_one_network(name: str) -> None:
    torch.manual_seed(4711)
    before = torch.get_rng_state()
    one, same, other = (build(name, 5, seed=seed).module.state_dict() for seed in (7, 7, 8))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, same[key]) for key, value in one.items())
    assert any(not torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize(
    ("name", "given", "classes", "task", "shape"),
    [
        ("cnn32", None, 10, "classification", (3, 32, 32)),
        ("resnet18", 7, 7, "classification", (3, 224, 224)),
        ("timm/efficientnet_b0", None, 1000, "classification", (3, 224, 224)),
        ("yolov8n", None, 80, "detection", (3, 640, 640)),
    ],
)
def test_what_a_network_is_made_for(
    name: str, given: int | None, classes: int, task: str, shape: tuple[int, ...]
) -> None:
    net = build(name, given)
    assert net.architecture is not None
    assert not net.module.training
    assert (net.architecture.num_classes, net.architecture.task, net.architecture.input_shape) == (classes, task, shape)
    if task == "classification":
        with torch.no_grad():
            assert net.module(torch.zeros(2, *shape)).shape == (2, classes)


@pytest.mark.parametrize("name", ["cnn32", "resnet50", "efficientnet_b0", "timm/efficientnet_b0", "yolov8n"])
def test_initial_outputs_can_be_told_apart_and_compared(name: str) -> None:
    """Untrained normalisations used to leave 1e-14 of them at the end of EfficientNet."""
    net = build(name)
    assert net.architecture is not None
    images = torch.randn(2, *net.architecture.input_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = net.module(images)
    assert 0.1 < found.abs().max() < (640 * 1.5 if name == "yolov8n" else 10)
    assert (found[0] - found[1]).abs().max() > 1e-3
    variances = [value for key, value in net.module.state_dict().items() if key.endswith("running_var")]
    assert all((torch.frexp(value)[0] == 0.5).all() for value in variances)  # the same on every machine


def contract(name: str) -> Preprocessing:
    net = build(name)
    assert net.architecture is not None
    return net.architecture.preprocessing


def test_contracts_come_from_who_published_the_weights() -> None:
    torchvision_s, timm_s, detector = contract("resnet18"), contract("timm/efficientnet_b0"), contract("yolov8n")
    assert torchvision_s.mean == timm_s.mean == (0.485, 0.456, 0.406)
    assert torchvision_s.std == timm_s.std == (0.229, 0.224, 0.225)
    facts = [(each.resize.mode, each.resize.scale_to, each.resize.interpolation) for each in (torchvision_s, timm_s)]
    assert facts == [("shorter_side", 256, "bilinear"), ("shorter_side", 256, "bicubic")]
    assert (detector.resize.mode, detector.resize.pad, detector.mean, detector.std) == ("letterbox", 114, (0,), (1,))


@pytest.mark.parametrize("name", ["cnn32", "yolov8n", "resnet18", "regnet_y_400mf", "timm/vit_tiny_patch16_224"])
def test_the_classes_are_read_off_the_head(name: str) -> None:
    state = build(name, 23).module.state_dict()
    assert architectures.num_classes_of(name, state) == 23
    assert architectures.num_classes_of(name, {}) is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet5o", "Did you mean resnet50 or"),
        ("timm/efficientnet_b00", "Did you mean timm/efficientnet_b0 or"),
        ("yolov9n", "Did you mean yolov8n or"),
        ("", "Possible are cnn32"),
        ("ssdlite320_mobilenet_v3_large", "the classification models can be named. Export this one to ONNX"),
        ("vit_tiny_patch16_224", "Did you mean timm/vit_tiny_patch16_224"),
        ("timm/hf_hub:someone/something", "There is no architecture"),
        ("timm/local-dir:/etc", "There is no architecture"),
        ("timm/../resnet50", "There is no architecture"),
        ("timm/resnet50.no_such_tag", "timm cannot make"),
    ],
)
def test_a_name_that_is_none(name: str, said: str) -> None:
    with pytest.raises(errors.InvalidInput, match=re.escape(said)):
        build(name)


@pytest.mark.parametrize("classes", [0, -1, 65_537])
def test_no_such_number_of_classes(classes: int) -> None:
    with pytest.raises(errors.InvalidInput, match="between 1 and 65,536"):
        build("cnn32", classes)
