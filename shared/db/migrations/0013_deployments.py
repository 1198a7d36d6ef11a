"""Deployments: which file serves and with what it was checked, the job that activates, how that went, and when."""

from __future__ import annotations

from typing import Any

COLUMNS = (
    "instances INTEGER NOT NULL DEFAULT 1 CHECK (instances >= 1)",
    "file_sha256 TEXT",
    "golden_sha256 TEXT",
    "job_id TEXT REFERENCES jobs (id)",
    "error TEXT",
    "provider TEXT",
    "notes TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(notes))",
    "activated_at_ms INTEGER",
    "retired_at_ms INTEGER",
)


def up(_migrator: Any, db: Any) -> None:
    """Columns, and beside the one active deployment of a model at most one that is being activated."""
    for column in COLUMNS:
        db.execute_sql(f"ALTER TABLE deployments ADD COLUMN {column}")
    db.execute_sql("CREATE UNIQUE INDEX deployments_ordered ON deployments (model_id) WHERE status = 'activating'")
    db.execute_sql("CREATE INDEX deployments_by_model ON deployments (model_id, id)")
