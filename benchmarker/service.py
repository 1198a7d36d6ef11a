"""Has the platform's own HTTP service driven with the model, as it is served now, and looks what disturbed that."""

from __future__ import annotations

import tempfile

import msgspec

from benchmarker import Bodies, BodiesOrder, DriveOrder, MeasureOrder, ServiceAccess
from benchmarker.conditions import read, service_disturbances
from benchmarker.load import WITHIN_S
from shared import child, errors
from shared.specs import MeasuredService, ServiceLoad

BODIES_WITHIN_S = 120.0
BODIES_MEMORY_MB = 4096
"""Address space: the bodies, and the libraries that draw or read them."""
SLACK_S = 120.0
"""What the driving may take beside its two loops and the last answers: start, first prediction, warm-up."""


def drive(order: MeasureOrder, load: ServiceLoad, access: ServiceAccess, report: child.Report) -> MeasuredService:
    """Drive it. Whatever goes wrong is the result: the measurement of the candidates stands.

    Args:
        order: The benchmark.
        load: How, as ordered.
        access: Where the service listens, and the credential for it.
        report: Told what goes on: `service`.
    """
    report({"service": "starting"})
    with tempfile.TemporaryFile() as file:
        asked = BodiesOrder(
            dataset=order.dataset,
            description=order.description,
            inputs=order.model.inputs,
            seed=order.config.seed,
            output=file.fileno(),
        )
        limits = child.Limits(wall_s=BODIES_WITHIN_S, memory_mb=BODIES_MEMORY_MB)
        driving = DriveOrder(
            load=load, access=access, model_id=order.model.id, seed=order.config.seed, bodies=file.fileno()
        )
        wall_s = 2 * (load.seconds + WITHIN_S) + WITHIN_S + SLACK_S
        before = read(broker=order.broker)
        try:
            bodies = child.run("benchmarker.bodies", asked, Bodies, limits=limits, pass_fds=[file.fileno()])
            found = child.run(
                "benchmarker.driving",
                driving,
                MeasuredService,
                limits=child.Limits(wall_s=wall_s),
                pass_fds=[file.fileno()],
                on_progress=report,
            )
        except (errors.AppError, child.ChildDied) as failure:
            return MeasuredService(reason=f"The load generator gave no result: {failure}")
        after = read(broker=order.broker)
    return msgspec.structs.replace(
        found,
        source=bodies.source,
        inputs=bodies.count,
        input_bytes=bodies.middle_bytes,
        tls=access.certificate is not None,
        conditions=service_disturbances(before, after, found.requests),
    )
