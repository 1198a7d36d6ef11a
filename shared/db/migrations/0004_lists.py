"""Filtered lists read the rows that fit, in the order of the list, however rare they are."""

from __future__ import annotations

from typing import Any


def up(_migrator: Any, db: Any) -> None:
    """One index a filter."""
    for table, column in (
        ("models", "status"),
        ("models", "task_type"),
        ("models", "name"),
        ("jobs", "status"),
        ("jobs", "kind"),
        ("reports", "model_id"),
    ):
        db.execute_sql(f"CREATE INDEX {table}_by_{column} ON {table} ({column}, id)")
    db.execute_sql("DROP INDEX reports_model")  # the new one serves as well
