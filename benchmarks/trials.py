"""`make bench-trials`: what a trial of a search costs on the platform, and that killing changes no search.

* `overhead`: trials of one epoch of the digits beside the same trainings in a bare loop of `training.train`, with one
  slot and with two.
* `kills`: a search during which coordinator, trainers and whatever they started are killed ten times at random moments
  asks for the trials, and finds what, one that was left alone did.
"""

from __future__ import annotations

import contextlib
import json
import random
import statistics
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import psutil

from benchmarks import checks
from benchmarks.checks import Found
from benchmarks.run import Platform, platform
from benchmarks.training import checked, digits_archive, order
from shared.genes import SearchSpec, applied, genes_of
from shared.specs import HyperParameters
from shared.trials import Order, Result
from trainer import enclosed, journal

ARCHITECTURE, SIDE = "cnn32", 16
TRIALS = 8
OVERHEAD_S = 1.0
"""What the platform may add to a trial: its process, rows, the two looks of those who wait."""
KILLS = 10
BETWEEN_S = (1.0, 8.0)
KILLED = ("trainer.coordinator", "trainer", "trainer.warm", "trainer.enclosed")
SEARCH_S = 1800.0
SEED = 7


def overhead(folder: Path, times: int | None) -> Found:
    """Seconds a trial, on the platform and bare; the first trial of each trainer, which imports PyTorch, apart."""
    ga = SearchSpec(population_size=TRIALS, generations=1, finalists=0)
    bare_s = statistics.median(bare(folder, ga))
    walls = {}
    for slots in (1, 2):
        with platform(MAX_GPU_WORKERS=str(slots)) as running:
            found = searched(running, folder, ga, max_epochs=1)
            trials = sorted(trials_of(running, found["id"]), key=lambda each: each["finished_at"])
            ends = [seconds(each["finished_at"]) for each in trials]
            walls[slots] = (ends[-1] - ends[slots - 1]) / (len(ends) - slots)
            yield f"{slots} slots: {walls[slots]:.2f} s a trial; a bare training {bare_s:.2f} s", True
    added = walls[1] - bare_s
    yield f"the platform adds {added:.2f} s to a trial (goal {OVERHEAD_S})", added <= OVERHEAD_S
    yield f"two slots do {walls[1] / walls[2]:.2f} times the trials of one", walls[2] < walls[1]


def bare(folder: Path, ga: SearchSpec) -> list[float]:
    """Seconds of each of the same trainings in this process, after the first, which warms up."""
    enclosed.settle()
    from trainer import training

    start = order(folder / "bare", checked(digits_archive(folder)), ARCHITECTURE, side=SIDE, epochs=1)
    search = journal.start(Order(spec=ga, genes=genes_of(ga), epochs=1, seed=SEED))
    spent: list[float] = []
    while (trial := search.ask()) is not None:
        own = folder / f"bare-{trial.number}"
        own.mkdir()
        spec = msgspec.structs.replace(start.spec, hyperparams=applied(HyperParameters(), trial.genome), seed=SEED)
        began = time.monotonic()
        made = training.train(msgspec.structs.replace(start, spec=spec, folder=str(own)), lambda body: None)
        spent.append(time.monotonic() - began)
        search.tell(trial.number, Result(values=(made.result.final_accuracy,)))
    return spent[1:]


def kills(folder: Path, times: int | None) -> Found:
    """The record of a search that was killed beside that of one that was not, but for the ids of their jobs."""
    ga = SearchSpec(population_size=4, generations=3, finalists=1, halving=True)
    records = []
    for wanted in (0, times or KILLS):
        with platform() as running:
            done = [0]
            found = searched(running, folder, ga, max_epochs=6, meanwhile=killer(running, wanted, done))
            told = [msgspec.json.encode(each) for each in told_of(running, found["id"])]
            records.append((told, found["final_accuracy"]))
            yield f"{done[0]} kills: {len(told)} trials, accuracy {found['final_accuracy']:.4f} in the end", True
    yield "the same trials with the same results, and the same accuracy in the end", records[0] == records[1]


