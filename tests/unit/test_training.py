"""How a network learns: schedule, decay, halved batches, frozen parts, checkpoints, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.training import checkpoint_tensors
from shared import errors
from shared.db import trainings
from shared.specs import HyperParameters, Preprocessing, Resize
from tests.conftest import needs
from tests.dataset_kit import Checked
from tests.training_kit import (
    CONTRACT,
    LABELS,
    dataset,
    here,
    order,
    settings_of_pytorch,
    weights_file,
)
from trainer import CHECKPOINT
from trainer.batches import Batch

torch = needs("torch")

from shared.nets import architectures  # noqa: E402
from shared.nets import weights as weights_of  # noqa: E402
from trainer import checkpoint, classification, loop, network, terms, training  # noqa: E402

WANTED = HyperParameters(
    learning_rate=0.1, batch_size=8, optimizer="sgd", weight_decay=0.01, augmentation="none", patience=3
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Checked:
    return dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights_file(tmp_path_factory.mktemp("weights"))


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    with settings_of_pytorch():
        yield


def never() -> bool:
    return False


def batch(count: int = 8, seed: int = 0) -> Batch:
    drawn = np.random.default_rng(seed)
    return Batch(drawn.random((count, 3, 8, 8), np.float32), drawn.integers(0, 2, count), np.arange(count))


def flat(seed: int = 0) -> torch.nn.Module:
    """No normalisation, so that a batch may be cut anywhere."""
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))


def learner(module: torch.nn.Module, wanted: HyperParameters = WANTED, frozen: list[torch.nn.Module] | None = None):
    return loop.Learner(module, classification.loss, frozen or [], wanted, steps_per_epoch=1, max_epochs=10)


def learn(one, *batches: Batch, epoch: int = 1):
    return one.epoch(batches, epoch, 0, never, lambda done, loss: None)


# --- schedule and decay -----------------------------------------------------------------------------------------------


@given(st.integers(1, 100_000))
def test_the_rate_rises_in_a_line_and_falls_along_a_cosine(steps):
    warmup = min(loop.MOST_WARMUP, int(loop.WARMUP_SHARE * steps))
    rates = [loop.rate_share(step, steps) for step in {0, warmup // 2, warmup, (warmup + steps) // 2, steps - 1}]
    assert all(0 < rate <= 1 for rate in rates)
    assert loop.rate_share(warmup, steps) == 1
    if warmup > 1:
        assert loop.rate_share(0, steps) < loop.rate_share(warmup - 1, steps) < 1
    if steps - warmup > 2:
        middle = (warmup + steps - 1) // 2
        assert 1 >= loop.rate_share(middle, steps) > loop.rate_share(steps - 1, steps)
        assert loop.rate_share(steps - 1, steps) == pytest.approx(loop.FINAL_SHARE)


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet10t", "timm/vit_tiny_patch16_224"])
def test_norms_and_biases_do_not_decay(name):
    module = architectures.unscaled(name, 3).module
    decaying, others = network.decay_groups(module, 0.1)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    known = {id(value): key for key, value in module.named_parameters()}
    kept = {known[id(value)] for value in others["params"]}
    assert all(value.ndim > 1 for value in decaying["params"])
    assert {key for key in known.values() if key.endswith("bias")} <= kept
    assert len(decaying["params"]) + len(others["params"]) == len(known)
    if "vit" in name:
        assert {"pos_embed", "cls_token"} <= kept


def test_what_is_left_open_follows_from_the_rest():
    found = terms.resolved(HyperParameters(), 100, Resize(height=32, width=32))
    assert found.image_size == 32
    assert (found.learning_rate, found.weight_decay, found.augmentation, found.patience) == (1e-3, 0.01, "light", 25)
    found = terms.resolved(HyperParameters(optimizer="sgd", patience=2), 8, Resize(height=128, width=224))
    assert found.image_size is None
    assert (found.learning_rate, found.weight_decay, found.augmentation, found.patience) == (0.05, 5e-4, "strong", 2)


# --- a step -----------------------------------------------------------------------------------------------------------


class Scarce(torch.nn.Module):
    """Takes no more than so many images at a time."""

    def __init__(self, inner: torch.nn.Module, most: int) -> None:
        super().__init__()
        self.inner, self.most = inner, most

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.inner(images)


def test_a_small_batch_is_not_cut_into_single_images():
    halved = learner(Scarce(torch.nn.Sequential(flat(), torch.nn.BatchNorm1d(2)), 4))
    learn(halved, batch(), batch(3))
    assert halved.halved


def test_without_memory_batches_are_halved_once_and_learn_the_same():
    whole, halved = learner(flat()), learner(Scarce(flat(), 4))
    one, other = learn(whole, batch(), batch(seed=1)), learn(halved, batch(), batch(seed=1))
    assert (whole.halved, halved.halved) == (False, True)
    assert one.loss == pytest.approx(other.loss)
    for left, right in zip(whole.module.parameters(), halved.module.parameters(), strict=True):
        torch.testing.assert_close(left, right)


def test_where_halves_do_not_fit_it_says_what_to_do():
    with pytest.raises(errors.TooLarge, match=r"batches of 4 images as well\. Order with a smaller batch_size"):
        learn(learner(Scarce(flat(), 3)), batch())


def test_a_loss_that_is_no_number_stops_it_and_says_when():
    bad = batch(seed=2)
    bad.images[3] = np.nan
    with pytest.raises(errors.InvalidInput, match=r"in epoch 4, step 3, at a learning rate of .*lower learning_rate"):
        learn(learner(flat()), batch(), batch(seed=1), bad, batch(seed=3), epoch=4)


def test_gradients_are_clipped():
    module = flat()
    before = [value.detach().clone() for value in module.parameters()]
    wild = batch()
    wild.images[:] *= 1e6
    learn(learner(module), wild)
    moved = sum(
        float((old - new).detach().square().sum()) for old, new in zip(before, module.parameters(), strict=True)
    )
    assert 0 < moved**0.5 <= 0.1 * loop.CLIP_NORM * 2  # Nesterov's first step is 1.9 gradients long


def test_it_can_be_stopped_between_two_batches():
    asked = []
    one = learner(flat())
    before = {name: value.clone() for name, value in one.module.state_dict().items()}
    with pytest.raises(loop.Stopped):
        one.epoch([batch(), batch()], 1, 0, lambda: not asked.append(1), lambda done, loss: None)
    assert len(asked) == 1
    assert all(torch.equal(before[name], value) for name, value in one.module.state_dict().items())


# --- the network ------------------------------------------------------------------------------------------------------


def test_frozen_stages_keep_weights_and_statistics():
    net = architectures.build("cnn32", 2)
    heads = architectures.heads("cnn32")
    frozen, said = network.freeze(net.module, 3, heads)
    assert said == "3 of 6 stages keep their weights: features.0, features.1, features.2."
    before = {name: value.clone() for name, value in net.module.state_dict().items()}
    learn(learner(net.module, frozen=frozen), batch())
    moved = {name for name, value in net.module.state_dict().items() if not torch.equal(before[name], value)}
    assert not any(name.startswith(("features.0.", "features.1.", "features.2.")) for name in moved)
    assert {"features.4.body.0.0.weight", "features.4.body.0.1.running_mean", "classifier.2.weight"} <= moved


def test_all_stages_frozen_the_head_still_learns():
    module = architectures.build("resnet18", 2).module
    network.freeze(module, 256, architectures.heads("resnet18"))
    assert [name for name, value in module.named_parameters() if value.requires_grad] == ["fc.weight", "fc.bias"]


def test_dropout_acts_where_the_network_has_it_or_before_its_head():
    module = architectures.build("cnn32", 2).module
    assert network.set_dropout(module, 0.5, architectures.heads("cnn32")) is None
    assert module.classifier[1].p == 0.5
    module = architectures.build("resnet18", 2).module
    seen = []
    module.fc.register_forward_hook(lambda layer, given, made: seen.append(float((given[0] == 0).float().mean())))
    assert "before its last layer" in network.set_dropout(module, 0.5, architectures.heads("resnet18"))
    images = torch.randn(4, 3, 32, 32)
    module.train()(images)
    module.eval()(images)
    assert seen[0] > 0.4 > seen[1]


def test_a_head_for_other_classes_begins_anew_and_the_rest_stays(weights: Path, data: Checked):
    same, wider = (msgspec.structs.replace(data.index, classes=names) for names in (LABELS, ["blue", "green", "red"]))
    old = network.start(weights, LABELS, same, 0)
    new = network.start(weights, LABELS, wider, 0)
    assert (old.notes, new.net.architecture.num_classes) == ([], 3)
    assert new.notes == ["The model had 2 classes: its last layer begins anew, from the seed."]
    assert network.start(weights, ["red", "blue"], same, 0).notes[0].startswith("The model had other classes")
    assert network.start(weights, None, same, 0).notes == []
    one, other = old.net.module.state_dict(), new.net.module.state_dict()
    assert {name for name in one if not torch.equal(one[name], other[name])} == set(new.heads)


def test_the_contract_for_another_size_cuts_out_as_much_of_an_image():
    was = Preprocessing(resize=Resize(height=224, width=224, mode="shorter_side", scale_to=256))
    now = terms.resized(was, 112).resize
    assert (now.height, now.width, now.mode, now.scale_to) == (112, 112, "shorter_side", 128)
    assert terms.resized(CONTRACT, 32).resize == Resize(height=32, width=32)


@pytest.mark.parametrize(
    ("name", "side", "why"),
    [
        ("alexnet", 32, r"alexnet cannot be trained at image_size 32 \(.*it takes 224"),
        ("timm/vit_tiny_patch16_224", 160, r"cannot be trained at image_size 160"),
        ("yolov8n", 100, r"yolov8n cannot be trained at image_size 100: it takes multiples of 32"),
    ],
)
def test_a_size_that_a_network_cannot_take_is_refused(name, side, why):
    net = architectures.unscaled(name, 2)
    known = network.Start(net, net.architecture.input_shape, architectures.heads(name), [])
    assert network.sized(known, known.input_shape) is known
    with pytest.raises(errors.InvalidInput, match=why):
        network.sized(known, (3, side, side))


def test_an_order_is_held_to_the_step_of_the_network():
    assert trainings.DETECTOR_STEP == network.COARSEST


def test_trained_at_another_size_it_is_of_that_size(weights: Path, data: Checked, tmp_path: Path):
    wanted = HyperParameters(batch_size=16, image_size=12)
    files = {name: (tmp_path / name).open("wb") for name in ("onnx", "weights")}
    outputs = {name: file.fileno() for name, file in files.items()}
    said: list[dict[str, Any]] = []
    made = here(
        order(weights, data, tmp_path / "run", max_epochs=1, hyperparams=wanted, outputs=outputs), report=said.append
    )
    for file in files.values():
        file.close()
    assert said[0]["stage"] == "looking at the network, which is to take images of 12 x 12"
    assert [body["stage"] for body in said[-4:]] == [
        "judging the best epoch",
        "exporting it as ONNX",
        "comparing the exported file with PyTorch",
        "describing and writing the model",
    ]
    assert (made.preprocessing.resize.height, made.result.hyperparams.image_size) == (12, 12)
    net, about = weights_of.kept(tmp_path / "weights")
    assert about.input_shape == (3, 12, 12)
    assert [each.batch for each in made.facts.parity] == [1, 2, 8]
    assert made.facts.stages == len(architectures.stages(net.module, architectures.heads("cnn32"))) > 0
    assert net.architecture.name == "cnn32"


# --- a whole training -------------------------------------------------------------------------------------------------


def test_it_learns_and_says_how(weights: Path, data: Checked, tmp_path: Path):
    said = []
    wanted = HyperParameters(batch_size=8, learning_rate=0.01, patience=10)
    made = here(order(weights, data, tmp_path / "run", max_epochs=6, hyperparams=wanted), report=said.append)
    result = made.result
    assert result.final_accuracy > 0.8
    assert result.final_accuracy == max(each.val_accuracy for each in result.epochs)
    assert result.epochs[result.best_epoch - 1].val_accuracy == result.final_accuracy
    assert sum(count for _, _, count in result.confusion) == result.num_val == 16
    right = sum(count for true, found, count in result.confusion if true == found)
    assert right / result.num_val == pytest.approx(result.final_accuracy)
    losses = [each.loss for each in result.worst]
    assert losses == sorted(losses, reverse=True)
    assert all(each.member.startswith("val/") for each in result.worst)
    assert (result.device, result.threads, made.finished, made.facts) == ("CPU", 1, True, None)
    assert msgspec.json.decode(msgspec.json.encode(made), type=type(made)) == made
    told = [body for body in said if "checkpoint" in body]
    assert [body["eta_s"] > 0 for body in told] == [True] * 5 + [False]
    assert told[-1]["fraction"] == training.ENDING
    stages = [stage for stage, _ in itertools.groupby(body["stage"] for body in said)]
    assert stages == ["looking at the network", *["training", "validating"] * 6, "training", "judging the best epoch"]
    assert [body["fraction"] for body in said] == sorted(body["fraction"] for body in said)


def test_weights_that_leave_the_numbers_stop_it_and_it_says_when(weights: Path, data: Checked, tmp_path: Path):
    wild = HyperParameters(batch_size=16, learning_rate=10, optimizer="sgd", weight_decay=1.0)
    with pytest.raises(errors.InvalidInput, match=r"epoch \d+.* at a learning rate\s+of .*lower learning_rate"):
        here(order(weights, data, tmp_path / "run", max_epochs=30, hyperparams=wild))


def test_it_stops_early_and_keeps_the_best(weights: Path, data: Checked, tmp_path: Path):
    wild = HyperParameters(batch_size=8, learning_rate=3.0, optimizer="sgd", patience=1)
    made = here(order(weights, data, tmp_path / "run", max_epochs=50, hyperparams=wild))
    assert made.result.stopped_early
    assert len(made.result.epochs) == made.result.best_epoch + 1 < 50


def test_paused_and_taken_up_again_it_is_as_if_it_never_was(weights: Path, data: Checked, tmp_path: Path):
    whole = here(order(weights, data, tmp_path / "whole"))
    first = here(order(weights, data, tmp_path / "parts", until_epoch=1))
    assert (first.finished, len(first.result.epochs)) == (False, 1)
    with pytest.raises(loop.Stopped):
        here(order(weights, data, tmp_path / "parts"), stop=lambda: True)
    last = here(order(weights, data, tmp_path / "parts"))
    assert last.finished
    assert checkpoint_tensors(tmp_path / "whole") == checkpoint_tensors(tmp_path / "parts")
    assert last.result.confusion == whole.result.confusion


def test_a_checkpoint_of_another_order_is_not_used_and_that_is_said(weights: Path, data: Checked, tmp_path: Path):
    here(order(weights, data, tmp_path / "run", until_epoch=1))
    other = here(order(weights, data, tmp_path / "run", until_epoch=1, seed=5))
    assert [note for note in other.result.notes if "of another order" in note]
    (tmp_path / "run" / CHECKPOINT).write_bytes(b"\0" * 100)
    damaged = here(order(weights, data, tmp_path / "run", until_epoch=1))
    assert [note for note in damaged.result.notes if "cannot be read" in note]


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    one = learner(flat())
    learn(one, batch())
    facts = checkpoint.Progress(key="k", epochs=[], best_epoch=0, threads=1, halved=False, notes=[], versions={})
    checkpoint.write(tmp_path, facts, one.module, one.module.state_dict(), one.optimizer)
    before = (tmp_path / CHECKPOINT).read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(errors.Unavailable, match=r"No space left.*goes on from the epoch before"):
        checkpoint.write(tmp_path, facts, one.module, {}, one.optimizer)
    assert [file.name for file in tmp_path.iterdir()] == [CHECKPOINT]
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    found = checkpoint.read(tmp_path, "k")
    with pytest.raises(checkpoint.Unfit, match="another network"):
        checkpoint.restore(found, architectures.build("cnn32", 2).module, one.optimizer)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"preprocessing": Preprocessing(resize=Resize(height=9, width=8))}, r"makes images of \[3, 9, 8\]"),
        ({"preprocessing": msgspec.structs.replace(CONTRACT, layout="NHWC")}, "channels first"),
        ({"weights": "/nowhere"}, "weights are gone"),
    ],
)
def test_what_does_not_fit_is_refused(weights: Path, data: Checked, tmp_path: Path, changed, why):
    asked = msgspec.structs.replace(order(weights, data, tmp_path / "run"), **changed)
    with pytest.raises(errors.AppError, match=why):
        here(asked)


def test_validation_is_divided_anew_and_test_is_never_touched(weights: Path, data: Checked, tmp_path: Path):
    made = here(order(weights, data, tmp_path / "run", max_epochs=1, validation_split=0.5))
    assert (made.result.num_train, made.result.num_val) == (32, 32)
    assert not [each for each in made.result.worst if each.member.startswith("test/")]
