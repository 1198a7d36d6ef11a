"""The check of a dataset, from the upload to index, pack, contact sheet and summary."""

from __future__ import annotations

import codecs
import contextlib
import errno
import hashlib
import heapq
import os
import time
import zipfile
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from preparer import DatasetOrder, duplicates
from preparer.archive import Archive
from preparer.coco import coco_layout, is_coco
from preparer.findings import Findings, shown
from preparer.layouts import (
    EXPECTED,
    MOST_CLASSES,
    TABLES,
    Layout,
    folders,
    media,
    part_called,
    seen,
    task_hint,
    warn_unlabelled,
)
from preparer.samples import Look, Pass
from preparer.tables import Table, names_files, recognise, table_layout
from preparer.yolo import is_yolo, yolo_layout
from shared import errors, split
from shared.specs import (
    SPLITS,
    ClassCount,
    DatasetIndex,
    DatasetSummary,
    ImageSizes,
    NearDuplicate,
    Sample,
    Split,
    Task,
)
from shared.vision import sheet
from shared.vision.sheet import Thumb

MOST_SAMPLES = 1_000_000
MOST_NEAR_DUPLICATES = 100
MOST_THREADS = 4
"""Each may hold an image of the most pixels, several times over while it is converted."""

LONGEST_CLASS = 200
REPORT_S = 0.5
LARGEST_TABLE = 512 * 1024 * 1024
LONGEST_LINE = 1 << 16
FEW_IMAGES = 10
HEADER = "a CSV needs a header with a column of files and one of labels, such as file,label"
NO_CLASSES = {"images", "image", "labels"}

Report = Callable[[dict[str, Any]], None]
Triple = tuple[float, float, float]


def check(order: DatasetOrder, report: Report) -> DatasetSummary:
    """Look at everything once, write the three files, say what was found.

    Raises:
        errors.BadDataset: The upload is refused; the message says what was seen and what is expected.
        errors.TooLarge: It is beyond a stated limit.
        errors.Unavailable: The disk is full.
    """
    findings = Findings()
    if order.split is not None:
        split.check_parts(order.split)
    report({"step": "reading the table of contents", "done": 0, "total": 0})
    with _archive(order, findings) as archive:
        layout = _understood(archive, _tables(order, archive, findings), order.task_type, findings)
        _check_classes(layout.classes)
        if layout.kind != "folders":  # there, each has been told already why it has no class
            warn_unlabelled(archive, {item.name for item in layout.items}, findings)
        gathered = _Gathered(order, archive, layout, findings)
        threads = min(MOST_THREADS, os.cpu_count() or 1)
        walk = Pass(archive, order.task_type, order.frames_per_second, threads, findings)
        with _room():
            images_per_s = gathered.take(walk, report)
        _refuse_useless(gathered, walk.skipped, layout, order.task_type, findings)
    report({"step": "dividing and comparing", "done": len(layout.items), "total": len(layout.items)})
    summary = gathered.summarise(walk.skipped, images_per_s)
    with _room():
        gathered.write(summary)
    return summary


def _archive(order: DatasetOrder, findings: Findings) -> Archive:
    """The archive with the images."""
    path = Path(order.path)
    if _is_zip(path):
        return Archive(path, findings)
    if not _is_text(path):
        raise errors.BadDataset("The file is neither a ZIP nor a CSV. Upload one of the two.")
    if order.images_path is None:
        raise errors.BadDataset("A CSV alone needs archive_id: the uploaded ZIP that holds the images it names.")
    return Archive(Path(order.images_path), findings)


def _tables(order: DatasetOrder, archive: Archive, findings: Findings) -> list[Table]:
    """The tables of labels: those in the archive, or the one that was uploaded alone."""
    path = Path(order.path)
    if not _is_zip(path):
        if table := recognise("", _lines(path)):
            return [table]
        raise errors.BadDataset(f"{HEADER[0].upper()}{HEADER[1:]}; this begins {_start(_lines(path))}.")
    tables = []
    for name in sorted(archive.members):
        if name.lower().endswith(TABLES):
            if table := recognise(name, archive.lines(name)):
                tables.append(table)
            else:
                start = _start(archive.lines(name))
                findings.add("file", name, f"is not used: {HEADER}; it begins {start}")
    return tables


