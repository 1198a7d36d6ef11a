"""COCO annotations: one JSON document with images, categories and boxes, or one for each part."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import msgspec

from preparer.archive import Archive
from preparer.findings import Findings, shown
from preparer.layouts import SPLIT_WORDS, Finder, Item, Label, Layout, check_labels, media, split_of
from shared import errors
from shared.specs import Split


class _Image(msgspec.Struct):
    id: int | str
    file_name: str
    width: int | None = None
    height: int | None = None


class _Annotation(msgspec.Struct):
    image_id: int | str
    category_id: int
    bbox: Any = None
    iscrowd: Any = 0


class _Category(msgspec.Struct):
    id: int
    name: str


class _Document(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


_Found = tuple[str, _Document]


def is_coco(archive: Archive, findings: Findings) -> bool:
    """Whether the archive has an annotation file."""
    return any(_documents(archive, findings))


def coco_layout(archive: Archive, findings: Findings) -> Layout | None:
    """What the archive's annotation files say; None when it has none.

    Raises:
        errors.BadDataset: They contradict each other, or name no image of the archive.
        errors.TooLarge: They hold more objects than there may be labels.
    """
    documents = list(_documents(archive, findings))
    if not documents:
        return None
    ids, classes = _classes(documents)
    finder, items = Finder(media(archive)), dict[str, Item]()
    for name, document in documents:
        boxes = _boxes_by_image(name, document, ids, findings)
        split, folder = _split(name), name.rpartition("/")[0]
        for image in document.images:
            member = finder.find(image.file_name.replace("\\", "/").removeprefix("./"), folder, split)
            if member is None:
                findings.add("no such file", image.file_name, f"is named in {shown(name)}, but is not in the ZIP")
            elif member in items:
                findings.add(
                    "two labels", member, f"is annotated twice, the second time in {shown(name)}; the first counts"
                )
            else:
                items[member] = Item(
                    name=member,
                    label=Label(boxes=tuple(boxes[image.id])),
                    split=split or split_of(member),
                    size=(image.width, image.height) if image.width and image.height else None,
                )
    if not items:
        missing = findings.examples(("no such file",))
        raise errors.BadDataset(f"The annotations name no image of the ZIP. {missing}".strip())
    return Layout(kind="coco", classes=classes, items=[items[name] for name in sorted(items)])


def _documents(archive: Archive, findings: Findings) -> Iterator[_Found]:
    """The annotation files of the archive, by their names.

    Raises:
        errors.TooLarge: They hold more objects than there may be labels.
    """
    objects = 0
    for name in sorted(archive.members):
        if not name.lower().endswith(".json"):
            continue
        try:
            content = archive.read(name)
        except errors.AppError as error:
            _not_used(name, error.message, findings)
            continue
        objects += content.count(b"{")  # counted before each becomes half a kilobyte
        check_labels(objects, name)
        try:
            yield name, msgspec.json.decode(content, type=_Document)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            objects -= content.count(b"{")
            _not_used(name, str(error), findings)


def _not_used(name: str, reason: str, findings: Findings) -> None:
    findings.add("file", name, f"is no COCO annotation file ({reason[:120]})")


def _split(name: str) -> Split | None:
    """By the file's own name (`instances_train2017.json`), else by its folders."""
    stem = name.rpartition("/")[2].rpartition(".")[0].lower()
    words = "".join(letter if letter.isalpha() else " " for letter in stem).split()
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), None) or split_of(name)


def _classes(documents: list[_Found]) -> tuple[dict[int, int], list[str]]:
    """Category ids of the files to our class ids, and the names, in the order of the ids."""
    names: dict[int, str] = {}
    for name, document in documents:
        for category in document.categories:
            if names.setdefault(category.id, category.name) != category.name:
                raise errors.BadDataset(
                    f"Category {category.id} is called {shown(category.name)} in {shown(name)}, and "
                    f"{shown(names[category.id])} elsewhere. Use the same categories in all annotation files."
                )
    order = sorted(names)
    return {category: index for index, category in enumerate(order)}, [names[category] for category in order]


def _is_box(value: Any) -> bool:
    """One that is none costs its annotation, and not the whole document."""
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(isinstance(edge, int | float) and math.isfinite(edge) for edge in value)
        and min(value[2:]) > 0
    )


def _boxes_by_image(
    name: str, document: _Document, ids: dict[int, int], findings: Findings
) -> defaultdict[int | str, list[tuple[int, float, float, float, float]]]:
    boxes = defaultdict[int | str, list[tuple[int, float, float, float, float]]](list)
    known: dict[int | str, str] = {}
    for image in document.images:
        if known.setdefault(image.id, image.file_name) != image.file_name:
            raise errors.BadDataset(
                f"{shown(name)} gives the id {shown(str(image.id)[:40])[1:-1]} to {shown(known[image.id])} and to "
                f"{shown(image.file_name)}, so it cannot be told whose boxes are whose. Number the images anew."
            )
    for number, annotation in enumerate(document.annotations):
        where = f"{name}, annotation {number}"
        box = annotation.bbox
        if annotation.image_id not in known or annotation.category_id not in ids:
            findings.add("row", where, "names an image or a category that the file does not have")
        elif annotation.iscrowd:
            findings.add("crowd", where, "marks a crowd instead of an object; left out")
        elif not _is_box(box):
            findings.add("row", where, "has no box [x, y, width, height] with a width and a height above 0")
        else:
            x, y, width, height = box
            boxes[annotation.image_id].append((ids[annotation.category_id], x, y, x + width, y + height))
    return boxes
