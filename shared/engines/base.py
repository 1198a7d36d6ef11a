"""The hook class of the engines: public methods check and translate failures, hooks do the work."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from shared import errors
from shared.specs import Precision, TensorInfo

Tensor = npt.NDArray[np.generic]
Feeds = Mapping[str, Tensor]

os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as NVIDIA's management library counts (`shared.gpu`)

REASON_MAX = 300
NO_GPU = "it runs on the CPU here, where FP16 gains nothing: the arithmetic is done in FP32"


class Active(NamedTuple):
    """What an engine found out while it loaded the model."""

    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    provider: str
    """What really runs the model, as the library itself reports it."""
    device: str
    asked: str | None = None
    """The provider that was asked for, where there is a choice; another one is refused, never taken silently."""
    notes: tuple[str, ...] = ()
    """What a reader should know of how the model runs, one sentence each."""


class Engine(ABC):
    """A model made ready to run by one library.

    `activate` and `deactivate` belong to one thread; `infer` may be called by several at once in between.

    Args:
        artifact: The ONNX file, or what the engine has instead.
        precision: Arithmetic of the engine.
        threads: Threads one `infer` may use.
        gpu_mb: Most that it takes of the GPU's memory, as far as its library can be told; None for all there is.
    """

    name: ClassVar[str]
    reads_onnx: ClassVar[bool] = True
    """Whether `artifact` is the ONNX file, in the engine's precision."""
    noise: ClassVar[re.Pattern[str]] = re.compile(r"(?!)")
    """What the library writes around the useful part of its error messages."""
    modules: ClassVar[Sequence[str]] = ()
    """What it imports with the first model it loads."""
    takes_gpu: ClassVar[bool] = False
    """Whether it runs on a GPU where there is one that it can use."""

    def __init__(
        self, artifact: Path, *, precision: Precision = "fp32", threads: int, gpu_mb: float | None = None
    ) -> None:
        self.artifact = artifact
        self.precision = precision
        self.threads = threads
        self.gpu_mb = gpu_mb
        self.inputs: list[TensorInfo] = []
        self.outputs: list[TensorInfo] = []
        self.provider = ""
        self.device = ""
        self.notes: tuple[str, ...] = ()
        self._active = False

    @classmethod
    @abstractmethod
    def unavailable(cls, precision: Precision) -> str | None:
        """Why this engine cannot run in this precision on this machine; None when it can."""

    @classmethod
    def bring_in(cls) -> None:
        """Import its library, so that the first model is not taken for what the library weighs. Never fails."""
        with contextlib.suppress(Exception):  # `activate` says why
            for module in cls.modules:
                importlib.import_module(module)

    def prepare(self) -> None:
        """Do what takes long and is needed once before `activate` can load the model on this machine; by jobs only.

        Raises:
            errors.EngineUnavailable: The engine, its precision or its device is not there.
            errors.BadModel: The engine refuses the model.
        """
        self._check_available()

    def activate(self) -> None:
        """Load the model.

        Raises:
            errors.EngineUnavailable: The engine, its precision or its device is not there.
            errors.BadModel: The file is gone, or the engine refuses it.
        """
        self._check_available()
        if not self.artifact.is_file():
            raise errors.BadModel("The model file is gone. Upload the model again.")
        try:
            self.inputs, self.outputs, self.provider, self.device, asked, self.notes = self._activate()
            if asked not in (None, self.provider):
                raise errors.EngineUnavailable(f"{self.name} was asked for {asked} and came up with {self.provider}.")
        except Exception as error:
            self._deactivate()
            if isinstance(error, errors.AppError):
                raise
            raise errors.BadModel(f"{self.name} cannot load the model: {self._plain(error)}") from error
        self._active = True

    def infer(self, feeds: Feeds) -> dict[str, Tensor]:
        """Run the model once; the arrays returned belong to the caller.

        Raises:
            errors.BadTensor: A name, dtype or shape does not fit the model.
            errors.EngineFailed: The engine is not active, or failed on valid input.
        """
        if not self._active:
            raise errors.EngineFailed(f"{self.name} is not active; activate it first.")
        check_feeds(self.inputs, feeds)
        try:
            return self._infer(feeds)
        except errors.AppError:
            raise
        except Exception as error:
            raise errors.EngineFailed(f"{self.name} failed: {self._plain(error)}") from error

    def deactivate(self) -> None:
        """Let go of the model and its memory; harmless when not active. No `infer` may be running."""
        self._active = False
        self._deactivate()

    def __enter__(self) -> Self:
        self.activate()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.deactivate()

    def _check_available(self) -> None:
        if (reason := self.unavailable(self.precision)) is not None:
            raise errors.EngineUnavailable(f"{self.name} in {self.precision} cannot run here: {reason}.")

    @abstractmethod
    def _activate(self) -> Active:
        """Load `artifact`; whatever is raised counts as the model's fault."""

    @abstractmethod
    def _infer(self, feeds: Feeds) -> dict[str, Tensor]:
        """Run once on checked input."""

    @abstractmethod
    def _deactivate(self) -> None:
        """Drop everything; must also work when `_activate` failed or never ran."""

    def _plain(self, error: Exception) -> str:
        """The library's message in one line, without its source paths or ours."""
        text = self.noise.sub("", str(error)).replace(str(self.artifact), "the model file")
        line = " ".join(text.split()) or type(error).__name__
        return line if len(line) <= REASON_MAX else line[: REASON_MAX - 1] + "…"


