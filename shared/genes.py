"""What a genetic search is ordered with: the genes it may vary, and how long and how it goes on.

A spec that exists can be carried out: whatever is wrong with it is refused when it is read, with what to do.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from shared import wording
from shared.specs import EngineName, HyperParameters, Spec, TrainingSpec

MAX_GENES = 32
MAX_CHOICES = 64
MAX_BOUND = 1e12
MAX_EVALUATIONS = 2000
"""Genomes of one search: population x generations."""

MOST_SIZES = 12
"""Image sizes of a search for latency as well: each is exported and measured before anything is trained."""

Scalar = bool | int | float | Annotated[str, Meta(min_length=1, max_length=64)]
Genome = dict[str, Scalar]
"""A value for each gene, by name: a plain JSON object."""


class FloatGene(Spec, frozen=True, kw_only=True, tag_field="type", tag="float"):
    """Any number between two bounds, both included; `log` where factors count, not differences."""

    low: Annotated[float, Meta(description="Smallest value.")]
    high: Annotated[float, Meta(description="Largest value.")]
    log: Annotated[
        bool, Meta(description="Search by factors: as much between 0.001 and 0.01 as between 0.01 and 0.1.")
    ] = False

    def __post_init__(self) -> None:
        """Raises ValueError where there is nothing between the bounds."""
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError(f"The bounds of a gene are finite numbers, not {self.low} and {self.high}.")
        _check_bounds(self.low, self.high, self.log)


class IntGene(Spec, frozen=True, kw_only=True, tag_field="type", tag="int"):
    """Any whole number between two bounds, both included."""

    low: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1, description="Smallest value.")]
    high: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1, description="Largest value.")]
    log: Annotated[bool, Meta(description="Search by factors: as much between 8 and 16 as between 64 and 128.")] = False

    def __post_init__(self) -> None:
        """Raises ValueError where there is nothing between the bounds."""
        _check_bounds(self.low, self.high, self.log)


class ChoiceGene(Spec, frozen=True, kw_only=True, tag_field="type", tag="choice"):
    """One of some values that have no order; a single one fixes the gene."""

    choices: Annotated[tuple[Scalar, ...], Meta(min_length=1, max_length=MAX_CHOICES, description="Different values.")]

    def __post_init__(self) -> None:
        """Raises ValueError where a value is no number or stands there twice."""
        for value in self.choices:
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"A choice is a text, a truth value or a finite number, not {value}.")
        if len({(isinstance(value, bool), value) for value in self.choices}) < len(self.choices):
            raise ValueError("A choice stands there twice; name each value once.")


class BoolGene(Spec, frozen=True, kw_only=True, tag_field="type", tag="bool"):
    """Yes or no."""


Gene = FloatGene | IntGene | ChoiceGene | BoolGene
GeneName = Annotated[str, Meta(pattern="^[a-z][a-z0-9_]{0,63}$")]
Genes = dict[GeneName, Gene]


def _check_bounds(low: float, high: float, log: bool) -> None:
    if max(abs(low), abs(high)) > MAX_BOUND:
        raise ValueError(f"The bounds of a gene lie within {MAX_BOUND:g} of 0, not {low} and {high}.")
    if low > high:
        raise ValueError(f"The bounds of a gene are the wrong way round: low is {low}, high is {high}.")
    if log and low <= 0:
        raise ValueError(f"A gene searched by factors (log) lies above 0; low is {low}.")


Objective = Literal["accuracy", "latency_ms"]
BOTH: tuple[Objective, ...] = ("accuracy", "latency_ms")


class SearchSpec(Spec, frozen=True, kw_only=True):
    """A genetic search as ordered: population x generations genomes, each trained at most once."""

    population_size: Annotated[int, Meta(ge=2, le=1000, description="Genomes of a generation.")] = 20
    generations: Annotated[
        int, Meta(ge=1, le=1000, description="How many; the first one is spread over the whole space.")
    ] = 5
    mutation_rate: Annotated[float, Meta(ge=0, le=1, description="Share of a child's genes that change.")] = 0.3
    crossover_rate: Annotated[
        float, Meta(ge=0, le=1, description="Share of the children that have two parents; others have one.")
    ] = 0.5
    search_space: Annotated[
        Annotated[Genes, Meta(max_length=MAX_GENES)],
        Meta(
            description="Genes beside the usual ones (learning rate, batch size, optimizer, weight decay, dropout), or "
            "in the place of those of the same name."
        ),
    ] = msgspec.field(default_factory=dict)
    objectives: Annotated[
        tuple[Objective, ...],
        Meta(
            min_length=1,
            max_length=2,
            description="Validation accuracy, or accuracy and the measured latency of the exported model, one image a "
            "call: then `image_size` is a gene with 2 to 12 choices, each measured before anything is trained, and the "
            "result is the genomes that no other beats in both. The model comes from the fastest finalist whose mean "
            "accuracy is within one standard error of the best; without finalists from the most accurate genome.",
        ),
    ] = ("accuracy",)
    engine: Annotated[
        EngineName | None,
        Meta(description="On which latency is measured, in FP32; default: the one that serves the model."),
    ] = None
    halving: Annotated[
        bool,
        Meta(
            description="Train everything for a ninth of the epochs, the best third of that for a third, and the best "
            "third of those to the end."
        ),
    ] = False
    finalists: Annotated[
        int,
        Meta(
            ge=0,
            le=10,
            description="Best genomes that are trained again, with three seeds each; of two objectives the ends of the "
            "front first, then those on it with the most room around them, then the most accurate of the others.",
        ),
    ] = 3
    baseline: Annotated[
        bool, Meta(description="Also search by chance, for as many epochs, to see what the search was worth.")
    ] = False

    def __post_init__(self) -> None:
        """Raises ValueError where the search would be too long or its objectives make no sense."""
        if self.evaluations > MAX_EVALUATIONS:
            raise ValueError(
                f"A search trains at most {MAX_EVALUATIONS:,} genomes; population_size {self.population_size:,} x "
                f"generations {self.generations:,} is {self.evaluations:,}."
            )
        if self.objectives[0] != "accuracy" or len(set(self.objectives)) < len(self.objectives):
            raise ValueError('Objectives are ["accuracy"] or ["accuracy", "latency_ms"].')
        if self.engine is not None and self.objectives != BOTH:
            raise ValueError("An engine is for searches that measure latency; leave it out, or add latency_ms.")

    @property
    def evaluations(self) -> int:
        """Different genomes that are tried; finalists and the baseline come on top."""
        return self.population_size * self.generations


DEFAULT_GENES: Genes = {
    "learning_rate": FloatGene(low=1e-5, high=1e-1, log=True),
    "batch_size": IntGene(low=8, high=128, log=True),
    "optimizer": ChoiceGene(choices=("sgd", "adam", "adamw")),
    "weight_decay": FloatGene(low=1e-6, high=1e-1, log=True),
    "dropout_rate": FloatGene(low=0.0, high=0.6),
}


def with_defaults(genes: Genes, known: Collection[str]) -> Genes:
    """The usual genes of a training, with some added or replaced.

    `known` are the hyper-parameters a training takes. Raises ValueError for a gene that is none of them, and for too
    many.
    """
    if unknown := sorted(genes.keys() - set(known)):
        raise ValueError(f"A training has no {', '.join(unknown)}; genes are among {', '.join(sorted(known))}.")
    merged = DEFAULT_GENES | genes
    if len(merged) > MAX_GENES:
        raise ValueError(f"A search varies at most {MAX_GENES} genes, the usual ones among them, not {len(merged)}.")
    return merged


def genes_of(search: SearchSpec) -> Genes:
    """All the genes of a search, each value of which a training takes. Raises ValueError as `with_defaults` does, for a
    gene with values that no training takes, and where latency is an objective that no gene changes.
    """
    genes = with_defaults(search.search_space, HyperParameters.__struct_fields__)
    for name, gene in genes.items():
        for value in extremes(gene):
            try:
                applied(HyperParameters(), {name: value})
            except msgspec.ValidationError as error:
                wanted = wording.of_text(wording.explained(HyperParameters, str(error))[1])
                raise ValueError(f"The gene {name} may become {value!r}, but {name} {wanted}.") from None
    if search.objectives == BOTH and not 2 <= len(image_sizes(genes)) <= MOST_SIZES:
        raise ValueError(
            "Of all that is searched only image_size changes the latency, and each is measured: with latency_ms it is "
            f'a gene with 2 to {MOST_SIZES} choices, such as {{"type": "choice", "choices": [16, 24, 32]}}.'
        )
    return genes


def image_sizes(genes: Genes) -> tuple[int, ...]:
    """What a search may choose for `image_size`, where that is a choice."""
    gene = genes.get("image_size")
    return tuple(int(size) for size in gene.choices) if isinstance(gene, ChoiceGene) else ()


def applied(hyperparams: HyperParameters, genome: Mapping[str, Scalar]) -> HyperParameters:
    """Hyper-parameters with the values of a genome in their places. Raises msgspec.ValidationError where they do not
    fit.
    """
    return msgspec.convert(msgspec.structs.asdict(hyperparams) | dict(genome), HyperParameters)


def extremes(gene: Gene) -> tuple[Scalar, ...]:
    """The values between which all others of a gene lie."""
    match gene:
        case FloatGene() | IntGene():
            return gene.low, gene.high
        case ChoiceGene():
            return gene.choices
        case BoolGene():
            return False, True


class TrainingOrder(TrainingSpec, frozen=True, kw_only=True):
    """A training as the API takes it, or a search for the best one."""

    ga: Annotated[
        SearchSpec | None,
        Meta(
            description="Search for the hyper-parameters first, genetically; what a gene varies is not taken from "
            "`hyperparams`. The model comes from a last training with the best ones. For administrators."
        ),
    ] = None

    def without_search(self) -> TrainingSpec:
        """One training as it was ordered."""
        return TrainingSpec(**{name: getattr(self, name) for name in TrainingSpec.__struct_fields__})
