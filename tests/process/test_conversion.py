"""PyTorch files converted in a process that has shut itself in, with little memory; and what PyTorch costs others."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from shared import child, sandbox
from shared.specs import ConversionFacts
from tests.conftest import needs
from tests.process.converted_that import Order

LIMITS = child.Limits(wall_s=110, memory_mb=6144, file_mb=1)


def convert(path: Path, architecture: str | None, limits: child.Limits = LIMITS) -> ConversionFacts:
    order = Order(str(path), architecture, None if architecture else (3, 32, 32))
    return child.run("tests.process.converted_that", order, ConversionFacts, limits=limits)


@pytest.mark.process
@pytest.mark.skipif(bool(sandbox.missing()), reason="; ".join(sandbox.missing()))
def test_conversion_works_shut_in(tmp_path: Path) -> None:
    torch = needs("torch")
    from shared.nets.architectures import build

    module = build("cnn32", 4).module
    torch.save(module.state_dict(), tmp_path / "state.pt")
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.trace(module, torch.zeros(1, 3, 32, 32)), tmp_path / "script.pt")
    state, script = convert(tmp_path / "state.pt", "cnn32"), convert(tmp_path / "script.pt", None)
    assert "dynamo" in state.exporter
    assert "TorchScript" in script.exporter
    for facts in (state, script):
        assert facts.dynamic_batch
        assert [each.batch for each in facts.parity] == [1, 2, 8]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["script.pt", "state.pt"]


@pytest.mark.process
def test_only_a_child_that_needs_pytorch_loads_it() -> None:
    """It takes seconds and half a gigabyte; a start would feel it."""
    needs("torch")
    services = ("gateway", "broker", "inferencer", "benchmarker", "preparer", "reporter", "console.cli")
    mains = [name if "." in name else f"{name}.__main__" for name in services]
    names = [*mains, "shared.nets", "shared.nets.kinds"]
    code = f"import sys, importlib\nfor name in {names}: importlib.import_module(name)\n"
    code += "print(sorted({'torch', 'torchvision', 'timm', 'safetensors', 'onnxscript'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert out.stdout == "[]\n", out.stderr
