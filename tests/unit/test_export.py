"""From a network to ONNX: the same answers at every batch, or a reason; nothing of this machine in the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from shared import errors
from shared.specs import Architecture, Preprocessing, Resize
from tests.conftest import needs

torch = needs("torch")

from shared.nets.architectures import Net, build  # noqa: E402
from shared.nets.export import TOLERANCE, _difference, export  # noqa: E402

MADE_UP = Architecture(
    name="made up",
    num_classes=2,
    task="classification",
    preprocessing=Preprocessing(resize=Resize(height=4, width=4)),
)


class Layer(torch.nn.Module):
    """A network of one function."""

    def __init__(self, act: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.act = act

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.act(images)


def made_up(act: Callable[[torch.Tensor], torch.Tensor]) -> Net:
    return Net(Layer(act).eval(), MADE_UP)


def lively(name: str, num_classes: int) -> Net:
    """With statistics in its normalisations, which a new network has not and the exporter folds away."""
    net = build(name, num_classes)
    generator = torch.Generator().manual_seed(0)
    for key, value in net.module.state_dict().items():
        if key.endswith("running_mean"):
            value.normal_(0, 0.1, generator=generator)
        if key.endswith("running_var"):
            value.uniform_(0.5, 2, generator=generator)
    return net


@pytest.mark.parametrize(("name", "shape"), [("resnet18", (3, 64, 64)), ("yolov8n", (3, 64, 96))])
def test_the_same_answers_at_every_batch(name: str, shape: tuple[int, ...]) -> None:
    content, facts, *_ = export(lively(name, 6), shape)
    assert [each.batch for each in facts.parity] == [1, 2, 8]
    for each in facts.parity:
        assert each.max_abs_output > 1e-3
        assert each.max_abs_diff <= TOLERANCE * max(1.0, each.max_abs_output)
    assert facts.dynamic_batch
    assert facts.seconds > 0
    model = onnx.load_model_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": facts.opset}
    (taken,), (given,) = model.graph.input, model.graph.output
    assert (taken.name, given.name) == ("images", "output")
    assert taken.type.tensor_type.shape.dim[0].dim_param == given.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [dim.dim_value for dim in taken.type.tensor_type.shape.dim[1:]] == list(shape)
    assert str(Path(__file__).parents[2]).encode() not in content
    assert b"stack_trace" not in content


def test_equal_networks_give_equal_files() -> None:
    assert export(build("cnn32", 3)).onnx == export(build("cnn32", 3)).onnx


def test_a_batch_that_is_built_in_is_declared_fixed() -> None:
    exported = export(made_up(lambda images: images.reshape(1, -1)[:, :48].sum(1, keepdim=True)))
    assert not exported.facts.dynamic_batch
    assert [each.batch for each in exported.facts.parity] == [1]
    shape = onnx.load_model_from_string(exported.onnx).graph.input[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim] == [1, 3, 4, 4]


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda images: images.mean((2, 3)) + torch.rand(1), "something else|cannot export"),
        (lambda images: images.mean((2, 3)) / 0, "NaN or infinite"),
        (lambda images: images.mean((2, 3)).tolist(), "first axis is the batch; here it gives none"),
        (lambda images: images.mean(), r"first axis is the batch; here it gives \[\]"),
        (lambda images: images @ torch.zeros(9, 9), "cannot export"),
    ],
    ids=["random", "divides by zero", "no tensor", "no batch", "does not run"],
)
def test_what_cannot_be_converted(act: Callable[[torch.Tensor], torch.Tensor], said: str) -> None:
    with pytest.raises(errors.BadModel, match=said):
        export(made_up(act))


@pytest.mark.parametrize(
    ("wanted", "given", "agrees"),
    [
        (np.array([[1.0, 300.0]]), np.array([[1.02, 300.0]]), True),  # logits are one scale
        (np.array([[1.0, 3.0]]), np.array([[1.0004, 3.0]]), False),
        (np.array([[[300.0, 1.0], [0.5, 0.5]]]), np.array([[[300.02, 1.0], [0.5, 0.5]]]), True),  # pixels
        (np.array([[[300.0, 1.0], [0.5, 0.5]]]), np.array([[[300.0, 1.0], [0.5, 0.502]]]), False),  # scores beside them
        (np.array([[1e-5, 2e-5]]), np.array([[1e-5, 2.2e-5]]), False),  # tiny, and yet wrong
        (np.array([[0.0, 0.0]]), np.array([[0.0, 1e-12]]), True),
        (np.array([[1.0, 1.0]]), np.array([[1.0, np.nan]]), False),
    ],
)
def test_what_counts_as_the_same(wanted: np.ndarray, given: np.ndarray, agrees: bool) -> None:
    _, share = _difference(1, [wanted.astype(np.float32)], [given.astype(np.float32)])
    assert (share <= 1) is agrees
