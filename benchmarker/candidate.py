"""One launch of one candidate in a process of its own: shut itself in, load, warm up, measure, leave."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from benchmarker import Launched, LaunchOrder
from shared import child, gpu, nets, sandbox
from shared.specs import Block

_STATUS = Path("/proc/self/status")
_GPUS = "nvidia*"


def enclosed(order: LaunchOrder, _report: child.Report) -> Launched:
    """Run the order with the model file and nothing else in reach.

    Not where there is a GPU: what its driver needs to have open was never tried in there.
    """
    if not any(Path("/dev").glob(_GPUS)):
        sandbox.enter([Path(__file__).parent, Path(order.artifact), _STATUS])
    if order.candidate.engine == "pytorch":
        nets.settle()
    return launch(order)


def launch(order: LaunchOrder) -> Launched:
    """Run the order in this process.

    `load_ms` includes the import of the engine's library and every session: a cold start.

    Raises:
        errors.AppError: The engine is not there, refuses the model or fails on it.
    """
    from shared.engines import engine_class  # its libraries start threads, which must be inside as well
    from shared.engines.timing import measure_together, synthetic_feeds

    candidate, meter = order.candidate, gpu.Meter()
    feeds = synthetic_feeds(order.inputs, candidate.batch_size, order.seed)
    begin = time.perf_counter()
    with contextlib.ExitStack() as loaded:
        sessions = [
            loaded.enter_context(
                engine_class(candidate.engine)(
                    Path(order.artifact), precision=candidate.precision, threads=candidate.threads
                )
            )
            for _ in range(candidate.instances)
        ]
        load_ms = (time.perf_counter() - begin) * 1000
        timing = measure_together(
            sessions,
            feeds,
            warmup_least=order.warmup_least,
            calls=order.calls,
            max_seconds=order.max_seconds,
            on_start=meter.start,
        )
        drawn = meter.read() if sessions[0].device.startswith("CUDA") else gpu.Drawn()
        block = Block(
            round=order.round,
            load_ms=load_ms,
            warmup_calls=timing.warmup_calls,
            steady=timing.steady,
            latencies_ns=timing.latencies_ns,
            elapsed_ns=timing.elapsed_ns,
            cpu_util_pct=100 * timing.cpu_ns / timing.elapsed_ns,
            memory_mb=peak_memory_mb(_STATUS.read_text()),
            gpu_util_pct=drawn.util_pct,
            vram_mb=drawn.vram_mb,
            power_w=drawn.power_w,
        )
        return Launched(block=block, provider=sessions[0].provider, device=sessions[0].device)


def peak_memory_mb(status: str) -> float:
    """Peak resident memory from the text of `/proc/self/status`.

    `getrusage` would not do: a process inherits the `ru_maxrss` of the one it was forked from.
    """
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    child.main(LaunchOrder, enclosed)
