"""The child of a benchmark job: measures every candidate, reports progress, answers with the measurements."""

from __future__ import annotations

from benchmarker import MeasureOrder
from benchmarker.measure import run
from shared import child

if __name__ == "__main__":
    child.main(MeasureOrder, run)
