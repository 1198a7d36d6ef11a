"""What `make run` shows: the main job through the console, on a real platform, the first time and again."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from console import job
from console.client import Client
from console.screen import Screen
from shared import config, errors
from shared.specs import BenchmarkSpec
from tests.process.platform import Platform

pytestmark = pytest.mark.process


@pytest.fixture(autouse=True)
def small_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def order(model_id: str) -> BenchmarkSpec:
        return BenchmarkSpec(model_id=model_id, engines=("onnxruntime",), batch_sizes=(1,), num_iterations=200)

    monkeypatch.setattr(job, "order", order)


def told(platform: Platform, *, fresh: bool = False) -> str:
    out = io.StringIO()
    job.main_job(config.load(platform.env), Screen(Console(file=out, width=120, highlight=False)), fresh)
    return out.getvalue()


def test_the_first_time_everything_is_done(platform: Platform):
    text = told(platform)
    assert "upload     digits.onnx, 41 kB" in text
    assert "check      ready after" in text
    assert "benchmark  1 candidate measured" in text
    assert "Chosen: ONNX Runtime FP32, batch 1" in text
    assert "of 20 held-out digits right, as PNG over HTTP" in text
    right = int(text.partition("predict    ")[2].split()[0])
    assert right >= 18
    starts = {"html": b"<!doctype html", "pdf": b"%pdf-", "json": b"{", "csv": b""}
    for form, start in starts.items():
        content = (platform.data_dir / "demo" / f"report.{form}").read_bytes()
        assert content.lower().startswith(start)
        assert len(content) > 300


def test_the_second_time_only_what_is_needed(platform: Platform):
    told(platform)
    key = platform.data_dir / "secrets" / "demo.key"
    before = key.read_text()
    text = told(platform)
    assert "upload     not needed" in text
    assert "benchmark  reused: rep_" in text
    assert "of 20 held-out digits right" in text
    assert key.read_text() == before
    assert key.stat().st_mode & 0o777 == 0o600


def test_a_key_that_is_no_longer_good_is_replaced(platform: Platform):
    key = platform.data_dir / "secrets" / "demo.key"
    key.write_text("cvp_0000000000000000000000000000000000")
    assert "of 20 held-out digits right" in told(platform)
    assert not key.read_text().startswith("cvp_0000")


def test_fresh_measures_again(platform: Platform):
    told(platform)
    assert "benchmark  1 candidate measured" in told(platform, fresh=True)


def test_an_interrupted_demo_leaves_no_benchmark_behind(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    def interrupt(state: dict[str, object]) -> tuple[float, str]:
        if state["status"] == "running":
            raise KeyboardInterrupt
        return 0.0, ""

    told(platform)
    monkeypatch.setattr(job, "progress", interrupt)
    monkeypatch.setattr(job, "order", long_order)
    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        job.main_job(config.load(platform.env), Screen(Console(file=out, width=120, highlight=False)), True)
    assert "benchmark  cancelled: job_" in out.getvalue()
    with Client(config.load(platform.env), (platform.data_dir / "secrets" / "demo.key").read_text()) as client:
        job_id = out.getvalue().partition("cancelled: ")[2].split()[0]
        with pytest.raises(errors.EngineFailed, match="cancelled"):
            client.wait_for_benchmark(job_id, 0.5, lambda _: None)


def long_order(model_id: str) -> BenchmarkSpec:
    return BenchmarkSpec(model_id=model_id, engines=("onnxruntime",), batch_sizes=(1,), num_iterations=10**6)
