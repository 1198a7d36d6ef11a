"""What of an order needs no trying to be refused: refused at once, not minutes later in the queue."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from gateway.errors import MISFIT
from gateway.schemas import ON_ONE_LINE
from shared import errors, nets
from shared.genes import SearchSpec, TrainingOrder, genes_of
from shared.specs import (
    DEFAULT_BATCHES,
    ENGINES,
    FEWEST_REQUESTS,
    MOST_REQUESTS,
    BenchmarkSpec,
    Constraint,
    DeploymentOrder,
    MetricName,
    ModelDescription,
    ServiceLoad,
)

MAX_CANDIDATES = 64
"""Ways to serve in one order; each is measured for up to `max_seconds`."""
SHARES: tuple[MetricName, ...] = ("accuracy", "accuracy_drop")
PERCENTILES: tuple[MetricName, ...] = ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms")
"""None is above the next."""

NO_IMAGES = "the model takes tensors, not images: it has no preprocessing contract; leave it out"
NO_TEST_SPLIT = "what a scale costs in accuracy is told by a test split; order with dataset_id, or leave it out"


def check(spec: BenchmarkSpec, cores: int) -> None:
    """Refuse what cannot be measured on any machine of `cores` cores, or was surely not meant.

    Engines and precisions that do not run here are no reason: the benchmark answers for them, with why.

    Raises:
        errors.InvalidInput: A value stands twice, threads are more than cores, the combinations are too many, scales
            are to be tried without a dataset, the service would be sent too few requests or too many, no figure can
            keep a constraint, or two contradict each other.
    """
    lists: dict[str, Sequence[str | int]] = {
        "engines": spec.engines or ENGINES,
        "precisions": spec.precisions or (),
        "batch_sizes": spec.batch_sizes or DEFAULT_BATCHES,
        "threads": spec.threads or (),
        "instances": spec.instances,
    }
    found = [
        _wrong(f"{name}[{index}]", f"{value} stands here twice; each value is measured once")
        for name, values in {**lists, "jpeg_scales": spec.scales}.items()
        for index, value in enumerate(values)
        if value in values[:index]
    ]
    if spec.dataset_id is None and any(scale > 1 for scale in spec.scales):
        found.append(_wrong("jpeg_scales", NO_TEST_SPLIT))
    found += [
        _wrong(f"threads[{index}]", f"must be at most {cores}, the cores of this machine")
        for index, threads in enumerate(spec.threads or ())
        if threads > cores
    ]
    if spec.noise_floor and spec.isolation == "shared":
        found.append(_wrong("noise_floor", "is measured with isolation `exclusive`: other jobs would count as noise"))
    found += _arrivals(spec.service_load) if spec.service_load else []
    count = math.prod(len(values) for values in lists.values() if values)
    if not found and count > MAX_CANDIDATES:
        told = " x ".join(f"{len(values)} {name}" for name, values in lists.items() if values)
        found = [_wrong("body", f"{told} are {count} candidates; at most {MAX_CANDIDATES} in one order, split it")]
    found += impossible(spec.constraints)
    found += contradictions(spec.constraints)
    if found:
        raise errors.InvalidInput(MISFIT, errors=found)


def check_training(spec: TrainingOrder) -> None:
    """Refuse a training that cannot be carried out by this installation, or is called what nobody can read, and a
    search over what no training takes.

    Raises:
        errors.InvalidInput: The name has control characters, or a gene is wrong.
        errors.Conflict: PyTorch is not installed.
    """
    if spec.ga is not None:
        _check_genes(spec.ga)
    if spec.name is not None and not re.search(ON_ONE_LINE, spec.name):
        raise errors.InvalidInput(
            MISFIT, errors=[_wrong("name", "must be text on one line, without control characters")]
        )
    if lacks := nets.missing("order again"):
        raise errors.Conflict(lacks)


def _check_genes(search: SearchSpec) -> None:
    try:
        genes_of(search)
    except ValueError as error:
        raise errors.InvalidInput(MISFIT, errors=[_wrong("ga.search_space", str(error))]) from error


def check_deployment(order: DeploymentOrder, model: ModelDescription, cores: int) -> None:
    """Refuse an order of what serves a model that says too little, too much, or what can never be.

    Raises:
        errors.InvalidInput: The fields that are wrong.
    """
    given = {name: value for name in order.__struct_fields__ if (value := getattr(order, name)) is not None}
    if order.report_id is not None:
        found = [_wrong(name, "the report says this; leave it out") for name in given if name != "report_id"]
    else:
        found = [
            _wrong(name, "required, unless a report_id is given")
            for name in ("engine", "precision")
            if name not in given
        ]
    if order.threads is not None and order.threads > cores:
        found.append(_wrong("threads", f"must be at most {cores}, the cores of this machine"))
    if order.jpeg_scale is not None and model.preprocessing is None:
        found.append(_wrong("jpeg_scale", NO_IMAGES))
    fixed = next((size for size in model.inputs[0].shape[:1] if isinstance(size, int)), 1)
    if not model.dynamic_batch and order.batch_size not in (None, fixed):
        found.append(_wrong("batch_size", f"the model's batch is fixed at {fixed}; leave it out"))
    if found:
        raise errors.InvalidInput(MISFIT, errors=found)


def impossible(constraints: Sequence[Constraint]) -> list[dict[str, str]]:
    """Limits that no figure keeps, mostly a share that was meant as a percentage."""
    found = []
    for index, limit in enumerate(constraints):
        name = f"constraints[{index}]"
        beyond = limit.value >= 1 if limit.op == ">" else limit.value > 1
        if limit.metric in SHARES and limit.op in (">=", ">") and beyond:
            as_share = f"; {limit.value:g} % is {limit.value / 100:g}" if limit.value <= 100 else ""
            found.append(_wrong(name, f"{_told(limit)}: {limit.metric} is a share from 0 to 1{as_share}"))
        below = limit.value <= 0 if limit.op == "<" else limit.value < 0
        if limit.metric != "accuracy_drop" and limit.op in ("<=", "<") and below:
            found.append(_wrong(name, f"{_told(limit)}: no {limit.metric} is below 0; write the largest accepted"))
    return found


def contradictions(constraints: Sequence[Constraint]) -> list[dict[str, str]]:
    """The lower limits that no value keeps together with one of the upper limits, and which that is.

    Of a metric, or of one that is never above the other: a P50 is at most the P95.
    """
    found = []
    for index, lower in enumerate(constraints):
        for other, upper in enumerate(constraints):
            if _never_above(lower.metric, upper.metric) and lower.op in (">=", ">") and upper.op in ("<=", "<"):
                both = lower.op == ">=" and upper.op == "<="
                if lower.value > upper.value or (lower.value == upper.value and not both):
                    message = (
                        f"{_told(lower)} contradicts constraints[{other}], {_told(upper)}: "
                        "no value keeps both; leave one out"
                    )
                    found.append(_wrong(f"constraints[{index}]", message))
    return found


def _never_above(metric: MetricName, other: MetricName) -> bool:
    if metric in PERCENTILES and other in PERCENTILES:
        return PERCENTILES.index(metric) <= PERCENTILES.index(other)
    return metric == other


def _told(limit: Constraint) -> str:
    return f"{limit.metric} {limit.op} {limit.value:g}"


def _arrivals(load: ServiceLoad) -> list[dict[str, str]]:
    """What is wrong with the number of requests that the open loop is ordered to send."""
    if load.arrival_rate is None or FEWEST_REQUESTS <= load.arrival_rate * load.seconds <= MOST_REQUESTS:
        return []
    if load.arrival_rate * load.seconds > MOST_REQUESTS:
        most = f"{MOST_REQUESTS / load.seconds:g} for {load.seconds:g} seconds, or order fewer seconds"
        return [_wrong("service_load.arrival_rate", f"must be at most {most}: a loop sends {MOST_REQUESTS:,}")]
    least = f"{FEWEST_REQUESTS / load.seconds:g} for {load.seconds:g} seconds, or order more seconds"
    return [_wrong("service_load.arrival_rate", f"must be at least {least}: fewer than {FEWEST_REQUESTS} tell nothing")]


def _wrong(field: str, message: str) -> dict[str, str]:
    return {"field": field, "message": message}