def killer(running: Platform, times: int, done: list[int]) -> Callable[[], None]:
    """Kills a process of training whenever it is called and its time has come."""
    draw = random.Random(SEED)
    next_at = time.monotonic() + draw.uniform(*BETWEEN_S)

    def maybe() -> None:
        nonlocal next_at
        if done[0] == times or time.monotonic() < next_at:
            return
        next_at = time.monotonic() + draw.uniform(*BETWEEN_S)
        alive = [each for each in running.processes().get("trainer", []) if module_of(each) in KILLED]
        if alive:
            draw.choice(alive).kill()
            done[0] += 1

    return maybe


def module_of(process: psutil.Process) -> str:
    """What it runs with `-m`; nothing where it is gone or a scribe."""
    with contextlib.suppress(psutil.Error, ValueError, IndexError):
        line = process.cmdline()
        return str(line[line.index("-m") + 1])
    return ""


def searched(
    running: Platform, folder: Path, ga: SearchSpec, max_epochs: int, meanwhile: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Upload, search, and wait for its end."""
    model_id, dataset_id = uploaded(running, folder)
    asked = {"model_id": model_id, "dataset_id": dataset_id, "max_epochs": max_epochs, "seed": SEED}
    answer = running.http.post("/training", json=asked | {"ga": msgspec.to_builtins(ga)})
    answer.raise_for_status()
    end = time.monotonic() + SEARCH_S
    while time.monotonic() < end:
        found: dict[str, Any] = running.http.get(f"/training/{answer.json()['id']}").raise_for_status().json()
        if found["status"] == "completed":
            return found
        if found["status"] not in ("queued", "running"):
            raise SystemExit(f"The search ended as {found['status']}: {found['error']}")
        meanwhile()
        time.sleep(0.2)
    raise SystemExit(f"The search did not end within {SEARCH_S:g} s")


def uploaded(running: Platform, folder: Path) -> tuple[str, str]:
    """A network with seeded weights and the digits, both ready."""
    from shared.nets import architectures, weights

    path = folder / "net.safetensors"
    path.write_bytes(weights.state_bytes(architectures.build(ARCHITECTURE), (3, SIDE, SIDE)))
    contract = {"resize": {"height": SIDE, "width": SIDE}, "mean": [0.5], "std": [0.5]}
    shape = json.dumps([1, 3, SIDE, SIDE])
    model_id = running.upload(path, architecture=ARCHITECTURE, preprocessing=json.dumps(contract), input_shape=shape)
    with digits_archive(folder).open("rb") as file:
        fields = {"name": "digits", "task_type": "classification"}
        answer = running.http.post("/datasets", data=fields, files={"file": ("digits.zip", file)}).raise_for_status()
    dataset_id = str(answer.json()["id"])
    for path_of in (f"/models/{model_id}", f"/datasets/{dataset_id}"):
        running.wait(path_of, lambda body: body["status"] == "ready")
    return model_id, dataset_id


def trials_of(running: Platform, search_id: str) -> list[dict[str, Any]]:
    """The jobs of its trials."""
    answer = running.http.get("/training", params={"search_id": search_id, "limit": 200}).raise_for_status()
    return [each for each in answer.json()["items"] if "until_epoch" in each["config"]]


def told_of(running: Platform, search_id: str) -> list[dict[str, Any]]:
    """Its trials and their results, from its report."""
    path = f"/training/{search_id}/report"
    end = time.monotonic() + SEARCH_S
    while time.monotonic() < end:
        answer = running.http.get(path, params={"format": "json"})
        if answer.is_success:
            return list(answer.json()["search"]["told"])
        time.sleep(0.5)
    raise SystemExit("The search has no report.")


def seconds(iso: str) -> float:
    """Of a point in time as the API tells it."""
    return datetime.fromisoformat(iso).timestamp()


CHECKS: dict[str, checks.Check] = {"overhead": overhead, "kills": kills}


if __name__ == "__main__":
    checks.main("benchmarks.trials", __doc__, CHECKS)
