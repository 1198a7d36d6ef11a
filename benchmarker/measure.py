"""Measures the candidates of an order that pass the gate: interleaved launches, one process alive at a time."""

from __future__ import annotations

import logging
import random
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from benchmarker import Launched, LaunchOrder, MeasureOrder, gate
from benchmarker.candidates import Planned, candidates
from benchmarker.conditions import circumstances, disturbances, read
from benchmarker.files import Files
from shared import child, clock, config, errors, gpu
from shared.artifacts import ArtifactStore
from shared.machine import system_info
from shared.specs import Block, Candidate, MeasurementSet, NoiseFloor, Series, SeriesStatus
from shared.verdict.figures import round_significant
from shared.verdict.rounds import noise_floor

__all__ = ["MeasureOrder", "launch", "run", "schedule", "share"]

LAUNCH_SLACK_S = 120.0
"""What a launch may take beside its warm-up and its measured block: start, load, the last call."""
PHASES, BARE_PHASES = (0.15, 0.4), (0.0, 0.05)
"""Where, of a benchmark's progress, its files are made and everything is checked, with a dataset and without: images
to calibrate with and to answer take their time."""
GIVE_UP_AFTER = 2
"""Failed launches after which a candidate that did not succeed more often is not tried again: nobody would serve it."""
NO_NOISE_FLOOR = "The noise floor was not measured: fewer than six rounds in which both of its launches succeeded."
DISTURBED_FLOOR = "The noise floor was measured while the run was disturbed: it is neither counted nor remembered."
SHARED = "Measured with isolation `shared`: another job may have run beside it."

logger = logging.getLogger(__name__)

T = TypeVar("T")
Launch = Callable[[LaunchOrder, float], Launched]


class LaunchFailed(Exception):
    """A launch without a result; the message is a sentence for the report."""


def launch(order: LaunchOrder, limit_s: float, module: str = "benchmarker.candidate") -> Launched:
    """Run one candidate in a process of its own and end that process, whatever became of it.

    Raises:
        LaunchFailed: It refused, crashed, was killed, or had no result after `limit_s`.
    """
    try:
        return child.run(module, order, Launched, limits=child.Limits(wall_s=limit_s))
    except (errors.AppError, child.ChildDied) as failure:
        raise LaunchFailed(str(failure)) from failure


def run(
    order: MeasureOrder,
    progress: child.Report,
    launch: Launch = launch,
    examine: gate.Examine = gate.examine,
    *,
    files: Files | None = None,
) -> MeasurementSet:
    """Check, then measure. What crashes, hangs or runs out of memory costs that engine or candidate; the others go on.

    Args:
        order: The benchmark.
        progress: Told `fraction`, with each check `checking`, and `done` and `total` of its images; after each launch
            `candidate`, `round`, `rounds`, and `p50_ms` or `failure`.
        launch: Runs one candidate; replaced by tests.
        examine: Examines one engine in one precision; replaced by tests.
        files: The model in other precisions; none unless given.

    Raises:
        errors.BadModel: The model file is gone.
    """
    if not Path(order.artifact).is_file():
        raise errors.BadModel("The model file is gone. Upload the model again.")
    files = files or Files(order)
    planned = candidates(
        order.config,
        order.model.inputs,
        dynamic_batch=order.description.dynamic_batch,
        cores=config.cores(),
        gpu=gpu.described() is not None,
        unavailable=files.unavailable,
        incumbent=order.incumbent,
    )
    available = [plan.candidate for plan in planned if plan.unavailable is None]
    made, checked = phases(order)
    gated = _gated(order, available, files, child.phase(progress, made, checked), examine)
    rejected = gated.rejected()
    runs = [_Run(plan, rejected.get((plan.candidate.engine, plan.candidate.precision))) for plan in planned]
    runnable = [each for each in runs if each.runnable]
    twin = runnable[0].twin() if runnable and order.config.noise_floor else None
    before = read(broker=order.broker)
    _measure(order, [*runnable, *([twin] if twin else [])], files, child.phase(progress, checked, 1.0), launch)
    after = read(broker=order.broker)
    system, created_at = system_info(), clock.iso(clock.now_ms())
    disturbed = [*([SHARED] if order.config.isolation == "shared" else []), *disturbances(before, after)]
    noise = order.noise_floor if order.noise_floor and order.noise_floor.fingerprint == system.fingerprint else None
    said = [*circumstances(before, after), *_rows(order)]
    if order.config.noise_floor:
        pair = [each.series(files) for each in (runnable[0], twin)] if twin else []
        found = noise_of(order, pair, system.fingerprint, created_at) if pair else None
        said += [NO_NOISE_FLOOR] if found is None else [DISTURBED_FLOOR] if disturbed else []
        noise = found if found and not disturbed else noise
    return MeasurementSet(
        id=order.id,
        created_at=created_at,
        model=order.model,
        config=order.config,
        system=system,
        conditions=[*disturbed, *said],
        dirty=bool(disturbed),
        series=[each.series(files) for each in runs],
        noise_floor=noise,
        incumbent=order.incumbent,
        files=files.prepared,
        dataset=files.dataset,
        reference=gated.reference,
        gates=gated.kept(ArtifactStore(Path(order.models))),
    )


def phases(order: MeasureOrder) -> tuple[float, float]:
    """The shares of its progress at which an order's files are made, and all is checked."""
    return BARE_PHASES if order.dataset is None else PHASES


def _gated(
    order: MeasureOrder, available: Sequence[Candidate], files: Files, progress: child.Report, examine: gate.Examine
) -> gate.Gated:
    """Check all; where FP16 is refused, once more with what overflows first in FP32. Else it is not measured."""
    gated = gate.check(order, available, files.path, progress, examine, calibration=files.seen("int8"))
    again = [each for each in available if each.precision == "fp16" and each.engine != "pytorch"]
    pairs = {(each.engine, each.precision) for each in again}
    why = next((why for pair, why in gated.rejected().items() if pair in pairs), None)
    if why is None or not files.retry_fp16(why, progress):
        return gated
    return gated.replaced(gate.check(order, again, files.path, progress, examine))


