"""What an ONNX file says about itself: contract and labels in its metadata, read and written without loading the graph.

An ONNX file is one Protocol Buffers message. Its fields lie one after the other, each with its length, so the weights
are stepped over; the metadata are small fields of their own among them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NamedTuple

import msgspec
from msgspec import Meta

from shared import errors
from shared.specs import Preprocessing, canonical_json

CONTRACT, CONTRACT_HASH, LABELS = "cvp.preprocessing", "cvp.preprocessing_hash", "cvp.labels"
OURS = frozenset({CONTRACT, CONTRACT_HASH, LABELS})

Labels = Annotated[list[Annotated[str, Meta(max_length=200)]], Meta(min_length=1, max_length=100_000)]

METADATA_FIELD = 14
"""`ModelProto.metadata_props`: pairs of a key (field 1) and a value (field 2)."""
VARINT, EIGHT_BYTES, COUNTED, FOUR_BYTES = 0, 1, 2, 5
"""How a field's length is found."""
MAX_VARINT = 10
MAX_FIELDS = 65_536
"""At the top of a model there are a dozen, and one for every operator set, function and pair of metadata."""
MAX_PARTS = 16
"""In one pair, where two belong."""
MAX_VALUE = 16 * 2**20
"""Bytes of one pair: a hundred thousand labels of a hundred characters."""
MAX_FOREIGN = 2**20
"""Bytes of everything beside the network and our pairs that is kept: every engine holds it in memory."""
NETWORK_FIELDS = frozenset({1, 5, 7, 8, 25})
"""`ModelProto`'s versions, graph, operator sets and functions."""
CHUNK = 1 << 20


class Field(NamedTuple):
    """A field at the top of the file: its number, where it begins, and where its content lies."""

    number: int
    kind: int
    start: int
    content: int
    end: int


def read(path: Path) -> dict[str, str]:
    """The pairs of ours in a model's metadata; of a key that is there twice the last value. Others may be gigabytes.

    Raises:
        errors.BadModel: The file is cut off, or no Protocol Buffers message.
    """
    with path.open("rb") as file:
        pairs = (_pair(file, field) for field in _fields(file) if _is_metadata(field))
        return {key: value for key, value in pairs if key in OURS}


def describing(contract: Preprocessing | None, labels: list[str] | None) -> dict[str, str]:
    """The pairs that say how a model is fed and what its classes are called."""
    found: dict[str, str] = {}
    if contract is not None:
        found |= {CONTRACT: canonical_json(contract).decode(), CONTRACT_HASH: contract.hash}
    return found | ({LABELS: canonical_json(labels).decode()} if labels is not None else {})


def contract_in(pairs: Mapping[str, str]) -> Preprocessing | None:
    """The contract among the pairs of a file; None where there is none.

    Raises:
        errors.BadModel: It cannot be read, or its hash is another contract's.
    """
    contract: Preprocessing | None = _decoded(pairs, CONTRACT, Preprocessing)
    said = pairs.get(CONTRACT_HASH)
    if contract is not None and said is not None and said != contract.hash and _is_current(pairs[CONTRACT], contract):
        raise errors.BadModel(
            f"The file's {CONTRACT_HASH} is {said[:64]!r}, but its {CONTRACT} has {contract.hash}: one of them was "
            "changed. Upload the model with `preprocessing`."
        )
    return contract


def labels_in(pairs: Mapping[str, str]) -> list[str] | None:
    """The labels among the pairs of a file; None where there are none.

    Raises:
        errors.BadModel: They cannot be read.
    """
    labels: list[str] | None = _decoded(pairs, LABELS, Labels)
    return labels


