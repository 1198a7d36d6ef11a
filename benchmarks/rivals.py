"""What others find on LCBench: Optuna's TPE and PyGAD, run once and kept (`python -m benchmarks.rivals SEEDS`).

Both as they come, with the 200 trainings of the comparison. They need `make bench-search RIVALS=SEEDS`, which installs
them; seeds that are kept already are not run again.
"""

from __future__ import annotations

import json
import sys
import warnings
from importlib.metadata import version
from typing import Any

import numpy as np
import optuna
import pygad

from benchmarks.surrogate import EPOCHS, FOLDER, Surrogate
from shared.genes import FloatGene, Gene, Genome, IntGene

BUDGETS = (50, 100, 200)
PATH = FOLDER / "rivals.json"
POPULATION = 20

Best = list[float]
"""The best accuracy after each of `BUDGETS`."""


def main() -> None:
    """Run what is missing of the first so many seeds; each seed is kept when all its tasks are done."""
    seeds = int(sys.argv[1])
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    surrogate = Surrogate()
    for name, package, run in (("PyGAD", "pygad", genetic), ("TPE", "optuna", tpe)):
        kept = json.loads(PATH.read_text()) if PATH.exists() else {}
        mine = kept.setdefault(name, {"version": version(package), "seeds": {}})
        for seed in range(seeds):
            if str(seed) not in mine["seeds"]:
                mine["seeds"][str(seed)] = {task: run(surrogate, task, seed) for task in surrogate.judge}
                PATH.write_text(json.dumps(kept, indent=0, sort_keys=True) + "\n")
                print(f"{name}: seed {seed} of {seeds}")


def tpe(surrogate: Surrogate, task: str, seed: int) -> Best:
    """Optuna's default sampler over the same genes."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    axes = {name: distribution(surrogate.genes[name]) for name in surrogate.space.names}
    counted = Counted(surrogate, task)
    for _ in range(BUDGETS[-1]):
        trial = study.ask(axes)
        study.tell(trial, counted(dict(trial.params)))
    return counted.best()


def distribution(gene: Gene) -> Any:
    """A gene in Optuna's words."""
    assert isinstance(gene, FloatGene | IntGene)
    kind = (
        optuna.distributions.FloatDistribution if isinstance(gene, FloatGene) else optuna.distributions.IntDistribution
    )
    return kind(gene.low, gene.high, log=gene.log)


def genetic(surrogate: Surrogate, task: str, seed: int) -> Best:
    """PyGAD with tournaments, uniform crossover and one elite, over the same unit cube as ours."""
    counted = Counted(surrogate, task)

    def fitness(_: pygad.GA, point: Any, __: int) -> float:
        return counted(surrogate.space.decode([float(coordinate) for coordinate in point]))

    pygad.GA(
        num_generations=BUDGETS[-1] // (POPULATION - 1) + 1,
        num_parents_mating=POPULATION // 2,
        fitness_func=fitness,
        sol_per_pop=POPULATION,
        num_genes=len(surrogate.space.names),
        gene_space={"low": 0.0, "high": 1.0},
        parent_selection_type="tournament",
        crossover_type="uniform",
        mutation_probability=0.2,
        keep_elitism=1,
        random_seed=seed,
        suppress_warnings=True,
    ).run()
    return counted.best()


class Counted:
    """The surrogate for one task, with what was found so far."""

    def __init__(self, surrogate: Surrogate, task: str) -> None:
        self._surrogate, self._task = surrogate, task
        self._values: list[float] = []

    def __call__(self, genome: Genome) -> float:
        value = float(self._surrogate.accuracy([self._task], [genome], [EPOCHS])[0])
        self._values.append(value)
        return value

    def best(self) -> Best:
        """The best after each of `BUDGETS`; what was asked beyond does not count."""
        so_far = np.maximum.accumulate(self._values)
        return [round(float(so_far[budget - 1]), 5) for budget in BUDGETS]


if __name__ == "__main__":
    main()
