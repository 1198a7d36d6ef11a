"""What `make run-train` shows: images become a model that serves in the precision that was chosen; and again."""

from __future__ import annotations

import io
from collections.abc import Iterator

import msgspec
import pytest
from rich.console import Console

from console import mission
from console.screen import Screen
from shared import config
from shared.genes import SearchSpec, TrainingOrder
from shared.specs import BenchmarkSpec
from tests.conftest import needs
from tests.process.platform import Platform, running

pytestmark = pytest.mark.process
needs("torch")
needs("sklearn")


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with running(PRESETS="true", PRESET_WEIGHTS="false", INFERENCE_WORKERS="1") as platform:
        yield platform


@pytest.fixture(autouse=True)
def small_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    usual_training, usual_benchmark = mission.training_order, mission.order

    def training_order(model_id: str, dataset_id: str) -> TrainingOrder:
        search = SearchSpec(population_size=2, generations=1, finalists=0)
        return msgspec.structs.replace(usual_training(model_id, dataset_id), max_epochs=1, ga=search)

    def order(model_id: str, dataset_id: str) -> BenchmarkSpec:
        usual = usual_benchmark(model_id, dataset_id)
        return msgspec.structs.replace(usual, engines=("onnxruntime",), constraints=(), max_seconds=1)

    monkeypatch.setattr(mission, "training_order", training_order)
    monkeypatch.setattr(mission, "order", order)


def told(platform: Platform) -> str:
    out = io.StringIO()
    mission.whole_mission(config.load(platform.env), Screen(Console(file=out, width=120, highlight=False)), False)
    return out.getvalue()


@pytest.mark.timeout(300)
def test_images_become_a_model_that_serves_and_the_second_time_only_what_is_needed(platform: Platform):
    text = told(platform)
    assert "checked and divided: 1,437 train, 180 val, 180 test" in text
    assert "training   1 epoch over 1,437 images; a new model: mdl_" in text
    assert "training.html: what was learned" in text
    assert "search    2 genomes tried; best by generation: 0." in text
    assert "chosen    " in text
    assert "ONNX Runtime INT8" in text and "accuracy" in text
    assert "activation served by onnxruntime in " in text
    assert int(text.partition("predict    ")[2].split()[0]) >= 15
    again = told(platform)
    assert "dataset    not needed: digits.zip is dst_" in again
    assert "training   reused: model mdl_" in again
    assert "benchmark  reused: rep_" in again
