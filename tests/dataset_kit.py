"""Builds uploads of images, and checks them as the preparer's child does."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
from PIL import Image

from preparer import DatasetFile, DatasetOrder
from preparer.dataset import check
from shared import child
from shared.artifacts import ArtifactStore, Outputs
from shared.specs import DatasetIndex, DatasetSummary, Split, Task

LIMITS = child.Limits(wall_s=60, memory_mb=4096, cpu_s=60, file_mb=64)
FILES: tuple[DatasetFile, ...] = ("index", "pack", "sheet")

Content = bytes | str
Report = Callable[[dict[str, Any]], None]


def picture(seed: int = 0, width: int = 24, height: int = 16, kind: str = "JPEG", **options: Any) -> bytes:
    """Smooth noise: every seed looks different, also to a perceptual hash."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(buffer, kind, **options)
    return buffer.getvalue()


def zipped(path: Path, files: dict[str, Content], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return path


def of_classes(counts: dict[str, int], prefix: str = "") -> dict[str, Content]:
    """A folder a class, with images numbered from 0."""
    names = [f"{prefix}{label}/{number}.jpg" for label, count in counts.items() for number in range(count)]
    return {name: picture(seed) for seed, name in enumerate(names)}


def video(path: Path, seconds: float = 3.0, fps: float = 10.0, size: tuple[int, int] = (64, 48)) -> bytes:
    """An MJPEG film in an AVI whose brightness tells the time: a frame is as bright as its number is high."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, size)
    for number in range(round(seconds * fps)):
        writer.write(np.full((size[1], size[0], 3), number * 5 % 256, np.uint8))
    writer.release()
    return path.read_bytes()


class Checked:
    """A finished check: summary and files."""

    def __init__(self, summary: DatasetSummary, paths: dict[str, Path]) -> None:
        self.summary, self.paths = summary, paths
        self.index = msgspec.msgpack.decode(paths["index"].read_bytes(), type=DatasetIndex)

    @property
    def labels(self) -> dict[str, str]:
        """Member to class name."""
        return {one.member: self.index.classes[one.class_id] for one in self.index.samples if one.class_id is not None}

    @property
    def splits(self) -> dict[str, Split]:
        return {one.member: one.split for one in self.index.samples}

    @property
    def said(self) -> str:
        """All warnings as text."""
        return "\n".join(f"{warning.where}: {warning.what}" for warning in self.summary.warnings)

    def copy(self, number: int) -> bytes:
        """The prepared copy of a sample."""
        sample = self.index.samples[number]
        return self.paths["pack"].read_bytes()[sample.offset : sample.offset + sample.size]


def order(path: Path, task: Task = "classification", **more: Any) -> DatasetOrder:
    facts = {"split": None, "seed": 0, "frames_per_second": 1.0, "name": "Test", "outputs": {}} | more
    return DatasetOrder(path=str(path), task_type=task, **facts)


def check_here(path: Path, task: Task = "classification", **more: Any) -> Checked:
    """The check without the child around it."""
    paths = {name: path.with_suffix(f".{name}") for name in FILES}
    fds = {name: os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for name, place in paths.items()}
    try:
        return Checked(check(order(path, task, outputs=fds, **more), lambda body: None), paths)
    finally:
        for fd in fds.values():
            os.close(fd)


def check_in_child(
    path: Path, store: ArtifactStore, task: Task = "classification", limits: child.Limits = LIMITS, **more: Any
) -> Checked:
    """The check as the preparer has it done."""
    on_progress: Report = more.pop("on_progress", lambda body: None)
    with Outputs("tests") as outputs:
        fds = {name: outputs.stage(name, store) for name in FILES}
        summary = child.run(
            "preparer.enclosed_dataset",
            order(path, task, outputs=fds, **more),
            DatasetSummary,
            limits=limits,
            pass_fds=outputs.fds,
            on_progress=on_progress,
        )
        return Checked(summary, {name: store.path(outputs.publish(name).sha256) for name in FILES})
