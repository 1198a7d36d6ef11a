"""The child that measures what a network takes for one image, at each size that a search may choose.

That time depends on the network and the size of its images, and on no weight: so it is measured once for each size,
before anything is trained, and not by every trial beside another one. Whoever started this child has all slots, as for
a benchmark. It shuts itself in before anything looks at the model.
"""

from __future__ import annotations

import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from shared import child, config, errors, nets, sandbox
from shared.trials import Latencies, Latency, settled
from trainer import LatencyOrder
from trainer.enclosed import with_gpu

ROUNDS, MOST_ROUNDS = 5, 20
"""Times each size is loaded and measured, in an order drawn anew: what drifts meanwhile hits all alike. A size whose
two quickest rounds are apart has more, for the machine was at something else.
"""
WARMUP, CALLS = 10, 500
BLOCK_S = 0.4
"""Bounds a round's warm-up and its calls, each."""
EXPORTED = 0.5
"""Share of the progress that is told."""


def enclosed(order: LatencyOrder, report: child.Report) -> Latencies:
    """Measure with the model and the dataset's index in reach, and nothing else.

    Not where there is a GPU: what its driver needs to have open was never tried in there.

    Raises:
        errors.AppError: As `measure`.
    """
    training = order.training
    if not with_gpu():
        files = [Path(path) for path in (training.weights, training.index)]
        sandbox.enter([Path(__file__).parent, *files], scratch=Path(training.folder))
    nets.settle()
    tempfile.tempdir = training.folder
    report({"stage": "loading PyTorch"})
    return measure(order, report)


def measure(order: LatencyOrder, report: child.Report) -> Latencies:
    """Export the network at every size, then time it: round after round, each size once.

    Raises:
        errors.EngineUnavailable: The engine does not run here.
        errors.InvalidInput: The model and the dataset do not fit, or the network takes no images of a size.
        errors.BadModel: The weights are gone or not ours, the network cannot be exported, or the engine refuses it.
        errors.TooLarge: There is not enough memory.
        errors.Unavailable: The disk is full.
    """
    from shared.engines import engine_class, unavailable  # their libraries start threads, which must be inside as well
    from shared.engines.timing import measure as timed
    from shared.engines.timing import synthetic_feeds

    if reason := unavailable(order.engine, "fp32"):
        raise errors.EngineUnavailable(f"{order.engine} cannot run here: {reason}.")
    files, seed = _exported(order, report), order.training.spec.seed
    threads, devices = order.threads or config.cores(), set[str]()

    def once(size: int) -> float:
        with engine_class(order.engine)(files[size], threads=threads) as engine:
            feeds = synthetic_feeds(engine.inputs, 1, seed)
            timing = timed(engine, feeds, warmup_least=WARMUP, calls=CALLS, max_seconds=BLOCK_S)
            devices.add(engine.device)
        return round(statistics.median(timing.latencies_ns) / 1e6, 6)

    sizes = in_rounds(order.image_sizes, once, seed, report)
    return Latencies(engine=order.engine, device=devices.pop(), threads=threads, sizes=sizes)


def in_rounds(sizes: Sequence[int], once: Callable[[int], float], seed: int, report: child.Report) -> list[Latency]:
    """The latency of each size, the smallest size first.

    Args:
        sizes: To be measured.
        once: Milliseconds of a size, measured once more.
        seed: Of the orders.
        report: Told of every round.
    """
    draw, rounds_ms = random.Random(seed), {size: list[float]() for size in sorted(sizes)}
    for at in range(MOST_ROUNDS):
        left = [size for size, found in rounds_ms.items() if at < ROUNDS or not settled(found)]
        if not left:
            break
        wait = f"{at + 1} of {ROUNDS}" if at < ROUNDS else f"{at + 1}, until two agree"
        report({"stage": f"round {wait}", "fraction": EXPORTED + (1 - EXPORTED) * at / MOST_ROUNDS})
        for size in draw.sample(left, len(left)):
            rounds_ms[size].append(once(size))
    return [Latency(image_size=size, latency_ms=min(found), rounds_ms=found) for size, found in rounds_ms.items()]


def _exported(order: LatencyOrder, report: child.Report) -> dict[int, Path]:
    """A file for each size, as the engine reads it."""
    from shared.engines import engine_class
    from shared.nets import export, weights
    from trainer import terms

    engine, training, files = engine_class(order.engine), order.training, dict[int, Path]()
    for place, size in enumerate(order.image_sizes):
        stage = f"exporting for {size} x {size}"
        report({"stage": stage, "fraction": EXPORTED * place / len(order.image_sizes)})
        hyperparams = msgspec.structs.replace(training.spec.hyperparams, image_size=size)
        spec = msgspec.structs.replace(training.spec, hyperparams=hyperparams)
        start = terms.of(msgspec.structs.replace(training, spec=spec)).start
        net, shape = start.net, start.input_shape
        content = export.export(net, shape).onnx if engine.reads_onnx else weights.state_bytes(net, shape)
        files[size] = Path(training.folder) / f"{size}.{'onnx' if engine.reads_onnx else 'safetensors'}"
        try:
            files[size].write_bytes(content)
        except OSError as error:
            raise errors.Unavailable(f"No room for what is exported ({error.strerror}); see `cvp doctor`.") from error
        engine(files[size], threads=1).prepare()
    return files


if __name__ == "__main__":
    child.main(LatencyOrder, enclosed)
