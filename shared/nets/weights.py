"""Reads the weights in a file that nobody vouches for, without running anything in it, and puts them in their network.

A pickle is a program. It is only ever opened by PyTorch's restricted reader (`weights_only=True`), which makes tensors,
numbers, text and collections. Classes that a pickled module names are checked against `FOREIGN` first and then stand
for nothing: an `Inert` takes their place, from which parameters and buffers are picked. There is no second try with
less caution.
"""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from shared import errors
from shared.nets import allocations
from shared.nets.architectures import COUNTERS, Net, fitting, num_classes_of, skeleton, unscaled
from shared.nets.kinds import Kind, kind_of, members

FOREIGN = (
    "torch.nn.",
    "torch.optim.",
    "torchvision.",
    "timm.",
    "ultralytics.",
    "shared.nets.",
    "numpy.",
    "collections.",
    "pathlib.",
    "datetime.",
    "argparse.Namespace",
    "types.SimpleNamespace",
    "functools.partial",
    "builtins.getattr",
)
"""Beginnings of the names a checkpoint may mention; none of them is ever imported or called."""

NESTS = (
    "ema",
    "model_ema",
    "state_dict_ema",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "module",
    "weights",
)
"""Under which names training scripts keep the weights; averaged ones first, since those are what was evaluated."""

LABELS = ("names", "class_names", "classes", "labels")
"""Under which names checkpoints keep those of their classes: a list, or numbers with a text each."""
PICKLED: frozenset[Kind] = frozenset({"torch", "torch_legacy"})

MAX_DEPTH = 64
MAX_LABEL = 200
FEW = 4
DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
"""The numbers of dtypes in a .pt2 archive."""
REMEDY = "Save the weights alone: torch.save(model.state_dict(), path), or as safetensors."
OWN_NETWORK = "For a network of your own, export it to ONNX (torch.onnx.export) and upload that."

HEADER = "cvp.network"
"""Where a file of ours says what it is."""

State = Mapping[str, Tensor]


def read(path: Path, architecture: str | None, num_classes: int | None = None, *, enclosed: bool = False) -> Net:
    """The network whose weights are in a PyTorch file.

    Args:
        path: Of a kind of PyTorch (`kinds.PYTORCH`).
        architecture: What the weights belong to (`architectures.build`); None for TorchScript alone, and for weights
            that fit one of `architectures.known` only.
        num_classes: What the owner says; default: as many as the head in the file has.
        enclosed: This process is shut in (`shared.sandbox`). TorchScript is code that runs when it is opened, so
            without this it is refused.

    Raises:
        errors.BadModel: The file is refused, or its weights do not fit; the message says what to do.
        errors.InvalidInput: There is no such architecture.
        MemoryError: The file or the network takes more memory than there is.
    """
    with allocations():
        kind = kind_of(path)
        if kind == "torchscript":
            script = _script(path, enclosed)
            if architecture is None:
                return Net(script, None)
            return fitted(_checked(script.state_dict()), architecture, num_classes)
        if kind not in PICKLED:
            return fitted(state_of(path, kind), architecture, num_classes)
        content = _unpickled(path, kind)
        net = fitted(_checked(_weights_in(content)), architecture, num_classes)
        return net._replace(labels=_labels_in(content, net))


def state_of(path: Path, kind: Kind) -> State:
    """The named weights in a file of one of `kinds.PYTORCH` but TorchScript, as they are named there.

    Raises:
        errors.BadModel: The file is refused.
    """
    if kind == "safetensors":
        return _checked(_safetensors(path))
    if kind == "pt2":
        return _checked(_pt2(path))
    if kind in PICKLED:
        return _checked(_weights_in(_unpickled(path, kind)))
    raise errors.BadModel(f"A file of kind {kind} holds no PyTorch weights.")


