"""What the models of a process may take of its memory: who is in, what each takes, and who goes for another."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Footprint(NamedTuple):
    """Memory in MB: of the machine, and of its GPU."""

    mb: float = 0.0
    gpu_mb: float = 0.0


UNBOUNDED = Footprint(math.inf, math.inf)


@dataclass(slots=True)
class _Resident:
    takes: Footprint
    answered: bool = False
    """Whether it has been of use since it came."""


class Budget:
    """The models that are in, least recently used first. Pure, and not thread-safe.

    Args:
        limit: What all of them may take together.
    """

    def __init__(self, limit: Footprint) -> None:
        self.limit = limit
        self._residents: OrderedDict[str, _Resident] = OrderedDict()

    def __contains__(self, model_id: str) -> bool:
        return model_id in self._residents

    @property
    def used(self) -> Footprint:
        """What they take together."""
        takes = [resident.takes for resident in self._residents.values()]
        return Footprint(sum(each.mb for each in takes), sum(each.gpu_mb for each in takes))

    def fits(self, more: Footprint) -> bool:
        """Whether that much more keeps both limits."""
        return not any(self._short(more))

    def enter(self, model_id: str, takes: Footprint) -> None:
        """A model has come, or one took the place of another with its name."""
        self._residents.pop(model_id, None)
        self._residents[model_id] = _Resident(takes)

    def leave(self, model_id: str) -> None:
        """A model has gone; harmless if it was not in."""
        self._residents.pop(model_id, None)

    def use(self, model_id: str) -> None:
        """A model answers; harmless if it is not in."""
        if model_id in self._residents:
            self._residents[model_id].answered = True
            self._residents.move_to_end(model_id)

    def others(self, keep: str, more: Footprint) -> bool:
        """Whether any model but this has some of what is short for that much more."""
        return bool(self._able(keep, more))

    def victim(self, keep: str, more: Footprint, wanted: Mapping[str, bool]) -> str | None:
        """Who goes for `keep`: the least recently used, of those that nobody waits for if there are any.

        Else of those whose requests wait elsewhere: what waits here would keep its place in this process.

        Args:
            keep: The model that needs the room.
            more: How much of it. Where the GPU's memory alone is short, those that take none of it stay.
            wanted: Models that requests wait for now, and whether any of these is here.

        Returns:
            A model, or None while there is none but those that have yet to answer who waits for them: two models could
            push each other out for ever otherwise, without one answer.
        """
        able = [
            model_id
            for model_id in self._able(keep, more)
            if self._residents[model_id].answered or model_id not in wanted
        ]
        return min(able, key=lambda model_id: (model_id in wanted) + wanted.get(model_id, False), default=None)

    def _short(self, more: Footprint) -> tuple[bool, bool]:
        """Whether there is too little of the machine's memory, and of the GPU's."""
        used = self.used
        return used.mb + more.mb > self.limit.mb, used.gpu_mb + more.gpu_mb > self.limit.gpu_mb

    def _able(self, keep: str, more: Footprint) -> list[str]:
        on_gpu_alone = self._short(more) == (False, True)
        return [
            model_id
            for model_id, resident in self._residents.items()
            if model_id != keep and (resident.takes.gpu_mb or not on_gpu_alone)
        ]
