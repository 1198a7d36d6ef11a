"""Writes the reports: decides over finished measurements and renders the result.

What the reporter and its child say to each other lives here, so that the parent imports nothing heavy.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from shared.specs import Stored, Task, TrainingResult, TrainingSpec
from shared.trials import Latencies, Order, Outcome, Told


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
    """Of a training's report none: they are in the descriptors that were lent."""


class TrainingOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A training to report on, and the files it was about; None where they are gone."""

    record: TrainingRecord
    index: str | None
    pack: str | None
    outputs: dict[str, int]
    """Descriptors that get `report.html` and `report.json`."""


class ReportOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What the child has to write: one of the two. The answer is a `Written`."""

    benchmark: WriteOrder | None = None
    training: TrainingOrder | None = None


class SearchRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A genetic search: what it was ordered with, every trial in the order of their numbers, and what it found."""

    order: Order
    told: list[Told]
    outcome: Outcome
    latencies: Latencies | None = None
    """With two objectives."""


class TrainingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A finished training: all that its report is made from, and nothing else."""

    schema: Literal["cvp.training-report/1"] = "cvp.training-report/1"
    id: str
    created_at: str
    """When it was ordered, ISO 8601."""
    task_type: Task
    model_id: str
    model: str
    """Name of the model it began with."""
    dataset_id: str
    dataset: str
    dataset_sha256: str
    """Of the dataset's index: which images are in it, and in which part."""
    result_model_id: str | None
    spec: TrainingSpec
    """As it was ordered; `result` has what was used."""
    result: TrainingResult
    unlearned: bool = False
    """Whether the weights it began with were drawn from a seed, and had learned nothing."""
    search: SearchRecord | None = None
    """The search whose best hyper-parameters these are."""
    before: TrainingRecord | None = None
    """The last training of the same model with the same dataset, without what was before that."""
