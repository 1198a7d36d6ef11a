"""Which candidates an order means on this machine, and which of them cannot run here and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from typing import NamedTuple, TypeVar

from shared.specs import (
    DEFAULT_BATCHES,
    ENGINES,
    PLAN_BATCHES,
    BenchmarkSpec,
    Candidate,
    EngineName,
    Precision,
    TensorInfo,
)
from shared.verdict.decision import compared_as

T = TypeVar("T")
Unavailable = Callable[[EngineName, Precision], str | None]
"""Why an engine cannot run a precision on this machine; None when it can."""


class Planned(NamedTuple):
    """A candidate of the order; `unavailable` says why it will not be launched."""

    candidate: Candidate
    unavailable: str | None


def candidates(
    spec: BenchmarkSpec,
    inputs: Sequence[TensorInfo],
    *,
    dynamic_batch: bool,
    cores: int,
    gpu: bool = False,
    unavailable: Unavailable,
    incumbent: Candidate | None = None,
) -> list[Planned]:
    """Every combination the order names, once each, in its order: engine, precision, batch, instances, threads.

    What was activated for the model comes last, where it is none of them: the choice is held against it.

    Args:
        spec: The order.
        inputs: The model's inputs; the first axis of the first one is its batch.
        dynamic_batch: Whether the model was seen to run with any batch.
        cores: Cores this process may use; the sessions share them where the order names no threads.
        gpu: Whether one is there.
        unavailable: Asked once for each pair of engine and precision.
        incumbent: What was activated; left out where the order names other engines or precisions.
    """
    fixed = None if dynamic_batch else _fixed_batch(inputs)
    pairs = product(engines(spec, gpu=gpu), precisions(spec, gpu=gpu))
    found = list(_planned(spec, pairs, fixed, cores, unavailable))
    if incumbent is None or not _ordered(incumbent, spec):
        return found
    active = compared_as(incumbent, spec.objective, _batches(spec, fixed))
    if any(plan.candidate == active for plan in found):
        return found
    return [*found, _plan(active, unavailable(active.engine, active.precision), fixed, cores)]


def engines(spec: BenchmarkSpec, *, gpu: bool) -> list[EngineName]:
    """Those the order names, or all; but PyTorch, which takes longer than all others together and does not win on a
    CPU, only where there is a GPU.
    """
    if spec.engines is not None:
        return _once(spec.engines)
    return [engine for engine in ENGINES if engine != "pytorch" or gpu]


def precisions(spec: BenchmarkSpec, *, gpu: bool) -> list[Precision]:
    """Those the order names, or what is worth trying: INT8 where there are images to calibrate it, FP16 on a GPU."""
    if spec.precisions is not None:
        return _once(spec.precisions)
    wanted: list[tuple[Precision, bool]] = [("fp32", True), ("int8", spec.dataset_id is not None), ("fp16", gpu)]
    return [precision for precision, worth in wanted if worth]


def _planned(
    spec: BenchmarkSpec,
    pairs: Iterable[tuple[EngineName, Precision]],
    fixed: int | None,
    cores: int,
    unavailable: Unavailable,
) -> Iterator[Planned]:
    for engine, precision in pairs:
        engine_says = unavailable(engine, precision)
        for batch_size, (instances, threads) in product(_batches(spec, fixed), _sessions(spec, cores)):
            candidate = Candidate(
                engine=engine, precision=precision, batch_size=batch_size, threads=threads, instances=instances
            )
            yield _plan(candidate, engine_says, fixed, cores)


def _plan(candidate: Candidate, engine_says: str | None, fixed: int | None, cores: int) -> Planned:
    says = engine_says or _batch_says(candidate.batch_size, fixed) or _plan_says(candidate, fixed)
    return Planned(candidate, says or _cores_say(candidate, cores))


def _ordered(active: Candidate, spec: BenchmarkSpec) -> bool:
    engine = spec.engines is None or active.engine in spec.engines
    return engine and (spec.precisions is None or active.precision in spec.precisions)


def _batches(spec: BenchmarkSpec, fixed: int | None) -> list[int]:
    return _once(spec.batch_sizes or (DEFAULT_BATCHES if fixed is None else (fixed,)))


def _sessions(spec: BenchmarkSpec, cores: int) -> list[tuple[int, int]]:
    """Sessions and the threads of each."""
    return [
        (instances, threads)
        for instances in _once(spec.instances)
        for threads in _once(spec.threads or (max(1, cores // instances),))
    ]


def _once(values: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(values))


def _fixed_batch(inputs: Sequence[TensorInfo]) -> int:
    """The batch a model without a dynamic one takes; 1 when its shape does not say."""
    axis = inputs[0].shape[0] if inputs and inputs[0].shape else 1
    return axis if isinstance(axis, int) else 1


def _batch_says(batch_size: int, fixed: int | None) -> str | None:
    if fixed is None or batch_size == fixed:
        return None
    return f"the model's batch is fixed at {fixed}; order batch_sizes [{fixed}] or export it with a dynamic batch axis"


def _plan_says(candidate: Candidate, fixed: int | None) -> str | None:
    if candidate.engine != "tensorrt" or fixed is not None or candidate.batch_size <= PLAN_BATCHES[-1]:
        return None
    return f"its plan is built for batches up to {PLAN_BATCHES[-1]}; order smaller ones of it"


def _cores_say(candidate: Candidate, cores: int) -> str | None:
    if candidate.threads * candidate.instances <= cores:
        return None
    there = f"only {cores} {'core is' if cores == 1 else 'cores are'} there"
    if candidate.instances == 1:
        return f"{there}; order at most {cores} threads"
    return f"{there}; {candidate.threads} threads x {candidate.instances} instances are more"
