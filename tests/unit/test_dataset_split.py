"""Division into parts and near-duplicates across them: properties for all groups, exactness against brute force."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preparer import duplicates
from shared import errors, split
from shared.specs import SPLITS, Split
from shared.split import Group, divide

some_groups = st.lists(
    st.tuples(st.integers(1, 40), st.frozensets(st.integers(0, 5), max_size=3)), min_size=1, max_size=80
).map(lambda rows: [Group(f"g{number}", size, classes) for number, (size, classes) in enumerate(rows)])
some_parts = st.tuples(st.integers(1, 100), st.integers(0, 99)).map(
    lambda cut: (cut[0], min(cut[1], 100 - cut[0]), 100 - cut[0] - min(cut[1], 100 - cut[0]))
)


def images(counts: dict[int, int]) -> list[Group]:
    return [
        Group(f"{label}/{number}", 1, frozenset({label})) for label, count in counts.items() for number in range(count)
    ]


def sizes(groups: list[Group], chosen: dict[str, Split]) -> Counter[Split]:
    return Counter({name: sum(group.size for group in groups if chosen[group.key] == name) for name in SPLITS})


@given(some_groups, some_parts, st.integers(0, 2**32 - 1), st.randoms())
def test_always(groups, parts, seed, shuffler):
    chosen = divide(groups, parts, seed)
    assert chosen.keys() == {group.key for group in groups}
    trained = {name for group in groups if chosen[group.key] == "train" for name in group.classes}
    assert trained == {name for group in groups for name in group.classes}, "every class is trained"
    assert {part for part, share in zip(SPLITS, parts, strict=True) if share} >= set(chosen.values())
    mixed = groups[:]
    shuffler.shuffle(mixed)
    assert divide(mixed, parts, seed) == chosen, "the order does not matter"


@given(st.dictionaries(st.integers(0, 20), st.integers(1, 60), min_size=1, max_size=20), some_parts, st.integers(0, 99))
def test_single_images_keep_the_shares(counts, parts, seed):
    groups = images(counts)
    chosen = divide(groups, parts, seed)
    for label, count in counts.items():
        got = Counter(chosen[f"{label}/{number}"] for number in range(count))
        for part, share in zip(SPLITS, parts, strict=True):
            assert abs(got[part] - count * share / 100) <= 3
            assert got[part] or not share or count < split.FEW
    total = sum(counts.values())
    for part, share in zip(SPLITS, parts, strict=True):
        assert abs(sizes(groups, chosen)[part] - total * share / 100) <= 2 + 2 * len(counts)


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, (1, 0, 0)), (2, (2, 0, 0)), (4, (3, 0, 1)), (5, (3, 1, 1)), (10, (8, 1, 1)), (100, (80, 10, 10))],
)
def test_sizes_of_one_class(count: int, expected: tuple[int, int, int]):
    got = sizes(groups := images({0: count}), divide(groups, split.DEFAULT, 0))
    assert tuple(got[part] for part in SPLITS) == expected


def test_what_small_classes_round_off_is_made_up_for():
    groups = images(dict.fromkeys(range(100), 4))
    got = sizes(groups, divide(groups, split.DEFAULT, 0))
    assert 35 <= got["val"] <= 45
    assert 35 <= got["test"] <= 45


def test_another_seed_is_another_division():
    groups = images({0: 50, 1: 50})
    one, other = divide(groups, split.DEFAULT, 1), divide(groups, split.DEFAULT, 2)
    assert one != other
    assert sizes(groups, one) == sizes(groups, other)


def test_rare_classes_of_detection_reach_every_part():
    common = [Group(f"c{number}", 1, frozenset({0})) for number in range(1000)]
    rare = [Group(f"r{number}", 1, frozenset({0, 1})) for number in range(10)]
    chosen = divide(common + rare, split.DEFAULT, 0)
    assert Counter(chosen[group.key] for group in rare) == {"train": 8, "val": 1, "test": 1}


def test_of_few_long_films_the_longest_are_trained_on():
    films = [Group(f"f{number}", 10 * number, frozenset({number % 2})) for number in range(1, 7)]
    chosen = divide(films, split.DEFAULT, 0)
    assert chosen["f6"] == chosen["f5"] == "train"


@pytest.mark.parametrize("parts", [(80, 10), (80, 10, 11), (0, 50, 50), (110, -10, 0), ()])
def test_parts_that_are_none(parts):
    with pytest.raises(errors.InvalidInput, match="80/10/10"):
        split.check_parts(parts)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_near_duplicates_are_those_of_brute_force(seed, count):
    random = np.random.default_rng(seed)
    base = random.integers(1, 2**63, 4, dtype=np.uint64)
    flips = np.uint64(1) << random.integers(0, 64, (count, 3), dtype=np.uint64)
    hashes = random.choice(base, count) ^ np.bitwise_xor.reduce(
        flips * random.integers(0, 2, (count, 3)).astype(np.uint64), 1
    )
    splits: list[Split] = [SPLITS[part] for part in random.integers(0, 3, count)]
    found = duplicates.across(hashes, splits, 10_000)
    seen = set()
    for first in range(count):
        for second in range(count):
            distance = (int(hashes[first]) ^ int(hashes[second])).bit_count()
            if SPLITS.index(splits[first]) < SPLITS.index(splits[second]) and distance <= duplicates.RADIUS:
                seen.add((splits[first], int(hashes[first]), splits[second], int(hashes[second]), distance))
    got = {(splits[a], int(hashes[a]), splits[b], int(hashes[b]), distance) for a, b, distance in found.pairs}
    assert got == seen
    assert found.total == len(found.pairs) == len(seen)
    assert [pair[2] for pair in found.pairs] == sorted(pair[2] for pair in found.pairs)


def test_even_surfaces_are_no_duplicates():
    hashes = np.array([0, 0, 2**64 - 1, 2**64 - 1], np.uint64)
    assert duplicates.across(hashes, ["train", "test", "train", "val"], 10).total == 0


def test_many_equal_ones_cost_nothing():
    hashes = np.full(100_000, 12345, np.uint64)
    splits: list[Split] = ["train"] * 80_000 + ["val"] * 10_000 + ["test"] * 10_000
    started = time.monotonic()
    assert duplicates.across(hashes, splits, 10).total == 3
    assert time.monotonic() - started < 2


def test_too_many_to_compare_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(duplicates, "MOST_COMPARED", 100)
    hashes = np.arange(1, 101, dtype=np.uint64) << np.uint64(20)
    assert not duplicates.across(hashes, ["train"] * 50 + ["val"] * 50, 10).complete
