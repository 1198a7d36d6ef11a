"""What a process that has shut itself in can no longer do. The kernel is the real one, nothing is patched."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import tempfile
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

from benchmarker import ExamineOrder, LaunchOrder
from benchmarker.gate import examine
from benchmarker.measure import launch
from console import doctor
from preparer import ConversionOrder, DescribeOrder
from preparer import __main__ as preparer
from shared import child, errors, sandbox
from shared.specs import Candidate, EngineName, ModelDescription, TensorInfo
from tests.process.enclosed_that import Came, Order
from tests.process.platform import DIGITS, wait_for

LIMITS = child.Limits(wall_s=20, memory_mb=2048, file_mb=1)

pytestmark = pytest.mark.skipif(bool(sandbox.missing()), reason="; ".join(sandbox.missing()))


def attempt(act: str, path: Path | str = "", readable: Path | str = "", scratch: Path | str = "") -> str | None:
    order = Order(act, str(path), str(readable), str(scratch))
    return child.run("tests.process.enclosed_that", order, Came, limits=LIMITS).error


@pytest.mark.parametrize(
    "act", ["read", "read in a thread", "write", "append", "truncate", "remove", "rename", "change the mode"]
)
def test_no_other_file(act: str, tmp_path: Path):
    artifact, other = tmp_path / "mine.onnx", tmp_path / "other.onnx"
    artifact.write_bytes(b"mine")
    other.write_bytes(b"other")
    mode = other.stat().st_mode
    assert attempt(act, other, artifact) == "PermissionError"
    assert other.read_bytes() == b"other"
    assert other.stat().st_mode == mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.onnx", "other.onnx"]


@pytest.mark.parametrize("act", ["write", "append", "truncate", "remove", "rename", "link", "change the time"])
def test_its_own_file_only_to_read(act: str, tmp_path: Path):
    artifact = tmp_path / "mine.onnx"
    artifact.write_bytes(b"mine")
    assert attempt("read", artifact, artifact) is None
    assert attempt(act, artifact, artifact) == "PermissionError"
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"mine"]


def test_a_scratch_folder_is_the_one_place_to_write(tmp_path: Path):
    scratch, other = tmp_path / "scratch", tmp_path / "other"
    scratch.mkdir()
    other.write_bytes(b"other")
    for act, name in (("write", "new"), ("append", "new"), ("make a folder", "folder"), ("remove", "new")):
        assert attempt(act, scratch / name, scratch=scratch) is None, act
    assert attempt("write", tmp_path / "new", scratch=scratch) == "PermissionError"
    for act in ("read", "write", "append", "remove"):
        assert attempt(act, other, scratch=scratch) == "PermissionError"
    assert attempt("run a program", scratch=scratch) == "PermissionError"
    assert other.read_bytes() == b"other"


@pytest.mark.parametrize("path", ["/etc/passwd", "/proc/self/environ", "/proc/1/cmdline", "~/.ssh/id_rsa"])
def test_nothing_of_the_machine(path: str):
    assert attempt("read", Path(path).expanduser()) in ("PermissionError", "FileNotFoundError")


def test_nothing_new_anywhere(tmp_path: Path):
    assert attempt("write", tmp_path / "new") == "PermissionError"
    assert attempt("make a folder", tmp_path / "new") == "PermissionError"
    assert attempt("write", "/dev/shm/cvp-test-new") == "PermissionError"
    assert attempt("list", tmp_path) == "PermissionError"
    assert list(tmp_path.iterdir()) == []


def test_a_symbolic_link_leads_nowhere(tmp_path: Path):
    link = tmp_path / "model.onnx"
    link.symlink_to("/etc/passwd")
    folder = tmp_path / "readable"
    folder.mkdir()
    (folder / "weights.bin").symlink_to("/etc/passwd")
    assert attempt("read", folder / "weights.bin", folder) == "PermissionError"
    assert attempt("read", link) == "PermissionError"


@pytest.mark.parametrize(
    "act",
    ["tcp", "udp", "unix", "fork", "fork by call number", "run a program", "kill the parent"],
)
def test_no_network_no_processes(act: str):
    assert attempt(act) in ("PermissionError", "BlockingIOError")


@pytest.mark.parametrize(
    "act",
    [
        "signal a thread of nobody",
        "signal a thread",
        "signal with a value",
        "signal a thread with a value",
        "limit the parent",
    ],
)
def test_no_hand_on_other_processes_however_old_the_kernel(act: str):
    assert attempt(act) == "PermissionError"


def test_limits_cannot_be_raised_again():
    assert attempt("raise a limit") in ("ValueError", "PermissionError")


def test_it_can_still_work():
    assert attempt("nothing") is None
    assert attempt("start a thread") is None
    assert attempt("signal itself") is None
    assert attempt("limit itself") is None
    assert attempt("list", Path(sandbox.__file__).parent) is None


def test_it_is_not_entered_when_threads_would_stay_outside():
    assert attempt("enter late") == "RuntimeError"


def orders(path: str) -> dict[str, msgspec.Struct]:
    """What the children that open an uploaded model are told; TensorFlow's has an environment of its own."""
    described = DescribeOrder(path=path, task_type="classification", preprocessing=None, labels=None)
    return {"preparer.enclosed": described, "preparer.from_pytorch": ConversionOrder(path=path, outputs={})}


