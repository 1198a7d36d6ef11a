"""`make bench-serve`: what a trained model is sent, which replies are right, what a decision is held against."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import limit, models, photographs, serve, subjects
from benchmarks.ours import DECIDED, DEFAULT, VARIANTS
from benchmarks.peers.servers import PEERS
from benchmarks.run import Figure
from benchmarks.serve import Cell, Contender, Judged
from benchmarks.subjects import LARGE, NULL, SMALL, TRAINED, Subject


def never(subject: Subject, seconds: int) -> Cell:
    raise AssertionError


LOOP = Contender(limit.LOOPS[0].name, never)
OURS, AS_DECIDED = (Contender(variant.name, never, ours=variant) for variant in (DEFAULT, DECIDED))
OPENVINO = Contender(VARIANTS[1].name, never, ours=VARIANTS[1])
FASTAPI, LITSERVE, MOSEC = (Contender(peer.name, never, peer=peer) for peer in PEERS[:3])


def judged(model: str, *rows: tuple[Contender, *tuple[float, ...]], right: int = 32) -> Judged:
    """Each row with its requests a second, a round each."""
    measured = {(row.name, model): [Cell(rate, 1.0, right=right, checked=32) for rate in rates] for row, *rates in rows}
    return Judged(model, [row for row, *_ in rows], measured)


def by_name(found: Judged) -> dict[str, Figure]:
    return {figure.name: figure for figure in found.figures()}


def test_what_was_decided_is_held_against_the_best_peer_round_by_round() -> None:
    rates: list[tuple[Contender, *tuple[float, ...]]]
    rates = [(LOOP, 100.0), (OURS, 90.0, 80.0), (AS_DECIDED, 300.0, 120.0), (FASTAPI, 60.0, 40.0), (LITSERVE, 30.0)]
    found = judged(TRAINED, *rates)
    decided = by_name(found)[f"{TRAINED}, as decided, times the best peer"]
    assert (decided.value, decided.goal, decided.met) == (4.0, 2.5, True)  # of 5 and 3
    assert decided.note == "against FastAPI"
    plain = by_name(found)[f"{TRAINED}, FP32, times the best peer"]
    assert (plain.value, plain.goal) == (1.75, None)


def test_a_decision_that_is_not_fast_enough_is_missed() -> None:
    found = judged(TRAINED, (LOOP, 100.0), (OURS, 90.0), (AS_DECIDED, 124.0), (FASTAPI, 50.0))
    assert not by_name(found)[f"{TRAINED}, as decided, times the best peer"].met


@pytest.mark.parametrize("model", [SMALL, LARGE])
def test_weights_drawn_by_chance_have_a_decision_without_a_goal(model: str) -> None:
    found = judged(model, (LOOP, 100.0), (OURS, 90.0), (OPENVINO, 95.0), (AS_DECIDED, 99.0), (LITSERVE, 90.0))
    decided = by_name(found)[f"{model}, as decided, times the best peer"]
    assert (decided.value, decided.goal, decided.note) == (1.1, None, serve.NO_INT8)
    assert by_name(found)[f"{model}, FP32, times the best peer"].goal is not None
    share = by_name(found)[f"{model}, FP32, share of the limit"]
    assert (share.value, share.note) == (0.95, OPENVINO.name)  # INT8 is no share of a limit in FP32


def test_without_a_decision_there_is_no_figure_of_one() -> None:
    found = judged(SMALL, (LOOP, 100.0), (OURS, 90.0), (FASTAPI, 70.0))
    assert not [name for name in by_name(found) if "as decided" in name]


def test_a_wrong_reply_of_what_was_decided_counts() -> None:
    found = judged(TRAINED, (LOOP, 100.0), (OURS, 90.0), (AS_DECIDED, 300.0), (FASTAPI, 60.0), right=31)
    assert by_name(found)[f"{TRAINED}, errors and wrong replies"].value == 2
    assert found.best() is None  # and of a peer


def test_the_fastest_peer_counts_also_below_the_share_it_is_known_for() -> None:
    found = judged(SMALL, (LOOP, 1000.0), (OURS, 90.0), (FASTAPI, 60.0), (MOSEC, 45.0))
    assert found.doubts(FASTAPI) == "set up wrong? 0.06 of the limit, known for 0.72"
    assert found.best() == FASTAPI
    assert found.ahead(OURS) == 1.5


def test_the_null_model_is_held_against_two_peers() -> None:
    found = judged(NULL, (LOOP, 1000.0), (OURS, 60.0), (FASTAPI, 100.0), (LITSERVE, 20.0), (MOSEC, 120.0))
    assert [(name, figure.value) for name, figure in by_name(found).items()] == [
        ("null model, times FastAPI", 0.6),
        ("null model, times mosec", 0.5),
        ("null, errors and wrong replies", 0),
    ]


@pytest.mark.parametrize(
    ("variant", "model", "quick", "measured"),
    [
        (OURS, NULL, True, True),
        (FASTAPI, SMALL, True, True),
        (AS_DECIDED, TRAINED, True, True),
        (AS_DECIDED, SMALL, True, False),
        (AS_DECIDED, SMALL, False, True),
        (OPENVINO, TRAINED, False, True),
        (AS_DECIDED, NULL, False, False),
    ],
)
def test_what_is_measured_with_what(variant: Contender, model: str, quick: bool, measured: bool) -> None:
    assert serve._measured_with(variant, Subject(model, Path(), [], [], []), quick) is measured


@pytest.mark.parametrize(
    ("model", "quick", "loops", "servers"), [(SMALL, True, 1, 2), (TRAINED, True, 1, 1), (TRAINED, False, 3, 3)]
)
def test_where_time_is_short_some_is_measured_once(model: str, quick: bool, loops: int, servers: int) -> None:
    rows = [row._replace(run=lambda subject, seconds: Cell(1.0, 1.0)) for row in (LOOP, OURS, FASTAPI)]
    measured: serve.Measured = {}
    serve._rounds(rows, [Subject(model, Path(), [], [], [])], quick, measured, {})
    assert [len(measured[row.name, model]) for row in rows] == [loops, servers, servers]


def answer(class_id: int, confidence: float) -> dict[str, Any]:
    return {"predictions": [{"class_id": class_id, "confidence": confidence}]}


@pytest.mark.parametrize(
    ("given", "exact", "gated"),
    [
        (answer(3, 0.95), True, True),
        (answer(3, 0.93), False, True),  # further off than engines in FP32 are
        (answer(3, 0.4), False, True),
        (answer(5, 0.96), False, False),  # the reply to another request, or damage
    ],
)
def test_a_right_reply(given: dict[str, Any], exact: bool, gated: bool) -> None:
    subject = Subject(TRAINED, Path(), [b""], [answer(3, 0.96)], [answer(3, 0.66)])
    assert subject.right(0, given) is exact
    assert subject.right(0, given, gated=True) is gated


@pytest.mark.parametrize(
    ("given", "right"),
    [
        (answer(3, 0.65), True),
        (answer(3, 0.95), False),  # as of Pillow's pixels, which it never saw
        (answer(5, 0.66), False),
    ],
)
def test_a_right_reply_of_ours(given: dict[str, Any], right: bool) -> None:
    subject = Subject(SMALL, Path(), [b""], [answer(3, 0.96)], [answer(3, 0.66)])
    assert subject.right(0, given, inside=True) is right


def jpeg(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", photographs.SIZE, colour).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def test_a_trained_model_is_sent_held_out_images_of_which_it_is_certain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subjects, "FOLDER", tmp_path)
    path = tmp_path / f"{TRAINED}.onnx"
    path.write_bytes(models.null_model().SerializeToString())  # its scores are the mean of each colour
    resize = {"height": 16, "width": 16, "mode": "shorter_side", "scale_to": 16}
    contract = {"resize": resize, "scale": 1 / 255, "mean": [0.5] * 3, "std": [0.05] * 3}
    path.with_suffix(".json").write_text(json.dumps(contract))
    red, grey, green, blue = (jpeg(colour) for colour in ((255, 0, 0), (128, 128, 128), (0, 255, 0), (0, 0, 255)))
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as archive:
        for name, image in (("train/0/0", blue), ("test/0/1", red), ("test/1/2", grey), ("test/1/3", green)):
            archive.writestr(name, image)
    subject = subjects.subject(TRAINED)
    assert list(subject.bodies) == [red, green]
    assert [truth["predictions"][0]["class_id"] for truth in subject.truth] == [0, 1]
    assert subject.images == path.with_suffix(".zip")
    assert list(subjects.subject(TRAINED, 1).bodies) == [red]


def test_a_model_that_has_learned_nothing_has_no_images(tmp_path: Path) -> None:
    assert Subject(SMALL, tmp_path / f"{SMALL}.onnx", [], [], []).images is None


def test_a_scan_is_dark_where_its_ink_is() -> None:
    scan = np.zeros((8, 8), np.uint8)
    scan[:, :4] = 255
    image = Image.open(io.BytesIO(photographs.scanned(scan, sheet=0, seed=0)))
    assert image.size == photographs.SIZE
    grey = np.asarray(image.convert("L"), np.float32)
    (height, width), reach = grey.shape, photographs.DIGIT // 4
    left, right = (grey[:, width // 2 + side * reach].mean() for side in (-1, 1))
    assert left + 60 < right
    middle = slice((height - photographs.DIGIT) // 2 + photographs.MOVED, height // 2)
    assert grey[middle, width // 2 - reach].max() < 60
