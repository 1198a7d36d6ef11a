"""The models this process holds: one runtime each, replaced when the catalogue says so, never under a running call."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import psutil

from shared import errors
from shared.runtime import Runtime, Serving
from shared.wire.messages import LoadedModel

logger = logging.getLogger(__name__)


class Catalog(Protocol):
    """What there is to serve."""

    def revision(self) -> int:
        """A counter that moves with every change."""

    def lookup(self, model_id: str) -> Serving | None:
        """How a model is served now; None when it is gone or not ready."""


@dataclass
class _Held:
    runtime: Runtime
    memory_mb: float
    users: int = 0
    stale: bool = False
    retired: bool = False


class Sessions:
    """Loaded models. `load` may take long and is called by one thread a model; everything else returns at once.

    Args:
        catalog: What there is to serve.
        runtime: Makes the runtime of a serving (tests).
    """

    def __init__(self, catalog: Catalog, runtime: Callable[[Serving], Runtime] = Runtime) -> None:
        self._catalog = catalog
        self._runtime = runtime
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}
        self._revision = -1

    def room(self, model_id: str) -> int | None:
        """The most images the model takes in one call, or None when it must be loaded first. Takes no lock."""
        held = self._held.get(model_id)
        if held is None or held.stale:
            return None
        return held.runtime.batch_size if held.runtime.splits else 1

    def load(self, model_id: str) -> None:
        """Load what the catalogue names; it takes over from an older one once it has run.

        Raises:
            errors.NotFound: The model is gone.
            errors.AppError: It cannot be loaded; nothing serves it then.
        """
        before_mb, started_s = _resident_mb(), time.monotonic()
        try:
            serving = self._catalog.lookup(model_id)
            if serving is None:
                raise errors.NotFound(f"There is no model {model_id!r} that is ready to predict.")
            runtime = self._runtime(serving)
            runtime.activate()
        except BaseException:
            self._retire(model_id)
            raise
        held = _Held(runtime, memory_mb=max(0.0, round(_resident_mb() - before_mb, 1)))
        self._retire(model_id, successor=held)
        seconds = round(time.monotonic() - started_s, 3)
        logger.info("loaded %s on %s", model_id, serving.engine, extra={"seconds": seconds, "mb": held.memory_mb})

    @contextmanager
    def use(self, model_id: str) -> Iterator[Runtime]:
        """The runtime, which stays alive inside the block.

        Raises:
            errors.NotFound: The model was deleted a moment ago.
        """
        with self._lock:
            held = self._held.get(model_id)
            if held is None:
                raise errors.NotFound(f"Model {model_id!r} is gone.")
            held.users += 1
        try:
            yield held.runtime
        finally:
            with self._lock:
                held.users -= 1
                last = held.retired and held.users == 0
            if last:
                held.runtime.deactivate()

    def refresh(self) -> None:
        """Look whether the catalogue changed: drop what is gone, have loaded again what is served differently.

        Raises:
            errors.Unavailable: The catalogue cannot be read now; what is loaded goes on serving.
        """
        revision = self._catalog.revision()
        if revision == self._revision:
            return
        for model_id, held in list(self._held.items()):
            serving = self._catalog.lookup(model_id)
            if serving is None:
                self._retire(model_id)
                logger.info("unloaded %s", model_id)
            else:
                held.stale = serving != held.runtime.serving
        self._revision = revision

    def loaded(self) -> list[LoadedModel]:
        """What is held now, for the heartbeat. The memory is what the process grew by during the load."""
        held = list(self._held.items())
        return [
            LoadedModel(
                model_id=model_id,
                engine=one.runtime.serving.engine,
                precision=one.runtime.serving.precision,
                batch_size=one.runtime.batch_size,
                memory_mb=one.memory_mb,
            )
            for model_id, one in held
        ]

    def close(self) -> None:
        """Unload everything that is not in use."""
        for model_id in list(self._held):
            self._retire(model_id)

    def _retire(self, model_id: str, successor: _Held | None = None) -> None:
        """Take a runtime out of service; its last user, or we, let go of it."""
        with self._lock:
            held = self._held.pop(model_id, None)
            if successor is not None:
                self._held[model_id] = successor
            unused = held is not None and held.users == 0
            if held is not None:
                held.retired = True
        if held is not None and unused:
            held.runtime.deactivate()


def _resident_mb() -> float:
    return float(psutil.Process().memory_info().rss) / 2**20
