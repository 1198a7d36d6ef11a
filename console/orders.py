"""`cvp train` and `cvp benchmark`: order, watch, tell what came of it; `cvp jobs follow` joins where others left."""

from __future__ import annotations

import msgspec

from console import printout
from console.client import Client, Json
from console.jobs import PATIENCE_S, check_id, wait, watching
from console.screen import Screen
from console.session import find, signed_in
from shared import config, errors
from shared.genes import TrainingOrder
from shared.specs import BenchmarkSpec, TrainingResult
from shared.trials import Outcome
from shared.verdict.report import parse
from shared.verdict.training import ENOUGH, judged

NOTHING_CHOSEN = 3
"""Exit code of a benchmark that ended well and in which nothing keeps the constraints."""

UNDER_WAY = ("converting", "preprocessing")


def train(
    settings: config.Settings,
    screen: Screen,
    model: str,
    dataset: str,
    spec: TrainingOrder,
    *,
    detach: bool,
    as_json: bool,
) -> int:
    """Order a training and see it through; the exit code. Arguments as of `benchmark`."""
    with signed_in(settings) as client:
        model_id, dataset_id = _usable(client, screen, model, dataset, detach=detach)
        job = client.train(msgspec.structs.replace(spec, model_id=model_id, dataset_id=dataset_id))
        if detach:
            _ordered(job, screen, as_json=as_json)
            return 0
        return _trained(client, screen, job["id"], as_json=as_json)


def benchmark(
    settings: config.Settings,
    screen: Screen,
    model: str,
    dataset: str | None,
    spec: BenchmarkSpec,
    *,
    detach: bool,
    as_json: bool,
) -> int:
    """Order a benchmark and see it through; the exit code.

    Args:
        settings: In force.
        screen: Where it is told.
        model: Its id or name.
        dataset: The same, or None.
        spec: The rest of the order.
        detach: Do not wait.
        as_json: Print the benchmark as the API shows it.
    """
    with signed_in(settings) as client:
        model_id, dataset_id = _usable(client, screen, model, dataset, detach=detach)
        job = client.benchmark(msgspec.structs.replace(spec, model_id=model_id, dataset_id=dataset_id))
        if detach:
            _ordered(job, screen, as_json=as_json)
            return 0
        return _measured(client, screen, job, as_json=as_json)


def follow(settings: config.Settings, screen: Screen, job_id: str, *, as_json: bool) -> int:
    """Watch a job that somebody ordered, to its end; the exit code, as of the command that orders such a job."""
    check_id(job_id)
    with signed_in(settings) as client:
        job = client.job(job_id)
        if job["kind"] == "benchmark":
            return _measured(client, screen, job, as_json=as_json)
        if job["kind"] in ("train", "search"):
            return _trained(client, screen, job_id, as_json=as_json)
        job = wait(client, screen, job["kind"], job_id)
    if as_json:
        screen.json(job)
    else:
        screen.line(f"Job {job_id} is completed.")
    return 0


def _usable(client: Client, screen: Screen, model: str, dataset: str | None, *, detach: bool) -> tuple[str, str | None]:
    """The ids of the model and dataset that are meant; checks that are under way are waited for.

    Raises:
        errors.Conflict: They are for different tasks, for which nobody need wait.
    """
    found = [find(client, "models", model, to_use=True)]
    if dataset is not None:
        found.append(find(client, "datasets", dataset, to_use=True))
    tasks = [item["task_type"] for item in found]
    if len(set(tasks)) > 1:
        raise errors.Conflict(
            f"{found[0]['name']} is for {tasks[0]}, {found[1]['name']} for {tasks[1]}; choose a model and a dataset of "
            "the same task."
        )
    for item in found:
        if not detach and item["status"] in UNDER_WAY:
            wait(client, screen, f"check of {item['name']}", item["job_id"])
    return found[0]["id"], found[1]["id"] if dataset is not None else None


def _ordered(job: Json, screen: Screen, *, as_json: bool) -> None:
    if as_json:
        screen.json(job)
    else:
        screen.line(f"Ordered: {job['id']}. `cvp jobs follow {job['id']}` shows it, and what came of it.")


def _trained(client: Client, screen: Screen, training_id: str, *, as_json: bool) -> int:
    """Wait for a training or a search, and tell what it reached."""
    wait(client, screen, "train", training_id)
    with screen.waiting("report") as say:
        say("being written")
        done = client.wait_for_training_report(training_id)
    if as_json:
        screen.json(done)
        return 0
    name = client.item("models", done["result_model_id"])["name"]
    result = msgspec.convert(done["result"], TrainingResult)
    finding = judged(done["task_type"], result)
    if done["search"]:
        printout.search(msgspec.convert(done["search"]["outcome"], Outcome), screen)
    printout.training(result, screen)
    screen.line(f"Model {done['result_model_id']}, {name}: ready.")
    printout.verdict(finding, screen)
    _tell_report(done, screen)
    if finding.level in ENOUGH:
        model_id, dataset_id = done["result_model_id"], done["dataset_id"]
        screen.line(f"`cvp benchmark {model_id} --dataset {dataset_id}` measures it, also in INT8.")
    return 0


def _tell_report(training: Json, screen: Screen) -> None:
    report = training["report"] or {"status": "missing"}
    if report["status"] == "completed":
        screen.line(
            f"`cvp report export {training['id']}` saves what was learned, how good that is, and what to do next."
        )
    else:
        screen.line(f"Its report is {report['status']}{': ' + report['error'] if report.get('error') else ''}.")


def _measured(client: Client, screen: Screen, job: Json, *, as_json: bool) -> int:
    """Wait for a benchmark and its report, and tell the choice."""
    with watching(screen, "benchmark", {"id": job["id"]}) as on_state:
        done = client.wait_for_benchmark(job["id"], PATIENCE_S, on_state)
    report = parse(client.export(done["report_id"], "json"))
    chosen = report.decision.selected is not None
    if as_json:
        screen.json(done)
    else:
        printout.candidates(report, screen)
        screen.line()
        printout.decision(report, screen)
        screen.line()
        screen.line(f"Report {report.id}: `cvp report export {report.id}` saves it as a PDF.")
        if chosen:
            screen.line(f"`cvp deploy {done['model_id']} --report {report.id}` lets the choice serve.")
    return 0 if chosen else NOTHING_CHOSEN
