"""`make bench-search`: the genetic search against chance, Optuna's TPE and PyGAD, on LCBench's surrogate.

Each searches every task with 30 seeds and 50, 100 or 200 trainings; with halving, for a third of the epochs of as many.
Nothing of the search was chosen by the 24 tasks it is judged on, and every run on them is written down in
`benchmarks/lcbench/results.jsonl`. `--tune` uses the other ten, by which its constants were chosen, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from scipy import stats

from benchmarks.surrogate import EPOCHS, FOLDER, Surrogate
from shared.genes import Genome, SearchSpec
from shared.trials import Result
from trainer.search import Search

BUDGETS = (50, 100, 200)
SEEDS = 30
SPECS = {50: (10, 5), 100: (20, 5), 200: (20, 10)}
"""Population and generations of as many trainings."""
HALVING_SPECS = {50: (10, 6), 100: (20, 6), 200: (20, 12)}
"""Of as many genomes as a third of those epochs is enough for."""

ALPHA, LOWER, MARGIN = 0.01, 0.30, 0.02
RESULTS, REFERENCE, RIVALS = (FOLDER / name for name in ("results.jsonl", "reference.json", "rivals.json"))

Found = npt.NDArray[np.float64]
"""The best accuracy of each task (row) and seed (column)."""

console = Console(highlight=False)


class Contestant(Protocol):
    """One search of one task: what to train next, for how long, and the result of that."""

    @property
    def epochs(self) -> int:
        """Trained so far."""

    def ask(self) -> tuple[Genome, int] | None:
        """The next genome and how many epochs it then has in all; None at the end."""

    def tell(self, accuracy: float) -> None:
        """What that reached, in percent."""


class Ours:
    """The search of the trainer, one trial at a time."""

    def __init__(self, surrogate: Surrogate, seed: int, size: tuple[int, int], halving: bool) -> None:
        spec = SearchSpec(population_size=size[0], generations=size[1], halving=halving, finalists=0)
        self._search = Search(spec, surrogate.genes, EPOCHS, seed)

    @property
    def epochs(self) -> int:
        """Trained so far."""
        return self._search.outcome().epochs

    def ask(self) -> tuple[Genome, int] | None:
        """See `Contestant`."""
        trial = self._search.ask()
        return None if trial is None else (trial.genome, trial.epochs)

    def tell(self, accuracy: float) -> None:
        """See `Contestant`."""
        self._search.tell(len(self._search.trials) - 1, Result(values=(accuracy,)))


class Chance:
    """Evenly drawn genomes."""

    def __init__(self, surrogate: Surrogate, seed: int, budget: int) -> None:
        self._space, self._rng, self._left, self.epochs = surrogate.space, random.Random(seed), budget, 0

    def ask(self) -> tuple[Genome, int] | None:
        """See `Contestant`."""
        if not self._left:
            return None
        self._left -= 1
        self.epochs += EPOCHS
        return self._space.decode([self._rng.random() for _ in self._space.names]), EPOCHS

    def tell(self, accuracy: float) -> None:
        """See `Contestant`."""


def main() -> None:
    """Run everything, show it, write it down; exit code 1 when a goal was missed."""
    parser = argparse.ArgumentParser(prog="benchmarks.search", description=__doc__)
    parser.add_argument("--tune", action="store_true", help="on the ten tasks for tuning; nothing is written down")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    given = parser.parse_args()
    surrogate = Surrogate()
    tasks = surrogate.tune if given.tune else surrogate.judge
    began = time.monotonic()
    found, epochs = everybody(surrogate, tasks, given.seeds)
    if not given.tune:
        found |= rivals(tasks, given.seeds)
    figures = judged(found, references(surrogate, tasks), epochs)
    shown(figures)
    console.print(f"{len(tasks)} tasks, {given.seeds} seeds, {time.monotonic() - began:.0f} s")
    if not given.tune:
        written_down(figures, given.seeds)
        sys.exit(0 if all(goal["kept"] for goal in figures["goals"]) else 1)


# --- running ----------------------------------------------------------------------------------------------------------


def everybody(
    surrogate: Surrogate, tasks: Sequence[str], seeds: int
) -> tuple[dict[tuple[str, int], Found], dict[str, float]]:
    """What ours, ours with halving and chance find by name and budget, and the epochs each spends of a run's 200."""
    found: dict[tuple[str, int], Found] = {}
    epochs: dict[str, float] = {}
    for budget in BUDGETS:
        makers: dict[str, Callable[[int], Contestant]] = {
            "search": partial(Ours, surrogate, size=SPECS[budget], halving=False),
            "halving": partial(Ours, surrogate, size=HALVING_SPECS[budget], halving=True),
            "chance": partial(Chance, surrogate, budget=budget),
        }
        for name, make in makers.items():
            found[name, budget], spent = run(surrogate, tasks, seeds, make)
            epochs[f"{name} {budget}"] = spent / EPOCHS
    return found, epochs


