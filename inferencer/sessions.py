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

PROBLEM_CHARACTERS = 256
"""The bound of `LoadedModel.problem`."""

logger = logging.getLogger(__name__)


class Catalog(Protocol):
    """What there is to serve."""

    def revision(self) -> int:
        """A counter that moves with every change."""

    def lookup(self, model_id: str) -> Serving | None:
        """How a model is served now; None when it is gone or not ready."""

    def default(self, model_id: str) -> Serving | None:
        """How it is served where nothing was activated, or where that cannot run; None as with `lookup`."""


@dataclass
class _Held:
    runtime: Runtime
    wanted: Serving
    """What the catalogue named when this was loaded, or last tried."""
    revision: int
    """Of the catalogue, as `wanted` was read from it."""
    memory_mb: float
    problem: str = ""
    """Why this serves instead of what is wanted."""
    users: int = 0
    outdated: bool = False
    retired: bool = False


class Sessions:
    """Loaded models. `load` and `renew` may take long, the former is called by one thread a model and the latter by one
    for all; everything else returns at once.

    What somebody activated may fail here, though it ran when it was tried. Then what served before goes on, or the
    default begins, and `loaded` says why. It is tried again when the catalogue changes, not before.

    Args:
        catalog: What there is to serve.
        runtime: Makes the runtime of a serving (tests).
    """

    def __init__(self, catalog: Catalog, runtime: Callable[[Serving], Runtime] = Runtime) -> None:
        self._catalog = catalog
        self._runtime = runtime
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}

    def room(self, model_id: str) -> int | None:
        """The most images the model takes in one call, or None when it must be loaded first. Takes no lock."""
        held = self._held.get(model_id)
        if held is None:
            return None
        return held.runtime.batch_size if held.runtime.splits else 1

    def load(self, model_id: str) -> None:
        """Load what the catalogue names, or the default where that cannot run.

        Raises:
            errors.NotFound: The model is gone.
            errors.AppError: It cannot be loaded; nothing serves it then.
        """
        revision, serving = self._catalog.revision(), self._catalog.lookup(model_id)
        if serving is None:
            raise errors.NotFound(f"There is no model {model_id!r} that is ready to predict.")
        try:
            held = self._activated(serving, serving, revision)
        except Exception as error:
            default = self._catalog.default(model_id) if serving.deployment_id else None
            if default is None:
                raise
            held = self._activated(default, serving, revision)
            held.problem = _refused(serving, error)
        self._replace(model_id, held)

    def renew(self) -> None:
        """Load anew what the catalogue names differently; the old serves until the new has run, or on if that fails."""
        for model_id in [model_id for model_id, held in list(self._held.items()) if held.outdated]:
            revision, serving = self._catalog.revision(), self._catalog.lookup(model_id)
            old = self._held.get(model_id)
            if serving is None or old is None:
                continue  # `refresh` sees that it is gone
            try:
                self._replace(model_id, self._activated(serving, serving, revision), only_if=old)
            except Exception as error:
                old.wanted, old.outdated = serving, False
                old.problem = "" if serving == old.runtime.serving else _refused(serving, error)

    def _activated(self, serving: Serving, wanted: Serving, revision: int) -> _Held:
        before_mb, started_s = _resident_mb(), time.monotonic()
        runtime = self._runtime(serving)
        runtime.activate()
        held = _Held(runtime, wanted, revision, memory_mb=max(0.0, round(_resident_mb() - before_mb, 1)))
        seconds = round(time.monotonic() - started_s, 3)
        facts = {"seconds": seconds, "mb": held.memory_mb, "deployment_id": serving.deployment_id}
        logger.info("loaded %s on %s", serving.model_id, serving.engine, extra=facts)
        return held

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
        for model_id, held in list(self._held.items()):
            if held.revision == revision:
                continue
            serving = self._catalog.lookup(model_id)
            if serving is None:
                self._replace(model_id, None)
                logger.info("unloaded %s", model_id)
            else:
                held.outdated = serving != held.wanted
                held.revision = revision

    def loaded(self) -> list[LoadedModel]:
        """What is held now, for the heartbeat. The memory is what the process grew by during the load."""
        held = list(self._held.items())
        return [
            LoadedModel(
                model_id=model_id,
                engine=one.runtime.serving.engine,
                precision=one.runtime.serving.precision,
                batch_size=one.runtime.batch_size,
                threads=one.runtime.serving.threads,
                sessions=one.runtime.serving.instances,
                memory_mb=one.memory_mb,
                deployment_id=one.runtime.serving.deployment_id,
                problem=one.problem,
            )
            for model_id, one in held
        ]

    def close(self) -> None:
        """Unload everything that is not in use."""
        for model_id in list(self._held):
            self._replace(model_id, None)

    def _replace(self, model_id: str, successor: _Held | None, only_if: _Held | None = None) -> None:
        """Take a runtime out of service, for another or for none; its last user, or we, let go of it.

        With `only_if` another predecessor stays, and it is the successor that goes: the model was unloaded meanwhile.
        """
        with self._lock:
            held = self._held.get(model_id)
            if only_if is not None and held is not only_if:
                held = successor
            elif successor is not None:
                self._held[model_id] = successor
            else:
                self._held.pop(model_id, None)
            if held is not None:
                held.retired = True
            unused = held is not None and held.users == 0
        if held is not None and unused:
            held.runtime.deactivate()


def _refused(serving: Serving, error: Exception) -> str:
    """Why a deployment does not serve, logged and in a sentence short enough for a heartbeat."""
    said = error.message if isinstance(error, errors.AppError) else f"{type(error).__name__}: {error}"
    what = f"{serving.engine} in {serving.precision}"
    logger.error(
        "a deployment cannot serve here",
        exc_info=None if isinstance(error, errors.AppError) else error,
        extra={"model_id": serving.model_id, "deployment_id": serving.deployment_id, "what": what, "error": said},
    )
    return f"{what} cannot serve: {said}"[:PROBLEM_CHARACTERS]


def _resident_mb() -> float:
    return float(psutil.Process().memory_info().rss) / 2**20
