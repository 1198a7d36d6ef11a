"""The child that writes the report of a training, shut in, over a checked dataset."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from reporter import ReportOrder, TrainingOrder, Written
from shared import child
from shared.artifacts import ArtifactStore, Outputs
from shared.specs import WorstSample
from tests.dataset_kit import Checked
from tests.training_kit import dataset, scenes
from tests.unit.trainings import record, result

pytestmark = pytest.mark.process

LIMITS = child.Limits(wall_s=60, memory_mb=4096, cpu_s=60, file_mb=64)


def written(data: Checked, tmp_path: Path, *others: str) -> tuple[Written, str, bytes]:
    """Answer, page and record of a training whose worst are all validation images, and some that are not there."""
    store = ArtifactStore(tmp_path / "reports")
    members = [each.member for each in data.index.samples if each.split == "val"][:6]
    worst = [
        WorstSample(member=member, time_s=None, class_id=0, predicted=1, confidence=0.8, loss=2.0)
        for member in (*members, *others)
    ]
    with Outputs("tests") as outputs:
        order = TrainingOrder(
            record=record(result(worst=worst)),
            index=str(data.paths["index"]),
            pack=str(data.paths["pack"]),
            outputs={name: outputs.stage(name, store) for name in ("report.html", "report.json")},
        )
        answer = child.run("reporter.write", ReportOrder(training=order), Written, limits=LIMITS, pass_fds=outputs.fds)
        html, told = (store.path(outputs.publish(name).sha256).read_bytes() for name in ("report.html", "report.json"))
    return answer, html.decode(), told


def test_the_worst_are_shown_and_those_that_are_gone_are_named(tmp_path: Path) -> None:
    answer, page, told = written(dataset(tmp_path), tmp_path, "gone.png")
    assert page.count("data:image/png;base64,") == 6
    assert "gone.png" in page
    assert json.loads(told) == msgspec.to_builtins(record(result(worst=[]))) | {"result": json.loads(told)["result"]}
    assert answer.content_sha256 in page


def test_a_dataset_that_is_damaged_costs_the_pictures_alone(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    data.paths["pack"].write_bytes(b"no image" * 1000)
    assert written(data, tmp_path)[1].count("<img") == 0
    data.paths["index"].write_bytes(b"no index")
    assert written(data, tmp_path)[1].count("<img") == 0


def test_the_objects_of_a_detector_are_shown(tmp_path: Path) -> None:
    assert written(scenes(tmp_path), tmp_path)[1].count("data:image/png;base64,") == 6
