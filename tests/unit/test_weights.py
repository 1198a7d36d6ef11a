"""Weights from files: all that PyTorch users save comes in, nothing that a file carries is run."""

from __future__ import annotations

import argparse
import builtins
import io
import json
import os
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared import errors
from tests.conftest import needs

torch = needs("torch")

from shared.nets import architectures, weights  # noqa: E402
from shared.nets.architectures import Net, build  # noqa: E402
from shared.nets.kinds import kind_of  # noqa: E402

DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "digits.onnx"


@pytest.fixture(scope="module")
def small() -> Net:
    return build("cnn32", 4, seed=1)


def saved(path: Path, content: object, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def same(one: Net, other: Net) -> bool:
    return weights.state_bytes(one) == weights.state_bytes(other)


@pytest.mark.parametrize("name", ["resnet18", "timm/efficientnet_b0", "yolov8n"])
def test_a_state_dict_goes_round(name: str, tmp_path: Path) -> None:
    net = build(name, 6, seed=1)
    path = saved(tmp_path / "any.name", net.module.state_dict())
    assert kind_of(path) == "torch"
    read = weights.read(path, name)
    assert same(read, net)
    assert not same(read, build(name, 6))
    assert read.architecture == net.architecture
    (tmp_path / "again").write_bytes(weights.state_bytes(read))
    assert kind_of(tmp_path / "again") == "safetensors"
    assert same(weights.read(tmp_path / "again", name, 6), net)


def test_a_pickled_module_is_taken_apart(tmp_path: Path) -> None:
    net = build("resnet18", 6, seed=1)
    assert same(weights.read(saved(tmp_path / "whole.pt", net.module), "resnet18"), net)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: {"state_dict": net.module.state_dict(), "epoch": 3},
        lambda net: {"model": net.module.state_dict(), "optimizer": {"lr": 0.1}, "loss": np.float64(0.5)},
        lambda net: {"epoch": -1, "ema": None, "model": net.module, "train_args": argparse.Namespace(lr=1)},
        lambda net: {"model": build("cnn32", 4).module.state_dict(), "ema": net.module},
        lambda net: {f"module.{name}": value for name, value in net.module.state_dict().items()},
        lambda net: {
            "model_ema": {"n_averaged": torch.tensor(9)}
            | {f"module._orig_mod.{name}": value for name, value in net.module.state_dict().items()}
        },
        lambda net: {
            name: value for name, value in net.module.state_dict().items() if "num_batches_tracked" not in name
        },
    ],
    ids=["state_dict", "numpy beside", "module and arguments", "averaged", "DataParallel", "compiled", "no counters"],
)
def test_where_training_scripts_keep_their_weights(wrap: Callable[[Net], Any], small: Net, tmp_path: Path) -> None:
    assert same(weights.read(saved(tmp_path / "checkpoint.pth", wrap(small)), "cnn32"), small)


def test_files_of_old_pytorch(small: Net, tmp_path: Path) -> None:
    path = saved(tmp_path / "old.pt", small.module.state_dict(), _use_new_zipfile_serialization=False)
    assert kind_of(path) == "torch_legacy"
    assert same(weights.read(path, "cnn32"), small)
    saved(path, small.module, _use_new_zipfile_serialization=False)
    with pytest.raises(errors.BadModel, match=r"asks for shared\.nets.*torch\.save\(model\.state_dict\(\), path\)"):
        weights.read(path, "cnn32")


def test_half_precision_becomes_float32(small: Net, tmp_path: Path) -> None:
    half = {
        name: value.half() if value.is_floating_point() else value for name, value in small.module.state_dict().items()
    }
    read = weights.read(saved(tmp_path / "half.pt", half), "cnn32").module.state_dict()
    assert {value.dtype for value in read.values()} == {torch.float32, torch.int64}
    assert all(torch.equal(value.to(half[name].dtype), half[name]) for name, value in read.items())


def test_an_exported_program_gives_its_raw_weights(small: Net, tmp_path: Path) -> None:
    path = tmp_path / "program.pt2"
    torch.export.save(torch.export.export(small.module, (torch.zeros(1, 3, 32, 32),)), path)
    assert kind_of(path) == "pt2"
    assert same(weights.read(path, "cnn32"), small)


