"""Deployments: tried in a child before they serve, and anew when the machine under them has changed."""

from __future__ import annotations

import logging
import time

import msgspec

from preparer import Activated, ActivateOrder
from shared import child, config, errors
from shared.artifacts import ArtifactStore, Outputs
from shared.clock import Monotonic
from shared.db import deployments, jobs, registry
from shared.machine import system_info
from shared.specs import ActivateSpec
from shared.worker import Commit

LOOK_S = 60.0
"""How often the machine is compared with the one that deployments were activated on."""

logger = logging.getLogger(__name__)


class Activate:
    """Tries a deployment as the inference processes will run it; then it serves its model."""

    module = "preparer.enclosed_activation"
    result_type = Activated

    def __init__(self, settings: config.Settings) -> None:
        self._settings = settings
        self._store = ArtifactStore(settings.models)

    def order(self, job: jobs.Claimed, outputs: Outputs) -> tuple[ActivateOrder, child.Limits]:
        """The very file, and everything that decides what it answers.

        Raises:
            errors.Conflict: A later order took its place, or the model is gone.
        """
        spec = msgspec.json.decode(job.spec, type=ActivateSpec)
        row, entry = deployments.find(spec.deployment_id), registry.catalog_entry(spec.model_id)
        if entry is None or row.status != "activating":
            raise errors.Conflict("A later order took its place, or the model was deleted.")
        fields = {name: getattr(entry, name, None) for name in ActivateOrder.__struct_fields__}
        fields |= {name: getattr(row, name) for name in ("engine", "precision", "batch_size", "threads")}
        fields |= {
            "onnx": str(self._store.path(str(row.file_sha256))),  # every order names one
            "golden": str(self._store.path(row.golden_sha256)) if row.golden_sha256 else None,
            "instances": self._settings.sessions(row.instances),
        }
        return msgspec.convert(fields, ActivateOrder), child.Limits(wall_s=job.max_runtime_s)

    def finish(self, job: jobs.Claimed, result: Activated, outputs: Outputs) -> Commit:
        """The deployment serves, and what served is retired, in the finishing transaction."""
        deployment_id = msgspec.json.decode(job.spec, type=ActivateSpec).deployment_id

        def commit() -> None:
            deployments.activated(deployment_id, result.fingerprint, result.provider, result.notes)

        return commit

    def give_up(self, job: jobs.Claimed, reason: str) -> None:
        """The deployment failed, with the reason; what served goes on."""
        deployments.fail(msgspec.json.decode(job.spec, type=ActivateSpec).deployment_id, reason)


class Lookout:
    """Sees when the machine, its drivers or its engines are not those that deployments were activated with.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Monotonic = time.monotonic) -> None:
        self._clock = clock
        self._next_s = float("-inf")

    def look(self) -> None:
        """Now and then: mark what is stale and have it activated anew. Returns at once in between."""
        if self._clock() < self._next_s:
            return
        self._next_s = self._clock() + LOOK_S
        try:
            here = system_info().fingerprint
            if deployments.is_stale(here):
                for model_id in deployments.mark_stale(here):
                    logger.warning("a deployment is stale and is activated anew", extra={"model_id": model_id})
        except errors.Unavailable as error:
            logger.warning("deployments cannot be looked at", extra={"error": error.message})
