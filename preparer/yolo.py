"""YOLO labels: a text file an image, a line an object: class, centre and size as parts of the image's sides."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import yaml

from preparer.archive import Archive
from preparer.findings import Findings, shown
from preparer.layouts import MOST_CLASSES, Item, Label, Layout, check_labels, media, split_of
from shared import errors

NAME_FILES = ("classes.txt", "obj.names", "names.txt", "labels.txt", "_darknet.labels")
LARGEST_TEXT = 8 * 1024 * 1024
LARGEST_YAML = 1024 * 1024
MOST_YAML = 10
NOT_LABELS = (*NAME_FILES, "readme.txt", "train.txt", "val.txt", "valid.txt", "test.txt", "requirements.txt")
SLACK = 0.01
"""How far an edge may lie outside the image before the line is refused; it is cut off at the edge."""

Line = tuple[int, float, float, float, float]


def label_name(image: str) -> str:
    """Where an image's labels lie: below `labels/` instead of `images/`, else beside it."""
    parts = image.rpartition(".")[0].split("/")
    folders = [index for index, part in enumerate(parts[:-1]) if part.lower() == "images"]
    if folders:
        parts[folders[-1]] = "labels"
    return "/".join(parts) + ".txt"


def beside(image: str) -> str:
    """A label file next to its image."""
    return image.rpartition(".")[0] + ".txt"


def is_yolo(archive: Archive, names: Iterable[str]) -> bool:
    """Whether an image has a label file; names only."""
    return any(label_name(name) in archive.members or _own_text(archive, name) for name in names)


def _own_text(archive: Archive, image: str) -> bool:
    text = beside(image)
    return text in archive.members and text.rpartition("/")[2].lower() not in NOT_LABELS


class _Described(NamedTuple):
    """What a `data.yaml` says."""

    names: list[str]
    keypoints: int = 0
    """Numbers that follow the box in a line of a dataset of poses."""


def yolo_layout(archive: Archive, findings: Findings) -> Layout:
    """Images with the boxes of their label files. One without a label file shows no object.

    Raises:
        errors.BadDataset: Most lines have a class that has no name.
        errors.TooLarge: More labels than the limit.
    """
    described = _described(archive, findings)
    allowed = len(described.names) if described else MOST_CLASSES
    items, labels, highest, strangers = [], 0, -1, 0
    for image in media(archive):
        text = next((path for path in (label_name(image), beside(image)) if path in archive.members), None)
        if text is None:
            findings.add("unlabelled", image, "has no label file, so it counts as an image without objects")
        boxes: list[Line] = []
        for number, box in _boxes(archive, text, described.keypoints if described else 0, findings) if text else ():
            check_labels(labels := labels + 1, text or "")
            if box[0] < allowed:
                boxes.append(box)
                highest = max(highest, box[0])
            else:
                strangers += 1
                what = f"has class {str(box[0])[:20]}, {_beyond(described)}; left out"
                findings.add("no name", f"{text}, line {number}", what)
        items.append(
            Item(name=image, label=Label(boxes=tuple(dict.fromkeys(boxes))), split=split_of(image), relative=True)
        )
    if strangers * 2 > labels:
        raise errors.BadDataset(
            f"{strangers:,} of {labels:,} boxes have a class without a name. {findings.examples(('no name',))}. "
            "Add the missing names to data.yaml, or correct the labels."
        )
    if described is None:
        findings.add("names", "", "no data.yaml or classes.txt names the classes; they are called by their numbers")
    names = described.names if described else [str(number) for number in range(highest + 1)]
    return Layout(kind="yolo", classes=names, items=items)


def _beyond(described: _Described | None) -> str:
    if described is None:
        return f"but at most {MOST_CLASSES:,} classes can be used"
    return f"but there are names for {len(described.names)} classes only, counted from 0"