def axis_name(tensor: str, axis: int, given: object) -> str:
    """The name of a dynamic axis the file left unnamed: `batch` for the first, else `<tensor>.<axis>`."""
    return str(given) if given else ("batch" if axis == 0 else f"{tensor}.{axis}")


def numpy_dtype(tensor: str, dtype: np.dtype[np.generic] | None) -> str:
    """The NumPy name of a tensor's dtype.

    Raises:
        errors.BadModel: It is none that holds numbers (text, a sequence, a map, bfloat16).
    """
    if dtype is None or dtype.kind not in "fiub":
        raise errors.BadModel(
            f"Tensor {tensor!r} holds no numbers that are served (but text, a sequence, a map or bfloat16): inputs and "
            "outputs are float16, float32, float64, integers or booleans. Export the model with those."
        )
    return dtype.name


def describe(info: TensorInfo) -> str:
    """A tensor in words: `float32 [batch, 3, 224, 224]`."""
    return f"{info.dtype} [{', '.join(str(size) for size in info.shape)}]"


def check_feeds(inputs: Sequence[TensorInfo], feeds: Feeds, *, any_batch: bool = False) -> None:
    """Check arrays against what a model takes.

    Args:
        inputs: The model's inputs.
        feeds: Arrays by input name.
        any_batch: Take any length of the first axis, also where the model's own is fixed.

    Raises:
        errors.BadTensor: The first thing that does not fit: what is expected and what was given.
    """
    if feeds.keys() != {info.name for info in inputs}:
        names = [info.name for info in inputs]
        raise errors.BadTensor(f"The model takes {_listed(names)}; given {_listed(sorted(feeds))}.")
    axes: dict[str, int] = {}
    for info in inputs:
        array = feeds[info.name]
        if array.dtype != _dtype(info.dtype) or not _fits(info.shape, array.shape, axes, any_batch=any_batch):
            given = f"{array.dtype.name} [{', '.join(map(str, array.shape))}]"
            raise errors.BadTensor(f"Input {info.name!r} must be {describe(info)}; given {given}.")


_dtype = functools.cache(np.dtype)


def _fits(sizes: Sequence[int | str], lengths: Sequence[int], axes: dict[str, int], *, any_batch: bool) -> bool:
    """Whether a shape fits; axes of one name must have one length, and none may be empty.

    Every call of an engine pays for this: one axis after another, nothing made meanwhile.
    """
    if len(sizes) != len(lengths) or 0 in lengths:
        return False
    for axis, (size, length) in enumerate(zip(sizes, lengths, strict=True)):
        if isinstance(size, str):
            if axes.setdefault(size, length) != length:
                return False
        elif size != length and not (any_batch and axis == 0):
            return False
    return True


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "nothing"
