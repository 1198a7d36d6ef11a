"""The genetic search: what it asks for, that its results are all there is to it, and what it never does twice."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.genes import BOTH, BoolGene, ChoiceGene, FloatGene, Genes, Genome, IntGene, SearchSpec
from shared.trials import Order, Result, Trial
from trainer import journal
from trainer.evolution import Individual, Population, crossover, latin_hypercube, mutate, survivors, tournament
from trainer.genome import Point, Space, key
from trainer.journal import JournalError
from trainer.search import AT_ONCE, FINAL_SEEDS, Search, rungs

GENES: Genes = {
    "rate": FloatGene(low=1e-4, high=1e-1, log=True),
    "units": IntGene(low=8, high=64, log=True),
    "optimizer": ChoiceGene(choices=("sgd", "adam", "adamw")),
    "nesterov": BoolGene(),
}
EPOCHS = 9


def order(seed: int = 0, genes: Genes = GENES, epochs: int = EPOCHS, **fields: object) -> Order:
    shown = {"population_size": 6, "generations": 4, "finalists": 2} | fields
    return Order(spec=SearchSpec(**shown), genes=genes, epochs=epochs, seed=seed)


def quality(genome: Genome) -> float:
    """The best rate is 0.01, adam the best optimizer."""
    return -abs(math.log10(float(genome["rate"])) + 2) - (genome["optimizer"] != "adam") + float(genome["units"]) / 1000


def trained(trial: Trial, objectives: int = 1) -> Result:
    """What a training would give: more with more epochs; some genomes fail, and some at the end only."""
    luck = random.Random(f"{key(trial.genome)} {trial.seed}").random()
    if luck < 0.1 or (luck < 0.2 and trial.epochs == EPOCHS):
        return Result(reason="The loss is not a number.")
    return Result(values=(quality(trial.genome) + trial.epochs / 100 + luck / 100, luck)[:objectives])


def one_by_one(search: Search, train: Callable[[Trial], Result]) -> Iterator[tuple[Trial, Result]]:
    while (trial := search.ask()) is not None:
        yield trial, search.tell(trial.number, train(trial))
    assert search.finished


def carried_out(order: Order, train: Callable[[Trial], Result] | None = None) -> Search:
    search = journal.start(order)
    for _ in one_by_one(search, train or (lambda trial: trained(trial, len(order.spec.objectives)))):
        pass
    return search


def in_any_order(order: Order, search: Search, draw: random.Random, until: int | None = None) -> list[bytes]:
    """Carry a search out with as many at work as it gives, which end in any order; the journal's lines."""
    lines = []
    at_work: list[Trial] = []
    while until is None or len(lines) < until:
        while (trial := search.ask()) is not None:
            at_work.append(trial)
        assert len(at_work) <= AT_ONCE
        if not at_work:
            break
        trial = at_work.pop(draw.randrange(len(at_work)))
        result = search.tell(trial.number, trained(trial, len(order.spec.objectives)))
        lines.append(journal.line(trial, result))
    return lines


orders = st.builds(
    order,
    seed=st.integers(0, 5),
    population_size=st.integers(2, 8),
    generations=st.integers(1, 5),
    objectives=st.sampled_from([("accuracy",), ("accuracy", "latency_ms")]),
    halving=st.booleans(),
    baseline=st.booleans(),
    finalists=st.integers(0, 2),
)


@settings(max_examples=60, deadline=None)
@given(orders, st.randoms(use_true_random=False))
def test_the_trials_do_not_depend_on_which_of_two_ends_first(order: Order, draw: random.Random) -> None:
    straight = carried_out(order)
    search = journal.start(order)
    in_any_order(order, search, draw)
    assert search.trials == straight.trials
    assert search.outcome() == straight.outcome()


