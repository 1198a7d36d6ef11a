"""The genetic search: says what to train next and is told what came of it (ask and tell).

Which trial is the n-th depends on the spec, the genes, the epochs, the seed and the results of the trials before the
(n - 1)-th, and on nothing else: not on clocks, not on how many train at once, not on the order in which two of them
end. So a search is its results: told them again (`trainer.journal`), a new one asks for what the old one would have.

One genome after the other is bred from the best so far (steady state: a generation has no end to wait for), and two
trials may be at work. With successive halving a trial trains for a part of the epochs and another one continues it,
where it is among the best third of its rung (Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys
2020). No genome is trained twice, but for finalists, with other seeds.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping, Sequence

from shared.genes import BOTH, Gene, Genome, Objective, SearchSpec
from shared.trials import Finalist, Outcome, Result, Stage, Trial
from trainer.evolution import Individual, Population, breed, latin_hypercube, ranked, survivors
from trainer.genome import Space, key
from trainer.pareto import Losses, fronts

AT_ONCE = 2
"""Trials that may be at work at a time; a trial is bred without the result of the one right before it."""

REDUCTION = 3
"""Of so many individuals of a rung one goes on to the next, for so many times the epochs."""

RUNGS = 3
FINAL_SEEDS = 3
TRIES = 100


class Search:
    """A search in progress. Not for several threads; costs no more memory than its trials."""

    def __init__(self, spec: SearchSpec, genes: Mapping[str, Gene], epochs: int, seed: int = 0) -> None:
        """`genes` are all of them (`shared.genes.with_defaults`); `epochs` is how long a whole training is.

        Raises ValueError where there is no gene or no epoch.
        """
        if epochs < 1:
            raise ValueError(f"A training has at least one epoch, not {epochs}.")
        self.spec, self.seed, self.space = spec, seed, Space(genes)
        self.rungs = rungs(epochs) if spec.halving else (epochs,)
        self.trials: list[Trial] = []
        self.results: dict[int, Result] = {}
        self.finished = False
        """No trial is at work and there is none to come."""
        self.stopped: str | None = None
        """Why the search of new genomes ended early."""
        self._again: list[int] = []
        self._settled = 0
        self._start = latin_hypercube(self._generator("start"), spec.population_size, len(self.space.names))
        self._population = Population(survivors(spec.population_size, len(spec.objectives)))
        self._rungs: list[dict[int, Individual]] = [{} for _ in self.rungs]
        self._promoted: list[set[int]] = [set() for _ in self.rungs]
        self._spent: dict[Stage, int] = {"search": 0, "baseline": 0, "final": 0}
        self._seen: set[str] = set()
        self._seen_by_chance: set[str] = set()
        self._born = 0

    # --- ask and tell -----------------------------------------------------------------------------------------------

    def ask(self) -> Trial | None:
        """The next trial to train; None when a result must be told first, or when there is no more (`finished`)."""
        if self._again:
            return self.trials[self._again.pop(0)]
        if self.finished or not self._settle(len(self.trials) + 1 - AT_ONCE):
            return None
        trial = self._next()
        if trial is not None:
            self.trials.append(trial)
            self._spent[trial.stage] += self._cost(trial)
        self.finished = trial is None and len(self.results) == len(self.trials)
        return trial

    def tell(self, number: int, result: Result) -> Result:
        """What came of a trial that was asked for, as it is taken: a value that is no number is no result.

        Raises ValueError for a trial that is not at work, and for another number of values than objectives.
        """
        if not 0 <= number < len(self.trials) or number in self.results or number in self._again:
            raise ValueError(f"Trial {number} is not at work.")
        if result.values is not None:
            if len(result.values) != len(self.spec.objectives):
                raise ValueError(f"Trial {number} has {len(self.spec.objectives)} values, not {len(result.values)}.")
            if not all(math.isfinite(value) for value in result.values):
                result = Result(reason=f"The values are no numbers: {', '.join(map(str, result.values))}.")
        self.results[number] = result
        return result

    def continuable(self) -> set[int]:
        """Numbers of the trials that were told and whose last checkpoint another trial may yet go on from.

        It is a forecast: where a trial fails late, one that is none of them may take its place, and begins anew.
        """
        if self.finished or any(trial.stage != "search" for trial in self.trials):
            return set()
        best = {individual.number for rung in range(len(self.rungs) - 1) for individual in self._hopeful(rung)}
        last = {trial.individual: trial.number for trial in self.trials if trial.individual in best}
        fresh = {
            trial.number
            for trial in self.trials[self._settled :]
            if trial.epochs < self.rungs[-1] and trial.number in self.results and self.results[trial.number].values
        }
        return fresh | set(last.values())

    def _hopeful(self, rung: int) -> list[Individual]:
        """The individuals of a rung that may yet go on to the next."""
        most = max(1, self.spec.evaluations // REDUCTION ** (rung + 1))
        peers, promoted = self._rungs[rung], self._promoted[rung]
        return ranked([one for one in peers.values() if one.number not in promoted])[:most]

    def hand_out_again(self) -> None:
        """Ask anew for the trials that were at work, those that came first, first: nobody works at them any more."""
        self._again = [trial.number for trial in self.trials if trial.number not in self.results]

    # --- what is next -----------------------------------------------------------------------------------------------

    def _next(self) -> Trial | None:
        trial = self._promotion(at_least=0) or self._birth()
        if trial is None and len(self.rungs) > 1:  # whether one more is promoted waits for all that are at work
            if not self._settle_stages("search"):
                return None
            trial = self._promotion(at_least=1)
        trial = trial or self._chance()
        if trial is None and self.spec.finalists and self._settle_stages("search", "baseline"):
            trial = self._final()
        return trial

    def _birth(self) -> Trial | None:
        if self._born == self.spec.evaluations or self.stopped or self._hopeless():
            return None
        rng = self._generator(f"born {self._born}")
        genome = self._unseen_child(rng)
        if genome is None:
            self.stopped = f"All {self._born} genomes there are were tried."
            return None
        self._seen.add(key(genome))
        generation = self._born // self.spec.population_size
        self._born += 1
        return self._trial("search", genome, self.rungs[0], generation)

    def _hopeless(self) -> bool:
        """Whether a whole generation was trained and nothing came of any."""
        if self._settled < self.spec.population_size or any(self._rungs):
            return False
        reason = self.results[self._settled - 1].reason or "no reason given"
        self.stopped = f"None of the first {self._settled} trainings gave a result; the last: {reason}"
        return True

    def _unseen_child(self, rng: random.Random) -> Genome | None:
        """A genome that was not there yet; None where there is no other."""
        members = self._population.members
        for _ in range(TRIES):
            if self._born < len(self._start):
                genome = self.space.decode(self._start[self._born])
            elif members:
                genome = self.space.decode(self._bred(rng, members))
            else:
                break
            if key(genome) not in self._seen:
                return genome
        return self.space.unseen(rng, self._seen)

    def _bred(self, rng: random.Random, members: list[Individual]) -> tuple[float, ...]:
        first = self.spec.population_size
        return breed(
            rng,
            self.space,
            members,
            mutation_rate=self.spec.mutation_rate,
            crossover_rate=self.spec.crossover_rate,
            progress=(self._born - first) / max(1, self.spec.evaluations - first),
        )

    def _promotion(self, at_least: int) -> Trial | None:
        """The best individual that is due for a longer training, of the highest rung that has one."""
        for rung in range(len(self.rungs) - 2, -1, -1):
            peers = self._rungs[rung]
            promoted = self._promoted[rung]
            places = min(max(at_least, len(peers) // REDUCTION), len(peers))
            if len(promoted) < places:
                due = ranked(list(peers.values()))[:places]
                individual = next(one for one in due if one.number not in promoted)
                promoted.add(individual.number)
                return self._continued(individual, rung + 1)
        return None

    def _continued(self, individual: Individual, rung: int) -> Trial:
        first = self.trials[individual.number]
        last = next(trial for trial in reversed(self.trials) if trial.individual == first.number)
        return self._trial(
            "search", first.genome, self.rungs[rung], first.generation, individual=first.number, continues=last.number
        )

    def _chance(self) -> Trial | None:
        """The next trial of the baseline, while it may still cost what the search did."""
        epochs = self.rungs[-1]
        hopeless = not any(self._rungs)
        if not self.spec.baseline or hopeless or self._spent["baseline"] + epochs > self._spent["search"]:
            return None
        rng = self._generator(f"chance {len(self._seen_by_chance)}")
        genome = self.space.unseen(rng, self._seen_by_chance)
        if genome is None:
            return None
        self._seen_by_chance.add(key(genome))
        return self._trial("baseline", genome, epochs, 0)

    def _final(self) -> Trial | None:
        done = sum(trial.stage == "final" for trial in self.trials)
        chosen = [*self._best("search"), *self._best("baseline")]
        if done == len(chosen) * FINAL_SEEDS:
            return None
        individual = chosen[done // FINAL_SEEDS].number
        seed = self.seed + 1 + done % FINAL_SEEDS
        return self._trial("final", self.trials[individual].genome, self.rungs[-1], 0, individual=individual, seed=seed)

    def _best(self, stage: Stage) -> list[Individual]:
        """The finalists of a stage: the best of those that were trained to the end. Of two objectives the front, and
        where that is too short the most accurate of the others; of equals one.
        """
        trained = self._trained(stage)
        best = ranked(trained)
        if self.spec.objectives == BOTH:
            front = {trained[place].losses for place in next(fronts([one.losses for one in trained]), [])}
            found: dict[Losses, Individual] = {}
            for one in (*(one for one in best if one.losses in front), *sorted(trained, key=lambda one: one.losses)):
                found.setdefault(one.losses, one)
            best = list(found.values())
        return best[: self.spec.finalists]

    def _trial(
        self,
        stage: Stage,
        genome: Genome,
        epochs: int,
        generation: int,
        *,
        individual: int | None = None,
        continues: int | None = None,
        seed: int | None = None,
    ) -> Trial:
        number = len(self.trials)
        return Trial(
            number=number,
            stage=stage,
            individual=number if individual is None else individual,
            generation=generation,
            genome=genome,
            seed=self.seed if seed is None else seed,
            epochs=epochs,
            continues=continues,
        )

    def _generator(self, purpose: str) -> random.Random:
        """Random numbers for one purpose, the same whenever they are drawn."""
        return random.Random(f"{self.seed} {purpose}")

    # --- what is known ----------------------------------------------------------------------------------------------

    def _settle(self, count: int) -> bool:
        """Learn from the results of the first `count` trials, in their order; False while one is missing."""
        if any(number not in self.results for number in range(self._settled, count)):
            return False
        while self._settled < count:
            self._learn(self.trials[self._settled], self.results[self._settled])
            self._settled += 1
        return True

    def _settle_stages(self, *stages: Stage) -> bool:
        return self._settle(sum(trial.stage in stages for trial in self.trials))

    def _learn(self, trial: Trial, result: Result) -> None:
        if trial.stage != "search":
            return
        if result.values is None:
            self._forget(trial.individual)
            return
        individual = self._individual(trial, result.values)
        self._rungs[individual.rung][individual.number] = individual
        self._population.add(individual)

    def _forget(self, number: int) -> None:
        """What failed late is no parent either, and leaves its place among the promoted to another."""
        self._population.drop(number)
        for rung, promoted in zip(self._rungs, self._promoted, strict=True):
            rung.pop(number, None)
            promoted.discard(number)

    def _individual(self, trial: Trial, values: tuple[float, ...]) -> Individual:
        return Individual(
            number=trial.individual,
            genome=trial.genome,
            point=self.space.encode(trial.genome),
            rung=self.rungs.index(trial.epochs),
            losses=losses(self.spec.objectives, values),
        )

    def _trained(self, stage: Stage) -> list[Individual]:
        """All of a stage that were trained to the end and gave a result."""
        return [
            self._individual(trial, values)
            for trial in self.trials
            if trial.stage == stage
            and trial.epochs == self.rungs[-1]
            and trial.number in self.results
            and (values := self.results[trial.number].values) is not None
        ]

    # --- what came of it --------------------------------------------------------------------------------------------

    def outcome(self) -> Outcome:
        """What is known by now, of trials that are still at work nothing."""
        trained = self._trained("search")
        by_chance = self._trained("baseline")
        finalists = self._finalists()
        most_accurate = min(trained, key=lambda one: one.losses, default=None)
        chosen = self._chosen([one for one in finalists if one.stage == "search" and one.again]) or most_accurate
        return Outcome(
            best=None if chosen is None else chosen.genome,
            front=[
                (trained[place].genome, self._values(trained[place].losses))
                for place in next(fronts([one.losses for one in trained]), [])
            ],
            history=self._history(trained),
            finalists=finalists,
            evaluations=self._born,
            failed=sum(result.values is None for result in self.results.values()),
            epochs=self._spent["search"],
            baseline_epochs=self._spent["baseline"],
            baseline_best=self._values(_best_of_each([one.losses for one in by_chance])) if by_chance else None,
            stopped=self.stopped,
        )

    @property
    def tried(self) -> int:
        """Genomes of which something is known, be it that they fail; those of chance not counted."""
        return len({self.trials[each].individual for each in self.results if self.trials[each].stage == "search"})

    def stage_done(self) -> tuple[int, int] | None:
        """Of a stage after the search itself: its trials that were told, and all it will have; None before."""
        stage = self.trials[-1].stage if self.trials else "search"
        if stage == "search":
            return None
        told = sum(self.trials[number].stage == stage for number in self.results)
        if stage == "final":
            return told, FINAL_SEEDS * (len(self._best("search")) + len(self._best("baseline")))
        return told, self._spent["search"] // self.rungs[-1]

    def epochs_done(self) -> int:
        """Of all trials that were told, whatever came of them."""
        return sum(self._cost(self.trials[number]) for number in self.results)

    def epochs_planned(self) -> int:
        """Of all trials, if none fails and nothing ends early."""
        whole, births = self.rungs[-1], self.spec.evaluations
        steps = zip((0, *self.rungs), self.rungs, strict=False)
        searched = sum(max(1, births // REDUCTION**rung) * (to - done) for rung, (done, to) in enumerate(steps))
        stages = 2 if self.spec.baseline else 1
        return stages * (searched + self.spec.finalists * FINAL_SEEDS * whole)

    def _cost(self, trial: Trial) -> int:
        return trial.epochs - (0 if trial.continues is None else self.trials[trial.continues].epochs)

    def _history(self, trained: list[Individual]) -> list[tuple[float, ...] | None]:
        found: dict[int, list[Losses]] = {}
        for one in trained:
            found.setdefault(self.trials[one.number].generation, []).append(one.losses)
        history: list[tuple[float, ...] | None] = []
        best: list[Losses] = []
        for generation in range(-(-self._born // self.spec.population_size)):
            until = [*best, *found.get(generation, [])]
            best = [_best_of_each(until)] if until else []
            history += [self._values(each) for each in best] or [None]
        return history

    def _finalists(self) -> list[Finalist]:
        found: dict[int, list[tuple[float, ...]]] = {}
        for trial in self.trials:
            if trial.stage == "final":
                again = found.setdefault(trial.individual, [])
                values = self.results[trial.number].values if trial.number in self.results else None
                again += [values] if values is not None else []
        known = {one.number: one for one in (*self._trained("search"), *self._trained("baseline"))}
        return [
            Finalist(
                individual=number,
                stage=self.trials[number].stage,
                genome=self.trials[number].genome,
                found=self._values(known[number].losses),
                again=again,
            )
            for number, again in found.items()
        ]

    def _chosen(self, repeated: Sequence[Finalist]) -> Finalist | None:
        """Of those that were trained again most often that of the best mean; with two objectives the fastest of those
        that are as accurate, but for one standard error of the best (Breiman et al., Classification and Regression
        Trees, 1984, 3.4.3).
        """
        most = max((len(one.again) for one in repeated), default=0)
        whole = {self._mean(one.again): one for one in reversed(repeated) if len(one.again) == most}
        if not whole:
            return None
        best = min(whole)
        if self.spec.objectives != BOTH:
            return whole[best]
        worst = best[0] + standard_error([values[0] for values in whole[best].again])
        return whole[min((means for means in whole if means[0] <= worst), key=lambda means: means[::-1])]

    def _mean(self, again: list[tuple[float, ...]]) -> Losses:
        every = [losses(self.spec.objectives, values) for values in again]
        return tuple(sum(axis) / len(axis) for axis in zip(*every, strict=True))

    def _values(self, loss: Losses) -> tuple[float, ...]:
        return losses(self.spec.objectives, loss)


def rungs(epochs: int) -> tuple[int, ...]:
    """How long trainings are with successive halving: a ninth of the epochs, a third, all."""
    shares = (REDUCTION**rung for rung in range(RUNGS - 1, -1, -1))
    return tuple(sorted({max(1, round(epochs / share)) for share in shares}))


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of some values; 0 of a single one."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def _best_of_each(found: Sequence[Losses]) -> Losses:
    """The least of each loss, of whatever individual."""
    return tuple(map(min, zip(*found, strict=True)))


def losses(objectives: tuple[Objective, ...], values: tuple[float, ...]) -> Losses:
    """Values with the sign turned where more is better; turns losses into values as well."""
    pairs = zip(objectives, values, strict=True)
    return tuple(-value if objective == "accuracy" else value for objective, value in pairs)
