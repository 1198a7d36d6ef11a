"""Datasets through the whole platform: every layout, what is broken, what is hostile, and deaths in the middle."""

from __future__ import annotations

import json
import os
import signal
import stat
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from benchmarks.invariants import violations
from shared import config, failpoints
from shared.artifacts import ArtifactStore
from shared.db import connection, datasets, registry
from shared.db.accounts import Account
from shared.db.tables import Artifact
from shared.trace import Origin
from tests.dataset_kit import Content, of_classes, picture, video, zipped
from tests.process.platform import ROOT, Platform, family, settled, wait_for
from tests.unit.test_dataset_archives import GOOD, patched, with_member

MB = 1024 * 1024
CHECK = "preparer.enclosed_dataset"

Make = Callable[[Path], Path]


@pytest.fixture(scope="module")
def client(platform: Platform) -> Iterator[httpx.Client]:
    with platform.login() as client:
        yield client


def post(client: httpx.Client, path: Path, **fields: str) -> httpx.Response:
    data = {"name": path.stem, "task_type": "classification"} | fields
    with path.open("rb") as file:
        return client.post("/datasets", data=data, files={"file": (path.name, file)})


def upload(client: httpx.Client, path: Path, **fields: str) -> str:
    answer = post(client, path, **fields)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def checked(client: httpx.Client, path: Path, **fields: str) -> dict[str, Any]:
    return settled(client, f"/datasets/{upload(client, path, **fields)}")


def stored(platform: Platform) -> set[str]:
    """Everything in the store of datasets."""
    return {path.name for path in (platform.data_dir / "datasets").rglob("*") if path.is_file()}


def yolo(path: Path) -> Path:
    parts = [(part, number) for part in ("train", "val") for number in range(3)]
    files: dict[str, Content] = {f"images/{part}/{n}.jpg": picture(n, 40, 20) for part, n in parts}
    files |= {f"labels/{part}/{n}.txt": f"{n % 2} 0.5 0.5 0.5 0.5\n" for part, n in parts}
    return zipped(path, files | {"data.yaml": "names: [cat, dog]\n"})


def coco(path: Path) -> Path:
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 24, "height": 16} for n in range(20)]
    boxes = [{"id": n, "image_id": n, "category_id": 3 + n % 2, "bbox": [1, 2, 10, 5]} for n in range(20)]
    document = {
        "images": images,
        "categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}],
        "annotations": boxes,
    }
    files: dict[str, Content] = {f"{n}.jpg": picture(n) for n in range(20)}
    return zipped(path, files | {"annotations.json": json.dumps(document)})


def films(path: Path) -> Path:
    film = video(path.with_suffix(".avi"))
    return zipped(path, {f"{label}/{number}.avi": film for label in ("rain", "sun") for number in range(5)})


def with_table(path: Path) -> Path:
    table = "file,label\n" + "".join(f"img/{n}.jpg,{'cat' if n % 2 else 'dog'}\n" for n in range(20))
    return zipped(path, {f"img/{n}.jpg": picture(n) for n in range(20)} | {"labels.csv": table})


LAYOUTS: list[tuple[str, Make, dict[str, str], dict[str, int], str]] = [
    ("folders", lambda path: zipped(path, of_classes({"cat": 20, "dog": 10})), {"split": "60/20/20"},
     {"train": 18, "val": 6, "test": 6}, "made"),
    ("table", with_table, {"seed": "5"}, {"train": 16, "val": 2, "test": 2}, "made"),
    ("yolo", yolo, {"task_type": "detection"}, {"train": 3, "val": 3, "test": 0}, "given"),
    ("coco", coco, {"task_type": "detection"}, {"train": 16, "val": 2, "test": 2}, "made"),
    ("folders", films, {"frames_per_second": "2"}, {"train": 36, "val": 12, "test": 12}, "made"),
]  # fmt: skip


@pytest.mark.parametrize(("layout", "make", "fields", "splits", "source"), LAYOUTS)
def test_every_layout_becomes_ready(
    client: httpx.Client,
    tmp_path: Path,
    layout: str,
    make: Make,
    fields: dict[str, str],
    splits: dict[str, int],
    source: str,
):
    dataset = checked(client, make(tmp_path / "upload.zip"), **fields)
    assert (dataset["status"], dataset["splits"]) == ("ready", splits), dataset
    assert (dataset["statistics"]["layout"], dataset["statistics"]["split_source"]) == (layout, source)
    assert (dataset["num_samples"], dataset["num_classes"]) == (sum(splits.values()), 2)
    assert dataset["prepared_size"] > 1000
    sheet = client.get(f"/datasets/{dataset['id']}/contact-sheet")
    assert sheet.content.startswith(b"\xff\xd8\xff"), "a JPEG"
    job = client.get(f"/jobs/{dataset['job_id']}").json()
    assert (job["kind"], job["status"], job["attempt"]) == ("dataset", "completed", 1)


