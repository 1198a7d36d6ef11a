"""A child that shuts itself in and then converts a PyTorch file, in the order in which the preparer's has to do it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from shared import child, nets, sandbox
from shared.specs import ConversionFacts


class Order(msgspec.Struct, frozen=True):
    path: str
    architecture: str | None
    input_shape: tuple[int, ...] | None


def convert(order: Order, _report: Any) -> ConversionFacts:
    sandbox.enter([Path(order.path)])
    nets.settle()
    from shared.nets import export, weights

    net = weights.read(Path(order.path), order.architecture, enclosed=True)
    return export.export(net, order.input_shape).facts


if __name__ == "__main__":
    child.main(Order, convert)
