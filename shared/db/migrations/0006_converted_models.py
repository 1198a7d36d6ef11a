"""Models of other frameworks: the network, its weights as training starts from them, and how the ONNX came about."""

from __future__ import annotations

from typing import Any


def up(_migrator: Any, db: Any) -> None:
    """Three columns; ONNX uploads have none of them."""
    db.execute_sql("ALTER TABLE models ADD COLUMN architecture TEXT")
    db.execute_sql("ALTER TABLE models ADD COLUMN weights_sha256 TEXT")
    db.execute_sql("ALTER TABLE models ADD COLUMN conversion TEXT CHECK (conversion IS NULL OR json_valid(conversion))")
    db.execute_sql("CREATE INDEX models_weights ON models (weights_sha256)")
