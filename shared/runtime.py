"""A model made ready to serve: file, contract and engine behind one door, the same wherever models run."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from shared import errors, golden, metadata, wording
from shared.engines import Engine, Feeds, Tensor, check_feeds, describe, engine_class
from shared.specs import Detection, EngineName, Precision, Preprocessing, Scores, Task, TensorInfo
from shared.vision import boxes, postprocess, preprocess
from shared.vision.decode import COLOR_MODES, MAX_PIXELS

MOST_FRAMES = 64
"""Of one video in one request, as many as there may be images."""

MAX_NUMBERS = 8_000_000
"""In the JSON of one request or one answer: fifty images of 224 x 224 x 3; as Python lists they take a quarter of a
gigabyte."""


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides what a model answers. Equal servings answer alike; a new one means loading again."""

    model_id: str
    name: str
    task_type: Task
    onnx: Path
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    dynamic_batch: bool
    preprocessing: Preprocessing | None
    labels: list[str] | None
    scores: Scores
    """What a classifier gives where no contract says it."""
    engine: EngineName
    precision: Precision
    batch_size: int
    """Most images one engine call gets; a model with a fixed batch always gets exactly that."""
    threads: int
    """Of each session."""
    instances: int = 1
    """Sessions side by side in this process; a call goes to the one with the fewest under way."""
    deployment_id: str = ""
    """The order that was activated; empty for the default."""
    golden: Path | None = None
    """Samples with the answers that this engine gave when it was checked."""


class Source(NamedTuple):
    """What rows were made from: nothing that is known of tensors."""

    sizes: Sequence[tuple[int, int]] = ()
    """Width and height of each upright original, for boxes in its pixels."""
    times_s: Sequence[float] = ()
    """Of the frames of a video, from its start."""


NO_SOURCE = Source()


class Decoded(NamedTuple):
    """Images as the model takes them."""

    feeds: dict[str, Tensor]
    source: Source


