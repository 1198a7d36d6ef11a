"""The child that trains. It shuts itself in before anything looks at the model or at an image."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from shared import child, nets, sandbox
from trainer import Trained, TrainOrder

_GPUS = "nvidia*"


def enclosed(order: TrainOrder, report: child.Report) -> Trained:
    """Train with the model, the dataset and the training's folder in reach, and nothing else.

    Not where there is a GPU: what its driver needs to have open was never tried in there.

    Raises:
        errors.AppError: As `training.train`.
    """
    if not with_gpu():
        files = [Path(path) for path in (order.weights, order.index, order.pack)]
        sandbox.enter([Path(__file__).parent, *files], scratch=Path(order.folder))
    settle()
    tempfile.tempdir = order.folder
    report({"stage": "loading PyTorch", "fraction": 0.0})
    from trainer import training  # its libraries start threads, which must be inside as well

    return training.train(order, report)


def with_gpu() -> bool:
    """Whether there is one that PyTorch may use."""
    return any(Path("/dev").glob(_GPUS))


def settle() -> None:
    """What must be said before PyTorch is imported."""
    nets.settle()
    os.environ["OMP_WAIT_POLICY"] = "passive"  # threads that spin while they wait keep others, and one another, waiting


if __name__ == "__main__":
    child.main(TrainOrder, enclosed)
