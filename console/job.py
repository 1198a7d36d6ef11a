"""The main job on real input, printed as it goes: upload, check, benchmark, report, predict."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from console import printout
from console.client import Client, Format
from console.jobs import progress
from console.screen import Screen
from console.session import local_key
from shared import config, errors
from shared.machine import system_info
from shared.specs import BenchmarkSpec, Constraint, Preprocessing
from shared.verdict.figures import plural
from shared.verdict.report import Report, parse

EXAMPLE = Path(__file__).parents[1] / "examples" / "digits"
MODEL_NAME = "digits (demo)"
DESCRIPTION = "Handwritten digits: the example that ships with the platform, uploaded by `cvp demo`."
FORMATS: tuple[Format, ...] = ("html", "pdf", "json", "csv")

CHECK_BOUND_S = 120.0
BENCHMARK_BOUND_S = 900.0
"""The benchmark itself takes about half a minute; other people's jobs may be ahead of it."""

CANCEL_BOUND_S = 15.0


def main_job(settings: config.Settings, screen: Screen, fresh: bool) -> None:
    """Sign in, upload, check, benchmark, report, predict."""
    screen.line()
    screen.line("The main job on real input: a classifier of handwritten digits, from file to answer", style="bold")
    with Client(settings, sign_in(settings, screen)) as client:
        model_id = _model(client, screen)["id"]
        report = decided(client, order(model_id), screen, fresh)
        save(client, report, settings, screen)
        predict(client, model_id, screen)


def sign_in(settings: config.Settings, screen: Screen) -> str:
    """The key of this machine's commands."""
    key = local_key(settings)
    screen.step("sign in", f"as admin, with the API key in {typed(settings.secrets / 'demo.key')}")
    return key


def _model(client: Client, screen: Screen) -> dict[str, Any]:
    """The example as a ready model: the one uploaded earlier, if file, contract and labels are the same."""
    contract = msgspec.json.decode((EXAMPLE / "preprocessing.json").read_bytes(), type=Preprocessing)
    labels = msgspec.json.decode((EXAMPLE / "labels.json").read_bytes(), type=list[str])
    path = EXAMPLE / "digits.onnx"
    for model in client.items("models"):
        if _same(model, path, contract, labels):
            screen.step("upload", f"not needed: {path.name} is model {model['id']} already")
            return model
    with screen.bar("upload") as advance:
        size = path.stat().st_size
        fields = {
            "name": MODEL_NAME,
            "task_type": "classification",
            "description": DESCRIPTION,
            "preprocessing": contract,
            "labels": labels,
        }
        model = client.upload("models", path, fields, lambda sent: advance(sent / size, ""))
    screen.step("upload", f"{path.name}, {size / 1000:.0f} kB, with its preprocessing and labels: {model['id']}")
    began = time.monotonic()
    with screen.waiting("check") as say:
        say("in a process of its own, with limits")
        model = client.wait_for_model(model["id"], CHECK_BOUND_S)
    screen.step("check", f"ready after {time.monotonic() - began:.1f} s: {_signature(model)}")
    return model