@settings(max_examples=100, deadline=None)
@given(orders, st.randoms(use_true_random=False), st.integers(0, 80), st.integers(0, 30))
def test_a_search_that_was_killed_anywhere_goes_on_as_if_it_never_was(
    order: Order, draw: random.Random, told: int, torn: int
) -> None:
    straight = carried_out(order)
    lines = [journal.opening(order), *in_any_order(order, journal.start(order), draw, told)]
    half_a_line = [lines[-1][: min(torn, len(lines[-1]) - 1)]] if torn else []
    search = journal.replay([*lines, *half_a_line])
    assert search.trials == straight.trials[: len(search.trials)]
    in_any_order(order, search, draw)
    assert search.trials == straight.trials
    assert search.results == straight.results
    assert search.outcome() == straight.outcome()


@settings(max_examples=60, deadline=None)
@given(orders)
def test_no_genome_is_trained_twice_and_budgets_hold(order: Order) -> None:
    search = carried_out(order)
    spec = order.spec
    first = [trial for trial in search.trials if trial.stage == "search" and trial.continues is None]
    assert max(Counter(key(trial.genome) for trial in first).values()) == 1
    outcome = search.outcome()
    assert outcome.evaluations == len(first)
    assert len(first) == spec.evaluations or outcome.stopped
    assert outcome.epochs <= spec.evaluations * EPOCHS
    assert outcome.epochs - EPOCHS < outcome.baseline_epochs <= outcome.epochs or not (
        spec.baseline and any_result(search)
    )
    finals = [trial for trial in search.trials if trial.stage == "final"]
    assert len(finals) <= 2 * spec.finalists * FINAL_SEEDS
    assert all(trial.epochs == EPOCHS and trial.seed > order.seed for trial in finals)


def any_result(search: Search) -> bool:
    return any(result.values is not None for result in search.results.values())


def test_another_seed_is_another_search() -> None:
    assert carried_out(order(seed=1)).trials != carried_out(order(seed=2)).trials
    assert carried_out(order(seed=1)).trials == carried_out(order(seed=1)).trials


def test_it_finds_more_than_chance_for_as_many_epochs() -> None:
    better = 0
    for seed in range(20):
        wanted = order(seed=seed, population_size=20, generations=6, baseline=True, finalists=0)
        outcome = carried_out(wanted, lambda trial: Result(values=(quality(trial.genome),))).outcome()
        assert outcome.baseline_epochs == outcome.epochs == 120 * EPOCHS
        assert outcome.baseline_best is not None
        best = outcome.history[-1]
        assert best is not None
        better += best > outcome.baseline_best
    assert better >= 15  # by chance: one time in fifty


def test_the_first_generation_is_spread_over_every_gene() -> None:
    search = journal.start(order(population_size=9, generations=1))
    first = [trial.genome for trial, _ in one_by_one(search, lambda _: Result(values=(1.0,)))][:9]
    assert {genome["optimizer"] for genome in first} == {"sgd", "adam", "adamw"}
    assert sorted(int((math.log10(float(genome["rate"])) + 4) * 3) for genome in first) == list(range(9))


def test_a_failure_is_no_result_and_has_no_children() -> None:
    def fails_with_sgd(trial: Trial) -> Result:
        if trial.genome["optimizer"] == "sgd":
            return Result(reason="out of memory")
        return Result(values=(-100.0 + quality(trial.genome),))  # worse than a zero would be

    search = carried_out(order(population_size=10, generations=10), fails_with_sgd)
    outcome = search.outcome()
    assert outcome.failed == sum(trial.genome["optimizer"] == "sgd" for trial in search.trials) > 0
    assert outcome.best is not None
    assert outcome.best["optimizer"] != "sgd"
    assert all(genome["optimizer"] != "sgd" for genome, _ in outcome.front)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_no_result(value: float) -> None:
    search = journal.start(order())
    trial = search.ask()
    assert trial is not None
    taken = search.tell(trial.number, Result(values=(value,)))
    assert taken.values is None
    assert str(value) in (taken.reason or "")
    assert search.outcome().failed == 1


