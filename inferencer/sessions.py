"""The models this process holds: one runtime each, replaced when the catalogue says so, never under a running call."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from inferencer.budget import Budget, Footprint
from inferencer.heap import LEFT_MB, Heap
from shared import errors, gpu
from shared.artifacts import damaged
from shared.clock import Monotonic
from shared.engines import engine_class
from shared.runtime import Runtime, Serving
from shared.wire.messages import LoadedModel, Memory

PROBLEM_CHARACTERS = 256
"""The bound of `LoadedModel.problem`."""
ROOM_S = 10.0
"""How long a load waits for a model that must go first."""
REST_S = 1.0
"""Longest rest after a load that pushed others out. It rests as long as it took: at most half of the time goes into
loading what does not fit together, however requests alternate."""
LOOK_S = 0.05
"""How often it looks whether some model may go."""
FAILED_S = 1.0
"""How long a load that failed is not tried again: who waited for it is refused for the same reason."""
TOO_LARGE_S = 60.0
"""The same for one that was too large: others may have been at work while it was measured."""
AMPLE, OF_A_FILE = 1.2, 4.0
"""How much memory is advised for a model, times what it took or, before it was ever loaded, its file."""
MB = 2**20

logger = logging.getLogger(__name__)


class Catalog(Protocol):
    """What there is to serve."""

    def revision(self) -> int:
        """A counter that moves with every change."""

    def lookup(self, model_id: str) -> Serving | None:
        """How a model is served now; None when it is gone or not ready."""

    def default(self, model_id: str) -> Serving | None:
        """How it is served where nothing was activated, or where that cannot run; None as with `lookup`."""

    def deployed(self) -> Sequence[str]:
        """The models that somebody activated a deployment for, the latest first."""


class Unloaded(Exception):
    """The model is not in memory, or not any more."""


Wanted = Callable[[], Mapping[str, bool]]
"""Tells which models requests wait for, and whether these are here: they are the last to make room."""


class Share(NamedTuple):
    """What this process may use for models."""

    mb: float = math.inf
    processes: int = 1
    """That have as much each."""
    gpu_mb: float | None = None
    """Of the GPU's memory; None without one."""
    gpu_total_mb: float = math.inf
    """What the GPU has, for all processes and whoever else uses it."""


@dataclass
class _Held:
    runtime: Runtime
    wanted: Serving
    """What the catalogue named when this was loaded, or last tried."""
    revision: int
    """Of the catalogue, as `wanted` was read from it."""
    takes: Footprint
    problem: str = ""
    """Why this serves instead of what is wanted."""
    users: int = 0
    outdated: bool = False
    retired: bool = False
    gone: bool = False
    """Its runtime has let go of everything."""


class _Failed(NamedTuple):
    until_s: float
    revision: int
    error: Exception


