"""Whose fault a failure is: where an engine fails a request, what must succeed is run once more, past the queue.

An error of CUDA stays with its process: each later call fails too, while heart and queue look well. So a process is
judged by what it can still do. If the samples it was activated with fail as well, it ends without another word, and
supervisord starts it again; the broker has what it held done elsewhere, one request at a time, so that one that does
this again is found and refused.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import NoReturn, Protocol

from shared import errors
from shared.clock import Monotonic
from shared.wire.messages import Done, Failed

SUSPICIOUS = frozenset({errors.EngineFailed.code, errors.BadOutput.code, errors.AppError.code})
"""Failures that a broken process would answer with."""
TRUST_S = 1.0
"""How long a probe that succeeded counts, so that bad requests cost one a second at most."""
EXIT_CODE = 70
"""Not one of those that are final for supervisord."""

logger = logging.getLogger(__name__)


class Probes(Protocol):
    """The part of a runtime that is needed here."""

    def probe(self) -> None:
        """Run what must succeed."""


class Doubts:
    """Settles doubts about this process. Thread-safe.

    Args:
        end: Ends the process at once.
        clock: Seconds, monotonic.
    """

    def __init__(self, end: Callable[[], None], clock: Monotonic) -> None:
        self._end = end
        self._clock = clock
        self._settling = threading.Lock()
        self._trusted_until_s = float("-inf")

    def settle(self, runtime: Probes, answers: Sequence[Done | Failed]) -> None:
        """Look at the answers of a batch before they leave; the process ends here if it is broken."""
        suspicious = [given for given in answers if isinstance(given, Failed) and given.code in SUSPICIOUS]
        if not suspicious:
            return
        with self._settling:
            if self._clock() < self._trusted_until_s:
                return
            try:
                runtime.probe()
            except Exception as error:
                about = {"first": suspicious[0].message, "then": str(error)}
                logger.critical("requests fail, and so does what this process was activated with: it ends", extra=about)
                self._end()
            else:
                self._trusted_until_s = self._clock() + TRUST_S


def end_of_process() -> NoReturn:
    """End without answering anything: what is held is for others to do."""
    os._exit(EXIT_CODE)
