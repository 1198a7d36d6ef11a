"""PyTorch files converted in a process that has shut itself in, with little memory; and what PyTorch costs others."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Literal

import pytest

from preparer import Conversion, ConversionOrder
from shared import child, sandbox
from tests.conftest import needs

LIMITS = child.Limits(wall_s=110, memory_mb=6144, file_mb=4)


def convert(path: Path, architecture: str | None) -> tuple[Conversion, bytes, bytes]:
    """The answer, the ONNX file, and the weights."""
    with tempfile.TemporaryFile() as onnx, tempfile.TemporaryFile() as weights:
        outputs: dict[Literal["onnx", "weights"], int] = {"onnx": onnx.fileno(), "weights": weights.fileno()}
        shape = None if architecture else (1, 3, 32, 32)
        order = ConversionOrder(path=str(path), outputs=outputs, architecture=architecture, input_shape=shape)
        fds = list(outputs.values())
        answer = child.run("preparer.from_pytorch", order, Conversion, limits=LIMITS, pass_fds=fds)
        onnx.seek(0)
        weights.seek(0)
        return answer, onnx.read(), weights.read()


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
    for (answer, onnx, weights), exporter in ((state, "dynamo"), (script, "TorchScript")):
        facts = answer.facts
        assert exporter in facts.exporter
        assert facts.dynamic_batch
        assert [each.batch for each in facts.parity] == [1, 2, 8]
        assert onnx
        assert bool(weights) == (answer.architecture is not None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["script.pt", "state.pt"]


@pytest.mark.process
def test_only_a_child_that_needs_pytorch_loads_it() -> None:
    """It takes seconds and half a gigabyte; a start would feel it."""
    needs("torch")
    services = ("gateway", "broker", "inferencer", "trainer", "benchmarker", "preparer", "reporter", "console.cli")
    mains = [name if "." in name else f"{name}.__main__" for name in services]
    names = [*mains, "shared.nets", "shared.nets.kinds"]
    code = f"import sys, importlib\nfor name in {names}: importlib.import_module(name)\n"
    code += "print(sorted({'torch', 'torchvision', 'timm', 'safetensors', 'onnxscript'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert out.stdout == "[]\n", out.stderr
