"""The environment beside ours: what it pins, when it counts as installed, and how a child runs in it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from console import doctor
from shared import child, config
from tests.unit.test_child import LIMITS, MODULE, Order

PINS = config.HOME / "deploy" / "tensorflow.txt"


def pinned(text: str) -> dict[str, str]:
    return {
        name.lower().replace("_", "-"): version for name, version in re.findall(r'^ *"?([\w-]+)==([\w.]+)', text, re.M)
    }


def test_what_both_environments_have_has_one_version():
    """An ONNX file is made in one and checked and served in the other; messages pass between them."""
    ours = pinned((config.HOME / "constraints.txt").read_text()) | pinned((config.HOME / "pyproject.toml").read_text())
    theirs = pinned(PINS.read_text())
    shared = {"msgspec", "numpy", "onnx", "onnxruntime", "protobuf"}
    assert {name: theirs[name] for name in shared} == {name: ours[name] for name in shared}


def test_every_package_is_pinned():
    lines = [line.partition("#")[0].strip() for line in PINS.read_text().splitlines()]
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", line) for line in lines if line)


def test_it_counts_as_installed_when_all_of_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(config, "TENSORFLOW", tmp_path)
    assert config.tensorflow_python() is None
    assert "make setup-tensorflow" in doctor.tensorflow().text
    (tmp_path / ".installed-tensorflow").write_text("tensorflow-cpu==1.0\n")
    assert config.tensorflow_python() is None
    (tmp_path / ".installed-tensorflow").write_bytes(PINS.read_bytes())
    assert config.tensorflow_python() == tmp_path / "bin" / "python"
    found = doctor.tensorflow()
    assert str(tmp_path) in found.text
    assert not found.wrong


def test_a_child_may_run_in_another_environment(tmp_path: Path):
    """It finds our code there without being installed."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$PYTHONPATH" > {tmp_path}/path\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    assert child.run(MODULE, Order("answers", "42"), dict, limits=LIMITS, python=python) == {"answer": "42"}
    assert (tmp_path / "path").read_text().strip() == str(config.HOME)
