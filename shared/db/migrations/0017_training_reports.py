"""The reports of trainings: files of the store of reports, by name."""

from __future__ import annotations

from typing import Any

REPORTS = """
CREATE TABLE training_reports (
    training_id TEXT PRIMARY KEY REFERENCES training_jobs (id),
    content_sha256 TEXT NOT NULL,
    files TEXT NOT NULL CHECK (json_valid(files)),
    created_at_ms INTEGER NOT NULL
) STRICT
"""


def up(_migrator: Any, db: Any) -> None:
    """A table of their own: what a benchmark's report has to choose and compare, a training's has not."""
    db.execute_sql(REPORTS)
