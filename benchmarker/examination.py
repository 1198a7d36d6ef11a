"""One engine and precision examined in a process of its own: finite, like the reference, as accurate."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmarker import Examined, ExamineOrder
from shared import child, errors, nets, sandbox
from shared.specs import Accuracy, Parity

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from benchmarker.inputs import Inputs
    from shared.engines import Engine, Feeds, Tensor
    from shared.runtime import Runtime

_GPUS = "nvidia*"
NAMED = 5


def enclosed(order: ExamineOrder, report: child.Report) -> Examined:
    """Examine with the model, the dataset and nothing else in reach.

    Not where there is a GPU: what its driver needs to have open was never tried in there.
    """
    if not any(Path("/dev").glob(_GPUS)):
        files = (order.dataset.index, order.dataset.pack, order.dataset.archive) if order.dataset else ()
        sandbox.enter([Path(__file__).parent, Path(order.artifact), *map(Path, files)])
    if order.engine == "pytorch" and order.reference is not None:
        nets.settle()
    return examine(order, report)


def examine(order: ExamineOrder, report: child.Report) -> Examined:
    """Examine in this process; `report` hears how many images of the test split were answered.

    Raises:
        errors.AppError: The engine is not there, refuses the model or fails on it; of the reference, anything wrong.
    """
    from shared.engines import Reference, engine_class  # its libraries start threads, which must be inside as well

    kind = engine_class(order.engine) if order.reference is not None else Reference
    engine = kind(Path(order.artifact), precision=order.precision, threads=order.threads)
    engine.prepare()
    examination = _Examination(order, engine, child.now_and_then(report))
    examination.run()
    return examination.found()


class _Examination:
    """The steps in turn; each but the first goes on only where the one before found nothing wrong."""

    def __init__(self, order: ExamineOrder, engine: Engine, report: child.Report) -> None:
        import numpy as np

        self._order, self._engine, self._report = order, engine, report
        self._before: Any = None
        """What the reference answered, by name."""
        if order.reference is not None:
            self._before = np.load(os.fdopen(os.dup(order.reference), "rb"), allow_pickle=False)
        self._answers: dict[str, npt.NDArray[Any]] = {}
        self._problems: list[str] = []
        self._notes: list[str] = []
        self._parity: list[Parity] = []
        self._finite: bool | None = None
        self._flips: int | None = None
        self._checked = 0
        self._accuracy: Accuracy | None = None

    def found(self) -> Examined:
        """All there is."""
        return Examined(
            provider=self._engine.provider,
            finite=self._finite,
            problems=self._problems,
            notes=[*self._engine.notes, *self._notes],
            parity=self._parity,
            flips=self._flips,
            checked=self._checked,
            accuracy=self._accuracy,
        )

    def run(self) -> None:
        """Examine; what is wrong with an engine is a sentence, what is wrong with the reference is raised."""
        import numpy as np

        from benchmarker.inputs import Inputs
        from shared.runtime import Runtime

        runtime = Runtime(self._serving(), engine=self._engine)
        runtime.activate()
        with Inputs(self._order, runtime) as inputs:
            steps = (self._compare, self._stress, self._judge, self._remember)
            for step in (self._judge,) if self._order.answers_only else steps:
                try:
                    step(runtime, inputs)
                except errors.AppError as error:
                    if self._before is None:
                        raise
                    self._problems.append(error.message)
                if self._problems:
                    break
        runtime.deactivate()
        if self._order.answers is not None:
            with os.fdopen(os.dup(self._order.answers), "wb") as file:
                np.savez(file, allow_pickle=False, **self._answers)

    def _serving(self) -> Any:
        from shared.runtime import Serving

        order = self._order
        about = order.description
        return Serving(
            model_id="",
            name="",
            task_type=order.task_type,
            onnx=Path(order.artifact),
            inputs=about.inputs,
            outputs=about.outputs,
            dynamic_batch=about.dynamic_batch,
            preprocessing=about.preprocessing,
            labels=about.labels,
            scores=about.scores,
            engine=order.engine,
            precision=order.precision,
            batch_size=order.batches[-1],
            threads=order.threads,
        )

    # --- parity and finiteness ---------------------------------------------------------------------------------------

    def _compare(self, _runtime: Runtime, inputs: Inputs) -> None:
        """Real input at every batch: finite, and like the reference."""
        from shared.parity import compare

        for batch in self._order.batches:
            given = self._infer(inputs.real(batch), f"at batch {batch}")
            if not self._check_finite(given, f"at batch {batch} on {inputs.source} input"):
                return
            for place, array in enumerate(given):
                self._answers[f"real {batch} {place}"] = array
            if self._before is None:
                continue
            wanted = [self._before[f"real {batch} {place}"] for place in range(len(given))]
            try:
                self._parity.append(compare(batch, wanted, given))
            except ValueError as error:
                self._problems.append(f"At batch {batch} {error}.")

    def _stress(self, _runtime: Runtime, inputs: Inputs) -> None:
        """The darkest, the brightest and the noisiest input: finite wherever the reference is."""
        import numpy as np

        for batch in dict.fromkeys((self._order.batches[0], self._order.batches[-1])):
            for name, feeds in inputs.extreme(batch):
                key = f"finite {name} {batch}"
                given = self._infer(feeds, f"at batch {batch} on {name}")
                finite = all(np.isfinite(array).all() for array in given)
                self._answers[key] = np.array(finite)
                if self._before is not None and not finite and bool(self._before[key]):
                    self._finite = False
                    self._problems.append(
                        f"At batch {batch} it answers {name} with NaN or infinity, which the reference does not."
                    )
                    return
        if self._finite is None:
            self._finite = True

    def _infer(self, feeds: Feeds, where: str) -> list[Tensor]:
        try:
            return list(self._engine.infer(feeds).values())
        except errors.AppError as error:
            raise type(error)(f"It fails {where}: {error.message}") from error

    def _check_finite(self, arrays: Sequence[Tensor], where: str) -> bool:
        import numpy as np

        if all(np.isfinite(array).all() for array in arrays):
            return True
        self._finite = False
        sentence = f"It answers NaN or infinity {where}."
        if self._before is None:
            raise errors.BadOutput(sentence)
        self._problems.append(sentence)
        return False

    # --- the test split ----------------------------------------------------------------------------------------------

    def _judge(self, runtime: Runtime, inputs: Inputs) -> None:
        """Answer the test split: accuracy, and how many answers differ from the reference's."""
        if self._order.dataset is None:
            return
        if why := inputs.unfit():
            self._notes.append(why)
            return
        self._refuse_overlap(inputs)
        if self._problems:
            return
        if self._order.task_type == "classification":
            self._classify(runtime, inputs)
        else:
            self._detect(runtime, inputs)
        if self._accuracy is not None:
            self._finite = True  # every answer was looked at; where that is all, nothing else has said so
        wanted = len(inputs.asked.samples)
        if inputs.asked.total > wanted:
            self._notes.append(f"Of {inputs.asked.total:,} images of the test split {wanted:,} were drawn and asked.")
        if self._checked < wanted:
            self._notes.append(
                f"After {self._order.seconds:g} s {self._checked:,} of {wanted:,} images were answered; the rest was "
                "left out."
            )

    def _refuse_overlap(self, inputs: Inputs) -> None:
        from benchmarker.testsplit import overlap

        if self._order.precision != "int8" or self._order.dataset is None:
            return
        calibration = inputs.calibration()
        if calibration is None:
            self._notes.append("It is not recorded which images it was calibrated with.")
            return
        seen, near = overlap(calibration, inputs.asked.samples, Path(self._order.dataset.pack))
        if seen:
            names = ", ".join(seen[:NAMED]) + (" and others" if len(seen) > NAMED else "")
            self._problems.append(
                f"Its calibration overlaps the test split: {len(seen)} of {len(inputs.asked.samples)} test images "
                f"were calibrated with ({names}). Its accuracy would flatter it; take them out of the part `train`."
            )
        elif near:
            self._notes.append(f"{near} images of the test split look like one of those it was calibrated with")

    def _tell(self, done: int, inputs: Inputs) -> None:
        self._report({"done": done, "total": len(inputs.asked.samples)})

    def _classify(self, runtime: Runtime, inputs: Inputs) -> None:
        import numpy as np

        from benchmarker.testsplit import best_classes, top_accuracy

        name = self._order.description.outputs[0].name
        parts = []
        for feeds, _ in inputs.batches(self._order.seconds):
            output = runtime.infer(feeds)[name]
            if not self._check_finite([output], "on images of the test split"):
                return
            parts.append(best_classes(output))
            self._tell(sum(map(len, parts)), inputs)
        best = np.concatenate(parts)
        self._answers["best"] = best
        if self._before is not None:
            before = self._before["best"]
            best = best[: len(before)]
            self._flips = int((best[:, 0] != before[: len(best), 0]).sum())
        self._checked = len(best)
        self._accuracy = top_accuracy(best, inputs.wanted_classes(len(best)))

    def _detect(self, runtime: Runtime, inputs: Inputs) -> None:
        import numpy as np

        from benchmarker.testsplit import map_accuracy, other_boxes
        from shared.vision import mean_ap

        contract = self._order.description.preprocessing
        assert contract is not None and contract.detection is not None  # `unfit` says so otherwise
        rules, size = contract.detection, (contract.resize.width, contract.resize.height)
        name = self._order.description.outputs[0].name
        found: list[npt.NDArray[np.float32]] = []
        for feeds, places in inputs.batches(self._order.seconds):
            output = runtime.infer(feeds)[name]
            if not self._check_finite([output], "on images of the test split"):
                return
            found += mean_ap.answers(output, rules, size, places)
            self._tell(len(found), inputs)
        self._answers["boxes"] = np.concatenate(found)
        self._answers["counts"] = np.array([len(rows) for rows in found])
        before = None
        if self._before is not None:
            before = np.split(self._before["boxes"], np.cumsum(self._before["counts"])[:-1])
            count = min(len(found), len(before))
            found, before = found[:count], before[:count]
            self._flips = sum(other_boxes(one, other, rules) for one, other in zip(found, before, strict=True))
        self._checked = len(found)
        known = [inputs.renamed(rows) for rows in found]
        self._accuracy = map_accuracy(
            inputs.asked.truths(len(found)),
            known,
            None if before is None else [inputs.renamed(rows) for rows in before],
            self._order.seed,
        )

    # --- golden samples ----------------------------------------------------------------------------------------------

    def _remember(self, runtime: Runtime, inputs: Inputs) -> None:
        """Write the golden samples."""
        from shared import golden

        if self._order.golden is None:
            return
        feeds = inputs.real(self._order.batches[0])
        if runtime.splits:
            answer = sum(array.nbytes for array in (*feeds.values(), *runtime.infer(feeds).values()))
            row = max(1, answer // self._order.batches[0])
            feeds = inputs.real(max(1, min(golden.MOST_SAMPLES, golden.MOST_BYTES // row)))
        source: Literal["test split", "synthetic"] = "test split" if inputs.source == "real" else "synthetic"
        content = golden.write(self._order.engine, self._order.precision, source, feeds, runtime.infer(feeds))
        with os.fdopen(os.dup(self._order.golden), "wb") as file:
            file.write(content)


if __name__ == "__main__":
    child.main(ExamineOrder, enclosed)
