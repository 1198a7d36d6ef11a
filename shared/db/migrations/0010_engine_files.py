"""Models in other precisions: the files that benchmarks made of them, and how."""

from __future__ import annotations

from typing import Any


def up(_migrator: Any, db: Any) -> None:
    """One table; its files go when the last row that names them does."""
    db.execute_sql(
        """
        CREATE TABLE engine_files (
            model_id TEXT NOT NULL REFERENCES models (id),
            precision TEXT NOT NULL CHECK (precision IN ('fp16', 'int8')),
            sha256 TEXT NOT NULL REFERENCES artifacts (sha256),
            size_bytes INTEGER NOT NULL,
            recipe TEXT NOT NULL CHECK (json_valid(recipe)),
            notes TEXT NOT NULL CHECK (json_valid(notes)),
            created_at_ms INTEGER NOT NULL,
            PRIMARY KEY (model_id, sha256)
        ) STRICT
        """
    )
    db.execute_sql("CREATE INDEX engine_files_file ON engine_files (sha256)")
