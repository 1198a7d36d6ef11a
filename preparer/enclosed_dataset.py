"""The child that looks at an uploaded dataset: first it shuts itself in, then it loads what parses the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from preparer import DatasetOrder
from shared import child, sandbox
from shared.specs import DatasetSummary


def look(order: DatasetOrder, report: Callable[[dict[str, Any]], None]) -> DatasetSummary:
    """Check the dataset, with nothing else in reach but the descriptors it was lent."""
    sandbox.enter([Path(__file__).parent, *(Path(path) for path in (order.path, order.images_path) if path)])
    from preparer.dataset import check  # its libraries start threads, which must be inside as well

    return check(order, report)


if __name__ == "__main__":
    child.main(DatasetOrder, look)
