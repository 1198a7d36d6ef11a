"""A candidate's accuracy on a dataset, and the golden samples of its engine and precision."""

from __future__ import annotations

from typing import Any


def up(_migrator: Any, db: Any) -> None:
    """Three columns; benchmarks from before have none of them."""
    db.execute_sql("ALTER TABLE benchmark_results ADD COLUMN accuracy REAL")
    db.execute_sql("ALTER TABLE benchmark_results ADD COLUMN accuracy_drop REAL")
    db.execute_sql("ALTER TABLE benchmark_results ADD COLUMN golden_sha256 TEXT")
    db.execute_sql("CREATE INDEX benchmark_results_golden ON benchmark_results (golden_sha256)")