def run(
    surrogate: Surrogate, tasks: Sequence[str], seeds: int, make: Callable[[int], Contestant]
) -> tuple[Found, float]:
    """The best accuracy of whole trainings, and the mean epochs; all runs go on side by side, in one batch a step."""
    running = [(place, task, make(seed)) for place, task in enumerate(tasks) for seed in range(seeds)]
    contestants = [contestant for _, _, contestant in running]
    best = np.full(len(running), -np.inf)
    alive = list(range(len(running)))
    while alive:
        asked = [(place, order) for place in alive if (order := contestants[place].ask()) is not None]
        alive = [place for place, _ in asked]
        if alive:
            genomes, epochs = zip(*(order for _, order in asked), strict=True)
            reached = surrogate.accuracy([running[place][1] for place in alive], genomes, epochs)
            for place, length, accuracy in zip(alive, epochs, reached, strict=True):
                contestants[place].tell(float(accuracy))
                if length == EPOCHS:
                    best[place] = max(best[place], accuracy)
    return best.reshape(len(tasks), seeds), float(np.mean([contestant.epochs for contestant in contestants]))


def rivals(tasks: Sequence[str], seeds: int) -> dict[tuple[str, int], Found]:
    """What was kept of others (`benchmarks.rivals`), as many seeds as there are."""
    found: dict[tuple[str, int], Found] = {}
    for name, kept in json.loads(RIVALS.read_text()).items():
        runs = [run for seed, run in sorted(kept["seeds"].items(), key=lambda item: int(item[0])) if int(seed) < seeds]
        for place, budget in enumerate(BUDGETS):
            found[name, budget] = np.array([[run[task][place] for run in runs] for task in tasks])
    return found


def references(surrogate: Surrogate, tasks: Sequence[str]) -> dict[str, list[float]]:
    """Best, middle and worst accuracy of each task; computed once and kept."""
    kept: dict[str, list[float]] = json.loads(REFERENCE.read_text()) if REFERENCE.exists() else {}
    for task in tasks:
        if task not in kept:
            kept[task] = [round(value, 5) for value in surrogate.reference(task)]
            REFERENCE.write_text(json.dumps(kept, indent=0) + "\n")
    return {task: kept[task] for task in tasks}


# --- judging ----------------------------------------------------------------------------------------------------------


