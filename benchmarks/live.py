"""`make bench-search-live`: the genetic search against chance on real trainings of the digits, at equal cost.

A network learns from 300 digits and is judged by 600 others. Each seed is one search with its baseline: as many
epochs of genomes drawn by chance. The three best of each are trained again with three other seeds, since what was
chosen for being high is not as high again, and the best of those is the choice, as on the platform; the difference of
the two choices, seed by seed, says what the search was worth.
"""

from __future__ import annotations

import itertools
import os
import random
import statistics
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table
from scipy import stats

from benchmarks.training import Files, checked, digits_archive, order
from shared import config, errors, process
from shared.genes import Genome, SearchSpec, applied, genes_of
from shared.specs import HyperParameters
from shared.trials import Finalist, Order, Result, Trial
from trainer import TrainOrder, enclosed, journal
from trainer.search import FINAL_SEEDS

SEEDS = 10
TRAIN, VAL = 300, 600
SIDE = 16
EPOCHS = 4
WANTED = SearchSpec(population_size=8, generations=3, finalists=3, baseline=True)
ARCHITECTURE = "cnn32"


class Found(NamedTuple):
    """Of one seed: the accuracy that search and chance saw, and what they reached again, in the mean."""

    seed: int
    search: float
    chance: float
    search_again: float
    chance_again: float
    failed: int
    seconds: float


def main() -> None:
    """As many seeds as the command line says; exits with 1 where the search is not better than chance."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS
    console = Console()
    trainings = 2 * (WANTED.evaluations + WANTED.finalists * FINAL_SEEDS)
    console.print(f"{seeds} seeds, each {trainings} trainings of {ARCHITECTURE} for {EPOCHS} epochs on {TRAIN} digits")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = small_digits(folder)
        start = order(folder / "start", data, ARCHITECTURE, side=SIDE, epochs=EPOCHS)
        workers = ProcessPoolExecutor(
            config.cores(),
            mp_context=get_context("spawn"),
            initializer=process.die_with_parent,  # they would go on with what nobody waits for
            initargs=(os.getpid(),),
        )
        with workers as pool:
            found = list(pool.map(one, itertools.repeat(start), range(seeds)))
    console.print(table(found))
    if seeds < 2:
        return
    seen = interval([each.search - each.chance for each in found])
    again = interval([each.search_again - each.chance_again for each in found])
    console.print(f"Search less chance, as they saw it: {told(seen)}. Trained again with other seeds: {told(again)}.")
    sys.exit(again[1] <= 0)


def small_digits(folder: Path) -> Files:
    """The digits in another division: some to learn from, some to judge by."""
    whole, path = digits_archive(folder), folder / "small.zip"
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(path, "w") as divided:
        chosen = random.Random(0).sample(sorted(archive.namelist()), TRAIN + VAL)
        for number, name in enumerate(chosen):
            was, label, file = name.split("/")
            divided.writestr(f"{'train' if number < TRAIN else 'val'}/{label}/{was}-{file}", archive.read(name))
    return checked(path)


def one(start: TrainOrder, seed: int) -> Found:
    """A search with its baseline, carried out in this process on one thread."""
    enclosed.settle()
    began = time.monotonic()
    search = journal.start(Order(spec=WANTED, genes=genes_of(WANTED), epochs=EPOCHS, seed=1000 * seed))
    while (trial := search.ask()) is not None:
        search.tell(trial.number, trained(start, trial))
    outcome = search.outcome()
    ours, theirs = (
        max((each for each in outcome.finalists if each.stage == stage and each.again), key=mean)
        for stage in ("search", "baseline")
    )
    return Found(
        seed=seed,
        search=ours.found[0],
        chance=theirs.found[0],
        search_again=mean(ours),
        chance_again=mean(theirs),
        failed=outcome.failed,
        seconds=time.monotonic() - began,
    )


def trained(start: TrainOrder, trial: Trial) -> Result:
    """What the training of a trial reaches; without a model or a child, as neither changes that."""
    from trainer import training

    with tempfile.TemporaryDirectory() as folder:
        hyperparams = with_genome(trial.genome)
        spec = msgspec.structs.replace(start.spec, hyperparams=hyperparams, seed=trial.seed)
        asked = msgspec.structs.replace(start, spec=spec, folder=folder, threads=1, until_epoch=trial.epochs)
        try:
            made = training.train(asked, lambda body: None)
        except errors.InvalidInput as refused:
            return Result(reason=refused.message)
    return Result(values=(made.result.final_accuracy,))


def with_genome(genome: Genome) -> HyperParameters:
    """The usual hyper-parameters with those of a genome."""
    return applied(HyperParameters(), genome)


def mean(finalist: Finalist) -> float:
    """What a finalist reached with other seeds."""
    return statistics.mean(values[0] for values in finalist.again)


def interval(differences: list[float]) -> tuple[float, float, float]:
    """Their mean, and between what it lies with 95 % (Student's t)."""
    middle = statistics.mean(differences)
    half = stats.t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / len(differences) ** 0.5
    return middle, middle - half, middle + half


def told(found: tuple[float, float, float]) -> str:
    """In percentage points."""
    middle, low, high = (100 * value for value in found)
    return f"{middle:+.2f} points ({low:+.2f} to {high:+.2f})"


def table(found: list[Found]) -> Table:
    """A row a seed."""
    shown = Table("seed", "search", "chance", "search again", "chance again", "failed", "seconds")
    for each in found:
        figures = (each.search, each.chance, each.search_again, each.chance_again)
        shown.add_row(str(each.seed), *(f"{value:.2%}" for value in figures), str(each.failed), f"{each.seconds:.0f}")
    return shown


if __name__ == "__main__":
    main()
