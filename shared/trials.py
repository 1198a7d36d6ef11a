"""What a genetic search asks for and finds: trials, what came of them, and its outcome.

Its journal is made of them, so they are what is stored of a search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from shared.genes import Genes, Genome, Scalar, SearchSpec
from shared.specs import EngineName

Stage = Literal["search", "baseline", "final"]
AGREEMENT = 1.1


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One training: a genome, for how long, from where."""

    number: int
    stage: Stage
    individual: int
    """Number of the first trial of this genome in its stage; of a finalist, of the trial that made it one."""
    generation: int
    genome: Genome
    seed: int
    epochs: int
    """How many the training then has in all; its schedule is that of all epochs, whatever is asked for here."""
    continues: int | None = None
    """Number of the trial whose last checkpoint this one goes on from."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a trial: a value for each objective, or none and why (a failure is no result, never a zero)."""

    values: tuple[float, ...] | None = None
    reason: str | None = None


class Finalist(msgspec.Struct, frozen=True, kw_only=True):
    """One of the best genomes and what it reached with other seeds."""

    individual: int
    stage: Stage
    """Whether it comes from the search or from its baseline."""
    genome: Genome
    found: tuple[float, ...]
    """What the search saw; it chose by that, which makes it look better than it is."""
    again: list[tuple[float, ...]]
    """With other seeds."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a search has found so far."""

    best: Genome | None
    """Whose training gives the model: of the finalists that of the best mean, or with two objectives the fastest whose
    mean accuracy is within one standard error of the best; before they are trained, the most accurate; None without a
    result."""
    front: list[tuple[Genome, tuple[float, ...]]]
    """The genomes no other beats, and their values; with one objective, the best."""
    history: list[tuple[float, ...] | None]
    """After each generation, the best value so far of each objective; None without a result."""
    finalists: list[Finalist]
    evaluations: int
    """Different genomes that were tried."""
    failed: int
    epochs: int
    """Trained by the search, finalists not counted."""
    baseline_epochs: int
    baseline_best: tuple[float, ...] | None
    """The best that chance found, of each objective."""
    stopped: str | None
    """Why the search ended early."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a search was ordered with: the first line."""

    schema: Literal["cvp.search/1"] = "cvp.search/1"
    spec: SearchSpec
    genes: Genes
    epochs: int
    seed: int


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A trial and what came of it: every other line."""

    trial: Trial
    result: Result


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """How long one image of a size takes."""

    image_size: int
    latency_ms: float
    """Of the quickest round: what else the machine does can only make one slower."""
    rounds_ms: list[float]
    """Of each round the median of its calls."""


class Latencies(msgspec.Struct, frozen=True, kw_only=True):
    """What latency is at each size that a search may choose: measured once, before its first trial, with nothing else
    at work. No other gene changes the network, and its weights do not change the time.
    """

    engine: EngineName
    device: str
    threads: int
    sizes: list[Latency]

    def of(self, genome: Mapping[str, Scalar]) -> float:
        """Milliseconds of the network that a genome makes."""
        return next(each.latency_ms for each in self.sizes if each.image_size == genome["image_size"])


def settled(rounds_ms: Sequence[float]) -> bool:
    """Whether a second round came within a tenth of the quickest."""
    quickest = sorted(rounds_ms)[:2]
    return len(quickest) == 2 and quickest[1] <= AGREEMENT * quickest[0]
