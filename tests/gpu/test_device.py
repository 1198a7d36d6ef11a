"""What the GPU tells of itself, and the slots that jobs hold while they use it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shared import gpu
from shared.process import FileLock, Locked

HOLD = """
import fcntl, sys, torch
lock = open(sys.argv[1], "a")
fcntl.flock(lock, fcntl.LOCK_EX)
held = torch.empty(512 * 2**20, dtype=torch.uint8, device="cuda")
torch.cuda.synchronize()
print("holding", flush=True)
sys.stdin.read()
"""
MB = 2**20


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed")


@pytest.fixture
def nvml() -> None:
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")


def test_every_figure_is_there_or_left_out(nvml: None) -> None:
    cards = gpu.figures()
    assert cards
    for card in cards:
        assert card.name
        assert card.memory_total_mb is None or 0 <= (card.memory_used_mb or 0) <= card.memory_total_mb
        assert card.util_pct is None or 0 <= card.util_pct <= 100
        assert card.power_w is None or 0 < card.power_w < 2000
    assert cards[0].memory_total_mb, "a whole GPU tells how much memory it has"


def test_without_the_library_there_are_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    meter = gpu.Meter()
    meter.start()
    assert (gpu.figures(), gpu.use(), meter.read()) == (None, None, gpu.Drawn())


def test_what_this_process_takes_is_seen(nvml: None, torch) -> None:
    torch.zeros(1, device="cuda")
    before = gpu.taken()
    held = torch.empty(256 * MB, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    grown_mb = gpu.grown_mb(before, gpu.taken())
    assert grown_mb is not None and 256 <= grown_mb < 1024
    assert (gpu.total_mb() or 0) > grown_mb
    del held


def test_a_meter_sees_work(nvml: None, torch) -> None:
    meter = gpu.Meter()
    one = torch.randn(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    meter.start()
    end = time.monotonic() + 3
    while time.monotonic() < end:
        for _ in range(20):
            one = (one @ one).clamp(-1, 1)
        torch.cuda.synchronize()
    drawn = meter.read()
    assert drawn.vram_mb is not None and drawn.vram_mb >= one.numel() * 4 / MB
    assert drawn.util_pct is None or drawn.util_pct > 50
    assert drawn.power_w is None or drawn.power_w > 10


def test_a_slot_and_its_memory_are_free_when_its_holder_is_killed(torch, tmp_path: Path) -> None:
    slot = tmp_path / "gpu-slot-0.lock"
    free_before, _ = torch.cuda.mem_get_info()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(slot)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "holding\n"
        with pytest.raises(Locked):
            FileLock(slot).acquire()
        assert free_before - torch.cuda.mem_get_info()[0] >= 512 * MB
        os.kill(holder.pid, signal.SIGKILL)
    FileLock(slot).acquire().release()
    end = time.monotonic() + 30
    while free_before - torch.cuda.mem_get_info()[0] > 64 * MB:
        assert time.monotonic() < end, "the memory of a killed process is not given back"
        time.sleep(0.1)


def test_others_at_work_are_counted(nvml: None, torch, tmp_path: Path) -> None:
    before = gpu.use()
    assert before is not None
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "holding\n"
        during = gpu.use()
        holder.kill()
    assert during is not None
    assert during.processes == before.processes + 1
