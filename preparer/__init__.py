"""The CPU lane: checks and describes what users upload.

What the preparer and its child say to each other lives here, so that the parent imports nothing heavy.
"""

from __future__ import annotations

import os
from typing import Literal

import msgspec

from shared.specs import (
    Architecture,
    ConversionFacts,
    EngineName,
    Framework,
    ModelDescription,
    Precision,
    Preprocessing,
    Preset,
    Scores,
    Task,
    TensorInfo,
)

DatasetFile = Literal["index", "pack", "sheet"]


class DescribeOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A file to look at, and what its owner said about it. The answer is a `shared.specs.ModelDescription`."""

    path: str
    task_type: Task
    preprocessing: Preprocessing | None
    labels: list[str] | None
    input_shape: tuple[int, ...] | None = None
    """Of the first input, batch included; settles axes the graph leaves open."""
    outputs: dict[Literal["onnx"], int] = {}
    """`onnx`: gets the file with contract and labels in its metadata."""


class DatasetOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset to check and prepare. The answer is a `shared.specs.DatasetSummary`; the files go into `outputs`."""

    path: str
    """The upload: a ZIP, or a table of labels alone."""
    images_path: str | None = None
    """The ZIP that a table alone refers to."""
    name: str
    """Stands on the contact sheet."""
    task_type: Task
    split: tuple[int, int, int] | None
    seed: int
    frames_per_second: float
    outputs: dict[DatasetFile, int]
    """Descriptors to write to: `index` a `DatasetIndex` as MessagePack, `pack` the prepared copies, `sheet` a JPEG."""


class ConversionOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A file of another framework to make ONNX of. The answer is a `Conversion`."""

    path: str
    seed: int | None = None
    """The network gets initial weights of this seed, and nothing is read from the file."""
    published: bool = False
    """The weights are those that the architecture was published with, so its classes have their names."""
    outputs: dict[Literal["onnx", "weights"], int]
    """Descriptors the child inherits and writes into; `weights` gets those of a known network, as safetensors."""
    input_shape: tuple[int, ...] | None = None
    """Of the first input, batch included and axes in the source's order; settles axes the model leaves open."""
    task_type: Task = "classification"
    preprocessing: Preprocessing | None = None
    """What its owner says; without `input_shape` the size of its images is exported."""
    architecture: str | None = None
    """The network that PyTorch weights belong to."""
    num_classes: int | None = None


class Conversion(msgspec.Struct, frozen=True, kw_only=True):
    """How a conversion went, and what the file says about its network."""

    facts: ConversionFacts
    architecture: Architecture | None = None
    """Of weights that can be trained further."""
    labels: list[str] | None = None


class ConvertOrder(msgspec.Struct, frozen=True, kw_only=True):
    """An upload to make ready, whatever it is. The answer is a `Converted`."""

    path: str
    preset: Preset | None
    """What stands in the file, where it is the descriptor of a preset."""
    pretrained: str | None
    """The store of pretrained weights; None: they are not fetched."""
    framework: Framework
    task_type: Task
    architecture: str | None
    preprocessing: Preprocessing | None
    labels: list[str] | None
    input_shape: tuple[int, ...] | None
    outputs: dict[Literal["onnx", "converted", "weights"], int]
    """As staged: `onnx` the model to keep, `weights` as in `ConversionOrder`, `converted` what lies between."""
    converted: str
    """Where the file of `converted` lies; empty for ONNX, which needs none."""
    max_runtime_s: float


class Converted(msgspec.Struct, frozen=True, kw_only=True):
    """A model that can be served. `conversion` is None for ONNX."""

    description: ModelDescription
    conversion: Conversion | None


class ActivateOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment to try as the inference processes will run it. The answer is an `Activated`."""

    onnx: str
    """Path of the file that will serve."""
    golden: str | None
    """Path of the samples to replay."""
    model_id: str
    name: str
    task_type: Task
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    dynamic_batch: bool
    preprocessing: Preprocessing | None
    labels: list[str] | None
    scores: Scores
    engine: EngineName
    precision: Precision
    batch_size: int
    threads: int
    instances: int
    """Sessions of one process."""


class Activated(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment that can serve."""

    provider: str
    """What runs it, as the engine itself says."""
    fingerprint: str
    """Of the machine it was tried on."""
    notes: list[str]
    """How it was checked, one sentence each."""


def write(fd: int, content: bytes) -> None:
    """All of it, into a descriptor that was lent."""
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
