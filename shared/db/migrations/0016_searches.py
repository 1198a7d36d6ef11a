"""Genetic searches: what each was ordered with and has found, every trial it asked for, and a lane of their own.

The lane is in a check of the table of jobs, which nearly every other table names: its text is replaced in place, as
SQLite's documentation of ALTER TABLE has it for changes that leave the rows as they are.
"""

from __future__ import annotations

from typing import Any

TABLES = (
    """
    CREATE TABLE searches (
        id TEXT PRIMARY KEY REFERENCES jobs (id),
        opening TEXT NOT NULL CHECK (json_valid(opening)),
        outcome TEXT CHECK (outcome IS NULL OR json_valid(outcome)),
        final_id TEXT REFERENCES jobs (id)
    ) STRICT
    """,
    """
    CREATE TABLE search_trials (
        search_id TEXT NOT NULL REFERENCES searches (id),
        number INTEGER NOT NULL CHECK (number >= 0),
        job_id TEXT NOT NULL UNIQUE REFERENCES jobs (id),
        trial TEXT NOT NULL CHECK (json_valid(trial)),
        result TEXT CHECK (result IS NULL OR json_valid(result)),
        PRIMARY KEY (search_id, number)
    ) STRICT, WITHOUT ROWID
    """,
)


LANES = "lane IN ('accelerator', 'cpu', 'report')"
MORE_LANES = "lane IN ('accelerator', 'cpu', 'report', 'search')"


def up(_migrator: Any, db: Any) -> None:
    """Two tables: the journal of a search is `opening` and its trials with their results; and the lane."""
    for table in TABLES:
        db.execute_sql(table)
    ((version,),) = db.execute_sql("PRAGMA schema_version").fetchall()
    db.execute_sql("PRAGMA writable_schema = ON")
    db.execute_sql(
        "UPDATE sqlite_schema SET sql = replace(sql, ?, ?) WHERE type = 'table' AND name = 'jobs'", (LANES, MORE_LANES)
    )
    db.execute_sql(f"PRAGMA schema_version = {version + 1}")
    db.execute_sql("PRAGMA writable_schema = OFF")
    ((found,),) = db.execute_sql("PRAGMA integrity_check(1)").fetchall()
    if found != "ok":
        raise RuntimeError(f"The table of jobs could not be changed: {found}.")
