"""Makes a model's file in another precision, in a process that has shut itself in; INT8 learns its ranges from images.

The images are a seeded draw of the dataset's part `train`. Half of them calibrate, by each method in turn; the others
decide which result is kept: the one that agrees best with FP32. A sample that is in `val` or `test` as well is refused.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarker import DatasetFiles, Made, PrecisionOrder, Recipe
from shared import child, config, errors, metadata, sandbox
from shared.specs import DatasetIndex, Preprocessing, Sample

if TYPE_CHECKING:
    from benchmarker.agreement import Agreement, Outputs
    from shared.engines import Tensor
    from shared.engines.precisions import Extent, Method, Network
    from shared.vision.samples import SampleImages

SEED = 0
CALIBRATING, DECIDING = 64, 64
"""Images, at most; more change the ranges little and cost a second each."""
LEAST = 8
INPUT_BYTES = 128 * 2**20
"""Of the inputs that are held at once: 13 images of each kind at 640 x 640; twice as many changed nothing."""
TRY_S = 300.0
"""For all ways to make INT8 together: the one that is at work then is given up, and none is begun that would, taking
as long as the one before, end later."""
LEAST_TRY_S = 0.001
Part = tuple[float, float]
CALIBRATION, COMPARISON = (0.0, 0.5), (0.5, 1.0)
"""Of a try's progress."""
ENOUGH = 0.98
"""Share of answers like FP32's below which less of the network is tried in INT8."""
LESS: dict[Extent, str] = {"inner": "the first and last layers in FP32", "weighted": "only layers with weights in INT8"}
"""Tried in turn."""
NAMED = 3


def enclosed(order: PrecisionOrder, report: child.Report) -> Made:
    """Carry the order out with the model, the dataset and a scratch folder in reach, and nothing else.

    Raises:
        errors.AppError: The file cannot be made; the message says why.
    """
    data = order.dataset
    images = [Path(path) for path in (data.index, data.pack, data.archive)] if data else []
    sandbox.enter([Path(__file__).parent, Path(order.artifact), *images], scratch=Path(order.scratch))
    tempfile.tempdir = order.scratch  # what the tools put aside as well
    return make(order, report)


def make(order: PrecisionOrder, report: child.Report) -> Made:
    """Carry the order out in this process.

    Raises:
        errors.AppError: As `enclosed`.
    """
    from shared.engines.precisions import Network  # its libraries start threads, which must be inside as well

    description = order.description
    network = Network(Path(order.artifact), Path(order.scratch))
    if order.precision == "fp16":
        path = network.fp16(keep_sensitive=order.keep_sensitive)
        made = Made(recipe={"sensitive_in_fp32": order.keep_sensitive}, notes=[])
    else:
        path, made = _int8(order, network, report)
    metadata.write(path, order.output, metadata.describing(description.preprocessing, description.labels))
    return made


# --- images -----------------------------------------------------------------------------------------------------------


class Drawn(NamedTuple):
    """Samples of the part `train`: some calibrate, others decide."""

    calibrating: list[Sample]
    deciding: list[Sample]
    refused: list[str]
    """Names of those that are in `val` or `test` as well."""


def draw(index: DatasetIndex, images: SampleImages, most: int) -> Drawn:
    """Draw at most `most` samples of each kind, the same ones every time.

    Raises:
        errors.InvalidInput: `train` has fewer than `LEAST` that can be used.
    """
    others: dict[int, list[Sample]] = {}
    for sample in index.samples:
        if sample.split != "train":
            others.setdefault(sample.dhash, []).append(sample)
    train = [sample for sample in index.samples if sample.split == "train"]
    random.Random(SEED).shuffle(train)
    chosen: list[Sample] = []
    refused: list[str] = []
    for sample in train:
        if len(chosen) == min(most, CALIBRATING) + min(most, DECIDING):
            break
        if _is_among(sample, others.get(sample.dhash, []), images):
            refused.append(sample.member)
        else:
            chosen.append(sample)
    if len(chosen) < LEAST:
        raise errors.InvalidInput(
            f"INT8 is calibrated on at least {LEAST} images of the part `train` that are in no other part; the dataset "
            f"has {len(chosen)}. Upload one with more."
        )
    half = len(chosen) // 2
    drawn = Drawn(chosen[half:], chosen[:half], refused)
    assert {sample.split for sample in (*drawn.calibrating, *drawn.deciding)} == {"train"}
    return drawn


