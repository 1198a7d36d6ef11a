"""How a calibration is judged, and which of several is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from benchmarker import PrecisionOrder, quantize
from benchmarker.agreement import Agreement, agreement
from benchmarker.quantize import _best, _Trial
from shared import child, errors
from shared.specs import Detection, ModelDescription, Preprocessing, Resize, TensorInfo

CONTRACT = Preprocessing(resize=Resize(height=8, width=8))
DETECTOR = Preprocessing(resize=Resize(height=8, width=8), detection=Detection(format="corners", score_threshold=0.5))


def scores(*rows: list[float]) -> list[dict[str, np.ndarray]]:
    return [{"scores": np.array([row], np.float32)} for row in rows]


def test_equal_answers_agree_wholly() -> None:
    given = scores([1, 2], [3, 0])
    assert agreement(given, given, "classification", CONTRACT) == Agreement(1.0, 0.0)


def test_flips_count_and_distance_settles_the_rest() -> None:
    expected = scores([1, 2], [3, 0])
    near, far = scores([1, 2.1], [3, 0]), scores([1, 2.9], [3, 0])
    flipped = scores([2, 1.9], [3, 0])
    ranked = [agreement(expected, found, "classification", CONTRACT) for found in (near, far, flipped)]
    assert ranked == sorted(ranked, reverse=True)
    assert [each.same for each in ranked] == [1.0, 1.0, 0.5]


def test_what_is_not_finite_agrees_with_nothing() -> None:
    found = agreement(scores([1, 2]), scores([np.nan, 2]), "classification", CONTRACT)
    assert found == Agreement(0.0, -np.inf)


def boxes(*rows: tuple[float, ...]) -> list[dict[str, np.ndarray]]:
    return [{"boxes": np.array([rows], np.float32).reshape(1, -1, 6)}]


@pytest.mark.parametrize(
    ("found", "same"),
    [
        (boxes((0, 0, 4, 4, 0.9, 1), (5, 5, 8, 8, 0.8, 0)), 1.0),
        (boxes((0, 0, 4, 3.5, 0.6, 1), (5, 5, 8, 8, 0.8, 0)), 1.0),
        (boxes((0, 0, 4, 4, 0.9, 1), (5, 5, 8, 8, 0.8, 2)), 0.5),  # another class
        (boxes((0, 0, 4, 4, 0.9, 1), (5, 5, 8, 8, 0.3, 0)), 2 / 3),  # not sure enough
        (boxes(), 0.0),
    ],
)
def test_boxes_agree_by_class_and_place(found: list[dict[str, np.ndarray]], same: float) -> None:
    expected = boxes((0, 0, 4, 4, 0.9, 1), (5, 5, 8, 8, 0.8, 0))
    padded = [{"boxes": np.zeros_like(expected[0]["boxes"])}]
    padded[0]["boxes"][:, : found[0]["boxes"].shape[1]] = found[0]["boxes"]
    assert agreement(expected, padded, "detection", DETECTOR).same == pytest.approx(same)


def test_images_without_objects_agree() -> None:
    nothing = boxes((0, 0, 4, 4, 0.1, 1))
    assert agreement(nothing, nothing, "detection", DETECTOR).same == 1.0


class Tried:
    """Stands for the trials: what each way comes to is given."""

    def __init__(self, comes_to: dict[str, Agreement | None], left: Sequence[float] = ()) -> None:
        self.comes_to = comes_to
        self.ran: list[str] = []
        self._left = list(left)
        self.results: dict[str, tuple[Path, Agreement]] = {}
        self.notes: list[str] = []

    @property
    def left_s(self) -> float:
        """What is left after as many tries."""
        return self._left[min(len(self.ran), len(self._left) - 1)] if self._left else 300.0

    def run(self, method: str, extent: str = "whole") -> None:
        name = method if extent == "whole" else f"{method} {extent}"
        self.ran.append(name)
        if (reached := self.comes_to.get(name)) is not None:
            self.results[name] = Path(name), reached
        else:
            self.notes.append(f"{name} failed")


def best(comes_to: dict[str, Agreement | None], *left_s: float) -> tuple[str, Tried]:
    tried = Tried(comes_to, left_s)
    return _best(cast(_Trial, tried))[0], tried


GOOD, FAIR, BAD = Agreement(1.0, -0.01), Agreement(1.0, -0.02), Agreement(0.5, -0.5)


@pytest.mark.parametrize(
    ("comes_to", "kept"),
    [
        ({"minmax": GOOD, "percentile": FAIR, "entropy": FAIR}, "minmax"),
        ({"minmax": FAIR, "percentile": GOOD, "entropy": BAD}, "percentile"),
        ({"minmax": FAIR, "percentile": FAIR, "entropy": FAIR}, "minmax"),
        ({"minmax": None, "percentile": None, "entropy": FAIR}, "entropy"),
    ],
)
def test_the_method_that_agrees_best_is_kept(comes_to: dict[str, Agreement | None], kept: str) -> None:
    name, tried = best(comes_to)
    assert name == kept
    assert len(tried.ran) == 3


def test_where_none_agrees_well_less_becomes_int8() -> None:
    name, tried = best({"minmax": BAD, "percentile": BAD, "entropy": BAD, "minmax inner": FAIR})
    assert name == "minmax inner"
    assert tried.notes == [
        "Whole in INT8, 50% of the answers were as in FP32; the first and last layers in FP32 improved that to 100%."
    ]
    name, tried = best({"minmax": BAD, "percentile": BAD, "entropy": BAD, "minmax inner": BAD, "minmax weighted": FAIR})
    assert (name, tried.ran[3:]) == ("minmax weighted", ["minmax inner", "minmax weighted"])
    assert tried.notes == [
        "Whole in INT8, 50% of the answers were as in FP32; the first and last layers in FP32 did not improve that; "
        "only layers with weights in INT8 improved that to 100%."
    ]


def test_all_failures_are_told() -> None:
    with pytest.raises(Exception, match="minmax failed percentile failed entropy failed"):
        best({})


def test_no_method_is_begun_that_would_end_too_late() -> None:
    reached: dict[str, Agreement | None] = {"minmax": GOOD, "percentile": GOOD, "entropy": GOOD}
    name, tried = best(reached, 300, 100)
    assert (name, tried.ran) == ("minmax", ["minmax"])
    assert tried.notes == [f"INT8 by {method} was not tried, for want of time." for method in ("percentile", "entropy")]


def test_nor_is_less_of_the_network_tried_then() -> None:
    name, tried = best({"minmax": BAD, "percentile": BAD, "entropy": BAD, "minmax inner": GOOD}, 300, 250, 200, 10)
    assert (name, tried.ran) == ("minmax", ["minmax", "percentile", "entropy"])
    assert tried.notes == [
        "Whole in INT8, 50% of the answers were as in FP32; for the first and last layers in FP32 there was no time."
    ]


def test_where_nothing_was_done_in_time_it_is_said_what_to_order() -> None:
    with pytest.raises(errors.BadModel, match=r"minmax failed INT8 by percentile was not .* Order without int8 in pre"):
        best({}, 300, -0.1)


class Slow:
    """Stands for a network whose second image takes for ever, by every method but one."""

    def int8(self, rows: Sequence[object], _name: str, method: str, _extent: str, on_row: Callable[[], None]) -> Path:
        for place in range(len(rows)):
            while place and method != "minmax":
                time.sleep(0.001)
            on_row()
        return Path(method)


class Quick(_Trial):
    """Trials whose answers cost nothing."""

    def _answers(self, path: Path, doing: str, part: quantize.Part) -> list[dict[str, np.ndarray]]:
        self._tell(doing, 0, 2, part)
        return scores([1, 2])


def test_a_method_that_does_not_end_is_given_up_and_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "TRY_S", 0.3)
    monkeypatch.setattr(child, "REPORT_S", 0.0)
    told: list[dict[str, Any]] = []
    rows = [np.zeros((1, 3, 4, 4), np.float32)] * 2
    about = ModelDescription(
        inputs=[TensorInfo(name="image", dtype="float32", shape=[1, 3, 4, 4])],
        outputs=[TensorInfo(name="scores", dtype="float32", shape=[1, 2])],
        opset=18,
        ir_version=10,
        parameters=1,
        dynamic_batch=False,
        preprocessing=CONTRACT,
        labels=None,
    )
    order = PrecisionOrder(
        precision="int8", artifact="", task_type="classification", description=about, dataset=None, scratch="", output=0
    )
    trial = Quick(order, cast(Any, Slow()), rows, rows, contract=CONTRACT, report=told.append)
    assert _best(trial)[0] == "minmax"
    assert trial.notes == [
        "INT8 by percentile was given up after 0.3 s, while calibrating by percentile, after 1 of 2 images.",
        "INT8 by entropy was not tried, for want of time.",
    ]
    assert [body["step"] for body in told] == [
        "INT8: running it in FP32",
        *["INT8: calibrating by minmax"] * 3,
        "INT8: comparing minmax with FP32",
        "INT8: calibrating by percentile",
        "INT8: calibrating by percentile",
    ]
    passed = [body["fraction"] for body in told]
    assert passed == sorted(passed) and passed[-1] < 1
