"""The child that looks at an uploaded model: first it shuts itself in, then it loads what parses and runs the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from preparer import DescribeOrder
from shared import child, sandbox
from shared.specs import ModelDescription


def look(order: DescribeOrder, _report: Callable[[dict[str, Any]], None]) -> ModelDescription:
    """Describe the file, with nothing else in reach."""
    sandbox.enter([Path(__file__).parent, Path(order.path)])
    from preparer.describe import describe  # its libraries start threads, which must be inside as well

    return describe(order)


if __name__ == "__main__":
    child.main(DescribeOrder, look)
