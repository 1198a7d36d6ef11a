"""Makes models better: the training of networks, and the genetic search for hyper-parameters.

What the trainer and its child say to each other lives here, so that a parent imports nothing heavy.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from shared.specs import (
    Architecture,
    ConversionFacts,
    EngineName,
    ModelDescription,
    Preprocessing,
    TrainingResult,
    TrainingSpec,
)

CHECKPOINT = "checkpoint.safetensors"
"""In the folder of a training, from its first epoch on: always whole, of the last epoch that was finished."""


class TrainOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A network to train. The answer is a `Trained`; on the way come `Progress` bodies.

    Killed at any moment and ordered again with the same `folder`, it goes on after the last finished epoch.
    """

    spec: TrainingSpec
    weights: str
    """Path of the weights to start from (`shared.nets.weights.state_bytes`)."""
    labels: list[str] | None
    """Of the model; its head is kept where they are the dataset's classes."""
    preprocessing: Preprocessing | None
    """The model's contract; None for that of its architecture."""
    index: str
    pack: str
    """Paths of the dataset's files."""
    folder: str
    """Path of a folder of this training alone, which outlives its attempts; its parent removes it at the end."""
    outputs: dict[Literal["onnx", "weights"], int] = {}
    """Descriptors that get the trained model; without them there are only figures, as for a trial of a search."""
    until_epoch: int | None = None
    """End after this epoch, with a checkpoint from which an order without it, or with a later one, goes on. The
    schedule stays that of `spec.max_epochs`."""
    threads: int | None = None
    """Of the processor; None: a core each. A training that goes on keeps what it began with."""
    gpu_memory_mb: int | None = None
    """Most of the GPU's memory that it may take; None: all there is."""


class LatencyOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A network to export at some image sizes and to time on an engine, in FP32, one image a call. The answer is a
    `shared.trials.Latencies`; on the way come `Progress` bodies with `stage` and `fraction`.
    """

    training: TrainOrder
    """Whose network it is; nothing is trained, and its folder is for what is exported."""
    image_sizes: tuple[int, ...]
    engine: EngineName
    threads: int | None = None
    """Of the engine; None: a core each."""


class Trained(msgspec.Struct, frozen=True, kw_only=True):
    """A finished training; or the figures so far, where `until_epoch` ended it."""

    result: TrainingResult
    architecture: Architecture
    preprocessing: Preprocessing
    finished: bool
    """Whether no epoch is left: all are done, or it stopped early."""
    facts: ConversionFacts | None
    """How the weights became ONNX; None without `outputs`, as is the next."""
    description: ModelDescription | None
    """As the preparer describes the same file when it is uploaded."""
