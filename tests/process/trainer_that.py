"""A trainer whose child learns nothing: all it does is write the files of a model. Run by `test_failpoints.py`."""

from __future__ import annotations

import functools
import sys

import msgspec

from preparer import write
from shared import child, config, process, worker
from shared.artifacts import ArtifactStore, Outputs
from shared.db import jobs
from shared.specs import Architecture, Preprocessing, Resize
from shared.worker import JobWorker
from tests.process.preparer_that import DESCRIPTION
from tests.training_kit import reached
from trainer import Trained, duty

CONTRACT = Preprocessing(resize=Resize(height=8, width=8))
FILES = {"onnx": b"a trained model as ONNX", "weights": b"its weights"}


class Order(msgspec.Struct):
    outputs: dict[str, int]


class Quick(duty.Train):
    """The real duty around a child that takes no time."""

    module = "tests.process.trainer_that"

    def order(self, job: jobs.Claimed, outputs: Outputs) -> tuple[msgspec.Struct, child.Limits]:
        real, limits = super().order(job, outputs)
        return Order(outputs=real.outputs), limits


def work(order: Order, report: child.Report) -> Trained:
    for name, content in FILES.items():
        write(order.outputs[name], content)
    return Trained(
        result=reached(),
        architecture=Architecture(name="cnn32", num_classes=10, task="classification", preprocessing=CONTRACT),
        preprocessing=CONTRACT,
        finished=True,
        facts=None,
        description=DESCRIPTION,
    )


def main(settings: config.Settings, stop: process.Stop) -> None:
    worker.LOOK_S, jobs.BACK_OFF_MS = 0.05, 50
    ArtifactStore(settings.models).clear_staging("trainer-0")
    between = functools.partial(duty.sweep, settings.training)
    JobWorker(settings, "trainer-0", "accelerator", {"train": Quick(settings)}, between).run(stop)


if __name__ == "__main__":
    if sys.argv[1:]:
        process.service("trainer-0", main)
    else:
        child.main(Order, work)
