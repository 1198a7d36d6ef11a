"""Lists in pages, newest first: ids sort by age, so the last id of a page says where the next one begins."""

from __future__ import annotations

import functools
from collections import namedtuple
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import peewee

from shared import errors, ids
from shared.db import connection

Row = TypeVar("Row")

_OLDER = "older than"
"""What the cursor wants, among the names of filters."""


class Page(Generic[Row]):
    """One page of rows, and the cursor of the next page (None on the last)."""

    def __init__(self, rows: Sequence[Row], next_cursor: str | None) -> None:
        self.rows, self.next_cursor = rows, next_cursor


def stored(query: Any) -> list[Any]:
    """The rows of a select as named tuples of what the database holds: JSON is text, truth is 0 or 1.

    It takes a tenth of the time that rows of peewee take, and JSON that is only passed on is never decoded.
    """
    with connection.read():
        return _named(connection.database.execute(query))


def _named(cursor: Any) -> list[Any]:
    row = _row(tuple(column for column, *_ in cursor.description))
    return [row._make(values) for values in cursor.fetchall()]


@functools.cache
def _row(columns: tuple[str, ...]) -> Any:
    return namedtuple("Row", columns)  # its fields are those of a query


class List:
    """A list with filters, in pages of stored rows. Each combination of filters has its SQL written once: that takes
    peewee as long as it takes SQLite to answer.

    Args:
        query: A select that yields `key` as attribute `id`.
        key: The id column, which sorts by age.
        prefix: That of its ids.
        filters: Columns that may be asked for, by the names they are asked for with.
    """

    def __init__(self, query: Any, key: peewee.Field, prefix: str, **filters: peewee.Field) -> None:
        self._query, self._key, self._prefix, self._filters = query, key, prefix, filters
        self._written: dict[tuple[str, ...], tuple[str, list[Any]]] = {}

    def page(self, limit: int, cursor: str | None, **wanted: str | None) -> Page[Any]:
        """The rows that are as wanted (None wants nothing) and older than `cursor`, at most `limit`.

        Raises:
            errors.InvalidInput: The cursor is none of ours.
        """
        values = {name: value for name, value in wanted.items() if value is not None}
        if cursor is not None:
            values[_OLDER] = _checked(cursor, self._prefix)
        names = tuple(values)
        sql, own = self._written.get(names) or self._written.setdefault(names, self._write(names))
        with connection.read():
            rows = _named(connection.database.execute_sql(sql, [*own, *values.values(), limit + 1]))
        return _cut(rows, limit)

    def _write(self, names: tuple[str, ...]) -> tuple[str, list[Any]]:
        """The SQL, and the values of the query's own that stand before those of `names` and the limit."""
        conditions = [self._key < "" if name == _OLDER else self._filters[name] == "" for name in names]
        query = self._query.where(*conditions) if conditions else self._query
        sql, values = query.order_by(self._key.desc()).limit(1).sql()
        return str(sql), list(values[: len(values) - len(names) - 1])


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
        query = query.where(key < _checked(cursor, prefix))
    with connection.read():
        rows = list(query.order_by(key.desc()).limit(limit + 1))
    return _cut(rows, limit)


def _cut(rows: list[Any], limit: int) -> Page[Any]:
    """A page of `limit` rows, from one row more where there is one."""
    more = len(rows) > limit
    return Page(rows[:limit], rows[limit - 1].id if more else None)


def _checked(cursor: str, prefix: str) -> str:
    if not ids.is_id(cursor, prefix):
        raise _misfit()
    return cursor


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
