"""Trainings: what came of each, epoch by epoch, and where a model that was trained here comes from."""

from __future__ import annotations

from typing import Any

EPOCHS = """
CREATE TABLE training_epochs (
    training_id TEXT NOT NULL REFERENCES training_jobs (id),
    epoch INTEGER NOT NULL CHECK (epoch >= 1),
    figures TEXT NOT NULL CHECK (json_valid(figures)),
    PRIMARY KEY (training_id, epoch)
) STRICT, WITHOUT ROWID
"""
COLUMNS = (
    "search_id TEXT REFERENCES jobs (id)",
    "result TEXT CHECK (result IS NULL OR json_valid(result))",
    "duration_s REAL",
    "created_at_ms INTEGER NOT NULL DEFAULT 0",
)
INDEXES = (
    "training_jobs_by_model ON training_jobs (model_id, id)",
    "training_jobs_by_dataset ON training_jobs (dataset_id, id)",
    "training_jobs_by_search ON training_jobs (search_id, id) WHERE search_id IS NOT NULL",
)


def up(_migrator: Any, db: Any) -> None:
    """The trial or last training of a search names the search; a model made by a training has its lineage."""
    for column in COLUMNS:
        db.execute_sql(f"ALTER TABLE training_jobs ADD COLUMN {column}")
    db.execute_sql("ALTER TABLE models ADD COLUMN lineage TEXT CHECK (lineage IS NULL OR json_valid(lineage))")
    db.execute_sql(EPOCHS)
    for index in INDEXES:
        db.execute_sql(f"CREATE INDEX {index}")