@pytest.mark.parametrize("module", list(orders("")))
def test_who_opens_a_model_is_inside_by_then(module: str, tmp_path: Path):
    path = tmp_path / "file"
    os.mkfifo(path)  # whoever opens it waits here for somebody who writes
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(child.run, module, orders(str(path))[module], msgspec.Raw, limits=LIMITS)
        wait_for(lambda: shut_in(module), what="the child, shut in")
        with path.open("wb") as file:
            file.write(b"no such thing")
        assert isinstance(running.exception(20), errors.AppError | child.ChildDied)


def test_the_duties_run_what_is_inside():
    assert preparer.CheckDataset.module == "preparer.enclosed_dataset"
    assert preparer.Convert.module == "preparer.conversion"  # which opens nothing itself


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_candidate_is_measured_inside(engine: EngineName, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    if any(Path("/dev").glob("nvidia*")):
        pytest.skip("with a GPU candidates are measured outside")
    monkeypatch.setenv("HOME", str(tmp_path))
    order = LaunchOrder(
        candidate=Candidate(engine=engine, precision="fp32", batch_size=1, threads=2),
        round=1,
        artifact=str(DIGITS / "digits.onnx"),
        inputs=[TensorInfo(name="image", dtype="float32", shape=["batch", 1, 8, 8])],
        seed=0,
        calls=10_000_000,
        warmup_least=1,
        max_seconds=2.0,
    )
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        launched = pool.submit(launch, order, 60)
        wait_for(lambda: shut_in("benchmarker.candidate"), what="the candidate, shut in")
        found = launched.result(60)
    assert found.block.latencies_ns
    assert found.block.memory_mb > 1
    assert list(tmp_path.iterdir()) == []


def test_an_engine_is_examined_inside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    if any(Path("/dev").glob("nvidia*")):
        pytest.skip("with a GPU engines are examined outside")
    monkeypatch.setenv("HOME", str(tmp_path))
    inputs = [TensorInfo(name="image", dtype="float32", shape=["batch", 1, 8, 8])]
    about = ModelDescription(
        inputs=inputs,
        outputs=[TensorInfo(name="logits", dtype="float32", shape=["batch", 10])],
        opset=18,
        ir_version=10,
        parameters=1,
        dynamic_batch=True,
        preprocessing=None,
        labels=None,
    )
    told: list[dict[str, object]] = []
    with tempfile.TemporaryFile() as answers, concurrent.futures.ThreadPoolExecutor(1) as pool:
        order = ExamineOrder(
            engine="onnxruntime",
            precision="fp32",
            artifact=str(DIGITS / "digits.onnx"),
            task_type="classification",
            inputs=inputs,
            description=about,
            batches=[1, 256],
            threads=2,
            seed=0,
            dataset=None,
            seconds=1.0,
            answers=answers.fileno(),
        )
        examined = pool.submit(examine, order, 60, [answers.fileno()], told.append)
        wait_for(lambda: shut_in("benchmarker.examination"), what="the examination, shut in")
        assert examined.result(60).finite
        answers.seek(0)
        assert len(np.load(answers)["real 256 0"]) == 256
    assert list(tmp_path.iterdir()) == []


def shut_in(module: str) -> bool:
    """Whether a child of ours that runs this module is under a filter of system calls."""
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.Error, OSError):
            if module in process.cmdline():
                return "Seccomp:\t2" in Path(f"/proc/{process.pid}/status").read_text()
    return False


def test_the_examination_says_what_is_missing(monkeypatch: pytest.MonkeyPatch):
    assert not doctor.isolation().wrong
    monkeypatch.setattr(sandbox, "missing", lambda: ["the kernel offers no Landlock"])
    found = doctor.isolation()
    assert found.wrong
    assert "not shut in: the kernel offers no Landlock." in found.text
