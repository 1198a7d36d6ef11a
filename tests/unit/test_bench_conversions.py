"""The table of `make bench-convert`: what counts as short, and what a line says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.conversions import Row, cells, in_words, share, show
from benchmarks.sources import FOUND_CLASS, Source
from shared.specs import ConversionFacts, Parity, Task

BOX = {"box": [1.0, 2.0, 30.0, 40.0], "class_id": FOUND_CLASS, "label": "2", "confidence": 0.75}


def row(*parity: tuple[int, float, float], answer_apart: float = 1e-6) -> Row:
    facts = ConversionFacts(
        source="safetensors file",
        exporter="torch",
        opset=20,
        dynamic_batch=True,
        parity=[Parity(batch=batch, max_abs_diff=apart, max_abs_output=most) for batch, apart, most in parity],
        seconds=12.34,
        peak_memory_mb=987.6,
    )
    return Row(
        name="a.pt", size_bytes=1_500_000, facts=facts, ready_s=20.0, answer="class 3, 0.50", answer_apart=answer_apart
    )


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        (row((1, 1e-6, 2.0), (2, 1e-6, 2.0), (8, 2e-6, 2.0)), []),
        (row((1, 1e-6, 2.0), (2, 1e-6, 2.0), (8, 2.1e-4, 2.0)), ["difference"]),
        (row((1, 5e-5, 640.0), (2, 0.06, 640.0), (8, 0.06, 640.0)), []),  # pixels: a share of the largest
        (row((1, 1e-6, 2.0)), ["batches"]),
        (row((1, 0.0, 1e-14), (2, 0.0, 1e-14), (8, 0.0, 1e-14)), ["outputs too small"]),
        (row((1, 1e-9, 0.0), (2, 0.0, 2.0), (8, 0.0, 2.0)), ["difference"]),
        (row((1, 0.0, 1.0), (2, 0.0, 1.0), (8, 0.0, 1.0), answer_apart=2e-4), ["answer"]),
    ],
)
def test_what_is_short(found: Row, missed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert found.missed == missed
    assert show([found]) is not bool(missed)
    assert ("SHORT" in capsys.readouterr().out) is bool(missed)


def test_a_line() -> None:
    found = row((1, 1e-6, 2.0), (2, 3e-6, 3.0), (8, 8e-6, 2.0))
    assert cells(found) == [
        *("a.pt", "safetensors file", "1.5", "1.0e-06", "3.0e-06", "8.0e-06", "3", "4.0e-06"),
        *("20", "12.3", "988", "20.0", "class 3, 0.50", "1.0e-06", "met"),
    ]


def test_a_share_of_nothing() -> None:
    assert (share(0.0, 0.0), share(1e-9, 0.0), share(1.0, 4.0)) == (0.0, 1.0, 0.25)


def source(task: Task, *scores: float) -> Source:
    return Source(name="a.pt", path=Path("a.pt"), task_type=task, output=np.array([scores], np.float32))


def test_an_answer_in_words() -> None:
    best: dict[str, Any] = {"class_id": 1, "label": "1", "confidence": 0.5}
    assert in_words([best], source("classification", 0.1, 0.8)) == "class 1, 0.50"
    assert in_words([BOX, BOX], source("detection")) == "2 boxes, 0.75"


@pytest.mark.parametrize(
    ("task", "predictions"),
    [
        ("classification", [{"class_id": 0, "label": "0", "confidence": 0.5}]),
        ("detection", []),
        ("detection", [BOX | {"class_id": FOUND_CLASS + 1}]),
        ("detection", [BOX | {"box": [1.0, 2.0, 641.0, 40.0]}]),
        ("detection", [BOX | {"box": [30.0, 2.0, 30.0, 40.0]}]),
    ],
    ids=["another class", "no box", "another object", "outside", "empty"],
)
def test_an_answer_that_the_source_would_not_give(task: Task, predictions: list[dict[str, Any]]) -> None:
    with pytest.raises(SystemExit, match=r"^a\.pt: "):
        in_words(predictions, source(task, 0.1, 0.8))
