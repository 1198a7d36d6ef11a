"""Lists in pages, newest first: ids sort by age, so the last id of a page says where the next one begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import peewee

from shared import errors, ids
from shared.db import connection

Row = TypeVar("Row")


class Page(Generic[Row]):
    """One page of rows, and the cursor of the next page (None on the last)."""

    def __init__(self, rows: Sequence[Row], next_cursor: str | None) -> None:
        self.rows, self.next_cursor = rows, next_cursor


def page(query: Any, key: peewee.Field, prefix: str, limit: int, cursor: str | None) -> Page[Any]:
    """The rows of `query` that are older than `cursor`, at most `limit`.

    Args:
        query: A select that yields `key` as attribute `id`.
        key: The id column, which sorts by age.
        prefix: That of its ids.
        limit: Rows in the page, at least 1.
        cursor: `next_cursor` of the page before.

    Raises:
        errors.InvalidInput: The cursor is none of ours.
    """
    if cursor is not None:
        if not ids.is_id(cursor, prefix):
            raise _misfit()
        query = query.where(key < cursor)
    with connection.read():
        rows = list(query.order_by(key.desc()).limit(limit + 1))
    more = len(rows) > limit
    return Page(rows[:limit], rows[limit - 1].id if more else None)


def numbered(query: Any, key: peewee.Field, limit: int, cursor: str | None) -> Page[Any]:
    """The same for rows whose ids are numbers.

    Raises:
        errors.InvalidInput: The cursor is none of ours.
    """
    if cursor is not None:
        if not (cursor.isascii() and cursor.isdecimal() and len(cursor) <= 18):
            raise _misfit()
        query = query.where(key < int(cursor))
    with connection.read():
        rows = list(query.order_by(key.desc()).limit(limit + 1))
    return Page(rows[:limit], str(rows[limit - 1].id) if len(rows) > limit else None)


def _misfit() -> errors.InvalidInput:
    told = "not a cursor of this list; take `next_cursor` of the page before, unchanged"
    return errors.InvalidInput("The cursor does not fit.", errors=[{"field": "cursor", "message": told}])
