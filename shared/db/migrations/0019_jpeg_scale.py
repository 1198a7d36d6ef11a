"""Deployments: at which part of their size JPEGs are decoded, where that is not left to the model's contract."""

from __future__ import annotations

from typing import Any


def up(_migrator: Any, db: Any) -> None:
    """A column that stays empty where the contract says it."""
    db.execute_sql("ALTER TABLE deployments ADD COLUMN jpeg_scale INTEGER CHECK (jpeg_scale IN (1, 2, 4))")
