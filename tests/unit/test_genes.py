"""Orders of a search and their genes: what is refused, and that genomes and points agree."""

from __future__ import annotations

import json
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.genes import (
    DEFAULT_GENES,
    MAX_BOUND,
    BoolGene,
    ChoiceGene,
    FloatGene,
    Gene,
    IntGene,
    SearchSpec,
    with_defaults,
)
from trainer.genome import Space, decode, encode, key

KNOWN = (*DEFAULT_GENES, "momentum")


def read(**fields: object) -> SearchSpec:
    return msgspec.json.decode(json.dumps(fields), type=SearchSpec)


def gene(**fields: object) -> Gene:
    return read(search_space={"momentum": fields}).search_space["momentum"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"population_size": 0}, ">= 2"),
        ({"population_size": 1001}, "<= 1000"),
        ({"generations": 0}, ">= 1"),
        ({"generations": 10**9}, "<= 1000"),
        ({"population_size": 100, "generations": 21}, "at most 2,000 genomes"),
        ({"mutation_rate": 1.1}, "<= 1"),
        ({"crossover_rate": -0.1}, ">= 0"),
        ({"objectives": []}, ">= 1"),
        ({"objectives": ["latency_ms"]}, "Objectives are"),
        ({"objectives": ["accuracy", "accuracy"]}, "Objectives are"),
        ({"engine": "openvino"}, "An engine is for searches that measure latency"),
        ({"finalists": 11}, "<= 10"),
        ({"search_space": {f"g{n}": {"type": "bool"} for n in range(1000)}}, "<= 32"),
        ({"search_space": {"Not a name": {"type": "bool"}}}, "regex"),
        ({"elitism": 1}, "unknown field `elitism`"),
    ],
)
def test_an_order_that_cannot_be_carried_out_is_refused_with_its_bound(fields: dict[str, object], told: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        read(**fields)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"type": "float", "low": 1.0, "high": 0.5}, "wrong way round: low is 1.0, high is 0.5"),
        ({"type": "float", "low": 0.0, "high": 1.0, "log": True}, "above 0"),
        ({"type": "float", "low": -1e13, "high": 1.0}, f"within {MAX_BOUND:g}"),
        ({"type": "int", "low": 3, "high": 2}, "wrong way round"),
        ({"type": "int", "low": 0, "high": 2, "log": True}, "above 0"),
        ({"type": "int", "low": 0.5, "high": 2}, "Expected `int`"),
        ({"type": "choice", "choices": []}, ">= 1"),
        ({"type": "choice", "choices": ["a", "a"]}, "twice"),
        ({"type": "choice", "choices": list(range(65))}, "<= 64"),
        ({"type": "complex"}, "Invalid value 'complex'"),
    ],
)
def test_a_gene_that_holds_nothing_is_refused(fields: dict[str, object], told: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        gene(**fields)
    assert told in str(caught.value)


@pytest.mark.parametrize("bound", [float("nan"), float("inf"), float("-inf")])
def test_bounds_and_choices_are_finite(bound: float) -> None:
    for low, high in ((bound, 1.0), (0.0, bound)):
        with pytest.raises(ValueError, match="finite"):
            FloatGene(low=low, high=high)
    with pytest.raises(ValueError, match="finite"):
        ChoiceGene(choices=(1.0, bound))
    with pytest.raises(msgspec.MsgspecError):
        msgspec.json.decode(b'{"type": "float", "low": 0, "high": 1e999}', type=FloatGene)


def test_yes_and_one_are_different_choices() -> None:
    assert decode(gene(type="choice", choices=[True, 1]), 0.0) is True


def test_genes_are_added_to_the_usual_ones_or_replace_them() -> None:
    fixed = ChoiceGene(choices=("sgd",))
    genes = with_defaults({"momentum": FloatGene(low=0.5, high=0.99), "optimizer": fixed}, KNOWN)
    assert set(genes) == set(KNOWN)
    assert genes["optimizer"] is fixed
    assert genes["learning_rate"] is DEFAULT_GENES["learning_rate"]


def test_a_gene_that_no_training_has_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="no learning_rat; genes are among batch_size, dropout_rate, learning_rate"):
        with_defaults({"learning_rat": BoolGene()}, KNOWN)


