"""Batches: for validation the tensors that serving makes, for training variations that follow from the seed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shared import errors
from shared.specs import Preprocessing, Resize
from shared.vision import augmentation
from shared.vision.decode import decode
from shared.vision.preprocess import preprocess
from tests.dataset_kit import Checked, check_here, of_classes, zipped
from trainer import batches
from trainer.batches import Images, Loader, draws_of

CONTRACT = Preprocessing(resize=Resize(height=12, width=12, mode="shorter_side"), mean=(0.4,), std=(0.2,))
ALL = np.arange(12)

Opened = Callable[[], Images]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Checked:
    return check_here(zipped(tmp_path_factory.mktemp("data") / "images.zip", of_classes({"a": 6, "b": 6})))


@pytest.fixture
def opened(data: Checked) -> Iterator[Opened]:
    """Makes one that has decoded nothing yet, as often as it is called."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(contextlib.closing(Images(data.paths["pack"], data.index.samples, CONTRACT)))


def test_validation_sees_what_serving_would_make(data: Checked, opened: Opened) -> None:
    found = opened().batch(ALL)
    for place, row in zip(found.places, found.images, strict=True):
        np.testing.assert_array_equal(row, preprocess(decode(data.copy(int(place))), CONTRACT))
    assert found.targets.tolist() == [sample.class_id for sample in data.index.samples]


@pytest.mark.parametrize("kind", ["light", "strong"])
def test_variations_follow_from_seed_and_epoch_alone(opened: Opened, kind: str) -> None:
    def made(workers: int, epoch: int) -> np.ndarray:
        loader = Loader(workers)
        pieces = [ALL[:5], ALL[5:10], ALL[10:]]
        found = [each.images for each in loader.load(opened(), pieces, kind, draws_of(12, 0, epoch))]
        loader.close()
        return np.concatenate(found)

    one = made(1, 1)
    np.testing.assert_array_equal(one, made(3, 1))
    again = opened()
    again.batch(ALL)  # decoded already
    np.testing.assert_array_equal(one, again.batch(ALL, kind, draws_of(12, 0, 1)).images)
    assert not np.array_equal(one, made(1, 2))
    assert not np.array_equal(one, opened().batch(ALL).images)


def test_only_some_batches_wait(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    enough = threading.Event()
    source = opened()
    whole = source.batch

    def counted(*given):
        made.append(1)
        if len(made) == 1 + batches.AHEAD:
            enough.set()
        return whole(*given)

    monkeypatch.setattr(source, "batch", counted)
    loader = Loader(1)
    loaded = loader.load(source, [ALL[:1]] * 50)
    next(loaded)
    assert enough.wait(10)
    loaded.close()
    loader.close()
    assert len(made) <= 1 + batches.AHEAD + 1


def test_a_pack_that_is_cut_off_is_refused(data: Checked, tmp_path: Path) -> None:
    short = tmp_path / "short.pack"
    short.write_bytes(data.paths["pack"].read_bytes()[:-10])
    with (
        contextlib.closing(Images(short, data.index.samples, CONTRACT)) as cut,
        pytest.raises(errors.BadDataset, match="cut off; upload it again"),
    ):
        cut.batch(ALL)
    with pytest.raises(errors.BadDataset, match="gone"):
        Images(tmp_path / "none", data.index.samples, CONTRACT)


def test_what_does_not_fit_the_memory_is_decoded_again(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "CACHE_BYTES", 3 * 24 * 16 * 3)
    source = opened()
    first = source.batch(ALL)
    assert len(source._decoded) == 3
    np.testing.assert_array_equal(first.images, source.batch(ALL).images)


@given(
    st.sampled_from(["RGB", "L"]),
    st.integers(1, 40),
    st.integers(1, 40),
    st.lists(st.floats(0, 1, width=32), min_size=augmentation.DRAWS, max_size=augmentation.DRAWS),
)
def test_every_size_can_be_varied(mode, width, height, numbers):
    image = Image.effect_noise((width, height), 60).convert(mode)
    before = image.tobytes()
    draws = np.array(numbers, np.float32)
    for kind in ("none", "light", "strong"):
        found = augmentation.augmented(image, kind, draws)
        assert found.mode == mode
        assert 1 <= found.width <= width
        assert 1 <= found.height <= height
        assert found.tobytes() == augmentation.augmented(image, kind, draws).tobytes()
    assert image.tobytes() == before


def test_strong_variations_mirror_half_of_the_time_and_light_ones_never():
    pixels = np.zeros((40, 40), np.uint8)
    pixels[:, 30:] = 200
    image = Image.fromarray(pixels)
    draws = draws_of(400, 0, 1)

    def mirrored(kind: str) -> int:
        found = (np.asarray(augmentation.augmented(image, kind, row), np.float64) for row in draws)
        halves = (np.array_split(each.mean(axis=0), 2) for each in found)
        return sum(left.mean() > right.mean() for left, right in halves)

    assert mirrored("light") == 0
    assert 120 < mirrored("strong") < 280


def test_small_images_are_varied_lightly():
    assert (augmentation.default_for(64), augmentation.default_for(65)) == ("light", "strong")
