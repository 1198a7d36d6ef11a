"""A database of every earlier schema comes up to date and keeps its rows; one of a later schema is left alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.db import connection, jobs, registry
from shared.db.tables import Model

SAVED = sorted((Path(__file__).parents[1] / "saved").glob("schema-*.sql"))
OURS = "schema_migration"

Rows = dict[str, list[dict[str, Any]]]


def load(path: Path, dump: Path) -> None:
    """Write the saved file as it was, with nothing of ours but SQLite in between."""
    old = connection.Database(path)
    with old.connection_context():
        old.connection().executescript(dump.read_text())
    old.close()


def rows(path: Path) -> Rows:
    """Every row by column name, so that a later column changes nothing here."""
    saved = connection.Database(path)
    found: Rows = {}
    with saved.connection_context():
        for table in saved.get_tables():
            cursor = saved.execute_sql(f'SELECT * FROM "{table}"')
            columns = [column[0] for column in cursor.description]
            found[table] = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
    return found


@pytest.fixture(params=SAVED, ids=lambda dump: dump.stem)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "old.db"
    load(path, request.param)
    yield path
    if not connection.database.is_closed():
        connection.database.close()


def test_the_first_schema_is_saved_with_a_row_in_every_table(tmp_path: Path):
    assert SAVED[0].name == "schema-0001.sql"
    load(tmp_path / "first.db", SAVED[0])
    before = rows(tmp_path / "first.db")
    assert [table for table, kept in before.items() if not kept] == []
    assert len(before) >= 17


def test_an_old_database_comes_up_to_date_and_keeps_every_row(old: Path):
    before = rows(old)
    connection.migrate(old)
    after = rows(old)
    assert before.keys() <= after.keys()
    for table, kept in before.items():
        columns = kept[0].keys() if kept else ()
        now = [{name: row[name] for name in columns if name in row} for row in after[table]]
        then = [{name: row[name] for name in columns if name in now[0]} for row in kept] if now else kept
        assert Counter(map(repr, then)) <= Counter(map(repr, now)), table


def test_an_upgraded_database_is_sound_and_is_worked_with(old: Path):
    connection.migrate(old)
    assert connection.migrate(old) == []
    connection.open_db(old)
    with connection.read():
        assert connection.database.execute_sql("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.database.execute_sql("PRAGMA foreign_key_check").fetchall() == []
    assert [entry.model_id for entry in registry.catalog()] == ["mdl_1"]
    with connection.read():
        assert {row.id: row.job_id for row in Model.select()} == {"mdl_1": None, "mdl_2": "job_3"}
    ticket = jobs.peek("report", 10**12)
    assert ticket is not None
    claimed = jobs.claim("report", "reporter", 10**12, ticket.id)
    assert claimed is not None
    jobs.finish(claimed, lambda: None)
    assert jobs.find(claimed.id).status == "completed"


def test_an_upgraded_database_has_the_schema_of_a_fresh_one(old: Path, tmp_path: Path):
    connection.migrate(old)
    upgraded = schema(old)
    fresh = tmp_path / "fresh.db"
    connection.migrate(fresh)
    assert upgraded == schema(fresh)


def schema(path: Path) -> dict[str, str]:
    """Tables and indexes by name; spaces and quotes do not count."""
    file = connection.Database(path)
    with file.connection_context():
        found = file.execute_sql("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {name: "".join(sql.replace('"', "").split()) for name, sql in found}


def test_a_database_of_a_later_version_is_left_alone(old: Path):
    connection.migrate(old)
    with connection.write():
        connection.database.execute_sql(f"INSERT INTO {OURS} (name, applied) VALUES ('9999_later', '2030')")
    connection.database.close()
    before = rows(old)
    for open_it in (connection.open_db, connection.migrate):
        with pytest.raises(connection.SchemaMismatch, match="newer version"):
            open_it(old)
    connection.database.close()
    assert rows(old) == before
