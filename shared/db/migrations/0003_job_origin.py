"""A job keeps which request made it, and an event of it which request brought it about."""

from __future__ import annotations

from typing import Any


def up(_migrator: Any, db: Any) -> None:
    """Three columns; jobs and events from before have none."""
    db.execute_sql("ALTER TABLE jobs ADD COLUMN request_id TEXT")
    db.execute_sql("ALTER TABLE jobs ADD COLUMN traceparent TEXT")
    db.execute_sql("ALTER TABLE job_events ADD COLUMN request_id TEXT")
