"""`python -m inferencer INDEX`: the INDEX-th process of the inference farm."""

from __future__ import annotations

import logging
import sys
import time

from inferencer.batcher import Batcher
from inferencer.catalog import DatabaseCatalog
from inferencer.heap import may_start_again
from inferencer.sessions import Sessions, Share
from inferencer.worker import Worker, credit
from shared import config, process
from shared.wire.worker import WorkerLink

logger = logging.getLogger("inferencer")


def main(settings: config.Settings, stop: process.Stop, index: int) -> None:
    """Serve until asked to stop and everything held is answered."""
    farm = settings.inference_farm
    threads = farm[index]
    at_once = min(threads, max(1, config.cores() // len(farm)))
    shared_out = {"cores": config.cores(), "processes": len(farm), "batches_at_once": at_once}
    logger.info("taking work", extra=shared_out)
    sessions = Sessions(DatabaseCatalog(settings), share=Share(settings.inference_share_mb, len(farm)))
    batcher = Batcher(at_once, sessions.room)
    link = WorkerLink(
        settings.broker_endpoint,
        f"inferencer-{index}",
        credit(threads, at_once),
        on_assign=batcher.put,
        loaded=sessions.loaded,
        memory=sessions.memory,
    )

    def recycle(left_mb: float) -> None:
        if may_start_again(index, len(farm), time.time()):
            logger.warning("starting again: %d MB stayed behind from models that are gone", left_mb)
            stop.set()

    worker = Worker(sessions, batcher, link, recycle=recycle)
    worker.start(at_once)
    try:
        link.run(stop)
    finally:
        worker.close()


if __name__ == "__main__":
    number = int(sys.argv[1])
    process.service(f"inferencer-{number}", lambda settings, stop: main(settings, stop, number))