def test_too_many_genes_with_the_usual_ones_are_refused() -> None:
    many = {f"g{number}": BoolGene() for number in range(28)}
    with pytest.raises(ValueError, match="at most 32 genes, the usual ones among them, not 33"):
        with_defaults(many, many)


def test_a_search_without_genes_is_none() -> None:
    with pytest.raises(ValueError, match="needs a gene"):
        Space({})


numbers = st.floats(-1e6, 1e6).map(lambda value: float(f"{value:.4g}"))
positive = st.floats(1e-6, 1e6).map(lambda value: float(f"{value:.4g}"))


@st.composite
def genes(draw: st.DrawFn) -> Gene:
    kind = draw(st.sampled_from(["float", "log", "int", "log int", "choice", "bool"]))
    if kind == "float":
        low, high = sorted((draw(numbers), draw(numbers)))
        return FloatGene(low=low, high=high)
    if kind == "log":
        low, high = sorted((draw(positive), draw(positive)))
        return FloatGene(low=low, high=high, log=True)
    if kind in ("int", "log int"):
        least = 1 if kind == "log int" else -1000
        first, last = sorted((draw(st.integers(least, 1000)), draw(st.integers(least, 1000))))
        return IntGene(low=first, high=last, log=kind == "log int")
    if kind == "choice":
        values = st.one_of(st.booleans(), st.integers(-5, 5), st.text("abc", min_size=1, max_size=3))
        unique = st.lists(values, min_size=1, max_size=6, unique_by=lambda value: (isinstance(value, bool), value))
        return ChoiceGene(choices=tuple(draw(unique)))
    return BoolGene()


@given(genes(), st.floats(0, 1))
def test_every_point_is_a_value_that_finds_back_to_itself(gene: Gene, coordinate: float) -> None:
    value = decode(gene, coordinate)
    again = encode(gene, value)
    assert 0.0 <= again <= 1.0
    if isinstance(gene, FloatGene):
        assert gene.low <= value <= gene.high
        assert decode(gene, again) == pytest.approx(value, rel=1e-5, abs=1e-5 * (gene.high - gene.low))
    else:
        assert decode(gene, again) == value
        assert isinstance(decode(gene, again), type(value))


def test_all_values_of_a_gene_are_as_likely() -> None:
    for gene, count in (
        (IntGene(low=1, high=5), 5),
        (ChoiceGene(choices=("a", "b", "c")), 3),
        (BoolGene(), 2),
    ):
        drawn = [decode(gene, (step + 0.5) / 3000) for step in range(3000)]
        assert all(abs(drawn.count(value) - 3000 / count) <= 1 for value in set(drawn))
        assert len(set(drawn)) == count


def test_by_factors_each_decade_is_as_likely() -> None:
    gene = FloatGene(low=1e-4, high=1e-1, log=True)
    assert decode(gene, 1 / 3) == pytest.approx(1e-3)
    assert decode(gene, 0.0) == 1e-4
    assert decode(gene, 1.0) == 1e-1


@pytest.mark.parametrize(
    ("gene", "value"),
    [
        (FloatGene(low=0.0, high=1.0), 1.5),
        (FloatGene(low=0.0, high=1.0), True),
        (IntGene(low=0, high=3), "1"),
        (ChoiceGene(choices=(1, 2)), True),
        (BoolGene(), 1),
    ],
)
def test_a_value_of_another_gene_has_no_point(gene: Gene, value: bool | float | str) -> None:
    with pytest.raises(ValueError, match="is no value of the gene"):
        encode(gene, value)


def test_a_genome_of_another_space_has_no_point() -> None:
    with pytest.raises(ValueError, match="A genome has a, b"):
        Space({"a": BoolGene(), "b": BoolGene()}).encode({"a": True})


def test_a_small_space_is_found_to_its_last_genome() -> None:
    space = Space({"a": BoolGene(), "b": IntGene(low=1, high=3), "c": FloatGene(low=2.0, high=2.0)})
    assert space.size == 6
    seen: set[str] = set()
    rng = random.Random(1)
    while (genome := space.unseen(rng, seen)) is not None:
        assert key(genome) not in seen
        seen.add(key(genome))
    assert len(seen) == 6


def test_the_key_does_not_depend_on_the_order() -> None:
    assert key({"a": 1, "b": 0.5}) == key({"b": 0.5, "a": 1}) == '{"a":1,"b":0.5}'
