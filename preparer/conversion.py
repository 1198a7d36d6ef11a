"""Makes an upload ready: has it converted where it is not ONNX, then described, each in a child of its own.

This process opens no file of a user. It starts the children that do, one after the other, and bounds them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from preparer import Conversion, ConversionOrder, Converted, ConvertOrder, DescribeOrder, pretrained
from shared import child, config, errors, nets
from shared.artifacts import ArtifactStore
from shared.specs import SEEDED, Architecture, Framework, ModelDescription, Preprocessing, Preset

MB = 1024 * 1024


class Bounds(NamedTuple):
    """What a child may take: so much, and so much more for each MB of its file."""

    seconds: float
    seconds_per_mb: float
    memory_mb: int
    memory_per_mb: int
    written_per_mb: int
    """Largest file it may write."""


BOUNDS: dict[Framework, Bounds] = {
    "onnx": Bounds(60, 0.5, 4096, 6, 1),
    "pytorch": Bounds(180, 1, 8192, 16, 4),
    "tensorflow": Bounds(180, 1, 8192, 16, 4),
}
"""ONNX: a gigabyte takes some 15 s; it is held as file bytes, parsed graph, checked copy, engine weights and their
packed form. The others load in 4 to 8 s, hold source and result beside each other, and weights may double when they
become float32."""
THREADS = 4
"""Processor seconds a second: that many threads a conversion may keep busy."""
SMALLEST_MB = 16
"""A description writes that much beyond its source; so may a conversion of next to nothing."""

FITTED = (
    "No `architecture` was given; by the names and shapes of its weights the file was taken for {}. Upload it with "
    "`architecture` if it is another network."
)
NICENESS = 10
"""Of what prepares presets: others get ten times its processor time when there is not enough."""
BYTES_PER_WEIGHT = 4

Answer = TypeVar("Answer")


def convert(order: ConvertOrder, report: child.Report) -> Converted:
    """Convert where it takes that, and describe.

    Raises:
        errors.AppError: The file is refused; the message says why and what to do.
        errors.Unavailable: Something outside ended a child; another try may succeed.
    """
    if order.preset is not None:
        return _prepared(order, order.preset, report)
    if order.framework == "onnx":
        return Converted(description=_described(order, order.path, None, report), conversion=None)
    conversion = _converted(order, report)
    report({"stage": "describing the ONNX model"})
    description = _described(order, order.converted, conversion, report)
    if order.architecture is None and conversion.architecture is not None:
        note = FITTED.format(conversion.architecture.name)
        description = msgspec.structs.replace(description, notes=[note, *description.notes])
    return Converted(description=description, conversion=conversion)


def _prepared(order: ConvertOrder, preset: Preset, report: child.Report) -> Converted:
    """A preset, out of pretrained weights or, where those are not to be had, a seeded initialisation."""
    os.nice(NICENESS)
    if lacks := nets.missing("start again (`cvp restart gateway`)"):
        raise errors.BadModel(lacks)
    path, weights = _weights(order, preset, report)
    asked = ConversionOrder(
        path=order.path if path is None else str(path),
        seed=preset.seed if path is None else None,
        published=path is not None,
        outputs={"onnx": order.outputs["converted"], "weights": order.outputs["weights"]},
        task_type=order.task_type,
        preprocessing=order.preprocessing,
        architecture=preset.architecture.name,
        num_classes=preset.architecture.num_classes,
    )
    made = _run("preparer.from_pytorch", asked, Conversion, order=order, bounds=BOUNDS["pytorch"], report=report)
    made = msgspec.structs.replace(made, facts=msgspec.structs.replace(made.facts, source=weights))
    report({"stage": "describing the ONNX model"})
    description = _described(order, order.converted, made, report)
    notes = [f"Weights: {weights}.", *description.notes]
    return Converted(description=msgspec.structs.replace(description, notes=notes), conversion=made)


def _weights(order: ConvertOrder, preset: Preset, report: child.Report) -> tuple[Path | None, str]:
    """The file with pretrained weights, if it is to be had, and in words which weights the preset gets."""
    seeded = f"{SEEDED} (seed {preset.seed}), nothing learned"
    if preset.pretrained is None:
        return None, seeded
    if order.pretrained is None:
        return None, f"{seeded}; pretrained ones were not fetched: PRESET_WEIGHTS is off"
    try:
        found = pretrained.fetch(preset.pretrained, ArtifactStore(Path(order.pretrained)), report)
    except pretrained.NotFetched as reason:
        return None, f"{seeded}; pretrained ones could not be fetched: {reason}"
    return found, preset.pretrained.name


def _converted(order: ConvertOrder, report: child.Report) -> Conversion:
    asked = ConversionOrder(
        path=order.path,
        outputs={"onnx": order.outputs["converted"], "weights": order.outputs["weights"]},
        input_shape=order.input_shape,
        task_type=order.task_type,
        preprocessing=order.preprocessing,
        architecture=order.architecture,
        num_classes=len(order.labels) if order.labels else None,
    )
    python = None
    if order.framework == "tensorflow":
        python = config.tensorflow_python()
        if python is None:
            raise errors.BadModel(config.NO_TENSORFLOW)
    elif lacks := nets.missing():
        raise errors.BadModel(lacks)
    module = f"preparer.from_{order.framework}"
    return _run(module, asked, Conversion, order=order, bounds=BOUNDS[order.framework], report=report, python=python)


def _described(order: ConvertOrder, path: str, conversion: Conversion | None, report: child.Report) -> ModelDescription:
    """What its owner said goes before what the source says."""
    architecture = conversion.architecture if conversion else None
    asked = DescribeOrder(
        path=path,
        task_type=order.task_type,
        preprocessing=order.preprocessing or (_contract(architecture, order.input_shape) if architecture else None),
        labels=order.labels or (conversion.labels if conversion else None),
        input_shape=None if order.framework == "pytorch" else order.input_shape,
        outputs={"onnx": order.outputs["onnx"]},
    )
    return _run("preparer.enclosed", asked, ModelDescription, order=order, bounds=BOUNDS["onnx"], report=report)


def _contract(architecture: Architecture, input_shape: tuple[int, ...] | None) -> Preprocessing:
    """The contract of an architecture, for images of the size that was asked for."""
    contract = architecture.preprocessing
    if input_shape is None or input_shape[1:] == architecture.input_shape:
        return contract
    _, _, height, width = input_shape if len(input_shape) == 4 else (0, *architecture.input_shape)
    resize = msgspec.structs.replace(contract.resize, height=height, width=width, scale_to=None)
    return msgspec.structs.replace(contract, resize=resize)


def _run(
    module: str,
    asked: ConversionOrder | DescribeOrder,
    answer: type[Answer],
    *,
    order: ConvertOrder,
    bounds: Bounds,
    report: child.Report,
    python: Path | None = None,
) -> Answer:
    size_mb = Path(asked.path).stat().st_size // MB
    seconds = min(order.max_runtime_s, bounds.seconds + bounds.seconds_per_mb * size_mb)
    if order.preset is not None:  # its weights may come from no file, and it stands back on a busy machine
        size_mb, seconds = order.preset.parameters * BYTES_PER_WEIGHT // MB, order.max_runtime_s
    limits = child.Limits(
        wall_s=seconds,
        cpu_s=int(seconds * THREADS),
        memory_mb=bounds.memory_mb + bounds.memory_per_mb * size_mb,
        file_mb=SMALLEST_MB + bounds.written_per_mb * size_mb,
    )
    fds = list(order.outputs.values())
    try:
        return child.run(module, asked, answer, limits=limits, python=python, pass_fds=fds, on_progress=report)
    except child.ChildKilled as killed:
        raise errors.Unavailable(str(killed)) from killed
    except child.ChildDied as died:
        raise errors.BadModel(str(died)) from died


if __name__ == "__main__":
    child.main(ConvertOrder, convert)