def test_a_table_takes_the_images_of_another_upload(client: httpx.Client, tmp_path: Path):
    archive = zipped(tmp_path / "images.zip", {f"{number}.jpg": picture(number) for number in range(20)})
    archive_id = upload(client, archive)
    labels = tmp_path / "labels.csv"
    labels.write_text("file,label\n" + "".join(f"{n}.jpg,{'cat' if n % 4 else 'dog'}\n" for n in range(20)))
    dataset = checked(client, labels, archive_id=archive_id)
    assert (dataset["status"], dataset["num_samples"], dataset["classes"]) == ("ready", 20, ["cat", "dog"]), dataset
    unlabelled = settled(client, f"/datasets/{archive_id}")
    assert unlabelled["status"] == "failed", "images without labels are no dataset of their own"
    assert client.delete(f"/datasets/{archive_id}").status_code == 409
    assert client.delete(f"/datasets/{dataset['id']}").status_code == 204
    assert client.delete(f"/datasets/{archive_id}").status_code == 204


BROKEN: list[tuple[dict[str, Content], dict[str, str], str]] = [
    ({}, {}, "No image and no video in the ZIP"),
    ({"readme.txt": "hello"}, {}, "No image and no video in the ZIP"),
    (of_classes({"cat": 5}), {}, "one class only"),
    (of_classes({"cat": 5, "dog": 5}), {"task_type": "detection"}, "no boxes in the upload"),
    ({f"{label}/{n}.jpg": b"no image" for label in ("cat", "dog") for n in range(4)}, {}, "more than half"),
]


@pytest.mark.parametrize(("files", "fields", "says"), BROKEN)
def test_what_is_broken_fails_with_a_sentence(
    client: httpx.Client, tmp_path: Path, files: dict[str, Content], fields: dict[str, str], says: str
):
    dataset = checked(client, zipped(tmp_path / "upload.zip", files), **fields)
    assert dataset["status"] == "failed"
    assert says in dataset["error"] and dataset["error"].endswith((".", ")"))
    assert client.get(f"/datasets/{dataset['id']}/contact-sheet").status_code == 409
    assert client.get(f"/jobs/{dataset['job_id']}").json()["error"] == dataset["error"]
    assert client.delete(f"/datasets/{dataset['id']}").status_code == 204


def test_deleting_removes_the_files(platform: Platform, client: httpx.Client, tmp_path: Path):
    before = stored(platform)
    dataset = checked(client, zipped(tmp_path / "upload.zip", of_classes({"one": 6, "two": 6})))
    assert len(stored(platform) - before) == 4, "the upload, index, pack and sheet"
    assert client.delete(f"/datasets/{dataset['id']}").status_code == 204
    assert stored(platform) == before


def large(path: Path, side: int = 1500, images: int = 60) -> Path:
    """Takes seconds to check."""
    pictures = [picture(number, side, side) for number in range(4)]
    return zipped(path, {f"{number % 2}/{number}.jpg": pictures[number % 4] for number in range(images)})


def child_of(platform: Platform) -> int | None:
    """The child that checks a dataset, once it has begun with the images."""
    found = [
        pid for pid in platform.pids(CHECK) if list((platform.data_dir / "datasets" / "staging").glob("preparer-*"))
    ]
    return found[0] if found else None


def test_a_check_that_is_killed_is_done_again(platform: Platform, client: httpx.Client, tmp_path: Path):
    dataset_id = upload(client, large(tmp_path / "child.zip"))
    os.kill(wait_for(lambda: child_of(platform), 30, "the check"), signal.SIGKILL)
    dataset = settled(client, f"/datasets/{dataset_id}")
    job = client.get(f"/jobs/{dataset['job_id']}").json()
    assert (dataset["status"], job["attempt"]) == ("ready", 2), dataset


def test_a_preparer_that_is_killed_leaves_nothing_half(platform: Platform, client: httpx.Client, tmp_path: Path):
    dataset_id = upload(client, large(tmp_path / "preparer.zip"))
    child = psutil.Process(wait_for(lambda: child_of(platform), 30, "the check"))
    os.kill(child.ppid(), signal.SIGKILL)
    child.wait(10)
    dataset = settled(client, f"/datasets/{dataset_id}")
    job = client.get(f"/jobs/{dataset['job_id']}").json()
    assert (dataset["status"], job["attempt"]) == ("ready", 2), dataset
    assert list((platform.data_dir / "datasets" / "staging").iterdir()) == []


