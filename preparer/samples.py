"""The one pass over the images of an upload: each is opened once, in order, by a few threads, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from preparer.archive import Archive
from preparer.findings import Findings
from preparer.layouts import Item, Label, is_video
from shared import errors
from shared.specs import Box, Task
from shared.vision.prepared import Prepared, prepare, prepare_frame

if TYPE_CHECKING:
    from shared.vision.video import Wanted

LARGEST_IMAGE = 64 * 1024 * 1024
"""Bytes of an image file."""

MOST_FRAMES = 3600
"""Of one video that is sampled at a rate: an hour at one a second."""

IN_FLIGHT = 4
"""Images a thread that are read ahead, so that a large one does not hold up the others."""

Edges = tuple[int, float, float, float, float]


class Look(NamedTuple):
    """A usable image or frame, with its labels in pixels."""

    item: Item
    time_s: float | None
    prepared: Prepared
    class_id: int | None
    boxes: tuple[Box, ...]


class Pass:
    """Walks over the items; what cannot be used is a warning `image`, and counted."""

    def __init__(self, archive: Archive, task: Task, rate: float, threads: int, findings: Findings) -> None:
        self._archive, self._task, self._rate, self._threads = archive, task, rate, threads
        self._findings = findings
        self.skipped = 0

    def looks(self, items: Iterable[Item]) -> Iterator[Look]:
        """Every usable image and frame, in the order of the items."""
        ahead: deque[tuple[Item, Future[Prepared | errors.AppError] | None]] = deque()
        with ThreadPoolExecutor(self._threads, thread_name_prefix="images") as pool:
            try:
                for item in items:
                    ahead.append((item, None if is_video(item.name) else pool.submit(self._prepare, item.name)))
                    if len(ahead) > self._threads * IN_FLIGHT:
                        yield from self._finish(*ahead.popleft())
                while ahead:
                    yield from self._finish(*ahead.popleft())
            finally:
                pool.shutdown(cancel_futures=True)

    def _prepare(self, name: str) -> Prepared | errors.AppError:
        try:
            return prepare(self._archive.read(name, LARGEST_IMAGE), self._task)
        except errors.AppError as error:
            return error

    def _finish(self, item: Item, image: Future[Prepared | errors.AppError] | None) -> Iterator[Look]:
        if image is None:
            yield from self._video(item)
            return
        came = image.result()
        if isinstance(came, errors.AppError):
            self._skip(item.name, came.message)
        elif item.label is None:
            self._skip(item.name, "has labels for times, but is no video")
        else:
            yield from self._labelled(item, None, came, item.label)

    def _video(self, item: Item) -> Iterator[Look]:
        from shared.vision.video import frames  # loads OpenCV, which images do not need

        try:
            with self._archive.seekable(item.name) as stream:
                for wanted, labels in self._wishes(item):
                    came = 0
                    for frame in frames(stream, wanted, len(labels) if wanted.rate is None else MOST_FRAMES):
                        label = labels[0] if wanted.rate else labels[came]
                        came += 1
                        yield from self._labelled(item, frame.time_s, prepare_frame(frame.image, self._task), label)
                    if wanted.rate and came == MOST_FRAMES:
                        self._findings.add(
                            "cut", item.name, f"is used up to its {MOST_FRAMES:,}th frame that was taken"
                        )
                    if wanted.rate is None and came < len(labels):
                        self._skip(item.name, f"ends before {len(labels) - came} of its labelled frames")
        except errors.AppError as error:
            self._skip(item.name, error.message)

    def _wishes(self, item: Item) -> Iterator[tuple[Wanted, list[Label]]]:
        """Which frames, and their labels in the same order (one label for all where a rate decides)."""
        from shared.vision.video import Wanted

        if item.at_s:
            times = sorted(item.at_s)
            yield Wanted(times=tuple(times)), [item.at_s[time] for time in times]
        if item.at_frame:
            numbers = sorted(item.at_frame)
            yield Wanted(numbers=tuple(numbers)), [item.at_frame[number] for number in numbers]
        if item.label is not None and not item.at_s and not item.at_frame:
            if self._task == "detection":
                raise errors.BadDataset("It is a video whose boxes have no time_s and no frame.")
            yield Wanted(rate=self._rate), [item.label]

    def _labelled(self, item: Item, time_s: float | None, prepared: Prepared, label: Label) -> Iterator[Look]:
        size = (prepared.width, prepared.height)
        if label.boxes and item.size not in (None, size):
            self._skip(item.name, f"has {size[0]} x {size[1]} pixels, but its boxes were drawn at {item.size}")
            return
        boxes = [self._box(item, box, size) for box in label.boxes]
        yield Look(item, time_s, prepared, label.class_id, tuple(box for box in boxes if box is not None))

    def _box(self, item: Item, box: Edges, size: tuple[int, int]) -> Box | None:
        """In pixels and cut off at the image's edges; None where nothing of it is inside."""
        class_id, *edges = box
        if item.relative:
            edges = [edge * size[axis % 2] for axis, edge in enumerate(edges)]
        x1, y1, x2, y2 = (round(min(max(0.0, edge), size[axis % 2]), 3) for axis, edge in enumerate(edges))
        if x2 <= x1 or y2 <= y1:
            self._findings.add("box", item.name, "has a box outside the image or without an area; left out")
            return None
        return Box(class_id=class_id, x1=x1, y1=y1, x2=x2, y2=y2)

    def _skip(self, name: str, why: str) -> None:
        self.skipped += 1
        self._findings.add("image", name, why)
