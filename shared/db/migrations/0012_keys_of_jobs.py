"""Keys that a running job holds, to drive the service as its user would."""

from __future__ import annotations

from typing import Any


def up(_migrator: Any, db: Any) -> None:
    """One column; the index holds only the few keys that have it."""
    db.execute_sql("ALTER TABLE api_keys ADD COLUMN job_id TEXT")
    db.execute_sql("CREATE INDEX api_keys_job ON api_keys (job_id) WHERE job_id IS NOT NULL")
