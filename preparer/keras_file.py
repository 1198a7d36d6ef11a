"""Keras files, `.keras` and `.h5`: checked before TensorFlow is loaded, then opened without running code of theirs."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from shared import errors

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
HDF5 = b"\x89HDF\r\n\x1a\n"
ZIP = b"PK\x03\x04"
MAX_WEIGHTS = 2**31
"""Bytes: an ONNX file, which is one Protocol Buffers message, holds no more."""
MEMBERS = {"metadata.json": 2**20, CONFIG: 2**26, WEIGHTS: MAX_WEIGHTS}
"""What an archive holds, and the bytes each may have."""
MAX_NUMBER = 2**31
"""Larger numbers in a configuration are no sizes; seeds and identities of shared objects stay unlooked at."""
FREE_NUMBERS = {"seed", "shared_object_id"}

CODE = {"__lambda__", "Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"}
"""What carries a program, or names one beside the file."""

Config = dict[str, Any]


class KerasFile:
    """A checked file whose configuration holds data only.

    Args:
        kind: What it is, in words.
        weights: The HDF5 part, open.
        archive: The whole `.keras` file; None when the file is HDF5 itself.
    """

    def __init__(self, kind: str, weights: h5py.File, archive: io.BytesIO | None) -> None:
        self.kind = kind
        self._weights = weights
        self._archive = archive

    def load(self) -> Any:
        """The `keras.Model`, not compiled, loaded in safe mode.

        Raises:
            errors.BadModel: Keras refuses it.
        """
        # Keras tells its formats apart by the name of the file, and ours has none: hence the functions beneath.
        from keras.src.legacy.saving import legacy_h5_format
        from keras.src.saving import saving_lib

        try:
            if self._archive is None:
                return legacy_h5_format.load_model_from_hdf5(self._weights, compile=False, safe_mode=True)
            return saving_lib._load_model_from_fileobj(
                self._archive, custom_objects=None, compile=False, safe_mode=True
            )
        except MemoryError:
            raise
        except Exception as error:
            if "OOM when allocating" in str(error):
                raise
            raise errors.BadModel(
                f"Keras {_version()} cannot load the model: {_one_line(_first(error))} Save it again with a Keras 3 of "
                "today, using built-in layers only."
            ) from error


def opened(path: Path) -> KerasFile | None:
    """Check a file that is of Keras; None when it is something else.

    Raises:
        errors.BadModel: It is damaged, holds code, or is not what Keras saves.
    """
    with path.open("rb") as file:
        start = file.read(len(HDF5))
    if start.startswith(ZIP):
        return _archive(path)
    if start == HDF5:
        return _hdf5(path)
    return None


def _archive(path: Path) -> KerasFile:
    content = io.BytesIO(path.read_bytes())
    try:
        with zipfile.ZipFile(content) as archive:
            _check_members(archive)
            config = archive.read(CONFIG)
            weights = io.BytesIO(archive.read(WEIGHTS))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise errors.BadModel(
            f"The .keras file is damaged ({_one_line(error)}) Save the model again, or check that the upload was not "
            "cut off."
        ) from error
    _check_config(config)
    return KerasFile("Keras archive", _weights(weights), content)


def _check_members(archive: zipfile.ZipFile) -> None:
    """The members Keras writes, each once and of a bearable size, and no others."""
    names = [name for name in archive.namelist() if not name.endswith("/")]
    if names.count(CONFIG) != 1 or names.count(WEIGHTS) != 1:
        raise errors.BadModel(
            f"The file is an archive without one {CONFIG} and one {WEIGHTS}, so it is no model that Keras saved. "
            "Save the model with model.save('model.keras')."
        )
    for name in names:
        if name not in MEMBERS:
            raise errors.BadModel(
                f"The archive holds {name!r} beside the model. Save the model again, without layers that keep files "
                "(vocabularies) of their own."
            )
        if archive.getinfo(name).file_size > MEMBERS[name]:
            raise errors.BadModel(f"{name} in the archive is larger than {MEMBERS[name] // 2**20:,} MB.")


def _hdf5(path: Path) -> KerasFile:
    content = _weights(io.BytesIO(path.read_bytes()))
    config = content.attrs.get("model_config")
    if config is None or "model_weights" not in content:
        raise errors.BadModel(
            "The HDF5 file holds weights without the model they belong to. Save the whole model: "
            "model.save('model.keras')."
        )
    _check_config(config if isinstance(config, bytes) else str(config).encode())
    return KerasFile("Keras HDF5 file", content, None)


def _weights(content: io.BytesIO) -> h5py.File:
    """An HDF5 file in memory whose arrays are inside it and no larger than a model's may be."""
    try:
        file = h5py.File(content, "r")
        total = sum(dataset.nbytes for dataset in _datasets(file))
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise errors.BadModel(
            f"The weights are no complete HDF5 file ({_one_line(error)}) Save the model again, or check that the "
            "upload was not cut off."
        ) from error
    if total > MAX_WEIGHTS:
        raise errors.BadModel(
            f"The arrays in the file take {total:,} bytes unpacked; a model may have {MAX_WEIGHTS:,}."
        )
    return file


def _datasets(group: h5py.Group) -> Iterator[h5py.Dataset]:
    """Every array below a group.

    Raises:
        errors.BadModel: A link or an array points out of the file.
    """
    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise errors.BadModel(f"{name!r} in the HDF5 file is a link, which no saved model has. Save it again.")
        found = group[name]
        if isinstance(found, h5py.Group):
            yield from _datasets(found)
        elif found.external or found.is_virtual:
            raise errors.BadModel(f"The array {name!r} lies in another file. Save the model as a single file.")
        else:
            yield found


def _check_config(content: bytes) -> None:
    try:
        config = json.loads(content)
        objects = list(_objects(config))
    except (ValueError, RecursionError) as error:
        raise errors.BadModel(f"The model's configuration cannot be read: {_one_line(error)}") from error
    for found in objects:
        kind = found.get("class_name")
        if kind in CODE:
            raise errors.BadModel(
                f"The model holds a {str(kind).strip('_')}, which is a program or stands for one; programs from "
                "files are not run. Replace it with built-in layers, or convert the model to ONNX where you trust it."
            )
        if kind and (place := _elsewhere(found)):
            raise errors.BadModel(
                f"{kind!r} comes from {place}, which is code of your own and not in the file. Use built-in layers, or "
                "convert the model to ONNX where that code is."
            )
        if too_large := [key for key, value in found.items() if key not in FREE_NUMBERS and _beyond(value)]:
            raise errors.BadModel(f"{too_large[0]} in the model's configuration is no size that fits any memory.")


def _objects(value: Any) -> Iterator[Config]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _objects(item)


def _elsewhere(config: Config) -> str | None:
    """Where the class of an object comes from, if that is not Keras itself."""
    module, registered = config.get("module"), config.get("registered_name")
    if isinstance(module, str) and module.partition(".")[0] not in ("keras", "builtins"):
        return f"the module {module!r}"
    if isinstance(registered, str) and ">" in registered:
        return f"the package {registered.partition('>')[0]!r}"
    return None


def _beyond(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return any(isinstance(item, int) and abs(item) > MAX_NUMBER for item in values)


def _version() -> str:
    import keras

    return str(keras.__version__)


def _first(error: BaseException) -> BaseException:
    """What went wrong before anything else did: Keras repeats the configuration on every level above."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def _one_line(error: BaseException) -> str:
    line = " ".join(str(error).split())[:300] or type(error).__name__
    return line if line.endswith((".", "…")) else line + "."
