"""A batch of requests through a runtime: each gets exactly one answer, and one bad image fails nobody else."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from inferencer import tensors
from inferencer.batcher import Request
from shared import errors, trace
from shared.clock import Monotonic
from shared.engines import Tensor
from shared.runtime import NO_SOURCE, Runtime, Source, rows
from shared.wire import open_inference
from shared.wire.messages import Cut, Done, Failed
from shared.wire.open_inference import InferRequest

logger = logging.getLogger(__name__)

Feeds = dict[str, Tensor]


class Answer(NamedTuple):
    """A message to the broker with its blobs."""

    message: Done | Failed
    blobs: list[bytes]


def with_cut(answers: Iterable[Answer], cut: Cut) -> Iterator[Answer]:
    """The answers of a batch; the first that is none of a failure says why there were no more requests in it."""
    said = False
    for given in answers:
        if isinstance(given.message, Done) and not said:
            said = True
            yield given._replace(message=msgspec.structs.replace(given.message, cut=cut))
        else:
            yield given


class _Ready(NamedTuple):
    """A request whose input is a tensor."""

    request: Request
    feeds: Feeds
    source: Source = NO_SOURCE
    asked: InferRequest | None = None
    """What a request of raw tensors wants back."""


class _Ran(NamedTuple):
    """What the engine made of a request."""

    request: Request
    outputs: Feeds | Exception
    rows: int
    batch_size: int
    """Rows of all requests in the same engine call."""
    began_s: float
    inference_ms: float
    source: Source = NO_SOURCE
    asked: InferRequest | None = None


def answer(runtime: Runtime, requests: Sequence[Request], clock: Monotonic) -> Iterator[Answer]:
    """Decode, run together what fits together, present: one answer a request, in no particular order."""
    started_s = clock()
    whole = _room(runtime, requests)
    ready: list[_Ready] = []
    for request, part in zip(requests, _shares(whole, requests), strict=True):
        try:
            ready.append(_read(runtime, request, clock, part))
        except Exception as error:
            yield failed(request, error)
    decode_ms = (clock() - started_s) * 1000
    for group in _groups(ready):
        for ran in _run(runtime, group, clock, whole if len(group) == len(requests) else None):
            if trace.exporting():
                _trace(runtime, ran, started_s, decode_ms, clock)
            yield _presented(runtime, ran, started_s, decode_ms)


def _room(runtime: Runtime, requests: Sequence[Request]) -> Tensor | None:
    """One input for the images of all requests, so that rows need not be joined; None where one has no images."""
    if len(requests) == 1 or any(request.assign.form != "images" for request in requests):
        return None
    try:
        return runtime.room_for(sum(request.images for request in requests))
    except MemoryError:  # for each alone there may be enough
        return None


def _shares(whole: Tensor | None, requests: Sequence[Request]) -> Iterator[Tensor | None]:
    """Where each request's rows go."""
    at = 0
    for request in requests:
        yield None if whole is None else whole[at : at + request.images]
        at += request.images


def _trace(runtime: Runtime, ran: _Ran, started_s: float, decode_ms: float, clock: Monotonic) -> None:
    """The spans of a request: its wait since the broker took it, decoding, inference (these two with its batch)."""
    assign, wall_ns = ran.request.assign, time.time_ns() - round(clock() * 1e9)
    waits_since_s = ran.request.arrived_s - assign.waited_ms / 1000
    engine: dict[str, trace.Value] = {
        "cvp.model_id": assign.model_id,
        "cvp.engine": runtime.serving.engine,
        "cvp.batch_size": ran.batch_size,
    }
    failed = str(ran.outputs) if isinstance(ran.outputs, Exception) else None
    parts: tuple[tuple[str, float, float, dict[str, trace.Value], str | None], ...] = (
        ("wait", waits_since_s, started_s, {"cvp.in_broker_ms": assign.waited_ms}, None),
        ("decode", started_s, started_s + decode_ms / 1000, {}, None),
        ("infer", ran.began_s, ran.began_s + ran.inference_ms / 1000, engine, failed),
    )
    for name, begin_s, end_s, known, failure in parts:
        span = trace.Span(name, assign.traceparent or None, at_ns=wall_ns + round(begin_s * 1e9))
        span.note(known | {"cvp.request_id": assign.request_id}, failed=failure)
        span.end(wall_ns + round(end_s * 1e9))


