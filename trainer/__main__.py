"""A trainer process: trains models, each in a child that holds an accelerator slot. It imports no PyTorch itself."""

from __future__ import annotations

import logging
import sys

from shared import config, process
from shared.artifacts import ArtifactStore
from shared.nursery import Nursery
from shared.specs import JobKind
from shared.worker import Duty, JobWorker
from trainer import duty

logger = logging.getLogger(__name__)


def main(settings: config.Settings, stop: process.Stop) -> None:
    """Serve the trainings of the accelerator lane until asked to stop; the index comes from the command line."""
    name = f"trainer-{sys.argv[1]}"
    if leftovers := ArtifactStore(settings.models).clear_staging(name):
        logger.info("removed what an interrupted training left behind", extra={"files": leftovers})
    duties: dict[JobKind, Duty] = {
        "train": duty.Train(settings),
        "trial": duty.Try(settings),
        "measure": duty.Measure(settings),
    }
    warm = Nursery("trainer.warm")

    def between() -> None:
        duty.sweep(settings.training)
        warm.rest()

    try:
        worker = JobWorker(
            settings, name, "accelerator", duties, between, heard=duty.keep_epoch, nurseries={"trial": warm}
        )
        worker.run(stop)
    finally:
        warm.close()


if __name__ == "__main__":
    process.service(f"trainer-{sys.argv[1]}", main)
