"""Labels in a CSV: which columns mean what, and what each row says about which file."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from preparer.findings import Findings, shown
from preparer.layouts import SPLIT_WORDS, Finder, Item, Label, Layout, check_labels, is_video, sorted_classes
from shared import errors
from shared.specs import Split, Task

COLUMNS = {
    "file": ("file", "filename", "filepath", "path", "image", "imagepath", "imagefile", "img", "name", "imageid", "id"),
    "label": ("label", "class", "classname", "labelname", "category", "target"),
    "split": ("split", "subset", "partition", "part", "set"),
    "x1": ("xmin", "x1", "left"),
    "y1": ("ymin", "y1", "top"),
    "x2": ("xmax", "x2", "right"),
    "y2": ("ymax", "y2", "bottom"),
    "time_s": ("times", "time", "timestamp", "second", "seconds"),
    "frame": ("frame", "framenumber", "frameindex"),
}
"""Header words, without case and punctuation; of several in one table the earlier wins."""

EDGES = ("x1", "y1", "x2", "y2")
DELIMITERS = ",;\t|"
MOST_ROWS = 20_000_000
"""Those that name no file of the upload count as well."""
MOST_TRIED = 200
"""Rows of a table with an unknown header that are looked at."""

Edges = tuple[float, float, float, float]


class Table(NamedTuple):
    """A label file that was recognised by its header."""

    name: str
    columns: dict[str, int]
    rows: Iterator[list[str]]

    @property
    def has_boxes(self) -> bool:
        """Whether a row is an object instead of an image."""
        return all(edge in self.columns for edge in EDGES)

    @property
    def split(self) -> Split | None:
        """The part a table is about, by its own name: `train.csv`, `labels_val.csv`."""
        stem = self.name.rpartition("/")[2].rpartition(".")[0].lower()
        words = stem.replace("-", "_").replace(" ", "_").split("_")
        return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), None)


def recognise(name: str, lines: Iterable[bytes]) -> Table | None:
    """A table of labels, or None when its header has no column of files and one of labels."""
    text = _decoded(lines)
    header = next(text, "")
    delimiter = max(DELIMITERS, key=header.count)
    reader = csv.reader(_chain(header, text), delimiter=delimiter)
    try:
        words = ["".join(letter for letter in cell.lower() if letter.isalnum()) for cell in next(reader, [])]
    except csv.Error:
        return None
    columns = {}
    for meaning, synonyms in COLUMNS.items():
        if found := [word for word in synonyms if word in words]:
            columns[meaning] = words.index(found[0])
    return Table(name, columns, reader) if {"file", "label"} <= columns.keys() else None


def names_files(lines: Iterable[bytes], names: list[str]) -> bool:
    """Whether the first rows of a table, whatever its header, name files of the upload: half of them or more."""
    text = itertools.islice(_decoded(lines), MOST_TRIED)
    header = next(text, "")
    reader = csv.reader(text, delimiter=max(DELIMITERS, key=header.count))
    finder, rows, hits = Finder(names), 0, 0
    try:
        for cells in reader:
            rows += 1
            hits += any(finder.find(cell.strip().replace("\\", "/")) is not None for cell in cells)
    except csv.Error:
        return False
    return hits > 0 and hits * 2 >= rows


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _decoded(lines: Iterable[bytes]) -> Iterator[str]:
    """Text lines of UTF-8, with or without its mark, of UTF-16 with its mark, or else of Windows Latin."""
    source = iter(lines)
    first = next(source, b"")
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = first + b"".join(source)
        yield from io.StringIO(data.decode("utf-16", errors="replace"), newline=None)
        return
    first = first.removeprefix(codecs.BOM_UTF8)
    for line in _chain_bytes(first, source):
        try:
            yield line.decode()
        except UnicodeDecodeError:
            yield line.decode("cp1252", errors="replace")


def _chain_bytes(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


class _Row(NamedTuple):
    """A row understood."""

    wanted: str
    label: str
    split: Split | None
    edges: Edges | None
    time_s: float | None
    frame: int | None


def table_layout(tables: list[Table], names: list[str], task: Task, findings: Findings) -> Layout:
    """What the tables say about the files called `names`.

    Raises:
        errors.BadDataset: No row names a file that is there, or a table cannot be read.
        errors.TooLarge: More rows or classes than the limits.
    """
    finder, rows, kept = Finder(names), defaultdict[str, list[_Row]](list), 0
    for table in tables:
        folder = table.name.rpartition("/")[0]
        for row in _rows(table, task, findings):
            name = finder.find(row.wanted, folder, row.split)
            if name is None:
                findings.add(
                    "no such file", row.wanted, f"is named in {_where(table)}, but fits no file of the ZIP, or several"
                )
            else:
                check_labels(kept := kept + 1, table.name or "the table")
                rows[name].append(row)
    if not rows:
        missing = findings.examples(("no such file", "row"))
        raise errors.BadDataset(f"No row of the table names a file of the ZIP. {missing}".strip())
    classes = sorted_classes({row.label for of_file in rows.values() for row in of_file if row.label})
    ids = {label: index for index, label in enumerate(classes)}
    made = (_item(name, rows[name], ids, task, findings) for name in sorted(rows))
    return Layout(kind="table", classes=classes, items=[item for item in made if item is not None])


def _where(table: Table) -> str:
    return shown(table.name) if table.name else "the table"


def _rows(table: Table, task: Task, findings: Findings) -> Iterator[_Row]:
    line = 1
    place = table.name or "the table"
    try:
        for line, cells in enumerate(table.rows, start=2):
            if line > MOST_ROWS:
                raise errors.TooLarge(f"{_where(table)} has more than {MOST_ROWS:,} rows.")
            if any(cell.strip() for cell in cells):
                try:
                    yield _row(table, cells, task)
                except (ValueError, IndexError) as error:
                    what = str(error) if isinstance(error, ValueError) else "has too few columns"
                    findings.add("row", f"{place}, row {line}", what)
    except csv.Error as error:
        raise errors.BadDataset(
            f"{_where(table)} cannot be read after row {line} ({error}). Save it as CSV again."
        ) from error


def _row(table: Table, cells: list[str], task: Task) -> _Row:
    """Raises ValueError with a sentence, or IndexError."""

    def cell(meaning: str) -> str:
        return cells[table.columns[meaning]].strip() if meaning in table.columns else ""

    label = cell("label")
    edges = _edges([cell(edge) for edge in EDGES]) if task == "detection" else None
    if not label and (task == "classification" or edges is not None):
        raise ValueError("has no label")
    if not cell("file"):
        raise ValueError("names no file")
    part = cell("split")
    if part and part.lower() not in SPLIT_WORDS:
        raise ValueError(f"has the part {shown(part)}; there are train, val and test")
    return _Row(
        wanted="/".join(piece for piece in cell("file").replace("\\", "/").split("/") if piece not in ("", ".")),
        label=label,
        split=SPLIT_WORDS[part.lower()] if part else table.split,
        edges=edges,
        time_s=_number(cell("time_s"), "time") if cell("time_s") else None,
        frame=int(_number(cell("frame"), "frame")) if cell("frame") else None,
    )


def _edges(cells: list[str]) -> Edges | None:
    """None for an image without objects: all four empty."""
    if not any(cells):
        return None
    x1, y1, x2, y2 = (_number(cell, "box") for cell in cells)
    return x1, y1, x2, y2


def _number(cell: str, what: str) -> float:
    try:
        value = float(cell.replace(",", "."))
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (what != "box" and not 0 <= value < 2**31):
        raise ValueError(f"has the {what} {shown(cell)}, which is no number")
    return value


def _item(name: str, rows: list[_Row], ids: dict[str, int], task: Task, findings: Findings) -> Item | None:
    splits = {row.split for row in rows}
    if len(splits) > 1:
        findings.add("two labels", name, "is put into more than one part; left out")
        return None
    moments: defaultdict[tuple[float | None, int | None], list[_Row]] = defaultdict(list)
    for row in rows:
        moments[(row.time_s, row.frame) if is_video(name) else (None, None)].append(row)
    labels = {moment: _label(name, of_moment, ids, task, findings) for moment, of_moment in moments.items()}
    known = {moment: label for moment, label in labels.items() if label is not None}
    if not known:
        return None
    return Item(
        name=name,
        label=known.get((None, None)),
        at_s={moment[0]: label for moment, label in sorted(known.items(), key=str) if moment[0] is not None},
        at_frame={moment[1]: label for moment, label in known.items() if moment[1] is not None and moment[0] is None},
        split=splits.pop(),
    )


def _label(name: str, rows: list[_Row], ids: dict[str, int], task: Task, findings: Findings) -> Label | None:
    if task == "detection":
        boxes = [(ids[row.label], *row.edges) for row in rows if row.edges is not None]
        return Label(boxes=tuple(dict.fromkeys(boxes)))
    labels = {row.label for row in rows}
    if len(labels) > 1:
        findings.add("two labels", name, f"is labelled {' and '.join(map(shown, sorted(labels)[:3]))}; left out")
        return None
    return Label(class_id=ids[labels.pop()])