class Runtime:
    """One model on one engine, ready once `activate` returned.

    `activate` and `deactivate` belong to one thread, the rest may be called by several at once.

    Args:
        serving: What to serve.
        engine: Runs the model instead of the sessions that `serving` names (tests).
        gpu_mb: Most that each session takes of the GPU's memory, where its engine can be told; None for all there is.
    """

    def __init__(self, serving: Serving, *, engine: Engine | None = None, gpu_mb: float | None = None) -> None:
        self.serving = serving
        self.batch_size = serving.batch_size
        self.splits = False
        """Whether requests may share an engine call: the answers of a batch come apart again, one row an image."""
        self._sessions = [engine] if engine else [_session(serving, gpu_mb) for _ in range(serving.instances)]
        self._calls = [0] * len(self._sessions)
        self._choosing = threading.Lock()

    @property
    def provider(self) -> str:
        """What really runs the model, as the engine itself says; known once it is active."""
        return self._sessions[0].provider

    @property
    def device(self) -> str:
        """Where it runs, `CPU` or `CUDA:0`; known once it is active."""
        return self._sessions[0].device

    def activate(self) -> None:
        """Check the contract against the model, load it, run it once and replay its golden samples.

        Raises:
            errors.BadModel: The file, its contract or its golden samples do not fit, or are gone.
            errors.EngineUnavailable: The engine cannot run here.
            errors.EngineFailed: It loads and then fails on its first input.
            errors.BadOutput: It answers the golden samples otherwise than when it was checked.
        """
        if self.serving.preprocessing is not None:
            preprocess.check_contract(self.serving.preprocessing, self.serving.inputs)
            if self._sessions[0].reads_onnx:
                _check_same(self.serving)
        fixed = next(iter(self.serving.inputs[0].shape), None)
        if isinstance(fixed, int):
            self.batch_size = fixed
        try:
            for session in self._sessions:
                session.activate()
            self.splits = all([self._rehearse(session) for session in self._sessions])
            self._replay()
        except BaseException:
            self.deactivate()
            raise

    def probe(self) -> None:
        """Run once more what ran when this was activated, beside whatever runs now.

        Raises:
            errors.AppError: The engine fails on it, or answers otherwise than it did.
        """
        for session in self._sessions:
            self._rehearse(session)
        self._replay()

    def spot_check(self) -> bool:
        """Answer the golden samples once more, or one call of zeros where there are none: no more than a batch takes.

        Tells whether there was anything to answer: beside an open axis nobody knows what.

        Raises:
            errors.AppError: As `probe`.
        """
        if self.serving.golden is not None:
            self._replay(self.batch_size if self.splits else None)
            return True
        feeds = self._zeros(1)
        if feeds is not None:
            self._run(feeds)
        return feeds is not None

    def deactivate(self) -> None:
        """Let go of the model. Nobody may be inside `infer`."""
        for session in self._sessions:
            session.deactivate()

    def room_for(self, images: int) -> Tensor | None:
        """An input for so many images, not yet filled; None where the model takes none."""
        contract = self.serving.preprocessing
        return None if contract is None else np.empty((images, *preprocess.shape(contract)), contract.dtype)

    def decode(
        self,
        images: Sequence[bytes | memoryview],
        expired: Callable[[], bool] = lambda: False,
        into: Tensor | None = None,
    ) -> Decoded:
        """Image files -> the model's input, one row an image; no image is begun once `expired()` is true.

        The rows are those of `into` where it is given.

        Raises:
            errors.BadImage: One cannot be decoded (of several the message says which), or the model takes no images.
            errors.TooLarge: One has too many pixels, or all of them together have.
            errors.DeadlineExceeded: Time ran out between two images.
        """
        if not images:
            raise errors.BadImage("The request holds no image; send at least one.")
        contract = self._contract()
        batch = self.room_for(len(images)) if into is None else into
        assert batch is not None
        pixels_left, sizes = MAX_PIXELS, []
        for index, image in enumerate(images):
            if expired():
                raise errors.DeadlineExceeded(f"{index} of {len(images)} images were read in time; send fewer at once.")
            try:
                picture = preprocess.read(image, contract, pixels_left)
                pixels_left -= picture.size[0] * picture.size[1]
                sizes.append(picture.size)
                preprocess.preprocess(picture, contract, batch[index])
            except (errors.BadImage, errors.TooLarge) as error:
                if len(images) == 1:
                    raise
                raise type(error)(f"Image {index + 1} of {len(images)}: {error.message}") from error
        return Decoded({self.serving.inputs[0].name: batch}, Source(sizes))

    def sample(
        self, video: bytes | memoryview, frames_per_second: float, expired: Callable[[], bool] = lambda: False
    ) -> Decoded:
        """A video file -> the model's input, one row a frame.

        Raises:
            errors.BadImage: It cannot be decoded, or the model takes no images.
            errors.TooLarge: It gives more than `MOST_FRAMES`, or frames with too many pixels.
            errors.DeadlineExceeded: Time ran out.
        """
        from shared.vision import video as videos  # OpenCV costs memory that a process without videos can do without

        contract = self._contract()
        rows: list[Tensor] = []
        sizes, times = [], []
        for frame in videos.frames(io.BytesIO(video), videos.Wanted(frames_per_second), MOST_FRAMES + 1, expired):
            if len(rows) == MOST_FRAMES:
                raise errors.TooLarge(
                    f"At {frames_per_second:g} frames a second this video gives more than {MOST_FRAMES}; "
                    "lower frames_per_second or send a shorter one."
                )
            picture = frame.image.convert(COLOR_MODES[contract.color])
            rows.append(preprocess.preprocess(picture, contract))
            sizes.append(picture.size)
            times.append(frame.time_s)
        return Decoded({self.serving.inputs[0].name: np.stack(rows)}, Source(sizes, times))

    def _contract(self) -> Preprocessing:
        if self.serving.preprocessing is None:
            raise errors.BadImage(f"This model takes tensors, not images; send JSON `inputs`: {self._takes()}.")
        return self.serving.preprocessing

    def parse_tensors(self, body: bytes | memoryview) -> dict[str, Tensor]:
        """From the JSON of `inputs`, nested lists or `{name: nested lists}`, to the model's input, batch first.

        Raises:
            errors.BadTensor: Not JSON, not numbers, or a shape or dtype that does not fit.
        """
        text = bytes(body)
        if text.count(b",") >= MAX_NUMBERS:
            raise errors.TooLarge(f"At most {MAX_NUMBERS:,} numbers fit in one request; send fewer rows, or images.")
        infos = self.serving.inputs
        named = text.lstrip()[:1] == b"{"
        given = _json(text, dict[str, msgspec.Raw]) if named else {infos[0].name: msgspec.Raw(text)}
        if set(given) != {info.name for info in infos}:
            raise errors.BadTensor(f"The model takes {self._takes()}; given {wording.quoted(given)}.")
        feeds = {info.name: numbers(info, given[info.name], len(info.shape)) for info in infos}
        self.check(feeds)
        return feeds

    def check(self, feeds: Feeds) -> None:
        """See that tensors are what the model takes, of as many rows each.

        Raises:
            errors.BadTensor: A name, dtype, shape or number of rows does not fit.
        """
        check_feeds(self.serving.inputs, feeds, any_batch=self.splits)
        if self.splits and len({len(array) for array in feeds.values()}) > 1:
            raise errors.BadTensor("The inputs must have the same number of rows, one for each image.")

    def infer(self, feeds: Feeds, expired: Callable[[], bool] = lambda: False) -> dict[str, Tensor]:
        """Run any number of rows, `batch_size` at a time; no engine call starts once `expired()` is true.

        Where the model's batch is fixed, the last row is repeated to fill the last call and its extra answers are cut.
        A model whose outputs do not come apart by rows gets everything in one call.

        Raises:
            errors.EngineFailed: The engine failed.
            errors.BadTensor: The rows do not fit.
            errors.DeadlineExceeded: Time ran out between two calls.
        """
        count = rows(feeds)
        if not self.splits:
            return self._run(feeds)
        parts: list[dict[str, Tensor]] = []
        for start in range(0, count, self.batch_size):
            if expired():
                raise errors.DeadlineExceeded(f"{start} of {count} images were done in time; send fewer at once.")
            parts.append(self._chunk(feeds, start, count))
        return parts[0] if len(parts) == 1 else _joined(parts)

    def present(
        self,
        outputs: Feeds,
        n: int,
        top_k: int,
        raw_outputs: bool,
        source: Source = NO_SOURCE,
    ) -> bytes:
        """The JSON of an answer for `n` images: `predictions`, one list an image, and `outputs` where asked for.

        Boxes come in the pixels of the originals; where these are not known (tensors), of the model's input. The frames
        of a video come with their `times_s`.
        Where nothing can be decoded (a classifier whose first output is not `[n, classes]`, a detector in no format we
        know) there are `outputs` and no `predictions`: an empty list would read as nothing found.

        Raises:
            errors.BadOutput: What would be shown holds NaN or infinity.
            errors.TooLarge: Raw outputs of more numbers than an answer may have.
        """
        predictions = self._predictions(outputs[self.serving.outputs[0].name], n, top_k, source.sizes)
        answer: dict[str, Any] = {} if predictions is None else {"predictions": predictions}
        if source.times_s:
            answer["times_s"] = source.times_s
        if raw_outputs or predictions is None:
            if (numbers := sum(array.size for array in outputs.values())) > MAX_NUMBERS:
                raise errors.TooLarge(
                    f"The raw outputs are {numbers:,} numbers; at most {MAX_NUMBERS:,} fit in one answer. Send fewer "
                    "images at once, or do without `outputs`."
                )
            for name, array in outputs.items():
                postprocess.check_finite(f"values of {name!r}", array)
            answer["outputs"] = {name: array.tolist() for name, array in outputs.items()}
        return msgspec.json.encode(answer)

    def _predictions(
        self, output: Tensor, n: int, top_k: int, sizes: Sequence[tuple[int, int]]
    ) -> Sequence[Sequence[msgspec.Struct]] | None:
        if output.shape[:1] != (n,):
            return None
        contract = self.serving.preprocessing
        if self.serving.task_type == "classification":
            return self._classes(output, top_k) if output.ndim == 2 else None
        if contract is None or contract.detection is None or output.ndim != 3:
            return None
        return self._boxes(output, contract, contract.detection, sizes)

    def _boxes(
        self, output: Tensor, contract: Preprocessing, rules: Detection, sizes: Sequence[tuple[int, int]]
    ) -> list[list[boxes.BoxScore]]:
        resize = contract.resize
        places: list[boxes.Placement | None] = [preprocess.placement(size, resize) for size in sizes]
        return [
            boxes.placed(found, rules, (resize.width, resize.height), place, self.serving.labels)
            for found, place in zip(boxes.find(output, rules), places or [None] * len(output), strict=True)
        ]

    def _classes(self, scores: Tensor, top_k: int) -> list[list[postprocess.ClassScore]]:
        contract = self.serving.preprocessing
        kind = self.serving.scores if contract is None else contract.scores
        return [postprocess.top_k(row, self.serving.labels, top_k) for row in postprocess.confidences(scores, kind)]

    def _chunk(self, feeds: Feeds, start: int, count: int) -> dict[str, Tensor]:
        chunk = {name: array[start : start + self.batch_size] for name, array in feeds.items()}
        missing = 0 if self.serving.dynamic_batch else self.batch_size - (min(count, start + self.batch_size) - start)
        if not missing:
            return self._run(chunk)
        padded = {name: np.concatenate([array, *[array[-1:]] * missing]) for name, array in chunk.items()}
        return {name: array[: self.batch_size - missing] for name, array in self._run(padded).items()}

    def _run(self, feeds: Feeds) -> dict[str, Tensor]:
        """One engine call, on the session with the fewest under way."""
        with self._choosing:
            place = self._calls.index(min(self._calls))
            self._calls[place] += 1
        try:
            return self._sessions[place].infer(feeds)
        finally:
            with self._choosing:
                self._calls[place] -= 1

    def _replay(self, most_rows: int | None = None) -> None:
        """Give the golden samples again, or the first of them."""
        path = self.serving.golden
        if path is None:
            return
        if not path.is_file():
            raise errors.BadModel("Its golden samples are gone. Run the benchmark again.")
        if wrong := golden.replay(self, golden.read(path.read_bytes()), most_rows):
            raise errors.BadOutput(" ".join(wrong))

    def _rehearse(self, session: Engine) -> bool:
        """Run zeros, a full batch of them, and tell whether rows go in and come out one for one."""
        feeds = self._zeros(self.batch_size)
        if feeds is None:
            return False
        arrays = [*feeds.values(), *session.infer(feeds).values()]
        return all(array.shape[:1] == (self.batch_size,) for array in arrays)

    def _zeros(self, batch_size: int) -> dict[str, Tensor] | None:
        """An input of noughts; None where an axis beside the batch is open: there is no size to rehearse with."""
        feeds: dict[str, Tensor] = {}
        for info in self.serving.inputs:
            sizes = self._sized(info, batch_size)
            if sizes is None:
                return None
            feeds[info.name] = np.zeros(sizes, info.dtype)
        return feeds

    def _sized(self, info: TensorInfo, batch_size: int) -> list[int] | None:
        """The shape of an input as it will be fed: this batch where that is open, the contract's image."""
        contract = self.serving.preprocessing
        batch = [batch_size if isinstance(size, str) else size for size in info.shape[:1]]
        rest = info.shape[1:] if contract is None else preprocess.shape(contract)
        known = [size for size in (*batch, *rest) if isinstance(size, int)]
        return known if len(known) == len(info.shape) else None

    def _takes(self) -> str:
        return ", ".join(f"{info.name!r} {describe(info)}" for info in self.serving.inputs)


