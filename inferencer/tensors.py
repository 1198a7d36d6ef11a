"""Raw tensors of the Open Inference Protocol: from a request to what a model takes, from what it gives to an answer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from shared import errors, wording
from shared.engines import Feeds, Tensor
from shared.runtime import MAX_NUMBERS, Runtime, numbers
from shared.specs import TensorInfo
from shared.vision import postprocess
from shared.wire.open_inference import DATATYPES, DTYPES, Datatype, InferRequest, InputTensor, datatype, tensor_shape

MAX_ANSWER_BYTES = 64 * 2**20
MAX_FILES = 64
"""Image files in one request, as many as `predict` takes."""


def read(
    runtime: Runtime, request: InferRequest, binary: memoryview, expired: Callable[[], bool] = lambda: False
) -> dict[str, Tensor]:
    """The input of a model, batch first; `binary` is what follows the head, and only read.

    An input of BYTES is image files, for a model with a preprocessing contract: they are decoded as by `predict`.

    Raises:
        errors.BadTensor: A name, datatype, shape or length does not fit, or a requested output is none of the model's.
        errors.BadImage: An image cannot be decoded.
        errors.TooLarge: More numbers of JSON, images or pixels than there may be.
        errors.DeadlineExceeded: Time ran out between two images.
    """
    infos = {info.name: info for info in runtime.serving.inputs}
    request.wanted([info.name for info in runtime.serving.outputs])
    given = {tensor.name: tensor for tensor in request.inputs}
    if given.keys() != infos.keys():
        takes = ", ".join(f"{info.name!r} {_told(info)}" for info in infos.values())
        raise errors.BadTensor(f"The model takes {takes}; given {wording.quoted(given)}.")
    if sum(tensor.size for tensor in request.inputs if tensor.binary_bytes is None) > MAX_NUMBERS:
        raise errors.TooLarge(
            f"At most {MAX_NUMBERS:,} numbers fit in the JSON of a request; send them as binary data."
        )
    if len(given) == 1 and request.inputs[0].datatype == "BYTES" and runtime.serving.preprocessing is not None:
        return dict(runtime.decode(_files(request.inputs[0], binary), expired).feeds)
    parts = dict(zip(given, _parts(binary, request.inputs), strict=True))
    feeds = {name: _array(info, given[name], parts[name]) for name, info in infos.items()}
    runtime.check(feeds)
    return feeds


def write(outputs: Feeds, wanted: Mapping[str, bool]) -> list[bytes]:
    """The JSON list of the outputs that are `wanted` (true: as binary data), and the bytes of those that are binary.

    Raises:
        errors.BadOutput: One that would be JSON holds NaN or infinity.
        errors.TooLarge: More bytes or numbers than an answer may have.
    """
    if sum(outputs[name].nbytes for name in wanted) > MAX_ANSWER_BYTES:
        raise errors.TooLarge(f"The outputs are over {MAX_ANSWER_BYTES // 2**20} MiB; send fewer rows at once.")
    if sum(outputs[name].size for name, binary in wanted.items() if not binary) > MAX_NUMBERS:
        raise errors.TooLarge(f"At most {MAX_NUMBERS:,} numbers fit in the JSON of an answer; ask for binary data.")
    told, parts = [], []
    for name, binary in wanted.items():
        array = outputs[name]
        output: dict[str, Any] = {"name": name, "datatype": _datatype(array.dtype), "shape": array.shape}
        if binary:
            parts.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
            output["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            postprocess.check_finite(f"values of {name!r}", array)
            output["data"] = array.ravel().tolist()
        told.append(output)
    return [msgspec.json.encode(told), b"".join(parts)]


def _array(info: TensorInfo, tensor: InputTensor, binary: memoryview) -> Tensor:
    """One input as an array of the model's dtype.

    Raises:
        errors.BadTensor: It is of another datatype, has more or fewer axes, or its values do not fill its shape.
    """
    if tensor.datatype != datatype(info) or not _alike(tensor.shape, tensor_shape(info)):
        raise errors.BadTensor(f"Input {info.name!r} must be {_told(info)}; given {tensor.datatype} {tensor.shape}.")
    if tensor.binary_bytes is None:
        return _from_json(info, tensor)
    dtype = _on_the_wire(tensor.datatype)
    if len(binary) != tensor.size * dtype.itemsize:
        raise errors.BadTensor(
            f"Input {info.name!r}, {tensor.datatype} {tensor.shape}, takes {tensor.size * dtype.itemsize} bytes; "
            f"given {len(binary)}."
        )
    if tensor.datatype == "BOOL" and np.frombuffer(binary, np.uint8).max() > 1:
        raise errors.BadTensor(f"Input {info.name!r} is BOOL: each of its bytes must be 0 or 1.")
    return np.frombuffer(binary, dtype).reshape(tensor.shape).astype(info.dtype, copy=False)


@functools.cache  # NumPy looks names up in Python, which takes as long as a small model
def _datatype(dtype: np.dtype[np.generic]) -> Datatype:
    return DATATYPES[dtype.name]


@functools.cache
def _on_the_wire(datatype: Datatype) -> np.dtype[np.generic]:
    return np.dtype(DTYPES[datatype]).newbyteorder("<")


def _alike(given: Sequence[int], takes: Sequence[int]) -> bool:
    """Whether a shape fits, but for the first axis: what may be there, `Runtime.check` knows."""
    return len(given) == len(takes) and all(
        size in (-1, length) for size, length in zip(takes[1:], given[1:], strict=True)
    )


def _from_json(info: TensorInfo, tensor: InputTensor) -> Tensor:
    """From `data`, a flat list or one nested as the shape says."""
    text = bytes(tensor.data or b"")
    count = text.count(b",") + 1  # however they are nested; more are not decoded
    nested = text.lstrip()[1:].lstrip()[:1] == b"["
    if count == tensor.size:
        array = numbers(info, msgspec.Raw(text), len(tensor.shape) if nested else 1)
        if array.size == count and (not nested or list(array.shape) == tensor.shape):
            return array.reshape(tensor.shape)
    raise errors.BadTensor(
        f"Input {info.name!r} has the shape {tensor.shape}; its `data` must be {tensor.size} numbers, flat or nested."
    )


def _files(tensor: InputTensor, binary: memoryview) -> list[memoryview]:
    """The values of a tensor of BYTES: each is its length in four bytes, and then itself.

    Raises:
        errors.BadTensor: They are JSON, or their lengths do not add up to the bytes there are or to the shape.
        errors.TooLarge: There are more than `MAX_FILES`.
    """
    if tensor.binary_bytes is None:
        raise errors.BadTensor("Image files are no JSON; send BYTES as binary data.")
    if tensor.size > MAX_FILES:
        raise errors.TooLarge(f"One request takes at most {MAX_FILES} images; send several.")
    values: list[memoryview] = []
    start = 0
    while start < len(binary) and len(values) <= tensor.size:
        begin = start + 4
        end = begin + int.from_bytes(binary[start:begin], "little")
        if max(begin, end) > len(binary):
            raise errors.BadTensor(f"Input {tensor.name!r}: value {len(values)} of BYTES is cut off.")
        values.append(binary[begin:end])
        start = end
    if len(values) != tensor.size or start != len(binary):
        raise errors.BadTensor(
            f"Input {tensor.name!r} has the shape {tensor.shape}; its bytes are not that many values."
        )
    return values


def _parts(binary: memoryview, inputs: Iterable[InputTensor]) -> Iterator[memoryview]:
    """What follows a head, cut into the values of its tensors; those that are JSON have none there."""
    start = 0
    for tensor in inputs:
        end = start + (tensor.binary_bytes or 0)
        yield binary[start:end]
        start = end


def _told(info: TensorInfo) -> str:
    """A tensor of the model in the protocol's words: `FP32 [-1, 3, 224, 224]`."""
    return f"{datatype(info)} {tensor_shape(info)}"
