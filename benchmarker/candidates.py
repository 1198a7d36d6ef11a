"""Which candidates an order means on this machine, and which of them cannot run here and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from typing import NamedTuple, TypeVar

from shared.specs import BenchmarkSpec, Candidate, EngineName, Precision, TensorInfo

T = TypeVar("T")
Unavailable = Callable[[EngineName, Precision], str | None]
"""Why an engine cannot run a precision on this machine; None when it can."""


class Planned(NamedTuple):
    """A candidate of the order; `unavailable` says why it will not be launched."""

    candidate: Candidate
    unavailable: str | None


def candidates(
    spec: BenchmarkSpec, inputs: Sequence[TensorInfo], *, dynamic_batch: bool, cores: int, unavailable: Unavailable
) -> list[Planned]:
    """Every combination the order names, once each, in its order: engine, precision, batch, threads.

    Args:
        spec: The order.
        inputs: The model's inputs; the first axis of the first one is its batch.
        dynamic_batch: Whether the model was seen to run with any batch.
        cores: Cores this process may use; also the threads of an order that names none.
        unavailable: Asked once for each pair of engine and precision.
    """
    fixed = None if dynamic_batch else _fixed_batch(inputs)
    return list(_planned(spec, fixed, cores, unavailable))


def _planned(spec: BenchmarkSpec, fixed: int | None, cores: int, unavailable: Unavailable) -> Iterator[Planned]:
    for engine, precision in product(_once(spec.engines), _once(spec.precisions)):
        engine_says = unavailable(engine, precision)
        for batch_size, threads in product(_once(spec.batch_sizes), _once(spec.threads or (cores,))):
            candidate = Candidate(engine=engine, precision=precision, batch_size=batch_size, threads=threads)
            yield Planned(candidate, engine_says or _batch_says(batch_size, fixed) or _cores_say(threads, cores))


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


def _cores_say(threads: int, cores: int) -> str | None:
    if threads <= cores:
        return None
    return f"only {cores} {'core is' if cores == 1 else 'cores are'} there; order at most {cores} threads"
