"""The measuring side: the speed of every way to serve a model on this machine.

What the benchmarker, its child and the processes of the candidates say to each other lives here, so that a parent
imports nothing heavy.
"""

from __future__ import annotations

import msgspec

from shared.specs import BenchmarkSpec, Block, Candidate, MeasuredModel, TensorInfo

ROUNDS = 5


class MeasureOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A benchmark, for the job's child. The answer is a `shared.specs.MeasurementSet`."""

    id: str
    artifact: str
    """Path of the model's ONNX file."""
    model: MeasuredModel
    dynamic_batch: bool
    config: BenchmarkSpec
    rounds: int = ROUNDS
    """Launches of each candidate, at most; iterations and seconds are divided among them."""


class LaunchOrder(msgspec.Struct, frozen=True, kw_only=True):
    """One launch of one candidate, for a process of its own. The answer is a `Launched`."""

    candidate: Candidate
    round: int
    artifact: str
    inputs: list[TensorInfo]
    seed: int
    calls: int
    warmup_least: int
    max_seconds: float


class Launched(msgspec.Struct, frozen=True, kw_only=True):
    """What one launch measured, and what really ran the model."""

    block: Block
    provider: str
    device: str
