"""The digits as a dataset to upload, in the parts the model was made with: a folder a part, in it a folder a class.

Run it with `python examples/digits/dataset.py digits.zip`. scikit-learn ships the digits (`make setup-train`).
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

SEED = 0
PARTS = ("train", "val", "test")


class Split(NamedTuple):
    """Pixels as uint8 `[N, 8, 8]`, labels as int64 `[N]`."""

    pixels: np.ndarray
    labels: np.ndarray


def load() -> tuple[Split, Split, Split]:
    """The 1,797 digits in train, validation and test parts (80/10/10), stratified, the same every time.

    The data set counts ink from 0 to 16; it becomes 0..255 here, so that an 8-bit PNG holds exactly what is trained on.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = ((digits.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    rest, test = train_test_split(np.arange(len(labels)), test_size=0.1, stratify=labels, random_state=SEED)
    train, validation = train_test_split(rest, test_size=1 / 9, stratify=labels[rest], random_state=SEED)
    train_part, validation_part, test_part = (Split(pixels[part], labels[part]) for part in (train, validation, test))
    return train_part, validation_part, test_part


def write(path: Path) -> Path:
    """Write the ZIP: the same bytes every time. Returns its path."""
    with zipfile.ZipFile(path, "w") as archive:
        for part, split in zip(PARTS, load(), strict=True):
            for number, (pixels, label) in enumerate(zip(split.pixels, split.labels, strict=True)):
                archive.writestr(zipfile.ZipInfo(f"{part}/{label}/{number:04d}.png"), png(pixels))
    return path


def png(pixels: np.ndarray) -> bytes:
    """An image file of grey pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    print(write(Path(sys.argv[1])))