def write(source: Path, fd: int, pairs: Mapping[str, str]) -> int:
    """Copy a model to a descriptor, with these pairs in place of those of ours it has.

    Returns:
        How many bytes of texts and pairs of others were left out, for they go beyond `MAX_FOREIGN`.

    Raises:
        errors.BadModel: The source is cut off, or no Protocol Buffers message.
    """
    kept = left_out = 0
    with source.open("rb") as file, open(fd, "wb", closefd=False) as target:
        for field in list(_fields(file)):
            if _is_metadata(field) and _pair(file, field)[0] in OURS:
                continue
            size = field.end - field.start
            if field.number not in NETWORK_FIELDS:
                if kept + size > MAX_FOREIGN:
                    left_out += size
                    continue
                kept += size
            _copy(file, target, field.start, field.end)
        for key, value in pairs.items():
            pair = _counted(1, key.encode()) + _counted(2, value.encode())
            target.write(_counted(METADATA_FIELD, pair))
    return left_out


def _is_current(text: str, contract: Preprocessing) -> bool:
    """Whether this version would write the contract as it stands: one of before lacks fields, and hashes otherwise."""
    return text.encode() == canonical_json(contract)


def _decoded(pairs: Mapping[str, str], key: str, kind: Any) -> Any:
    if key not in pairs:
        return None
    try:
        return msgspec.json.decode(pairs[key], type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise errors.BadModel(f"The metadata {key} of the file cannot be read ({error}). Upload it without.") from error


# --- Protocol Buffers, as far as it takes -----------------------------------------------------------------------------


def _fields(file: BinaryIO) -> Iterator[Field]:
    """The fields at the top of the file, in order."""
    size = os.fstat(file.fileno()).st_size
    position = 0
    for _ in range(MAX_FIELDS):
        if position == size:
            return
        file.seek(position)
        tag = _varint(file)
        number, kind = tag >> 3, tag & 7
        length = _length(file, kind)
        content = file.tell()
        if content + length > size:
            raise errors.BadModel("This is not a complete ONNX file. Check that it was not cut off.")
        yield Field(number, kind, position, content, content + length)
        position = content + length
    raise errors.BadModel(f"The file has more than {MAX_FIELDS:,} parts at its top, which no ONNX model has.")


def _length(file: BinaryIO, kind: int) -> int:
    """Of what follows the tag; a varint is read here, for its end is its length."""
    if kind == VARINT:
        _varint(file)
        return 0
    if kind == COUNTED:
        return _varint(file)
    if kind in (EIGHT_BYTES, FOUR_BYTES):
        return 8 if kind == EIGHT_BYTES else 4
    raise errors.BadModel("This is no ONNX file: its parts are not those of Protocol Buffers.")


def _varint(file: BinaryIO) -> int:
    value = 0
    for index in range(MAX_VARINT):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << (7 * index)
        if byte[0] < 0x80:
            return value
    raise errors.BadModel("This is not a complete ONNX file. Check that it was not cut off.")


def _is_metadata(field: Field) -> bool:
    return field.number == METADATA_FIELD and field.kind == COUNTED and field.end - field.content <= MAX_VALUE


def _pair(file: BinaryIO, field: Field) -> tuple[str, str]:
    """Key and value; what is missing is empty."""
    found = {1: "", 2: ""}
    position = field.content
    for _ in range(MAX_PARTS):
        if position >= field.end:
            return found[1], found[2]
        file.seek(position)
        tag = _varint(file)
        length = _length(file, tag & 7)
        content = file.read(min(length, MAX_VALUE))
        position = file.tell()
        if tag & 7 == COUNTED:
            found[tag >> 3] = content.decode(errors="replace")
    raise errors.BadModel("The file's metadata are no pairs of a key and a value. Export the model again.")


def _counted(number: int, content: bytes) -> bytes:
    return _as_varint(number << 3 | COUNTED) + _as_varint(len(content)) + content


def _as_varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _copy(source: BinaryIO, target: BinaryIO, start: int, end: int) -> None:
    source.seek(start)
    while start < end:
        chunk = source.read(min(CHUNK, end - start))
        start += len(chunk)
        target.write(chunk)
