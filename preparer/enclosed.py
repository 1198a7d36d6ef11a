"""The child that looks at an ONNX model: first it shuts itself in, then it loads what parses and runs the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from preparer import DescribeOrder
from shared import child, metadata, sandbox
from shared.specs import ModelDescription


def look(order: DescribeOrder, _report: Callable[[dict[str, Any]], None]) -> ModelDescription:
    """Describe the file, with nothing else in reach, and write it with its contract and labels in its metadata."""
    path = Path(order.path)
    sandbox.enter([Path(__file__).parent, path])
    from preparer.describe import describe  # its libraries start threads, which must be inside as well

    description = describe(order)
    if "onnx" in order.outputs:
        metadata.write(path, order.outputs["onnx"], metadata.describing(description.preprocessing, description.labels))
    return description


if __name__ == "__main__":
    child.main(DescribeOrder, look)
