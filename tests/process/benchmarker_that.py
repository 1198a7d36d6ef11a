"""A benchmarker whose child takes no time: all it does is make an INT8 file. Run by `test_failpoints.py`."""

from __future__ import annotations

import hashlib
import sys

import msgspec

from benchmarker import Measured
from benchmarker.__main__ import Measure, between
from preparer import write
from shared import child, config, process, worker
from shared.artifacts import ArtifactStore, Outputs
from shared.db import jobs
from shared.specs import PreparedFile, Stored, canonical_json
from shared.worker import Commit, JobWorker
from tests.unit.measurements import measurement_set

INT8 = b"a model in INT8"
NOWHERE = Stored(sha256="0" * 64, size_bytes=0)


class Order(msgspec.Struct):
    int8: int


class Quick(Measure):
    """The real duty around a child that does nothing but write its file; its worker stores the measurements first."""

    module = "tests.process.benchmarker_that"

    def order(self, job: jobs.Claimed, outputs: Outputs) -> tuple[msgspec.Struct, child.Limits]:
        real, limits = super().order(job, outputs)
        return Order(int8=real.outputs["int8"]), limits

    def finish(self, job: jobs.Claimed, result: Measured, outputs: Outputs) -> Commit:
        measurements = self._reports.put(canonical_json(measurement_set()))
        return super().finish(job, msgspec.structs.replace(result, measurements=measurements), outputs)


def work(order: Order, report: child.Report) -> Measured:
    write(order.int8, INT8)
    sha256 = hashlib.sha256(INT8).hexdigest()
    made = PreparedFile(precision="int8", sha256=sha256, size_bytes=len(INT8), recipe={}, notes=[])
    row = {
        "engine": "openvino",
        "precision": "int8",
        "batch_size": 1,
        "threads": 1,
        "instances": 1,
        "status": "measured",
    }
    return Measured(measurements=NOWHERE, rows=[row], files=[made])


def main(settings: config.Settings, stop: process.Stop) -> None:
    worker.LOOK_S, jobs.BACK_OFF_MS = 0.05, 50
    ArtifactStore(settings.models).clear_staging("benchmarker-0")
    JobWorker(settings, "benchmarker-0", "accelerator", {"benchmark": Quick(settings)}, between).run(stop)


if __name__ == "__main__":
    if sys.argv[1:]:
        process.service("benchmarker-0", main)
    else:
        child.main(Order, work)
