"""Small pictures of a dataset's images, for a page; what cannot be decoded has none. For a child that is shut in."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from shared import errors
from shared.specs import FoundBox, Sample, WorstSample
from shared.vision.samples import read_index
from shared.vision.sheet import thumbnail_of

logger = logging.getLogger(__name__)


def thumbnails(index: Path, pack: Path, worst: Sequence[WorstSample]) -> list[bytes | None]:
    """A PNG file for each of these samples, from its prepared copy."""
    try:
        wanted = [_name(each) for each in worst]
        known = {_name(each): each for each in read_index(index).samples if _name(each) in wanted}
        return list(_pictures(pack, [(known.get(_name(each)), each.found) for each in worst]))
    except (errors.AppError, OSError) as error:
        logger.warning("a report goes without pictures: %s", error)
        return [None] * len(worst)


def _name(sample: Sample | WorstSample) -> tuple[str, float | None]:
    return sample.member, sample.time_s


def _pictures(pack: Path, samples: Sequence[tuple[Sample | None, list[FoundBox]]]) -> Iterator[bytes | None]:
    with pack.open("rb") as file:
        for sample, found in samples:
            if sample is None:
                yield None
                continue
            file.seek(sample.offset)
            try:
                yield thumbnail_of(file.read(sample.size), sample, found)
            except errors.AppError:
                yield None
