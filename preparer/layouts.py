"""How an upload is laid out: from names and label files to images with their labels. No image is opened.

Four layouts are known: folders (a folder a class), a table (CSV), YOLO text files and COCO JSON; the first two also
with videos. Parts that come with the upload (`train/`, `val/`, `test/`) are recognised in all of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from preparer.archive import Archive
from preparer.findings import Findings, shown
from shared import errors
from shared.specs import DatasetLayout, Split, Task

IMAGES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp")
OTHER_IMAGES = (".gif", ".tif", ".tiff", ".heic", ".heif", ".avif", ".svg", ".jp2", ".ppm", ".pgm")
"""Taken for images as well, so that each gets its warning."""

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")
MEDIA = IMAGES + OTHER_IMAGES + VIDEOS
TABLES = (".csv", ".tsv")
SPLIT_WORDS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
MOST_CLASSES = 10_000
MOST_LABELS = 5_000_000
"""Boxes or rows of one upload; each takes half a kilobyte while it is read."""
MOST_SHOWN = 5

EXPECTED = {
    "classification": (
        "Expected: a folder a class with images or videos in it (cats/1.jpg, dogs/2.jpg), perhaps below train/, val/ "
        "and test/; or a CSV with a column of file names and a column of labels (file,label)."
    ),
    "detection": (
        "Expected: YOLO text files (images/1.jpg with labels/1.txt), COCO JSON (annotations and the images it names), "
        "or a CSV with the columns file,label,xmin,ymin,xmax,ymax."
    ),
}


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """What an upload says about an image, or about a frame of a video."""

    class_id: int | None = None
    boxes: tuple[tuple[int, float, float, float, float], ...] = ()
    """Class and edges x1, y1, x2, y2: in pixels, or as parts of the sides where the item is `relative`."""


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """A file to look at, with its labels."""

    name: str
    """Its key in `Archive.members`."""
    label: Label | None = None
    """Of an image, or of every frame of a video."""
    at_s: dict[float, Label] = {}
    at_frame: dict[int, Label] = {}
    """Of single frames of a video, by time or by number."""
    split: Split | None = None
    relative: bool = False
    size: tuple[int, int] | None = None
    """Width and height the boxes were drawn at, where the upload says so."""


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """An upload understood."""

    kind: DatasetLayout
    classes: list[str]
    items: list[Item]


def is_video(name: str) -> bool:
    """By its name; what it really is shows when it is opened."""
    return name.lower().endswith(VIDEOS)


def media(archive: Archive) -> list[str]:
    """Images and videos of the archive, sorted."""
    return sorted(name for name in archive.members if name.lower().endswith(MEDIA))


def part_called(word: str) -> Split | None:
    """The part that a word means, with or without a year: `train`, `Val`, `test2017`."""
    return SPLIT_WORDS.get(word.lower().rstrip("0123456789"))


def split_of(name: str) -> Split | None:
    """The part a path belongs to, by its first folder that is called like one."""
    return next((part for part in map(part_called, name.split("/")[:-1]) if part), None)


def folders(archive: Archive, findings: Findings) -> Layout:
    """A folder a class, perhaps below one common folder, perhaps below parts.

    Raises:
        errors.BadDataset: The images lie otherwise.
    """
    names = media(archive)
    paths = _without_top([name.split("/") for name in names])
    parts_given = _are_parts(paths)
    rows: list[tuple[str, str, Split | None]] = []
    for name, path in zip(names, paths, strict=True):
        split = part_called(path[0]) if parts_given and len(path) > 1 else None
        below = path[1:] if split else path
        if len(below) < 2 or (parts_given and split is None):
            where = "in none of train/, val/ and test/" if parts_given and split is None else "in no class folder"
            findings.add("no class", name, f"lies {where}")
        else:
            rows.append((name, below[0], split))
    for folder in _empty_classes(archive, names, paths):
        findings.add("empty folder", folder, "is an empty folder, and so no class")
    if not rows:
        unread = findings.examples(("file",))
        raise errors.BadDataset(
            " ".join(f"No image lies in a class folder. {seen(archive)} {unread} {EXPECTED['classification']}".split())
        )
    classes = sorted_classes({label for _, label, _ in rows})
    ids = {label: index for index, label in enumerate(classes)}
    items = [Item(name=name, label=Label(class_id=ids[label]), split=split) for name, label, split in rows]
    return Layout(kind="folders", classes=classes, items=items)


def _empty_classes(archive: Archive, names: list[str], paths: list[list[str]]) -> list[str]:
    """Folders without anything in them, where the folders of classes are; `paths` are `names` without their top."""
    if not names:
        return []
    full = names[0].split("/")
    top = full[: len(full) - len(paths[0])]
    parts_given = _are_parts(paths)
    used = {name[:at] for name in archive.members for at, letter in enumerate(name) if letter == "/"}
    found = []
    for folder in sorted(archive.folders - used):
        parts = folder.split("/")
        below = parts[len(top) :]
        where = len(below) == 2 and part_called(below[0]) if parts_given else len(below) == 1
        if where and parts[: len(top)] == top and below[-1] and not below[-1].startswith((".", "__")):
            found.append(folder)
    return found


def _without_top(paths: list[list[str]]) -> list[list[str]]:
    """Paths without the folders that all of them share, as long as a class folder remains in each."""
    while paths and min(map(len, paths)) > 2 and len({path[0] for path in paths}) == 1:
        paths = [path[1:] for path in paths]
    return paths


def _are_parts(paths: list[list[str]]) -> bool:
    return "train" in {part_called(path[0]) for path in paths if len(path) > 2}


def sorted_classes(labels: Iterable[str]) -> list[str]:
    """Class names in the order of their ids: as numbers where all are numbers, else as text."""
    names = sorted(labels)
    if all(name.isascii() and name.isdigit() for name in names):
        names.sort(key=lambda name: (len(name.lstrip("0")), name.lstrip("0"), name))  # int() ends at 4,300 digits
    return names


def seen(archive: Archive) -> str:
    """What the archive holds, in a sentence."""
    if not archive.members:
        return "The ZIP holds no file that can be used."
    counts: defaultdict[str, int] = defaultdict(int)
    for name in archive.members:
        stem, dot, suffix = name.rpartition(".")
        counts["." + suffix.lower() if dot and stem and "/" not in suffix and len(suffix) <= 10 else "no suffix"] += 1
    kinds = sorted(counts, key=lambda kind: -counts[kind])[:MOST_SHOWN]
    tops = sorted({name.split("/")[0] + "/" for name in archive.members if "/" in name})
    at_top = ", ".join(shown(top)[1:-1] for top in tops[:MOST_SHOWN]) + (", ..." if len(tops) > MOST_SHOWN else "")
    held = ", ".join(f"{counts[kind]:,} {kind}" for kind in kinds)
    return f"Seen: {held}; folders at the top: {at_top or 'none'}."


class Finder:
    """Finds the file that a table or an annotation names: by its whole path, else by the end of its path.

    `folder` is where the naming file lies; `split` its part. They decide where several files fit.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = set(names)
        self._by_end: defaultdict[str, list[str]] = defaultdict(list)
        for name in names:
            parts = name.split("/")
            stem = parts[-1].rpartition(".")[0]  # tables often name images without a suffix
            for last in {parts[-1], stem} - {""}:
                self._by_end[last].append(name)
                if len(parts) > 1:  # in a folder a film each, a thousand images have the same last part
                    self._by_end[f"{parts[-2]}/{last}"].append(name)

    def find(self, wanted: str, folder: str = "", split: Split | None = None) -> str | None:
        """Its name in the archive; None when there is no such file, or when several fit equally well."""
        beside = f"{folder}/{wanted}" if folder else wanted
        for exact in (beside, wanted):
            if exact in self._names:
                return exact
        fits = self._by_end.get("/".join(wanted.split("/")[-2:]), [])
        if "/" in wanted:
            fits = [
                name
                for name in fits
                if f"/{name}".rpartition(".")[0].endswith(f"/{wanted}") or f"/{name}".endswith(f"/{wanted}")
            ]
        for narrower in (
            lambda name: split is not None and split_of(name) == split,
            lambda name: bool(folder) and name.startswith(folder + "/"),
        ):
            if len(fits) > 1:
                fits = [name for name in fits if narrower(name)] or fits
        return fits[0] if len(fits) == 1 else None


def check_labels(count: int, where: str) -> None:
    """Refuse one label too many.

    Raises:
        errors.TooLarge: There are more than `MOST_LABELS`; `where` is the file with the last.
    """
    if count > MOST_LABELS:
        raise errors.TooLarge(
            f"There are more than {MOST_LABELS:,} labels up to {shown(where)}. Upload fewer images, or take out boxes "
            "that nobody needs."
        )


def warn_unlabelled(archive: Archive, used: set[str], findings: Findings) -> None:
    """Images that no label names."""
    for name in media(archive):
        if name not in used:
            findings.add("unlabelled", name, "has no label")


def task_hint(task: Task, found: str) -> str:
    """What to say when the labels are of the other task."""
    other = "classification" if task == "detection" else "detection"
    return (
        f"The upload holds {found}, which is for {other}, but its task_type is {task}. Upload it with task_type "
        f"{other} (`cvp datasets add FILE --task {other}`)."
    )
