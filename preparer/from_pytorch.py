"""The child that makes ONNX of a PyTorch file. It shuts itself in before anything looks at the file."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from preparer import Conversion, ConversionOrder, write
from shared import child, errors, nets, sandbox
from shared.nets import kinds
from shared.specs import SEEDED

if TYPE_CHECKING:
    from shared.nets.architectures import Net


def convert(order: ConversionOrder, report: Callable[[dict[str, Any]], None]) -> Conversion:
    """Convert the file with nothing else in reach: ONNX and weights into `order.outputs`.

    Raises:
        errors.BadModel: The file is refused or cannot be converted; the message says why and what to do.
        errors.InvalidInput: There is no such architecture.
        errors.TooLarge: The weights do not fit a single ONNX file.
    """
    started = time.monotonic()
    path = Path(order.path)
    sandbox.enter([Path(__file__).parent, path])
    nets.settle()
    source = SEEDED if order.seed is not None else _source(path)
    report({"stage": "loading PyTorch"})
    from shared.nets import architectures, export, weights

    report({"stage": f"reading the {source}"})
    net = _network(order, path)
    _check_task(order, net)
    if net.architecture is not None:  # before the export, which holds as much again
        write(order.outputs["weights"], weights.state_bytes(net, _shape(order)))
    made = export.export(net, _shape(order), source=source, say=lambda doing: report({"stage": doing}))
    write(order.outputs["onnx"], made.onnx)
    seconds, stages = round(time.monotonic() - started, 3), architectures.stage_count(net)
    facts = msgspec.structs.replace(made.facts, seconds=seconds, stages=stages)
    return Conversion(facts=facts, architecture=net.architecture, labels=net.labels)


def _source(path: Path) -> str:
    """What the file is, in words; no PyTorch yet: what is no model at all is refused at once."""
    kind = kinds.kind_of(path)
    if kind not in kinds.PYTORCH:
        raise errors.BadModel(f"By its content this is a {kinds.IN_WORDS[kind]}, not a file of PyTorch.")
    return kinds.IN_WORDS[kind]


def _network(order: ConversionOrder, path: Path) -> Net:
    from shared.nets import architectures, weights

    if order.seed is not None and order.architecture is not None:
        return architectures.build(order.architecture, order.num_classes, seed=order.seed)
    net = weights.read(path, order.architecture, order.num_classes, enclosed=not sandbox.missing())
    if order.published and order.architecture is not None:
        net = net._replace(labels=architectures.published_labels(order.architecture))
    return net


def _check_task(order: ConversionOrder, net: Net) -> None:
    if net.architecture is not None and net.architecture.task != order.task_type:
        raise errors.BadModel(
            f"{net.architecture.name} is for {net.architecture.task}, not {order.task_type}. "
            f"Upload it again with task_type={net.architecture.task}."
        )


def _shape(order: ConversionOrder) -> tuple[int, ...] | None:
    """Of one image as the network takes it; None for what its architecture says."""
    if order.input_shape is not None:
        return order.input_shape[1:]
    if order.preprocessing is None:
        return None
    from shared.vision import preprocess

    return preprocess.shape(order.preprocessing)


if __name__ == "__main__":
    child.main(ConversionOrder, convert)
