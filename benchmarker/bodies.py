"""What the load generator sends: images of the test split, or else some drawn from the seed, in a sandboxed process.

The generator itself opens no file that a user made; it gets whole bodies through a descriptor.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarker import Bodies, BodiesOrder
from shared import child, errors, sandbox
from shared.specs import Preprocessing, TensorInfo

MOST = 64
"""Different bodies."""
MOST_BYTES = 64 * 2**20
"""Of all of them together; a single one is sent whatever its size."""

Body = tuple[str, bytes]
"""Content type and content."""


def enclosed(order: BodiesOrder, _report: child.Report) -> Bodies:
    """Make them with the dataset in reach and nothing else.

    Raises:
        errors.AppError: The dataset cannot be read, or no input of this model can be drawn.
    """
    data = order.dataset
    files = (data.index, data.pack, data.archive) if data else ()
    sandbox.enter([Path(__file__).parent, *map(Path, files)])
    return make(order)


def make(order: BodiesOrder) -> Bodies:
    """Make them in this process; they go to the descriptor as MessagePack.

    Raises:
        errors.AppError: As `enclosed`.
    """
    contract = order.description.preprocessing
    if contract is None:
        source, found = "drawn tensors", _drawn_tensors(order.inputs, order.seed)
    else:
        source, found = "test split", _test_split(order)
        if not found:
            source, found = "drawn images", _drawn_images(contract, order.seed)
    with os.fdopen(os.dup(order.output), "wb") as file:
        file.write(msgspec.msgpack.encode(found))
    sizes = sorted(len(content) for _, content in found)
    return msgspec.convert({"source": source, "count": len(found), "middle_bytes": sizes[len(sizes) // 2]}, Bodies)


def _test_split(order: BodiesOrder) -> list[Body]:
    """As they were uploaded; frames of a video as they are kept."""
    from benchmarker.testsplit import asked
    from shared.vision.samples import SampleImages, read_index

    if order.dataset is None:
        return []
    samples = asked(read_index(Path(order.dataset.index)), order.seed).samples[:MOST]
    with SampleImages(Path(order.dataset.archive), Path(order.dataset.pack)) as images:
        return list(_bounded(images.read(sample) for sample in samples))


def _bounded(contents: Iterator[bytes]) -> Iterator[Body]:
    total = 0
    for content in contents:
        total += len(content)
        if total > MOST_BYTES and total > len(content):
            return
        yield "application/octet-stream", content  # the first bytes say what it is


def _drawn_images(contract: Preprocessing, seed: int) -> list[Body]:
    from shared.vision.samples import drawn_image

    size = contract.resize
    return [("image/jpeg", drawn_image(size.height, size.width, seed + at)) for at in range(8)]


def _drawn_tensors(inputs: list[TensorInfo], seed: int) -> list[Body]:
    from shared.engines.timing import synthetic_feeds

    first = inputs[0].shape[0] if inputs[0].shape else 1
    feeds = synthetic_feeds(inputs, first if isinstance(first, int) else 1, seed)
    if any(array.dtype.kind not in "biuf" for array in feeds.values()):
        raise errors.InvalidInput("The service takes numbers over HTTP, and an input of this model is none.")
    named = {name: array.tolist() for name, array in feeds.items()}
    return [("application/json", msgspec.json.encode({"inputs": named}))]


if __name__ == "__main__":
    child.main(BodiesOrder, enclosed)