def test_a_gateway_that_starts_again_leaves_a_check_alone(platform: Platform, client: httpx.Client, tmp_path: Path):
    """Both stage files in one store; each clears its own."""
    dataset_id = upload(client, large(tmp_path / "gateway.zip"))
    wait_for(lambda: child_of(platform), 30, "the check")
    platform.kill("gateway")
    wait_for(platform.ready, 30, "the gateway")
    dataset = settled(client, f"/datasets/{dataset_id}")
    assert (dataset["status"], client.get(f"/jobs/{dataset['job_id']}").json()["attempt"]) == ("ready", 1), dataset


def test_deleting_ends_a_check_that_runs(platform: Platform, client: httpx.Client, tmp_path: Path):
    before = stored(platform)
    dataset_id = upload(client, large(tmp_path / "cancelled.zip", images=400))
    job_id = client.get(f"/datasets/{dataset_id}").json()["job_id"]
    child = psutil.Process(wait_for(lambda: child_of(platform), 30, "the check"))

    def progress() -> dict[str, Any]:
        told: dict[str, Any] = client.get(f"/jobs/{job_id}").json()["progress"]
        return told if "fraction" in told else {}

    told = wait_for(progress, 30, "progress")
    assert (told["step"], told["total"]) == ("images", 400) and 0 <= told["fraction"] < 1
    assert client.delete(f"/datasets/{dataset_id}").status_code == 204
    child.wait(20)
    assert settled(client, f"/jobs/{job_id}")["status"] == "cancelled"
    assert stored(platform) == before


