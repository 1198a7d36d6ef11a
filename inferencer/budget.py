"""What the models of a process may take of its memory: who is in, what each takes, and who goes for another."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(slots=True)
class _Resident:
    mb: float
    answered: bool = False
    """Whether it has been of use since it came."""


class Budget:
    """The models that are in, least recently used first. Pure, and not thread-safe.

    Args:
        limit_mb: What all of them may take together.
    """

    def __init__(self, limit_mb: float) -> None:
        self.limit_mb = limit_mb
        self._residents: OrderedDict[str, _Resident] = OrderedDict()

    def __contains__(self, model_id: str) -> bool:
        return model_id in self._residents

    @property
    def used_mb(self) -> float:
        """What they take together."""
        return sum(resident.mb for resident in self._residents.values())

    def fits(self, mb: float) -> bool:
        """Whether that much more keeps the limit."""
        return self.used_mb + mb <= self.limit_mb

    def enter(self, model_id: str, mb: float) -> None:
        """A model has come, or one took the place of another with its name."""
        self._residents.pop(model_id, None)
        self._residents[model_id] = _Resident(mb)

    def leave(self, model_id: str) -> None:
        """A model has gone; harmless if it was not in."""
        self._residents.pop(model_id, None)

    def use(self, model_id: str) -> None:
        """A model answers; harmless if it is not in."""
        if model_id in self._residents:
            self._residents[model_id].answered = True
            self._residents.move_to_end(model_id)

    def others(self, keep: str) -> bool:
        """Whether any model but this is in."""
        return any(model_id != keep for model_id in self._residents)

    def victim(self, keep: str, wanted: Collection[str]) -> str | None:
        """Who goes for `keep`: the least recently used, of those that nobody waits for if there are any.

        Args:
            keep: The model that needs the room.
            wanted: Models that requests wait for now.

        Returns:
            A model, or None while there is none but those that have yet to answer who waits for them: two models could
            push each other out for ever otherwise, without one answer.
        """
        able = [
            model_id
            for model_id, resident in self._residents.items()
            if model_id != keep and (resident.answered or model_id not in wanted)
        ]
        return next((model_id for model_id in able if model_id not in wanted), able[0] if able else None)
