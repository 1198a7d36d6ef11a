"""`python -m inferencer INDEX`: the INDEX-th process of the inference farm."""

from __future__ import annotations

import sys

from inferencer.batcher import Batcher
from inferencer.catalog import DatabaseCatalog
from inferencer.sessions import Sessions
from inferencer.worker import Worker, credit
from shared import config, process
from shared.wire.worker import WorkerLink


def main(settings: config.Settings, stop: process.Stop, index: int) -> None:
    """Serve until asked to stop and everything held is answered."""
    farm = settings.inference_farm
    threads = farm[index]
    at_once = min(threads, max(1, config.cores() // len(farm)))
    sessions = Sessions(DatabaseCatalog(settings))
    batcher = Batcher(at_once, sessions.room)
    link = WorkerLink(
        settings.broker_endpoint,
        f"inferencer-{index}",
        credit(threads, at_once),
        on_assign=batcher.put,
        loaded=sessions.loaded,
    )
    worker = Worker(sessions, batcher, link)
    worker.start(threads)
    try:
        link.run(stop)
    finally:
        worker.close()


if __name__ == "__main__":
    number = int(sys.argv[1])
    process.service(f"inferencer-{number}", lambda settings, stop: main(settings, stop, number))
