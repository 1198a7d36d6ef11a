"""The CPU lane: checks and describes what users upload.

What the preparer and its child say to each other lives here, so that the parent imports nothing heavy.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from shared.specs import Preprocessing, Task

DatasetFile = Literal["index", "pack", "sheet"]


class DescribeOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A file to look at, and what its owner said about it. The answer is a `shared.specs.ModelDescription`."""

    path: str
    task_type: Task
    preprocessing: Preprocessing | None
    labels: list[str] | None
    input_shape: tuple[int, ...] | None = None
    """Of the first input, batch included; settles axes the graph leaves open."""


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
    outputs: dict[Literal["onnx"], int]
    """Descriptors the child inherits and writes into."""
    input_shape: tuple[int, ...] | None = None
    """Of the first input, batch included and axes in the source's order; settles axes the model leaves open."""


class Conversion(msgspec.Struct, frozen=True, kw_only=True):
    """How a conversion went, and how far its result is from the source."""

    exporter: str
    """Programs and their versions."""
    source: str
    """What the file turned out to be, in words."""
    opset: int
    """As written in the ONNX file."""
    dynamic_batch: bool
    max_abs_diff: dict[int, float]
    """Largest difference of any output by batch size, on seeded input."""
    seconds: float
    """Of the child's work, loading its libraries included."""
    peak_memory_mb: float
    """Resident."""
