"""What trains and what validates, in what order: properties for all datasets; the part test is never touched."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import errors
from shared.specs import DatasetIndex, Sample, Split
from trainer import sampling

seeds = st.integers(0, 2**32 - 1)
epochs = st.integers(1, 1000)
balances = st.sampled_from(["none", "sqrt", "equal"])
some_counts = st.lists(st.integers(1, 60), min_size=2, max_size=6)


def sample(member: str, split: Split, class_id: int, time_s: float | None = None) -> Sample:
    return Sample(
        member=member, time_s=time_s, width=8, height=8, split=split, class_id=class_id, dhash=0, offset=0, size=1
    )


def index(samples: list[Sample]) -> DatasetIndex:
    colours = (0.5, 0.5, 0.5)
    return DatasetIndex(task_type="classification", classes=list("abcdef"), mean=colours, std=colours, samples=samples)


def of_counts(counts: list[int], test: int = 3) -> DatasetIndex:
    images = [
        sample(f"{label}/{number}", "train", label) for label, many in enumerate(counts) for number in range(many)
    ]
    return index([*images, *(sample(f"test/{number}", "test", 0) for number in range(test))])


def labels_of(counts: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)


@given(some_counts, st.floats(0.05, 0.9), seeds)
def test_a_division_takes_every_image_but_those_of_test(counts, share, seed):
    data = of_counts([max(10, count) for count in counts])
    found = sampling.parts(data, share, seed)
    names = [each.member for each in (*found.train, *found.val)]
    assert sorted(names) == sorted(each.member for each in data.samples if each.split != "test")
    assert sampling.parts(data, share, seed) == found
    assert set(sampling.class_counts(found.train)) == set(sampling.class_counts(found.val)) == set(range(len(counts)))
    assert len(found.val) == pytest.approx(share * len(names), abs=2 * len(counts))


def test_frames_of_a_video_stay_together():
    frames = [sample(f"{film}.mp4", "train", film % 2, float(at)) for film in range(20) for at in range(5)]
    found = sampling.parts(index(frames), 0.3, 0)
    assert not {each.member for each in found.train} & {each.member for each in found.val}
    assert found.val


def test_parts_as_they_are():
    data = index([sample("1", "train", 0), sample("2", "train", 1), sample("3", "val", 0), sample("4", "test", 0)])
    found = sampling.parts(data, None, 0)
    assert ([each.member for each in found.train], [each.member for each in found.val]) == (["1", "2"], ["3"])


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        ([sample("1", "val", 0)], "0 images for training"),
        ([sample("1", "train", 0), sample("2", "train", 1)], "no images in its part val.*validation_split"),
        ([sample("1", "train", 0), sample("2", "train", 0), sample("3", "val", 1)], "all of one class"),
    ],
)
def test_what_cannot_be_trained_with_is_refused(samples, why):
    with pytest.raises(errors.InvalidInput, match=why):
        sampling.parts(index(samples), None, 0)


@given(some_counts, balances, seeds, epochs)
def test_an_order_is_as_long_as_the_dataset_and_follows_from_seed_and_epoch(counts, balance, seed, epoch):
    labels = labels_of(counts)
    order = sampling.epoch_order(labels, balance, seed, epoch)
    assert len(order) == len(labels)
    assert np.array_equal(order, sampling.epoch_order(labels, balance, seed, epoch))
    drawn = Counter(order.tolist())
    for label in range(len(counts)):
        often = [drawn[place] for place in np.flatnonzero(labels == label).tolist()]
        assert max(often) - min(often) <= 1
        assert sum(often) >= 1


@given(st.integers(2, 50), balances, seeds, epochs)
def test_alike_classes_are_gone_through_once(count, balance, seed, epoch):
    order = sampling.epoch_order(labels_of([count, count]), balance, seed, epoch)
    assert sorted(order.tolist()) == list(range(2 * count))


def test_epochs_and_seeds_differ():
    labels = labels_of([50, 50])
    orders = {
        sampling.epoch_order(labels, "none", seed, epoch).tobytes() for seed, epoch in [(0, 1), (0, 2), (1, 1), (1, 2)]
    }
    assert len(orders) == 4


@given(some_counts, balances)
def test_shares_make_up_the_whole(counts, balance):
    found = sampling.shares(np.array(counts), balance)
    assert found.sum() == sum(counts)
    assert found.min() >= 1


def test_shares_by_root_and_alike():
    counts = np.array([900, 100])
    assert sampling.shares(counts, "equal").tolist() == [500, 500]
    assert sampling.shares(counts, "sqrt").tolist() == pytest.approx([750, 250], abs=1)
    assert sampling.shares(counts, "none").tolist() == pytest.approx([900, 100], abs=1)


@given(st.integers(2, 500), st.integers(2, 64))
def test_batches_are_nearly_alike(count, size):
    found = sampling.batches(np.arange(count), size)
    assert np.concatenate(found).tolist() == list(range(count))
    lengths = [len(each) for each in found]
    assert max(lengths) <= max(size, 3)
    assert min(lengths) >= 2  # a normalisation cannot learn from one image
    assert max(lengths) - min(lengths) <= 1
    assert len(found) == -(-count // size) or size == 2


def test_a_single_image_can_be_judged():
    assert [each.tolist() for each in sampling.batches(np.arange(1), 4)] == [[0]]
