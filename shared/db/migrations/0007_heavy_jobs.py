"""A job says whether it is heavy: of those, one of a kind runs at a time."""

from __future__ import annotations

from typing import Any


def up(_migrator: Any, db: Any) -> None:
    """One column; jobs from before are not."""
    db.execute_sql("ALTER TABLE jobs ADD COLUMN heavy INTEGER NOT NULL DEFAULT 0 CHECK (heavy IN (0, 1))")
