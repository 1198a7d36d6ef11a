"""A candidate's process for `test_measure.py` that misbehaves as the order's seed says."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import sys
import time
from pathlib import Path

from benchmarker import Launched, LaunchOrder
from shared import child
from shared.specs import Block

ANSWERS, CRASHES, SEGFAULTS, IS_KILLED, HANGS, RUNS_OUT_OF_MEMORY, SAYS_NOTHING = range(7)


def launch(order: LaunchOrder, _report: child.Report) -> Launched:
    match order.seed:
        case 1:
            raise ValueError("the kernel is broken")
        case 2:
            os.kill(os.getpid(), signal.SIGSEGV)
        case 3:
            os.kill(os.getpid(), signal.SIGKILL)
        case 4:
            Path(order.artifact).write_text(str(os.getpid()))
            time.sleep(60)
        case 5:
            resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
            return Launched(block=block(bytes(4 << 30)), provider="", device="")
        case 6:
            sys.exit(0)
    with Path(order.artifact).open("ab") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return Launched(block=block(b""), provider="Stub", device="CPU")


def block(held: bytes) -> Block:
    return Block(
        round=1,
        load_ms=1.0,
        warmup_calls=1,
        steady=True,
        latencies_ns=[1_000_000 + len(held)],
        elapsed_ns=1_000_000,
        cpu_util_pct=100.0,
        memory_mb=10.0,
    )


if __name__ == "__main__":
    child.main(LaunchOrder, launch)
