"""The model's file in every precision of an order: its own, one an earlier benchmark made, or one made now."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import shutil
from pathlib import Path

import msgspec

from benchmarker import Made, MeasureOrder, PrecisionOrder, Recipe, candidates
from shared import child, config, engines, errors, gpu
from shared.artifacts import ArtifactStore, intact, scratch
from shared.specs import EngineName, MeasuredDataset, Precision, PreparedFile

MB = 1024 * 1024
WALL_S = 900.0
MEMORY_MB, MEMORY_PER_MB = 8192, 24
"""Address space, most of it never touched: images, one image's activations, and the graph several times over."""
FILE_MB, FILE_PER_MB = 256, 3
MADE_BY: dict[Precision, tuple[str, ...]] = {"int8": ("onnxruntime", "onnx"), "fp16": ("onnxconverter-common", "onnx")}
"""Packages whose version decides what comes out."""
NO_SOURCE = "the model was not uploaded as weights of a network that PyTorch knows by name"
FORM = 3
"""Of our own part in it; raised when the same order would give another file."""

logger = logging.getLogger(__name__)


class Files:
    """Where the model's file lies in each precision, or why there is none."""

    def __init__(self, order: MeasureOrder) -> None:
        self._order = order
        self._paths: dict[Precision, Path] = {"fp32": Path(order.artifact)}
        self._made: dict[Precision, PreparedFile] = {}
        self._refused: dict[Precision, str] = {}

    @property
    def prepared(self) -> list[PreparedFile]:
        """Those beside FP32."""
        return list(self._made.values())

    @property
    def dataset(self) -> MeasuredDataset | None:
        """The order's dataset, and how many of its images calibrated."""
        data = self._order.dataset
        if data is None:
            return None
        int8 = self._made.get("int8")
        return MeasuredDataset(
            id=data.id,
            name=data.name,
            index_sha256=data.index_sha256,
            classes=data.classes,
            num_test=data.num_test,
            num_calibration=int(int8.recipe["calibration_images"]) if int8 else 0,
        )

    def path(self, engine: EngineName, precision: Precision) -> Path:
        """What an engine runs in a precision that is not `unavailable`; in one that is, the model's own file."""
        if engine == "pytorch" and self._order.weights is not None:
            return Path(self._order.weights)
        return self._paths.get(precision, self._paths["fp32"])

    def seen(self, precision: Precision) -> list[int] | None:
        """Places in the dataset's index of the images that a file was made with; None where that is not recorded."""
        made = self._made.get(precision)
        places = made.recipe.get("seen") if made else None
        return [int(place) for place in places.split(",")] if isinstance(places, str) and places else None

    def unavailable(self, engine: EngineName, precision: Precision) -> str | None:
        """Why an engine cannot run this model in a precision; None when it can."""
        if reason := engines.unavailable(engine, precision):
            return reason
        if engine == "pytorch":
            return NO_SOURCE if self._order.weights is None else None
        if precision in self._paths:
            return None
        made = _why_not(self._order, precision) or f"no {precision.upper()} file was made"
        return self._refused.get(precision, made)

    def prepare(self, report: child.Report) -> None:
        """Make what the order's engines can run; what cannot be made is `unavailable`, with the reason."""
        has_gpu = gpu.described() is not None
        onnx = [engine for engine in candidates.engines(self._order.config, gpu=has_gpu) if engine != "pytorch"]
        wanted = [
            precision
            for precision in candidates.precisions(self._order.config, gpu=has_gpu)
            if precision != "fp32" and any(engines.unavailable(engine, precision) is None for engine in onnx)
        ]
        for place, precision in enumerate(wanted):
            self.make(precision, child.phase(report, place / len(wanted), (place + 1) / len(wanted)))

    def retry_fp16(self, refused: str, report: child.Report) -> bool:
        """Make FP16 anew with its sensitive operators in FP32, which may be all it takes to pass the gate.

        Args:
            refused: What the gate has against the first try; a note of the second.
            report: Told what goes on.

        Returns:
            Whether there is such a file.
        """
        if "fp16" not in self._made:
            return False
        report({"stage": "FP16: sensitive operators in FP32"})
        self.make("fp16", report, keep_sensitive=True)
        made = self._made.get("fp16")
        if made is not None and not made.reused:
            note = f"Whole in FP16 it did not pass: {refused} Its sensitive operators are in FP32."
            self._made["fp16"] = msgspec.structs.replace(made, notes=[*made.notes, note])
        return made is not None

    def make(self, precision: Precision, report: child.Report, *, keep_sensitive: bool = False) -> None:
        """Make one, or find the one that an earlier benchmark made in the same way.

        Args:
            precision: Not FP32.
            report: Told what goes on.
            keep_sensitive: FP16, once it has failed its gate: what overflows first stays FP32. Replaces the first try.
        """
        self._refused.pop(precision, None)
        self._made.pop(precision, None)
        self._paths.pop(precision, None)
        asked = _asked(self._order, precision, keep_sensitive)
        for known in self._order.known:
            if known.precision == precision and asked.items() <= known.recipe.items() and self._is_there(known):
                self._made[precision] = msgspec.structs.replace(known, reused=True)
                logger.info("%s: the file of an earlier benchmark is used again", precision)
                return
        if why := _why_not(self._order, precision):
            self._refused[precision] = why
            return
        try:
            made = self._run(precision, report, keep_sensitive)
        except (errors.AppError, child.ChildDied) as failure:
            self._refused[precision] = f"no {precision.upper()} file could be made: {failure}"
            return
        path = Path(self._order.staged[precision])
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, hashlib.sha256).hexdigest()
        self._paths[precision] = path
        self._made[precision] = PreparedFile(
            precision=precision,
            sha256=sha256,
            size_bytes=path.stat().st_size,
            recipe=asked | made.recipe,
            notes=made.notes,
        )

    def _is_there(self, known: PreparedFile) -> bool:
        path = ArtifactStore(Path(self._order.models)).path(known.sha256)
        there = intact(path)
        if there:
            self._paths[known.precision] = path
        return there

    def _run(self, precision: Precision, report: child.Report, keep_sensitive: bool) -> Made:
        order, size_mb = self._order, Path(self._order.artifact).stat().st_size // MB
        output = order.outputs[precision]
        os.ftruncate(output, 0)  # of a first try
        os.lseek(output, 0, os.SEEK_SET)
        limits = child.Limits(
            wall_s=WALL_S,
            memory_mb=MEMORY_MB + MEMORY_PER_MB * size_mb,
            cpu_s=int(WALL_S * config.cores()),
            file_mb=FILE_MB + FILE_PER_MB * size_mb,
        )
        folder = scratch(Path(order.staged[precision]))
        folder.mkdir()
        asked = PrecisionOrder(
            precision=precision,
            artifact=order.artifact,
            task_type=order.model.task_type,
            description=order.description,
            dataset=order.dataset,
            scratch=str(folder),
            output=output,
            keep_sensitive=keep_sensitive,
        )
        try:
            return child.run("benchmarker.quantize", asked, Made, limits=limits, pass_fds=[output], on_progress=report)
        finally:
            shutil.rmtree(folder)


def _why_not(order: MeasureOrder, precision: Precision) -> str | None:
    """What is missing before anything is tried; None when nothing is."""
    contract = order.description.preprocessing
    if order.model.inputs[0].dtype == "float16":
        return f"the model's own input is FP16; export it in FP32, and {precision.upper()} can be made of it"
    if precision != "int8":
        return None
    if order.dataset is None:
        return "INT8 is calibrated on images; order it with `dataset_id`"
    if contract is None:
        return "INT8 is calibrated on images, and this model takes none; upload it with `preprocessing`"
    return None


def _asked(order: MeasureOrder, precision: Precision, keep_sensitive: bool) -> Recipe:
    """All that decides what the file will be; the same order gives the same file."""
    recipe: Recipe = {"form": FORM, "model": order.model.sha256}
    recipe |= {package: importlib.metadata.version(package) for package in MADE_BY[precision]}
    if precision == "int8" and order.dataset is not None:
        contract = order.description.preprocessing
        recipe |= {"dataset": order.dataset.index_sha256, "preprocessing": contract.hash if contract else ""}
    if precision == "fp16":
        recipe["sensitive_in_fp32"] = keep_sensitive
    return recipe