def test_a_search_nothing_comes_of_ends_after_a_generation_and_says_why() -> None:
    search = carried_out(order(generations=100, baseline=True), lambda _: Result(reason="no disk left"))
    outcome = search.outcome()
    assert 6 <= len(search.trials) <= 6 + AT_ONCE
    assert outcome.stopped is not None
    assert "no disk left" in outcome.stopped
    assert outcome.best is None
    assert outcome.front == [] == outcome.finalists
    assert outcome.history[0] is None


def test_a_space_that_was_searched_through_ends_the_search() -> None:
    genes: Genes = {"nesterov": BoolGene(), "optimizer": ChoiceGene(choices=("sgd", "adam", "adamw"))}
    search = carried_out(order(genes=genes, finalists=0), lambda trial: Result(values=(float(trial.number),)))
    assert len({key(trial.genome) for trial in search.trials}) == len(search.trials) == 6
    assert search.outcome().stopped == "All 6 genomes there are were tried."
    assert search.outcome().best == search.trials[-1].genome


def test_the_winner_is_the_finalist_that_is_best_with_other_seeds() -> None:
    def lucky_once(trial: Trial) -> Result:
        lucky = trial.number == 3 and trial.stage == "search"
        return Result(values=(100.0 if lucky else quality(trial.genome),))

    search = carried_out(order(finalists=3), lucky_once)
    outcome = search.outcome()
    lucky = search.trials[3].genome
    assert [one.genome for one in outcome.finalists].count(lucky) == 1
    assert outcome.finalists[0].found == (100.0,)
    assert outcome.best != lucky
    finals = [trial for trial in search.trials if trial.stage == "final"]
    assert [trial.seed for trial in finals] == [1, 2, 3] * 3


def test_with_halving_a_third_goes_on_where_it_was() -> None:
    search = carried_out(
        order(population_size=9, generations=3, halving=True, finalists=0),
        lambda trial: Result(values=(quality(trial.genome) + trial.epochs,)),
    )
    assert Counter(trial.epochs for trial in search.trials) == {1: 27, 3: 9, 9: 3}
    for trial in search.trials:
        if trial.continues is not None:
            before = search.trials[trial.continues]
            assert (before.genome, before.individual, before.epochs * 3) == (
                trial.genome,
                trial.individual,
                trial.epochs,
            )
            assert before.number in search.results
    assert search.outcome().epochs == 27 + 9 * 2 + 3 * 6


def test_with_halving_somebody_is_always_trained_to_the_end() -> None:
    search = carried_out(
        order(population_size=2, generations=1, halving=True, finalists=1), lambda trial: Result(values=(1.0,))
    )
    assert [trial.epochs for trial in search.trials] == [1, 1, 3, 9, 9, 9, 9]
    assert search.outcome().best is not None


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(1, (1,)), (2, (1, 2)), (3, (1, 3)), (9, (1, 3, 9)), (52, (6, 17, 52)), (100, (11, 33, 100))],
)
def test_rungs(epochs: int, expected: tuple[int, ...]) -> None:
    assert rungs(epochs) == expected


def test_two_objectives_give_a_front_from_either_end() -> None:
    def both(trial: Trial) -> Result:
        units = float(trial.genome["units"])
        return Result(values=(units + quality(trial.genome), units))  # larger is better, and slower

    wanted = order(population_size=20, generations=10, objectives=("accuracy", "latency_ms"), finalists=0)
    outcome = carried_out(wanted, both).outcome()
    units = sorted(genome["units"] for genome, _ in outcome.front)
    assert units[0] == 8
    assert units[-1] == 64
    assert len(set(units)) > 20
    values = [values for _, values in outcome.front]
    assert sorted(values) == sorted(values, key=lambda pair: pair[1])