def fitted(state: State, architecture: str | None, num_classes: int | None = None) -> Net:
    """A network with these weights; without a name the one of `architectures.known` that they fit.

    Raises:
        errors.BadModel: They do not fit it.
        errors.InvalidInput: There is no such architecture.
    """
    architecture = architecture or _only_fit(state)
    expected = skeleton(architecture)
    state = _unwrapped(state, expected)
    classes = num_classes_of(architecture, state)
    if num_classes is not None and classes is not None and num_classes != classes:
        raise errors.BadModel(f"The head in the file has {classes} classes, not {num_classes}; give it as many labels.")
    net = unscaled(architecture, classes or num_classes)
    own = net.module.state_dict()
    _check_fit(architecture, state, own)
    for name, value in own.items():
        if name in state:
            value.copy_(state[name])
            if not value.isfinite().all():
                raise errors.BadModel(f"The weights {name} hold NaN or infinite values. Save an earlier checkpoint.")
    return net


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What a file of `state_bytes` says in its header: whose weights these are, and what they are fed."""

    architecture: str
    num_classes: int
    input_shape: tuple[int, ...]
    """Of one image."""


def state_bytes(net: Net, input_shape: Sequence[int] | None = None) -> bytes:
    """The weights as safetensors, with what `kept` needs: equal ones give equal bytes. What training starts from.

    Args:
        net: Of an architecture.
        input_shape: Of one image; default: what its architecture takes (channels, height, width).
    """
    known = net.architecture
    assert known is not None
    about = Kept(
        architecture=known.name, num_classes=known.num_classes, input_shape=tuple(input_shape or known.input_shape)
    )
    state = net.module.state_dict()
    return safetensors.torch.save(
        {name: value.clone(memory_format=torch.contiguous_format) for name, value in state.items()},
        {HEADER: msgspec.json.encode(about).decode()},
    )


def kept(path: Path) -> tuple[Net, Kept]:
    """The network in a file of `state_bytes`.

    Raises:
        errors.BadModel: It is none, or does not say what it is.
    """
    if kind_of(path) != "safetensors":
        raise errors.BadModel("The file holds no weights as safetensors.")
    state = _checked(_safetensors(path))
    with safetensors.safe_open(path, "pt") as file:
        said = (file.metadata() or {}).get(HEADER)
    if said is None:
        raise errors.BadModel("The file does not say whose weights these are. Upload the model again.")
    try:
        about = msgspec.json.decode(said, type=Kept)
    except msgspec.MsgspecError as error:
        raise errors.BadModel("The file's header cannot be read. Upload the model again.") from error
    return fitted(state, about.architecture, about.num_classes), about


# --- do they fit? -----------------------------------------------------------------------------------------------------


def _unwrapped(state: State, expected: State) -> State:
    """Without the beginnings all names share (`module.`, `_orig_mod.`, `model.`) as far as more of them fit so."""
    return max(_unwrappings(state), key=lambda names: len(names.keys() & expected.keys()))


def _unwrappings(state: State) -> Iterator[State]:
    """The weights as they are named, then without one beginning that all names share after the other."""
    yield state
    for _ in range(MAX_DEPTH):
        if len({name.partition(".")[0] for name in state if "." in name}) != 1:
            break
        state = {name.partition(".")[2] or name: value for name, value in state.items()}
        yield state


def _check_fit(architecture: str, state: State, own: State) -> None:
    missing = [name for name in own if name not in state and not name.endswith(COUNTERS)]
    unexpected = [name for name in state if name not in own and not name.endswith(COUNTERS)]
    shapes = [
        f"{name} is {list(state[name].shape)} instead of {list(value.shape)}"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    found = [
        f"{len(names)} {what}: {', '.join(names[:FEW])}{', …' if len(names) > FEW else ''}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if found:
        raise errors.BadModel(
            f"The weights do not fit {architecture} ({'; '.join(found)})." + (_proposal(state) or f" {REMEDY}")
        )


def _only_fit(state: State) -> str:
    """The one known network that the weights fit."""
    found = _fits(state)
    if len(found) == 1:
        return found[0]
    candidates = f" They fit {' and '.join(found)} alike." if found else f" {OWN_NETWORK}"
    raise errors.BadModel(
        "The file holds weights; which network they belong to must be said, since no code of a file is run. Upload "
        f"it again with `architecture`, the network's name.{candidates}"
    )


def _proposal(state: State) -> str:
    found = _fits(state)
    return f" They fit architecture={' or '.join(found)}." if found else ""


def _fits(state: State) -> list[str]:
    """The known networks that the weights fit, perhaps without the beginnings that all of their names share."""
    return next((found for names in _unwrappings(state) if (found := fitting(names))), [])


def _checked(state: Mapping[str, Any]) -> State:
    """Only plain tensors in memory, of types that a network has."""
    for name, value in state.items():
        plain = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
        if not plain or value.is_quantized or value.is_complex():
            raise errors.BadModel(f"{name[:100]} is no plain tensor (sparse, quantised or complex ones are not taken).")
    if not state:
        raise errors.BadModel(f"No weights were found in the file. {REMEDY}")
    return state


# --- pickles ----------------------------------------------------------------------------------------------------------


class Inert:
    """Stands for a class or function that a file names; keeps what it was given and does nothing."""

    def __init__(self, *_args: object, **_named: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def _unpickled(path: Path, kind: Kind) -> object:
    zipped = kind == "torch"
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipped else []
        _refuse_strangers(named)
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals([(Inert, n) for n in named]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except (MemoryError, errors.AppError):
        raise
    except Exception as error:  # whatever a broken or hostile file makes the reader stumble over
        raise errors.BadModel(
            f"PyTorch's safe reader refuses the file ({_reason(error)}); nothing in it was run. {REMEDY}"
        ) from error


def _reason(error: Exception) -> str:
    """PyTorch's refusals are a page long and advise to read the file unsafely."""
    if named := re.search(r"GLOBAL (\S+)", str(error)):
        return f"it asks for {named[1][:100]}"
    return "it holds more than data" if str(error).startswith("Weights only load failed") else _first_line(error)


def _refuse_strangers(named: Sequence[str]) -> None:
    strangers = sorted(name for name in named if not name.startswith(FOREIGN))
    if strangers:
        raise errors.BadModel(
            f"The file asks for {', '.join(strangers[:FEW])} when it is opened, which is neither data nor a layer of a "
            f"known library; it was not opened. {REMEDY} {OWN_NETWORK}"
        )


