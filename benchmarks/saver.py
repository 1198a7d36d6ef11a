"""Somebody who saves a platform again and again while it is being broken; the saving is killed now and then as well."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import click

from console import archive
from shared import config

PAUSE_S = 1.0
BOUND_S = 120.0


class Saver:
    """A thread that runs `cvp backup`. Of every run there is a whole backup or none; the newest can be restored.

    Args:
        settings: Of the platform.
        folder: Where to; not among the platform's data.
    """

    def __init__(self, settings: config.Settings, folder: Path) -> None:
        self.ends: Counter[str] = Counter()
        self.broken: list[str] = []
        self._settings, self._folder = settings, folder
        self._newest: Path | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live)

    def __enter__(self) -> Saver:
        self._folder.mkdir()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def restore(self) -> None:
        """Bring the newest back in a folder of its own."""
        if self._newest is None:
            self.broken.append("no backup was ever completed")
            return
        done = self._cvp(self._folder / "restored", "restore", str(self._newest))
        if done.returncode != 0:
            self.broken.append(f"a backup cannot be restored: {done.stderr.strip()}")

    def _live(self) -> None:
        number = 0
        while not self._stop.wait(PAUSE_S):
            number += 1
            self._save(self._folder / f"{number}.tar")

    def _save(self, target: Path) -> None:
        done = self._cvp(self._settings.root, "backup", str(target))
        self.ends["killed" if done.returncode < 0 else "made" if done.returncode == 0 else "refused"] += 1
        if "Lost before" in done.stdout:
            self.broken.append(f"a backup misses files: {done.stdout}")
        if not target.exists():
            return
        try:
            archive.verify(target, lambda _: None)
        except click.ClickException as damaged:
            self.broken.append(f"a backup is under its name and not whole: {damaged.message}")
        if self._newest is not None:
            self._newest.unlink()
        self._newest = target

    def _cvp(self, data_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "console.cli", *arguments],
            env=os.environ | {"DATA_DIR": str(data_dir)},
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=False,
        )
