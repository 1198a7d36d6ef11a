"""Golden samples: inputs with the answers an engine gave when it was checked, replayed before it serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from shared import errors
from shared.parity import compare
from shared.specs import EngineName, Precision

Tensor = npt.NDArray[np.generic]

MOST_SAMPLES = 8
MOST_BYTES = 16 * 2**20
"""Of inputs and outputs; of a model with large ones there are fewer samples, but always one."""

TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 2e-2, "int8": 2e-2}
"""Largest difference from the answers at the check, as `Parity.max_rel_diff`. On the same machine with the same file
answers are equal but for what another batch size, another number of threads or a GPU does to the order of a sum; in
INT8 that may move a value by a step of its scale."""

DAMAGED = "The golden samples are damaged; run the benchmark again."


class Array(msgspec.Struct, frozen=True, kw_only=True):
    """An array: NumPy dtype name, shape, and its bytes in C order."""

    dtype: str
    shape: list[int]
    data: bytes


class Golden(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact, as MessagePack."""

    schema: Literal["cvp.golden/1"] = "cvp.golden/1"
    engine: EngineName
    precision: Precision
    source: Literal["test split", "synthetic"]
    """Where the inputs come from: images of a dataset, or a seed."""
    inputs: dict[str, Array]
    outputs: dict[str, Array]


class Infers(Protocol):
    """What can be replayed on: a `shared.runtime.Runtime` that is active."""

    def infer(self, feeds: Mapping[str, Tensor], /) -> Mapping[str, Tensor]:
        """Answer any number of rows."""


def write(
    engine: EngineName,
    precision: Precision,
    source: Literal["test split", "synthetic"],
    inputs: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
) -> bytes:
    """The artifact; equal answers give equal bytes."""
    packed = [{name: _packed(array) for name, array in sorted(arrays.items())} for arrays in (inputs, outputs)]
    return msgspec.msgpack.encode(
        Golden(engine=engine, precision=precision, source=source, inputs=packed[0], outputs=packed[1])
    )


def read(data: bytes) -> Golden:
    """The artifact from its bytes.

    Raises:
        errors.Conflict: They are none.
    """
    try:
        return msgspec.msgpack.decode(data, type=Golden)
    except msgspec.MsgspecError as error:
        raise errors.Conflict(DAMAGED) from error


def replay(runtime: Infers, golden: Golden, most_rows: int | None = None) -> list[str]:
    """Give the inputs again and compare the answers; a sentence for what is wrong, nothing when all is well.

    Args:
        runtime: Answers them.
        golden: The samples.
        most_rows: Only the first so many, of a model whose answers come apart by rows.

    Raises:
        errors.Conflict: An array is not what it says.
        errors.AppError: The engine fails on them.
    """
    feeds, wanted = (
        {name: _array(value)[:most_rows] for name, value in part.items()} for part in (golden.inputs, golden.outputs)
    )
    answers = runtime.infer(feeds)
    if set(answers) != set(wanted):
        return [f"It answers with {', '.join(sorted(answers))} instead of {', '.join(sorted(wanted))}."]
    given = [answers[name] for name in wanted]
    if not all(np.isfinite(each).all() for each in wanted.values()):
        raise errors.Conflict(DAMAGED)
    if not all(np.isfinite(each).all() for each in given):
        return ["It answers the golden samples with NaN or infinity."]
    try:
        found = compare(len(next(iter(wanted.values()))), list(wanted.values()), given)
    except ValueError as error:
        return [f"On the golden samples {error}."]
    most = TOLERANCE[golden.precision]
    if found.max_rel_diff is not None and found.max_rel_diff > most:
        return [
            f"Its answers to the golden samples differ by up to {found.max_abs_diff:.3g} from those at the benchmark, "
            f"{found.max_rel_diff:.2g} of the largest of their channel; {most:g} is allowed."
        ]
    return []


def _packed(array: Tensor) -> Array:
    return Array(dtype=array.dtype.name, shape=list(array.shape), data=np.ascontiguousarray(array).tobytes())


def _array(value: Array) -> Tensor:
    try:
        return np.frombuffer(value.data, value.dtype).reshape(value.shape)
    except (TypeError, ValueError) as error:
        raise errors.Conflict(DAMAGED) from error
