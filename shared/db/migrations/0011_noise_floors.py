"""The noise floor of each machine and its software, as last measured."""

from __future__ import annotations

from typing import Any


def up(_migrator: Any, db: Any) -> None:
    """One table."""
    db.execute_sql(
        """
        CREATE TABLE noise_floors (
            fingerprint TEXT PRIMARY KEY NOT NULL,
            value REAL NOT NULL CHECK (value >= 0),
            runs INTEGER NOT NULL CHECK (runs >= 2),
            measured_at TEXT NOT NULL,
            benchmark_id TEXT NOT NULL
        ) STRICT
        """
    )