def _start(lines: Iterator[bytes]) -> str:
    return shown(next(lines, b"")[:80].removeprefix(codecs.BOM_UTF8).decode(errors="replace").strip())


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK" or zipfile.is_zipfile(path)


def _is_text(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(4096)
    return bool(head.strip()) and (b"\0" not in head or head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)))


def _lines(path: Path) -> Iterator[bytes]:
    if path.stat().st_size > LARGEST_TABLE:
        raise errors.TooLarge(f"A CSV may have {LARGEST_TABLE >> 20} MB at most.")
    with path.open("rb") as file:
        while line := file.readline(LONGEST_LINE):
            yield line


def _understood(archive: Archive, tables: list[Table], task: Task, findings: Findings) -> Layout:
    """The layout, by names and label files only."""
    names = media(archive)
    if not names:
        why = findings.examples(("member",))
        raise errors.BadDataset(
            " ".join(f"No image and no video in the ZIP. {seen(archive)} {why} {EXPECTED[task]}".split())
        )
    if task == "classification":
        return _for_classes(archive, tables, names, findings)
    boxed = [table for table in tables if table.has_boxes]
    if boxed:
        return table_layout(boxed, names, task, findings)
    if found := coco_layout(archive, findings):
        return found
    if is_yolo(archive, names):
        return yolo_layout(archive, findings)
    if tables:
        raise errors.BadDataset(task_hint(task, "a table without boxes"))
    raise errors.BadDataset(f"There are no boxes in the upload. {seen(archive)}{_unread(findings)} {EXPECTED[task]}")


def _unread(findings: Findings) -> str:
    """Label files that say nothing to us, as a sentence that follows another: they may be what the user meant."""
    unread = findings.examples(("file",))
    return f" {unread}." if unread else ""


def _for_classes(archive: Archive, tables: list[Table], names: list[str], findings: Findings) -> Layout:
    if tables:
        if all(table.has_boxes for table in tables):
            raise errors.BadDataset(task_hint("classification", "a table of boxes"))
        return table_layout([table for table in tables if not table.has_boxes], names, "classification", findings)
    layout = folders(archive, findings)
    if len(layout.classes) > 1:
        _refuse_unread_labels(archive, names)
    if all(part_called(name) or name.lower() in NO_CLASSES for name in layout.classes):
        if is_yolo(archive, names):
            raise errors.BadDataset(task_hint("classification", "YOLO labels"))
        if is_coco(archive, findings):
            raise errors.BadDataset(task_hint("classification", "COCO annotations"))
        raise errors.BadDataset(
            f"The folders are called {', '.join(map(shown, layout.classes[:5]))}, which are no classes. "
            f"{seen(archive)}{_unread(findings)} {EXPECTED['classification']}"
        )
    return layout


def _refuse_unread_labels(archive: Archive, names: list[str]) -> None:
    """A table whose header is not understood, though its rows name the images, may be what the user meant."""
    for name in sorted(archive.members):
        if name.lower().endswith(TABLES) and names_files(archive.lines(name), names):
            raise errors.BadDataset(
                f"{shown(name)} names the images, but it cannot be told what it says of them: {HEADER}; it begins "
                f"{_start(archive.lines(name))}. Name its columns so, or leave it out if the folders are the classes."
            )


def _check_classes(classes: list[str]) -> None:
    if len(classes) > MOST_CLASSES:
        raise errors.TooLarge(f"There are {len(classes):,} classes; at most {MOST_CLASSES:,} can be used.")
    for name in classes:
        if not name.strip() or not name.isprintable() or len(name) > LONGEST_CLASS:
            raise errors.BadDataset(
                f"{shown(name)} cannot be the name of a class: it is empty, longer than {LONGEST_CLASS} characters, or "
                "has control characters. Rename it."
            )


