"""What latency a search measured at each image size, by which job, and what it is of each of its trainings."""

from __future__ import annotations

from typing import Any

COLUMNS = (
    "ALTER TABLE searches ADD COLUMN measurement_id TEXT REFERENCES jobs (id)",
    "ALTER TABLE searches ADD COLUMN latencies TEXT CHECK (latencies IS NULL OR json_valid(latencies))",
    "ALTER TABLE training_jobs ADD COLUMN latency_ms REAL",
)


def up(_migrator: Any, db: Any) -> None:
    """Columns that stay empty where latency is no objective."""
    for column in COLUMNS:
        db.execute_sql(column)