def failed(request: Request, error: Exception) -> Answer:
    """The refusal of a request. A failure of ours is logged with its trace, and shown as one sentence if unexpected."""
    assign = request.assign
    if not isinstance(error, errors.AppError) or isinstance(error, errors.EngineFailed):
        about = {"request_id": assign.request_id, "model_id": assign.model_id}
        logger.error("a prediction failed", exc_info=error, extra=about)
    if not isinstance(error, errors.AppError):
        error = errors.AppError("The prediction failed unexpectedly; the log of the inferencer has the details.")
    return Answer(Failed(request_id=assign.request_id, code=error.code, message=error.message), [])


def _read(runtime: Runtime, request: Request, clock: Monotonic, into: Tensor | None) -> _Ready:
    """The input tensors of one request; those of images in `into`, if that is given.

    Raises:
        errors.DeadlineExceeded: It waited too long.
        errors.InvalidInput: An image or the tensors cannot be used.
    """
    if request.deadline.passed(clock()):
        raise errors.DeadlineExceeded("The request waited too long for its turn; try again when there is less load.")

    def expired() -> bool:
        return request.deadline.passed(clock())

    try:
        match request.assign.form:
            case "images":
                return _Ready(request, *runtime.decode(request.blobs, expired, into))
            case "video":
                return _Ready(request, *runtime.sample(request.blobs[0], request.assign.frames_per_second, expired))
            case "tensors":
                return _Ready(request, runtime.parse_tensors(request.blobs[0]))
            case "raw":
                head, binary = request.blobs
                asked = open_inference.decode(head)
                return _Ready(request, tensors.read(runtime, asked, memoryview(binary), expired), asked=asked)
    except MemoryError:
        raise errors.TooLarge("These inputs need more memory than there is; send fewer at once.") from None


def _groups(ready: Sequence[_Ready]) -> list[list[_Ready]]:
    """Those whose tensors can be joined along the batch axis, together."""
    groups: dict[tuple[tuple[str, tuple[int, ...]], ...], list[_Ready]] = {}
    for one in ready:
        key = tuple((name, array.shape[1:]) for name, array in sorted(one.feeds.items()))
        groups.setdefault(key, []).append(one)
    return list(groups.values())


def _run(runtime: Runtime, group: Sequence[_Ready], clock: Monotonic, whole: Tensor | None) -> Iterator[_Ran]:
    """One engine call for a group; if that fails, each of its requests by itself, so that only the guilty fail.

    `whole` is the input of the group, where there is one that the inputs of its requests are parts of.
    """
    begin_s = clock()
    deadline = max(one.request.deadline for one in group)
    counts = [rows(one.feeds) for one in group]
    try:
        feeds = _joined([one.feeds for one in group]) if whole is None else dict.fromkeys(group[0].feeds, whole)
        outputs = runtime.infer(feeds, lambda: deadline.passed(clock()))
    except Exception as error:
        if len(group) == 1:
            yield _Ran(group[0].request, error, counts[0], counts[0], begin_s, (clock() - begin_s) * 1000)
            return
        for one in group:
            yield from _run(runtime, [one], clock, None)
        return
    inference_ms = (clock() - begin_s) * 1000
    for one, count, part in zip(group, counts, _parted(outputs, counts), strict=True):
        yield _Ran(one.request, part, count, sum(counts), begin_s, inference_ms, one.source, one.asked)


def _joined(feeds: Sequence[Feeds]) -> Feeds:
    return feeds[0] if len(feeds) == 1 else {name: np.concatenate([one[name] for one in feeds]) for name in feeds[0]}


def _parted(outputs: Feeds, counts: Sequence[int]) -> list[Feeds]:
    """The rows of each request; a single request gets everything, also what has no rows."""
    if len(counts) == 1:
        return [outputs]
    ends = list(itertools.accumulate(counts))
    return [
        {name: array[end - count : end] for name, array in outputs.items()}
        for end, count in zip(ends, counts, strict=True)
    ]


def _presented(runtime: Runtime, ran: _Ran, started_s: float, decode_ms: float) -> Answer:
    assign = ran.request.assign
    try:
        if isinstance(ran.outputs, Exception):
            raise ran.outputs
        if ran.asked is not None:
            blobs = tensors.write(ran.outputs, ran.asked.wanted(list(ran.outputs)))
        else:
            blobs = [runtime.present(ran.outputs, ran.rows, assign.top_k, assign.raw_outputs, ran.source)]
    except Exception as error:
        return failed(ran.request, error)
    done = Done(
        request_id=assign.request_id,
        engine=runtime.serving.engine,
        precision=runtime.serving.precision,
        batch_size=ran.batch_size,
        queue_ms=round(assign.waited_ms + (started_s - ran.request.arrived_s) * 1000, 3),
        decode_ms=round(decode_ms, 3),
        inference_ms=round(ran.inference_ms, 3),
    )
    return Answer(done, blobs)
