"""The nursery of trials: PyTorch is imported once, and each trial of a search begins where its child would have it."""

from __future__ import annotations

import importlib

from shared import child, nursery
from trainer import TrainOrder, enclosed


def prepare() -> None:
    """Import what trains; nothing is opened, no thread is started that a fork would lose."""
    enclosed.settle()
    importlib.import_module("trainer.training")


def work() -> None:
    """One trial."""
    child.main(TrainOrder, enclosed.enclosed)


if __name__ == "__main__":
    nursery.serve(prepare, work)