def rewritten(path: Path, change: Callable[[str, bytes], bytes]) -> None:
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, each in content.items():
            archive.writestr(name, change(name, each))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b'"use_pickle": false', b'"use_pickle": true', "never opened"),
        (b'"as_int": 32', b'"as_int": 999999999', "broken"),
        (b'"dtype": 7', b'"dtype": 99', "broken"),
        (b'"path_name": "weight_0"', b'"path_name": "../../../etc/passwd"', "broken"),
        (b'"config"', b'"gifnoc"', "broken"),
    ],
)
def test_an_exported_program_that_lies(old: bytes, new: bytes, said: str, small: Net, tmp_path: Path) -> None:
    path = tmp_path / "program.pt2"
    torch.export.save(torch.export.export(small.module, (torch.zeros(1, 3, 32, 32),)), path)
    rewritten(path, lambda _, content: content.replace(old, new))
    with pytest.raises(errors.BadModel, match=said):
        weights.read(path, "cnn32")


def script(path: Path, module: Any) -> Path:
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.trace(module, torch.zeros(1, 3, 32, 32)), path)
    return path


def test_torchscript_only_when_shut_in(small: Net, tmp_path: Path) -> None:
    path = script(tmp_path / "script.pt", small.module)
    assert kind_of(path) == "torchscript"
    with pytest.raises(errors.BadModel, match="a program, which this machine cannot shut in"):
        weights.read(path, None)
    assert weights.read(path, None, enclosed=True).architecture is None
    assert same(weights.read(path, "cnn32", enclosed=True), small)


# --- what does not fit ------------------------------------------------------------------------------------------------


def without(state: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {each: value for each, value in state.items() if each != name}


@pytest.mark.parametrize(
    ("change", "architecture", "num_classes", "said"),
    [
        (
            lambda state: without(state, "classifier.2.bias"),
            None,
            None,
            f"with `architecture`, the network's name. {weights.OWN_NETWORK}",
        ),
        (lambda state: state, "resnet18", None, "They fit architecture=cnn32."),
        (lambda state: state, "cnn32", 5, "The head in the file has 4 classes, not 5; give it as many labels."),
        (lambda state: without(state, "classifier.2.bias"), "cnn32", None, "1 missing: classifier.2.bias"),
        (lambda state: state | {"extra": torch.zeros(1)}, "cnn32", None, "1 unexpected: extra"),
        (
            lambda state: state | {"classifier.2.bias": torch.zeros(1).expand(10**12)},
            "cnn32",
            None,
            "classifier.2.bias is [1000000000000] instead of [4]",
        ),
        (lambda state: state | {"classifier.2.bias": torch.full((4,), torch.nan)}, "cnn32", None, "NaN or infinite"),
        (lambda state: state | {"classifier.2.bias": torch.zeros(4).to_sparse()}, "cnn32", None, "no plain tensor"),
        (lambda state: {}, "cnn32", None, "No weights were found"),
        (lambda state: [1, 2], "cnn32", None, "No weights were found"),
        (lambda state: {"endless.": torch.zeros(1)}, "cnn32", None, "1 unexpected: endless."),
    ],
)
def test_weights_that_do_not_fit(
    change: Callable[[Any], Any],
    architecture: str | None,
    num_classes: int | None,
    said: str,
    small: Net,
    tmp_path: Path,
) -> None:
    path = saved(tmp_path / "weights.pt", change(small.module.state_dict()))
    with pytest.raises(errors.BadModel, match=re.escape(said)):
        weights.read(path, architecture, num_classes)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_weights_that_fit_one_network_need_no_name(prefix: str, small: Net, tmp_path: Path) -> None:
    state = {
        prefix + name: value
        for name, value in small.module.state_dict().items()
        if not name.endswith(architectures.COUNTERS)
    }
    net = weights.read(saved(tmp_path / "weights.pt", state), None)
    assert same(net, small)
    assert net.architecture is not None and net.architecture.name == "cnn32"


def test_weights_that_fit_several_networks_name_them(
    small: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "fitting", lambda _: ["one", "two"])
    with pytest.raises(errors.BadModel, match=re.escape("name. They fit one and two alike.")):
        weights.read(saved(tmp_path / "weights.pt", small.module.state_dict()), None)


def test_no_two_known_networks_have_the_same_weights() -> None:
    """So that weights without a name are always found, and never guessed."""
    names = [name for name in architectures.known() if not name.startswith(architectures.HEAVY)]
    shapes = [
        frozenset(
            (key, tuple(value.shape))
            for key, value in architectures.skeleton(name).items()
            if not key.endswith(architectures.COUNTERS)
        )
        for name in names
    ]
    assert len(set(shapes)) == len(names)


def test_a_module_within_itself_ends(tmp_path: Path) -> None:
    module = torch.nn.Module()
    module._modules["again"] = module
    with pytest.raises(errors.BadModel, match="more than 64 deep"):
        weights.read(saved(tmp_path / "circle.pt", module), "cnn32")


def test_another_kind_of_model_holds_no_weights() -> None:
    assert kind_of(DIGITS) == "onnx"
    with pytest.raises(errors.BadModel, match="kind onnx"):
        weights.read(DIGITS, "cnn32")


# --- hostile files ----------------------------------------------------------------------------------------------------


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, call: Callable[..., Any], *given: object) -> None:
        self.call = call
        self.given = given

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call, self.given


