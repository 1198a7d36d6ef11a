"""The audit log can be asked about one user."""

from __future__ import annotations

from typing import Any


def up(_migrator: Any, db: Any) -> None:
    """One index."""
    db.execute_sql("CREATE INDEX audit_log_user ON audit_log (user_id)")