def _is_among(sample: Sample, lookalikes: list[Sample], images: SampleImages) -> bool:
    """Whether one of them is the same frame or the same file, under whatever name."""
    if any((other.member, other.time_s) == (sample.member, sample.time_s) for other in lookalikes):
        return True
    return bool(lookalikes) and images.read(sample) in [images.read(other) for other in lookalikes]


# --- INT8 -------------------------------------------------------------------------------------------------------------


def _int8(order: PrecisionOrder, network: Network, report: child.Report) -> tuple[Path, Made]:
    from shared.engines.precisions import SCHEME
    from shared.vision.samples import SampleImages, read_index

    data, contract = _needs(order)
    with SampleImages(Path(data.archive), Path(data.pack)) as images:
        report({"step": "INT8: reading images of the part `train`"})
        most = max(LEAST // 2, INPUT_BYTES // (2 * _row_bytes(contract)))
        index = read_index(Path(data.index))
        drawn = draw(index, images, most)
        calibrating = _batches(order, list(images.tensors(drawn.calibrating, contract)))
        deciding = _batches(order, list(images.tensors(drawn.deciding, contract)))
    trial = _Trial(order, network, calibrating, deciding, contract=contract, report=report)
    name, path, reached = _best(trial)
    recipe: Recipe = {
        "scheme": SCHEME,
        "seed": SEED,
        "method": name.split()[0],
        "extent": name.split()[-1] if " " in name else "whole",
        "calibration_images": len(drawn.calibrating),
        "seen": _places(index, [*drawn.calibrating, *drawn.deciding]),
        "deciding_images": len(drawn.deciding),
        "agreement": round(reached.same, 6),
        "relative_error": round(-reached.closeness, 6),
    }
    tried: Recipe = {
        f"agreement_{each.replace(' ', '_')}": round(got.same, 6) for each, (_, got) in trial.results.items()
    }
    return path, Made(recipe=recipe | tried, notes=[*_told(drawn.refused), *trial.notes])


def _places(index: DatasetIndex, samples: list[Sample]) -> str:
    """Places of samples in the index, for whoever checks that the file has not seen what it is judged by."""
    wanted = {id(sample) for sample in samples}
    return ",".join(str(place) for place, sample in enumerate(index.samples) if id(sample) in wanted)


class _Trial:
    """Tries ways to quantise and remembers what came of each."""

    def __init__(
        self,
        order: PrecisionOrder,
        network: Network,
        calibrating: list[Tensor],
        deciding: list[Tensor],
        *,
        contract: Preprocessing,
        report: child.Report,
    ) -> None:
        self._order, self._network, self._contract = order, network, contract
        self._calibrating, self._deciding = calibrating, deciding
        self._input = order.description.inputs[0].name
        self._expected: list[Outputs] = []
        self._report, self._end = child.now_and_then(report), time.monotonic() + TRY_S
        self._doing = ""
        self._tried = 0
        self.results: dict[str, tuple[Path, Agreement]] = {}
        self.notes: list[str] = []

    @property
    def left_s(self) -> float:
        """Of `TRY_S`."""
        return self._end - time.monotonic()

    def run(self, method: Method, extent: Extent = "whole") -> None:
        """Try one, named `minmax` or `minmax inner`; a method that fails is a note, and the others go on."""
        name = method if extent == "whole" else f"{method} {extent}"
        try:
            with _ends_after(self.left_s):
                self.results[name] = self._made(name, method, extent)
        except errors.DeadlineExceeded:
            self.notes.append(f"INT8 by {name} was given up after {TRY_S:g} s, while {self._doing}.")
        except (errors.AppError, MemoryError) as failure:
            self.notes.append(f"INT8 by {name} failed: {str(failure) or 'it needs more memory than it may use.'}")
        self._tried += 1

    def _made(self, name: str, method: Method, extent: Extent) -> tuple[Path, Agreement]:
        from benchmarker.agreement import agreement

        if not self._expected:
            self._expected = self._answers(Path(self._order.artifact), "running it in FP32", (0.0, 0.0))
        done = itertools.count()

        def tell() -> None:
            self._tell(f"calibrating by {name}", next(done), len(self._calibrating), CALIBRATION)

        tell()
        path = self._network.int8(self._calibrating, self._input, method, extent, tell)
        given = self._answers(path, f"comparing {name} with FP32", COMPARISON)
        return path, agreement(self._expected, given, self._order.task_type, self._contract)

    def _answers(self, path: Path, doing: str, part: Part) -> list[Outputs]:
        from shared.engines.onnxrt import loaded

        run = loaded(path.read_bytes(), config.cores())
        answers = []
        for place, batch in enumerate(self._deciding):
            self._tell(doing, place, len(self._deciding), part)
            answers.append(run({self._input: batch}))
        return answers

    def _tell(self, doing: str, done: int, total: int, part: Part) -> None:
        from shared.engines.precisions import METHODS

        self._doing = f"{doing}, after {done} of {total} images"
        begin, end = part
        fraction = min(1.0, (self._tried + begin + (end - begin) * done / total) / len(METHODS))
        self._report({"step": f"INT8: {doing}", "done": done, "total": total, "fraction": fraction})


@contextlib.contextmanager
def _ends_after(seconds: float) -> Iterator[None]:
    """End what goes on inside after so many seconds, wherever in the tools it is; for the main thread.

    Raises:
        errors.DeadlineExceeded: It was ended.
    """

    def ring(_signal: int, _frame: object) -> None:
        raise errors.DeadlineExceeded("It takes too long.")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, LEAST_TRY_S))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _best(trial: _Trial) -> tuple[str, Path, Agreement]:
    """Try the methods, and less in INT8 where none agrees well.

    Raises:
        errors.BadModel: All failed.
    """
    from shared.engines.precisions import METHODS

    took_s = 0.0
    for method in METHODS:
        if took_s > trial.left_s:
            trial.notes.append(f"INT8 by {method} was not tried, for want of time.")
            continue
        before_s = trial.left_s
        trial.run(method)
        took_s = before_s - trial.left_s
    if not trial.results:
        advice = " Order without int8 in precisions." if trial.left_s <= 0 else ""
        raise errors.BadModel(" ".join(trial.notes) + advice)
    name, path, reached = _leader(trial)
    leading, whole, told = next(method for method in METHODS if method == name), reached.same, []
    for extent, what in LESS.items():
        if reached.same >= ENOUGH:
            break
        if took_s > trial.left_s:
            told.append(f"for {what} there was no time")
            break
        trial.run(leading, extent)
        name, path, reached = _leader(trial)
        improved = name.endswith(f" {extent}")
        told.append(f"{what} improved that to {reached.same:.0%}" if improved else f"{what} did not improve that")
    if told:
        trial.notes.append(f"Whole in INT8, {whole:.0%} of the answers were as in FP32; {'; '.join(told)}.")
    return name, path, reached


