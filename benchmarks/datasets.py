"""`make bench-dataset GB=10`: a dataset of any size through the API: seconds, images a second, memory, disk.

Generated photographs go into a ZIP on the disk, through HTTP into a platform of its own, and are checked there. The
most that gateway, preparer and the check's process hold is followed all the while; a missed goal makes the run fail.
"""

from __future__ import annotations

import functools
import io
import shutil
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.run import Figure, Platform, platform

CLASSES = 10
PATTERNS = 64
"""Different pictures; each is changed a little for every image, so that no two files are equal."""

LOOK_S = 0.2
MB = 1024 * 1024
PIECE_BYTES = 1 << 20
GROWTH_MB = 100
CHECK_MB = 1024
CHECK_WITHIN_S = 4 * 3600.0


def write_archive(path: Path, size_bytes: int, side: int) -> int:
    """A ZIP of about this size, a folder a class, streamed to the disk; returns the number of images."""
    random = np.random.default_rng(0)
    patterns = [_photograph(random, side) for _ in range(PATTERNS)]
    count = 0
    with path.open("wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        while file.tell() < size_bytes:
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


class Scales(threading.Thread):
    """The most memory of gateway, preparers and their child: proportional set size, in MB."""

    def __init__(self, running: Platform) -> None:
        super().__init__(daemon=True)
        found = running.processes()
        self._services = {name: _services(found[name], name) for name in ("gateway", "preparer")}
        self.start_mb = {name: _held_mb(group) for name, group in self._services.items()}
        self.peak_mb = self.start_mb | {"check": 0.0}
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(LOOK_S):
            for name, group in self._services.items():
                self._note(name, functools.partial(list, group))
            self._note("check", self._checks)

    def _checks(self) -> list[psutil.Process]:
        children = [child for one in self._services["preparer"] for child in one.children()]
        return [child for child in children if "preparer.enclosed_dataset" in child.cmdline()]

    def _note(self, name: str, processes: Callable[[], list[psutil.Process]]) -> None:
        try:
            held = _held_mb(processes())
        except psutil.Error:  # it left while we looked
            return
        self.peak_mb[name] = max(self.peak_mb[name], held)

    def stop(self) -> None:
        self._end.set()
        self.join()


def _services(group: list[psutil.Process], name: str) -> list[psutil.Process]:
    """The processes of the service itself, not the scribes beside them."""
    return [one for one in group if name in (words := one.cmdline()) and "shared.scribe" not in words]


def _held_mb(processes: list[psutil.Process]) -> float:
    return float(sum(one.memory_full_info().pss for one in processes) / MB)


def upload(running: Platform, path: Path) -> dict[str, Any]:
    """Send the archive, a piece at a time; the dataset as it was accepted."""
    part = "--x\r\nContent-Disposition: form-data; name="
    head = "".join(
        f'{part}"{name}"\r\n\r\n{value}\r\n' for name, value in (("name", path.stem), ("task_type", "classification"))
    )
    head += f'{part}"file"; filename="{path.name}"\r\n\r\n'
    tail = "\r\n--x--\r\n"

    def body() -> Iterator[bytes]:
        yield head.encode()
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece
        yield tail.encode()

    length = len(head) + path.stat().st_size + len(tail)
    headers = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": str(length)}
    answer = running.http.post("/datasets", content=body(), headers=headers)
    answer.raise_for_status()
    accepted: dict[str, Any] = answer.json()
    return accepted


def ready(running: Platform, path: Path) -> str:
    """Send the archive and wait for its check; the dataset's id."""
    dataset_id = str(upload(running, path)["id"])
    running.wait(f"/datasets/{dataset_id}", lambda body: body["status"] == "ready")
    return dataset_id


def figures(running: Platform, path: Path, count: int) -> list[Figure]:
    """Upload, wait, weigh."""
    scales = Scales(running)
    scales.start()
    started = time.monotonic()
    dataset = upload(running, path)
    uploaded = time.monotonic()
    while dataset["status"] == "preprocessing":
        if time.monotonic() - uploaded > CHECK_WITHIN_S:
            raise SystemExit("The check did not end.")
        time.sleep(0.5)
        dataset = running.http.get(f"/datasets/{dataset['id']}").raise_for_status().json()
    checked = time.monotonic()
    scales.stop()
    if dataset["status"] != "ready" or dataset["num_samples"] != count:
        raise SystemExit(f"{count} images became {dataset['num_samples']}: {dataset['error']}")
    store = sum(one.stat().st_size for one in running.settings.datasets.rglob("*") if one.is_file())
    growth = {name: scales.peak_mb[name] - scales.start_mb[name] for name in scales.start_mb}
    size_gb, upload_s = path.stat().st_size / 1e9, uploaded - started
    return [
        Figure(name="size", value=size_gb, unit="GB", note=f"{count:,} images"),
        Figure(name="upload", value=upload_s, unit="s", note=f"{size_gb * 1000 / upload_s:.0f} MB/s"),
        Figure(name="upload to ready", value=checked - started, unit="s"),
        Figure(name="check", value=count / (checked - uploaded), unit="images/s"),
        Figure(name="gateway, growth", value=growth["gateway"], unit="MB (PSS)", goal=GROWTH_MB),
        Figure(name="preparers, growth", value=growth["preparer"], unit="MB (PSS)", goal=GROWTH_MB),
        Figure(name="check, at most", value=scales.peak_mb["check"], unit="MB (PSS)", goal=CHECK_MB),
        Figure(name="disk", value=store / 1e9, unit="GB", note=f"{dataset['prepared_size'] / 1e9:.2f} GB prepared"),
    ]


def show(found: list[Figure]) -> bool:
    """Print the table; whether every goal is met."""
    table = Table(title="A dataset through the API")
    for heading in ("figure", "value", "goal", ""):
        table.add_column(heading, justify="right" if heading in ("value", "goal") else "left")
    for one in found:
        goal = "" if one.goal is None else f"<= {one.goal:g}"
        table.add_row(one.name, one.measured, goal, one.note or ("" if one.met else "missed"))
    Console().print(table)
    return all(one.met for one in found)


@click.command()
@click.argument("gigabytes", type=float)
@click.option("--side", default=768, help="Height of the images in pixels; they are 4:3.")
def main(gigabytes: float, side: int) -> None:
    """Generate a dataset of about this size, bring it through the API, print what it took."""
    with platform() as running:
        free_gb = shutil.disk_usage(running.settings.root).free / 1e9
        if free_gb < 3 * gigabytes + 2:
            raise SystemExit(f"{3 * gigabytes + 2:.0f} GB of disk are needed, {free_gb:.0f} are free.")
        path = running.settings.root / "generated.zip"
        count = write_archive(path, int(gigabytes * 1e9), side)
        sys.exit(not show(figures(running, path, count)))


if __name__ == "__main__":
    main()
