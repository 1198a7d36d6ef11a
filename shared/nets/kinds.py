"""What kind of model a file is, by its content; names are not believed. Opens no pickle and imports no PyTorch."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from shared import errors
from shared.specs import Framework

Kind = Literal["onnx", "torch", "torch_legacy", "torchscript", "pt2", "safetensors", "keras", "hdf5", "graphdef"]
PYTORCH: frozenset[Kind] = frozenset({"torch", "torch_legacy", "torchscript", "pt2", "safetensors"})
TENSORFLOW: frozenset[Kind] = frozenset({"keras", "hdf5", "graphdef"})

IN_WORDS: dict[Kind, str] = {
    "onnx": "ONNX model",
    "torch": "PyTorch checkpoint",
    "torch_legacy": "PyTorch checkpoint of before 1.6",
    "torchscript": "TorchScript archive",
    "pt2": "torch.export archive",
    "safetensors": "safetensors file",
    "keras": "Keras archive",
    "hdf5": "Keras HDF5 file",
    "graphdef": "frozen TensorFlow graph",
}

LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
"""A pickle of the number with which torch.save began its files before they were ZIP archives (PyTorch 1.6)."""
HDF5 = b"\x89HDF\r\n\x1a\n"
PICKLE_PROTOCOLS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
ONNX = frozenset((0x08, 0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72, 0xA2, 0xCA, 0xD2))
"""The tags a protobuf `ModelProto` can begin with."""
HEAD_BYTES = 128
"""As much of a file as `framework_of` looks at: the name of an archive's first member is in it."""
ZIP_HEADER = 30
"""Bytes of a ZIP member before its name."""
KERAS_MEMBERS = (b"metadata.json", b"config.json", b"model.weights.h5")
SLACK_BYTES = 64 * 2**20
"""What an archive may unpack to beyond its own size: PyTorch and Keras compress no weights, only code and JSON."""


def kind_of(path: Path) -> Kind:
    """The kind of a model file.

    Reads the directory of an archive, so call it where memory is limited when the file is not trusted.

    Raises:
        errors.BadModel: It is none of the kinds, or an archive that is cut off or unpacks to more than it may.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    return _archive(path) if head.startswith(b"PK") else _plain(head)


def framework_of(head: bytes) -> Framework:
    """Which framework's file begins so, by its first `HEAD_BYTES`; that it is whole and sound is yet to be seen.

    Raises:
        errors.BadModel: No framework's.
    """
    if head.startswith(b"PK"):  # Keras puts its members at the top, PyTorch all of them into one folder
        return "tensorflow" if head[ZIP_HEADER:].startswith(KERAS_MEMBERS) else "pytorch"
    kind = _plain(head)
    return "onnx" if kind == "onnx" else "pytorch" if kind in PYTORCH else "tensorflow"


def _plain(head: bytes) -> Kind:
    """The kind of a file that is no archive."""
    if head.startswith(LEGACY):
        return "torch_legacy"
    if head.startswith(HDF5):
        return "hdf5"
    if head[8:10] in (b'{"', b"{}"):
        return "safetensors"
    if head[:1] == b"\x0a":  # field 1 of a GraphDef is a node, of an ONNX model a number
        return "graphdef"
    if head and head[0] in ONNX:
        return "onnx"
    if head.startswith(PICKLE_PROTOCOLS):
        raise errors.BadModel(
            "This is a plain pickle, which is a program and is never opened. "
            "Save the weights with torch.save(model.state_dict(), path) or as safetensors."
        )
    raise errors.BadModel(
        "The content is no model that is known here. Possible are ONNX, PyTorch (torch.save, TorchScript, .pt2, "
        "safetensors), Keras (.keras, .h5) and a frozen TensorFlow graph (.pb)."
    )


def members(archive: zipfile.ZipFile) -> Sequence[zipfile.ZipInfo]:
    """What is in an archive.

    Raises:
        errors.BadModel: It unpacks to more than it may.
    """
    found = archive.infolist()
    packed, unpacked = Path(str(archive.filename)).stat().st_size, sum(each.file_size for each in found)
    if unpacked > packed + SLACK_BYTES:
        raise errors.BadModel(
            f"The archive unpacks to {unpacked:,} bytes from {packed:,}; a model file does not. Save the model again."
        )
    return found


def _archive(path: Path) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {each.filename for each in members(archive)}
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise errors.BadModel(
            f"The archive cannot be read ({error}). Check that the upload was not cut off."
        ) from error
    inner = {name.partition("/")[2] for name in names}
    if "archive_format" in inner and any(name.startswith("models/") for name in inner):
        return "pt2"
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return "torchscript"
    if "data.pkl" in inner:
        return "torch"
    if {"config.json", "model.weights.h5"} <= names:
        return "keras"
    if any(name.rpartition("/")[2] == "saved_model.pb" for name in names):
        raise errors.BadModel(
            "The archive holds a TensorFlow SavedModel. Save the Keras model as model.keras, or freeze the graph "
            "(convert_variables_to_constants_v2), and upload that one file."
        )
    raise errors.BadModel(
        "The archive holds no model: neither one of torch.save, TorchScript or torch.export, nor one of Keras."
    )
