"""What is wrong with an upload and where: collected in a bounded list, with counts of what no longer fits."""

from __future__ import annotations

from collections import Counter

from shared.specs import DatasetWarning

KEPT = 20
"""Warnings of one kind that are kept; of the others there is the number."""

LONGEST = 200


def shown(name: str) -> str:
    """A name from an upload as it may stand in a sentence: quoted, control characters escaped, shortened."""
    quoted = repr(name.encode(errors="replace").decode())
    quoted = "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in quoted)
    return quoted if len(quoted) <= LONGEST else f"{quoted[: LONGEST - 4]}...'"


class Findings:
    """Warnings in the order they were found, a bounded number of each kind."""

    def __init__(self) -> None:
        self._kept: dict[str, list[DatasetWarning]] = {}
        self._counts: Counter[str] = Counter()

    def add(self, kind: str, where: str, what: str) -> None:
        """Note one; `kind` is a fixed word of ours, under which it is counted."""
        self._counts[kind] += 1
        kept = self._kept.setdefault(kind, [])
        if len(kept) < KEPT:
            kept.append(DatasetWarning(where=shown(where)[1:-1] if where else "", what=what))

    @property
    def count(self) -> int:
        """All there were."""
        return self._counts.total()

    def of(self, kind: str) -> int:
        """How many there were of a kind."""
        return self._counts[kind]

    def examples(self, kinds: tuple[str, ...], most: int = 3) -> str:
        """A few of some kinds, in one sentence."""
        found = [f"{one.where}: {one.what}" for kind in kinds for one in self._kept.get(kind, [])]
        return "; ".join(found[:most])

    def list(self) -> list[DatasetWarning]:
        """What was kept, each kind followed by the number of the others of its kind."""
        warnings: list[DatasetWarning] = []
        for kind, kept in self._kept.items():
            warnings += kept
            if more := self._counts[kind] - len(kept):
                warnings.append(DatasetWarning(where=f"{more:,} more", what=f"like the last: {kept[-1].what}"))
        return warnings
