"""The gate before speed: every engine and precision is examined in a process of its own, beside one reference."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from benchmarker import Examined, ExamineOrder, MeasureOrder
from shared import child, config, errors
from shared.artifacts import ArtifactStore
from shared.specs import Accuracy, Candidate, EngineName, GateResult, JpegScale, Precision
from shared.verdict import gate as rules

SLACK_S = 300.0
"""What an examination may take beside the test split: start, load, parity at every batch."""
PREPARE_S = 1800.0
"""What building a plan of TensorRT may take on top."""
TEST_SPLIT_S = 300.0
"""No image of the test split is begun later; what was seen by then is compared, and that is said."""

logger = logging.getLogger(__name__)

Pair = tuple[EngineName, Precision]
Examine = Callable[[ExamineOrder, float, Sequence[int], child.Report], Examined]


class Gated(NamedTuple):
    """What came of the gate."""

    reference: Accuracy | None
    results: list[GateResult]
    golden: dict[Pair, bytes]
    """Not in the store yet: a file without a row is swept within the hour, and measuring may take longer."""

    def rejected(self) -> dict[Pair, str]:
        """Who is not measured, and why."""
        return {
            (result.engine, result.precision): " ".join(result.problems)
            for result in self.results
            if result.verdict == "fail"
        }

    def replaced(self, by: Gated) -> Gated:
        """With what came of checking some of them again."""
        anew = {(result.engine, result.precision): result for result in by.results}
        results = [anew.get((result.engine, result.precision), result) for result in self.results]
        golden = {pair: samples for pair, samples in self.golden.items() if pair not in anew}
        return Gated(self.reference, results, golden | by.golden)

    def kept(self, store: ArtifactStore) -> list[GateResult]:
        """The results, with their golden samples in the store."""
        return [self._kept(result, store) for result in self.results]

    def _kept(self, result: GateResult, store: ArtifactStore) -> GateResult:
        samples = self.golden.get((result.engine, result.precision))
        return msgspec.structs.replace(result, golden=store.put(samples)) if samples else result


def examine(
    order: ExamineOrder,
    limit_s: float,
    fds: Sequence[int],
    progress: child.Report,
    module: str = "benchmarker.examination",
) -> Examined:
    """Examine one engine and precision in a process of its own, which tells `done` and `total` images now and then.

    Raises:
        errors.AppError: It refused, or had no result after `limit_s`.
        child.ChildDied: It crashed or was killed.
    """
    limits = child.Limits(wall_s=limit_s)
    return child.run(module, order, Examined, limits=limits, pass_fds=fds, on_progress=progress)


def check(
    order: MeasureOrder,
    candidates: Iterable[Candidate],
    path: Callable[[EngineName, Precision], Path],
    progress: child.Report,
    examine: Examine = examine,
    *,
    calibration: Sequence[int] | None = None,
) -> Gated:
    """Examine the engine and precision of every candidate once. Whatever goes wrong in one is that one's result.

    Args:
        order: The benchmark.
        candidates: Those that can run here.
        path: What an engine runs in a precision.
        progress: Told before each examination, and as it goes through the images of the test split: `checking`,
            `fraction`, and of the images `done` and `total`.
        examine: Runs one examination; replaced by tests.
        calibration: Places in the dataset's index that INT8 has seen; None where that is not recorded.
    """
    batches: dict[Pair, set[int]] = {}
    for candidate in candidates:
        batches.setdefault((candidate.engine, candidate.precision), set()).add(candidate.batch_size)
    if not batches:
        return Gated(None, [], {})
    run = _Run(order, sorted(set().union(*batches.values())), path, examine, calibration)
    with tempfile.TemporaryFile() as answers:
        accuracy, broken = run.reference(answers, _teller(progress, "the reference", 0, 1 + len(batches)))
        results, golden = [], {}
        for place, (pair, sizes) in enumerate(batches.items(), start=1):
            tell = _teller(progress, f"{pair[0]}/{pair[1]}", place, 1 + len(batches))
            found, samples = run.pair(pair, sorted(sizes), answers, broken, tell)
            results.append(rules.judged(found, accuracy, order.config.accuracy_drop))
            logger.info("%s in %s: %s %s", *pair, results[-1].verdict, " ".join(results[-1].problems))
            if samples and results[-1].verdict != "fail":
                golden[pair] = samples
    return Gated(accuracy, results, golden)


def at_scales(
    order: MeasureOrder,
    candidate: Candidate,
    scales: Sequence[JpegScale],
    path: Callable[[EngineName, Precision], Path],
    progress: child.Report,
    *,
    examine: Examine = examine,
    calibration: Sequence[int] | None = None,
) -> list[GateResult]:
    """Have a candidate's engine and precision answer the test split with JPEGs decoded at each of these scales.

    The reference sees them as the contract says, so what is lost by precision and scale is lost to it together. The
    other arguments are those of `check`; whatever goes wrong at a scale is its result.
    """
    contract, batches = order.description.preprocessing, [candidate.batch_size]
    assert contract is not None  # no JPEG is decoded otherwise
    found = []
    with tempfile.TemporaryFile() as answers:
        reference = _Run(order, batches, path, examine, None, answers_only=True)
        accuracy, broken = reference.reference(answers, _teller(progress, "the reference", 0, 1 + len(scales)))
        for place, scale in enumerate(scales, start=1):
            description = msgspec.structs.replace(order.description, preprocessing=contract.reduced(scale))
            at_scale = msgspec.structs.replace(order, description=description)
            run = _Run(at_scale, batches, path, examine, calibration, answers_only=True)
            tell = _teller(progress, f"JPEGs at 1/{scale}", place, 1 + len(scales))
            result, _ = run.pair((candidate.engine, candidate.precision), batches, answers, broken, tell)
            found.append(rules.judged(result, accuracy, order.config.accuracy_drop))
            logger.info("JPEGs at 1/%d: %s %s", scale, found[-1].verdict, " ".join(found[-1].problems))
    return found


def _teller(progress: child.Report, checking: str, place: int, checks: int) -> child.Report:
    """Tells of a check, the `place`-th of so many from 0, with what its process says of images."""

    def tell(images: dict[str, Any]) -> None:
        passed = images["done"] / images["total"] if images else 0.0
        progress({"checking": checking, "fraction": round((place + passed) / checks, 4)} | images)

    tell({})
    return tell


class _Run:
    """The examinations of one benchmark."""

    def __init__(
        self,
        order: MeasureOrder,
        batches: list[int],
        path: Callable[[EngineName, Precision], Path],
        examine: Examine,
        calibration: Sequence[int] | None,
        *,
        answers_only: bool = False,
    ) -> None:
        self._order, self._path, self._examine, self._answers_only = order, path, examine, answers_only
        self._calibration = None if calibration is None else list(calibration)
        few = [1, 2] if order.description.dynamic_batch else []
        self._batches = sorted({*few, *batches})
        self._few = few

    def reference(self, answers: IO[bytes], tell: child.Report) -> tuple[Accuracy | None, str | None]:
        """Let the reference answer into the file; its accuracy, or why there is no reference."""
        order = self._examination(("onnxruntime", "fp32"), self._batches)
        try:
            found = self._run(msgspec.structs.replace(order, answers=answers.fileno()), [answers], tell)
        except (errors.AppError, child.ChildDied) as failure:
            return None, f"{rules.REFERENCE}, which everything is compared with, could not be run: {failure}"
        return found.accuracy, None

    def pair(
        self, pair: Pair, sizes: list[int], answers: IO[bytes], broken: str | None, tell: child.Report
    ) -> tuple[GateResult, bytes | None]:
        """One engine and precision beside the reference's answers; with its golden samples."""
        engine, precision = pair
        began = time.monotonic()
        nothing = GateResult(engine=engine, precision=precision, verdict="fail")
        if broken is not None:
            return msgspec.structs.replace(nothing, problems=[broken]), None
        answers.seek(0)
        order = self._examination(pair, sorted({*self._few, *sizes}))
        with tempfile.TemporaryFile() as golden:
            order = msgspec.structs.replace(order, reference=answers.fileno(), golden=golden.fileno())
            try:
                found = self._run(order, [answers, golden], tell)
            except (errors.AppError, child.ChildDied) as failure:
                seconds = time.monotonic() - began
                return msgspec.structs.replace(nothing, problems=[str(failure)], seconds=seconds), None
            golden.seek(0)
            result = GateResult(
                engine=engine,
                precision=precision,
                verdict="not_checked",
                problems=found.problems,
                notes=found.notes,
                finite=found.finite,
                parity=found.parity,
                flips=found.flips,
                checked=found.checked,
                accuracy=found.accuracy,
                provider=found.provider,
                seconds=time.monotonic() - began,
            )
            return result, golden.read() or None

    def _run(self, order: ExamineOrder, files: Sequence[IO[bytes]], tell: child.Report) -> Examined:
        limit_s = SLACK_S + (TEST_SPLIT_S if order.dataset else 0) + (PREPARE_S if order.engine == "tensorrt" else 0)
        return self._examine(order, limit_s, [file.fileno() for file in files], tell)

    def _examination(self, pair: Pair, batches: list[int]) -> ExamineOrder:
        order = self._order
        engine, precision = pair
        return ExamineOrder(
            engine=engine,
            precision=precision,
            artifact=str(self._path(engine, precision)),
            task_type=order.model.task_type,
            inputs=order.model.inputs,
            description=order.description,
            batches=batches,
            threads=config.cores(),
            seed=order.config.seed,
            dataset=order.dataset,
            calibration=self._calibration if precision == "int8" else None,
            seconds=TEST_SPLIT_S,
            answers_only=self._answers_only,
        )
