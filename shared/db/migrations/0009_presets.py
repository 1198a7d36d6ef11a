"""Presets: models that come with the platform, which is their owner."""

from __future__ import annotations

from typing import Any

OWNER = """
INSERT INTO users (id, username, password_hash, role, created_at_ms, deleted_at_ms)
VALUES ('usr_platform', 'cv-platform', '', 'viewer', 0, 0)
"""


def up(_migrator: Any, db: Any) -> None:
    """A column with the preset's descriptor, unique while it is not deleted, a filter, and a user nobody can be."""
    db.execute_sql(OWNER)
    db.execute_sql("ALTER TABLE models ADD COLUMN preset TEXT CHECK (preset IS NULL OR json_valid(preset))")
    db.execute_sql(
        "CREATE UNIQUE INDEX models_preset ON models (json_extract(preset, '$.name')) "
        "WHERE preset IS NOT NULL AND deleted_at_ms IS NULL"
    )
    db.execute_sql("CREATE INDEX models_by_model_type ON models (model_type, id)")