def _weights_in(content: object) -> Mapping[str, Any]:
    """The state dict in what a checkpoint holds: itself, under one of `NESTS`, or a module taken apart."""
    for _ in range(MAX_DEPTH):
        if isinstance(content, Inert):
            return dict(_walk(content))
        if not isinstance(content, Mapping):
            break
        nests = (content[name] for name in NESTS if name in content)
        inner = next((each for each in nests if isinstance(each, Mapping | Inert)), None)
        if inner is None:
            return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        content = inner
    raise errors.BadModel(f"No weights were found in the file. {REMEDY}")


def _labels_in(content: object, net: Net) -> list[str] | None:
    """The names of the classes in a checkpoint, or in the module it holds; None unless there is one a class."""
    wanted = net.architecture.num_classes if net.architecture else None
    for _ in range(MAX_DEPTH):
        facts = vars(content) if isinstance(content, Inert) else content
        if not isinstance(facts, Mapping):
            return None
        for name in LABELS:
            if (found := _texts(facts.get(name))) is not None and len(found) == wanted:
                return found
        nests = (facts[name] for name in NESTS if name in facts)
        content = next((each for each in nests if isinstance(each, Mapping | Inert)), None)
    return None


def _texts(value: object) -> list[str] | None:
    """Short lines of text, in order; None where it is anything else."""
    if isinstance(value, dict) and set(value) == set(range(len(value))):
        value = [value[index] for index in range(len(value))]
    texts = list(value) if isinstance(value, list | tuple) else []
    sound = all(isinstance(each, str) and each.isprintable() and 0 < len(each) <= MAX_LABEL for each in texts)
    return texts if texts and sound else None


def _walk(module: object, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """The parameters and persistent buffers of a pickled module, by their names in a state dict."""
    if depth > MAX_DEPTH:
        raise errors.BadModel(f"The pickled module is nested more than {MAX_DEPTH} deep. {REMEDY}")
    facts = vars(module) if isinstance(module, Inert) else {}
    passing = facts.get("_non_persistent_buffers_set", set())
    for kind in ("_parameters", "_buffers"):
        for name, value in _entries(facts.get(kind)):
            if isinstance(value, Tensor) and name not in passing:
                yield prefix + name, value
    for name, child in _entries(facts.get("_modules")):
        yield from _walk(child, f"{prefix}{name}.", depth + 1)


def _entries(value: object) -> list[tuple[str, object]]:
    return [(str(name), each) for name, each in value.items()] if isinstance(value, dict) else []


# --- the other formats ------------------------------------------------------------------------------------------------


def _safetensors(path: Path) -> State:
    try:
        state: State = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise errors.BadModel(f"The safetensors file is broken ({_first_line(error)}). Save it again.") from error
    with path.open("rb") as file:  # its header is sound, or the library had refused it
        header = file.read(int.from_bytes(file.read(8), "little"))
    json.loads(header, object_pairs_hook=_without_twins)
    return state


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise errors.BadModel("The safetensors file names a tensor twice. Save it again.")
    return dict(pairs)


def _pt2(path: Path) -> State:
    """The raw weights of a torch.export archive. PyTorch's own way to open it would run pickles."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [each.filename for each in members(archive)]
            listed = next((name for name in names if name.endswith("/data/weights/model_weights_config.json")), None)
            if listed is None:
                raise errors.BadModel(f"The archive was written by another version of PyTorch. {REMEDY}")
            folder = listed.rpartition("/")[0]
            entries = json.loads(archive.read(listed))["config"]
            return {name: _raw(archive, folder, entry) for name, entry in entries.items()}
    except (MemoryError, errors.AppError):
        raise
    except Exception as error:  # whatever a broken or hostile file makes the readers stumble over
        raise errors.BadModel(f"The .pt2 archive is broken ({_first_line(error)}). {REMEDY}") from error


def _raw(archive: zipfile.ZipFile, folder: str, entry: Mapping[str, Any]) -> Tensor:
    if entry["use_pickle"]:
        raise errors.BadModel(f"The .pt2 archive keeps weights as pickles, which are never opened. {REMEDY}")
    meta = entry["tensor_meta"]
    sizes, strides = ([int(each["as_int"]) for each in meta[key]] for key in ("sizes", "strides"))
    content = bytearray(archive.read(f"{folder}/{entry['path_name']}"))
    dtype = DTYPES[meta["dtype"]]
    flat = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
    return flat.as_strided(sizes, strides, int(meta["storage_offset"]["as_int"]))


def _script(path: Path, enclosed: bool) -> torch.jit.ScriptModule:
    if not enclosed:
        raise errors.BadModel(f"This is a TorchScript archive, a program, which this machine cannot shut in. {REMEDY}")
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.jit.load(path, map_location="cpu").eval()
    except MemoryError:
        raise
    except Exception as error:  # whatever a broken or hostile file makes the reader stumble over
        raise errors.BadModel(f"PyTorch cannot open the TorchScript archive ({_first_line(error)}).") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