def _described(archive: Archive, findings: Findings) -> _Described | None:
    """From the first `*.yaml` with `names`, else from a text file with a name a line; None when there is neither."""
    depth = sorted(archive.members, key=lambda name: (name.count("/"), name))
    for name in [name for name in depth if name.lower().endswith((".yaml", ".yml"))][:MOST_YAML]:
        if found := _in_yaml(archive, name, findings):
            return found
    for name in depth:
        if name.rpartition("/")[2].lower() in NAME_FILES:
            text = archive.read(name, LARGEST_TEXT).decode("utf-8-sig", errors="replace")
            return _Described([line.strip() for line in text.splitlines() if line.strip()])
    return None


def _in_yaml(archive: Archive, name: str, findings: Findings) -> _Described | None:
    try:  # the parser in Python: the one in C overflows its stack on deep nesting
        document = yaml.safe_load(archive.read(name, LARGEST_YAML))
        names = _listed(document)
        return None if not names else _Described(names, _keypoints(document))
    except MemoryError:
        raise
    except Exception as error:  # a wrong scalar makes the parser raise nearly anything, a number of 5,000 digits `str`
        reason = error.message if isinstance(error, errors.AppError) else str(error) or type(error).__name__
        findings.add("file", name, f"cannot be read ({reason.splitlines()[0][:100]})")
        return None


def _listed(document: object) -> list[str] | None:
    """The `names` of a document: a list, or numbers from 0 with a name each."""
    names = document.get("names") if isinstance(document, dict) else None
    if isinstance(names, dict) and names.keys() == set(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(one, (str, int, float)) for one in names):
        return None
    return [str(one) for one in names[: MOST_CLASSES + 1]]


def _keypoints(document: object) -> int:
    """Numbers of the keypoints in a line: `kpt_shape` is how many there are, and how many numbers each has."""
    shape = document.get("kpt_shape") if isinstance(document, dict) else None
    sound = isinstance(shape, list) and len(shape) == 2 and all(type(one) is int and 0 < one < 1000 for one in shape)
    return shape[0] * shape[1] if sound and isinstance(shape, list) else 0


def _boxes(archive: Archive, name: str, keypoints: int, findings: Findings) -> Iterator[tuple[int, Line]]:
    """The lines of a label file that are boxes, with their numbers."""
    try:
        text = archive.read(name, LARGEST_TEXT).decode("utf-8-sig", errors="replace")
    except errors.AppError as error:
        findings.add("file", name, error.message)
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                yield number, _box(line, keypoints)
            except ValueError as error:
                findings.add("row", f"{name}, line {number}", str(error))


def _box(line: str, keypoints: int) -> Line:
    """Class and edges; raises ValueError with a sentence."""
    cells = line.split()
    try:
        class_id, (x, y, width, height) = int(cells[0]), map(float, cells[1:5])
    except (ValueError, IndexError):
        raise ValueError(f"is {shown(line[:60])}; expected: class x y width height") from None
    if len(cells) > 6 and len(cells) != 5 + keypoints:
        return _outline(class_id, cells[1:])
    if class_id < 0 or not all(map(math.isfinite, (x, y, width, height))) or width <= 0 or height <= 0:
        raise ValueError(f"is {shown(line[:60])}; expected numbers above 0")
    return _within(class_id, x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _outline(class_id: int, cells: list[str]) -> Line:
    """The box around a polygon, as label files for segmentation have it."""
    try:
        points = [float(cell) for cell in cells]
    except ValueError:
        points = [math.nan]
    if len(points) % 2 or class_id < 0 or not all(map(math.isfinite, points)):
        raise ValueError("is no polygon of pairs of numbers")
    return _within(class_id, min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2]))


def _within(class_id: int, x1: float, y1: float, x2: float, y2: float) -> Line:
    if min(x1, y1) < -SLACK or max(x2, y2) > 1 + SLACK:
        raise ValueError("lies outside the image; the numbers are parts of its sides, from 0 to 1")
    return class_id, max(0.0, x1), max(0.0, y1), min(1.0, x2), min(1.0, y2)
