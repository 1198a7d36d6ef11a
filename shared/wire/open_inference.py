"""The Open Inference Protocol, version 2: what the JSON of an inference request says, in the gateway and behind it.

As KServe specifies it, with the extension for binary tensors: the JSON, the *head*, comes first; then the values of
those tensors that say a `binary_data_size`, one tensor after the other, little-endian, the last axis fastest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from shared import wording
from shared.errors import BadTensor, InvalidInput
from shared.specs import TensorInfo

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"
]

DTYPES: dict[Datatype, str] = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
"""The NumPy names. BYTES has none: here its values are image files."""

DATATYPES: dict[str, Datatype] = {dtype: datatype for datatype, dtype in DTYPES.items()}

MAX_LENGTH = 2**31 - 1
MAX_AXES = 32
MAX_TENSORS = 128

Length = Annotated[int, Meta(ge=1, le=MAX_LENGTH)]
Bytes = Annotated[int, Meta(ge=0, le=MAX_LENGTH)]

NO_SHARED_MEMORY = "Shared memory is not supported: send values in the request and take them from the answer."
NO_CLASSIFICATION = "The classification extension is not supported: POST /api/v1/inference/predict gives labels."
NO_SEQUENCES = "Sequences are not supported: each request stands for itself; leave out `sequence_id`."
NO_PRIORITIES = "Requests have no priorities here; leave out `priority`."


class InputParameters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What may go with an input; others are for servers that know them."""

    binary_data_size: Bytes | None = None
    shared_memory_region: str | None = None


class InputTensor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One input: its values are in `data`, or follow the head as `binary_data_size` bytes."""

    name: str
    shape: Annotated[list[Length], Meta(max_length=MAX_AXES)]
    datatype: Datatype
    parameters: InputParameters | None = None
    data: Raw | UnsetType = UNSET

    @property
    def binary_bytes(self) -> int | None:
        """Bytes of its values behind the head; None where they are in `data`."""
        return self.parameters.binary_data_size if self.parameters else None

    @property
    def size(self) -> int:
        """How many values its shape has room for."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.datatype} {self.shape}"


class OutputParameters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What may go with a requested output."""

    binary_data: bool | None = None
    classification: int | None = None
    shared_memory_region: str | None = None


class RequestedOutput(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One output that is wanted."""

    name: str
    parameters: OutputParameters | None = None


class RequestParameters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What may go with a request; others are for servers that know them."""

    binary_data_output: bool | None = None
    timeout: Bytes | None = None
    """Longest wait for its turn, microseconds; 0 is none of its own."""
    priority: int | None = None
    sequence_id: int | str | None = None


class InferRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The JSON of a request."""

    inputs: Annotated[list[InputTensor], Meta(min_length=1, max_length=MAX_TENSORS)]
    id: str | None = None
    parameters: RequestParameters | None = None
    outputs: Annotated[list[RequestedOutput], Meta(max_length=MAX_TENSORS)] | None = None

    @property
    def rows(self) -> int:
        """Length of its batch; of BYTES as many as there are values, each an image file, whatever their axes."""
        first = self.inputs[0]
        if first.datatype == "BYTES":
            return min(first.size, MAX_LENGTH)
        return first.shape[0] if first.shape else 1

    @property
    def queue_ms(self) -> float | None:
        """How long it may wait for its turn, as it says itself."""
        timeout_us = self.parameters.timeout if self.parameters else None
        return timeout_us / 1000 if timeout_us else None

    def wanted(self, outputs: Sequence[str]) -> dict[str, bool]:
        """The outputs to give of a model that has these, and whether as binary.

        Raises:
            BadTensor: The model has no such output.
        """
        binary = bool(self.parameters and self.parameters.binary_data_output)
        if not self.outputs:
            return dict.fromkeys(outputs, binary)
        wanted = {}
        for output in self.outputs:
            if output.name not in outputs:
                raise BadTensor(f"The model has no output {output.name[:100]!r}; it gives {_listed(outputs)}.")
            said = output.parameters.binary_data if output.parameters else None
            wanted[output.name] = binary if said is None else said
        return wanted


_decoder = msgspec.json.Decoder(InferRequest)


def decode(head: bytes | memoryview) -> InferRequest:
    """The head of a request.

    Raises:
        InvalidInput: It is not JSON, or says something else.
    """
    try:
        return _decoder.decode(head)
    except msgspec.ValidationError as error:
        path, message = wording.explained(InferRequest, str(error))
        where = f"`{path.lstrip('.')[:100]}`:" if path else "The JSON of the request"
        raise InvalidInput(f"{where} {message}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"The JSON of the request cannot be read: {error}.") from None
    except RecursionError:
        raise InvalidInput("The JSON of the request is nested too deeply.") from None


def check(request: InferRequest, binary_bytes: int) -> None:
    """See that a head agrees with itself and with the `binary_bytes` that follow it, and asks for what there is.

    Raises:
        InvalidInput: It does not.
    """
    _check_different("Input", [tensor.name for tensor in request.inputs])
    _check_different("Output", [output.name for output in request.outputs or []])
    if request.parameters and request.parameters.sequence_id:
        raise InvalidInput(NO_SEQUENCES)
    if request.parameters and request.parameters.priority:
        raise InvalidInput(NO_PRIORITIES)
    for output in request.outputs or []:
        if output.parameters and output.parameters.classification:
            raise InvalidInput(NO_CLASSIFICATION)
        if output.parameters and output.parameters.shared_memory_region:
            raise InvalidInput(NO_SHARED_MEMORY)
    for tensor in request.inputs:
        _check_values(tensor)
    said = sum(tensor.binary_bytes or 0 for tensor in request.inputs)
    if said != binary_bytes:
        raise InvalidInput(
            f"The inputs say {said} bytes of `binary_data_size` in all, and {binary_bytes} follow the JSON; "
            "`Inference-Header-Content-Length` is the length of the JSON alone."
        )


def tensor_shape(info: TensorInfo) -> list[int]:
    """A shape as the protocol has it: -1 for an axis of any length."""
    return [size if isinstance(size, int) else -1 for size in info.shape]


def datatype(info: TensorInfo) -> Datatype:
    """The protocol's name of a tensor's dtype."""
    return DATATYPES[info.dtype]


def _check_different(what: str, names: Sequence[str]) -> None:
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise InvalidInput(f"{what} {min(twice)[:100]!r} is given twice.")


def _check_values(tensor: InputTensor) -> None:
    if tensor.parameters and tensor.parameters.shared_memory_region:
        raise InvalidInput(NO_SHARED_MEMORY)
    if (tensor.data is UNSET) == (tensor.binary_bytes is None):
        raise InvalidInput(
            f"Input {tensor.name[:100]!r} needs its values in `data` or, behind the JSON, as many bytes as "
            "`binary_data_size` in its `parameters` says; one of the two."
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
