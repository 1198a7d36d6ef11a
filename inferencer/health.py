"""How the models in memory do, told by what came of their work, and which of them must show it for want of any."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import msgspec

from shared.clock import Monotonic
from shared.wire.messages import Done, Failed, LoadedModel, ModelHealth

PROBE_S = 20.0
"""A model that was asked, and has answered nobody for so long, is probed."""
IDLE_S = 300.0
"""The same of one that nobody asks: a machine without work sleeps."""
FAILURE_CHARACTERS = 256
"""The bound of `ModelHealth.failure`."""


@dataclass(slots=True)
class _Record:
    success_s: float
    """When it last answered a request, passed a probe, or was loaded, which is one."""
    probed_s: float
    asked: bool = False
    """Whether it had requests since the last probe."""
    probes: int = 0
    failed_probes: int = 0
    in_row: int = 0
    """Probes failed since it last succeeded."""
    failure: str = ""
    """What went wrong since then."""


class Health:
    """The success history of each model. Thread-safe.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Monotonic = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._records: dict[str, _Record] = {}

    def worked(self, model_id: str, answers: Sequence[Done | Failed], suspicious: Collection[str]) -> None:
        """A batch has ended; failures with a code that is not `suspicious` are the request's own."""
        with self._lock:
            record = self._record(model_id)
            record.asked = True
            if any(isinstance(given, Done) for given in answers):
                self._succeeded(record)
                return
            failed = (given.message for given in answers if isinstance(given, Failed) and given.code in suspicious)
            record.failure = next(failed, record.failure)

    def due(self, models: Collection[str]) -> str | None:
        """The model to probe now, of those in memory; what is not there any more is forgotten."""
        now_s = self._clock()
        with self._lock:
            self._records = {model_id: self._record(model_id) for model_id in models}
            waits = {model_id: now_s - _next_s(record) for model_id, record in self._records.items()}
        longest = max(waits, key=lambda model_id: waits[model_id], default=None)
        return None if longest is None or waits[longest] < 0 else longest

    def put_off(self, model_id: str) -> None:
        """It could not be probed: the process has other work, or nothing is known that it must answer."""
        with self._lock:
            self._probed(model_id)

    def passed(self, model_id: str) -> None:
        """It passed a probe."""
        with self._lock:
            record = self._probed(model_id)
            record.probes += 1
            self._succeeded(record)

    def failed(self, model_id: str, why: str) -> int:
        """It failed a probe; returns how many in a row."""
        with self._lock:
            record = self._probed(model_id)
            record.probes += 1
            record.failed_probes += 1
            record.in_row += 1
            record.failure = why
            return record.in_row

    def told(self, loaded: Sequence[LoadedModel]) -> list[LoadedModel]:
        """The models in memory, each with how it does."""
        with self._lock:
            return [msgspec.structs.replace(model, health=self._health(model.model_id)) for model in loaded]

    def _health(self, model_id: str) -> ModelHealth:
        record = self._record(model_id)
        return ModelHealth(
            success_age_ms=round((self._clock() - record.success_s) * 1000, 1),
            probes=record.probes,
            failed_probes=record.failed_probes,
            failure=record.failure[:FAILURE_CHARACTERS],
        )

    def _record(self, model_id: str) -> _Record:
        """What is known of a model; one that is new was run when it was loaded."""
        record = self._records.get(model_id)
        if record is None:
            now_s = self._clock()
            record = self._records[model_id] = _Record(now_s, now_s)
        return record

    def _probed(self, model_id: str) -> _Record:
        record = self._record(model_id)
        record.probed_s, record.asked = self._clock(), False
        return record

    def _succeeded(self, record: _Record) -> None:
        record.success_s, record.in_row, record.failure = self._clock(), 0, ""


def _next_s(record: _Record) -> float:
    """When a model is to be probed, if it does not succeed before."""
    wait_s = PROBE_S if record.asked or record.in_row == 1 else IDLE_S
    return max(record.success_s, record.probed_s) + wait_s