def test_of_two_objectives_the_fastest_that_is_as_accurate_as_the_best_is_chosen() -> None:
    """Three sizes; the middle one is within the spread of the largest over seeds, the smallest is not."""
    genes: Genes = {"rate": GENES["rate"], "units": ChoiceGene(choices=(8, 16, 32))}
    shares = {8: (0.5, 0.5, 0.5, 0.5), 16: (0.89, 0.889, 0.889, 0.889), 32: (0.9, 0.88, 0.89, 0.9)}

    def both(trial: Trial) -> Result:
        units = int(trial.genome["units"])
        return Result(values=(shares[units][trial.seed], units / 10))

    wanted = order(genes=genes, objectives=BOTH, finalists=5)
    outcome = carried_out(wanted, both).outcome()
    assert {one.found for one in outcome.finalists} == {(0.5, 0.8), (0.89, 1.6), (0.9, 3.2)}, "one of equals"
    assert {one.found for one in outcome.finalists[:2]} == {(0.5, 0.8), (0.9, 3.2)}, "the ends first"
    assert len(outcome.finalists) == 3
    assert outcome.best is not None and outcome.best["units"] == 16
    alone = carried_out(order(genes=genes, objectives=BOTH, finalists=0), both).outcome()
    assert alone.best is not None and alone.best["units"] == 32, "nothing says how far apart seeds are"


def test_where_the_front_is_short_the_most_accurate_of_the_others_are_finalists() -> None:
    genes: Genes = {"rate": GENES["rate"], "units": ChoiceGene(choices=(8, 16))}

    def both(trial: Trial) -> Result:
        return Result(values=(-float(trial.genome["rate"]), float(trial.genome["units"])))

    search = carried_out(order(genes=genes, objectives=BOTH, finalists=3), both)
    found = {search.results[trial.number].values or () for trial in search.trials if trial.stage == "search"}
    outcome = search.outcome()
    front = [values for _, values in outcome.front]
    others = sorted(found - set(front), key=lambda values: (-values[0], values[1]))
    assert [one.found for one in outcome.finalists][len(front) :] == others[: 3 - len(front)]


def test_chance_and_history_have_the_best_of_each_objective() -> None:
    def both(trial: Trial) -> Result:
        return Result(values=(quality(trial.genome), float(trial.genome["units"])))

    search = carried_out(order(objectives=BOTH, baseline=True), both)
    for stage, found in (("search", search.outcome().history[-1]), ("baseline", search.outcome().baseline_best)):
        values = [search.results[trial.number].values or () for trial in search.trials if trial.stage == stage]
        assert found == (max(each[0] for each in values), min(each[1] for each in values))


def test_what_is_told_must_have_been_asked_for_and_fit() -> None:
    search = journal.start(order())
    with pytest.raises(ValueError, match="Trial 0 is not at work"):
        search.tell(0, Result(values=(1.0,)))
    trial = search.ask()
    assert trial is not None
    with pytest.raises(ValueError, match="has 1 values, not 2"):
        search.tell(trial.number, Result(values=(1.0, 2.0)))
    search.tell(trial.number, Result(values=(1.0,)))
    with pytest.raises(ValueError, match="Trial 0 is not at work"):
        search.tell(trial.number, Result(values=(1.0,)))


def test_a_training_has_an_epoch() -> None:
    with pytest.raises(ValueError, match="at least one epoch, not 0"):
        journal.start(order(epochs=0))


def written(count: int, **fields: object) -> list[bytes]:
    wanted = order(**fields)
    return [journal.opening(wanted), *in_any_order(wanted, journal.start(wanted), random.Random(0), count)]


def test_trials_at_work_when_it_was_killed_are_handed_out_again_first() -> None:
    lines = written(4)
    search = journal.start(order())
    asked = [trial for trial, _ in zip(one_by_one(search, trained), range(7), strict=False)]
    again = journal.replay(lines)
    told = set(again.results)
    lost = [number for number in range(len(again.trials)) if number not in told]
    assert [trial.number for trial in (again.ask() for _ in lost) if trial] == lost
    assert asked


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda lines: [], "has not begun"),
        (lambda lines: [lines[0][:-1]], "has not begun"),
        (lambda lines: [b"{}\n", *lines[1:]], "Line 1 of the journal cannot be read"),
        (lambda lines: [lines[0].replace(b"search/1", b"search/2")], "Line 1 of the journal cannot be read"),
        (lambda lines: [*lines[:2], b"nonsense\n"], "Line 3 of the journal cannot be read"),
        (lambda lines: [*lines, lines[-1]], "is not at work"),
        (lambda lines: [lines[0], *lines[4:]], "would not ask for"),
        (lambda lines: [lines[0].replace(b'"seed":0', b'"seed":1'), *lines[1:]], "Line 2 .* would not ask for"),
    ],
)
def test_a_journal_of_another_search_is_refused_by_its_line(
    spoil: Callable[[list[bytes]], list[bytes]], told: str
) -> None:
    with pytest.raises(JournalError, match=told):
        journal.replay(spoil(written(6)))


