"""`python -m inferencer INDEX`: the INDEX-th process of the inference farm."""

from __future__ import annotations

import functools
import logging
import os
import sys
import time

from inferencer.batcher import Batcher
from inferencer.catalog import DatabaseCatalog
from inferencer.health import Health
from inferencer.heap import may_start_again
from inferencer.sessions import Sessions, Share
from inferencer.worker import Worker, credit
from shared import config, farm, gpu, process
from shared.runtime import Runtime
from shared.wire.worker import WorkerLink

logger = logging.getLogger("inferencer")


def batches_at_once(threads: int, processes: int, *, chosen: bool) -> int:
    """How many batches a process runs at once: never more in all than there are cores.

    Fewer processes than cores that somebody chose share the cores; those that were found by measuring are as many as
    pay, and a second batch in one of them would pay no more than another process.
    """
    return min(threads, max(1, config.cores() // processes)) if chosen else 1


def share_of(settings: config.Settings, gpu_total_mb: float | None) -> Share:
    """What each inference process may use for models, of a GPU of so many MB if there is one."""
    processes = len(settings.inference_farm)
    if gpu_total_mb is None:
        return Share(settings.inference_share_mb, processes)
    gpu_mb = min(settings.gpu_memory_mb or gpu_total_mb, gpu_total_mb) / processes
    return Share(settings.inference_share_mb, processes, gpu_mb, gpu_total_mb)


def main(settings: config.Settings, stop: process.Stop, index: int) -> None:
    """Serve until asked to stop and everything held is answered."""
    threads = settings.inference_farm[index]
    processes = len(settings.inference_farm)
    at_once = batches_at_once(threads, processes, chosen="INFERENCE_PROCESSES" in config.given(os.environ))
    shared_out = {"cores": config.cores(), "processes": processes, "batches_at_once": at_once}
    logger.info("taking work", extra=shared_out | {"processes_by": os.environ.get(farm.FOUND_BY, "")})
    share = share_of(settings, gpu.total_mb())
    sessions = Sessions(DatabaseCatalog(settings), functools.partial(Runtime, gpu_mb=share.gpu_mb), share=share)
    batcher, health = Batcher(at_once, sessions.room), Health()
    link = WorkerLink(
        settings.broker_endpoint,
        f"inferencer-{index}",
        credit(threads, at_once),
        on_assign=batcher.put,
        loaded=lambda: health.told(sessions.loaded()),
        memory=sessions.memory,
    )

    def recycle(left_mb: float) -> None:
        if may_start_again(index, processes, time.time()):
            logger.warning("starting again: %d MB stayed behind from models that are gone", left_mb)
            stop.set()

    worker = Worker(sessions, batcher, link, health=health, recycle=recycle)
    worker.start(at_once)
    try:
        link.run(stop)
    finally:
        worker.close()


if __name__ == "__main__":
    number = int(sys.argv[1])
    process.service(f"inferencer-{number}", lambda settings, stop: main(settings, stop, number))
