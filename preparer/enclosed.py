"""The child that looks at an ONNX model: first it shuts itself in, then it loads what parses and runs the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from preparer import DescribeOrder
from shared import child, metadata, sandbox
from shared.specs import ModelDescription


def look(order: DescribeOrder, _report: Callable[[dict[str, Any]], None]) -> ModelDescription:
    """Describe the file, with nothing else in reach, and write it with its contract and labels in its metadata."""
    path = Path(order.path)
    sandbox.enter([Path(__file__).parent, path])
    from preparer.describe import describe  # its libraries start threads, which must be inside as well

    description = describe(order)
    if "onnx" not in order.outputs:
        return description
    pairs = metadata.describing(description.preprocessing, description.labels)
    left_out = metadata.write(path, order.outputs["onnx"], pairs)
    if not left_out:
        return description
    note = (
        f"The file holds {left_out:,} bytes of metadata beside the network, which were left out of the model that is "
        "served; the upload itself is kept as it came."
    )
    return msgspec.structs.replace(description, notes=[*description.notes, note])


if __name__ == "__main__":
    child.main(DescribeOrder, look)
