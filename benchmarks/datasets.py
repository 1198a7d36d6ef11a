"""A dataset of any size through the child that checks it: seconds, images a second, and the most memory it held.

python -m benchmarks.datasets 1.0            a gigabyte of generated photographs
python -m benchmarks.datasets 10 --side 512  ten of them, of smaller images
"""

from __future__ import annotations

import io
import tempfile
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
import psutil
from PIL import Image

from preparer import DatasetFile, DatasetOrder
from shared import child
from shared.artifacts import ArtifactStore, Outputs
from shared.specs import DatasetSummary

CLASSES = 10
PATTERNS = 64
"""Different pictures; each is changed a little for every image, so that no two files are equal."""

FILES: tuple[DatasetFile, ...] = ("index", "pack", "sheet")
LOOK_S = 0.1
MB = 1024 * 1024


def write_archive(path: Path, size_bytes: int, side: int) -> int:
    """A ZIP of about this size, a folder a class, streamed to the disk; returns the number of images."""
    random = np.random.default_rng(0)
    patterns = [_photograph(random, side) for _ in range(PATTERNS)]
    count = 0
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        while path.stat().st_size < size_bytes:
            data = patterns[count % PATTERNS]
            # A comment segment of its own after the start of the JPEG makes every file another one.
            note = count.to_bytes(8, "big")
            unlike = data[:2] + b"\xff\xfe" + (len(note) + 2).to_bytes(2, "big") + note + data[2:]
            archive.writestr(f"class {count % CLASSES}/{count:07}.jpg", unlike)
            count += 1
    return count


def _photograph(random: np.random.Generator, side: int) -> bytes:
    """Smooth areas with some grain: as large as photographs of that size are."""
    coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).resize((side * 4 // 3, side))
    grain = random.normal(0, 6, (side, side * 4 // 3, 1))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


class Watch(threading.Thread):
    """Follows the memory of our children: proportional set size, and with it what is theirs alone."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_mb = 0.0
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(LOOK_S):
            try:
                held = sum(one.memory_full_info().pss for one in psutil.Process().children())
            except psutil.Error:
                continue
            self.peak_mb = max(self.peak_mb, held / MB)

    def stop(self) -> float:
        self._end.set()
        self.join()
        return self.peak_mb


def check(path: Path, store: ArtifactStore) -> tuple[DatasetSummary, float, float]:
    """Summary, seconds and peak memory in MB; as the preparer has it done, hashing of the files included."""
    watch, started = Watch(), time.monotonic()
    watch.start()
    with Outputs() as outputs:
        order = DatasetOrder(
            path=str(path),
            name=path.stem,
            task_type="classification",
            split=None,
            seed=0,
            frames_per_second=1.0,
            outputs={name: outputs.stage(name, store) for name in FILES},
        )
        limits = child.Limits(wall_s=7200, memory_mb=4096)
        module = "preparer.enclosed_dataset"
        summary = child.run(module, order, DatasetSummary, limits=limits, pass_fds=outputs.fds, on_progress=_show)
        for name in FILES:
            outputs.publish(name)
    return summary, time.monotonic() - started, watch.stop()


def _show(progress: dict[str, Any]) -> None:
    click.echo(f"\r{msgspec.json.encode(progress).decode():<100}", nl=False, err=True)


@click.command()
@click.argument("gigabytes", type=float)
@click.option("--side", default=768, help="Height of the images in pixels; they are 4:3.")
def main(gigabytes: float, side: int) -> None:
    """Generate a dataset of about this size, check it, print what it took."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "generated.zip")
        count = write_archive(path, int(gigabytes * 1e9), side)
        summary, seconds, peak_mb = check(path, ArtifactStore(Path(folder, "store")))
        size_gb = path.stat().st_size / 1e9
    assert summary.num_samples == count
    click.echo(
        f"\n{size_gb:.2f} GB, {count:,} images: {seconds:.0f} s, {summary.images_per_s:.0f} images/s, "
        f"peak {peak_mb:.0f} MB, {summary.num_near_duplicates:,} near-duplicates, {summary.num_warnings} warnings"
    )


if __name__ == "__main__":
    main()
