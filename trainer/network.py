"""The network that is to learn: its head for the dataset's classes, dropout, and what stays as it is."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from shared import errors, nets
from shared.nets import architectures, weights
from shared.nets.architectures import Net
from shared.nets.yolov8 import STRIDES
from shared.specs import DatasetIndex

COARSEST = STRIDES[-1]
PROBES = 2
"""Images that show whether a network takes a size: a normalisation needs two."""


class Start(NamedTuple):
    """Where a training starts from."""

    net: Net
    input_shape: tuple[int, ...]
    """Of one image."""
    heads: list[str]
    """Names of the weights that have a row a class."""
    notes: list[str]


def start(path: Path, labels: list[str] | None, index: DatasetIndex, seed: int) -> Start:
    """The network with the weights in a file and an output for each of the dataset's classes.

    Args:
        path: Weights as `weights.state_bytes` makes them.
        labels: What the model's outputs are called; its head is kept for the same classes in the same order, or as many
            where nobody has named them.
        index: The dataset.
        seed: Of a new head.

    Raises:
        errors.BadModel: The file is none of ours.
        errors.InvalidInput: It is for another task.
    """
    net, about = weights.kept(path)
    task, classes = index.task_type, index.classes
    if net.architecture is None or net.architecture.task != task:
        raise errors.InvalidInput(
            f"The dataset is for {task} and {about.architecture} is not; train it with a dataset of its own task."
        )
    heads = architectures.heads(about.architecture)
    same = labels == classes if labels is not None else about.num_classes == len(classes)
    if same:
        return Start(net, about.input_shape, heads, [])
    fresh = architectures.unscaled(about.architecture, len(classes), seed=seed)
    known = net.module.state_dict()
    for name, value in fresh.module.state_dict().items():
        if name not in heads and value.shape == known[name].shape:  # before its head a detector may be wider
            value.copy_(known[name])
    had = f"{about.num_classes} classes" if about.num_classes != len(classes) else "other classes"
    last = "its last layer begins" if task == "classification" else "the layers that tell classes apart begin"
    return Start(fresh, about.input_shape, heads, [f"The model had {had}: {last} anew, from the seed."])


def sized(known: Start, shape: tuple[int, ...]) -> Start:
    """The same network for images of another shape, where it can learn from such.

    Raises:
        errors.InvalidInput: It cannot; found out by passing some noise through a copy of it.
    """
    architecture = known.net.architecture
    assert architecture is not None
    if shape == known.input_shape:
        return known
    refused = f"{architecture.name} cannot be trained at image_size {shape[-1]}"
    if architecture.task == "detection" and any(side % COARSEST for side in shape[1:]):
        raise errors.InvalidInput(f"{refused}: it takes multiples of {COARSEST}.")
    probe = copy.deepcopy(known.net.module).train()
    try:
        with torch.no_grad(), nets.allocations(), torch.random.fork_rng(devices=[]):
            probe(torch.randn(PROBES, *shape))
    except MemoryError as error:
        raise errors.TooLarge(f"{refused}: there is not enough memory.") from error
    except Exception as error:  # networks refuse sizes in as many ways as there are networks
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise errors.InvalidInput(
            f"{refused} ({reason}). Order without image_size, or with another; it takes {known.input_shape[-1]}."
        ) from error
    return known._replace(input_shape=shape)


def set_dropout(module: nn.Module, rate: float | None, heads: Sequence[str]) -> str | None:
    """Have the network drop so many values in training: where it does already, otherwise before its last layer.

    Returns:
        What a reader should know.
    """
    if rate is None:
        return None
    active = [part for part in module.modules() if isinstance(part, nn.Dropout) and part.p > 0]
    for part in active:
        part.p = rate
    if active or not rate:
        return None

    def drop(layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (nn.functional.dropout(given[0], rate, layer.training), *given[1:])

    for name in sorted({head.rpartition(".")[0] for head in heads}):
        module.get_submodule(name).register_forward_pre_hook(drop)
    return "The network has no dropout of its own; dropout_rate acts before its last layer."


def freeze(module: nn.Module, count: int, heads: Sequence[str]) -> tuple[list[nn.Module], str | None]:
    """Let the first parts of a network keep their weights; its head learns in any case.

    Returns:
        Those parts, whose normalisations must stay in eval mode, and what a reader should know.
    """
    if not count:
        return [], None
    found = architectures.stages(module, heads)
    frozen = found[:count]
    for _, part in frozen:
        part.requires_grad_(False)
    names = ", ".join(name for name, _ in frozen)
    return [part for _, part in frozen], f"{len(frozen)} of {len(found)} stages keep their weights: {names}."


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """What learns, in two groups: weights that decay; biases, normalisations and what the network exempts do not."""
    exempt = module.no_weight_decay() if hasattr(module, "no_weight_decay") else ()
    learning = [(name, value) for name, value in module.named_parameters() if value.requires_grad]
    decaying = [value for name, value in learning if value.ndim > 1 and name not in exempt]
    others = [value for name, value in learning if value.ndim <= 1 or name in exempt]
    return [{"params": decaying, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
