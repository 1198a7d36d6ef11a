"""Datasets as they are checked: what was asked for, what came of it, and the files with it.

The table is made anew, because its files shall be no foreign keys: a deleted dataset keeps its row, for the jobs that
name it, and loses its files. What names datasets steps aside meanwhile.
"""

from __future__ import annotations

from typing import Any

TABLE = """
CREATE TABLE datasets (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    description TEXT NOT NULL DEFAULT '',
    task_type TEXT NOT NULL CHECK (task_type IN ('classification', 'detection')),
    status TEXT NOT NULL CHECK (status IN ('preprocessing', 'ready', 'failed')),
    error TEXT,
    file_sha256 TEXT NOT NULL,
    file_size INTEGER NOT NULL,
    archive_id TEXT REFERENCES datasets (id),
    split TEXT CHECK (split IS NULL OR json_valid(split)),
    seed INTEGER NOT NULL DEFAULT 0,
    frames_per_second REAL NOT NULL DEFAULT 1 CHECK (frames_per_second > 0),
    index_sha256 TEXT,
    pack_sha256 TEXT,
    sheet_sha256 TEXT,
    prepared_size INTEGER,
    num_samples INTEGER,
    num_classes INTEGER,
    num_warnings INTEGER,
    splits TEXT CHECK (splits IS NULL OR json_valid(splits)),
    summary TEXT CHECK (summary IS NULL OR json_valid(summary)),
    job_id TEXT NOT NULL DEFAULT '',
    created_by TEXT NOT NULL REFERENCES users (id),
    created_at_ms INTEGER NOT NULL,
    deleted_at_ms INTEGER,
    CHECK ((index_sha256 IS NULL) = (summary IS NULL)),
    CHECK ((pack_sha256 IS NULL) = (summary IS NULL)),
    CHECK ((sheet_sha256 IS NULL) = (summary IS NULL)),
    CHECK ((status = 'failed') = (error IS NOT NULL))
) STRICT
"""
INDEXES = (
    "datasets_by_status ON datasets (status, id)",
    "datasets_by_task_type ON datasets (task_type, id)",
    "datasets_by_name ON datasets (name, id)",
    "datasets_archive ON datasets (archive_id) WHERE archive_id IS NOT NULL",
    "datasets_file ON datasets (file_sha256)",
    "datasets_index ON datasets (index_sha256)",
    "datasets_pack ON datasets (pack_sha256)",
    "datasets_sheet ON datasets (sheet_sha256)",
)


KEPT = (
    "id, name, description, task_type, status, error, file_sha256, file_size, num_samples, num_classes, created_by, "
    "created_at_ms, deleted_at_ms"
)


def up(_migrator: Any, db: Any) -> None:
    """Move rows out, make the table, move them in again; an index for every filter and every file."""
    for table in ("training_jobs", "datasets"):
        db.execute_sql(f"CREATE TEMP TABLE {table}_kept AS SELECT * FROM {table}")
        db.execute_sql(f"DELETE FROM {table}")
    db.execute_sql("DROP TABLE datasets")
    db.execute_sql(TABLE)
    db.execute_sql(f"INSERT INTO datasets ({KEPT}) SELECT {KEPT} FROM temp.datasets_kept")
    db.execute_sql("INSERT INTO training_jobs SELECT * FROM temp.training_jobs_kept")
    for table in ("training_jobs", "datasets"):
        db.execute_sql(f"DROP TABLE temp.{table}_kept")
    for index in INDEXES:
        db.execute_sql(f"CREATE INDEX {index}")
