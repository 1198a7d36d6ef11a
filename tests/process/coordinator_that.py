"""The coordinator, looking more often than it does in service: no broker rings here. Run by `test_failpoints.py`."""

from __future__ import annotations

from shared import process
from trainer import coordinator

if __name__ == "__main__":
    coordinator.LOOK_S = 0.02
    process.service(coordinator.NAME, coordinator.main)