def _session(serving: Serving, gpu_mb: float | None) -> Engine:
    kind = engine_class(serving.engine)
    return kind(serving.onnx, precision=serving.precision, threads=serving.threads, gpu_mb=gpu_mb)


def _check_same(serving: Serving) -> None:
    """The contract in the file's metadata, where it has one, must be the one that is served by.

    At which scale JPEGs are decoded is no matter of the file: a deployment may have another.

    Raises:
        errors.BadModel: It is another.
    """
    if not serving.onnx.is_file():
        return  # the engine says so
    inside, served = metadata.contract_in(metadata.read(serving.onnx)), serving.preprocessing
    if inside is not None and served is not None and inside.reduced(1) != served.reduced(1):
        raise errors.BadModel(
            f"The model's file was made for the preprocessing contract {inside.hash}, and the platform has "
            f"{served.hash} for it; one of them was changed. Upload the model again."
        )


def rows(feeds: Feeds) -> int:
    """Length of the first axis, the batch."""
    array = next(iter(feeds.values()))
    return array.shape[0] if array.ndim else 1


def _joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _json(text: bytes | msgspec.Raw, kind: Any) -> Any:
    """Decode; another structure than `kind` is a `msgspec.ValidationError`.

    Raises:
        errors.BadTensor: No JSON at all.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.BadTensor(f"`inputs` is not JSON: {error}.") from error


def numbers(info: TensorInfo, body: msgspec.Raw, depth: int) -> Tensor:
    """JSON numbers -> an array of the input's dtype. Only numbers, nested `depth` lists deep, reach NumPy.

    Raises:
        errors.BadTensor: Ragged, nested otherwise, not numbers, or numbers the dtype cannot hold.
    """
    wanted = f"Input {info.name!r} must be {describe(info)}, as nested lists of numbers"
    dtype = np.dtype(info.dtype)
    nested: Any = {"b": bool, "f": float}.get(dtype.kind, int)
    for _ in range(depth):
        nested = list[nested]
    try:
        with np.errstate(over="ignore"):
            array = np.array(_json(body, nested), dtype)
    except msgspec.ValidationError as error:
        raise errors.BadTensor(f"{wanted}; {error}.") from error
    except ValueError as error:
        raise errors.BadTensor(f"{wanted}; the lists given are ragged.") from error
    except OverflowError as error:
        raise errors.BadTensor(f"{wanted}; some of the numbers do not fit that type.") from error
    if not np.all(np.isfinite(array)):
        raise errors.BadTensor(f"{wanted}; some of the numbers do not fit that type.")
    return array
