"""An inferencer without engines: `python -m tests.process.inferencer_that WORKER_ID answers|holds`.

The model id says what becomes of a request: `slow` is answered after half a second, `slower` after two, `dies` takes
the process along, `broken` fails.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence

from shared import config
from shared.errors import BadImage
from shared.process import Stop
from shared.wire.messages import Assign, Done, LoadedModel
from shared.wire.worker import WorkerLink

MODELS = [
    LoadedModel(model_id=name, engine="none", precision="fp32", batch_size=1, memory_mb=0)
    for name in ("quick", "slow", "slower", "dies", "broken")
]
DELAYS_S = {"slow": 0.5, "slower": 2.0}


def done(assign: Assign, engine: str) -> Done:
    return Done(
        request_id=assign.request_id,
        engine=engine,
        precision="fp32",
        batch_size=1,
        queue_ms=assign.waited_ms,
        decode_ms=0,
        inference_ms=0,
    )


def main(worker_id: str, habit: str) -> None:
    def take(assign: Assign, blobs: Sequence[bytes]) -> None:
        if assign.model_id == "dies":
            os._exit(1)
        if assign.model_id == "broken":
            raise BadImage("It is no image.")
        if habit == "answers":
            delay_s = DELAYS_S.get(assign.model_id, 0.0)
            answers = [(done(assign, worker_id), [b"".join(blobs)])]
            threading.Timer(delay_s, link.deliver, (answers,)).start()

    stop = Stop()
    signal.signal(signal.SIGTERM, stop.set)
    link = WorkerLink(config.load().broker_endpoint, worker_id, 4, on_assign=take, loaded=lambda: MODELS)
    link.run(stop)


if __name__ == "__main__":
    main(*sys.argv[1:])