def _rows(order: MeasureOrder) -> list[str]:
    """Whether the batch that is counted is one: a fixed first axis that no answer has may be anything."""
    axes = [info.shape[0] if info.shape else None for info in (*order.model.inputs, *order.description.outputs)]
    if order.description.dynamic_batch or len(set(axes)) == 1:
        return []
    return [
        f"The model has no batch axis that inputs and answers share: the first axis of its first input, {axes[0]}, is "
        "counted as the batch, and throughput follows from that."
    ]


def noise_of(order: MeasureOrder, pair: Sequence[Series], fingerprint: str, created_at: str) -> NoiseFloor | None:
    """The noise floor by the two series of one candidate; None where launches failed and too few pairs are left."""
    value = noise_floor(pair[0], pair[1], order.config.seed)
    if value is None:
        return None
    return NoiseFloor(
        value=round_significant(value),
        runs=len({block.round for block in pair[0].blocks} & {block.round for block in pair[1].blocks}),
        measured_at=created_at,
        fingerprint=fingerprint,
        benchmark_id=order.id,
    )


def schedule(runnable: Sequence[T], rounds: int, seed: int) -> list[tuple[int, T]]:
    """Who runs when, as `(round, candidate)`: every candidate once a round, in an order drawn anew for each round.

    Whatever drifts during the run (heat, neighbours) then hits all candidates alike.
    """
    draw = random.Random(seed)
    return [(at, candidate) for at in range(rounds) for candidate in draw.sample(runnable, len(runnable))]


def share(total: int, rounds: int, at: int) -> int:
    """The part of `total` that falls to round `at` (from 0), as even as whole numbers go."""
    return total // rounds + (1 if at < total % rounds else 0)


def _measure(order: MeasureOrder, runs: Sequence[_Run], files: Files, progress: child.Report, launch: Launch) -> None:
    rounds = min(order.rounds, order.config.num_iterations)
    turns = schedule(runs, rounds, order.config.seed)
    for done, (at, run_) in enumerate(turns, start=1):
        if run_.hopeless:
            continue
        outcome = run_.launch(_launch_order(order, run_.candidate, files, at, rounds), launch)
        where = {"fraction": done / len(turns), "candidate": run_.candidate.key, "round": at + 1, "rounds": rounds}
        progress(where | outcome)
        logger.info("%s, launch %d of %d: %s", run_.candidate.key, at + 1, rounds, _told(outcome))


def _told(outcome: dict[str, object]) -> str:
    return f"p50 {outcome['p50_ms']:.3f} ms" if "p50_ms" in outcome else f"failed: {outcome['failure']}"


def _launch_order(order: MeasureOrder, candidate: Candidate, files: Files, at: int, rounds: int) -> LaunchOrder:
    spec = order.config
    return LaunchOrder(
        candidate=candidate,
        round=at + 1,
        artifact=str(files.path(candidate.engine, candidate.precision)),
        inputs=order.model.inputs,
        seed=spec.seed,
        calls=share(spec.num_iterations, rounds, at),
        warmup_least=spec.num_warmup,
        max_seconds=spec.max_seconds / rounds,
    )


class _Run:
    """What has come of one candidate so far."""

    def __init__(self, plan: Planned, rejected: str | None) -> None:
        self._plan, self._rejected = plan, rejected
        self._blocks: list[Block] = []
        self._failures: list[str] = []
        self._provider: str | None = None
        self._device: str | None = None

    @property
    def candidate(self) -> Candidate:
        """What it runs."""
        return self._plan.candidate

    @property
    def runnable(self) -> bool:
        """Whether it is measured at all."""
        return self._plan.unavailable is None and self._rejected is None

    def twin(self) -> _Run:
        """The same candidate again, under a name of its own: what differs between the two is noise."""
        return _Run(self._plan, None)

    @property
    def hopeless(self) -> bool:
        """Whether it fails so often that more launches would only cost time."""
        return len(self._failures) >= max(GIVE_UP_AFTER, len(self._blocks) + 1)

    def launch(self, order: LaunchOrder, launch: Launch) -> dict[str, object]:
        """Run it once more and keep what comes; returns the outcome for the progress line."""
        try:
            launched = launch(order, LAUNCH_SLACK_S + 2 * order.max_seconds)
        except LaunchFailed as failure:
            self._failures.append(str(failure))
            return {"failure": str(failure)}
        self._blocks.append(launched.block)
        self._provider, self._device = launched.provider, launched.device
        return {"p50_ms": statistics.median(launched.block.latencies_ns) / 1e6}

    def series(self, files: Files) -> Series:
        """All there is, for the measurement set."""
        status, reason = self._outcome()
        return Series(
            candidate=self._plan.candidate,
            status=status,
            reason=reason,
            provider=self._provider,
            device=self._device,
            artifact_bytes=files.path(self.candidate.engine, self.candidate.precision).stat().st_size,
            blocks=self._blocks,
            failures=self._failures,
        )

    def _outcome(self) -> tuple[SeriesStatus, str | None]:
        if self._plan.unavailable is not None:
            return "unavailable", self._plan.unavailable
        if self._rejected is not None:
            return "rejected", self._rejected
        if self._blocks and not self.hopeless:
            return "measured", None
        launches = len(self._blocks) + len(self._failures)
        often = f"{len(self._failures)} of {launches} launches failed. " if self._blocks else ""
        return "failed", f"{often}{self._failures[-1]}"
