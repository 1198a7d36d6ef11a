"""The check of a dataset in its real child: shut in, bounded, repeatable, and its files are the parent's."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from preparer import enclosed_dataset
from shared import child, errors, sandbox
from shared.artifacts import ArtifactStore
from shared.vision.decode import decode
from tests.dataset_kit import FILES, LIMITS, check_in_child, of_classes, picture, video, zipped

pytestmark = pytest.mark.process

PETS = of_classes({"cat": 12, "dog": 12}, "pets/")


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "datasets")


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_from_the_upload_to_its_files(tmp_path: Path, store: ArtifactStore):
    path = zipped(
        tmp_path / "pets.zip", PETS | {"pets/cat/odd.jpg": b"broken", "pets/cat/film.avi": video(tmp_path / "a.avi")}
    )
    told: list[dict[str, Any]] = []
    found = check_in_child(path, store, on_progress=told.append)
    assert found.summary.num_samples == 27
    assert found.summary.splits["train"] >= 20
    assert "pets/cat/odd.jpg: " in found.said
    assert told[0]["step"] == "reading the table of contents"
    assert {"step": "dividing and comparing", "done": 26, "total": 26} in told
    for number, sample in enumerate(found.index.samples):
        assert decode(found.copy(number)).size == (sample.width, sample.height)
    assert decode(found.paths["sheet"].read_bytes()).width > 1000
    assert files_below(tmp_path) == {path, tmp_path / "a.avi", *found.paths.values()}


def test_the_same_upload_gives_the_same_files(tmp_path: Path, store: ArtifactStore):
    path = zipped(tmp_path / "pets.zip", PETS)
    one, other = check_in_child(path, store, seed=7), check_in_child(path, store, seed=7)
    assert one.paths == other.paths
    third = check_in_child(path, store, seed=8)
    assert [one.paths[name] == third.paths[name] for name in FILES] == [False, True, True]


@pytest.mark.skipif(bool(sandbox.missing()), reason="; ".join(sandbox.missing()))
def test_it_is_shut_in_before_it_reads(tmp_path: Path, store: ArtifactStore):
    secret = zipped(tmp_path / "secret.zip", PETS)
    link = tmp_path / "upload.zip"
    link.symlink_to(secret)
    assert check_in_child(link, store).summary.num_samples == 24, "what it was told to read, it reads"
    table = tmp_path / "labels.csv"
    table.write_text(f"file,label\n{secret},a\n/etc/passwd,b\n../../etc/passwd,b\n")
    with pytest.raises(errors.BadDataset, match="names a file of the ZIP"):
        check_in_child(table, store, images_path=str(secret))
    source = Path(enclosed_dataset.__file__).read_text()
    assert source.index("sandbox.enter(") < source.index("from preparer.dataset import")


def test_a_refusal_leaves_no_file(tmp_path: Path, store: ArtifactStore):
    path = zipped(tmp_path / "x.zip", {"../../evil.jpg": picture(0)})
    with pytest.raises(errors.BadDataset, match="leads out"):
        check_in_child(path, store)
    assert files_below(tmp_path) == {path}


def test_a_pack_that_grows_too_large_is_said(tmp_path: Path, store: ArtifactStore):
    path = zipped(tmp_path / "x.zip", of_classes({"a": 2, "b": 2}) | {f"a/x{n}.png": noise(n) for n in range(10)})
    limits = child.Limits(wall_s=60, memory_mb=4096, file_mb=1)
    with pytest.raises(errors.TooLarge, match="prepared copies need more space"):
        check_in_child(path, store, limits=limits)
    assert files_below(tmp_path) == {path}


def noise(seed: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.effect_noise((256, 256), 90 + seed).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def test_decoding_bombs_cost_no_memory(tmp_path: Path, store: ArtifactStore):
    """Images of nearly the most pixels that are allowed, decoded within what a few of them need."""
    width, height = 8000, 6000
    rows = zlib.compressobj(9)
    data = b"".join([*(rows.compress(bytes(width + 1)) for _ in range(height)), rows.flush()])

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))

    header = struct.pack(">2L5B", width, height, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    files = {f"{label}/{number}.png": png for label in "ab" for number in range(3)}
    path = zipped(tmp_path / "x.zip", files, zipfile.ZIP_STORED)
    found = check_in_child(path, store, limits=child.Limits(wall_s=60, memory_mb=2048, cpu_s=60, file_mb=64))
    assert found.summary.num_samples == 6
    assert found.summary.num_near_duplicates == 0


def test_a_full_description_of_the_worst_is_small(tmp_path: Path, store: ArtifactStore):
    files = {f"{'c' * 190}{label}/{number}.jpg": b"broken" for label in range(250) for number in range(2)}
    path = zipped(tmp_path / "x.zip", files | of_classes({"a": 260, "b": 260}))
    found = check_in_child(path, store, limits=LIMITS)
    assert found.summary.num_skipped == 500
    assert found.summary.num_warnings >= 750
    assert len(found.summary.warnings) < 60