def _refuse_useless(gathered: _Gathered, skipped: int, layout: Layout, task: Task, findings: Findings) -> None:
    used = len(gathered.samples)
    if skipped > used:
        raise errors.BadDataset(
            f"{skipped:,} of {skipped + used:,} images cannot be used, more than half. "
            f"The first: {findings.examples(('image',))}. Repair the upload, or leave them out."
        )
    present = {class_id for sample in gathered.samples for class_id in classes_of(sample)}
    if task == "classification" and len(present) < 2:
        raise errors.BadDataset(
            f"There is one class only ({shown(layout.classes[min(present, default=0)])}); a classifier needs two "
            f"or more.{_unread(findings)} {EXPECTED[task]}"
        )
    if task == "detection" and not any(sample.boxes for sample in gathered.samples):
        raise errors.BadDataset(f"No image has a box that can be used. {findings.examples(('box', 'row'))}".strip())


class _Gathered:
    """What the pass yields, as little of it as possible: samples and their colours; the copies go to the pack."""

    def __init__(self, order: DatasetOrder, archive: Archive, layout: Layout, findings: Findings) -> None:
        self._order, self._archive, self._layout, self._findings = order, archive, layout, findings
        self.samples: list[Sample] = []
        self._given: list[Split | None] = []
        self._colours = array("d")
        self._thumbs: defaultdict[int, list[tuple[int, int, Thumb]]] = defaultdict(list)

    def take(self, walk: Pass, report: Report) -> float:
        """Go over all images; returns how many a second."""
        started, told, items, offset = time.monotonic(), 0.0, len(self._layout.items), 0
        done = 0
        before = ""
        with os.fdopen(self._order.outputs["pack"], "wb", buffering=1 << 20, closefd=False) as pack:
            for look in walk.looks(self._layout.items):
                done += look.item.name != before
                before = look.item.name
                pack.write(look.prepared.data)
                self._keep(look, offset)
                offset += len(look.prepared.data)
                now = time.monotonic()
                if now - told >= REPORT_S:
                    told, rate = now, len(self.samples) / (now - started)
                    done_all = min(items, done + walk.skipped)
                    facts = {"done": done_all, "total": items, "fraction": round(done_all / items, 4)}
                    report({"step": "images", "images_per_s": round(rate, 1), **facts})
        return round(len(self.samples) / max(1e-9, time.monotonic() - started), 1)

    def _keep(self, look: Look, offset: int) -> None:
        if len(self.samples) >= MOST_SAMPLES:
            raise errors.TooLarge(f"There are more than {MOST_SAMPLES:,} images. Upload fewer.")
        prepared = look.prepared
        self.samples.append(
            Sample(
                member=self._archive.raw(look.item.name),
                time_s=look.time_s,
                width=prepared.width,
                height=prepared.height,
                split=look.item.split or "train",
                class_id=look.class_id,
                boxes=look.boxes,
                dhash=prepared.dhash,
                offset=offset,
                size=len(prepared.data),
            )
        )
        self._given.append(look.item.split)
        self._colours.extend((*prepared.mean, *prepared.mean_of_squares))
        for class_id in classes_of(self.samples[-1]):
            if class_id < sheet.MOST_ROWS:
                self._consider_thumb(class_id, look)

    def _consider_thumb(self, class_id: int, look: Look) -> None:
        """Keep a few pictures a class, chosen by a hash of their names: spread over the class, and always the same."""
        kept = self._thumbs[class_id]
        name = f"{look.item.name}@{look.time_s}".encode(errors="replace")
        rank = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")
        if len(kept) == sheet.COLUMNS and rank <= kept[0][0]:
            return
        width, height = look.prepared.width, look.prepared.height
        edges = [
            (box.x1 / width, box.y1 / height, box.x2 / width, box.y2 / height)
            for box in look.boxes
            if box.class_id == class_id
        ]
        entry = (rank, -len(self.samples), sheet.thumbnail(look.prepared.image, edges))
        if len(kept) < sheet.COLUMNS:
            heapq.heappush(kept, entry)
        else:
            heapq.heapreplace(kept, entry)

    def summarise(self, skipped: int, images_per_s: float) -> DatasetSummary:
        """Divide, count, compare."""
        given = self._order.split is None and any(self._given)
        self._assign(given)
        counts = self._counts()
        self._warn_of_classes(counts, given)
        mean, std = self._colour()
        near = self._near()
        return DatasetSummary(
            layout=self._layout.kind,
            split_source="given" if given else "made",
            classes=counts,
            splits={name: sum(sample.split == name for sample in self.samples) for name in SPLITS},
            num_samples=len(self.samples),
            num_skipped=skipped,
            sizes=self._sizes(),
            mean=mean,
            std=std,
            near_duplicates=near[0],
            num_near_duplicates=near[1],
            warnings=self._findings.list(),
            num_warnings=self._findings.count,
            images_per_s=images_per_s,
        )

    def _assign(self, given: bool) -> None:
        if given:
            for sample, part in zip(self.samples, self._given, strict=True):
                if part is None:
                    self._findings.add("part", sample.member, "is in none of the parts, so it is used for training")
            if all(sample.split != "train" for sample in self.samples):
                raise errors.BadDataset(
                    "The upload has parts, but no image for training. Put images into train/, or give `split`."
                )
            return
        groups: defaultdict[str, list[Sample]] = defaultdict(list)
        for sample in self.samples:
            groups[sample.member].append(sample)
        divided = split.divide(
            [
                split.Group(key, len(members), frozenset(name for one in members for name in classes_of(one)))
                for key, members in groups.items()
            ],
            self._order.split or split.DEFAULT,
            self._order.seed,
        )
        self.samples = [msgspec.structs.replace(sample, split=divided[sample.member]) for sample in self.samples]

    def _counts(self) -> list[ClassCount]:
        images: Counter[tuple[int, Split]] = Counter()
        boxes: Counter[int] = Counter()
        for sample in self.samples:
            images.update((class_id, sample.split) for class_id in classes_of(sample))
            boxes.update(box.class_id for box in sample.boxes)
        detection = self._order.task_type == "detection"
        return [
            ClassCount(
                name=name,
                train=images[index, "train"],
                val=images[index, "val"],
                test=images[index, "test"],
                boxes=boxes[index] if detection else None,
            )
            for index, name in enumerate(self._layout.classes)
        ]

    def _warn_of_classes(self, counts: list[ClassCount], given: bool) -> None:
        parts = self._order.split or split.DEFAULT
        wanted = [name for name, part in zip(SPLITS, parts, strict=True) if part]
        present = {sample.split for sample in self.samples}
        if given:
            for name in sorted(set(wanted) - present):
                self._findings.add("no part", name, "is missing from the parts of the upload")
            wanted = [name for name in wanted if name in present]
        twins: dict[str, ClassCount] = {}
        for index, count in enumerate(counts):
            numbers = {"train": count.train, "val": count.val, "test": count.test}
            total = sum(numbers.values())
            lacking = [name for name in wanted if not numbers[name]]
            if total == 0:
                self._findings.add("class", count.name, "has no image that can be used")
            elif lacking:
                why = "" if given else self._few_videos(index)
                what = f"has {total} images, none of them in {' and '.join(lacking)}{why}"
                self._findings.add("class", count.name, what)
            elif total < FEW_IMAGES:
                self._findings.add("class", count.name, f"has {total} images only")
            twin = twins.setdefault(count.name.casefold(), count)
            if twin is not count:
                same = "the same name" if twin.name == count.name else "a name that differs only in case"
                self._findings.add("twins", count.name, f"is a class, and {same} is another")

    def _few_videos(self, class_id: int) -> str:
        """Why a class of videos cannot be in every part, as the end of a sentence."""
        mine = [sample for sample in self.samples if class_id in classes_of(sample)]
        films = len({sample.member for sample in mine})
        if films >= len(SPLITS) or any(sample.time_s is None for sample in mine):
            return ""
        return f"; they come from {films} video{'s' * (films > 1)}, and a video stays whole: send {len(SPLITS)} or more"

    def _colour(self) -> tuple[Triple, Triple]:
        training = np.array([sample.split == "train" for sample in self.samples])
        moments = np.frombuffer(self._colours).reshape(-1, 6)[training].mean(axis=0)
        spread = np.sqrt(np.maximum(0, moments[3:] - moments[:3] ** 2))
        return _triple(moments[:3]), _triple(spread)

    def _sizes(self) -> ImageSizes:
        sides = np.array([(sample.width, sample.height) for sample in self.samples])
        areas = sides.prod(axis=1)
        return ImageSizes(
            smallest=_pair(sides[areas.argmin()]),
            median=_pair(np.median(sides, axis=0)),
            largest=_pair(sides[areas.argmax()]),
        )

    def _near(self) -> tuple[list[NearDuplicate], int]:
        hashes = np.array([sample.dhash for sample in self.samples], np.uint64)
        found = duplicates.across(hashes, [sample.split for sample in self.samples], MOST_NEAR_DUPLICATES)
        if not found.complete:
            self._findings.add("duplicates", "", "too many images to compare every pair; a part of them was compared")
        return [
            NearDuplicate(
                first=_title(self.samples[first]),
                first_split=self.samples[first].split,
                second=_title(self.samples[second]),
                second_split=self.samples[second].split,
                distance=distance,
            )
            for first, second, distance in found.pairs
        ], found.total

    def write(self, summary: DatasetSummary) -> None:
        """The index and the contact sheet."""
        index = DatasetIndex(
            task_type=self._order.task_type,
            classes=self._layout.classes,
            mean=summary.mean,
            std=summary.std,
            samples=self.samples,
        )
        _write(self._order.outputs["index"], msgspec.msgpack.encode(index))
        _write(self._order.outputs["sheet"], self._sheet(summary))

    def _sheet(self, summary: DatasetSummary) -> bytes:
        rows = []
        for index, count in enumerate(summary.classes[: sheet.MOST_ROWS]):
            images = count.train + count.val + count.test
            about = f"{images:,} images" if count.boxes is None else f"{count.boxes:,} boxes in {images:,} images"
            thumbs = [thumb for _, _, thumb in sorted(self._thumbs[index], key=lambda kept: kept[:2], reverse=True)]
            rows.append(sheet.Row(count.name, about, thumbs))
        parts = ", ".join(f"{number:,} {name}" for name, number in summary.splits.items() if number)
        more = len(summary.classes) - len(rows)
        return sheet.sheet(
            self._order.name,
            f"{summary.num_samples:,} images in {len(summary.classes):,} classes: {parts}",
            rows,
            f"and {more:,} more classes" if more else "",
        )


def classes_of(sample: Sample) -> set[int]:
    """The classes in it: one of a classification, any number of a detection."""
    return {sample.class_id} if sample.class_id is not None else {box.class_id for box in sample.boxes}


def _title(sample: Sample) -> str:
    name = shown(sample.member)[1:-1]
    return name if sample.time_s is None else f"{name} at {sample.time_s:g} s"


def _triple(values: npt.NDArray[np.float64]) -> Triple:
    one, two, three = (round(float(value), 6) for value in values)
    return one, two, three


def _pair(values: npt.NDArray[np.generic]) -> tuple[int, int]:
    return int(values[0]), int(values[1])


def _write(fd: int, content: bytes) -> None:
    with os.fdopen(fd, "wb", closefd=False) as file:
        file.write(content)


@contextlib.contextmanager
def _room() -> Iterator[None]:
    """A disk that takes no more, said as what it is."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise errors.TooLarge(
                "The prepared copies need more space than a dataset may have. Upload fewer images."
            ) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise errors.Unavailable(
                "The disk is full. Free some space, or see `cvp doctor`.", retry_after_s=60
            ) from error
        raise
