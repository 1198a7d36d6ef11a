"""What a training needs to go on as if nothing had happened, after each epoch, in one file that is always whole.

Tensors and JSON in the safetensors format: reading it runs nothing. There is no state of random numbers in it, for
every epoch draws its own from the seed and its number.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from shared import artifacts, errors
from shared.specs import EpochFigures
from trainer import CHECKPOINT

HEADER = "cvp.checkpoint"
NET, BEST, OPTIMIZER = "net/", "best/", "optimizer/"
"""Beginnings of the tensors' names."""

State = dict[str, Tensor]


class Unfit(Exception):
    """A checkpoint cannot be used; the message says why."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a training is, beside its weights."""

    key: str
    """Of what it belongs to: a checkpoint of anything else is refused."""
    epochs: list[EpochFigures]
    best_epoch: int
    threads: int
    halved: bool
    notes: list[str]
    versions: dict[str, str]


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint in memory."""

    progress: Progress
    net: State
    best: State
    optimizer: State


def write(folder: Path, progress: Progress, net: nn.Module, best: State, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint in the place of the one before, at once and for good.

    Raises:
        errors.Unavailable: The disk is full or cannot be written; the one before is still there.
    """
    content = {NET + name: value for name, value in net.state_dict().items()}
    content |= {BEST + name: value for name, value in best.items()}
    content |= {OPTIMIZER + name: value for name, value in _states(net, optimizer)}
    held = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in content.items()}
    fresh = folder / f"{CHECKPOINT}.fresh"
    try:
        safetensors.torch.save_file(held, fresh, {HEADER: msgspec.json.encode(progress).decode()})
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.rename(folder / CHECKPOINT)
        artifacts.sync_folder(folder)
    except (OSError, safetensors.SafetensorError) as error:
        fresh.unlink(missing_ok=True)
        raise errors.Unavailable(
            f"The checkpoint cannot be written ({error}). Free some space, or see `cvp doctor`; the training goes on "
            "from the epoch before.",
            retry_after_s=60,
        ) from error


def read(folder: Path, key: str) -> Checkpoint | None:
    """The checkpoint in a folder; None where there is none yet.

    Raises:
        Unfit: It is of something else, or damaged.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            progress = msgspec.json.decode((file.metadata() or {}).get(HEADER, ""), type=Progress)
            content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
    except (OSError, safetensors.SafetensorError, msgspec.MsgspecError) as error:
        raise Unfit(f"it cannot be read ({error})") from error
    if progress.key != key:
        raise Unfit("it is of another order, model or dataset")
    net, best, optimizer = (
        {name.removeprefix(start): value for name, value in content.items() if name.startswith(start)}
        for start in (NET, BEST, OPTIMIZER)
    )
    return Checkpoint(progress=progress, net=net, best=best, optimizer=optimizer)


def restore(found: Checkpoint, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put weights and the optimizer's state where they were, in the memory layout they would have had.

    Raises:
        Unfit: They are not this network's or this optimizer's; both are as they were.
    """
    own = net.state_dict()
    parameters = _learning(net, optimizer)
    _check(found, own, parameters)
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(found.net[name])
    for name, stored in found.optimizer.items():
        owner, _, kind = name.rpartition("/")
        parameter = parameters[owner]
        if stored.ndim:
            value = torch.empty_like(parameter, dtype=stored.dtype).copy_(stored)
        else:
            value = stored.to(parameter.device)
        optimizer.state[parameter][kind] = value


def _check(found: Checkpoint, own: State, parameters: dict[str, nn.Parameter]) -> None:
    for part in (found.net, found.best):
        if {name: value.shape for name, value in part.items()} != {name: value.shape for name, value in own.items()}:
            raise Unfit("its weights are another network's")
    for name, stored in found.optimizer.items():
        parameter = parameters.get(name.rpartition("/")[0])
        if parameter is None or (stored.ndim and stored.shape != parameter.shape):
            raise Unfit("it has the state of another optimizer")


def _states(net: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in _learning(net, optimizer).items():
        for kind, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                yield f"{name}/{kind}", value


def _learning(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    held = {id(each) for group in optimizer.param_groups for each in group["params"]}
    return {name: value for name, value in net.named_parameters() if id(value) in held}
