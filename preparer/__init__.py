"""The CPU lane: checks and describes what users upload.

What the preparer and its child say to each other lives here, so that the parent imports nothing heavy.
"""

from __future__ import annotations

import msgspec

from shared.specs import Preprocessing, Task


class DescribeOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A file to look at, and what its owner said about it. The answer is a `shared.specs.ModelDescription`."""

    path: str
    task_type: Task
    preprocessing: Preprocessing | None
    labels: list[str] | None
    input_shape: tuple[int, ...] | None = None
    """Of the first input, batch included; settles axes the graph leaves open."""
