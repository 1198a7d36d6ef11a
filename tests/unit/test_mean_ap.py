"""COCO's metric: our bootstrap sees the boxes as the library does."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.vision import mean_ap


def scene(seed: int, images: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Objects of three classes, and boxes near them: some moved, some missing, some of the wrong class."""
    draw = np.random.default_rng(seed)
    truths, found = [], []
    for _ in range(images):
        count = int(draw.integers(0, 5))
        corners = draw.uniform(0, 400, (count, 2))
        boxes = np.concatenate([corners, corners + draw.uniform(20, 200, (count, 2))], axis=1)
        classes = draw.integers(0, 3, count)
        truths.append(np.column_stack([boxes, classes]).astype(np.float32))
        kept = draw.random(count) < 0.8
        moved = boxes[kept] + draw.normal(0, 6, (int(kept.sum()), 4))
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)  # decoding leaves none without an area
        wrong = np.where(draw.random(len(moved)) < 0.2, draw.integers(0, 3, len(moved)), classes[kept])
        stray = draw.uniform(0, 400, (int(draw.integers(0, 3)), 2))
        stray = np.concatenate([stray, stray + 50], axis=1)
        rows = np.concatenate([moved, stray])
        scores = draw.permutation(len(rows) * 7 + 1)[: len(rows)] / (len(rows) * 7 + 1) + draw.random() / 1000
        labels = np.concatenate([wrong, draw.integers(0, 3, len(stray))])
        found.append(np.column_stack([rows, scores, labels]).astype(np.float32))
    return truths, found


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), images=st.integers(1, 12))
def test_taken_once_each_our_map_is_the_librarys(seed: int, images: int) -> None:
    truths, found = scene(seed, images)
    ours = mean_ap.mean_ap(mean_ap.match(truths, found), np.ones(images, np.intp))
    assert abs(ours - mean_ap.coco(truths, found).map) < 1e-6


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_an_image_drawn_twice_is_an_image_twice(seed: int) -> None:
    truths, found = scene(seed, 6)
    times = np.random.default_rng(seed).integers(0, 3, 6)
    again = [place for place, count in enumerate(times) for _ in range(count)]
    drawn = mean_ap.match([truths[place] for place in again], [found[place] for place in again])
    once = mean_ap.mean_ap(mean_ap.match(truths, found), times)
    assert abs(once - mean_ap.mean_ap(drawn, np.ones(len(again), np.intp))) < 1e-9


def test_boxes_on_their_objects_are_perfect_and_none_are_worth_nothing() -> None:
    truths, _ = scene(3, 10)
    perfect = [np.column_stack([rows[:, :4], np.full(len(rows), 0.9), rows[:, 4]]) for rows in truths]
    assert mean_ap.coco(truths, perfect) == (1.0, 1.0)
    nothing = [np.zeros((0, 6), np.float32) for _ in truths]
    assert mean_ap.coco(truths, nothing) == (0.0, 0.0)
    assert mean_ap.mean_ap(mean_ap.match(truths, nothing), np.ones(10, np.intp)) == 0.0
