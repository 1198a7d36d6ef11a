"""INT8 of the digits by one benchmark through the platform: what it costs and gains, and what was decided."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.checks import Found, console
from benchmarks.models import digits_facts, free_port
from benchmarks.run import DIGITS, Platform
from examples.digits import dataset
from shared.specs import EngineName, MeasurementSet
from shared.verdict.figures import engine_title, estimate
from shared.verdict.rounds import Rounds

ENGINES: tuple[EngineName, ...] = ("onnxruntime", "openvino")
ORDER = {"engines": ENGINES, "precisions": ["fp32", "int8"], "batch_sizes": [1], "threads": [1]}


def int8(folder: Path, _times: int | None) -> Found:
    """INT8 of the digits: its loss of accuracy is measured, and it is chosen or rejected with the reason."""
    platform = Platform(folder, free_port())
    try:
        report, measurements = _benchmark(platform, folder)
    finally:
        platform.down()
    for line in (*_file(report), *_speed(measurements), *report["decision"]["reasons"]):
        console.print(f"  {line}", style="dim", soft_wrap=True)
    yield from (_accuracy(item) for item in report["candidates"] if item["precision"] == "int8")
    yield _outcome(report)


def _benchmark(platform: Platform, folder: Path) -> tuple[dict[str, Any], MeasurementSet]:
    """The report, and what it was computed from."""
    model_id = platform.ready(platform.upload(DIGITS / "digits.onnx", **digits_facts()))
    with dataset.write(folder / "digits.zip").open("rb") as file:
        fields = {"name": "digits", "task_type": "classification"}
        answer = platform.http.post("/datasets", data=fields, files={"file": ("digits.zip", file)})
    images = answer.raise_for_status().json()["id"]
    platform.wait(f"/datasets/{images}", lambda body: body["status"] == "ready")
    answer = platform.http.post("/benchmark", json={"model_id": model_id, "dataset_id": images, **ORDER})
    job = platform.wait(f"/benchmark/{answer.raise_for_status().json()['id']}", lambda body: body["report_id"])
    path = f"/reports/{job['report_id']}"
    stored = platform.http.get(f"{path}/export", params={"format": "measurements"}).raise_for_status()
    measurements = msgspec.json.decode(stored.content, type=MeasurementSet)
    return platform.http.get(path).raise_for_status().json(), measurements


def _file(report: dict[str, Any]) -> Iterator[str]:
    """What was made, and how."""
    whole = report["metadata"]["model"]["file_size"]
    for made in report["metadata"]["files"].values():
        recipe = made["recipe"]
        yield (
            f"The file has {made['size_bytes']:,} bytes of {whole:,} ({made['size_bytes'] / whole:.0%}), by "
            f"{recipe['method']} on {recipe['calibration_images']} images; {recipe['agreement']:.1%} of "
            f"{recipe['deciding_images']} others are answered as in FP32."
        )
        yield from made["notes"]


def _speed(measurements: MeasurementSet) -> Iterator[str]:
    """How many times as fast as FP32, round by round."""
    series = {(item.candidate.engine, item.candidate.precision): item for item in measurements.series}
    rounds = Rounds([item for item in measurements.series if item.status == "measured"])
    for engine in ENGINES:
        whole, small = series[engine, "fp32"], series[engine, "int8"]
        if {whole.status, small.status} == {"measured"}:
            keys = whole.candidate.key, small.candidate.key
            throughput = estimate(*rounds.ratio("throughput_fps", keys[1], keys[0]))
            latency = estimate(*rounds.ratio("latency_p95_ms", keys[0], keys[1]))
            told = f"throughput {throughput} times that of FP32, FP32's P95 {latency} times its own"
            yield f"{engine_title(small.candidate)}: {told}."


def _accuracy(item: dict[str, Any]) -> tuple[str, bool]:
    """The loss of an engine in INT8, or why there is none."""
    drop, engine = item["metrics"]["accuracy_drop"], item["engine"]
    if drop.get("low") is None:
        return f"{engine}: the drop of accuracy was not measured: {item.get('reason') or drop.get('note')}", False
    reached, told = item["metrics"]["accuracy"]["value"], estimate(drop["value"], drop["low"], drop["high"])
    limits = [each["verdict"] for each in item["constraints"] if each["metric"] == "accuracy_drop"]
    return (
        f"{engine}: accuracy {reached:.4f}, drop {told} on {drop['n']} images, {item['parity']['flips']} answered "
        f"otherwise; the limit of 0.01: {', '.join(limits) or item['status']}",
        True,
    )


def _outcome(report: dict[str, Any]) -> tuple[str, bool]:
    """Whether INT8 was chosen, or why not."""
    decision, dirty = report["decision"], " (other work disturbed the run)" if report["metadata"]["dirty"] else ""
    against = [each for each in decision["rejected"] if each["candidate"]["precision"] == "int8"]
    why = "; ".join(f"{each['candidate']['engine']}: {each['why']}" for each in against)
    if (decision.get("selected") or {}).get("precision") == "int8":
        return f"INT8 is chosen{dirty}{f'; {why}' if why else ''}", True
    return f"INT8 is rejected{dirty}: {why}", bool(against) and all(each["why"] for each in against)