def torch_file(content: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def with_bad_checksum(archive: bytes) -> bytes:
    """As it was, but for the checksums, so that a scanner that gives up on them sees nothing."""
    with zipfile.ZipFile(io.BytesIO(archive)) as read:
        sums = [info.CRC for info in read.infolist() if info.CRC]
    for each in sums:
        archive = archive.replace(struct.pack("<I", each), struct.pack("<I", each ^ 1))
    return archive


def npy(content: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([content], dtype=object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize("call", ["system", "exec", "open"])
def test_nothing_in_a_file_is_run(call: str, tmp_path: Path) -> None:
    trace, path = tmp_path / "ran", tmp_path / "model.pt"
    attack = {
        "system": Payload(os.system, f"touch {trace}"),
        "exec": Payload(builtins.exec, f"open({str(trace)!r}, 'w')"),
        "open": Payload(builtins.open, str(trace), "w"),
    }[call]
    hostile = {
        "a pickle": pickle.dumps(attack),
        "a pickle of protocol 0": pickle.dumps(attack, 0),
        "a pickle cut off after its payload": pickle.dumps(attack)[:-1],
        "torch.save": torch_file(attack),
        "among weights": torch_file({"state_dict": {"weight": torch.zeros(1)}, "hook": attack}),
        "old torch.save": torch_file(attack, _use_new_zipfile_serialization=False),
        "bad checksum": with_bad_checksum(torch_file(attack)),
        "an array of objects": npy(attack),
    }
    for name, content in hostile.items():
        path.write_bytes(content)
        with pytest.raises(errors.BadModel) as refused:
            weights.read(path, "cnn32")
        assert len(refused.value.message) < 500, name
        assert not trace.exists(), name


def header(content: object, length: int | None = None, body: int = 8) -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(body)


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content",
    [
        header({"a": GOOD}, 2**63),
        header({"a": GOOD}, 2**64 - 1),
        header({"a": GOOD}, 10**6),
        header({"a": GOOD, "b": GOOD | {"data_offsets": [4, 12]}}, body=12),
        header({"a": GOOD, "b": GOOD | {"data_offsets": [12, 20]}}, body=20),
        header({"a": GOOD}, body=64),
        header({"a": GOOD}, body=4),
        header({"a": GOOD | {"shape": [-2]}}),
        header({"a": GOOD | {"shape": [2**40, 2**40]}}),
        header({"a": GOOD | {"dtype": "F7"}}),
        header(b'{"a": %(it)s, "a": %(it)s}' % {b"it": json.dumps(GOOD).encode()}),
        header(b'{"a": ' * 100_000),
        header(b'{"a'),
    ],
    ids=[
        "length 2^63",
        "length 2^64 - 1",
        "length beyond the file",
        "overlap",
        "hole",
        "more than it says",
        "less than it says",
        "negative size",
        "size that overflows",
        "unknown dtype",
        "one name twice",
        "nested 100,000 deep",
        "cut off",
    ],
)
def test_a_broken_safetensors_header(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert kind_of(path) == "safetensors"
    with pytest.raises(errors.BadModel, match="safetensors file"):
        weights.read(path, "cnn32")


def test_a_good_safetensors_header_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(header({"a": GOOD}))
    assert weights.state_of(path, "safetensors")["a"].tolist() == [0.0, 0.0]


def test_an_archive_that_grows(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(100_000_000))
    with pytest.raises(errors.BadModel, match="unpacks to 100,000,000 bytes"):
        kind_of(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no model that is known"),
        (b"P", "no model that is known"),
        (b"PK\x03\x04", "cut off"),
        (torch_file({"weight": torch.zeros(9)})[:-50], "cut off"),
        (b"GIF89a", "no model that is known"),
        (pickle.dumps({}), "a plain pickle, which is a program"),
    ],
)
def test_what_is_no_model(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(errors.BadModel, match=said):
        kind_of(path)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "hdf5"),
        (b"\x0a\x20\x0a\x05image\x12\x0bPlaceholder", "graphdef"),
        (b"\x08\x0a\x12\x07pytorch", "onnx"),
    ],
)
def test_kinds_that_are_not_ours(content: bytes, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    assert kind_of(path) == kind


def test_a_keras_archive_is_told_from_pytorch_s(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            archive.writestr(name, b"{}")
    assert kind_of(path) == "keras"