def bomb(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("cat/1.jpg", "w") as member:
        for _ in range(512):
            member.write(bytes(MB))
    return path


def share(data: bytearray, places: list[int]) -> None:
    for place in places[1:]:
        data[place + 42 : place + 46] = struct.pack("<L", 0)


def encrypt(data: bytearray, places: list[int]) -> None:
    data[places[2] + 8] |= 1


def damage(data: bytearray, places: list[int]) -> None:
    data[data.find(b"cat/1.jpg") + 60] ^= 0xFF


def overstate(data: bytearray, places: list[int]) -> None:
    struct.pack_into("<2L", data, places[-1] + 20, 0xFFFFFFF0, 0xFFFFFFF0)


def nul(data: bytearray, places: list[int]) -> None:
    for place in (data.find(b"cat/0.jpg"), data.rfind(b"cat/0.jpg")):
        data[place + 4] = 0


def many(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(70_000):
            archive.writestr(f"cat/{number}.txt", "")
    return path


def twice(path: Path) -> Path:
    zipped(path, GOOD)
    data = path.read_bytes().replace(b"cat/1.jpg", b"cat/0.jpg")
    path.write_bytes(data)
    return path


def link(path: Path) -> Path:
    return with_member(path, "cat/9.jpg", "/etc/passwd", create_system=3, external_attr=(stat.S_IFLNK | 0o777) << 16)


def device(path: Path) -> Path:
    return with_member(path, "cat/9.jpg", "", create_system=3, external_attr=(stat.S_IFCHR | 0o777) << 16)


HOSTILE: dict[int, tuple[Make, str]] = {
    1: (lambda path: with_member(path, "../../evil.jpg"), "failed"),
    2: (lambda path: with_member(path, "/tmp/evil.jpg"), "failed"),
    3: (lambda path: with_member(path, "..\\..\\evil.jpg"), "failed"),
    4: (link, "ready"),
    5: (device, "ready"),
    6: (lambda path: with_member(path, "cat/inner.zip", bomb(path.with_suffix(".inner")).read_bytes()), "ready"),
    7: (bomb, "failed"),
    8: (lambda path: patched(zipped(path, GOOD), share), "failed"),
    9: (many, "failed"),
    10: (twice, "failed"),
    11: (lambda path: patched(zipped(path, GOOD), nul), "ready"),
    12: (lambda path: patched(zipped(path, GOOD), encrypt), "failed"),
    13: (lambda path: patched(zipped(path, GOOD), damage), "ready"),
    14: (lambda path: patched(zipped(path, GOOD), overstate), "failed"),
}
"""Archives 1 to 14 of the hostile list, and what becomes of them; the 15th is refused at the door."""


class Scales(threading.Thread):
    """The most memory that gateway, preparers and their children hold, in MB."""

    def __init__(self, platform: Platform) -> None:
        super().__init__(daemon=True)
        self._services = {name: list(map(psutil.Process, platform.pids(name))) for name in ("gateway", "preparer")}
        self._end = threading.Event()
        self.peak_mb = dict.fromkeys((*self._services, "child"), 0.0)

    def run(self) -> None:
        while not self._end.wait(0.02):
            for name, service in self._services.items():
                self._note(name, lambda service=service: service)
            self._note("child", lambda: [each for one in self._services["preparer"] for each in family(one.pid)])

    def _note(self, name: str, processes: Callable[[], list[psutil.Process]]) -> None:
        try:
            held = sum(one.memory_info().rss for one in processes()) / MB
        except psutil.Error:  # it left while we looked
            return
        self.peak_mb[name] = max(self.peak_mb[name], held)

    def __enter__(self) -> Scales:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()


def test_hostile_archives_cost_no_memory_and_leave_nothing_outside(
    platform: Platform, client: httpx.Client, tmp_path: Path
):
    with Scales(platform) as harmless:
        assert checked(client, large(tmp_path / "good.zip", images=20))["status"] == "ready"
    around = {path for path in platform.data_dir.parent.glob("*evil*")} | set(Path("/tmp").glob("evil*"))
    found = {}
    with Scales(platform) as hostile:
        for number, (make, _) in HOSTILE.items():
            dataset = checked(client, make(tmp_path / f"{number}.zip"))
            found[number] = dataset["status"]
            assert dataset["status"] == "ready" or len(dataset["error"]) > 20, dataset
    assert found == {number: status for number, (_, status) in HOSTILE.items()}
    polyglot = tmp_path / "15.zip"
    polyglot.write_bytes(b"#!/bin/sh\n" + zipped(tmp_path / "plain.zip", GOOD).read_bytes())
    assert post(client, polyglot).status_code == 415
    for name, peak_mb in hostile.peak_mb.items():
        assert peak_mb < harmless.peak_mb[name] + 100, (name, harmless.peak_mb, hostile.peak_mb)
    assert {path for path in platform.data_dir.rglob("*evil*")} == set()
    assert {path for path in platform.data_dir.parent.glob("*evil*")} | set(Path("/tmp").glob("evil*")) == around


# --- deaths at every step of the preparer -----------------------------------------------------------------------------

STEPS = [
    *((f"artifact.{side}_rename", hit) for side in ("before", "after") for hit in (1, 2, 3)),
    *((f"{name}.{side}_commit", 1) for name in ("claim", "finish") for side in ("before", "after")),
    ("child.after_result", 1),
]


@pytest.mark.parametrize("kill", STEPS, ids=lambda kill: f"{kill[0]}-{kill[1]}")
def test_a_preparer_that_dies_at_any_step_leaves_no_half_dataset(
    kill: tuple[str, int], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, db_file: Path, owner: Account
):
    settings = config.load({"DATA_DIR": str(tmp_path_factory.mktemp("cvp")), "DB_PATH": str(db_file)})
    settings.make_folders()
    dataset_id = add_dataset(settings, owner, zipped(tmp_path / "upload.zip", GOOD))

    def preparer(failpoint: str) -> subprocess.Popen[bytes]:
        env = os.environ | {"DATA_DIR": settings.data_dir, "DB_PATH": settings.db_path, failpoints.VARIABLE: failpoint}
        return subprocess.Popen([sys.executable, "-m", "preparer", "0"], env=env, cwd=ROOT, stderr=subprocess.DEVNULL)

    first = preparer(f"{kill[0]}:{kill[1]}")
    assert first.wait(60) == -signal.SIGKILL
    half = datasets.find(dataset_id)
    assert (half.status, half.summary is None) in [("preprocessing", True), ("ready", False)]
    second = preparer("")
    try:
        wait_for(lambda: datasets.find(dataset_id).status == "ready", 60, "the dataset")
    finally:
        second.terminate()
        second.wait(20)
    assert violations(settings, []) == []
    assert Artifact.select().count() == 4
    assert list((settings.datasets / "staging").iterdir()) == []


def add_dataset(settings: config.Settings, user: Account, path: Path) -> str:
    """An upload as the gateway leaves it."""
    uploaded = ArtifactStore(settings.datasets).put(path.read_bytes())
    fields = {"name": "d", "task_type": "classification", "description": "", "split": None, "seed": 0}
    with connection.write(durable=True):
        registry.keep_artifact(uploaded, "datasets")
        more = {"limit": 9, "origin": Origin(), "archive_id": None, "frames_per_second": 1.0}
        return datasets.add(uploaded, user.id, **fields, **more)
