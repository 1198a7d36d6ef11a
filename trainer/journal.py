"""The journal of a search: JSON lines, its order first, then every trial with its result as they were told.

What is in it is all there is to a search. `replay` makes of it a search that goes on as the one that wrote it would
have: it hands out again what was at work, and then what comes next.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from shared.specs import canonical_json
from shared.trials import Order, Result, Told, Trial
from trainer.search import Search

T = TypeVar("T", "Order", "Told")


class JournalError(ValueError):
    """A journal that no search of this version has written; the message says which line."""


def opening(order: Order) -> bytes:
    """The first line."""
    return canonical_json(order) + b"\n"


def line(trial: Trial, result: Result) -> bytes:
    """The line of a trial, to be written before anybody acts upon its result."""
    return canonical_json(Told(trial=trial, result=result)) + b"\n"


def start(order: Order) -> Search:
    """A search from its beginning. Raises ValueError as `Search` does."""
    return Search(order.spec, order.genes, order.epochs, order.seed)


def replay(lines: Iterable[bytes]) -> Search:
    """The search that wrote these lines, as it was after them.

    A last line without its end was being written when the search was killed, and does not count. Raises JournalError
    for a line that cannot be read, and for a trial that this search would not have asked for.
    """
    numbered = enumerate(lines, start=1)
    _, first = next(numbered, (1, b""))
    if not first.endswith(b"\n"):
        raise JournalError("The journal has no first line; the search has not begun.")
    order = _read(first, Order, 1)
    return resume(order, (_read(text, Told, number) for number, text in numbered if text.endswith(b"\n")))


def resume(order: Order, told: Iterable[Told]) -> Search:
    """The search of an order after these results, which stand in the order they were told in or in that of their
    numbers. Raises as `replay` does.
    """
    search = start(order)
    for number, each in enumerate(told, start=2):
        _tell(search, each, number)
    search.hand_out_again()
    return search


def _tell(search: Search, told: Told, number: int) -> None:
    while len(search.trials) <= told.trial.number and search.ask() is not None:
        pass
    if told.trial not in search.trials[told.trial.number : told.trial.number + 1]:
        raise JournalError(f"Line {number} of the journal has a trial that its search would not ask for.")
    try:
        search.tell(told.trial.number, told.result)
    except ValueError as error:
        raise JournalError(f"Line {number} of the journal: {error}") from None


def _read(text: bytes, kind: type[T], number: int) -> T:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.MsgspecError as error:
        raise JournalError(f"Line {number} of the journal cannot be read: {error}") from None
