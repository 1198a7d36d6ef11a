"""Writes the reports: decides over finished measurements and renders the result.

What the reporter and its child say to each other lives here, so that the parent imports nothing heavy.
"""

from __future__ import annotations

import msgspec

from shared.specs import Stored


class WriteOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Which measurements, and where the files go."""

    report_id: str
    measurements: str
    earlier: list[str]
    """Paths of the records of earlier reports on the model."""
    store: str


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """A report on disk: its files by name."""

    report_id: str
    content_sha256: str
    selected_engine: str | None
    files: dict[str, Stored]
