"""Whose fault a failure is, and what is done about it.

Where an engine fails a request, what must succeed is run once more, past the queue.

An error of CUDA stays with its process: each later call fails too, while heart and queue look well. So a process is
judged by what it can still do. If the samples it was activated with fail as well, it ends without another word, and
supervisord starts it again; the broker has what it held done elsewhere, one request at a time, so that one that does
this again is found and refused.

A model that had no request to show what it can is probed by a schedule (`inferencer/health.py`). One that fails is
loaded again; where that is of no help, the process ends as well.
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


def is_suspicious(error: Exception) -> bool:
    """Whether a failure speaks against the process."""
    return not isinstance(error, errors.AppError) or error.code in SUSPICIOUS


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

    def mend(self, model_id: str, failure: Exception, in_row: int, reload: Callable[[], None]) -> None:
        """A model failed its probe: have it loaded again, or end the process if that was of no help.

        Args:
            model_id: The model.
            failure: What it failed with.
            in_row: How many probes it has failed since it last succeeded.
            reload: Loads it again.
        """
        about = {"model_id": model_id, "error": str(failure)}
        if not is_suspicious(failure):
            logger.warning("a model cannot be probed", extra=about)
        elif in_row > 1:
            logger.critical("a model that was loaded again fails its probe again: the process ends", extra=about)
            self._end()
        else:
            logger.error("a model fails what it was activated with: it is loaded again", extra=about)
            self._again(reload, about)

    def _again(self, reload: Callable[[], None], about: dict[str, str]) -> None:
        try:
            reload()
        except Exception as error:
            if not is_suspicious(error):
                logger.warning("it cannot be loaded now; the next request for it tries", extra=about)
                return
            logger.critical("it cannot be loaded again: the process ends", extra=about | {"then": str(error)})
            self._end()


def end_of_process() -> NoReturn:
    """End without answering anything: what is held is for others to do."""
    os._exit(EXIT_CODE)
