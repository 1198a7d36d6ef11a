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
        self._files = ArtifactStore(settings.models)

    def revision(self) -> int:
        """The counter every change of a model or its deployment bumps."""
        return registry.revisions()["models"]

    def lookup(self, model_id: str) -> Serving | None:
        """How a model is served now; None when it is gone or not ready."""
        entry = registry.catalog_entry(model_id)
        if entry is None:
            return None
        serves = entry.serves
        return Serving(
            model_id=entry.model_id,
            name=entry.name,
            task_type=entry.task_type,
            onnx=self._files.path(entry.onnx_sha256),
            inputs=entry.inputs,
            outputs=entry.outputs,
            dynamic_batch=entry.dynamic_batch,
            preprocessing=entry.preprocessing,
            labels=entry.labels,
            scores=entry.scores,
            engine=serves.engine,
            precision=serves.precision,
            batch_size=serves.batch_size,
            threads=serves.threads,
        )