def _same(model: dict[str, Any], path: Path, contract: Preprocessing, labels: list[str]) -> bool:
    return (
        model["name"] == MODEL_NAME
        and model["status"] == "ready"
        and model["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        and (model["preprocessing"] or {}).get("hash") == contract.hash
        and model["labels"] == labels
    )


def _signature(model: dict[str, Any]) -> str:
    return f"{', '.join(map(printout.tensor, model['inputs']))} → {', '.join(map(printout.tensor, model['outputs']))}"


def order(model_id: str) -> BenchmarkSpec:
    """What the demo measures: every engine at two batch sizes, with a limit that a digit classifier should keep."""
    return BenchmarkSpec(
        model_id=model_id,
        batch_sizes=(1, 8),
        num_iterations=10_000,
        max_seconds=20,
        constraints=(Constraint(metric="latency_p95_ms", op="<=", value=5),),
    )


def decided(client: Client, spec: BenchmarkSpec, screen: Screen, fresh: bool) -> Report:
    """The report on a benchmark, the latest where it answers the same order and nothing `fresh` is wanted; printed."""
    report = None if fresh else _reused(client, spec)
    if report is None:
        report = _measured(client, spec, screen)
    else:
        screen.step("benchmark", f"reused: {report.id} of {report.metadata.created_at[:16]}Z, same model and machine")
        screen.step("", "(--fresh measures again)")
    screen.line()
    printout.candidates(report, screen)
    screen.line()
    printout.decision(report, screen)
    screen.line()
    return report


def _reused(client: Client, spec: BenchmarkSpec) -> Report | None:
    """The latest report on this model, if it answers the same order on the same machine and software."""
    latest = next((found for found in client.reports() if found["model_id"] == spec.model_id), None)
    if latest is None:
        return None
    try:
        report = parse(client.export(latest["id"], "json"))
    except msgspec.ValidationError:  # written by an earlier version, in another form
        return None
    same = report.metadata.config == spec and report.metadata.fingerprint == system_info().fingerprint
    return report if same else None


def _measured(client: Client, spec: BenchmarkSpec, screen: Screen) -> Report:
    job = client.benchmark(spec)
    began = time.monotonic()
    with taken_back(client, screen, "benchmark", job["id"]), screen.bar("benchmark") as advance:
        job = client.wait_for_benchmark(job["id"], BENCHMARK_BOUND_S, lambda state: advance(*progress(state)))
    report = parse(client.export(job["report_id"], "json"))
    measured = sum(record.status == "measured" for record in report.candidates)
    took = time.monotonic() - began
    screen.step("benchmark", f"{plural(measured, 'candidate')} measured in {took:.0f} s, in interleaved rounds")
    return report


@contextlib.contextmanager
def taken_back(client: Client, screen: Screen, call: str, job_id: str) -> Iterator[None]:
    """Around the wait for an order (of the call `benchmark` or `training`): Ctrl-C takes it back.

    Or it would go on, or start again with the platform. Leaves when it has ended.
    """
    try:
        yield
    except KeyboardInterrupt:
        try:
            client.cancel(call, job_id)
            with screen.waiting("Cancelling"):
                client.wait_for_job(job_id, CANCEL_BOUND_S, lambda _: None)
        except errors.AppError as error:
            screen.step(call, f"{job_id} could not be cancelled and may go on: {error.message}")
        else:
            screen.step(call, f"cancelled: {job_id}")
        raise


def save(client: Client, report: Report, settings: config.Settings, screen: Screen) -> None:
    """The report in all its forms, beside the data."""
    folder = settings.root / "demo"
    folder.mkdir(exist_ok=True)
    for form in FORMATS:
        (folder / f"report.{form}").write_bytes(client.export(report.id, form))
    screen.step("report", f"{typed(folder / 'report.html')}, and as .pdf .json .csv beside it")


def predict(client: Client, model_id: str, screen: Screen) -> None:
    """Digits that the model never saw, one call each."""
    images = sorted((EXAMPLE / "held-out").glob("*.png"))
    answers = []
    with screen.bar("predict") as advance:
        for done, image in enumerate(images, start=1):
            answers.append(_ask(client, model_id, image))
            advance(done / len(images), image.name)
    right = sum(answer.predicted == answer.label for answer in answers)
    screen.step("predict", f"{right} of {len(answers)} held-out digits right, as PNG over HTTP")
    printout.predictions(answers, screen)


def _ask(client: Client, model_id: str, image: Path) -> printout.Answer:
    content = image.read_bytes()
    began = time.perf_counter()
    answer = client.predict(model_id, content)
    client_ms = (time.perf_counter() - began) * 1000
    best = answer["predictions"][0][0]
    return printout.Answer(
        label=image.stem.rpartition("-")[2],
        predicted=best["label"],
        confidence=best["confidence"],
        client_ms=client_ms,
        split_ms=answer["latency_ms"],
    )


def typed(path: Path) -> str:
    """A path as one would type it here."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)
