"""The real broker with less patience: a silent worker is given up after three seconds. Run by `test_broker.py`."""

from __future__ import annotations

from broker import core
from broker.loop import main
from shared.process import service

if __name__ == "__main__":
    core.DEAD_AFTER_S = 3.0
    service("broker", main)