class Sessions:
    """Loaded models. `load`, `prewarm` and `renew` may take long, and one of them loads at a time: what the process
    grows by is then what that model takes. Everything else returns at once.

    Where models do not fit into the share of memory, the least recently used goes for the one that is asked for. The
    same holds for the GPU's memory, where engines run on one.

    What somebody activated may fail here, though it ran when it was tried. Then what served before goes on, or the
    default begins, and `loaded` says why. It is tried again when the catalogue changes, not before.

    Args:
        catalog: What there is to serve.
        runtime: Makes the runtime of a serving (tests).
        share: What models may take of the memory.
        heap: Tells what is resident.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        catalog: Catalog,
        runtime: Callable[[Serving], Runtime] = Runtime,
        *,
        share: Share | None = None,
        heap: Heap | None = None,
        clock: Monotonic = time.monotonic,
    ) -> None:
        self._catalog = catalog
        self._runtime = runtime
        self._share = share or Share()
        self._heap = heap or Heap()
        self._clock = clock
        self._lock = threading.Condition(threading.Lock())
        self._loading = threading.Lock()
        self._held: dict[str, _Held] = {}
        self._limit = Footprint(self._share.mb, math.inf if self._share.gpu_mb is None else self._share.gpu_mb)
        self._budget = Budget(self._limit)
        self._sizes: dict[tuple[object, ...], Footprint] = {}
        """What a serving took when it was loaded last."""
        self._failures: dict[str, _Failed] = {}
        self._rests_until_s = 0.0
        self._base_mb: float | None = None
        """Resident without any model: before the first, and what the engines' libraries brought."""
        self._revision = self._prewarmed = -1
        self._ahead: list[str] = []
        """Models to load before somebody asks for them."""
        self._loads, self._unloads, self._load_s = 0, 0, 0.0
        self._released = False

    def room(self, model_id: str) -> int | None:
        """The most images the model takes in one call, or None when it must be loaded first. Takes no lock."""
        held = self._held.get(model_id)
        if held is None:
            return None
        return held.runtime.batch_size if held.runtime.splits else 1

    def load(self, model_id: str, wanted: Wanted = dict) -> None:
        """Load what the catalogue names, or the default where that cannot run.

        Raises:
            errors.NotFound: The model is gone.
            errors.Conflict: It takes more memory than this process may use for models.
            errors.Unavailable: No other model could make room in time.
            errors.AppError: It cannot be loaded; nothing serves it then.
        """
        revision, serving = self._catalog.revision(), self._catalog.lookup(model_id)
        if serving is None:
            raise errors.NotFound(f"There is no model {model_id!r} that is ready to predict.")
        before = self._failures.get(model_id)
        if before is not None and before.revision == revision and self._clock() < before.until_s:
            raise before.error
        try:
            with self._loading:
                if model_id not in self._held:  # another thread may have loaded it meanwhile
                    self._load(model_id, serving, revision, wanted)
        except Exception as error:
            now_s, for_s = self._clock(), TOO_LARGE_S if isinstance(error, errors.Conflict) else FAILED_S
            self._failures = {name: failed for name, failed in self._failures.items() if now_s < failed.until_s}
            self._failures[model_id] = _Failed(now_s + for_s, revision, error)
            raise

    def _load(self, model_id: str, serving: Serving, revision: int, wanted: Wanted | None) -> None:
        try:
            held = self._activated(serving, serving, revision, wanted)
        except errors.Unavailable:
            raise  # there is no room now; it would be as narrow for another
        except Exception as error:
            default = self._catalog.default(model_id) if serving.deployment_id else None
            if default is None:
                raise _of_storage(serving, error) from error
            held = self._activated(default, serving, revision, wanted)
            held.problem = _refused(serving, error)
        self._replace(model_id, held)

    def prewarm(self) -> bool:
        """Load one model that somebody activated and that fits beside the others; false when there is none left.

        Each is tried once a revision of the catalogue; one that fails is loaded with its first request, which is told.
        """
        if self._prewarmed != self._revision:
            self._prewarmed = self._revision
            self._ahead = [] if self._revision < 0 else list(self._catalog.deployed())
        while self._ahead:
            model_id = self._ahead.pop(0)
            serving = None if model_id in self._held else self._catalog.lookup(model_id)
            if serving is not None and self._budget.fits(self._expected(serving)):
                try:
                    with self._loading:
                        self._load(model_id, serving, self._prewarmed, None)
                except Exception as error:
                    logger.warning("model %s was not loaded ahead of its first request: %s", model_id, error)
                return True
        return False

    def renew(self, wanted: Wanted = dict) -> bool:
        """Load anew what the catalogue names differently; the old serves until the new has run, or on if that fails.

        Tells whether there was anything to do.
        """
        outdated = [model_id for model_id, held in list(self._held.items()) if held.outdated]
        for model_id in outdated:
            revision, serving = self._catalog.revision(), self._catalog.lookup(model_id)
            old = self._held.get(model_id)
            if serving is None or old is None:
                continue  # `refresh` sees that it is gone
            try:
                with self._loading:
                    self._replace(model_id, self._activated(serving, serving, revision, wanted), only_if=old)
            except Exception as error:
                old.wanted, old.outdated = serving, False
                old.problem = "" if serving == old.runtime.serving else _refused(serving, error)
        return bool(outdated)

    def reload(self, runtime: Runtime, wanted: Wanted = dict) -> None:
        """Let go of a runtime that does not do what it did, and have another in its place, of the same and no default.

        Requests for the model wait meanwhile. Nothing is done where the runtime serves no more.

        Raises:
            errors.AppError: As `load`; the model is not in memory then.
        """
        serving = runtime.serving
        with self._loading:
            held = self._held.get(serving.model_id)
            if held is not None and held.runtime is runtime:
                self._replace(serving.model_id, None)
                successor = self._activated(serving, held.wanted, -1, wanted)  # `refresh` looks what it should be
                successor.problem = held.problem
                self._replace(serving.model_id, successor)

    def _activated(self, serving: Serving, wanted: Serving, revision: int, waited: Wanted | None) -> _Held:
        """A runtime that is ready, in the room that others made for it; without `waited` nobody makes any."""
        pushed = self._make_room(serving, self._expected(serving), waited)
        self._bring_in(serving)
        before_mb, on_gpu, started_s = self._heap.resident_mb(), self._on_gpu(), self._clock()
        runtime = self._runtime(serving)
        runtime.activate()
        grown_mb = round(max(_file_mb(serving), self._heap.resident_mb() - before_mb), 1)
        took = self._sizes[_kind(serving)] = Footprint(grown_mb, self._grown_on_gpu_mb(runtime, on_gpu))
        seconds = round(self._clock() - started_s, 3)
        self._loads, self._load_s = self._loads + 1, self._load_s + seconds
        facts = {"seconds": seconds, "deployment_id": serving.deployment_id} | took._asdict()
        logger.info("loaded %s on %s", serving.model_id, serving.engine, extra=facts)
        held = _Held(runtime, wanted, revision, takes=took)
        try:
            pushed |= self._make_room(serving, took, waited)
        except BaseException:
            self._let_go(held)
            raise
        if pushed:
            self._rests_until_s = self._clock() + min(seconds, REST_S)
        return held

    def _bring_in(self, serving: Serving) -> None:
        """Load the engine's library, whose memory is nobody's own."""
        before_mb = self._heap.resident_mb()
        engine_class(serving.engine).bring_in()
        self._base_mb = (self._base_mb or before_mb) + self._heap.resident_mb() - before_mb

    def _on_gpu(self) -> gpu.Taken | None:
        return None if self._share.gpu_mb is None else self._heap.on_gpu()

    def _grown_on_gpu_mb(self, runtime: Runtime, before: gpu.Taken | None) -> float:
        """What a runtime that has just been activated takes of the GPU; where nobody tells, the size of its file."""
        if not runtime.device.startswith("CUDA"):
            return 0.0
        grown_mb = gpu.grown_mb(before, self._on_gpu())
        return round(_file_mb(runtime.serving) if grown_mb is None else grown_mb, 1)

    def _make_room(self, serving: Serving, more: Footprint, wanted: Wanted | None) -> bool:
        """Have others go until that much more fits, and tell whether any went. Its own predecessor, which serves until
        the new one is ready, does not.

        Raises:
            errors.Conflict: It does not fit by itself.
            errors.Unavailable: Nobody could make room in time.
        """
        if more.mb > self._limit.mb or more.gpu_mb > self._limit.gpu_mb:
            raise self._too_large(more, measured=self._sizes.pop(_kind(serving), None) is not None)
        end_s, pushed = self._clock() + ROOM_S, False
        while (victim := self._in_the_way(serving.model_id, more, wanted, end_s)) is not None:
            self._push_out(victim, end_s)
            pushed = True
        return pushed

    def _in_the_way(self, model_id: str, more: Footprint, wanted: Wanted | None, end_s: float) -> str | None:
        """Who goes next, waiting for one that may; None when there is room."""
        with self._lock:
            while not self._budget.fits(more) and self._budget.others(model_id, more):
                now_s = self._clock()
                if wanted is None or now_s >= end_s:
                    raise errors.Unavailable("The models in memory leave no room now; try again.", retry_after_s=1)
                victim = self._budget.victim(model_id, more, wanted())
                if victim is not None and now_s >= self._rests_until_s:
                    return victim
                self._lock.wait(min(end_s, max(self._rests_until_s, now_s + LOOK_S)) - now_s)
        return None

    def _push_out(self, victim: str, end_s: float) -> None:
        """Unload a model, and wait until its last call has let go of it."""
        held = self._held.get(victim)
        self._replace(victim, None)
        with self._lock:
            self._lock.wait_for(lambda: held is None or held.gone, max(0.0, end_s - self._clock()))
        self._unloads += 1
        logger.info("unloaded %s to make room", victim)

    def _too_large(self, more: Footprint, *, measured: bool) -> errors.Conflict:
        on_gpu = more.mb <= self._limit.mb
        mb, limit_mb = (more.gpu_mb, self._limit.gpu_mb) if on_gpu else (more.mb, self._limit.mb)
        processes, of_gpu = self._share.processes, " of the GPU's memory" if on_gpu else ""
        takes = f"takes {math.ceil(mb)} MB" if measured else f"takes more than the {math.ceil(mb)} MB of its file"
        where = f"each of {processes} inference processes" if processes > 1 else "the inference process"
        enough = math.ceil(mb * processes * (AMPLE if measured else OF_A_FILE))
        advice = f"Set {'GPU_MEMORY_MB' if on_gpu else 'INFERENCE_MEMORY_MB'} to {enough} or more"
        if on_gpu and enough > self._share.gpu_total_mb:
            advice = "Set INFERENCE_PROCESSES to fewer"
        return errors.Conflict(
            f"The model {takes}{of_gpu} in {where}, which may use {math.floor(limit_mb)} MB for models. {advice} "
            "and start the platform again, or use a smaller model."
        )

    def _expected(self, serving: Serving) -> Footprint:
        """What it took when it was loaded last; before that, the size of its file, on a GPU where it may run there."""
        if (known := self._sizes.get(_kind(serving))) is not None:
            return known
        file_mb = _file_mb(serving)
        return Footprint(file_mb, file_mb if self._share.gpu_mb and engine_class(serving.engine).takes_gpu else 0.0)

    @contextmanager
    def use(self, model_id: str, *, asked: bool = True) -> Iterator[Runtime]:
        """The runtime, which stays alive inside the block.

        Args:
            model_id: The model.
            asked: Whether this is for a request: what is only probed has been of use to nobody.

        Raises:
            Unloaded: The model made room, or was deleted, a moment ago.
        """
        with self._lock:
            held = self._held.get(model_id)
            if held is None:
                raise Unloaded(model_id)
            held.users += 1
            if asked:
                self._budget.use(model_id)
        try:
            yield held.runtime
        finally:
            with self._lock:
                held.users -= 1
                last = held.retired and held.users == 0
            if last:
                self._let_go(held)

    def refresh(self) -> bool:
        """Look whether the catalogue changed: drop what is gone, have loaded again what is served differently.

        Tells whether anything was dropped.

        Raises:
            errors.Unavailable: The catalogue cannot be read now; what is loaded goes on serving.
        """
        revision, dropped = self._catalog.revision(), False
        for model_id, held in list(self._held.items()):
            if held.revision == revision:
                continue
            serving = self._catalog.lookup(model_id)
            if serving is None:
                self._replace(model_id, None)
                dropped = True
                logger.info("unloaded %s", model_id)
            else:
                held.outdated = serving != held.wanted
                held.revision = revision
        self._revision = revision
        return dropped

    @property
    def models(self) -> list[str]:
        """Those in memory."""
        return list(self._held)

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
                memory_mb=one.takes.mb,
                gpu_memory_mb=one.takes.gpu_mb,
                deployment_id=one.runtime.serving.deployment_id,
                problem=one.problem,
            )
            for model_id, one in held
        ]

    def memory(self) -> Memory:
        """What the models take, for the heartbeat."""
        takes = [held.takes for held in list(self._held.values())]
        return Memory(
            limit_mb=round(self._share.mb, 1),
            used_mb=round(sum(each.mb for each in takes), 1),
            gpu_limit_mb=round(self._share.gpu_mb or 0.0, 1),
            gpu_used_mb=round(sum(each.gpu_mb for each in takes), 1),
            loads=self._loads,
            load_s=round(self._load_s, 3),
            unloads=self._unloads,
        )

    def bloated(self) -> float | None:
        """MB that models which are gone have left behind, once that is worth starting the process again; else None."""
        if self._base_mb is None or not self._released or not self._loading.acquire(blocking=False):
            return None
        try:
            left_mb = self._heap.resident_mb() - self._base_mb - self._budget.used.mb
        finally:
            self._loading.release()
        return left_mb if left_mb > max(LEFT_MB, self._share.mb / 2) else None

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
                self._budget.enter(model_id, successor.takes)
            else:
                self._held.pop(model_id, None)
                self._budget.leave(model_id)
            if held is not None:
                held.retired = True
            unused = held is not None and held.users == 0
        if held is not None and unused:
            self._let_go(held)

    def _let_go(self, held: _Held) -> None:
        held.runtime.deactivate()
        self._heap.give_back()
        with self._lock:
            held.gone = self._released = True
            self._lock.notify_all()


def _of_storage(serving: Serving, error: Exception) -> Exception:
    """Why a model does not load: it was checked when it was uploaded, so it may be the disk and not the model."""
    if not isinstance(error, errors.BadModel) or not damaged(serving.onnx):
        return error
    logger.error("the stored file of a model is damaged", extra={"model_id": serving.model_id, "said": error.message})
    return errors.Conflict(
        f"The stored file of model {serving.model_id} is damaged or gone. Restore a backup (`cvp restore`), or upload "
        "the model again."
    )


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


def _kind(serving: Serving) -> tuple[object, ...]:
    """What decides how much memory a serving takes."""
    return serving.onnx, serving.engine, serving.precision, serving.batch_size, serving.threads, serving.instances


def _file_mb(serving: Serving) -> float:
    """The size of its file in each session: it takes that at least."""
    try:
        return serving.instances * serving.onnx.stat().st_size / MB
    except OSError:
        return 0.0  # the engine says that it is gone
