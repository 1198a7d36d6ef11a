"""The catalogue of the inferencers, read from the database and the artifact store."""

from __future__ import annotations

from shared.artifacts import ArtifactStore
from shared.config import Settings
from shared.db import connection, registry
from shared.runtime import Serving


class DatabaseCatalog:
    """What the models table says there is to serve. Opens the database of this process."""

    def __init__(self, settings: Settings) -> None:
        connection.open_db(settings.db_file)
        self._settings = settings
        self._files = ArtifactStore(settings.models)

    def revision(self) -> int:
        """The counter every change of a model or its deployment bumps."""
        return registry.revisions()["models"]

    def lookup(self, model_id: str) -> Serving | None:
        """How a model is served now; None when it is gone or not ready."""
        entry = registry.catalog_entry(model_id)
        return None if entry is None else self._serving(entry, entry.serves)

    def default(self, model_id: str) -> Serving | None:
        """How it is served where nothing was activated, or where that cannot run; None as with `lookup`."""
        entry = registry.catalog_entry(model_id)
        return None if entry is None else self._serving(entry, registry.default(dynamic_batch=entry.dynamic_batch))

    def deployed(self) -> list[str]:
        """The models that somebody activated a deployment for, the latest first."""
        return registry.deployed()

    def _serving(self, entry: registry.CatalogEntry, serves: registry.Serves) -> Serving:
        golden, contract = serves.golden_sha256, entry.preprocessing
        if contract is not None and serves.jpeg_scale is not None:
            contract = contract.reduced(serves.jpeg_scale)
        return Serving(
            model_id=entry.model_id,
            name=entry.name,
            task_type=entry.task_type,
            onnx=self._files.path(serves.file_sha256 or entry.onnx_sha256),
            inputs=entry.inputs,
            outputs=entry.outputs,
            dynamic_batch=entry.dynamic_batch,
            preprocessing=contract,
            labels=entry.labels,
            scores=entry.scores,
            engine=serves.engine,
            precision=serves.precision,
            batch_size=serves.batch_size,
            threads=serves.threads,
            instances=self._settings.sessions(serves.instances),
            deployment_id=serves.deployment_id,
            golden=self._files.path(golden) if golden else None,
        )
