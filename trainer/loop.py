"""One epoch of learning, and what the network makes of images it did not learn from.

Mixed precision on a GPU, full precision on a processor. Where memory runs out, batches are halved once and their
gradients added up. All that is random here, dropout, is drawn from the seed and the epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from shared import errors, nets
from shared.nets.architectures import tensors
from shared.specs import HyperParameters, Optimizer
from trainer.batches import Batch
from trainer.judging import Judge, Judgement, Loss
from trainer.network import decay_groups

MOMENTUM = 0.9
CLIP_NORM = 5.0
"""Largest norm of all gradients together; a step that would be larger is made that long."""
WARMUP_SHARE, MOST_WARMUP = 0.05, 1000
"""Of all steps, and in steps."""
FINAL_SHARE = 0.01
"""Of the learning rate, at the last step."""
CHECK_STEPS = 16
"""On a GPU, whose results are asked for only so often: to ask is to wait for it."""
HALVES = 2
LEAST_HALVED = 4
"""A batch of fewer is not halved: a normalisation needs two images."""

RATES: dict[Optimizer, float] = {"sgd": 0.05, "adam": 1e-3, "adamw": 1e-3}
DECAYS: dict[Optimizer, float] = {"sgd": 5e-4, "adam": 5e-4, "adamw": 1e-2}

Stop = Callable[[], bool]
Tell = Callable[[int, float], None]


class Stopped(Exception):
    """Somebody wished the training to end, between two batches."""


class Learned(NamedTuple):
    """What an epoch's batches gave while the weights changed."""

    loss: float
    accuracy: float | None
    """Share of right answers, where the task has one."""
    learning_rate: float


def rate_share(step: int, steps: int) -> float:
    """The learning rate at a step, from 0, as a share of the highest: up in a line, down along a cosine.

    (Loshchilov and Hutter, SGDR, 2017; Goyal et al., Accurate, Large Minibatch SGD, 2017.)
    """
    warmup = min(MOST_WARMUP, int(WARMUP_SHARE * steps))
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    return FINAL_SHARE + (1 - FINAL_SHARE) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def optimizer_for(module: nn.Module, wanted: HyperParameters) -> torch.optim.Optimizer:
    """The optimizer of a network whose frozen parts are frozen already; `wanted` leaves nothing open."""
    assert wanted.learning_rate is not None and wanted.weight_decay is not None
    groups = decay_groups(module, wanted.weight_decay)
    common: dict[str, Any] = {"lr": wanted.learning_rate, "fused": True}
    if wanted.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=MOMENTUM, nesterov=True, **common)
    kind = torch.optim.AdamW if wanted.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, **common)


