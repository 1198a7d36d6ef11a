"""The commands of the work itself, over the API of the platform that runs here: what is uploaded, measured, served."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from console.speech import Labels, Limit, Lists, Pairs, Several, understood
from shared import config
from shared.genes import TrainingOrder
from shared.specs import (
    ENGINES,
    BenchmarkSpec,
    DeploymentOrder,
    HyperParameters,
    JobStatus,
    Precision,
    Task,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from console.client import Format, Noun

Command = TypeVar("Command", bound="Callable[..., Any]")
PRECISIONS = get_args(Precision)
FORMATS = ("pdf", "html", "json", "csv", "measurements")
"""What a report can be saved as."""

SHORT = {"population": "population_size"}
"""Settings of a search by names that are easier to type."""

OBJECTIVES = {"accuracy": "accuracy", "latency": "latency_ms"}
"""The same, of what a search is for."""

PROGRAMS = "For programs: what the API answered."
FILE = click.Path(path_type=Path, exists=True, dir_okay=False, readable=True)
COUNT = click.IntRange(1)

as_json = click.option("--json", "as_json", is_flag=True, help=PROGRAMS)
limit = click.option("-n", "--limit", default=50, show_default=True, type=COUNT, help="How many at most.")
name = click.option("--name", help="What people call it; default: the file's name without its ending.")
task = click.option(
    "--task", "task_type", type=click.Choice(get_args(Task)), default="classification", show_default=True
)
description = click.option("--description", help="Anything worth knowing.")
detach = click.option("--detach/--wait", help="Return at once; default: wait, and show how far it is.")
yes = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


def narrowed(*states: str) -> Callable[[Command], Command]:
    """The options of a list of what has a task and one of these states."""
    task = click.option("--task", "task_type", type=click.Choice(get_args(Task)), help="Only these.")
    status = click.option("--status", type=click.Choice(states), help="Only these.")
    return lambda command: task(status(limit(as_json(command))))


# --- models and datasets --------------------------------------------------------------------------------------------


@click.group(cls=Lists)
def models() -> None:
    """List, add, show and delete models.

    A model is named by its id, or by its name where only one has it.
    """


@models.command("list")
@narrowed("converting", "ready", "failed")
def list_models(**wanted: Any) -> None:
    """List models, newest first."""
    _list("models", **wanted)


@models.command("add")
@click.argument("path", metavar="FILE", type=FILE)
@name
@task
@click.option("--architecture", help="The network of PyTorch weights: cnn32, yolov8n, resnet18, timm/NAME.")
@click.option("--labels", type=Labels(), help="Names of the classes: a,b,c or a file, one a line or a JSON list.")
@click.option("--preprocessing", type=click.File(), help="A JSON file: how an image becomes the input.")
@click.option("--input-shape", type=Several(COUNT, "N,C,H,W"), help="Settles axes that the graph leaves open.")
@description
@detach
@as_json
def add_model(path: Path, preprocessing: Any, **options: Any) -> None:
    """Upload a model, and wait until it was checked.

    FILE is of ONNX, PyTorch, TensorFlow or Keras. Exit code 1 when it is refused; the reason says what to do.
    """
    _add("models", path, preprocessing=preprocessing and preprocessing.read(), **options)


@models.command("show")
@click.argument("said", metavar="MODEL")
@as_json
def show_model(said: str, as_json: bool) -> None:
    """Tell what is known of a model."""
    _show("models", said, as_json)


@models.command("delete")
@click.argument("said", metavar="MODEL")
@yes
def delete_model(said: str, yes: bool) -> None:
    """Delete a model; reports about it stay."""
    _delete("models", said, yes)


@click.group(cls=Lists)
def datasets() -> None:
    """List, add, show and delete datasets.

    A dataset is named by its id, or by its name where only one has it.
    """


@datasets.command("list")
@narrowed("preprocessing", "ready", "failed")
def list_datasets(**wanted: Any) -> None:
    """List datasets, newest first."""
    _list("datasets", **wanted)


@datasets.command("add")
@click.argument("path", metavar="FILE", type=FILE)
@name
@task
@click.option("--split", metavar="80/10/10", help="Per cent for train/val/test; default: the upload's own parts.")
@click.option("--seed", type=click.IntRange(0), help="The same seed divides the same way.")
@click.option("--fps", "frames_per_second", type=float, help="How many frames of a second of video; default 1.")
@click.option("--archive", metavar="DATASET", help="For a CSV: the dataset whose ZIP has the images it names.")
@description
@detach
@as_json
def add_dataset(path: Path, **options: Any) -> None:
    """Upload a dataset, and wait until it was checked.

    FILE is a ZIP: a folder a class, or with a CSV, YOLO labels or COCO annotations (docs/DATASETS.md). Exit code 1 when
    it is refused; the reason says what to do.
    """
    _add("datasets", path, **options)


@datasets.command("show")
@click.argument("said", metavar="DATASET")
@as_json
def show_dataset(said: str, as_json: bool) -> None:
    """Tell what the check of a dataset found."""
    _show("datasets", said, as_json)


@datasets.command("delete")
@click.argument("said", metavar="DATASET")
@yes
def delete_dataset(said: str, yes: bool) -> None:
    """Delete a dataset."""
    _delete("datasets", said, yes)


def _list(noun: Noun, limit: int, as_json: bool, **wanted: str | None) -> None:
    from console import catalogue
    from console.screen import Screen

    catalogue.listed(config.load(), Screen(), noun, limit, as_json=as_json, **wanted)


def _add(noun: Noun, path: Path, name: str | None, detach: bool, as_json: bool, **fields: Any) -> None:
    from console import catalogue
    from console.screen import Screen

    archive = fields.pop("archive", None)
    fields = {"name": name or path.stem, **fields}
    screen = Screen(stderr=as_json)
    catalogue.added(config.load(), screen, noun, path, fields, archive=archive, detach=detach, as_json=as_json)


def _show(noun: Noun, said: str, as_json: bool) -> None:
    from console import catalogue
    from console.screen import Screen

    catalogue.shown(config.load(), Screen(), noun, said, as_json=as_json)


def _delete(noun: Noun, said: str, yes: bool) -> None:
    from console import catalogue
    from console.screen import Screen

    settings = config.load()
    item = catalogue.found(settings, noun, said)
    if not yes:
        click.confirm(f"Delete {item['name']} ({item['id']}, {item['status']})?", abort=True)
    catalogue.deleted(settings, Screen(), noun, item)


# --- training, measuring and serving --------------------------------------------------------------------------------


@click.command()
@click.argument("model")
@click.argument("dataset")
@click.option("--epochs", "max_epochs", default=20, show_default=True, type=COUNT, help="Passes over the images.")
@click.option(
    "--set",
    "hyperparams",
    metavar="NAME=VALUE",
    multiple=True,
    type=Pairs("learning_rate=0.001"),
    help=f"How the network learns; of {', '.join(HyperParameters.__struct_fields__)}.",
)
@click.option(
    "--search",
    metavar="NAME=VALUE",
    type=Pairs("population=12"),
    help="Search for the hyper-parameters first, such as population=12,generations=3; others of its settings too.",
)
@click.option(
    "--objectives",
    type=Several(click.Choice(tuple(OBJECTIVES)), "O,O"),
    help="Of --search; default accuracy. With accuracy,latency each of --sizes is measured first.",
)
@click.option("--sizes", type=Several(COUNT, "N,N"), help="Image sizes that --search chooses from.")
@click.option("--name", help="Of the model that it makes; default: from those of model and dataset.")
@click.option("--validation-split", type=float, help="Divide train and val anew, with this share for val.")
@click.option("--seed", type=click.IntRange(0), help="The same seed trains the same way.")
@detach
@as_json
def train(model: str, dataset: str, detach: bool, as_json: bool, **given: Any) -> None:
    """Train MODEL on DATASET; a new model comes of it.

    It needs PyTorch on the machine: `make setup-train`. With --search a genetic search trains population x generations
    variants first, then the best three again with three seeds each (finalists=0 leaves that out), and the model comes
    of the best of them; what --set says holds where nothing is searched. With --objectives accuracy,latency it comes
    of the fastest of them that is as accurate as the best, and the report shows what more or less time would bring.
    """
    from console import orders
    from console.screen import Screen

    hyperparams = {name: value for pairs in given.pop("hyperparams") for name, value in pairs.items()}
    ga = _search(*(given.pop(name) for name in ("search", "objectives", "sizes")))
    order = {"model_id": model, "dataset_id": dataset, "hyperparams": hyperparams, "ga": ga, **given}
    spec = understood(TrainingOrder, order)
    screen = Screen(stderr=as_json)
    sys.exit(orders.train(config.load(), screen, model, dataset, spec, detach=detach, as_json=as_json))


def _search(
    said: dict[str, Any] | None, objectives: tuple[str, ...] | None, sizes: tuple[int, ...] | None
) -> dict[str, Any] | None:
    """What of a search was said, as the API takes it; None where nothing was."""
    if said is None:
        if objectives or sizes:
            raise click.UsageError(
                "--objectives and --sizes are of a search; add --search population=12,generations=3."
            )
        return None
    ga: dict[str, Any] = {SHORT.get(name, name): value for name, value in said.items()}
    if objectives:
        ga["objectives"] = [OBJECTIVES[name] for name in objectives]
    if sizes:
        ga["search_space"] = {"image_size": {"type": "choice", "choices": list(sizes)}}
    return ga


@click.group(cls=Lists)
def trainings() -> None:
    """List trainings, and compare two."""


@trainings.command("list")
@click.option("--model", metavar="MODEL", help="Only those that began with it, by id or name.")
@click.option("--dataset", metavar="DATASET", help="Only those that learned from it, by id or name.")
@click.option("--status", type=click.Choice(get_args(JobStatus)), help="Only these.")
@click.option("--csv", "as_csv", is_flag=True, help="As a table for a spreadsheet, with every hyper-parameter.")
@limit
@as_json
def list_trainings(limit: int, as_csv: bool, as_json: bool, **wanted: str | None) -> None:
    """List trainings and searches, newest first."""
    from console import trainings as history
    from console.screen import Screen

    history.listed(config.load(), Screen(), limit, as_csv=as_csv, as_json=as_json, **wanted)


@trainings.command("compare")
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@as_json
def compare_trainings(before: str, after: str, as_json: bool) -> None:
    """Tell what differs between two trainings: what was ordered, how they went, what they reached."""
    from console import trainings as history
    from console.screen import Screen

    history.compared(config.load(), Screen(), before, after, as_json=as_json)


@click.command()
@click.argument("model")
@click.option("--dataset", metavar="DATASET", help="Calibrates INT8 and tells the accuracy, by id or name.")
@click.option("--engine", "engines", type=Several(click.Choice(ENGINES), "E,E"), help=f"Of {', '.join(ENGINES)}.")
@click.option("--precision", "precisions", type=Several(click.Choice(PRECISIONS), "P,P"), help="fp32,int8 or fp16.")
@click.option("--batch", "batch_sizes", type=Several(COUNT, "N,N"), help="Images a call; default 1,8.")
@click.option("--threads", type=Several(COUNT, "N,N"), help="Engine threads of a session; default: every core.")
@click.option("--instances", type=Several(COUNT, "N,N"), help="Sessions side by side; default 1.")
@click.option("--objective", type=click.Choice(("latency", "throughput")), help="What the choice is for.")
@click.option(
    "--constraint",
    "constraints",
    metavar="METRIC<=NUMBER",
    multiple=True,
    type=Limit(),
    help="What the choice must keep, such as 'latency_p95_ms<=5'; as often as needed.",
)
@click.option("--accuracy-drop", type=float, help="The largest accepted loss of accuracy; default 0.01, a point.")
@click.option("--jpeg-scales", type=Several(COUNT, "N,N"), help="With a dataset: decode JPEGs at 1/N; of 1, 2, 4.")
@click.option("--max-seconds", type=float, help="Longest measuring of one candidate; default 60.")
@click.option("--noise-floor", is_flag=True, help="Also measure how far apart equals end up.")
@click.option("--users", type=COUNT, help="Also drive the HTTP service, with so many clients.")
@detach
@as_json
def benchmark(model: str, dataset: str | None, users: int | None, detach: bool, as_json: bool, **given: Any) -> None:
    """Measure MODEL on every engine and choose.

    Exit code 0: something was chosen; 1: it failed; 3: nothing keeps the constraints.
    """
    from console import orders
    from console.screen import Screen

    load = users and {"users": users}
    spec = understood(BenchmarkSpec, {"model_id": model, "service_load": load, **given})
    screen = Screen(stderr=as_json)
    sys.exit(orders.benchmark(config.load(), screen, model, dataset, spec, detach=detach, as_json=as_json))


@click.command()
@click.argument("model")
@click.option("--report", "report_id", metavar="ID", help="Take what this report chose, as it was measured.")
@click.option("--engine", type=click.Choice(ENGINES), help="Or name an engine ...")
@click.option("--precision", type=click.Choice(PRECISIONS), help="... and a number format.")
@click.option("--batch", "batch_size", type=int, help="Most images of waiting requests in one call.")
@click.option("--threads", type=int, help="Engine threads of a session.")
@click.option("--instances", type=int, help="Sessions side by side, in all inference processes.")
@click.option(
    "--jpeg-scale", type=int, help="Decode JPEGs at 1/N of their size; default: as the model's contract says."
)
@click.option("--default", "revert", is_flag=True, help="Go back to ONNX Runtime in FP32.")
def deploy(model: str, revert: bool, **order: str | int | None) -> None:
    """Choose what serves MODEL.

    It is tried first, beside what serves now, with the golden samples that the benchmark took. Exit code 1 when it
    cannot serve; then everything stays as it was.
    """
    from console import deployment
    from console.screen import Screen

    if revert == any(value is not None for value in order.values()):
        raise click.UsageError("Say what is to serve: --report ID, or --engine and --precision, or --default.")
    wanted = None if revert else understood(DeploymentOrder, order)
    deployment.run(config.load(), Screen(), model, wanted)


# --- reports --------------------------------------------------------------------------------------------------------


@click.group(cls=Lists)
def report() -> None:
    """List, save, verify and compare reports.

    A report is named by its file (JSON), or by its id where the platform runs.
    """


@report.command("list")
@click.option("--model", metavar="MODEL", help="Only those about it, by id or name.")
@limit
@as_json
def list_reports(limit: int, model: str | None, as_json: bool) -> None:
    """List the reports of benchmarks, newest first.

    Those of trainings are named by these: `cvp trainings`.
    """
    from console import report as reports
    from console.screen import Screen

    reports.listed(config.load(), Screen(), limit, model, as_json=as_json)


@report.command("export")
@click.argument("report_id", metavar="ID")
@click.option(
    "--format", "form", type=click.Choice(FORMATS), help="Default: pdf; of a training html, and json is its other one."
)
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="The file; default: its id.")
def export_(report_id: str, form: Format | None, out: Path | None) -> None:
    """Save a report as a file; that of a training is named by the training (job_...).

    `measurements` is what it was computed from: every timed call. With it and the JSON anybody can verify the report.
    """
    from console import report as reports
    from console.screen import Screen

    reports.export(config.load(), Screen(), report_id, form, out)


@report.command()
@click.argument("source", metavar="FILE")
@click.option(
    "--measurements",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="What it was computed from; default: what the platform on this machine has.",
)
def verify(source: str, measurements: Path | None) -> None:
    """Check that a report is what it says.

    FILE is its JSON (or an id): its hash, and with the measurements the whole of it computed again, byte for byte.
    Exit code 0: all of it holds; 1: it does not; 3: the hash holds, the rest could not be checked.
    """
    from console import report as reports
    from console.screen import Screen

    sys.exit(reports.verify(config.load(), Screen(), source, measurements))


@report.command()
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("--json", "as_json", is_flag=True, help=PROGRAMS)
def diff(before: str, after: str, as_json: bool) -> None:
    """Tell what differs between two reports.

    A and B are files (JSON) or ids: conditions, figures (changed, within noise, or not settled), decision.
    """
    from console import report as reports
    from console.screen import Screen

    reports.diff(config.load(), Screen(), (before, after), as_json=as_json)


# --- jobs -----------------------------------------------------------------------------------------------------------


@click.group(cls=Lists)
def jobs() -> None:
    """List, follow and cancel background jobs."""


@jobs.command("list")
@click.option("--status", type=click.Choice(get_args(JobStatus)), help="Only these.")
@limit
@as_json
def list_jobs(limit: int, status: str | None, as_json: bool) -> None:
    """List jobs, newest first."""
    from console import jobs as background
    from console.screen import Screen

    background.show(config.load(), Screen(), limit, status, as_json=as_json)


@jobs.command()
@click.argument("job")
@as_json
def follow(job: str, as_json: bool) -> None:
    """Watch JOB until it ends, and tell what came of it.

    Ctrl-C ends the watching; the job goes on. Exit codes are those of the command that orders such a job.
    """
    from console import orders
    from console.screen import Screen

    sys.exit(orders.follow(config.load(), Screen(stderr=as_json), job, as_json=as_json))


@jobs.command()
@click.argument("job")
@as_json
def cancel(job: str, as_json: bool) -> None:
    """End a benchmark, a training or a search."""
    from console import jobs as background
    from console.screen import Screen

    background.cancel(config.load(), Screen(stderr=as_json), job, as_json=as_json)


COMMANDS: tuple[click.Command, ...] = (models, datasets, train, trainings, benchmark, deploy, report, jobs)
