"""A whole training: epoch after epoch, a checkpoint after each, the best weights kept, and what came of it.

On a processor it repeats bit by bit: the order of the images, their variations and all that is drawn follow from the
seed and the epoch, and the number of threads is kept. So one that was killed and goes on from its checkpoint ends with
the weights it would have ended with.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch

from shared import child, config, errors, nets
from shared.specs import EpochFigures, Task, TrainingResult
from trainer import Trained, TrainOrder, checkpoint, classification, detection, network, outcome, sampling, terms
from trainer.batches import Images, Loader, draws_of, workers_for
from trainer.checkpoint import Checkpoint, Progress, State, Unfit
from trainer.judging import Judgement, Loss, NewJudge
from trainer.loop import Learner, Stop, Tell
from trainer.scenes import Scenes
from trainer.terms import Terms

REPORT_S = 0.5
RECENT = 5
"""Epochs whose seconds say how long the others will take."""
LIBRARIES = ("torch", "torchvision", "timm", "pillow", "numpy")
"""Of whose versions the weights are a function."""
ENDING = 0.99
"""Of its progress, once all epochs are done: judging, exporting and writing the model are still to come."""
HALVED = "Memory ran out, so every batch was halved and the gradients were added up; normalisations saw halves."
OTHER_VERSIONS = "It went on with other versions of its libraries than it began with; weights may differ by that."


class Learning(NamedTuple):
    """What is different from task to task."""

    images: type[Images]
    loss: Loss
    judge: NewJudge


LEARNING: dict[Task, Learning] = {
    "classification": Learning(Images, classification.loss, classification.Judge),
    "detection": Learning(Scenes, detection.loss, detection.Judge),
}


TOO_LARGE = (
    "The training needs more memory than a job may use. Order with a smaller batch_size, a smaller image_size, or a "
    "smaller model."
)


def never() -> bool:
    """Nobody wishes it to end."""
    return False


def train(order: TrainOrder, report: child.Report, stop: Stop = never) -> Trained:
    """Train in this process; `stop` is asked between batches.

    Progress bodies have `stage`, `fraction`, and from the first epoch on `epoch`, `max_epochs`, `loss` and, of the last
    epoch that was finished, `accuracy` on the part val; while it trains `eta_s`; after an epoch, when its checkpoint is
    safe, `figures` (an `EpochFigures`) and `checkpoint`, its number.

    Raises:
        errors.InvalidInput: The order, the model and the dataset do not fit, or the loss is no number any more.
        errors.BadDataset: The dataset's files are gone.
        errors.BadModel: The weights are gone or not ours, or what came out cannot be exported.
        errors.TooLarge: There is not enough memory.
        errors.Unavailable: The disk is full.
        loop.Stopped: `stop` said so.
    """
    size = order.spec.hyperparams.image_size
    at = "" if size is None else f", which is to take images of {size} x {size}"
    report({"stage": f"looking at the network{at}", "fraction": 0.0})
    try:
        with nets.allocations(), contextlib.closing(_Training(order, terms.of(order), report, stop)) as training:
            training.run()
            return training.finish()
    except MemoryError as error:
        raise errors.TooLarge(TOO_LARGE) from error


class _Training:
    """The state between two epochs."""

    def __init__(self, order: TrainOrder, known: Terms, report: child.Report, stop: Stop) -> None:
        self._order, self._terms, self._report, self._stop = order, known, report, stop
        self._max_epochs, self._seed = order.spec.max_epochs, order.spec.seed
        found, unfit = _found(Path(order.folder), known.key)
        threads = found.progress.threads if found else order.threads or config.cores()
        self._device = _settled(threads, order.gpu_memory_mb)
        self._module = known.start.net.module.to(self._device, memory_format=torch.channels_last)
        dropping = network.set_dropout(self._module, known.wanted.dropout_rate, known.start.heads)
        frozen, freezing = network.freeze(self._module, known.wanted.frozen_stages, known.start.heads)
        self._learning = LEARNING[known.dataset.task_type]
        self._learner = Learner(
            self._module,
            self._learning.loss,
            frozen,
            known.wanted,
            steps_per_epoch=len(sampling.batches(np.arange(len(known.parts.train)), known.wanted.batch_size)),
            max_epochs=self._max_epochs,
        )
        self._progress = Progress(
            key=known.key,
            epochs=[],
            best_epoch=0,
            threads=threads,
            halved=False,
            notes=[each for each in (*known.notes, dropping, freezing, unfit) if each],
            versions=_versions(),
        )
        self._best: State = {}
        if found:
            self._take_up(found)
        self._train = self._learning.images(Path(order.pack), known.parts.train, known.contract)
        self._val = self._learning.images(Path(order.pack), known.parts.val, known.contract)
        self._loader = Loader(workers_for(threads, self._device.type == "cuda"))

    def close(self) -> None:
        """End threads and let go of files."""
        self._loader.close()
        self._train.close()
        self._val.close()

    def _take_up(self, found: Checkpoint) -> None:
        """Go on from a checkpoint of this very training."""
        try:
            checkpoint.restore(found, self._module, self._learner.optimizer)
        except Unfit as error:  # its key fits, so its content was damaged
            raise errors.Unavailable(f"The checkpoint cannot be used: {error}. Order the training again.") from error
        versions = self._progress.versions
        self._progress, self._best = found.progress, found.best
        self._learner.halved = found.progress.halved
        if versions != found.progress.versions:
            self._progress = msgspec.structs.replace(self._progress, versions=versions)
            self._note(OTHER_VERSIONS)

    def _note(self, text: str) -> None:
        if text not in self._progress.notes:
            self._progress = msgspec.structs.replace(self._progress, notes=[*self._progress.notes, text])

    @property
    def _done(self) -> int:
        return len(self._progress.epochs)

    @property
    def _stopped_early(self) -> bool:
        patience = self._terms.wanted.patience
        assert patience is not None
        return self._done < self._max_epochs and self._done - self._progress.best_epoch >= patience

    @property
    def _finished(self) -> bool:
        return self._done >= self._max_epochs or self._stopped_early

    def run(self) -> None:
        """Epoch after epoch, from the last that was finished."""
        until = self._order.until_epoch or self._max_epochs
        while not self._finished and self._done < until:
            self._epoch(self._done + 1)

    def _epoch(self, epoch: int) -> None:
        began = time.monotonic()
        wanted = self._terms.wanted
        assert wanted.augmentation is not None
        order = sampling.epoch_order(self._train.labels, wanted.class_balance, self._seed, epoch)
        self._tell("training", epoch, epoch - 1, 0.0, {})
        draws = None if wanted.augmentation == "none" else draws_of(len(order), self._seed, epoch)
        pieces = sampling.batches(order, wanted.batch_size)
        loaded = self._loader.load(self._train, pieces, wanted.augmentation, draws)
        learned = self._learner.epoch(loaded, epoch, self._seed, self._stop, self._teller(epoch, began))
        self._tell("validating", epoch, epoch, time.monotonic() - began, {"loss": round(learned.loss, 6)})
        judgement = self._judged()
        if not np.isfinite(judgement.losses).all():
            raise errors.InvalidInput(
                f"After epoch {epoch} the network answers validation images with NaN or infinity, at a learning rate "
                f"of {learned.learning_rate:.3g}. Order with a lower learning_rate."
            )
        figures = EpochFigures(
            epoch=epoch,
            loss=round(learned.loss, 6),
            accuracy=_rounded(learned.accuracy),
            val_loss=round(judgement.loss, 6),
            val_accuracy=round(judgement.accuracy, 6),
            val_map50=_rounded(judgement.map50),
            learning_rate=learned.learning_rate,
            seconds=round(time.monotonic() - began, 3),
        )
        self._keep(figures)
        checkpoint.write(Path(self._order.folder), self._progress, self._module, self._best, self._learner.optimizer)
        self._tell("training", epoch, epoch, 0.0, {"checkpoint": epoch, "figures": msgspec.to_builtins(figures)})

    def _keep(self, figures: EpochFigures) -> None:
        """Remember the epoch, and its weights where it is the best so far."""
        known = self._progress.epochs
        best = known[self._progress.best_epoch - 1] if known else None
        better = best is None or (figures.val_accuracy, -figures.val_loss) > (best.val_accuracy, -best.val_loss)
        if better:
            self._best = {name: value.detach().cpu().clone() for name, value in self._module.state_dict().items()}
        if self._learner.halved:
            self._note(HALVED)
        self._progress = msgspec.structs.replace(
            self._progress,
            epochs=[*known, figures],
            best_epoch=figures.epoch if better else self._progress.best_epoch,
            halved=self._learner.halved,
        )

    def _judged(self) -> Judgement:
        size = self._terms.wanted.batch_size * (1 if self._learner.halved else 2)
        places = sampling.batches(np.arange(len(self._val)), size)
        judge = self._learning.judge(self._val.samples, self._terms.contract)
        return self._learner.evaluate(self._loader.load(self._val, places), judge, self._stop)

    def _teller(self, epoch: int, began: float) -> Tell:
        """Tells how far the epoch is, now and then."""
        told = time.monotonic()

        def tell(done: int, loss: float) -> None:
            nonlocal told
            now = time.monotonic()
            if now - told < REPORT_S:
                return
            told, running_s = now, now - began
            facts = {"loss": round(loss, 6), "images_per_s": round(done / running_s, 1)}
            self._tell("training", epoch, epoch - 1 + done / len(self._train), running_s, facts)

        return tell

    def _tell(self, stage: str, epoch: int, passed: float, running_s: float, facts: Mapping[str, object]) -> None:
        """Report; `passed` are epochs, `running_s` what of them is not in the figures yet took."""
        recent = [each.seconds for each in self._progress.epochs[-RECENT:]]
        each_s = sum(recent) / len(recent) if recent else running_s / passed if passed else None
        body = {**self._so_far, "stage": stage, "epoch": epoch}
        ahead = {
            "fraction": round(min(ENDING, passed / self._max_epochs), 4),
            "eta_s": None if each_s is None else round(each_s * (self._max_epochs - passed), 1),
        }
        self._report({**body, **ahead, **facts})

    def _say(self, stage: str) -> None:
        """Report what comes after the last epoch."""
        self._report({**self._so_far, "stage": stage, "fraction": ENDING})

    @property
    def _so_far(self) -> dict[str, object]:
        """What every body says: the figures of the last epoch that was finished."""
        known = self._progress.epochs
        body: dict[str, object] = {"epoch": len(known), "max_epochs": self._max_epochs}
        if not known:
            return body
        map50 = {} if known[-1].val_map50 is None else {"map50": known[-1].val_map50}
        return body | {"loss": known[-1].loss, "accuracy": known[-1].val_accuracy} | map50

    def finish(self) -> Trained:
        """The figures of the best epoch, and the model where one is wanted."""
        self._say("judging the best epoch")
        self._module.load_state_dict(self._best)
        result = self._result(self._judged())
        facts = description = None
        if self._order.outputs:
            source = f"epoch {self._progress.best_epoch} of a training"
            facts, description = outcome.write(self._terms, self._best, source, self._order.outputs, self._say)
        architecture = self._terms.start.net.architecture
        assert architecture is not None
        return Trained(
            result=result,
            architecture=architecture,
            preprocessing=self._terms.contract,
            finished=self._finished,
            facts=facts,
            description=description,
        )

    def _result(self, judgement: Judgement) -> TrainingResult:
        progress = self._progress
        best = progress.epochs[progress.best_epoch - 1]
        duration_s = math.fsum(each.seconds for each in progress.epochs)
        on_gpu = self._device.type == "cuda"
        return TrainingResult(
            classes=self._terms.dataset.classes,
            epochs=progress.epochs,
            best_epoch=progress.best_epoch,
            final_accuracy=best.val_accuracy,
            final_loss=best.val_loss,
            final_map50=best.val_map50,
            confusion=judgement.confusion,
            worst=judgement.worst,
            hyperparams=self._terms.wanted,
            seed=self._seed,
            num_train=len(self._train),
            num_val=len(self._val),
            stopped_early=self._stopped_early,
            duration_s=round(duration_s, 3),
            images_per_s=round(len(self._train) * self._done / max(1e-9, duration_s), 1),
            device=torch.cuda.get_device_name(self._device) if on_gpu else "CPU",
            threads=progress.threads,
            versions=progress.versions,
            notes=progress.notes,
        )


def _found(folder: Path, key: str) -> tuple[Checkpoint | None, str | None]:
    """The checkpoint to go on from, if any, or why the one there is was not used."""
    try:
        return checkpoint.read(folder, key), None
    except Unfit as error:
        return None, f"A checkpoint was found and not used, for {error}; the training began anew."


def _settled(threads: int, gpu_memory_mb: int | None) -> torch.device:
    """PyTorch made ready: on the GPU where there is one, otherwise so that everything repeats."""
    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        if gpu_memory_mb is not None:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, gpu_memory_mb * 2**20 / total), 0)
        torch.backends.cudnn.benchmark = True
        return torch.device("cuda", 0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    return torch.device("cpu")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in LIBRARIES}