class Learner:
    """A network, its optimizer, and how far they are. For one thread.

    Args:
        module: On its device already.
        loss: What it learns to make small.
        frozen: Parts of it that keep their weights.
        wanted: Nothing left open.
        steps_per_epoch: As many batches as `epoch` will be given.
        max_epochs: Of the whole training, whose schedule this is.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        frozen: list[nn.Module],
        wanted: HyperParameters,
        *,
        steps_per_epoch: int,
        max_epochs: int,
    ) -> None:
        assert wanted.learning_rate is not None
        self.module, self._loss, self._frozen = module, loss, frozen
        self._steps_per_epoch, self._steps = steps_per_epoch, steps_per_epoch * max_epochs
        self._rate = wanted.learning_rate
        self.optimizer = optimizer_for(module, wanted)
        self.device = next(module.parameters()).device
        self.halved = False
        """Whether memory ran out once."""
        on_gpu = self.device.type == "cuda"
        half = torch.bfloat16 if on_gpu and torch.cuda.is_bf16_supported() else torch.float16
        self._autocast = torch.autocast(self.device.type, dtype=half, enabled=on_gpu)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=on_gpu and half == torch.float16)
        self._check_steps = CHECK_STEPS if on_gpu else 1

    def epoch(self, batches: Iterable[Batch], epoch: int, seed: int, stop: Stop, tell: Tell) -> Learned:
        """Learn from every batch once.

        Args:
            batches: In order.
            epoch: From 1; with `seed` it says all there is to chance.
            seed: Of the training.
            stop: Asked between two batches.
            tell: Called with the images so far and their mean loss, where that is known.

        Raises:
            Stopped: `stop` said so; the weights are between two epochs.
            errors.InvalidInput: The loss is no number any more.
            errors.TooLarge: Memory ran out, with halved batches as well.
        """
        torch.manual_seed(seed * 1_000_003 + epoch)  # of dropout; an epoch begins alike after any interruption
        self.module.train()
        for part in self._frozen:
            part.eval()
        done, sums = 0, torch.zeros(2, dtype=torch.float64, device=self.device)
        unchecked: list[Tensor] = []
        for index, batch in enumerate(batches):
            if stop():
                raise Stopped
            self._set_rate((epoch - 1) * self._steps_per_epoch + index)
            found = self._step(batch)
            done += len(batch.places)
            sums += found * len(batch.places)
            unchecked.append(found[0])
            if len(unchecked) >= self._check_steps:
                self._check(unchecked, epoch, index + 1)
                unchecked = []
                tell(done, float(sums[0]) / done)
        self._check(unchecked, epoch, self._steps_per_epoch)
        loss, right = (sums / done).tolist()
        return Learned(loss, None if math.isnan(right) else right, self.optimizer.param_groups[0]["lr"])

    def _set_rate(self, step: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate * rate_share(step, self._steps)

    def _step(self, batch: Batch) -> Tensor:
        """One step; the mean loss of the batch and its share of right answers (NaN: the task has none), `[2]`."""
        images, targets = self._moved(batch)
        pieces = HALVES if self.halved and len(targets) >= LEAST_HALVED else 1
        try:
            return self._learned(images, targets, pieces)
        except MemoryError as error:
            if self.halved or len(targets) < LEAST_HALVED:
                raise errors.TooLarge(
                    f"The network needs more memory than there is, with batches of {-(-len(targets) // pieces)} images "
                    "as well. Order with a smaller batch_size, or a smaller model."
                ) from error
        self.halved = True
        self.optimizer.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return self._step(batch)

    def _learned(self, images: Tensor, targets: Tensor, pieces: int) -> Tensor:
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        with nets.allocations():
            for part, wanted in zip(images.chunk(pieces), targets.chunk(pieces), strict=True):
                share = len(wanted) / len(targets)
                with self._autocast:
                    outputs = tensors(self.module(part))
                loss, right = self._loss(outputs, wanted)
                self.scaler.scale(loss * share).backward()
                known = torch.full_like(loss, math.nan) if right is None else right
                total += torch.stack([loss.detach().double(), known.double()]) * share
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.module.parameters(), CLIP_NORM)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad()
        return total

    def _check(self, losses: list[Tensor], epoch: int, last: int) -> None:
        """Refuse to go on with what is no number; `last` is the step of the last of them, from 1."""
        finite = torch.stack(losses).isfinite().tolist() if losses else []
        if all(finite):
            return
        step = last - len(finite) + finite.index(False) + 1
        rate = self.optimizer.param_groups[0]["lr"]
        raise errors.InvalidInput(
            f"The loss was no number any more (NaN or infinite) in epoch {epoch}, step {step}, at a learning rate of "
            f"{rate:.3g}. Order with a lower learning_rate."
        )

    def evaluate(self, batches: Iterable[Batch], judge: Judge, stop: Stop) -> Judgement:
        """What the network's answers to all these images are worth, in full precision, as it is served.

        Raises:
            Stopped: `stop` said so.
        """
        self.module.eval()
        with torch.inference_mode(), nets.allocations():
            for batch in batches:
                if stop():
                    raise Stopped
                judge.hear(self.module, *self._moved(batch), batch.places)
        return judge.judgement()

    def _moved(self, batch: Batch) -> tuple[Tensor, Tensor]:
        images, targets = torch.from_numpy(batch.images), torch.from_numpy(batch.targets)
        if self.device.type == "cuda":
            images, targets = images.pin_memory(), targets.pin_memory()
        images = images.to(self.device, non_blocking=True).to(memory_format=torch.channels_last)
        return images, targets.to(self.device, non_blocking=True)
