"""What this gateway has counted since it started: HTTP exchanges, predictions, failures.

Plain numbers in dictionaries, changed on the event loop only: counting must cost a prediction nothing. `gateway.page`
gives them to Prometheus, `gateway.monitor` turns them into figures of the last minute.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from shared import errors
from shared.wire.messages import Cut, Done

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the buckets; whatever took longer is in one more."""

BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64)
"""The same of the images in a batch."""

MODELS = 100
"""Models with figures of their own; beyond that the one that was left alone for longest loses them."""

METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
OTHER = "other"
"""Label of a method or path nobody serves, so that strangers cannot make up new series."""

Stage = Literal["queue", "decode", "inference", "total"]
STAGES: tuple[Stage, ...] = get_args(Stage)


class Histogram:
    """Values by bucket; seconds, where no other bounds are named."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = BOUNDS_S) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


Stages = dict[Stage, Histogram]


class ModelTally:
    """What was counted of one model."""

    __slots__ = ("batch_images", "batches", "errors", "requests", "stages_s")

    def __init__(self) -> None:
        self.requests = 0
        self.errors: Counter[str] = Counter()
        self.stages_s: Stages = {stage: Histogram() for stage in STAGES}
        self.batches: Counter[Cut] = Counter(dict.fromkeys(get_args(Cut), 0))
        """Batches by why no more requests were in them."""
        self.batch_images = Histogram(BATCH_BOUNDS)


class Exchanged(NamedTuple):
    """Labels of an answered request: the route as a template, the status as a class (`2xx`)."""

    method: str
    route: str
    status: str


StageCounts = dict[Stage, tuple[int, ...]]


class ModelMark(NamedTuple):
    """The counters of one model at one moment."""

    requests: int
    stages: StageCounts


NOTHING = ModelMark(0, {stage: (0,) * (len(BOUNDS_S) + 1) for stage in STAGES})


class Mark(NamedTuple):
    """The counters at one moment; the difference of two is what happened between them."""

    at_s: float
    http: int
    http_failed: int
    predictions: int
    predictions_failed: int
    refused_full: int
    database_errors: int
    email_failure: str | None
    stages: StageCounts
    models: dict[str, ModelMark]


class Tally:
    """Everything counted. Method names say what happened."""

    def __init__(self) -> None:
        self.http: Counter[Exchanged] = Counter()
        self.http_s: defaultdict[tuple[str, str], Histogram] = defaultdict(Histogram)
        self.predictions = 0
        # There from the start, at zero: Prometheus sees no rise in a series that begins with its first error.
        self.prediction_errors: Counter[str] = Counter(dict.fromkeys(errors.BY_CODE, 0))
        self.stages_s: Stages = {stage: Histogram() for stage in STAGES}
        self.models: OrderedDict[str, ModelTally] = OrderedDict()
        """By id, the one asked last at the end."""
        self.worker_events: Counter[str] = Counter(dict.fromkeys(("ready", "left", "lost"), 0))
        self.database_errors = 0
        self.email_failure: str | None = None
        """Why the last e-mail was given up; None once one was taken."""

    def answered(self, method: str, route: str | None, status: int, duration_s: float) -> None:
        """A request ended; status 0 means that the client left before there was an answer."""
        if method not in METHODS:
            method = OTHER
        route = route or OTHER
        self.http[Exchanged(method, route, f"{status // 100}xx" if status else "none")] += 1
        self.http_s[method, route].add(duration_s)

    def predicted(self, model_id: str, done: Done, total_ms: float) -> None:
        """A prediction was answered."""
        self.predictions += 1
        model = self._model(model_id)
        model.requests += 1
        durations_ms = (done.queue_ms, done.decode_ms, done.inference_ms, total_ms)
        for stage, duration_ms in zip(STAGES, durations_ms, strict=True):
            self.stages_s[stage].add(duration_ms / 1000)
            model.stages_s[stage].add(duration_ms / 1000)
        if done.cut is not None:
            model.batches[done.cut] += 1
            model.batch_images.add(done.batch_size)

    def prediction_failed(self, code: str, model_id: str | None = None) -> None:
        """A prediction was refused or failed, with that error code; None where it named no model there is."""
        self.predictions += 1
        self.prediction_errors[code] += 1
        if model_id is not None:
            model = self._model(model_id)
            model.requests += 1
            model.errors[code] += 1

    def _model(self, model_id: str) -> ModelTally:
        found = self.models.get(model_id)
        if found is None:
            found = self.models[model_id] = ModelTally()
            if len(self.models) > MODELS:
                self.models.popitem(last=False)
        else:
            self.models.move_to_end(model_id)
        return found

    def mark(self, at_s: float, ours: frozenset[str]) -> Mark:
        """The counters now; `ours` are the error codes that are our failure and not the request's."""
        return Mark(
            at_s=at_s,
            http=self.http.total(),
            http_failed=sum(count for labels, count in self.http.items() if labels.status == "5xx"),
            predictions=self.predictions,
            predictions_failed=sum(count for code, count in self.prediction_errors.items() if code in ours),
            refused_full=self.prediction_errors["queue_full"],
            database_errors=self.database_errors,
            email_failure=self.email_failure,
            stages=_counts(self.stages_s),
            models={
                model_id: ModelMark(model.requests, _counts(model.stages_s)) for model_id, model in self.models.items()
            },
        )


def _counts(stages: Stages) -> StageCounts:
    return {stage: tuple(histogram.counts) for stage, histogram in stages.items()}


def quantile(counts: Sequence[int], q: float) -> float | None:
    """The `q` quantile in seconds, interpolated within its bucket as Prometheus' `histogram_quantile` does.

    Above the last bound the last bound is all that is known. None without a single observation.
    """
    wanted = sum(counts) * q
    if not wanted:
        return None
    below = 0
    for index, bound in enumerate(BOUNDS_S):
        if below + counts[index] >= wanted:
            start = BOUNDS_S[index - 1] if index else 0.0
            return start + (bound - start) * (wanted - below) / counts[index]
        below += counts[index]
    return BOUNDS_S[-1]