# --- operators ----------------------------------------------------------------------------------------------------


def individual(number: int, loss: float, rung: int = 0) -> Individual:
    return Individual(number=number, genome={}, point=(0.5,), rung=rung, losses=(loss,))


def test_the_population_keeps_the_best_and_the_longest_trained() -> None:
    population = Population(3)
    for number, loss in enumerate([5.0, 1.0, 4.0, 2.0]):
        population.add(individual(number, loss))
    assert [member.number for member in population.members] == [1, 3, 2]
    population.add(individual(2, 9.0, rung=1))
    assert [member.number for member in population.members] == [2, 1, 3]
    population.drop(1)
    assert [member.number for member in population.members] == [2, 3]


def test_few_have_children_where_there_is_one_best() -> None:
    assert [survivors(size, 1) for size in (2, 8, 20, 21)] == [2, 2, 5, 6]
    assert survivors(20, 2) == 20


def test_a_latin_hypercube_has_one_in_each_part_of_every_axis() -> None:
    points = latin_hypercube(random.Random(0), 12, 3)
    for axis in zip(*points, strict=True):
        assert sorted(int(coordinate * 12) for coordinate in axis) == list(range(12))


def test_the_better_win_tournaments() -> None:
    members = [individual(number, float(number)) for number in range(10)]
    rng = random.Random(0)
    drawn = Counter(tournament(rng, members).number for _ in range(3000))
    assert drawn[0] == pytest.approx(3000 * (1 - 0.9**3), rel=0.15)
    assert drawn[0] > drawn[4] > drawn[9]


def test_children_have_each_gene_from_a_parent() -> None:
    rng = random.Random(0)
    children = {crossover(rng, (0.1, 0.2, 0.3), (0.7, 0.8, 0.9)) for _ in range(200)}
    assert len(children) == 8
    assert all(one in (0.1, 0.7) and two in (0.2, 0.8) and three in (0.3, 0.9) for one, two, three in children)


@given(st.integers(), st.floats(0, 1), st.floats(0.01, 1), st.tuples(*[st.floats(0, 1)] * 4))
def test_a_mutant_differs_and_stays_inside(seed: int, rate: float, step: float, point: Point) -> None:
    mutant = mutate(random.Random(seed), Space(GENES), point, rate, step)
    assert all(0.0 <= coordinate <= 1.0 for coordinate in mutant)
    assert mutant != point


def test_the_share_of_genes_that_mutate() -> None:
    space = Space({f"g{number:02}": BoolGene() for number in range(20)})
    rng = random.Random(0)
    start = (0.25,) * 20
    changed = [sum(a != b for a, b in zip(start, mutate(rng, space, start, 0.2, 0.1), strict=True)) for _ in range(500)]
    assert sum(changed) / 500 == pytest.approx(1 + 19 * 0.2, rel=0.05)
    assert sum(a != b for a, b in zip(start, mutate(rng, space, start, 0.0, 0.1), strict=True)) == 1


def test_a_fixed_gene_never_mutates() -> None:
    space = Space({"a": ChoiceGene(choices=("only",)), "b": BoolGene()})
    rng = random.Random(0)
    assert all(mutate(rng, space, (0.5, 0.25), 1.0, 0.2)[0] == 0.5 for _ in range(50))
    assert mutate(rng, Space({"a": ChoiceGene(choices=("only",))}), (0.5,), 1.0, 0.2) == (0.5,)
