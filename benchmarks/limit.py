"""The physical limit of serving: decode, network and answer in a bare loop on every core, without a server."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from unittest import mock

import msgspec

from benchmarks.peers.model import Array, Model
from shared import config
from shared.engines import engine_class
from shared.specs import EngineName, Preprocessing
from shared.vision.preprocess import preprocess, read

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Barrier

WARM_UP_S = 1.0
AS_SERVED = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "MALLOC_ARENA_MAX": "1"}
"""The memory that an inference process has (`deploy/supervisord.conf`)."""
START_S = 120


class Loop(NamedTuple):
    """A way to go through images as fast as the machine can: an engine with one thread, and how many rows a call."""

    engine: EngineName
    batch: int
    name: str
    decoder: type[Model]


class Meeting(NamedTuple):
    """Where the processes wait for one another, and leave what they found."""

    together: Barrier
    found: Queue[Pace]


class OursInside(Model):
    """Images are prepared as the platform prepares them, which is the same tensor sooner."""

    def __init__(self, path: Path, run: Callable[[Array], Array] | None = None) -> None:
        super().__init__(path, run)
        beside = path.with_suffix(".json")
        self._as_ours = msgspec.json.decode(beside.read_bytes(), type=Preprocessing) if beside.exists() else None

    def tensor(self, body: bytes) -> Array:
        """The input for one body."""
        if self._as_ours is None:
            return super().tensor(body)
        return preprocess(read(body, self._as_ours), self._as_ours)


LOOPS = (
    Loop("onnxruntime", 1, "bare loop, ONNX Runtime, batch 1", Model),
    Loop("onnxruntime", 4, "bare loop, ONNX Runtime, batch 4", OursInside),
    Loop("openvino", 1, "bare loop, OpenVINO, batch 1", OursInside),
    Loop("openvino", 4, "bare loop, OpenVINO, batch 4", OursInside),
)
"""The first is what a peer's share of the limit refers to: with Pillow, as peers decode."""


def model(path: Path, engine: EngineName, decoder: type[Model] = OursInside) -> Model:
    """The model on one of the platform's engines."""
    loaded = engine_class(engine)(path, threads=1)
    loaded.activate()
    name = loaded.inputs[0].name

    def run(batch: Array) -> Array:
        return next(iter(loaded.infer({name: batch}).values()))

    return decoder(path, run)


class Pace(NamedTuple):
    """How fast answers come."""

    per_s: float
    cpu_ms: float
    """Processor time of one, which says more than its wall time where others use the machine too."""


def pace(loop: Loop, path: Path, bodies: Sequence[bytes], seconds: float) -> Pace:
    """Of as many processes as there are cores, all together."""
    spawn = multiprocessing.get_context("spawn")
    count = config.cores()
    together, found = spawn.Barrier(count, timeout=START_S), spawn.Queue()
    given = (loop, path, list(bodies), seconds, Meeting(together, found))
    processes = [spawn.Process(target=_answer, args=given, daemon=True) for _ in range(count)]
    with mock.patch.dict(os.environ, AS_SERVED):
        for process in processes:
            process.start()
    try:
        paces: list[Pace] = [found.get(timeout=START_S + seconds) for _ in processes]
    finally:
        for process in processes:
            process.kill()
            process.join()
    return Pace(sum(pace.per_s for pace in paces), sum(pace.cpu_ms for pace in paces) / len(paces))


def _answer(loop: Loop, path: Path, bodies: list[bytes], seconds: float, meeting: Meeting) -> None:
    runs = model(path, loop.engine, loop.decoder)
    batches = [bodies[start : start + loop.batch] for start in range(0, len(bodies), loop.batch)]
    _go_on(runs, batches, WARM_UP_S)
    meeting.together.wait()
    meeting.found.put(_go_on(runs, batches, seconds))


def _go_on(runs: Model, batches: Sequence[list[bytes]], seconds: float) -> Pace:
    began, used, done, turn = time.perf_counter(), time.process_time(), 0, 0
    while (taken := time.perf_counter() - began) < seconds:
        done += len(runs.answers(batches[turn % len(batches)]))
        turn += 1
    return Pace(done / taken, 1000 * (time.process_time() - used) / done)