def judged(
    found: dict[tuple[str, int], Found], references: dict[str, list[float]], epochs: dict[str, float]
) -> dict[str, Any]:
    """Everything there is to say: regret, ranks, tests, goals."""
    best, _, worst = np.array(list(references.values())).T
    missing = {who: (best[:, None] - values).mean(axis=1) for who, values in found.items()}
    regret = {who: points / (best - worst) for who, points in missing.items()}
    names = sorted({name for name, _ in found})
    rows = []
    for budget in BUDGETS:
        ranks = stats.rankdata([regret[name, budget] for name in names], axis=0).mean(axis=1)
        rows += [
            {
                "who": name,
                "trainings": budget,
                "seeds": found[name, budget].shape[1],
                "epochs": round(epochs.get(f"{name} {budget}", float(budget)), 1),
                "regret": round(float(regret[name, budget].mean()), 5),
                "points": round(float(missing[name, budget].mean()), 3),
                "rank": round(float(rank), 2),
            }
            for name, rank in zip(names, ranks, strict=True)
        ]
    tests = holm(regret, names)
    return {"rows": rows, "tests": tests, "goals": goals(regret, tests)}


def holm(regret: dict[tuple[str, int], Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """Whether the search misses less than each other one over the tasks: Wilcoxon's signed-rank test, by Holm."""
    pairs = [(budget, other) for budget in BUDGETS for other in names if other not in ("search", "halving")]
    raw = [
        float(stats.wilcoxon(regret["search", budget], regret[other, budget], alternative="less").pvalue)
        for budget, other in pairs
    ]
    corrected, largest = [1.0] * len(raw), 0.0
    for rank, place in enumerate(np.argsort(raw)):
        largest = max(largest, min(1.0, raw[place] * (len(raw) - rank)))
        corrected[place] = largest
    return [
        {
            "trainings": budget,
            "against": other,
            "p": float(f"{p:.2g}"),
            "lower_by": round(1 - float(regret["search", budget].mean() / regret[other, budget].mean()), 3),
            "tasks_better": int((regret["search", budget] < regret[other, budget]).sum()),
        }
        for (budget, other), p in zip(pairs, corrected, strict=True)
    ]


def goals(regret: dict[tuple[str, int], Any], tests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The goals that were set, what was reached, and whether that is enough."""
    chance = {test["trainings"]: test for test in tests if test["against"] == "chance"}
    worst_p = max(test["p"] for test in chance.values())
    reached = [
        ("less regret than chance at 50, 100 and 200 trainings: p (Wilcoxon over tasks, Holm)", worst_p, "<", ALPHA),
        ("regret at 100 trainings lower than chance's by", chance[100]["lower_by"], ">=", LOWER),
    ]
    if ("TPE", 200) in regret:
        behind = float((regret["search", 200] - regret["TPE", 200]).mean())
        reached.append(("regret at 200 trainings more than TPE's by (negative: less)", round(behind, 5), "<=", MARGIN))
    for budget in BUDGETS:
        ratio = float(regret["halving", budget].mean() / regret["search", budget].mean())
        reached.append(
            (
                f"with halving, a third of the epochs of {budget}: regret as a share of the search's",
                round(ratio, 3),
                "<=",
                1.0,
            )
        )
    kept = {"<": lambda a, b: a < b, "<=": lambda a, b: a <= b, ">=": lambda a, b: a >= b}
    return [
        {"goal": goal, "reached": value, "wanted": f"{sign} {limit:g}", "kept": kept[sign](value, limit)}
        for goal, value, sign, limit in reached
    ]


# --- showing ----------------------------------------------------------------------------------------------------------


def shown(figures: dict[str, Any]) -> None:
    """Three tables."""
    for name in ("rows", "tests", "goals"):
        table = Table(*figures[name][0])
        for row in figures[name]:
            table.add_row(*(str(value) for value in row.values()))
        console.print(table)


def written_down(figures: dict[str, Any], seeds: int) -> None:
    """A line in the results, whatever it says."""
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git("describe", "--always", "--dirty", "--abbrev=12"),
        "trainer": git("rev-parse", "--short=12", "HEAD:trainer"),  # the search itself, which a rebase leaves alone
        "seeds": seeds,
        **figures,
    }
    with RESULTS.open("a") as file:
        file.write(json.dumps(record) + "\n")


def git(*arguments: str) -> str:
    """What git says."""
    said = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout.strip()
    return said or "unknown"


if __name__ == "__main__":
    main()
