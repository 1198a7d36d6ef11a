"""Decodes JPEGs of the test split at several scales in turn and takes the time, in a sandboxed process."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import NamedTuple

from benchmarker import JpegsOrder, JpegsTimed
from shared import child, sandbox
from shared.specs import Preprocessing

MOST_IMAGES = 64
MOST_BYTES = 64 * 2**20
ROUND_S = 1.0
"""Of images that take longer than this at full size there are fewer, but eight."""
FEWEST_IMAGES = 8
MOST_LOOKED_AT = 1024
"""Images of the test split; where so many are no JPEGs, a few that come later are no matter."""

JPEG = b"\xff\xd8\xff"


class Found(NamedTuple):
    """JPEGs of the test split."""

    files: list[bytes]
    looked_at: int
    sizes: list[tuple[int, int]]
    """Of the upright originals."""


def enclosed(order: JpegsOrder, _report: child.Report) -> JpegsTimed:
    """Time them with the dataset in reach and nothing else.

    Raises:
        errors.AppError: The dataset cannot be read.
    """
    data = order.dataset
    sandbox.enter([Path(__file__).parent, *map(Path, (data.index, data.pack, data.archive))])
    return timed(order)


def timed(order: JpegsOrder) -> JpegsTimed:
    """Time them in this process: every scale once a round, in an order drawn anew for each.

    Raises:
        errors.AppError: As `enclosed`.
    """
    found = jpegs(order)
    if not found.files:
        return JpegsTimed(looked_at=found.looked_at, images=0, width=0, height=0, round_ns=[])
    contracts = [order.contract.reduced(scale) for scale in order.scales]
    for contract in contracts:
        prepare(found.files, contract)  # warms up
    draw, taken = random.Random(order.seed), [[0] * order.rounds for _ in contracts]
    for number in range(order.rounds):
        for place in draw.sample(range(len(contracts)), len(contracts)):
            taken[place][number] = prepare(found.files, contracts[place])
    width, height = sorted(found.sizes, key=lambda size: size[0] * size[1])[len(found.sizes) // 2]
    return JpegsTimed(looked_at=found.looked_at, images=len(found.files), width=width, height=height, round_ns=taken)


def jpegs(order: JpegsOrder) -> Found:
    """The first JPEGs of the test split, as it is asked, until they are enough to time."""
    from benchmarker.testsplit import asked
    from shared.vision.samples import SampleImages, read_index

    samples = asked(read_index(Path(order.dataset.index)), order.seed).samples[:MOST_LOOKED_AT]
    found, looked_at, size_bytes, taken_ns = Found([], 0, []), 0, 0, 0
    with SampleImages(Path(order.dataset.archive), Path(order.dataset.pack)) as images:
        for sample in samples:
            looked_at += 1
            data = images.read(sample)
            if sample.time_s is not None or not data.startswith(JPEG):
                continue
            found.files.append(data)
            found.sizes.append((sample.width, sample.height))
            size_bytes += len(data)
            taken_ns += prepare([data], order.contract)
            enough = len(found.files) >= FEWEST_IMAGES and (size_bytes > MOST_BYTES or taken_ns > ROUND_S * 1e9)
            if enough or len(found.files) == MOST_IMAGES:
                break
    return found._replace(looked_at=looked_at)


def prepare(files: list[bytes], contract: Preprocessing) -> int:
    """Nanoseconds to decode and prepare them all, one after another, as for a prediction."""
    import numpy as np

    from shared.vision.preprocess import preprocess, read, shape

    row = np.empty(shape(contract), contract.dtype)
    began = time.perf_counter_ns()
    for data in files:
        preprocess(read(data, contract), contract, row)
    return time.perf_counter_ns() - began


if __name__ == "__main__":
    child.main(JpegsOrder, enclosed)
