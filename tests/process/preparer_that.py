"""A preparer whose child takes no time: it stores a file and answers; or one that sees stale deployments.

Run by `test_failpoints.py`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec

from preparer import Converted, write
from preparer.__main__ import Convert
from shared import child, config, errors, process, worker
from shared.artifacts import ArtifactStore, Outputs
from shared.db import connection, deployments, jobs, registry
from shared.db.tables import Deployment
from shared.specs import ConvertSpec, ModelDescription, Stored, TensorInfo
from shared.worker import Commit, JobWorker

DESCRIPTION = ModelDescription(
    inputs=[TensorInfo(name="x", dtype="float32", shape=["n", 3])],
    outputs=[TensorInfo(name="y", dtype="float32", shape=["n", 3])],
    opset=18,
    ir_version=10,
    parameters=0,
    dynamic_batch=True,
    preprocessing=None,
    labels=None,
)


class Order(msgspec.Struct):
    store: str
    model_id: str
    sleep_s: float
    refuse: bool
    onnx: int


class Found(msgspec.Struct):
    converted: Converted
    stored: Stored


class Quick(Convert):
    """The real duty around a child that does nothing but what can go wrong: it stores a file; so does its worker."""

    module = "tests.process.preparer_that"
    result_type = Found

    def __init__(self, settings: config.Settings) -> None:
        super().__init__(settings)
        self._reports = settings.reports

    def order(self, job: jobs.Claimed, outputs: Outputs) -> tuple[msgspec.Struct, child.Limits]:
        spec = msgspec.json.decode(job.spec, type=ConvertSpec)
        real, _ = super().order(job, outputs)
        order = Order(
            store=str(self._reports),
            model_id=spec.model_id,
            sleep_s=60.0 if sys.argv[1] == "slowly" else 0.0,
            refuse=sys.argv[1] == "refuse",
            onnx=real.outputs["onnx"],
        )
        return order, child.Limits(wall_s=job.max_runtime_s)

    def finish(self, job: jobs.Claimed, result: Found, outputs: Outputs) -> Commit:
        ready = super().finish(job, result.converted, outputs)
        ours = ArtifactStore(self._reports).put(job.id.encode())

        def commit() -> None:
            registry.keep_artifact(result.stored, "reports")
            registry.keep_artifact(ours, "reports")
            ready()

        return commit


def work(order: Order, report: child.Report) -> Found:
    time.sleep(order.sleep_s)
    if order.refuse:
        raise errors.BadModel("It is no good.")
    stored = ArtifactStore(Path(order.store)).put(order.model_id.encode())
    write(order.onnx, f"onnx of {order.model_id}".encode())
    return Found(converted=Converted(description=DESCRIPTION, conversion=None), stored=stored)


def main(settings: config.Settings, stop: process.Stop) -> None:
    worker.LOOK_S, jobs.BACK_OFF_MS = 0.05, 50
    JobWorker(settings, "preparer-0", "cpu", {"convert": Quick(settings)}).run(stop)


def mark(settings: config.Settings) -> None:
    """Let every active deployment turn out to be of another machine, one after the other."""
    connection.open_db(settings.db_file)
    for row in list(Deployment.select().where(Deployment.status == "active").order_by(Deployment.id)):
        with connection.write():
            Deployment.update(fingerprint="there").where(Deployment.id == row.id).execute()
        deployments.mark_stale("here")


if __name__ == "__main__":
    if sys.argv[1:] == ["marks"]:
        mark(config.load())
    elif sys.argv[1:]:
        process.service("preparer-0", main)
    else:
        child.main(Order, work)