def _leader(trial: _Trial) -> tuple[str, Path, Agreement]:
    name = max(trial.results, key=lambda each: trial.results[each][1])
    return name, *trial.results[name]


def _needs(order: PrecisionOrder) -> tuple[DatasetFiles, Preprocessing]:
    """What calibration takes; the plan has asked for it already."""
    contract = order.description.preprocessing
    if order.dataset is None or contract is None:
        raise errors.InvalidInput("INT8 is calibrated on images: it takes a dataset, and a model with `preprocessing`.")
    return order.dataset, contract


def _row_bytes(contract: Preprocessing) -> int:
    return contract.channels * contract.resize.height * contract.resize.width * 4


def _batches(order: PrecisionOrder, rows: list[Tensor]) -> list[Tensor]:
    """Rows one by one, or as many at once as the model's batch is fixed at, the first ones again at the end."""
    import numpy as np

    axis = order.description.inputs[0].shape[0]
    size = axis if isinstance(axis, int) else 1
    return [np.concatenate([rows[(at + row) % len(rows)] for row in range(size)]) for at in range(0, len(rows), size)]


def _told(refused: list[str]) -> Iterator[str]:
    if refused:
        some = ", ".join(repr(name[:80]) for name in refused[:NAMED])
        more = f" and {len(refused) - NAMED} more" if len(refused) > NAMED else ""
        yield (
            f"Images of the part `train` that are in `val` or `test` as well did not calibrate: {some}{more}. Accuracy "
            "that is measured on them says too much."
        )


if __name__ == "__main__":
    child.main(PrecisionOrder, enclosed)
