"""A model names the job that makes it ready, as a dataset does."""

from __future__ import annotations

from typing import Any


def up(_migrator: Any, db: Any) -> None:
    """One column; models from before get their last such job, unless it is gone."""
    db.execute_sql("ALTER TABLE models ADD COLUMN job_id TEXT")
    db.execute_sql(
        "UPDATE models SET job_id = (SELECT jobs.id FROM jobs WHERE jobs.kind = 'convert' "
        "AND json_extract(jobs.spec, '$.model_id') = models.id ORDER BY jobs.created_at_ms DESC LIMIT 1)"
    )
